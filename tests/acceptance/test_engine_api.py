"""The engine's API, called as programs call it."""

from __future__ import annotations

import concurrent.futures
import json
import re
import socket
import uuid
from pathlib import Path

import pytest
import urllib3
from engine_command import EngineCommand, Function, until

VERBATIM = (
    b'{"big": 123456789012345678901234567890, "price": 1.50, "tiny": 1e-7, "text": "\\u00e9"}'
)


@pytest.fixture
def name(engine: EngineCommand, called: Function) -> str:
    """A function of this test's own."""
    name = f"f-{uuid.uuid4().hex[:12]}"
    engine.put(name, called.url)
    return name


def invoke(engine, name, payload=b"{}", **headers):
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    return engine.call("POST", f"/v1/functions/{name}/invocations", payload, names)


# Functions


def test_a_function_is_registered_changed_and_removed(engine, called):
    path = "/v1/functions/a-function"
    made = engine.call("PUT", path, {"url": called.url, "timeout": 7})
    assert made.status == 201
    assert made.json["timeout"] == 7
    assert made.json["concurrency"] == 16
    changed = engine.call("PUT", path, {"url": called.url, "retry": {"max_attempts": 2}})
    assert changed.status == 200
    assert (changed.json["timeout"], changed.json["retry"]["max_attempts"]) == (300.0, 2)
    assert engine.call("GET", path).json == changed.json
    assert changed.json in engine.call("GET", "/v1/functions").json["items"]
    assert engine.call("DELETE", path).status == 204
    engine.call("GET", path).assert_problem(404, "no function 'a-function'")
    engine.call("DELETE", path).assert_problem(404, "no function 'a-function'")


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("ok", {}, "one of url, folder and image"),
        ("ok", {"url": "http://127.0.0.1:1", "folder": "/tmp"}, "one of url, folder and image"),
        ("ok", {"image": "Hello:1"}, "in lower case, hello:1"),
        ("ok", {"url": "http://127.0.0.1:1", "memory": "1g"}, "memory can be said of an image"),
        ("ok", {"url": "ftp://127.0.0.1"}, "is no URL"),
        ("ok", {"url": "http://169.254.169.254/"}, "link-local"),
        ("ok", {"folder": "/nowhere/at/all"}, "/nowhere/at/all"),
        ("Not_ok", {"url": "http://127.0.0.1:1"}, "the name 'Not_ok' is not valid"),
        ("ok", {"url": "http://127.0.0.1:1", "timeout": 0}, "timeout"),
        ("ok", {"url": "http://127.0.0.1:1", "timeout": "5"}, "timeout"),
        ("ok", {"url": "http://127.0.0.1:1", "concurrency": 10**400}, "concurrency"),
        ("ok", {"url": "http://127.0.0.1:1", "timeout": 10**400}, "timeout"),
        ("ok", {"url": "http://127.0.0.1:1", "retry": {"atempts": 1}}, "retry.atempts"),
        ("ok", [], "body"),
        ("ok", b'{"url": ', "JSON"),
        ("ok", b'{"url": "http://127.0.0.1:1", "timeout": NaN}', "timeout"),
        ("ok", b'{"url": "\\ud800"}', "no URL"),
        ("ok", b'{"folder": "\\ud800"}', ""),
        ("ok", b'{"folder": "a\\u0000b"}', ""),
    ],
)
def test_a_function_that_cannot_be_is_refused(engine, name, body, said):
    engine.call("PUT", f"/v1/functions/{name}", body).assert_problem(400, said)


def test_the_engine_itself_is_no_function(engine):
    answer = engine.call("PUT", "/v1/functions/loop", {"url": f"{engine.url}/v1/functions"})
    answer.assert_problem(400, "this engine itself")


def test_a_body_that_is_not_said_to_be_json(engine):
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        answer = engine.call("PUT", "/v1/functions/x", b"url=x", {"Content-Type": kind})
        answer.assert_problem(400, "Content-Type: application/json")


