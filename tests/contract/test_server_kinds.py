"""Every kind of server keeps the contract: the wire, the logs, readiness and the end.

What `test_invocation_wire` asks of the default server is asked here of the Flask-era one and of
FastAPI, each under our own processes and under a server that is not ours. The rest is asked of
all of them, the default one included.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import test_invocation_wire as wire
from server_process import (
    Reply,
    ServerProcess,
    ended,
    launched,
    serving,
    until,
    write_function,
)

from fnship.testing import Engine

# Under servers that are not ours

GUNICORN = """
import os, socket, sys

listener = socket.create_server(("127.0.0.1", 0))
listener.set_inheritable(True)
print(f"fnship: serving it on http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
sys.stderr.flush()
command = ["-m", "gunicorn", "--bind", f"fd://{listener.fileno()}", "--threads", "4"]
command += ["--log-level", "warning", "--no-control-socket", "application:app"]
os.execv(sys.executable, [sys.executable, *command])
"""
UVICORN = """
import socket, sys
import uvicorn
from application import app

listener = socket.create_server(("127.0.0.1", 0))
print(f"fnship: serving it on http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[listener])
"""
APPLICATION = "from fnship.server.%s import create_app\n\napp = create_app('function.handler:%s')\n"

ASGI = {"FUNCTION_SERVER": "asgi"}
FLASK = {"FUNCTION_SERVER": "flask", "GUNICORN_THREADS": "8"}
FASTAPI = {"FUNCTION_SERVER": "fastapi"}
TWO = {"GUNICORN_WORKERS": "2"}
OURS: dict[str, dict[str, str]] = {
    "asgi": ASGI,
    "asgi, two processes": {**ASGI, **TWO},
    "flask": FLASK,
    "flask, two processes": {**FLASK, **TWO},
    "fastapi": FASTAPI,
    "fastapi, two processes": {**FASTAPI, **TWO},
}
FOREIGN = {
    "asgi, uvicorn": ("asgi", UVICORN),
    "flask, gunicorn": ("wsgi", GUNICORN),
    "fastapi, uvicorn": ("fastapi", UVICORN),
}
ALL = [*OURS, *FOREIGN]


@contextmanager
def served(
    kind: str,
    folder: Path,
    files: dict[str, str],
    handler: str = "handle",
    **more: Any,
) -> Iterator[ServerProcess]:
    """Serve a function by this kind of server."""
    if kind in OURS:
        env = {**OURS[kind], "FUNCTION_TARGET": f"function.handler:{handler}", **more}
    else:
        module, main = FOREIGN[kind]
        files = {**files, "main.py": main, "application.py": APPLICATION % (module, handler)}
        env = more
    with serving(folder, files, **env) as server:
        yield server


# The wire: the cases of the default server, for the others


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ServerProcess]]:
    """Start a server when the first test asks for it, and keep it for the others."""
    servers: dict[str, ServerProcess] = {}
    with contextlib.ExitStack() as stack:

        def get(kind: str) -> ServerProcess:
            if kind not in servers:
                handler = "plain" if "two" in kind else "handle"
                folder = tmp_path_factory.mktemp("front")
                context = served(kind, folder, wire.FILES, handler, limit=600)
                servers[kind] = stack.enter_context(context)
            return servers[kind]

        yield get


@pytest.fixture(params=[each for each in ALL if not each.startswith("asgi")])
def server(front: Callable[[str], ServerProcess], request: pytest.FixtureRequest) -> ServerProcess:
    return front(request.param)


for _name, _test in vars(wire).copy().items():
    if _name.startswith("test_") and "server" in inspect.signature(_test).parameters:
        globals()[_name] = _test


@pytest.fixture(params=[each for each in OURS if not each.startswith("asgi")])
def our_server(
    front: Callable[[str], ServerProcess], request: pytest.FixtureRequest
) -> ServerProcess:
    return front(request.param)


def test_a_header_of_60_kib_is_taken(our_server: ServerProcess) -> None:
    headers = {"X-Large": "x" * 60 * 1024, "X-Project-ID": "p1"}
    assert our_server.call({}, headers).json["metadata"]["projectID"] == "p1"


def test_a_header_of_more_than_64_kib_is_refused(our_server: ServerProcess) -> None:
    reply = our_server.call({}, {"X-Large": "x" * 65 * 1024})
    assert reply.status == 431
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["error_code"] == 2
    assert "65536 bytes" in reply.json["message"]
    assert our_server.call({"a": 1}).json["a"] == 1


def test_what_is_no_http_is_refused_in_json(our_server: ServerProcess) -> None:
    with our_server.connect() as connection, connection.makefile("rb") as answer:
        connection.sendall(b"nonsense\r\n\r\n")
        head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"content-type: application/json" in head.lower()
    assert body == b'{"error_code":2,"message":"this is not a valid HTTP/1.1 request"}'


# Logs, readiness and the end: of every kind

HANDLER = """
import asyncio, logging, os, time
from pathlib import Path

import fnship

HERE = Path.cwd()


def start(config):
    while (HERE / "start.shut").exists():
        time.sleep(0.01)


def ready():
    return not (HERE / "ready.no").exists(), "out of order"


def stop():
    (HERE / "stopped").touch()


def talk(logger, request):
    logger.info("one of %s", request["n"])
    logging.getLogger("a.library").warning("two")
    print("three")
    return {"activity": fnship.current().activity_id}


async def handle(logger, request):
    await asyncio.sleep(0)
    return talk(logger, request)


def plain(logger, request):
    return talk(logger, request)


def begin(request):
    if "name" in request:
        (HERE / f"{request['name']}.started").touch()
    return HERE / f"{request.get('name')}.gate"


async def wait(logger, request):
    gate = begin(request)
    while request.get("wait") and not gate.exists():
        await asyncio.sleep(0.01)
    logger.info("done")
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
    gate = begin(request)
    while request.get("wait") and not gate.exists():
        time.sleep(0.01)
    return {"pid": os.getpid()}
"""
FILES = {"function/handler.py": HANDLER}


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


def until_nobody_listens(server: ServerProcess) -> None:
    def refused() -> bool:
        try:
            server.connect().close()
        except ConnectionError:
            return True
        return False

    try:
        until(refused, "the end of listening")
    except AssertionError as exc:
        raise AssertionError(f"{exc}; {processes(server)}; {server.stderr[-1000:]}") from None


def processes(server: ServerProcess) -> str:
    """What the processes of a server are doing, for whoever has to find out why they do not end."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(status.parent.name)) == server.process.pid:
                lines = status.read_text().splitlines()
                found.append([line for line in lines if line.startswith(("Pid", "State", "Sig"))])
    return repr(found)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("kind", ALL)
def test_the_lines_of_an_activity_reach_the_engine(tmp_path: Path, kind: str) -> None:
    handler = "plain" if "," in kind else "handle"
    with Engine() as engine, served(kind, tmp_path, FILES, handler, LOG_FLUSH_WAIT="10s") as server:

        def call(number: int) -> None:
            reply = server.call({"n": number}, engine.headers(activity_id=f"a{number}"))
            assert reply.json == {"data": {"activity": f"a{number}"}}
            # All of them are there before the answer is.
            messages = [line.partition("msg=")[2] for line in engine.lines(f"a{number}")]
            assert messages == [f"one of {number}", "two", "three"]

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(call, range(20)))
        assert "environment_name=dev environment_id=e1 activity_id=a7 msg=two" in server.stdout
        assert "Traceback" not in server.stderr + server.stdout


@pytest.mark.parametrize("kind", OURS)
def test_ready_tells_the_truth(tmp_path: Path, kind: str) -> None:
    (tmp_path / "start.shut").touch()
    with served(kind, tmp_path, FILES, ready=False) as server:
        starting = server.ready()
        assert (starting.status, starting.json["reason"]) == (503, "starting")
        call = server.call({"n": 1})
        assert (call.status, call.json["error_code"]) == (503, 3)
        (tmp_path / "start.shut").unlink()
        server.wait_until_ready()
        until(lambda: server.call({"n": 1}).status == 200, "every process")
        (tmp_path / "ready.no").touch()
        answer = server.ready()
        assert (answer.status, answer.json["reason"]) == (503, "out of order")
        assert server.call(method="GET", path="/_/health").status == 200


@pytest.mark.parametrize("kind", ALL)
def test_sigterm_finishes_what_is_in_flight(tmp_path: Path, kind: str) -> None:
    with Engine() as engine, served(kind, tmp_path, FILES, "wait") as server:
        headers = engine.headers(activity_id="a1")
        with in_flight(server, "one", headers) as call:
            server.signal(signal.SIGTERM)
            if kind in OURS:
                until_nobody_listens(server)
            else:
                time.sleep(0.2)
            assert not call.done()
            (tmp_path / "one.gate").touch()
            assert call.result(30).status == 200
        # A bare uvicorn ends by the very signal.
        assert server.wait() == (-signal.SIGTERM if "uvicorn" in kind else 0)
        assert (tmp_path / "stopped").exists()
        assert [line.partition("msg=")[2] for line in engine.lines("a1")] == ["done"]
        assert "Traceback" not in server.stderr + server.stdout


@pytest.mark.parametrize("kind", [each for each in OURS if "two" in each])
def test_a_worker_that_no_signal_reaches_stops_all_the_same(tmp_path: Path, kind: str) -> None:
    blocked = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
    files = {"function/handler.py": blocked + HANDLER}
    with served(kind, tmp_path, files, "wait") as server, in_flight(server, "one") as call:
        server.signal(signal.SIGTERM)
        until_nobody_listens(server)
        assert not call.done()
        (tmp_path / "one.gate").touch()
        assert call.result(30).status == 200
        assert server.wait() == 0
        assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize("kind", [each for each in OURS if "two" in each])
def test_a_signal_that_ends_nothing_cuts_nothing_off(tmp_path: Path, kind: str) -> None:
    with served(kind, tmp_path, FILES, "wait") as server, in_flight(server, "one") as call:
        server.signal(signal.SIGTERM)
        until_nobody_listens(server)
        time.sleep(1.2)  # then a second signal would be taken for "now"
        server.signal(signal.SIGWINCH)  # such as of a terminal that changes its size
        time.sleep(0.3)
        assert not call.done()
        (tmp_path / "one.gate").touch()
        assert call.result(30).status == 200
        assert server.wait() == 0


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
def test_a_request_that_has_begun_to_arrive_is_answered(tmp_path: Path, kind: str) -> None:
    with (
        served(kind, tmp_path, FILES, "wait") as server,
        server.connect() as connection,
        connection.makefile("rb") as answer,
        server.connect(),  # and one on which nothing ever comes
    ):
        connection.sendall(b'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"n"')
        until(lambda: server.call({}).status == 200, "another call")
        server.signal(signal.SIGTERM)
        until_nobody_listens(server)
        connection.sendall(b": 1}\n")
        head, _, body = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in head.lower()
        assert body == b'{"pid":%d}' % server.process.pid
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("kind", "handler"),
    [
        ("flask", "wait"),
        ("flask", "deaf"),
        ("flask", "stubborn"),
        ("flask, two processes", "deaf"),
        ("fastapi", "wait"),
        ("fastapi", "deaf"),
        ("fastapi", "stubborn"),
        ("fastapi, two processes", "wait"),
    ],
)
def test_a_second_signal_ends_it(tmp_path: Path, kind: str, handler: str) -> None:
    with served(kind, tmp_path, FILES, handler) as server, in_flight(server, "one") as call:
        server.signal(signal.SIGTERM)
        until_nobody_listens(server)

        def signalled_and_ended() -> bool:
            if server.process.poll() is None:
                server.signal(signal.SIGTERM)
                time.sleep(0.2)
            return server.process.poll() is not None

        until(signalled_and_ended, "the end")
        try:
            reply = call.result(30)
        except OSError:
            assert handler == "stubborn"  # it was not even answered any more
        else:
            assert (reply.status, reply.json["error_code"]) == (503, 3)
            assert "the server is shutting down" in reply.json["message"]
        assert "Traceback" not in server.stderr + server.stdout


