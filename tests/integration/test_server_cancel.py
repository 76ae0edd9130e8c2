"""A client that goes away, a deadline that passes: what the handler learns, what is answered."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess, serving, until

import fnship
from fnship.function.handler import inspect_handler
from fnship.function.invocation import Cancelled
from fnship.server.app import App
from fnship.server.asgi import ASGIFunction
from fnship.server.exchange import Exchange, Response
from fnship.settings import Settings

PASSED = "function: transient error: the deadline passed before the function had ended"

# In a process, with clients that really go


HANDLER = """
import asyncio, functools, pathlib, time
import fnship

HERE = pathlib.Path.cwd()


def note(request, word):
    (HERE / f"{request['name']}.{word}").touch()


async def handle(logger, request):
    if "name" not in request:
        return {}
    note(request, "started")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        assert fnship.current().cancelled
        note(request, fnship.current().why_cancelled.name)
        raise


def plain(logger, request):
    if "name" not in request:
        return {}
    note(request, "started")
    while not fnship.current().cancelled:
        time.sleep(0.01)
    note(request, fnship.current().why_cancelled.name)


@functools.wraps(handle)
def wrapped(logger, request):
    return handle(logger, request)


async def in_a_thread(logger, request):
    return await asyncio.to_thread(plain, logger, request)


async def in_a_group(logger, request):
    if "name" not in request:
        return {}
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(600))
        await handle(logger, request)
"""


@contextmanager
def function(folder: Path, handler: str) -> Iterator[ServerProcess]:
    with serving(folder, HANDLER, FUNCTION_TARGET=f"function.handler:{handler}") as server:
        yield server


@pytest.mark.parametrize("handler", ["handle", "plain", "wrapped", "in_a_thread", "in_a_group"])
def test_a_client_that_goes_away(tmp_path: Path, handler: str) -> None:
    with function(tmp_path, handler) as server:

        def exists(name: str) -> Callable[[], bool]:
            return (tmp_path / name).exists

        for name, headers in (("bare", {}), ("limited", {"X-Timeout": "10m"})):
            with server.send_and_close({"name": name}, headers):
                until(exists(f"{name}.started"), "the handler")
            until(exists(f"{name}.CLIENT_GONE"), "the cancellation")
        # In the middle of its body nothing has started that could be cancelled.
        with server.connect() as connection:
            connection.sendall(b"POST / HTTP/1.1\r\ncontent-length: 99\r\n\r\n{" + b" " * 50)
        assert server.call({}).status == 200
        assert server.stop() == 0
        assert "Traceback" not in server.stdout + server.stderr


@pytest.mark.parametrize("handler", ["handle", "plain", "wrapped"])
def test_a_deadline_that_passes(tmp_path: Path, handler: str) -> None:
    with function(tmp_path, handler) as server:
        reply = server.call({"name": "late"}, {"X-Timeout": "100ms"})
        assert (reply.status, reply.json) == (504, {"error_code": 3, "message": PASSED})
        until((tmp_path / "late.DEADLINE").exists, "the cancellation")
        assert server.call({}).status == 200


def test_the_access_line_of_a_late_call(tmp_path: Path) -> None:
    handler = """
import asyncio, pathlib


async def handle(logger, request):
    while not pathlib.Path("gate").exists():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pathlib.Path(request["name"]).touch()