# Invocations


def test_an_accepted_invocation_says_where_it_stands(engine, name, called):
    accepted = invoke(engine, name, b'{"wait": true}')
    assert accepted.status == 202
    assert set(accepted.json) == {"id", "status"}
    place = accepted.headers["Location"]
    assert place == f"/v1/activities/{accepted.json['id']}"
    until(lambda: engine.call("GET", place).json["status"] == "running")
    called.gate.set()
    until(lambda: engine.call("GET", place).json["status"] == "succeeded")
    shown = engine.call("GET", place).json
    assert (shown["function"], shown["attempts"], shown["error"]) == (name, 1, None)
    assert shown["payload"] == shown["result"] == {"wait": True}


@pytest.mark.parametrize("prefer", ["wait=30", "wait=30, durability=ephemeral", 'WAIT="30" ; x'])
def test_a_waited_for_invocation_answers_with_the_finished_activity(engine, name, prefer):
    done = invoke(engine, name, VERBATIM, Prefer=prefer)
    assert done.status == 200
    assert done.json["status"] == "succeeded"
    assert b'"result":' + VERBATIM in done.body
    assert done.json["durable"] == ("ephemeral" not in prefer)
    assert done.headers["Preference-Applied"] == (
        "wait=30, durability=ephemeral" if "ephemeral" in prefer else "wait=30"
    )
    assert "Idempotent-Replayed" not in done.headers
    kept = engine.call("GET", done.headers["Location"])
    assert b'"result":' + VERBATIM in kept.body
    assert b'"payload":' + VERBATIM in kept.body


def test_an_invocation_that_does_not_end_in_time_is_accepted(engine, name):
    answer = invoke(engine, name, b'{"wait": true}', Prefer="wait=1")
    assert answer.status == 202
    assert set(answer.json) == {"id", "status"}
    assert answer.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait=soon", "wait=-1", "wait", "respond-async", "=,;,"])
def test_a_preference_that_means_nothing_is_passed_over(engine, name, prefer):
    answer = invoke(engine, name, b"{}", Prefer=prefer)
    assert answer.status == 202
    assert "Preference-Applied" not in answer.headers


def test_a_failed_activity_says_how(engine, name):
    payload = {"error_code": 4, "message": "not there", "data": {"a": 1.50}}
    done = invoke(engine, name, payload, Prefer="wait=30")
    assert done.status == 200
    assert (done.json["status"], done.json["result"]) == ("failed", None)
    error = done.json["error"]
    assert (error["error_code"], error["message"], error["data"]) == (4, "not there", {"a": 1.5})


@pytest.mark.parametrize("what", ["answer", "half"])
@pytest.mark.parametrize("prefer", ["wait=20", "wait=20, durability=ephemeral"])
def test_a_dropped_answer_is_a_second_attempt_and_one_outcome(engine, called, what, prefer):
    engine.put("dropping", called.url, retry={"first_delay": 0.05})
    payload = {"drop": what}
    answer = engine.call("POST", "/v1/functions/dropping/invocations", payload, {"Prefer": prefer})
    assert answer.status == 200, answer.json
    assert (answer.json["status"], answer.json["result"]) == ("succeeded", payload)
    made = [attempt for name, attempt in called.attempts if name == answer.json["id"]]
    assert made == ["1", "2"]
    assert answer.json["attempts"] == 2


@pytest.mark.parametrize("header", ["X-Activity-ID", "Idempotency-Key"])
def test_what_is_given_again_is_the_same_activity(engine, name, called, header):
    given = {header: uuid.uuid4().hex}
    first = invoke(engine, name, b'{"wait": true, "n": 1}', **given)
    again = invoke(engine, name, b'{ "n": 1, "wait": true }', **given)
    assert (first.status, again.status) == (202, 202)
    assert first.json["id"] == again.json["id"]
    called.gate.set()
    place = first.headers["Location"]
    until(lambda: engine.call("GET", place).json["status"] == "succeeded")
    replayed = invoke(engine, name, b'{"wait": true, "n": 1}', **given)
    assert replayed.status == 200
    assert replayed.headers["Idempotent-Replayed"] == "true"
    assert replayed.json["result"] == {"wait": True, "n": 1}
    assert called.calls == 1
    other = invoke(engine, name, b'{"n": 2}', **given)
    other.assert_problem(409 if header == "X-Activity-ID" else 422, "another payload")