@pytest.mark.parametrize("kind", ["flask", "fastapi", *FOREIGN])
@pytest.mark.parametrize("handler", ["deaf", "stubborn"])
def test_a_deadline_is_answered_whatever_the_handler_does(
    tmp_path: Path, kind: str, handler: str
) -> None:
    with served(kind, tmp_path, FILES, handler) as server:
        reply = server.call({"wait": True}, {"X-Timeout": "100ms"})
        assert (reply.status, reply.json["error_code"]) == (504, 3)
        assert server.call({}).status == 200
        if kind in OURS:
            assert server.stop() == 0  # and it holds up nothing


@pytest.mark.parametrize("kind", ["flask", "flask, two processes", "fastapi"])
def test_behind_a_watchdog_it_serves_on(tmp_path: Path, kind: str) -> None:
    env = {"fprocess": "python main.py", "healthcheck_interval": "1"}
    with served(kind, tmp_path, FILES, "wait", **env) as server:
        statuses: list[int] = []

        def keep_calling() -> None:
            with contextlib.suppress(OSError):
                while True:
                    statuses.append(server.call({}).status)
                    time.sleep(0.02)

        server.signal(signal.SIGTERM)
        until(lambda: server.ready().status == 503, "the drain")
        with in_flight(server, "new") as new:
            caller = threading.Thread(target=keep_calling)
            caller.start()
            time.sleep(0.5)
            (tmp_path / "new.gate").touch()
            assert new.result(30).status == 200
        assert server.wait() == 0
        caller.join(30)
        assert len(statuses) > 10
        assert set(statuses) == {200}


