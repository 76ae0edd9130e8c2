"""Bad input and faults, one after the other, on one server that must live through all of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess, serving, until

HANDLER = """
import asyncio, atexit, gc, os, signal, sys, threading, time, warnings
import fnship


class Ends(BaseException):
    pass


class Nasty(Exception):
    def __str__(self):
        raise ValueError("even my text")

    __repr__ = __str__


def act(request):
    do = request.get("do")
    if do == "exit":
        sys.exit(request.get("status"))
    if do == "exit text":
        sys.exit("bye")
    if do == "quit":
        quit()
    if do == "interrupt":
        raise KeyboardInterrupt
    if do == "system exit":
        raise SystemExit
    if do == "base":
        raise Ends("all")
    if do == "stop":
        raise StopIteration("x")
    if do == "stop async":
        raise StopAsyncIteration
    if do == "generator exit":
        raise GeneratorExit
    if do == "nasty":
        raise Nasty
    if do == "memory":
        raise MemoryError
    if do == "group":
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("x")])
    if do == "recursion":
        return act(request)
    if do == "cause":
        try:
            1 / 0
        except ZeroDivisionError as exc:
            raise RuntimeError("caused") from exc
    if do == "task":
        return asyncio.get_running_loop().create_task(fails())
    if do == "thread":
        threading.Thread(target=sys.exit, args=(3,)).start()
    if do == "print to nowhere":
        print("x" * 100_000)
    return {"pid": os.getpid()}


async def fails():
    raise KeyError("in a task")


async def handle(logger, request):
    result = act(request)
    if isinstance(result, asyncio.Task):
        await result
    return result


def plain(logger, request):
    return act(request)
"""
ACTS = [
    {"do": "exit"},
    {"do": "exit", "status": 0},
    {"do": "exit", "status": 7},
    {"do": "exit text"},
    {"do": "quit"},
    {"do": "interrupt"},
    {"do": "system exit"},
    {"do": "base"},
    {"do": "stop"},
    {"do": "stop async"},
    {"do": "generator exit"},
    {"do": "nasty"},
    {"do": "memory"},
    {"do": "group"},
    {"do": "recursion"},
    {"do": "cause"},
]


@pytest.fixture(scope="module", params=["handle", "plain"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    target = f"function.handler:{request.param}"
    folder = tmp_path_factory.mktemp("faults")
    with serving(folder, HANDLER, limit=600, FUNCTION_TARGET=target, MAX_WORKERS="2") as server:
        pid = server.call({}).json["pid"]
        yield server
        assert server.call({}).json["pid"] == pid == server.process.pid
        assert server.stop() == 0
        assert "never retrieved" not in server.stdout + server.stderr
        assert "fnship failed" not in server.stdout


@pytest.mark.parametrize("act", ACTS, ids=lambda act: "-".join(map(str, act.values())))
@pytest.mark.parametrize("timeout", [None, "1h"])
def test_whatever_a_handler_raises(
    server: ServerProcess, act: dict[str, object], timeout: str | None
) -> None:
    for _ in range(3):  # more often than there are threads
        reply = server.call(act, {"X-Timeout": timeout} if timeout else None)
        assert reply.status == 500
        assert reply.headers["content-type"] == "application/json"
        assert set(reply.json) == {"error_code", "message", "stack_trace"}
        assert reply.json["error_code"] == 2
        assert reply.json["message"]
        assert not reply.json["message"].startswith("fnship failed")
        assert reply.json["stack_trace"]
    assert server.call({}).status == 200


def test_a_task_of_the_handlers_that_fails(server: ServerProcess) -> None:
    reply = server.call({"do": "task"})
    assert reply.status == 500
    assert reply.json["error_code"] == 2


def test_a_thread_of_the_handlers_that_exits(server: ServerProcess) -> None:
    assert server.call({"do": "thread"}).status == 200
    assert server.call({}).status == 200


BODIES = [
    b"[" * 10_000,
    b'{"a":' * 10_000,
    b'"' + b"\\u0000" * 100_000,
    b"\xff" * 1000,
    b"\x00" * 1000,
    b"[1]",
    b'{"a":' + b"9" * 100_000 + b"}",
    b'{"a":1e99999}',
    b"\xef\xbb\xbf" * 10_000,
    b'{"a": "' + b"\xed\xa0\x80" + b'"}',
    b"<?xml version='1.0'?>",
    b"a=1&b=2",
    b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_whatever_a_client_sends(server: ServerProcess, body: bytes) -> None:
    reply = server.call(body)
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json) == {"error_code", "message"}
    assert server.call({}).status == 200


def test_eleven_mebibytes(server: ServerProcess) -> None:
    for _ in range(3):
        assert server.call(b" " * (11 * 2**20)).status == 413
    assert server.call({}).status == 200


def test_clients_that_go_away_anywhere(server: ServerProcess) -> None:
    request = b'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n{"do": "recursion"} '
    for end in range(0, len(request) + 1, 7):
        for reset in (False, True):
            connection = server.connect()
            if reset:  # a RST instead of a FIN
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.sendall(request[:end])
            connection.close()
    assert server.call({}).status == 200


def test_many_connections_that_say_nothing(server: ServerProcess) -> None:
    idle = [server.connect() for _ in range(200)]
    try:
        assert server.call({}).status == 200
    finally:
        for each in idle:
            each.close()


def test_a_reader_of_the_log_that_goes_away(tmp_path: Path) -> None:
    """A function outlives whoever reads its stdout."""
    main = (
        "import os\nfrom fnship import serve\n"
        "reading, writing = os.pipe()\nos.dup2(writing, 1)\nos.close(reading)\nos.close(writing)\n"
        "serve()\n"
    )
    with serving(tmp_path, {"main.py": main, "function/handler.py": HANDLER}) as server:
        for _ in range(3):
            assert server.call({"do": "print to nowhere"}).status == 200
            assert server.call({"do": "cause"}).status == 500
        assert server.stop() == 0


def test_a_client_that_reads_slowly_gets_all_of_it(tmp_path: Path) -> None:
    handler = "def handle(logger, request):\n    return {'long': 'x' * 20_000_000}\n"
    with serving(tmp_path, handler) as server:
        with server.connect() as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            until(lambda: server.call({}).status == 200, "another answer")
            received = 0
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
        assert received > 20_000_000
        assert server.stop() == 0
