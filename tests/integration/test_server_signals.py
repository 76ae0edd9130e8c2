"""How a server ends: what is in flight is finished, and nothing keeps it for ever."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server_process import Reply, ServerProcess, serving, until

HANDLER = """
import asyncio, os, pathlib, time
import fnship

HERE = pathlib.Path.cwd()


def begin(request):
    name = request.get("name", "")
    if name:
        (HERE / f"{name}.started").touch()
    return HERE / f"{name}.gate"


async def handle(logger, request):
    gate = begin(request)
    while request.get("wait") and not gate.exists():
        await asyncio.sleep(0.01)
    return {"pid": os.getpid()}


def plain(logger, request):
    gate = begin(request)
    while request.get("wait") and not gate.exists():
        time.sleep(0.01)
    return {"pid": os.getpid()}


async def stubborn(logger, request):
    begin(request)
    while request.get("wait"):
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass
    return {}


def deaf(logger, request):
    begin(request)
    while request.get("wait"):
        time.sleep(0.01)
    return {}
"""
WATCHDOG = {"fprocess": "python main.py", "healthcheck_interval": "1"}


@pytest.fixture(params=["1", "2"], ids=["one process", "two processes"])
def workers(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def function(folder: Path, handler: str = "handle", **env: str) -> Iterator[ServerProcess]:
    with serving(folder, HANDLER, FUNCTION_TARGET=f"function.handler:{handler}", **env) as server:
        yield server


@contextmanager
def in_flight(
    server: ServerProcess, name: str, headers: dict[str, str] | None = None
) -> Iterator[Future[Reply]]:
    """A call that is being handled, until the file NAME.gate is there where that is heeded."""
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(server.call, {"name": name, "wait": True}, headers)
        try:
            until((server.folder / f"{name}.started").exists, "the handler")
            yield call
        finally:
            (server.folder / f"{name}.gate").touch()
            server.process.poll()


def until_nobody_listens(server: ServerProcess) -> None:
    def refused() -> bool:
        try:
            server.connect().close()
        except ConnectionError:
            return True
        return False

    until(refused, "the end of listening")


def pids(server: ServerProcess, count: int) -> set[int]:
    """The processes that answer, once there are so many."""
    seen: set[int] = set()

    def enough() -> bool:
        seen.add(server.call({}).json["pid"])
        return len(seen) >= count

    until(enough, f"{count} processes")
    return seen


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("number", "handler"),
    [
        (signal.SIGTERM, "handle"),
        (signal.SIGTERM, "plain"),
        (signal.SIGINT, "handle"),
        (signal.SIGHUP, "handle"),
    ],
)
def test_what_is_in_flight_is_finished(
    tmp_path: Path, number: signal.Signals, handler: str, workers: str
) -> None:
    with (
        function(tmp_path, handler, GUNICORN_WORKERS=workers) as server,
        in_flight(server, "one") as one,
        in_flight(server, "two") as two,
    ):
        answering = pids(server, int(workers))
        server.signal(number)
        until_nobody_listens(server)
        assert server.process.poll() is None
        (server.folder / "one.gate").touch()
        assert one.result(30).status == 200
        assert not two.done()
        (server.folder / "two.gate").touch()
        assert two.result(30).status == 200
        assert server.wait() == 0
        assert all(map(gone, answering))


def test_it_says_what_it_waits_for(tmp_path: Path) -> None:
    with function(tmp_path) as server, in_flight(server, "one") as call:
        server.signal(signal.SIGTERM)
        until(lambda: "waiting for 1 requests to end" in server.stderr, "what it waits for")
        (server.folder / "one.gate").touch()
        assert call.result(30).status == 200
        assert server.wait() == 0


def test_an_idle_connection_holds_nothing_up(tmp_path: Path, workers: str) -> None:
    with function(tmp_path, GUNICORN_WORKERS=workers) as server, server.connect() as idle:
        idle.sendall(b"GET /_/ready HTTP/1.1\r\n\r\n")
        assert idle.recv(10000)
        assert server.stop() == 0
        assert idle.recv(100) == b""


def test_a_request_that_never_arrives_holds_nothing_up(tmp_path: Path) -> None:
    with function(tmp_path) as server, server.connect() as half:
        half.sendall(b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")
        server.call({})  # by now it has begun to arrive
        assert server.stop() == 0


def test_a_request_that_has_begun_to_arrive_is_answered(tmp_path: Path) -> None:
    with function(tmp_path) as server, server.connect() as half:
        half.sendall(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{")
        server.call({})
        server.signal(signal.SIGTERM)
        until_nobody_listens(server)
        half.sendall(b"}")
        answer = half.recv(10000)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer
        assert server.wait() == 0


@pytest.mark.parametrize(
    "start",
    ["def start():\n    time.sleep(600)\n", "async def start():\n    await asyncio.sleep(600)\n"],
)
def test_while_start_is_running(tmp_path: Path, start: str, workers: str) -> None:
    with serving(tmp_path, HANDLER + start, ready=False, GUNICORN_WORKERS=workers) as server:
        assert server.ready().status == 503
        assert server.stop() == 0
        assert "Traceback" not in server.stderr + server.stdout


# A handler that does not end


@pytest.mark.parametrize(
    ("handler", "workers"),
    [("handle", "1"), ("plain", "1"), ("stubborn", "2"), ("deaf", "1"), ("deaf", "2")],
)
def test_a_second_signal_ends_it(tmp_path: Path, handler: str, workers: str) -> None:
    with (
        function(tmp_path, handler, GUNICORN_WORKERS=workers) as server,
        in_flight(server, "one") as call,
    ):
        answering = {server.call({}).json.get("pid", server.process.pid)}
        server.signal(signal.SIGTERM)
        until_nobody_listens(server)
        # One that comes at once may be the same signal by another way: it is sent until heeded.
        until(lambda: _signalled_and_ended(server), "the end")
        try:
            reply = call.result(30)
        except (ConnectionError, OSError):
            pass  # it was not even answered any more
        else:
            assert (reply.status, reply.json["error_code"]) == (503, 3)
            assert "the server is shutting down" in reply.json["message"]
        assert all(map(gone, answering))
        assert "Traceback" not in server.stderr


def _signalled_and_ended(server: ServerProcess) -> bool:
    if server.process.poll() is None:
        server.signal(signal.SIGTERM)
        time.sleep(0.2)
    return server.process.poll() is not None


@pytest.mark.parametrize(("handler", "workers"), [("stubborn", "1"), ("deaf", "1"), ("deaf", "2")])
def test_a_handler_past_its_deadline_holds_nothing_up(
    tmp_path: Path, handler: str, workers: str
) -> None:
    with function(tmp_path, handler, GUNICORN_WORKERS=workers) as server:
        reply = server.call({"wait": True}, {"X-Timeout": "200ms"})
        assert (reply.status, reply.json["error_code"]) == (504, 3)
        assert server.call({}).status == 200
        assert server.stop() == 0


# Behind a watchdog, which goes on sending requests for a while


def test_behind_a_watchdog_it_serves_on(tmp_path: Path, workers: str) -> None:
    with function(tmp_path, GUNICORN_WORKERS=workers, **WATCHDOG) as server:
        ends: list[Any] = []
        with in_flight(server, "old") as old:
            server.signal(signal.SIGTERM)
            refusal = until(lambda: _refusal(server), "the drain")
            assert refusal == {"status": "not ready", "reason": "draining"}
            with in_flight(server, "new") as new:

                def keep_calling() -> None:
                    while True:
                        try:
                            ends.append(server.call({}).status)
                        except OSError:
                            return
                        time.sleep(0.02)

                caller = threading.Thread(target=keep_calling)
                caller.start()
                (server.folder / "old.gate").touch()
                assert old.result(30).status == 200
                time.sleep(0.5)
                (server.folder / "new.gate").touch()
                assert new.result(30).status == 200
            assert server.wait() == 0
            caller.join(30)
        assert len(ends) > 10
        assert set(ends) == {200}


def _refusal(server: ServerProcess) -> Any:
    reply = server.ready()
    return reply.json if reply.status == 503 else None


def test_behind_a_watchdog_it_ends_when_idle_and_not_before(tmp_path: Path) -> None:
    env = {**WATCHDOG, "healthcheck_interval": "0"}
    with function(tmp_path, **env) as server, in_flight(server, "one") as call:
        server.signal(signal.SIGTERM)
        time.sleep(2.5)  # the 2 s after which it would end, were it idle
        assert server.call({}).status == 200
        assert server.process.poll() is None
        (server.folder / "one.gate").touch()
        assert call.result(30).status == 200
        assert server.wait() == 0


def test_behind_a_watchdog_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    env = {**WATCHDOG, "healthcheck_interval": "600"}
    with function(tmp_path, **env) as server:
        server.signal(signal.SIGINT)
        assert server.wait() == 0


# Workers


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with function(tmp_path, GUNICORN_WORKERS="2") as server:
        before = pids(server, 2)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        until(lambda: gone(killed), "its end")
        # The other serves on, and soon there are two again.
        until(lambda: server.call({}).json["pid"] not in before, "the new one")
        assert killed not in pids(server, 2)
        assert server.stop() == 0


def test_a_worker_whose_replacement_does_not_start(tmp_path: Path) -> None:
    """The others serve on, and it keeps nobody from ending."""
    start = """
