"""HTTP/1.1 as our protocol class speaks it, on a real loop with a transport that we hold."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState

from fnship.function.handler import inspect_handler
from fnship.server.asgi import ASGIFunction
from fnship.server.http import FunctionProtocol
from fnship.server.single import CONFIG
from fnship.settings import Settings

READY = b"GET /_/ready HTTP/1.1\r\nhost: x\r\n\r\n"
PROMPT = Settings(max_body_size=100_000)
WITHIN = 10.0


class Transport(asyncio.Transport):
    """Keeps what is written, and does what the protocol asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: FunctionProtocol | None = None
        self.written = bytearray()
        self.reading = True
        self.closing = False
        self.lost = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "written to a closed transport"
        self.written += data

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.lose)

    def lose(self) -> None:
        """The connection is gone, by whoever's will."""
        self.closing = True
        if not self.lost:
            self.lost = True
            assert self.protocol is not None
            self.protocol.connection_lost(None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_answers(data: bytes, *, heads_only: bool = False) -> list[Answer]:
    """Take what a connection carried apart; it must be whole answers and nothing else."""
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        length = int(headers.get("content-length", 0))
        if heads_only:
            length = 0
        assert len(data) >= length
        answers.append(Answer(int(status), headers, data[:length]))
        data = data[length:]
    return answers


class Wire:
    """One connection to a function."""

    def __init__(self, function: ASGIFunction, state: ServerState, clock: Any = None) -> None:
        self.state = state
        self.transport = Transport()
        config = Config(function, **CONFIG)
        self.protocol = FunctionProtocol(config, state, {}, clock)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    async def send(self, data: bytes) -> None:
        """Deliver one packet, as soon as the protocol reads."""
        while not self.transport.reading and not self.transport.closing:
            await asyncio.sleep(0)
        if not self.transport.closing:
            self.protocol.data_received(data)

    async def settle(self) -> None:
        """Until nothing is served any more."""
        await asyncio.sleep(0)
        while self.state.tasks or self.transport.closing > self.transport.lost:
            await asyncio.sleep(0)

    @property
    def answers(self) -> list[Answer]:
        return read_answers(bytes(self.transport.written))

    async def ask(self, *packets: bytes) -> list[Answer]:
        """Send, and give the answers to all that was sent so far."""
        for each in packets:
            await self.send(each)
        await self.settle()
        return self.answers


async def echo(logger: Any, request: dict[str, Any]) -> Any:
    for _ in range(request.get("turns", 0)):
        await asyncio.sleep(0)
    return request


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[..., Any] = echo, settings: Settings = PROMPT
) -> AsyncIterator[tuple[ASGIFunction, ServerState]]:
    function = ASGIFunction(inspect_handler(handler), settings, environ={})
    state = ServerState()
    await function.startup()
    try:
        yield function, state
    finally:
        await function.shutdown()
        assert not state.tasks


def on_a_wire(
    scenario: Callable[[Wire], Awaitable[None]],
    handler: Callable[..., Any] = echo,
    settings: Settings = PROMPT,
) -> None:
    async def run() -> None:
        async with asyncio.timeout(WITHIN), serving(handler, settings) as (function, state):
            wire = Wire(function, state)
            try:
                await scenario(wire)
            finally:
                wire.transport.lose()
                await wire.settle()
            assert not state.connections

    asyncio.run(run())


def asked(*packets: bytes, **more: Any) -> tuple[list[Answer], bool]:
    """The answers to some packets, and whether the connection was closed."""
    found: list[tuple[list[Answer], bool]] = []

    async def scenario(wire: Wire) -> None:
        answers = await wire.ask(*packets)
        found.append((answers, wire.transport.lost))

    on_a_wire(scenario, **more)
    return found[0]


def post(body: bytes | Any = b"{}", *headers: str, path: str = "/", version: str = "1.1") -> bytes:
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*chunks: bytes, headers: tuple[str, ...] = (), trailers: bytes = b"") -> bytes:
    lines = ["POST / HTTP/1.1", "host: x", "transfer-encoding: chunked", *headers, "", ""]
    body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
    return "\r\n".join(lines).encode() + body + b"0\r\n" + trailers + b"\r\n"


def values(answers: list[Answer]) -> list[Any]:
    assert {each.status for each in answers} == {200}
    return [{key: item for key, item in each.json.items() if key != "metadata"} for each in answers]


# Requests and answers