def test_a_thousand_submissions_of_one_id_are_one_activity(engine, name, called):
    given = {"X-Activity-ID": uuid.uuid4().hex, "Prefer": "wait=60"}

    def submit(_: int) -> set[str]:
        return {invoke(engine, name, b'{"n": 1}', **given).json["id"] for _ in range(50)}

    with concurrent.futures.ThreadPoolExecutor(20) as clients:
        ids = set().union(*clients.map(submit, range(20)))
    assert ids == {given["X-Activity-ID"]}
    assert called.calls == 1


@pytest.mark.parametrize(
    ("payload", "headers", "status", "said"),
    [
        (b"[]", {}, 400, "must be a JSON object"),
        (b'{"a": ', {}, 400, "the payload is not valid"),
        (b"\xff", {}, 400, "the payload is not valid"),
        (b"{}", {"X-Activity-ID": "a/b"}, 400, "the activity id 'a/b' is not valid"),
        (b"{}", {"Idempotency-Key": "k" * 256}, 400, "the Idempotency-Key is not valid"),
        (b"{}", {"X-Callback-Url": "nowhere"}, 400, "'nowhere' is no URL"),
        (b"{}", {"X-Callback-Url": "http://169.254.169.254/"}, 400, "link-local"),
        (b'{"a": "%b"}' % (b"x" * 10 * 2**20), {}, 413, "10485760"),
        (
            b"{}",
            {"Idempotency-Key": "k", "Prefer": "durability=ephemeral"},
            400,
            "an ephemeral invocation has no Idempotency-Key",
        ),
    ],
)
def test_an_invocation_that_cannot_be_is_refused(engine, name, payload, headers, status, said):
    invoke(engine, name, payload, **headers).assert_problem(status, said)


def test_an_unknown_function(engine):
    invoke(engine, "nobody").assert_problem(404, "there is no function 'nobody'")


# Activities


def test_activities_are_listed_page_by_page_with_filters(engine, name, called):
    made = [
        invoke(engine, name, {"n": n}, X_Project_ID=f"p{n % 2}", Prefer="wait=30").json["id"]
        for n in range(5)
    ]
    seen: list[str] = []
    query = f"/v1/activities?function={name}&limit=2"
    cursor = ""
    while cursor is not None:
        page = engine.call("GET", query + (f"&cursor={cursor}" if cursor else "")).json
        assert len(page["items"]) <= 2
        seen += [each["id"] for each in page["items"]]
        cursor = page["cursor"]
    assert seen == made[::-1]
    filtered = engine.call("GET", f"{query}&project_id=p1&status=succeeded").json["items"]
    assert [each["id"] for each in filtered] == [made[3], made[1]]
    third = engine.call("GET", f"/v1/activities/{made[2]}").json["created"]
    later = engine.call("GET", f"{query}&limit=9&created_after={third}").json["items"]
    assert {each["id"] for each in later} >= set(made[3:])
    assert made[1] not in {each["id"] for each in later}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("cursor=nowhere", "cursor 'nowhere' was not made by this engine"),
        ("limit=0", "limit"),
        ("limit=1e9", "limit"),
        ("status=done", "status"),
        ("created_after=yesterday", "created_after"),
    ],
)
def test_a_question_that_cannot_be_answered(engine, query, said):
    engine.call("GET", f"/v1/activities?{query}").assert_problem(400, said)


