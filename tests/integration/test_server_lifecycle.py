"""start(), ready(), alive() and stop() beside the handler."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import signal
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from server_process import serving, until

from fnship.function.handler import inspect_handler
from fnship.server.app import App
from fnship.server.asgi import ASGIFunction
from fnship.server.exchange import Exchange
from fnship.settings import Settings

# As a process

GATED = """
import asyncio, os, pathlib, time

HERE = pathlib.Path.cwd()
seen = {}


def note(word):
    with (HERE / "notes.txt").open("a") as file:
        file.write(f"{word}\\n")


%(start)s


%(stop)s


def handle(logger, request):
    return {"seen": seen}
"""
STARTS = {
    "plain": """
def start(config):
    note("starting")
    while not (HERE / "start.gate").exists():
        time.sleep(0.01)
    seen["config"] = config["MY_VARIABLE"]
""",
    "async": """
async def start(config):
    note("starting")
    while not (HERE / "start.gate").exists():
        await asyncio.sleep(0.01)
    seen["config"] = config["MY_VARIABLE"]
""",
    "without argument": """
def start():
    note("starting")
    while not (HERE / "start.gate").exists():
        time.sleep(0.01)
    seen["config"] = os.environ["MY_VARIABLE"]
""",
}
STOPS = {
    "plain": "def stop():\n    time.sleep(0.05)\n    note('stopped')\n",
    "async": "async def stop():\n    await asyncio.sleep(0.05)\n    note('stopped')\n",
}


@pytest.mark.parametrize(
    ("start", "stop", "workers"),
    [("plain", "async", "1"), ("async", "plain", "1"), ("without argument", "plain", "2")],
)
def test_the_life_of_a_function(tmp_path: Path, start: str, stop: str, workers: str) -> None:
    handler = GATED % {"start": STARTS[start], "stop": STOPS[stop]}
    env = {"MY_VARIABLE": "mine", "GUNICORN_WORKERS": workers}
    with serving(tmp_path, handler, ready=False, **env) as server:
        notes = tmp_path / "notes.txt"

        def noted() -> list[str]:
            return notes.read_text().split() if notes.exists() else []

        until(lambda: noted() == ["starting"] * int(workers), "start()")
        ready = server.ready()
        assert ready.status == 503
        assert ready.json == {"status": "not ready", "reason": "starting"}
        assert ready.headers["content-type"] == "application/json"
        early = server.call({})
        assert (early.status, early.json["error_code"]) == (503, 3)
        assert "the function is starting" in early.json["message"]
        assert server.call(method="GET", path="/_/health").status == 200

        (tmp_path / "start.gate").touch()
        server.wait_until_ready()
        until(lambda: server.call({}).status == 200, "the function")
        reply = until(lambda: _found(server.call({})), "start() in every worker")
        assert reply == {"seen": {"config": "mine"}}
        assert noted() == ["starting"] * int(workers)

        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert noted() == ["starting"] * int(workers) + ["stopped"] * int(workers)


DEAF = """
import asyncio, pathlib


async def start():
    pathlib.Path("started").touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


async def handle(logger, request):
    return {}