def start():
    while (HERE / "no.start").exists():
        time.sleep(0.01)
"""
    with serving(tmp_path, HANDLER + start, GUNICORN_WORKERS="2") as server:
        before = pids(server, 2)
        (tmp_path / "no.start").touch()
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        until(lambda: gone(killed), "its end")
        for _ in range(30):
            reply = server.call({})
            assert reply.status == 200
            assert {reply.json["pid"]} == before - {killed}
            time.sleep(0.01)
        assert server.stop() == 0


def test_all_workers_that_are_killed_are_replaced(tmp_path: Path) -> None:
    with function(tmp_path, GUNICORN_WORKERS="2") as server:
        before = pids(server, 2)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        # Calls wait in the socket's queue until a new worker takes them.
        assert not before & pids(server, 2)
        assert server.stop() == 0


def test_the_only_process_takes_the_server_with_it(tmp_path: Path) -> None:
    with function(tmp_path) as server:
        assert server.call({}).json["pid"] == server.process.pid
        server.signal(signal.SIGKILL)
        assert server.wait() != 0


def test_workers_do_not_outlive_a_master_that_is_killed(tmp_path: Path) -> None:
    with function(tmp_path, GUNICORN_WORKERS="2") as server:
        workers = pids(server, 2)
        server.signal(signal.SIGKILL)
        server.wait()
        until(lambda: all(map(gone, workers)), "the workers' end")