def test_one_request() -> None:
    (answer,), closed = asked(post({"a": 1}))
    assert answer.status == 200
    assert answer.json["a"] == 1
    assert answer.headers == {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
    }
    assert not closed


def test_several_on_one_connection() -> None:
    async def scenario(wire: Wire) -> None:
        for number in range(5):
            answers = await wire.ask(post({"n": number}))
            assert values(answers)[-1] == {"n": number}
        assert len(wire.answers) == 5
        assert wire.state.total_requests == 5

    on_a_wire(scenario)


def test_pipelined_requests_are_answered_in_order() -> None:
    turns = [30, 0, 12, 5, 0, 0, 40, 1]
    answers, closed = asked(b"".join(post({"turns": each}) for each in turns))
    assert values(answers) == [{"turns": each} for each in turns]
    assert not closed


@pytest.mark.parametrize("count", [31, 32, 33, 200])
def test_a_long_pipeline_is_read_as_it_is_answered(count: int) -> None:
    async def scenario(wire: Wire) -> None:
        for number in range(count):
            await wire.send(post({"n": number, "turns": number % 3}))
        await wire.settle()
        assert [each["n"] for each in values(wire.answers)] == list(range(count))
        assert wire.transport.reading

    on_a_wire(scenario)


def test_a_client_that_sends_on_and_on_is_not_read_on_and_on() -> None:
    async def scenario(wire: Wire) -> None:
        sent = 0
        while wire.transport.reading:
            wire.protocol.data_received(post({"turns": 3}))
            sent += 1
            assert sent < 100
        await wire.settle()
        assert len(wire.answers) == sent
        assert wire.transport.reading

    on_a_wire(scenario)


def test_a_client_that_does_not_read_is_not_read_either() -> None:
    async def scenario(wire: Wire) -> None:
        wire.protocol.data_received(post({"turns": 2}) * 40)
        wire.protocol.pause_writing()
        await wire.settle()
        assert not wire.transport.reading
        wire.protocol.resume_writing()
        await wire.settle()
        assert wire.transport.reading
        assert len(wire.answers) == 40

    on_a_wire(scenario)


REQUESTS = [
    post(),
    post({"a": [1, "é😀"]}),
    post({"turns": 3}, "X-Activity-ID: a1", "x-ProjecT-id:   p1  "),
    post(b"no json"),
    post(b""),
    post({"long": "x" * 3000}),
    post({"q": 1}, path="/?a=b"),
    chunked(b'{"a"', b":", b" 1}"),
    chunked(b"{}", headers=("X-Event-Type: deploy",), trailers=b"X-Event-Type: destroy\r\n"),
    chunked(),
    READY,
    READY.replace(b"GET", b"DELETE"),
    b"GET /nowhere HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 1000 + b"\r\n\r\n",
    b"\r\n" + post({"after": "an empty line"}),
    post(b" " * 6000),
    chunked(b" " * 3000, b" " * 3000),
    post({"offers": "h2c"}, "Upgrade: h2c", "Connection: Upgrade, X-More", "X-More: y"),
    chunked(b'{"offers"', b': "tls"}', headers=("Connection: upgrade", "Upgrade: TLS/1.0")),
    READY.replace(b"host: x", b"host: x\r\nupgrade: websocket\r\nconnection: upgrade"),
    b"POST / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
]


