"""The state client against a real store: the same suite over its sync and its async front."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
import trustme
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fnship import contract
from fnship.errors import (
    Failed,
    NotJSON,
    StateConflict,
    StateContention,
    StateDenied,
    StateError,
    StateUnavailable,
)
from fnship.function import state_http
from fnship.function.state import StateClient, StateClientBuilder, StateItem, StateScope
from fnship.testing import Engine

PROJECT = ("o1", "p1", None)
MANY = 100  # retries that no real race uses up


class Front:
    """Calls a client's methods through one of its fronts."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(client: StateClient, *args: Any, **options: Any) -> Any:
            if self._runner is None:
                return getattr(client, name)(*args, **options)
            return self._runner.run(getattr(client, f"{name}_async")(*args, **options))

        return call


@pytest.fixture(params=["sync", "asyncio", "uvloop"])
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    match request.param:
        case "sync":
            yield Front(None)
            state_http.close_pools()
        case "asyncio":
            with asyncio.Runner() as runner:
                yield Front(runner)
        case "uvloop":
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                yield Front(runner)
    gc.collect()  # a session or socket left open warns here, and fails the test


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        yield engine


def client_of(engine: Engine, **options: Any) -> StateClient:
    token = engine.headers(activity_id="a1")[contract.STATE_TOKEN]
    return StateClient(engine.state_url, token, "o1", "p1", "e1", StateScope("o1", "p1"), **options)


def token_of(engine: Engine) -> str:
    return engine.headers(activity_id="a1")[contract.STATE_TOKEN]


def check(caught: pytest.ExceptionInfo[StateError], engine: Engine) -> None:
    """Key and scope are there, the token is nowhere in the chain."""
    assert caught.value.key == "k"
    assert caught.value.scope == "organization o1, project p1"
    exc: BaseException | None = caught.value
    while exc is not None:
        assert token_of(engine) not in f"{exc} {exc!r} {exc.args} {vars(exc)}"
        exc = exc.__cause__ or exc.__context__


# What it does


def test_the_life_of_a_key(engine: Engine, front: Front) -> None:
    client = client_of(engine)
    assert front.get(client, "k") == (None, 0)
    assert front.set_kv(client, "k", {"n": 1, "ü": [None, True]}, 0) == 1
    assert front.get(client, "k") == ({"n": 1, "ü": [None, True]}, 1)
    assert front.set_kv(client, "k", "other", 1) == 2
    assert front.delete(client, "k") is None
    assert front.delete(client, "k") is None
    assert front.get(client, "k") == (None, 0)
    assert front.set_kv(client, "k", None, 0) == 3
    assert front.get(client, "k") == (None, 3)


def test_a_stale_write_conflicts(engine: Engine, front: Front) -> None:
    client = client_of(engine)
    front.set_kv(client, "k", 1, 0)
    for stale in (0, 2):
        with pytest.raises(StateConflict) as caught:
            front.set_kv(client, "k", 2, stale)
        check(caught, engine)
    assert engine.state.get(PROJECT, "k") == (1, 1)


def test_set_returns_the_new_value(engine: Engine, front: Front) -> None:
    client = client_of(engine)
    assert front.set(client, "k", lambda old: (old or 0) + 1) == 1
    assert front.set(client, "k", lambda old: old + 1) == 2
    assert engine.state.get(PROJECT, "k") == (2, 2)


def test_set_meets_another_writer(engine: Engine, front: Front) -> None:
    client = client_of(engine)
    seen = []

    def add_one(old: int | None) -> int:
        if len(seen) < 3:
            engine.state.put(PROJECT, "k", (old or 0) + 10)
        seen.append(old)
        return (old or 0) + 1

    assert front.set(client, "k", add_one) == 31
    assert seen == [None, 10, 20, 30]


def test_set_gives_up(engine: Engine, front: Front) -> None:
    engine.faults.state.fail(409, method="PUT")
    with pytest.raises(StateContention, match="2 retries") as caught:
        front.set(client_of(engine), "k", lambda _: 1, 2)
    check(caught, engine)
    assert [call.method for call in engine.state_calls] == ["GET", "PUT"] * 3