"""
    with serving(tmp_path, handler, ready=False, ACCESS_LOG="true") as server:
        server.wait_for_port()
        assert server.call({"name": "late"}, {"X-Timeout": "50ms"}).status == 504
        with server.send_and_close({"name": "gone"}):
            pass
        for name in ("late", "gone"):
            until((tmp_path / name).exists, "the cancellation")
        (tmp_path / "gate").touch()
        assert server.stop() == 0
        lines = [line.rpartition("msg=")[2].split()[:3] for line in server.lines()]
        assert sorted(lines) == [["POST", "/", "499"], ["POST", "/", "504"]]


# In this process


def served(
    handler: Callable[..., Any],
    *calls: dict[str, str],
    **settings: Any,
) -> list[Response]:
    """Call the handler with each set of headers, one after the other."""

    async def run() -> list[Response]:
        function = ASGIFunction(inspect_handler(handler), Settings(**settings), environ={})
        await function.startup()
        assert function.app is not None
        try:
            async with asyncio.timeout(30):
                return [await call(function.app, **each) for each in calls]
        finally:
            await function.shutdown()

    return asyncio.run(run())


async def call(app: App, **headers: str) -> Response:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return await app.respond(Exchange("POST", "/", raw, b"{}"))


def in_seconds(seconds: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)).isoformat()


async def forever(logger: Any, request: Any) -> Any:
    await asyncio.Event().wait()


async def at_once(logger: Any, request: Any) -> Any:
    await asyncio.sleep(0)
    return {"remaining": fnship.current().remaining is not None}


def plain(logger: Any, request: Any) -> Any:
    return {"remaining": fnship.current().remaining is not None}


def is_504(response: Response) -> bool:
    assert response.status == 504
    assert json.loads(response.body) == {"error_code": 3, "message": PASSED}
    return True


@pytest.mark.parametrize(
    ("headers", "settings"),
    [
        ({"x_timeout": "20ms"}, {}),
        ({"x_timeout": "20ms"}, {"exec_timeout": 0}),
        ({"x_timeout": "20ms"}, {"exec_timeout": 600}),
        ({"x_timeout": "1h"}, {"exec_timeout": 0.02}),
        ({"x_timeout": "nonsense"}, {"exec_timeout": 0.02}),
        ({}, {"exec_timeout": 0.02}),
        ({"x_activity_deadline": in_seconds(-5)}, {}),
        ({"x_activity_deadline": in_seconds(-5), "x_timeout": "1h"}, {"exec_timeout": 600}),
        ({"x_activity_deadline": "0001-01-01T00:00:00+12:00"}, {}),
        ({"x_timeout": "20ms"}, {"fprocess": "python main.py", "exec_timeout": 600}),
        ({"x_timeout": "20ms"}, {"fprocess": "python main.py"}),
        (
            {"x_activity_deadline": in_seconds(-5)},
            {"fprocess": "python main.py", "exec_timeout": 0},
        ),
    ],
    ids=range(12),
)
def test_limits(headers: dict[str, str], settings: dict[str, Any]) -> None:
    (response,) = served(forever, headers, **settings)
    assert is_504(response)


def test_a_deadline_in_the_near_future() -> None:
    async def handle(logger: Any, request: Any) -> Any:
        remaining = fnship.current().remaining
        assert remaining is not None
        assert remaining <= 0.1
        await asyncio.Event().wait()

    (response,) = served(handle, {"x_activity_deadline": in_seconds(0.1)})
    assert is_504(response)


def test_a_handler_does_not_even_start_after_its_deadline() -> None:
    ran: list[str] = []

    async def handle(logger: Any, request: Any) -> Any:
        ran.append("ran")

    def plain(logger: Any, request: Any) -> Any:
        ran.append("ran")

    for each in (handle, plain):
        (response,) = served(each, {"x_activity_deadline": in_seconds(-1)})
        assert is_504(response)
    assert ran == []


@pytest.mark.parametrize("handler", [at_once, plain])
@pytest.mark.parametrize(
    ("headers", "settings", "limited"),
    [
        ({}, {}, False),
        ({}, {"exec_timeout": 0}, False),
        ({"x_timeout": "nonsense"}, {}, False),
        ({"x_timeout": "-5s"}, {}, False),
        ({"x_timeout": "0"}, {}, False),
        ({"x_activity_deadline": "nonsense"}, {}, False),
        ({"x_timeout": "1ns"}, {"fprocess": "python main.py", "exec_timeout": 0}, False),
        ({"x_timeout": "1ns"}, {"watchdog": "native", "exec_timeout": 0}, False),
        ({"x_timeout": "1h"}, {}, True),
        ({"x_timeout": "290y", "x_activity_deadline": "9999-12-31T23:59:59Z"}, {}, True),
        ({"x_timeout": "2500000h"}, {}, True),
        ({}, {"exec_timeout": 600}, True),
    ],
)
def test_handlers_that_are_in_time(
    handler: Callable[..., Any], headers: dict[str, str], settings: dict[str, Any], limited: bool
) -> None:
    (response,) = served(handler, headers, **settings)
    assert (response.status, json.loads(response.body)) == (200, {"remaining": limited})


def test_a_result_or_an_error_that_comes_in_time_is_not_a_timeout() -> None:
    async def fails(logger: Any, request: Any) -> Any:
        raise fnship.NotFound("in time")

    def returns(logger: Any, request: Any) -> Any:
        return {"ok": True}

    (response,) = served(fails, {"x_timeout": "1h"})
    assert (response.status, json.loads(response.body)["error_code"]) == (500, 4)
    (response,) = served(returns, {"x_timeout": "1h"})
    assert json.loads(response.body) == {"ok": True}


def test_what_a_cancelled_handler_returns_or_raises_does_not_matter() -> None:
    async def returns(logger: Any, request: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"too": "late"}

    async def raises(logger: Any, request: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    async def cleans_up(logger: Any, request: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.append("up")

    cleaned: list[str] = []
    for each in (returns, raises, cleans_up):
        (response,) = served(each, {"x_timeout": "20ms"})
        assert is_504(response)
    assert cleaned == ["up"]


def test_a_handler_that_swallows_its_cancellation_ends_in_a_504() -> None:
    async def handle(logger: Any, request: Any) -> Any:
        for _ in range(100):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                seen.append(fnship.current().why_cancelled)

    seen: list[Cancelled | None] = []
    (response,) = served(handle, {"x_timeout": "20ms"})
    assert is_504(response)
    assert seen == [Cancelled.DEADLINE]


def test_a_plain_handler_that_does_not_look_is_left_behind() -> None:
    held, ended = threading.Event(), threading.Event()

    def handle(logger: Any, request: Any) -> Any:
        held.wait(30)
        ended.set()

    try:
        (response,) = served(handle, {"x_timeout": "20ms"})
        assert is_504(response)
        assert not ended.is_set()
    finally:
        held.set()
    assert ended.wait(30)


def test_the_next_call_is_not_touched() -> None:
    async def handle(logger: Any, request: Any) -> Any:
        if fnship.current().activity_id == "late":
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)
        task = asyncio.current_task()
        assert task is not None
        return {"cancelled": fnship.current().cancelled, "cancelling": task.cancelling()}

    late = {"x_activity_id": "late", "x_timeout": "20ms"}
    one, two, three = served(handle, late, {"x_activity_id": "fine"}, {"x_timeout": "1h"})
    assert is_504(one)
    assert json.loads(two.body) == json.loads(three.body) == {"cancelled": False, "cancelling": 0}


def test_a_timeout_of_the_handlers_own_is_an_error_of_its_own() -> None:
    async def handle(logger: Any, request: Any) -> Any:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    for headers in ({}, {"x_timeout": "1h"}):
        (response,) = served(handle, headers)
        answer = json.loads(response.body)
        assert (response.status, answer["error_code"]) == (500, 2)
        assert answer["message"] == "TimeoutError"


def test_cancelling_oneself_is_an_error_of_ones_own() -> None:
    async def handle(logger: Any, request: Any) -> Any:
        raise asyncio.CancelledError("by itself")

    for headers in ({}, {"x_timeout": "1h"}):
        (response,) = served(handle, headers)
        assert (response.status, json.loads(response.body)["message"]) == (500, "by itself")


def test_what_a_cancelled_call_had_logged_is_there(capfd: pytest.CaptureFixture[str]) -> None:
    async def handle(logger: Any, request: Any) -> Any:
        logger.info("before")
        try:
            await asyncio.Event().wait()
        finally:
            print("after")

    (response,) = served(handle, {"x_timeout": "20ms"})
    assert is_504(response)
    out = capfd.readouterr().out
    assert "msg=before" in out
    assert "msg=after" in out
    assert "Traceback" not in out


@pytest.mark.parametrize("why", list(Cancelled))
@pytest.mark.parametrize("is_async", [True, False])
def test_every_way_to_be_cancelled(why: Cancelled, is_async: bool) -> None:
    started, held = threading.Event(), threading.Event()

    async def handle(logger: Any, request: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    def plain(logger: Any, request: Any) -> Any:
        started.set()
        held.wait(30)

    async def run() -> Response:
        function = ASGIFunction(
            inspect_handler(handle if is_async else plain), Settings(), environ={}
        )
        await function.startup()
        assert function.app is not None
        try:
            exchange = Exchange("POST", "/", [], b"{}")
            answer = asyncio.create_task(function.app.respond(exchange))
            while not started.is_set():
                await asyncio.sleep(0.01)
            assert exchange.invocation is not None
            exchange.cancel(why)
            async with asyncio.timeout(30):
                return await answer
        finally:
            held.set()
            await function.shutdown()

    response = asyncio.run(run())
    assert response.status == (503 if why is Cancelled.SHUTDOWN else 504)
    answer = json.loads(response.body)
    assert answer["error_code"] == 3
    assert why.value in answer["message"]