def test_an_activity_is_cancelled_once(engine, name):
    activity = invoke(engine, name, b'{"wait": true}').json["id"]
    cancelled = engine.call("POST", f"/v1/activities/{activity}/cancel")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    assert engine.call("POST", f"/v1/activities/{activity}/cancel").status == 200
    done = invoke(engine, name, Prefer="wait=30").json["id"]
    late = engine.call("POST", f"/v1/activities/{done}/cancel")
    late.assert_problem(409, "has ended already: it is succeeded")
    engine.call("POST", "/v1/activities/none/cancel").assert_problem(404, "no activity 'none'")


def test_dead_letters_are_replayed_one_by_one_or_all(engine, name, called):
    failing = {"error_code": 2, "message": "no"}
    dead = [invoke(engine, name, failing, Prefer="wait=30").json["id"] for _ in range(3)]
    where = f"/v1/activities?function={name}&dead=true"
    assert {each["id"] for each in engine.call("GET", where).json["items"]} == set(dead)
    failed = engine.call("GET", f"/v1/activities?function={name}&status=failed").json["items"]
    assert [each["id"] for each in failed] == dead[::-1]
    replayed = engine.call("POST", f"/v1/activities/{dead[0]}/replay")
    assert replayed.status == 202
    until(lambda: engine.call("GET", replayed.headers["Location"]).json["status"] == "failed")
    assert engine.call("GET", replayed.headers["Location"]).json["replay_of"] == dead[0]
    answer = engine.call("POST", "/v1/activities/replay", {"function": name})
    assert answer.json == {"replayed": 3}  # the other two, and what the first one came to
    until(lambda: called.calls == 7)
    wrong = engine.call("POST", "/v1/activities/replay", {"functoin": name})
    wrong.assert_problem(400, "functoin")


def test_what_runs_is_not_replayed(engine, name):
    activity = invoke(engine, name, b'{"wait": true}').json["id"]
    answer = engine.call("POST", f"/v1/activities/{activity}/replay")
    answer.assert_problem(409, "has not ended")


# Tokens


def test_roles(engine, name):
    tokens = {
        role: engine.call("POST", "/v1/tokens", {"role": role}).json["token"]
        for role in ("read", "invoke", "admin")
    }
    done = invoke(engine, name, Prefer="wait=30").json["id"]
    needs = {
        "read": [("GET", "/v1/functions", None), ("GET", f"/v1/activities/{done}", None)],
        "invoke": [
            ("POST", f"/v1/functions/{name}/invocations", {}),
            ("POST", f"/v1/activities/{done}/replay", None),
            ("POST", f"/v1/activities/{done}/cancel", None),
        ],
        "admin": [
            ("DELETE", "/v1/functions/nobody", None),
            ("GET", "/v1/tokens", None),
            ("PUT", "/v1/state/item?key=k", b"1"),
        ],
    }
    order = list(needs)
    for needed, calls in needs.items():
        for has, token in tokens.items():
            for call in calls:
                answer = engine.call(*call, token=token)
                if order.index(has) < order.index(needed):
                    answer.assert_problem(403, f"the role {has}, and this needs {needed}")
                else:
                    assert answer.status not in (401, 403), answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/v1/functions",
        "/v1/functions/f/invocations",
        "/v1/activities",
        "/v1/activities/a/logs",
        "/v1/logs",
        "/v1/state",
        "/v1/state/item?key=k",
        "/v1/state/export",
        "/v1/tokens",
        "/v1/openapi.json",
    ],
)
def test_nothing_is_told_without_a_token(engine, path):
    method = "POST" if path.endswith("invocations") else "GET"
    for authorization in ("", "Bearer wrong", f"Basic {engine.token}"):
        answer = engine.call(method, path, headers={"Authorization": authorization})
        answer.assert_problem(401, "token|Authorization")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_is_listed_and_revoked(engine):
    made = engine.call("POST", "/v1/tokens", {"role": "read", "name": "x", "expires_in": 60})
    assert made.status == 201
    assert made.headers["Cache-Control"] == "no-store"
    listed = engine.call("GET", "/v1/tokens")
    assert made.json["id"] in [each["id"] for each in listed.json["items"]]
    assert made.json["token"] not in listed.body.decode()
    path = f"/v1/tokens/{made.json['id']}"
    assert engine.call("DELETE", path).status == 204
    refused = engine.call("GET", "/v1/functions", token=made.json["token"])
    refused.assert_problem(401, "revoked")
    engine.call("DELETE", path).assert_problem(404, "there is no token")