@pytest.mark.parametrize("error", [RuntimeError, StopIteration, StateConflict])
def test_what_the_update_raises_comes_out(
    engine: Engine, front: Front, error: type[Exception]
) -> None:
    def fail(old: Any) -> Any:
        if error is StateConflict:
            raise StateConflict("mine", key="k", scope="mine")
        raise error("mine")

    # A StopIteration cannot leave a coroutine; Python makes a RuntimeError of it.
    expected = RuntimeError if error is StopIteration else error
    with pytest.raises((error, expected)):
        front.set(client_of(engine), "k", fail)
    assert [call.method for call in engine.state_calls] == ["GET"]


def test_set_async_takes_async_and_plain_functions(engine: Engine) -> None:
    async def add_one(old: int | None) -> int:
        await asyncio.sleep(0)
        return (old or 0) + 1

    async def main() -> list[Any]:
        client = client_of(engine)
        return [await client.set_async("k", each) for each in (add_one, lambda old: old + 1)]

    assert asyncio.run(main()) == [1, 2]


def test_set_refuses_an_async_function(engine: Engine) -> None:
    async def add_one(old: int | None) -> int:
        return (old or 0) + 1

    with pytest.raises(TypeError, match="set_async"):
        client_of(engine).set("k", add_one)
    gc.collect()  # a coroutine that nobody awaited would warn
    state_http.close_pools()


def test_a_value_that_is_no_json_is_not_written(engine: Engine, front: Front) -> None:
    with pytest.raises(NotJSON, match=r'value\["a"\]'):
        front.set_kv(client_of(engine), "k", {"a": float("nan")}, 0)
    with pytest.raises(NotJSON, match="value"):
        front.set(client_of(engine), "k", lambda _: b"")
    assert [call.method for call in engine.state_calls] == ["GET"]


def test_a_ttl_is_sent(engine: Engine, front: Front) -> None:
    front.set_kv(client_of(engine), "k", 1, 0, ttl=60)
    front.set(client_of(engine), "k", lambda _: 2, ttl=1.5)
    bodies = [call.body for call in engine.state_calls if call.method == "PUT"]
    assert [b'"ttl":60' in bodies[0], b'"ttl":1.5' in bodies[1]] == [True, True]


def test_listing(engine: Engine, front: Front) -> None:
    client = client_of(engine)
    for number in range(5):
        engine.state.put(PROJECT, f"k{number}", number)
    engine.state.put(PROJECT, "other", {"a": 1})
    engine.state.put(("o1", None, None), "k9", 9)
    assert front.list(client, "k", 2) == [StateItem("k0", 0, 1), StateItem("k1", 1, 1)]
    assert [item.key for item in front.list(client)] == ["k0", "k1", "k2", "k3", "k4", "other"]
    assert front.list(client, "nothing") == []


def test_a_listing_of_several_pages(engine: Engine, front: Front) -> None:
    for number in range(1001):
        engine.state.put(PROJECT, f"{number:04}", number)
    client = client_of(engine)
    assert [item.value for item in front.list(client, limit=None)] == list(range(1001))
    assert len(engine.state_calls) == 2
    assert len(front.list(client)) == 100


@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_store_without_listings(engine: Engine, front: Front, status: int) -> None:
    engine.faults.state.fail(status)
    with pytest.raises(StateDenied, match="no listing") as caught:
        front.list(client_of(engine), "k")
    check(caught, engine)


@pytest.mark.parametrize(
    ("method", "stored"),
    [
        ("with_org_scope", ("o1", None, None)),
        ("with_project_scope", ("o1", "p1", None)),
        ("with_env_scope", ("o1", "p1", "e1")),
    ],
)
def test_the_builder(
    engine: Engine, front: Front, method: str, stored: tuple[str, str | None, str | None]
) -> None:
    headers = engine.headers()
    metadata = {key: headers.get(name) for name, key in contract.METADATA_KEYS.items()}
    client = getattr(StateClientBuilder({"metadata": metadata}), method)()
    front.set_kv(client, "k", 1, 0)
    assert engine.state.get(stored, "k") == (1, 1)
    assert front.get(client, "k") == (1, 1)
    sent = engine.state_calls[0].headers
    ids = [sent[f"x-{what}-id"] for what in ("organization", "project", "environment")]
    assert ids == ["o1", "p1", "e1"]
    assert client.scope == StateScope(*stored)