@pytest.mark.parametrize("kind", OURS)
def test_a_start_that_fails_ends_it(tmp_path: Path, kind: str) -> None:
    handler = "def start():\n    raise LookupError('no database')\n\n\ndef handle(l, r): ...\n"
    end = ended(tmp_path, {"function/handler.py": handler}, **OURS[kind])
    assert "Traceback" not in end.stderr + end.stdout
    error, serving = sorted(end.stderr.splitlines())  # of two processes either may be the first
    assert serving.startswith("fnship: serving ")
    said = r"fnship: error: .*handler\.py:2: start\(\) failed with LookupError: no database"
    assert re.fullmatch(said, error)
    assert (end.status, end.stdout) == (2, "")


@pytest.mark.parametrize("kind", ["flask, two processes", "fastapi, two processes"])
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, kind: str) -> None:
    with served(kind, tmp_path, FILES, "deaf") as server:
        killed = server.call({}).json["pid"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: gone(killed), "its end")
        seen: set[int] = set()

        def two() -> bool:
            seen.add(server.call({}).json["pid"])
            return len(seen) == 2

        until(two, "the new one")
        assert killed not in seen
        assert server.stop() == 0
        assert all(map(gone, seen))


@pytest.mark.parametrize("kind", ["flask, two processes", "fastapi, two processes"])
def test_workers_do_not_outlive_a_master_that_is_killed(tmp_path: Path, kind: str) -> None:
    with served(kind, tmp_path, FILES, "deaf") as server:
        worker = server.call({}).json["pid"]
        server.signal(signal.SIGKILL)
        server.wait()
        until(lambda: gone(worker), "the worker's end")


