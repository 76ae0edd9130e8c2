from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fnship import contract
from fnship.testing import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        yield engine


def upload(
    call: dict[str, str], lines: str, batch: str | None = None, **more: Any
) -> requests.Response:
    """As the existing SDK uploads: one file part named content."""
    sent = {contract.WORKFLOW_TOKEN: call[contract.WORKFLOW_TOKEN]}
    if batch is not None:
        sent[contract.LOG_BATCH] = batch
    return requests.post(
        call[contract.ENGINE_ENDPOINT] + call[contract.FILE_UPLOAD] + "?append=true",
        **{
            "headers": sent,
            "files": {"content": ("stdout", lines.encode(), "text/plain")},
            "timeout": 30,
            "allow_redirects": False,
            **more,
        },
    )


def state(engine: Engine, method: str, **more: Any) -> requests.Response:
    token = engine.headers(activity_id="state")[contract.STATE_TOKEN]
    options = {"headers": {contract.STATE_TOKEN: token}, "timeout": 30, **more}
    return requests.request(method, engine.state_url, **options)


def raw(engine: Engine, *pieces: bytes) -> bytes:
    """Send bytes, and read until the engine closes the connection."""
    with socket.create_connection(("127.0.0.1", engine.port), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


# Life


def test_the_headers_of_a_call(engine: Engine) -> None:
    headers = engine.headers(
        activity_id="a1",
        attempt=2,
        organization_id="o",
        event_source="action",
        event_source_name="grow",
        event_type="deploy",
        timeout=1.5,
        project_id=None,
    )
    assert headers.pop(contract.WORKFLOW_TOKEN) != headers.pop(contract.STATE_TOKEN)
    assert headers.pop(contract.FILE_UPLOAD).startswith("/")
    assert headers.pop(contract.LOG_BATCH_ENDPOINT).startswith("/")
    assert headers == {
        "X-Engine-Endpoint": engine.url,
        "X-Eaas-State-Endpoint": engine.state_url,
        "X-Activity-ID": "a1",
        "X-Activity-Attempt": "2",
        "X-Organization-ID": "o",
        "X-Environment-ID": "e1",
        "X-Environment-Name": "dev",
        "X-Event-Source": "action",
        "X-Event-Source-Name": "grow",
        "X-Event-Type": "deploy",
        "X-Timeout": "1.500000s",
    }


def test_an_activity_of_its_own_unless_named(engine: Engine) -> None:
    ids = {engine.headers()[contract.ACTIVITY_ID] for _ in range(10)}
    assert len(ids) == 10
    assert engine.headers(activity_id="a1") == engine.headers(activity_id="a1")
    first, second = (engine.headers(activity_id="a1", attempt=number) for number in (1, 2))
    assert first[contract.WORKFLOW_TOKEN] != second[contract.WORKFLOW_TOKEN]


def test_stops_and_comes_back_on_its_port_with_what_it_knew() -> None:
    engine = Engine()
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = engine.url
    engine.start()
    try:
        headers, url = engine.headers(activity_id="a1"), engine.url
        upload(headers, "one\n")
        for _ in range(3):
            engine.stop()
            engine.stop()
            with pytest.raises(requests.ConnectionError):
                upload(headers, "lost\n")
            engine.start()
            engine.start()
            assert engine.url == url
        assert upload(headers, "two\n").status_code == 200
        assert engine.lines("a1") == ["one", "two"]
    finally:
        engine.stop()


def test_stopping_cuts_idle_and_waiting_connections(engine: Engine) -> None:
    engine.faults.logs.delay(60)
    with (
        socket.create_connection(("127.0.0.1", engine.port), timeout=30) as idle,
        socket.create_connection(("127.0.0.1", engine.port), timeout=30) as waiting,
    ):
        headers = engine.headers(activity_id="a1")
        waiting.sendall(f"POST {headers[contract.FILE_UPLOAD]} HTTP/1.1\r\n\r\n".encode())
        poll(lambda: engine.uploads)
        engine.stop()
        for connection in (idle, waiting):
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert [each.status for each in engine.uploads] == [None]


def test_a_taken_port_is_an_os_error(engine: Engine) -> None:
    with pytest.raises(OSError, match="in use"):
        Engine(port=engine.port).start()


def test_a_chosen_port() -> None:
    with Engine() as first:
        port = first.port
    with Engine(port=port) as second:
        assert second.url == f"http://127.0.0.1:{port}"
        assert upload(second.headers(), "x\n").status_code == 200


def test_leaves_no_thread() -> None:
    before = threading.active_count()
    with Engine():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_https() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    with authority.cert_pem.tempfile() as ca, Engine(ssl_context=server) as engine:
        assert engine.url.startswith("https://127.0.0.1:")
        headers = engine.headers(activity_id="a1")
        assert upload(headers, "x\n", verify=ca).status_code == 200
        with pytest.raises(requests.exceptions.SSLError):
            upload(headers, "y\n")
        # A client that never ends its handshake does not hold up the end.
        with socket.create_connection(("127.0.0.1", engine.port)):
            engine.stop()
        assert engine.lines("a1") == ["x"]


# Logs


def test_lines_arrive_in_order_and_batches_once(engine: Engine) -> None:
    headers = engine.headers(activity_id="a1")
    for lines, batch in (("1\n2\n", "1-1"), ("1\n2\n", "1-1"), ("3\n", "1-2"), ("4\n", None)):
        answer = upload(headers, lines, batch)
        assert (answer.status_code, answer.json()) == (200, {"stored": True})
    assert engine.lines("a1") == ["1", "2", "3", "4"]
    assert engine.log("a1") == "1\n2\n3\n4\n"
    assert engine.lines("nobody") == []
    assert [(each.batch, each.status, each.stored) for each in engine.uploads] == [
        ("1-1", 200, True),
        ("1-1", 200, False),
        ("1-2", 200, True),
        (None, 200, True),
    ]
    assert (engine.stored_uploads, engine.stored_lines) == (3, 4)


def test_an_engine_that_knows_no_batches() -> None:
    with Engine(honour_batches=False) as engine:
        headers = engine.headers(activity_id="a1")
        upload(headers, "x\n", "1-1")
        upload(headers, "x\n", "1-1")
        assert engine.lines("a1") == ["x", "x"]


def test_an_engine_that_only_counts() -> None:
    with Engine(keep_logs=False) as engine:
        upload(engine.headers(activity_id="a1"), "x\ny\n")
        assert (engine.stored_lines, engine.uploads, engine.lines("a1")) == (2, [], [])


def test_waits_for_lines(engine: Engine) -> None:
    headers = engine.headers(activity_id="a1")
    with pytest.raises(TimeoutError, match="0 of 1 lines of a1"):
        engine.wait_for_lines("a1", 1, timeout=0.01)
    thread = threading.Thread(target=upload, args=(headers, "x\ny\n"))
    thread.start()
    assert engine.wait_for_lines("a1", 2) == ["x", "y"]
    thread.join()


def test_tells_lines_as_they_come(engine: Engine) -> None:
    told = []
    engine.on_line = lambda activity_id, line: told.append((activity_id, line))
    assert engine.on_line is not None
    upload(engine.headers(activity_id="a1"), "x\ny\n")
    assert told == [("a1", "x"), ("a1", "y")]
    engine.on_line = None
    upload(engine.headers(activity_id="a1"), "z\n")
    assert len(told) == 2


@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        ({"headers": {}}, 401, "X-Workflow-Token"),
        ({"headers": {contract.WORKFLOW_TOKEN: "wrong"}}, 401, "X-Workflow-Token"),
        ({"files": {"other": ("stdout", b"x\n", "text/plain")}}, 400, "named content"),
        ({"files": None, "data": {"content": "x"}}, 400, "not multipart"),
        ({"files": None, "data": b"x"}, 400, "not multipart"),
    ],
)
def test_refuses_uploads(engine: Engine, change: dict[str, Any], status: int, problem: str) -> None:
    answer = upload(engine.headers(activity_id="a1"), "x\n", **change)
    assert answer.status_code == status
    assert problem in answer.json()["error"]
    assert engine.log("a1") == ""
    assert [each.status for each in engine.uploads] == [status]