async def _whole(requests: list[bytes], packets: list[tuple[bytes, str]]) -> None:
    """Send packets, and see that the answers are those to each request by itself.

    After each packet comes: nothing, a "turn" of the loop, or a "stall", from which on the
    client takes no answers until the next one, or until it is not read any further.
    """
    async with serving(settings=Settings(max_body_size=5000)) as (function, state):
        one_by_one = []
        for each in requests:
            wire = Wire(function, state)
            one_by_one += await wire.ask(each)
            wire.transport.lose()
        wire = Wire(function, state)
        stalled = False
        for packet, then in packets:
            if stalled and not wire.transport.reading:
                wire.protocol.resume_writing()
                stalled = False
            await wire.send(packet)
            if then == "turn":
                await asyncio.sleep(0)
            elif then == "stall":
                if stalled:
                    wire.protocol.resume_writing()
                else:
                    wire.protocol.pause_writing()
                stalled = not stalled
        if stalled:
            wire.protocol.resume_writing()
        await wire.settle()
        assert wire.answers == one_by_one
        assert len(one_by_one) == len(requests)
        assert wire.transport.reading
        wire.transport.lose()


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["", "turn", "stall"])), max_size=30),
)
@example(REQUESTS, [])
def test_any_split_over_packets_gives_the_same_answers(
    requests: list[bytes], cuts: list[tuple[float, str]]
) -> None:
    data = b"".join(requests)
    places = [0, *sorted({int(cut * len(data)) for cut, _ in cuts}), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    then = itertools.chain((each for _, each in cuts), itertools.repeat("turn"))
    packets = [each for each in zip(pieces, then, strict=False) if each[0]]
    asyncio.run(_whole(requests, packets))


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_byte_by_byte(request_: bytes) -> None:
    asyncio.run(_whole([request_], [(bytes([each]), "") for each in request_]))


def test_a_request_whose_head_begins_in_a_large_packet() -> None:
    """What came before it in the same packet is not part of its head."""
    data = post({"x": "y" * 80_000}) + post({"n": 2}, "x-more: " + "z" * 1000)
    answers, closed = asked(data[:-500], data[-500:])
    assert values(answers)[1] == {"n": 2}
    assert not closed


# The end of a connection


@pytest.mark.parametrize(
    "request_",
    [
        post({"n": 1}, "Connection: close"),
        post({"n": 1}, "connection: Close, x"),
        post({"n": 1}, version="1.0"),
        post({"n": 1}, "connection: keep-alive", version="1.0"),
        chunked(b'{"n": 1}', headers=("connection: close",)),
    ],
)
def test_the_client_wants_no_more(request_: bytes) -> None:
    (answer,), closed = asked(request_)
    assert values([answer]) == [{"n": 1}]
    assert answer.headers["connection"] == "close"
    assert closed


def test_after_the_last_request_nothing_is_served() -> None:
    answers, closed = asked(post({"n": 1}) + post({"n": 2}, "connection: close") + post({"n": 3}))
    assert values(answers) == [{"n": 1}, {"n": 2}]
    assert [each.headers.get("connection") for each in answers] == [None, "close"]
    assert closed


def test_a_client_that_leaves_in_the_middle_of_its_request_leaves_nothing_behind() -> None:
    async def run() -> None:
        ran: list[Any] = []
        async with serving(lambda logger, request: ran.append(request)) as (function, state):
            request_ = chunked(b'{"a"', b": 1}")
            for end in range(len(request_)):
                wire = Wire(function, state)
                await wire.send(request_[:end])
                wire.transport.lose()
                await wire.settle()
                assert wire.transport.written == b""
            assert not state.connections
            assert not state.tasks
        assert ran == []

    asyncio.run(run())


def test_a_client_that_leaves_cancels_what_runs_and_drops_what_waits() -> None:
    ran: list[int] = []
    ended: list[str] = []

    async def handle(logger: Any, request: dict[str, Any]) -> Any:
        ran.append(request["n"])
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def scenario(wire: Wire) -> None:
        await wire.send(post({"n": 1}) + post({"n": 2}))
        while not ran:
            await asyncio.sleep(0)
        wire.transport.lose()
        await wire.settle()
        assert wire.transport.written == b""

    on_a_wire(scenario, handle)
    assert ran == [1]
    assert ended == ["cancelled"]


@pytest.mark.parametrize("busy", [False, True])
def test_the_server_shuts_down(busy: bool) -> None:
    async def scenario(wire: Wire) -> None:
        if busy:
            await wire.send(post({"turns": 5}))
        wire.protocol.shutdown()
        while not wire.transport.lost:
            await asyncio.sleep(0.01)
        assert len(wire.answers) == busy
        if busy:
            assert wire.answers[0].headers["connection"] == "close"

    on_a_wire(scenario)


class Timer:
    def __init__(self, when: float, ring: Callable[[], object]) -> None:
        self.when = when
        self.ring = ring
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """Stands for the loop, with a time that we set and timers that we ring."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def create_task(self, coroutine: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(coroutine, **more)

    def call_later(self, delay: float, ring: Callable[[], object]) -> Timer:
        assert delay > 0
        self.timers.append(Timer(self.now + delay, ring))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [each for each in self.timers if each.when <= end and not each.cancelled]:
            timer = min(due, key=lambda each: each.when)
            self.timers.remove(timer)
            self.now = timer.when
            timer.ring()
        self.now = end


def on_a_clock(
    scenario: Callable[[Wire, Clock, asyncio.Event], Awaitable[None]],
    settings: Settings = PROMPT,
) -> None:
    """Run a scenario; its event is what a request with ``{"wait": true}`` waits for."""

    async def run() -> None:
        gate = asyncio.Event()

        async def handle(logger: Any, request: dict[str, Any]) -> Any:
            if request.get("wait"):
                await gate.wait()
            return request

        async with asyncio.timeout(WITHIN), serving(handle, settings) as (function, state):
            clock = Clock()
            wire = Wire(function, state, clock)
            try:
                await scenario(wire, clock, gate)
            finally:
                gate.set()
                wire.transport.lose()
                await wire.settle()
        assert all(each.cancelled for each in clock.timers)

    asyncio.run(run())


KEEP_ALIVE = CONFIG["timeout_keep_alive"]


def test_an_idle_connection_is_closed() -> None:
    async def scenario(wire: Wire, clock: Clock, gate: asyncio.Event) -> None:
        clock.advance(KEEP_ALIVE - 1)
        assert not wire.transport.closing
        await wire.ask(post())
        clock.advance(KEEP_ALIVE - 1)
        assert not wire.transport.closing
        clock.advance(KEEP_ALIVE)
        await wire.settle()
        assert wire.transport.lost

    on_a_clock(scenario)


def test_a_slow_client_is_not_idle() -> None:
    async def scenario(wire: Wire, clock: Clock, gate: asyncio.Event) -> None:
        for each in post({"a": 1}):
            await wire.send(bytes([each]))
            clock.advance(KEEP_ALIVE / 2)
        await wire.settle()
        assert values(wire.answers) == [{"a": 1}]

    on_a_clock(scenario)


def test_a_client_that_waits_for_its_answer_is_not_idle() -> None:
    async def scenario(wire: Wire, clock: Clock, gate: asyncio.Event) -> None:
        await wire.send(post({"wait": True}))
        clock.advance(10 * KEEP_ALIVE)
        assert not wire.transport.closing
        gate.set()
        await wire.settle()
        assert len(wire.answers) == 1
        # It has just got its answer: its next request must not meet a closed connection.
        clock.advance(KEEP_ALIVE - 1)
        assert not wire.transport.closing
        clock.advance(KEEP_ALIVE)
        await wire.settle()
        assert wire.transport.lost

    on_a_clock(scenario)


@pytest.mark.parametrize("sent", [b"POST", post({"a": 1})[:-1], chunked(b"{}")[:-4]])
def test_a_request_that_is_not_whole_in_time(sent: bytes) -> None:
    async def scenario(wire: Wire, clock: Clock, gate: asyncio.Event) -> None:
        await wire.ask(post({"n": 1}))
        clock.advance(100)  # between requests it does not count
        for each in sent:
            await wire.send(bytes([each]))
        clock.advance(9)
        assert not wire.transport.closing
        clock.advance(20)
        await wire.settle()
        one, two = wire.answers
        assert (one.status, two.status) == (200, 408)
        assert two.json["error_code"] == 2
        assert wire.transport.lost

    on_a_clock(scenario, Settings(read_timeout=10.0))


def test_a_handler_may_take_longer_than_the_request() -> None:
    async def scenario(wire: Wire, clock: Clock, gate: asyncio.Event) -> None:
        await wire.send(post({"wait": True}))
        clock.advance(100)
        gate.set()
        await wire.settle()
        assert [each.status for each in wire.answers] == [200]
        assert not wire.transport.closing

    on_a_clock(scenario, Settings(read_timeout=10.0, write_timeout=10.0))


def test_a_client_that_does_not_take_its_answer_in_time() -> None:
    async def scenario(wire: Wire, clock: Clock, gate: asyncio.Event) -> None:
        await wire.ask(post({"n": 1}))
        wire.protocol.pause_writing()
        clock.advance(9)
        assert not wire.transport.closing
        wire.protocol.resume_writing()
        wire.protocol.pause_writing()
        clock.advance(9)
        assert not wire.transport.closing
        clock.advance(20)
        await wire.settle()
        assert wire.transport.lost

    on_a_clock(scenario, Settings(write_timeout=10.0))


# Paths and methods


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("POST / HTTP/1.1", 200),
        ("POST /?x=%20&y=/z#f HTTP/1.1", 200),
        ("POST http://example.com/ HTTP/1.1", 200),
        ("POST http://example.com HTTP/1.1", 200),
        ("POST https://user@example.com:8443/?a HTTP/1.1", 200),
        ("GET /%5f/%72eady HTTP/1.1", 200),
        ("GET http://example.com/_/ready?x HTTP/1.1", 200),
        ("HEAD /_/ready HTTP/1.1", 200),
        ("GET /_/health HTTP/1.1", 200),
        ("GET / HTTP/1.1", 405),
        ("PUT / HTTP/1.1", 405),
        ("OPTIONS / HTTP/1.1", 405),
        ("POST /_/ready HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 404),
        ("POST /_/ready/ HTTP/1.1", 404),
        ("POST /a%0ab%ff HTTP/1.1", 404),
        ("POST /%2e%2e/ HTTP/1.1", 404),
        ("POST // HTTP/1.1", 404),
        ("POST //example.com/ HTTP/1.1", 404),
    ],
)
def test_paths(line: str, status: int) -> None:
    request_ = f"{line}\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode("latin-1")
    found: list[bytes] = []

    async def scenario(wire: Wire) -> None:
        await wire.send(request_)
        await wire.settle()
        found.append(bytes(wire.transport.written))

    on_a_wire(scenario)
    head_only = line.startswith("HEAD")
    (answer,) = read_answers(found[0], heads_only=head_only)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    if head_only:
        assert answer.headers["content-length"] == "18"
    else:
        assert isinstance(answer.json, dict)
    if status == 405:
        assert answer.headers["allow"] == ("POST" if " / " in line else "GET, HEAD")


# What the client expects


@pytest.mark.parametrize("name", ["Expect: 100-continue", "expect: 100-Continue"])
def test_expect(name: str) -> None:
    async def scenario(wire: Wire) -> None:
        head, _, body = post({"a": 1}, name).partition(b"\r\n\r\n")
        (go_on,) = await wire.ask(head + b"\r\n\r\n")
        assert go_on.status == 100
        answers = await wire.ask(body)
        assert [each.status for each in answers] == [100, 200]
        assert answers[1].json["a"] == 1

    on_a_wire(scenario)


@pytest.mark.parametrize(
    "headers",
    [
        ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"),
        ("Upgrade: websocket", "Connection: upgrade"),
        ("Upgrade: TLS/1.0", "Connection: Upgrade"),
    ],
)
def test_an_upgrade_is_not_made_and_the_request_is_served(headers: tuple[str, ...]) -> None:
    for request_ in (post({"a": 1}, *headers), chunked(b'{"a"', b":1}", headers=headers)):
        for packets in ([request_], [bytes([each]) for each in request_]):
            (answer,), _ = asked(*packets)
            assert values([answer]) == [{"a": 1}]


def test_an_upgrade_behind_other_requests() -> None:
    upgrade = post({"n": 3}, "Upgrade: h2c", "Connection: Upgrade")
    answers, _ = asked(post({"n": 1, "turns": 5}) + post({"n": 2}) + upgrade)
    assert [each["n"] for each in values(answers)] == [1, 2, 3]


# What cannot be served

GARBAGE = [
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS handshake
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST / HTTP/9.9\r\n\r\n",
    b"POST  HTTP/1.1\r\n\r\n",
    b"FROB / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
    b"POST / HTTP/1.1\r\nbad name: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nx: a\x00b\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: 1x\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    b"POST / HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}{}\r\n0\r\n\r\n",
    b"\x00" * 100,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("bytewise", [False, True])
def test_garbage(data: bytes, bytewise: bool) -> None:
    packets = [bytes([each]) for each in data] if bytewise else [data]
    (answer,), closed = asked(*packets)
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert answer.json == {"error_code": 2, "message": "this is not a valid HTTP/1.1 request"}
    assert closed


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_behind_good_requests(data: bytes) -> None:
    """The good ones are answered; then the connection ends, with or without a last word."""
    answers, closed = asked(post({"n": 1, "turns": 5}) + post({"n": 2}) + data)
    assert [each["n"] for each in values(answers[:2])] == [1, 2]
    assert [each.status for each in answers[2:]] in ([], [400])
    assert closed


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=100) | st.sampled_from([*REQUESTS, *GARBAGE]), max_size=8))
def test_any_bytes_at_all(packets: list[bytes]) -> None:
    for answer in asked(*[each for each in packets if each])[0]:
        if answer.status != 100 and answer.body:
            assert isinstance(answer.json, dict)


LIMIT = 64 * 1024


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nx: " + b"y" * LIMIT,
        b"POST / HTTP/1.1\r\n" + b"x: y\r\n" * (LIMIT // 6 + 10),
        b"POST /" + b"x" * LIMIT,
        b"POST / HTTP/1.1\r\n" + b"x" * LIMIT,
    ],
)
@pytest.mark.parametrize("packet", [1000, 10**6])
@pytest.mark.parametrize("end", [b"", b" HTTP/1.1\r\n\r\n", b"\r\n\r\n"])
def test_a_head_that_is_too_large(head: bytes, packet: int, end: bytes) -> None:
    data = head + end
    answers, closed = asked(*(data[at : at + packet] for at in range(0, len(data), packet)))
    assert closed
    (answer,) = answers
    if answer.status != 431:  # it may be refused for what it is, before its size is known
        assert answer.status == 400
        assert end
    else:
        assert answer.json == {
            "error_code": 2,
            "message": "the request's headers are larger than 65536 bytes",
        }


@pytest.mark.parametrize("packet", [1000, 10**6])
def test_a_header_of_60_kib(packet: int) -> None:
    data = post({"a": 1}, "x-large: " + "y" * 60 * 1024)
    answers, _ = asked(*(data[at : at + packet] for at in range(0, len(data), packet)))
    assert values(answers) == [{"a": 1}]


def test_trailers_are_no_headers() -> None:
    trailers = b"X-Activity-ID: a2\r\nX-Project-ID: p2\r\nX-Timeout: 1ns\r\n"
    request_ = chunked(b"{}", headers=("X-Activity-ID: a1",), trailers=trailers)
    (answer,), _ = asked(request_)
    assert answer.status == 200
    assert answer.json["metadata"]["activityID"] == "a1"
    assert answer.json["metadata"]["projectID"] is None


@pytest.mark.parametrize("trailer", [b"x: y\r\n", b"x: " + b"y" * 8000 + b"\r\n", b"z" * 1000])
def test_trailers_without_end(trailer: bytes) -> None:
    async def scenario(wire: Wire) -> None:
        await wire.send(chunked(b"{}")[:-2])
        for _ in range(4 * LIMIT // len(trailer)):
            await wire.send(trailer)
            if wire.transport.closing:
                break
        await wire.settle()
        assert wire.transport.lost, "it reads on for ever"
        assert [each.status for each in wire.answers] in ([400], [431])

    on_a_wire(scenario)


@pytest.mark.parametrize("whole", [False, True])
def test_a_body_that_is_too_large(whole: bool) -> None:
    body = b"[" * (PROMPT.max_body_size + 1)
    request_ = post(body) if whole else chunked(body[:50_000], body[50_000:])
    answers, closed = asked(request_ + post({"next": 1}))
    assert answers[0].status == 413
    assert answers[0].json == {
        "error_code": 2,
        "message": "the request body is larger than MAX_BODY_SIZE, 100000 bytes",
    }
    assert values(answers[1:]) == [{"next": 1}]
    assert not closed


def test_a_body_that_is_too_large_behind_another() -> None:
    async def scenario(wire: Wire) -> None:
        large = post(b" " * (PROMPT.max_body_size + 1))
        await wire.send(post({"turns": 5}) + large + large)
        await wire.settle()
        answers = await wire.ask(post({"next": 1}))
        assert [each.status for each in answers] == [200, 413, 413, 200]

    on_a_wire(scenario)


def test_a_body_of_just_the_limit() -> None:
    body = b'{"a":"' + b"x" * (PROMPT.max_body_size - 8) + b'"}'
    assert len(body) == PROMPT.max_body_size
    assert asked(post(body))[0][0].status == 200


def test_a_body_without_end_is_cut_off() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.send(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(17):
            await wire.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
        await wire.settle()
        assert [each.status for each in wire.answers] == [413]
        assert wire.transport.lost

    on_a_wire(scenario)


def test_a_function_that_is_not_up() -> None:
    async def run() -> None:
        function, state = ASGIFunction(inspect_handler(echo), PROMPT, environ={}), ServerState()
        wire = Wire(function, state)
        (answer,) = await wire.ask(post())
        assert (answer.status, answer.json["message"]) == (503, "the function is not up")
        wire.transport.lose()

    asyncio.run(run())


def test_a_mistake_of_ours_is_answered_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []

    async def broken(self: Any, exchange: Any) -> Any:
        raise ZeroDivisionError

    async def scenario(wire: Wire) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        monkeypatch.setattr("fnship.server.app.App._invoke", broken)
        (answer,) = await wire.ask(post())
        assert answer.status == 500
        assert answer.json == {"error_code": 2, "message": "fnship failed: ZeroDivisionError"}
        await asyncio.sleep(0)
        gc.collect()  # the loop tells of a task that failed when the task goes

    on_a_wire(scenario)
    assert [type(each["exception"]) for each in said] == [ZeroDivisionError]