# The rest


def test_health_is_open(engine):
    for path in ("/healthz", "/readyz"):
        assert engine.call("GET", path, headers={"Authorization": ""}).status == 200


def test_every_error_is_a_problem(engine):
    engine.call("GET", "/nowhere").assert_problem(404, "nothing at this path")
    wrong = engine.call("PATCH", "/v1/functions/f")
    wrong.assert_problem(405, "DELETE, GET, PUT")
    assert wrong.headers["Allow"] == "DELETE, GET, PUT"


def test_what_functions_send_needs_the_tokens_of_attempts(engine):
    state = engine.call("GET", "/functions/state?key=k&organization_id=default")
    assert state.status == 401
    assert set(state.json) == {"error"}
    assert engine.call("POST", "/functions/logs/a/1?append=true").status == 401
    assert engine.call("GET", "/functions/nowhere").status == 404


def test_the_description_describes_every_route(engine):
    described = engine.call("GET", "/v1/openapi.json").json
    assert described["openapi"].startswith("3.1")
    operations = {
        (method, path): operation
        for path, item in described["paths"].items()
        for method, operation in item.items()
    }
    for wanted in (
        ("put", "/v1/functions/{name}"),
        ("get", "/v1/functions"),
        ("post", "/v1/functions/{name}/invocations"),
        ("get", "/v1/activities"),
        ("get", "/v1/activities/{activity_id}"),
        ("get", "/v1/activities/{activity_id}/logs"),
        ("post", "/v1/activities/{activity_id}/cancel"),
        ("post", "/v1/activities/{activity_id}/replay"),
        ("post", "/v1/activities/replay"),
    ):
        assert "401" in operations[wanted]["responses"]
    assert not any(
        "422" in each["responses"]
        for each in operations.values()
        if "invoke" not in str(each.get("operationId"))
    )
    text = json.dumps(described)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in described["components"]["schemas"]
    wanted = described["components"]["securitySchemes"]["token"]
    assert (wanted["type"], wanted["scheme"]) == ("http", "bearer")


def test_a_client_that_goes_away_harms_nobody(engine, name, called):
    pool = urllib3.PoolManager(retries=False)
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        pool.request(
            "POST",
            f"{engine.url}/v1/functions/{name}/invocations",
            body=b'{"wait": true}',
            headers={
                "Authorization": f"Bearer {engine.token}",
                "Prefer": "wait=60",
                "X-Activity-ID": f"{name}.gone",
            },
            timeout=0.5,
        )
    pool.clear()
    called.gate.set()
    place = f"/v1/activities/{name}.gone"
    until(lambda: engine.call("GET", place).json["status"] == "succeeded")


def test_tokens_reach_no_output(engine):
    assert engine.token not in "".join(engine.said)
    assert not [line for line in engine.said if "Traceback" in line]


def test_the_files_with_secrets_are_the_owners_alone(engine):
    for each in ("token", "secret", "lock"):
        assert (Path(engine.data) / each).stat().st_mode & 0o077 == 0


# What is no request, or too much of one


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/functions HTTP/1.1\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /v1/functions HTTP/1.1\r\n" + b"X-One: 12345678\r\n" * 5_000 + b"\r\n", 431),
        (b"GET /v1/functions HTTP/1.1\r\nX-Endless: " + b"a" * 90_000, 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_what_cannot_be_read(engine, sent, status):
    host, _, port = engine.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status
    assert engine.call("GET", "/v1/functions").status == 200