def test_a_token_is_good_for_its_own_attempt_only(engine: Engine) -> None:
    first, second = engine.headers(activity_id="a1"), engine.headers(activity_id="a1", attempt=2)
    mixed = {**first, contract.WORKFLOW_TOKEN: second[contract.WORKFLOW_TOKEN]}
    assert upload(mixed, "x\n").status_code == 401
    assert upload(second, "x\n").status_code == 200


def test_only_appends(engine: Engine) -> None:
    headers = engine.headers(activity_id="a1")
    url = headers[contract.ENGINE_ENDPOINT] + headers[contract.FILE_UPLOAD]
    answer = requests.post(
        url,
        headers=headers,
        files={"content": ("stdout", b"x\n", "text/plain")},
        timeout=30,
    )
    assert (answer.status_code, "append=true" in answer.text) == (400, True)
    assert requests.get(url, headers=headers, timeout=30).status_code == 405


def test_unknown_paths(engine: Engine) -> None:
    assert requests.get(engine.url + "/logs/99", timeout=30).status_code == 404


# HTTP


def test_a_body_over_the_limit_is_413() -> None:
    with Engine(max_body=1000) as engine:
        headers = engine.headers(activity_id="a1")
        assert upload(headers, "x" * 1000).status_code == 413
        assert upload(headers, "x\n").status_code == 200
        assert engine.lines("a1") == ["x"]