# What one kind alone does


def test_the_flask_server_has_as_many_threads_as_it_is_told(tmp_path: Path) -> None:
    with (
        served("flask", tmp_path, FILES, "wait", GUNICORN_THREADS="2") as server,
        in_flight(server, "one") as one,
        in_flight(server, "two") as two,
        ThreadPoolExecutor(1) as threads,
    ):
        third = threads.submit(server.call, {"name": "three"})
        time.sleep(0.3)
        assert not (tmp_path / "three.started").exists()
        (tmp_path / "one.gate").touch()
        assert [each.result(30).status for each in (one, third)] == [200, 200]
        assert not two.done()


def test_the_flask_server_is_not_its_own_watchdog(tmp_path: Path) -> None:
    end = ended(tmp_path, FILES, **FLASK, WATCHDOG="native")
    end.assert_mistake("WATCHDOG=native")


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("kind", ["fastapi", "wsgi"])
def test_serve_takes_an_application(tmp_path: Path, kind: str, workers: str) -> None:
    main = f"""
from fnship import serve
from fnship.server.{kind} import create_app

app = create_app("function.handler:plain")


@app.get("/version")
def version():
    return {{"version": "1"}}


serve(app)
"""
    env = {"GUNICORN_WORKERS": workers}
    with serving(tmp_path, {**FILES, "main.py": main}, **env) as server:
        assert "serving function.handler:plain on" in server.stderr
        assert server.call({"n": 1}).json == {"activity": None}
        version = server.call(method="GET", path="/version")
        assert (version.status, version.json) == (200, {"version": "1"})
        assert server.stop() == 0
        assert (tmp_path / "stopped").exists()