"""


@pytest.mark.parametrize("kind", ["asgi", "fastapi"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_that_takes_no_notice_of_being_cancelled(
    tmp_path: Path, workers: str, kind: str
) -> None:
    env = {"GUNICORN_WORKERS": workers, "FUNCTION_SERVER": kind}
    with serving(tmp_path, DEAF, ready=False, **env) as server:
        until((tmp_path / "started").exists, "start()")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "the process ends without it" in server.stderr


def _found(reply: Any) -> Any:
    return reply.json if reply.status == 200 else None


def test_stop_that_raises(tmp_path: Path) -> None:
    handler = "def stop():\n    1 / 0\ndef handle(logger, request):\n    return {}\n"
    with serving(tmp_path, handler) as server:
        assert server.stop() == 0
        assert "stop() failed: ZeroDivisionError: division by zero" in server.stdout


# In this process


def function(*functions: Callable[..., Any], **settings: Any) -> ASGIFunction:
    """A function whose module holds `functions` by their names."""

    def handle(logger: Any, request: Any) -> Any:
        return {}

    module = ModuleType(__name__)
    for each in functions:
        setattr(module, each.__name__, each)
    return ASGIFunction(
        inspect_handler(handle, module=module), Settings(**settings), environ={"A": "1"}
    )


def running(
    scenario: Callable[[App], Coroutine[Any, Any, None]], *functions: Callable[..., Any]
) -> None:
    async def run() -> None:
        served = function(*functions)
        async with asyncio.timeout(30):
            await served.startup()
            assert served.app is not None
            try:
                await scenario(served.app)
            finally:
                await served.shutdown()

    asyncio.run(run())


async def call(app: App) -> int:
    return (await app.respond(Exchange("POST", "/", [], b"{}"))).status


def test_without_any() -> None:
    async def scenario(app: App) -> None:
        assert await app.ready() == (200, b'{"status":"ready"}', ())
        assert await app.alive() == (200, b'{"status":"healthy"}', ())
        assert await call(app) == 200

    running(scenario)


def test_the_config_cannot_be_changed() -> None:
    def start(config: Any) -> None:
        assert dict(config) == {"A": "1"}
        with pytest.raises(TypeError):
            config["A"] = "2"

    async def scenario(app: App) -> None:
        assert (await app.ready()).status == 200

    running(scenario, start)


class Ends(BaseException):
    pass


def raises(error: BaseException) -> Callable[[], Any]:
    def check() -> None:
        raise error

    return check


async def says_no() -> tuple[bool, str]:
    return False, "the database is away"


@pytest.mark.parametrize("name", ["ready", "alive"])
@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (lambda: True, None),
        (lambda: (True, "all is well"), None),
        (lambda: 1, None),
        (lambda: False, "{}() says no"),
        (lambda: None, "{}() says no"),
        (lambda: (False, ""), "{}() says no"),
        (lambda: (False, "the database is away"), "the database is away"),
        (lambda: (False, 503), "503"),
        (says_no, "the database is away"),
        (lambda: says_no(), "the database is away"),
        (raises(ZeroDivisionError("by zero")), "{}() raised ZeroDivisionError: by zero"),
        (raises(SystemExit(3)), "{}() raised SystemExit: 3"),
        (raises(KeyboardInterrupt()), "{}() raised KeyboardInterrupt"),
        (raises(Ends("all")), "{}() raised Ends: all"),
        (raises(StopIteration("over")), "{}() raised .*StopIteration: over"),
        (lambda: (1, 2, 3), "{}() .*"),
    ],
)
def test_checks(name: str, check: Callable[[], Any], reason: str | None) -> None:
    check_ = _named(check, name)

    async def scenario(app: App) -> None:
        path = {"ready": "/_/ready", "alive": "/_/health"}[name]
        response = await app.respond(Exchange("GET", path, [], b""))
        if reason is None:
            assert response.status == 200
        else:
            answer = json.loads(response.body)
            assert response.status == 503
            assert answer["status"] == "not ready"
            expected = re.escape(reason.format(name)).replace(r"\.\*", ".*")
            assert re.fullmatch(expected + "(: )?", answer["reason"]), answer
        # The other check and the function do not care.
        other = {"ready": "/_/health", "alive": "/_/ready"}[name]
        assert (await app.respond(Exchange("GET", other, [], b""))).status == 200
        assert await call(app) == 200

    running(scenario, check_)


def _named(check: Callable[[], Any], name: str) -> Callable[[], Any]:
    if inspect.iscoroutinefunction(check):

        async def asynchronous() -> Any:
            return await check()

        asynchronous.__name__ = name
        return asynchronous

    def plain() -> Any:
        return check()

    plain.__name__ = name
    return plain


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_check_that_hangs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says no in the end, and starves neither the other check nor stop()."""
    monkeypatch.setattr("fnship.server.app._CHECK_SECONDS", 0.05)
    held = threading.Event()
    stopped: list[str] = []

    def ready() -> bool:
        held.wait(30)
        return True

    async def ready_async() -> bool:
        await asyncio.Event().wait()
        return True

    ready_async.__name__ = "ready"

    def alive() -> bool:
        return True

    def stop() -> None:
        stopped.append("stopped")

    async def scenario(app: App) -> None:
        for _ in range(3):
            answers = await asyncio.gather(*(app.ready() for _ in range(4)))
            assert {each.status for each in answers} == {503}
        assert await call(app) == 200
        alive_ = await app.alive()
        assert alive_.status == 200, alive_.body

    try:
        running(scenario, ready if kind == "plain" else ready_async, alive, stop)
    finally:
        held.set()
    assert stopped == ["stopped"]


def test_ready_says_no_while_draining() -> None:
    async def scenario(app: App) -> None:
        app.drain()
        assert await app.ready() == (
            503,
            b'{"status":"not ready","reason":"draining"}',
            (),
        )
        assert (await app.alive()).status == 200
        assert await call(app) == 200

    running(scenario)


def test_a_drain_while_it_starts() -> None:
    async def run() -> None:
        gate = asyncio.Event()

        async def start() -> None:
            await gate.wait()

        served = function(start)
        served.open()
        starting = asyncio.create_task(served.startup())
        await asyncio.sleep(0)
        assert served.app is not None
        served.app.drain()
        gate.set()
        await starting
        assert (await served.app.ready()).body == b'{"status":"not ready","reason":"draining"}'
        await served.shutdown()

    asyncio.run(run())


def test_start_that_raises_reaches_the_server() -> None:
    def start() -> None:
        raise LookupError("no database")

    async def run() -> None:
        served = function(start)
        with pytest.raises(LookupError, match="no database"):
            await served.startup()
        await served.shutdown()

    asyncio.run(run())


def test_lifecycle_functions_do_not_hold_up_the_loop() -> None:
    held = threading.Event()

    def start() -> None:
        held.wait(30)

    async def run() -> None:
        served = function(start)
        starting = asyncio.create_task(served.startup())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not starting.done()
        assert served.app is not None
        assert (await served.app.ready()).status == 503
        held.set()
        await starting
        assert (await served.app.ready()).status == 200
        await served.shutdown()

    asyncio.run(run())


def test_closing_leaves_no_thread() -> None:
    async def scenario(app: App) -> None:
        assert await call(app) == 200
        assert any(each.name.startswith("fnship") for each in threading.enumerate())

    running(scenario, _named(lambda: True, "ready"))
    until(
        lambda: not any(each.name.startswith("fnship") for each in threading.enumerate()),
        "the end of the threads",
    )