def test_chunked_bodies_and_several_requests_on_a_connection(engine: Engine) -> None:
    headers = engine.headers(activity_id="a1")
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=30)
    form = b'--b\r\nContent-Disposition: form-data; name="content"; filename="stdout"\r\n\r\n%d\n'
    for number in range(5):
        body = form % number + b"\r\n--b--\r\n"
        connection.request(
            "POST",
            headers[contract.FILE_UPLOAD] + "?append=true",
            body=iter([body[:10], body[10:]]),
            headers={
                contract.WORKFLOW_TOKEN: headers[contract.WORKFLOW_TOKEN],
                "Content-Type": "multipart/form-data; boundary=b",
                "Transfer-Encoding": "chunked",
            },
            encode_chunked=True,
        )
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b'{"stored":true}')
    connection.close()
    assert engine.lines("a1") == ["0", "1", "2", "3", "4"]


def test_pipelined_requests_are_answered_in_order(engine: Engine) -> None:
    engine.faults.state.delay(0.05, times=1)
    answer = raw(
        engine,
        b"GET /state HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\nGET /state HTTP/1.1\r\n"
        b"Connection: close\r\n\r\n",
    )
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"401", b"404", b"401"]


def test_a_request_in_many_pieces(engine: Engine) -> None:
    request = b"GET /sta%74e?a=b HTTP/1.1\r\nX-A: b\r\nConnection: close\r\n\r\n"
    answer = raw(engine, *(request[i : i + 1] for i in range(len(request))))
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_what_is_no_http_is_400_and_closed(engine: Engine) -> None:
    assert raw(engine, b"rubbish\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_an_upgrade_is_not_made(engine: Engine) -> None:
    asked = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert raw(engine, asked).startswith(b"HTTP/1.1 404 ")


def test_an_old_client_gets_its_answer_and_a_closed_connection(engine: Engine) -> None:
    answer = raw(engine, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"Connection: close\r\n" in answer


def test_continues_where_a_client_waits_for_it(engine: Engine) -> None:
    with socket.create_connection(("127.0.0.1", engine.port), timeout=30) as connection:
        connection.sendall(
            b"PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(100).startswith(b"HTTP/1.1 404 ")


# Faults


def test_faults_of_uploads(engine: Engine) -> None:
    headers = engine.headers(activity_id="a1")
    engine.faults.logs.fail(503, times=1)
    engine.faults.logs.redirect("http://elsewhere/", times=1)
    assert upload(headers, "x\n").status_code == 503
    redirected = upload(headers, "x\n")
    assert (redirected.status_code, redirected.headers["Location"]) == (307, "http://elsewhere/")
    assert upload(headers, "x\n").status_code == 200
    assert engine.lines("a1") == ["x"]
    assert [(each.status, each.stored) for each in engine.uploads] == [
        (503, False),
        (307, False),
        (200, True),
    ]
    assert {each.body for each in engine.uploads} == {b"x\n"}


@pytest.mark.parametrize(
    ("options", "stored"),
    [({}, False), ({"stored": True}, True), ({"where": "body"}, True)],
)
def test_dropped_uploads(engine: Engine, options: dict[str, Any], stored: bool) -> None:
    headers = engine.headers(activity_id="a1")
    engine.faults.logs.drop(1, **options)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        upload(headers, "x\n", "1-1")
    assert engine.lines("a1") == (["x"] if stored else [])
    assert upload(headers, "x\n", "1-1").status_code == 200
    assert engine.lines("a1") == ["x"]
    assert [(each.status, each.stored) for each in engine.uploads] == [
        (None, stored),
        (200, not stored),
    ]


def test_a_delayed_upload_is_stored_on_arrival(engine: Engine) -> None:
    headers = engine.headers(activity_id="a1")
    engine.faults.logs.delay(30, times=1)
    with pytest.raises(requests.ReadTimeout):
        upload(headers, "x\n", timeout=0.05)
    assert engine.wait_for_lines("a1", 1) == ["x"]
    assert [(each.status, each.stored) for each in engine.uploads] == [(None, True)]


def test_other_side_is_left_alone(engine: Engine) -> None:
    engine.faults.state.fail()
    assert upload(engine.headers(), "x\n").status_code == 200
    engine.faults.state.clear()
    engine.faults.logs.fail()
    query = {"organization_id": "o1", "key": "k"}
    assert state(engine, "GET", params=query).status_code == 404


# State


def test_state_by_plain_http(engine: Engine) -> None:
    scope = {"organization_id": "o1", "project_id": "p1", "environment_id": None}
    query = {"organization_id": "o1", "project_id": "p1", "key": "a/b c&é"}
    assert state(engine, "GET", params=query).status_code == 404
    put = {"scope": scope, "key": "a/b c&é", "value": {"n": 1}, "version": 0}
    assert state(engine, "PUT", json=put).json() == {"version": 1}
    assert state(engine, "PUT", json=put).status_code == 409
    assert state(engine, "PUT", json={**put, "version": 1}).json() == {"version": 2}
    assert state(engine, "GET", params=query).json() == {"value": {"n": 1}, "version": 2}
    assert engine.state.get(("o1", "p1", None), "a/b c&é") == ({"n": 1}, 2)
    assert state(engine, "DELETE", json={"scope": scope, "key": "a/b c&é"}).status_code == 200
    assert state(engine, "DELETE", json={"scope": scope, "key": "a/b c&é"}).status_code == 404
    assert state(engine, "PUT", json=put).json() == {"version": 3}
    assert [call.status for call in engine.state_calls] == [404, 200, 409, 200, 200, 200, 404, 200]
    assert engine.state_calls[0].query == query
    assert "x-eaas-state-token" in engine.state_calls[0].headers
    assert "token" not in repr(engine.state_calls)


def test_numbers_come_back_as_they_went_in(engine: Engine) -> None:
    body = b'{"scope":{"organization_id":"o"},"key":"k","version":0,"value":%s}'
    value = b"[123456789012345678901234567890, 1.0, 1e400]"
    assert state(engine, "PUT", data=body % value).status_code == 200
    answer = state(engine, "GET", params={"organization_id": "o", "key": "k"})
    assert value in answer.content


def test_a_ttl_ends(engine: Engine) -> None:
    put = {"scope": {"organization_id": "o"}, "key": "k", "value": 1, "version": 0, "ttl": 0.01}
    assert state(engine, "PUT", json=put).status_code == 200
    poll(lambda: engine.state.get(("o", None, None), "k") is None)
    query = {"organization_id": "o", "key": "k"}
    assert state(engine, "GET", params=query).status_code == 404


def test_pages_of_a_listing(engine: Engine) -> None:
    scope = ("o1", None, None)
    for number in range(5):
        engine.state.put(scope, f"k{number}é", number)
    engine.state.put(scope, "other", 0)
    query = {"organization_id": "o1", "prefix": "k", "limit": "2"}
    first = state(engine, "GET", params=query).json()
    assert first["items"] == [
        {"key": "k0é", "version": 1, "value": 0},
        {"key": "k1é", "version": 1, "value": 1},
    ]
    engine.state.delete(scope, "k1é")  # a cursor survives the end of what it points at
    second = state(engine, "GET", params={**query, "cursor": first["cursor"]}).json()
    third = state(engine, "GET", params={**query, "cursor": second["cursor"]}).json()
    keys = [item["key"] for page in (second, third) for item in page["items"]]
    assert keys == ["k2é", "k3é", "k4é"]
    assert third["cursor"] is None


PUT = {"scope": {"organization_id": "o"}, "key": "k", "value": 1, "version": 0}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("GET", {"params": {"key": "k"}}),
        ("GET", {"params": {"organization_id": "o"}}),
        ("GET", {"params": {"organization_id": "o", "key": ""}}),
        ("GET", {"params": {"organization_id": "o", "key": "k", "prefix": ""}}),
        ("GET", {"params": {"organization_id": "o", "prefix": "", "limit": "0"}}),
        ("GET", {"params": {"organization_id": "o", "prefix": "", "limit": "1001"}}),
        ("GET", {"params": {"organization_id": "o", "prefix": "", "limit": "x"}}),
        ("GET", {"params": {"organization_id": "o", "prefix": "", "cursor": "%"}}),
        ("GET", {"params": {"organization_id": "o", "prefix": "", "cursor": "_w=="}}),
        ("GET", {"params": "organization_id=o&key=%ff"}),
        ("PUT", {"data": b""}),
        ("PUT", {"data": b"[]"}),
        ("PUT", {"data": b'{"key": "\xff"}'}),
        ("PUT", {"data": b'{"key": "\\ud800"}'}),
        *(("PUT", {"json": {k: v for k, v in PUT.items() if k != name}}) for name in PUT),
        ("PUT", {"json": {**PUT, "scope": {}}}),
        ("PUT", {"json": {**PUT, "scope": {"organization_id": ""}}}),
        ("PUT", {"json": {**PUT, "key": ""}}),
        ("PUT", {"json": {**PUT, "version": -1}}),
        ("PUT", {"json": {**PUT, "version": "1"}}),
        ("PUT", {"json": {**PUT, "ttl": 0}}),
        ("PUT", {"data": json.dumps(PUT)[:-1] + ', "ttl": 1e999}'}),
        ("DELETE", {"json": {"key": "k"}}),
        ("DELETE", {"json": {"scope": {"organization_id": "o"}}}),
    ],
)
def test_malformed_state_requests(engine: Engine, method: str, options: dict[str, Any]) -> None:
    answer = state(engine, method, **options)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert engine.state.list(("o", None, None)) == []


def test_state_needs_its_token(engine: Engine) -> None:
    query = {"organization_id": "o", "key": "k"}
    workflow_token = engine.headers()[contract.WORKFLOW_TOKEN]
    for headers in ({}, {contract.STATE_TOKEN: "x"}, {contract.STATE_TOKEN: workflow_token}):
        assert state(engine, "GET", params=query, headers=headers).status_code == 401


def test_other_methods(engine: Engine) -> None:
    answer = state(engine, "PATCH", data=b"{}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, PUT, DELETE")


@given(body=st.binary(max_size=200))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_body_breaks_the_engine(engine: Engine, body: bytes) -> None:
    assert state(engine, "PUT", data=body).status_code == 400
    assert upload(engine.headers(), "", files=None, data=body).status_code == 400


def poll(condition: Any, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