def test_a_flask_route_that_exits_takes_nobody_with_it(tmp_path: Path) -> None:
    main = """
import sys

from fnship import serve
from fnship.server.wsgi import create_app

app = create_app("function.handler:plain")


@app.get("/leave")
def leave():
    sys.exit(3)


@app.get("/header")
def header():
    return "", 200, {"X-Broken": "a\\x00b"}


serve(app)
"""
    with serving(tmp_path, {**FILES, "main.py": main}) as server:
        for path in ("/leave", "/header"):
            left = server.call(method="GET", path=path)
            assert (left.status, left.json["error_code"]) == (500, 2)
        assert server.call({"n": 1}).status == 200
        assert "SystemExit in a route" in server.stderr
        assert server.stop() == 0


@pytest.mark.parametrize("kind", ["fastapi", "fastapi, two processes"])
def test_fastapi_cancels_for_a_client_that_goes_away(tmp_path: Path, kind: str) -> None:
    handler = """
import asyncio
from pathlib import Path


async def handle(logger, request):
    Path("started").touch()
    try:
        await asyncio.sleep(600)
    finally:
        Path("cancelled").touch()
"""
    with served(kind, tmp_path, {"function/handler.py": handler}, ACCESS_LOG="true") as server:
        with server.send_and_close({}):
            until((tmp_path / "started").exists, "the handler")
        until((tmp_path / "cancelled").exists, "the cancellation")
        until(lambda: re.search(r"msg=POST / 499 ", server.stdout), "the access line")
        assert server.stop() == 0


LIFESPAN = """
import contextlib
from pathlib import Path

from fnship import serve
from fnship.server.fastapi import create_app


def note(word):
    with Path("notes.txt").open("a") as file:
        file.write(f"{word}\\n")


@contextlib.asynccontextmanager
async def lifespan(app):
    note("begin")
    %s
    yield {"key": "value"}
    note("end")


def start():
    note("start")


def stop():
    note("stop")


def handle(logger, request):
    return {}


app = create_app(handle, lifespan=lifespan)


@app.get("/state")
def state(request: Request):
    return request.state.key


if __name__ == "__main__":
    serve(app)
"""


def test_a_lifespan_of_ones_own(tmp_path: Path) -> None:
    main = "from fastapi import Request\n" + LIFESPAN % ""
    with serving(tmp_path, {"main.py": main}) as server:
        assert server.call(method="GET", path="/state").json == "value"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        notes = (tmp_path / "notes.txt").read_text().split()
        assert notes == ["begin", "start", "stop", "end"]
        assert "Traceback" not in server.stderr + server.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_lifespan_that_does_not_begin(tmp_path: Path, workers: str) -> None:
    wait = "import asyncio; await asyncio.sleep(600)"
    main = "from fastapi import Request\n" + LIFESPAN % wait
    files = {"main.py": main}
    write_function(tmp_path, files)
    with launched(tmp_path, GUNICORN_WORKERS=workers) as server:
        until((tmp_path / "notes.txt").exists, "the lifespan")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.stderr == server.stdout == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_lifespan_that_fails(tmp_path: Path, workers: str) -> None:
    main = "from fastapi import Request\n" + LIFESPAN % "raise LookupError('no key')"
    end = ended(tmp_path, {"main.py": main}, GUNICORN_WORKERS=workers)
    end.assert_mistake(r"main\.py:18: the application's lifespan failed with LookupError: no key")
