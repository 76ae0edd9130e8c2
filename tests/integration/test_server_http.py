"""The server's HTTP on real sockets: what clients, proxies and accidents send."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess, serving

HANDLER = """
import asyncio


async def handle(logger, request):
    await asyncio.sleep(request.get("sleep", 0))
    return {key: value for key, value in request.items() if key != "metadata"}
"""


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two processes"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("http")
    with serving(folder, HANDLER, limit=600, GUNICORN_WORKERS=request.param) as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.stdout + server.stderr


def post(body: Any, *headers: str, version: str = "1.1", path: str = "/") -> bytes:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(sent)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + sent


class Answers:
    """Reads the answers of one connection, one by one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")

    def next(self) -> tuple[int, Any]:
        line = self._stream.readline()
        if not line:
            raise EOFError
        status = int(line.split()[1])
        headers = http.client.parse_headers(self._stream)
        length = headers.get("content-length")
        body = self._stream.read(int(length)) if length else b""
        assert headers.get("content-type") == "application/json" or status == 100
        assert ("date" in headers) or status == 100
        return status, json.loads(body) if body else None

    def at_end(self) -> bool:
        try:
            return self._stream.read() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._stream.close()


@pytest.fixture
def connection(server: ServerProcess) -> Iterator[socket.socket]:
    with server.connect() as connection:
        yield connection


@pytest.fixture
def answers(connection: socket.socket) -> Iterator[Answers]:
    answers = Answers(connection)
    yield answers
    answers.close()


def test_many_requests_on_one_connection(connection: socket.socket, answers: Answers) -> None:
    for number in range(50):
        connection.sendall(post({"n": number}))
        assert answers.next() == (200, {"n": number})


def test_pipelining(connection: socket.socket, answers: Answers) -> None:
    waits = [0.05, 0, 0.02, 0, 0, 0.01] * 10
    connection.sendall(b"".join(post({"n": n, "sleep": wait}) for n, wait in enumerate(waits)))
    for number, wait in enumerate(waits):
        assert answers.next() == (200, {"n": number, "sleep": wait})


def test_expect_100_continue(connection: socket.socket, answers: Answers) -> None:
    head, _, body = post({"a": 1}, "Expect: 100-continue").partition(b"\r\n\r\n")
    connection.sendall(head + b"\r\n\r\n")
    assert answers.next() == (100, None)
    connection.sendall(body)
    assert answers.next() == (200, {"a": 1})


@pytest.mark.parametrize("seed", range(3))
def test_a_chunked_body_split_anywhere(
    connection: socket.socket, answers: Answers, seed: int
) -> None:
    dice = random.Random(seed)
    value = {"text": "é" * 500, "n": seed}
    body = json.dumps(value, ensure_ascii=False).encode()
    sent = b"POST / HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    while body:
        size = dice.randint(1, 200)
        sent += b"%X\r\n%b\r\n" % (len(body[:size]), body[:size])
        body = body[size:]
    sent += b"0\r\n\r\n"
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while sent:
        size = dice.randint(1, 150)
        connection.sendall(sent[:size])
        sent = sent[size:]
    assert answers.next() == (200, value)
    connection.sendall(post({"and": "on"}))
    assert answers.next() == (200, {"and": "on"})


def test_a_slow_client(connection: socket.socket, answers: Answers) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for each in post({"slow": True}):
        connection.sendall(bytes([each]))
        time.sleep(0.001)
    assert answers.next() == (200, {"slow": True})


@pytest.mark.parametrize(
    "request_",
    [post({"a": 1}, "Connection: close"), post({"a": 1}, version="1.0")],
    ids=["close", "1.0"],
)
def test_the_last_request(connection: socket.socket, answers: Answers, request_: bytes) -> None:
    connection.sendall(request_ + post({"b": 2}))
    assert answers.next() == (200, {"a": 1})
    assert answers.at_end()


@pytest.mark.parametrize(
    "garbage", [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/3.0\r\n\r\n"]
)
def test_garbage(
    server: ServerProcess, connection: socket.socket, answers: Answers, garbage: bytes
) -> None:
    connection.sendall(garbage)
    status, answer = answers.next()
    assert (status, answer["error_code"]) == (400, 2)
    assert answers.at_end()
    assert server.call({"a": 1}).json == {"a": 1}


def test_an_upgrade_with_a_body(connection: socket.socket, answers: Answers) -> None:
    """As Java's client offers with each request."""
    headers = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA")
    for number in range(3):
        connection.sendall(post({"n": number}, *headers))
        assert answers.next() == (200, {"n": number})


@pytest.mark.parametrize("path", ["http://example.com/", "http://example.com", "/?x=%2F", "/#x"])
def test_ways_to_say_where(connection: socket.socket, answers: Answers, path: str) -> None:
    connection.sendall(post({"a": 1}, path=path))
    assert answers.next() == (200, {"a": 1})


def test_an_encoded_path(server: ServerProcess) -> None:
    assert server.call(method="GET", path="/%5F/re%61dy").json == {"status": "ready"}


def test_a_head_over_many_packets(connection: socket.socket, answers: Answers) -> None:
    head, _, body = post(
        {"a": 1}, *(f"X-{number}: {'y' * 100}" for number in range(300))
    ).partition(b"\r\n\r\n")
    for at in range(0, len(head), 1000):
        connection.sendall(head[at : at + 1000])
        time.sleep(0.001)
    connection.sendall(b"\r\n\r\n" + body)
    assert answers.next() == (200, {"a": 1})


def test_a_client_that_stops_in_the_middle(server: ServerProcess) -> None:
    request = post({"a": 1}, "X-More: y")
    for end in range(1, len(request), 5):
        connection = server.connect()
        connection.sendall(request[:end])
        connection.close()
    assert server.call({"a": 1}).json == {"a": 1}


def test_a_refused_body_is_read_to_its_end(connection: socket.socket, answers: Answers) -> None:
    """A client that sends on while it is refused would see a broken connection otherwise."""
    body = b" " * (12 * 2**20)
    connection.sendall(post(body))
    assert answers.next()[0] == 413
    connection.sendall(post({"a": 1}))
    assert answers.next() == (200, {"a": 1})


def test_many_clients_at_once(server: ServerProcess) -> None:
    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            for turn in range(20):
                value = {"client": number, "turn": turn, "text": "x" * (number * turn * 10)}
                connection.request("POST", "/", json.dumps(value))
                assert json.loads(connection.getresponse().read()) == value
        finally:
            connection.close()

    with ThreadPoolExecutor(16) as clients:
        for _ in clients.map(client, range(32)):
            pass
    assert threading.active_count() < 100


def test_access_lines(tmp_path: Path) -> None:
    env = {"ACCESS_LOG": "true", "LOG_FORMAT": "json"}
    with serving(tmp_path, HANDLER, ready=False, **env) as server:
        server.call({"a": 1})
        server.call(b"{")
        server.call(method="GET", path="/no%0Awhere?x=1")
        assert server.stop() == 0
        lines = [each["msg"].rsplit(" ", 2)[0] for each in server.log()]
        assert lines == ["POST / 200", "POST / 400", r"GET /no\nwhere 404"]
        assert all(each["path"] == "access" for each in server.log())


def test_no_access_lines_unless_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, HANDLER) as server:
        server.call({"a": 1})
        assert server.stop() == 0
        assert server.stdout == ""