@pytest.mark.parametrize(
    ("missing", "method"),
    [
        ("stateStoreUrl", "with_org_scope"),
        ("stateStoreToken", "with_org_scope"),
        ("organizationID", "with_org_scope"),
        ("projectID", "with_project_scope"),
        ("environmentID", "with_env_scope"),
    ],
)
@pytest.mark.parametrize("absent", [None, "", "key"])
def test_the_builder_says_what_is_missing(missing: str, method: str, absent: str | None) -> None:
    metadata: dict[str, Any] = {
        "stateStoreUrl": "http://h",
        "stateStoreToken": "s3cret",
        "organizationID": "o1",
        "projectID": "p1",
        "environmentID": "e1",
    }
    if absent == "key":
        del metadata[missing]
    else:
        metadata[missing] = absent
    with pytest.raises(Failed, match=missing) as caught:
        getattr(StateClientBuilder({"metadata": metadata}), method)()
    assert "s3cret" not in str(caught.value)


def test_the_builder_without_metadata() -> None:
    for request in ({}, {"metadata": None}):
        with pytest.raises(Failed, match="stateStoreUrl"):
            StateClientBuilder(request)


def test_a_client_shows_no_token(engine: Engine) -> None:
    assert token_of(engine) not in repr(client_of(engine))


# Any text


KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
# White space at the ends of a header is not part of it.
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).map(
    lambda text: f"<{text}>"
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # and any text
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(key=KEYS, ids=st.tuples(IDS, IDS, IDS), width=st.integers(1, 3), value=VALUES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_key_scope_and_value_come_back(
    engine: Engine, front: Front, key: str, ids: tuple[str, str, str], width: int, value: Any
) -> None:
    engine.state.clear()
    scope = StateScope(*ids[:width])
    client = StateClient(engine.state_url, token_of(engine), *ids, scope)
    assert front.set_kv(client, key, value, 0) == 1
    assert front.get(client, key) == (value, 1)
    assert front.list(client, key) == [StateItem(key, value, 1)]
    stored = (ids[0], ids[1] if width > 1 else None, ids[2] if width > 2 else None)
    assert engine.state.get(stored, key) == (value, 1)
    sent = engine.state_calls[-1].headers
    assert tuple(sent[f"x-{what}-id"] for what in ("organization", "project", "environment")) == ids
    front.delete(client, key)
    assert engine.state.get(stored, key) is None


# What goes wrong


OPERATIONS: list[tuple[str, tuple[Any, ...]]] = [
    ("get", ("k",)),
    ("set_kv", ("k", 1, 0)),
    ("set", ("k", lambda _: 1)),
    ("delete", ("k",)),
    ("list", ("k",)),
]


@pytest.fixture(params=OPERATIONS, ids=lambda each: each[0])
def operation(request: pytest.FixtureRequest) -> tuple[str, tuple[Any, ...]]:
    return request.param


def expect(
    kind: type[StateError],
    match: str,
    engine: Engine,
    front: Front,
    client: StateClient,
    operation: tuple[str, tuple[Any, ...]],
) -> None:
    name, args = operation
    with pytest.raises(kind, match=match) as caught:
        getattr(front, name)(client, *args)
    assert type(caught.value) is kind
    check(caught, engine)


def test_a_store_that_is_down_and_comes_back(
    engine: Engine, front: Front, operation: tuple[str, tuple[Any, ...]]
) -> None:
    client = client_of(engine)
    getattr(front, operation[0])(client, *operation[1])  # a connection is pooled
    engine.state.clear()
    engine.stop()
    expect(StateUnavailable, "not reached: Connection refused", engine, front, client, operation)
    engine.start()
    getattr(front, operation[0])(client, *operation[1])


def test_a_slow_store(engine: Engine, front: Front, operation: tuple[str, tuple[Any, ...]]) -> None:
    client = client_of(engine, timeout=0.05)
    engine.faults.state.delay(60)
    expect(StateUnavailable, r"did not answer within 0\.05 s", engine, front, client, operation)


def test_a_store_that_fails(
    engine: Engine, front: Front, operation: tuple[str, tuple[Any, ...]]
) -> None:
    engine.faults.state.fail(500)
    client = client_of(engine)
    expect(StateUnavailable, "answered 500", engine, front, client, operation)
    assert len(engine.state_calls) == 1


def test_a_wrong_token(
    engine: Engine, front: Front, operation: tuple[str, tuple[Any, ...]]
) -> None:
    client = StateClient(engine.state_url, "wrong", "o1", "p1", "e1", StateScope("o1", "p1"))
    expect(StateDenied, "status 401: X-Eaas-State-Token", engine, front, client, operation)


def test_a_redirect_is_not_followed(
    engine: Engine, front: Front, operation: tuple[str, tuple[Any, ...]]
) -> None:
    with Engine() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            engine.faults.state.redirect(elsewhere.state_url, times=1, status=status)
            expect(
                StateDenied, f"{status}, a redirect", engine, front, client_of(engine), operation
            )
        assert elsewhere.state_calls == []


@pytest.mark.parametrize("where", ["status", "body"])
def test_a_connection_cut_half_way(
    engine: Engine, front: Front, operation: tuple[str, tuple[Any, ...]], where: Any
) -> None:
    engine.faults.state.drop(where=where)
    expect(
        StateUnavailable, "before its answer was whole", engine, front, client_of(engine), operation
    )
    # Reads are asked twice; a write, never.
    reads = operation[0] in ("get", "set", "list")
    assert len(engine.state_calls) == (2 if reads else 1)


@pytest.mark.parametrize("where", ["status", "body"])
def test_a_read_survives_one_cut(engine: Engine, front: Front, where: Any) -> None:
    engine.state.put(PROJECT, "k", 1)
    engine.faults.state.drop(times=1, where=where)
    assert front.get(client_of(engine), "k") == (1, 1)


@pytest.mark.parametrize("name", ["set_kv", "set"])
def test_a_write_that_was_carried_out_but_not_answered_happens_once(
    engine: Engine, front: Front, name: str
) -> None:
    engine.faults.state.drop(times=1, stored=True, method="PUT")
    args = ("k", 1, 0) if name == "set_kv" else ("k", lambda old: (old or 0) + 1)
    with pytest.raises(StateUnavailable, match="may or may not have"):
        getattr(front, name)(client_of(engine), *args)
    assert engine.state.get(PROJECT, "k") == (1, 1)


def test_a_delete_is_not_repeated_either(engine: Engine, front: Front) -> None:
    engine.faults.state.drop(times=1, stored=True, method="DELETE")
    with pytest.raises(StateUnavailable, match="may or may not have"):
        front.delete(client_of(engine), "k")
    assert len(engine.state_calls) == 1


def test_answers_that_are_no_json(engine: Engine, front: Front) -> None:
    engine.faults.state.fail(200, body=b"<html>")
    client = client_of(engine)
    for operation in (("get", ("k",)), ("list", ("k",))):
        expect(StateUnavailable, "no JSON", engine, front, client, operation)
    assert front.set_kv(client, "k", 1, 0) is None
    assert front.delete(client, "k") is None


def test_a_conflict_for_ever(engine: Engine, front: Front) -> None:
    engine.faults.state.fail(409, method="PUT")
    client = client_of(engine)
    expect(StateConflict, "no longer current", engine, front, client, OPERATIONS[1])
    expect(StateContention, "5 retries", engine, front, client, OPERATIONS[2])


@pytest.fixture
def https() -> Iterator[tuple[Engine, str]]:
    """An engine whose certificate only the file trusts."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    with authority.cert_pem.tempfile() as file, Engine(ssl_context=server) as engine:
        yield engine, file


def test_a_bad_certificate(
    https: tuple[Engine, str], front: Front, operation: tuple[str, tuple[Any, ...]]
) -> None:
    engine = https[0]
    expect(StateUnavailable, "not trusted", engine, front, client_of(engine), operation)
    assert engine.state_calls == []


def test_a_bad_certificate_that_is_accepted_knowingly(
    https: tuple[Engine, str], front: Front
) -> None:
    engine = https[0]
    assert front.set_kv(client_of(engine, verify=False), "k", 1, 0) == 1
    with pytest.raises(StateUnavailable, match="not trusted"):
        front.get(client_of(engine), "k")
    state_http.configure(verify=False)
    try:
        assert front.get(client_of(engine), "k") == (1, 1)
        with pytest.raises(StateUnavailable, match="not trusted"):
            front.get(client_of(engine, verify=True), "k")
    finally:
        state_http.configure(verify=True)


def test_a_good_certificate(https: tuple[Engine, str]) -> None:
    engine, authority = https
    script = """
        import asyncio, sys
        from fnship.function.state import StateClient, StateScope

        client = StateClient(sys.argv[1], sys.argv[2], "o1", None, None, StateScope("o1"))
        print(client.set_kv("k", 1, 0), asyncio.run(client.get_async("k")))
    """
    assert run_script(engine, script, SSL_CERT_FILE=authority) == "1 (1, 1)\n"


def test_https_asked_of_a_store_that_speaks_http(engine: Engine, front: Front) -> None:
    url = engine.state_url.replace("http:", "https:")
    client = StateClient(url, token_of(engine), "o1", None, None, StateScope("o1", "p1"))
    expect(StateUnavailable, "TLS failed", engine, front, client, OPERATIONS[0])


def test_a_host_that_does_not_exist(engine: Engine, front: Front) -> None:
    url = "http://user:pa55@nobody.invalid/"
    client = StateClient(url, token_of(engine), "o1", None, None, StateScope("o1", "p1"))
    with pytest.raises(
        StateUnavailable, match=r"http://nobody\.invalid (was not|did not)"
    ) as caught:
        front.get(client, "k")
    check(caught, engine)
    assert "pa55" not in str(caught.value)


class Peer:
    """A socket that answers what it is told to, once per connection, and keeps what it got."""

    def __init__(self, *pieces: bytes, again: bool = False) -> None:
        self.got: list[bytes] = []
        self._pieces = pieces
        self._again = again  # go on sending the last piece
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        # Wake accept() up.
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            connection = self._listener.accept()[0]
            with connection:
                if self._ended.is_set():
                    return
                self.got.append(connection.recv(65536))
                try:
                    for piece in self._pieces:
                        connection.sendall(piece)
                    while self._again and not self._ended.wait(0.02):
                        connection.sendall(self._pieces[-1])
                except OSError:
                    pass  # the client has had enough


def test_a_timeout_covers_an_answer_that_drips(engine: Engine, front: Front) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    with Peer(head, b" ", again=True) as peer:
        client = StateClient(
            peer.url, token_of(engine), "o1", None, None, StateScope("o1", "p1"), timeout=0.1
        )
        expect(StateUnavailable, "did not answer within", engine, front, client, OPERATIONS[0])


@pytest.mark.parametrize("answer", [b"rubbish\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", b""])
def test_an_answer_that_is_no_http(engine: Engine, front: Front, answer: bytes) -> None:
    with Peer(answer) as peer:
        client = StateClient(peer.url, token_of(engine), "o1", None, None, StateScope("o1", "p1"))
        expect(StateUnavailable, "the store at", engine, front, client, OPERATIONS[0])


def test_a_chunked_answer(engine: Engine, front: Front) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with Peer(answer, b'a\r\n{"value":1\r\n', b'd\r\n,"version":2}\r\n0\r\n\r\n') as peer:
        client = StateClient(peer.url, "t", "o1", None, None, StateScope("o1"))
        assert front.get(client, "k") == (1, 2)


def test_cookies_are_not_kept(engine: Engine, front: Front) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
    with Peer(answer) as peer:
        client = StateClient(peer.url, "t", "o1", None, None, StateScope("o1"))
        for _ in range(2):
            assert front.get(client, "k") == (None, 0)
        assert len(peer.got) == 2
        assert not any(b"cookie" in got.lower() for got in peer.got)


def test_a_proxy_from_the_environment(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state_http.close_pools()
    with Peer(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"value":1x') as peer:
        monkeypatch.setenv("http_proxy", peer.url.replace("//", "//user:pa%24%24@"))
        client = StateClient("http://far.invalid/s", "t", "o1", None, None, StateScope("o1"))
        with pytest.raises(StateUnavailable, match="no JSON") as caught:
            front.get(client, "k")
        assert "pa$$" not in str(caught.value)
        assert peer.got[0].startswith(b"GET http://far.invalid/s?key=k&organization_id=o1 HTTP/1.1")
        assert b"proxy-authorization: basic dxnlcjpwysqk" in peer.got[0].lower()
        monkeypatch.setenv("no_proxy", "far.invalid")
        state_http.close_pools()
        with pytest.raises(StateUnavailable, match=r"not reached|did not answer"):
            front.get(client, "k")
        assert len(peer.got) == 1
    monkeypatch.undo()
    state_http.close_pools()


# Threads, loops and processes


def test_no_increment_is_lost_between_threads_and_loops(engine: Engine) -> None:
    def add_one(old: int | None) -> int:
        return (old or 0) + 1

    def in_thread() -> None:
        client = client_of(engine)
        for _ in range(25):
            client.set("k", add_one, MANY)

    async def on_loop() -> None:
        client = client_of(engine)
        for _ in range(25):
            await client.set_async("k", add_one, MANY)

    async def both() -> None:
        await asyncio.gather(on_loop(), on_loop())

    threads = [threading.Thread(target=each) for each in (in_thread, in_thread)]
    threads.append(threading.Thread(target=lambda: asyncio.run(both())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.state.get(PROJECT, "k") == (100, 100)
    state_http.close_pools()


def test_a_sync_call_inside_a_coroutine(engine: Engine) -> None:
    async def handler() -> Any:
        client = client_of(engine)
        client.set("k", lambda old: (old or 0) + 1)
        await client.set_async("k", lambda old: old + client.get("k")[0])
        return client.get("k")

    assert asyncio.run(handler()) == (2, 2)
    state_http.close_pools()


def test_sessions_are_closed_when_asked_and_opened_again(engine: Engine) -> None:
    async def main() -> None:
        client = client_of(engine)
        await state_http.close_sessions()
        for _ in range(2):
            await client.get_async("k")
            await state_http.close_sessions()

    asyncio.run(main())
    gc.collect()


def test_a_loop_driven_by_hand(engine: Engine) -> None:
    async def main() -> None:
        await client_of(engine).get_async("k")
        await state_http.close_sessions()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    gc.collect()


def test_a_cancelled_call_leaves_nothing_behind(engine: Engine) -> None:
    engine.faults.state.delay(60, times=1)

    async def main() -> tuple[Any, int]:
        client = client_of(engine)
        task = asyncio.create_task(client.get_async("k"))
        while not engine.state_calls:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await client.get_async("k")

    assert asyncio.run(main()) == (None, 0)
    gc.collect()


def test_connections_are_pooled(engine: Engine, front: Front) -> None:
    for _ in range(5):
        front.set(client_of(engine), "k", lambda old: (old or 0) + 1)
    assert engine.connections == 1


def test_a_forked_process_has_pools_of_its_own(engine: Engine) -> None:
    script = """
        import os, sys
        from fnship.function.state import StateClient, StateScope

        client = StateClient(sys.argv[1], sys.argv[2], "o1", None, None, StateScope("o1"))
        client.set("k", lambda old: 1)
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                for _ in range(20):
                    client.set("k", lambda old: old + 1, 100)
                os._exit(0)
            children.append(pid)
        for _ in range(20):
            client.set("k", lambda old: old + 1, 100)
        print([os.waitpid(pid, 0)[1] for pid in children], client.get("k"))
    """
    assert run_script(engine, script) == "[0, 0, 0] (81, 81)\n"


def test_neither_client_is_loaded_before_it_is_used(engine: Engine) -> None:
    script = """
        import asyncio, sys
        from fnship.function.state import StateClient, StateScope

        client = StateClient(sys.argv[1], sys.argv[2], "o1", None, None, StateScope("o1"))
        loaded = lambda: [name for name in ("aiohttp", "urllib3") if name in sys.modules]
        print(loaded())
        asyncio.run(client.get_async("k"))
        print(loaded())
        client.get("k")
        print(loaded())
    """
    assert run_script(engine, script) == "[]\n['aiohttp']\n['aiohttp', 'urllib3']\n"


def run_script(engine: Engine, script: str, **environ: str) -> str:
    """Run a script with the store's URL and token, all warnings being errors."""
    interpreter = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(
        [*interpreter, engine.state_url, token_of(engine)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout
