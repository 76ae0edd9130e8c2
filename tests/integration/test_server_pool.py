"""Plain handlers in their threads: many calls, few threads, and a loop that stays free."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from server_process import serving, until

import fnship
from fnship.function.handler import inspect_handler
from fnship.server.app import App
from fnship.server.asgi import ASGIFunction
from fnship.server.exchange import Exchange, Response
from fnship.settings import Settings

HANDLER = """
import pathlib, threading, time
import fnship

HERE = pathlib.Path.cwd()
running = []
most = 0


def handle(logger, request):
    global most
    running.append(1)
    most = max(most, len(running))
    try:
        name = request.get("name")
        if name:
            (HERE / f"{name}.started").touch()
            while not (HERE / "gate").exists():
                time.sleep(0.01)
        else:
            time.sleep(0.001)
        return {
            "n": request.get("n"),
            "activity": fnship.current().activity_id,
            "most": most,
            "thread": threading.current_thread().name,
        }
    finally:
        running.pop()
"""
REQUEST = (
    b"POST / HTTP/1.1\r\nhost: x\r\nx-activity-id: a%d\r\nconnection: close\r\n"
    b'content-length: %d\r\n\r\n{"n": %d}'
)


def test_a_thousand_calls_at_once_on_two_threads(tmp_path: Path) -> None:
    async def one(port: int, number: int) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            body = len(b'{"n": %d}' % number)
            writer.write(REQUEST % (number, body, number))
            head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), (head, answer)
            return dict(json.loads(answer))
        finally:
            writer.close()
            await writer.wait_closed()

    async def thousand(port: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(45):
            return await asyncio.gather(*(one(port, number) for number in range(1000)))

    with serving(tmp_path, HANDLER, MAX_WORKERS="2") as server:
        answers = asyncio.run(thousand(server.port))
        assert [each["n"] for each in answers] == list(range(1000))
        assert [each["activity"] for each in answers] == [f"a{number}" for number in range(1000)]
        assert max(each["most"] for each in answers) <= 2
        assert len({each["thread"] for each in answers}) <= 2
        assert server.stop() == 0


def test_a_full_queue_and_a_loop_that_stays_free(tmp_path: Path) -> None:
    with serving(tmp_path, HANDLER, MAX_WORKERS="2", MAX_QUEUE="1") as server:
        with ExitStack() as stack:
            connections = []
            for name in ("one", "two"):
                connections.append(stack.enter_context(server.send_and_close({"name": name})))
                until((tmp_path / f"{name}.started").exists, "the handler")
            waiting = stack.enter_context(server.send_and_close({"n": 3}))

            def refused() -> bool:
                reply = server.call({"n": 4})
                assert reply.status == 503
                assert reply.json == {
                    "error_code": 3,
                    "message": "function: transient error: "
                    "every thread is busy and the queue is full",
                }
                return True

            # The waiting one may not have arrived yet, and then this call waits in its place.
            until(refused)
            assert server.ready().status == 200
            assert server.call(method="GET", path="/_/health").status == 200
            assert server.call([]).status == 400
            (tmp_path / "gate").touch()
            for each in (*connections, waiting):
                with each.makefile("rb") as answer:
                    assert answer.readline().startswith(b"HTTP/1.1 200 ")
        assert server.call({"n": 5}).json["n"] == 5
        assert server.stop() == 0


def inside(
    scenario: Callable[[App], Awaitable[None]], handler: Callable[..., Any], **settings: Any
) -> None:
    async def run() -> None:
        function = ASGIFunction(inspect_handler(handler), Settings(**settings), environ={})
        await function.startup()
        assert function.app is not None
        try:
            async with asyncio.timeout(30):
                await scenario(function.app)
        finally:
            await function.shutdown()

    asyncio.run(run())
    until(
        lambda: not any(each.name.startswith("fnship") for each in threading.enumerate()),
        "the end of the threads",
    )


def exchange(**headers: str) -> Exchange:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Exchange("POST", "/", raw, b"{}")


def test_each_call_sees_its_own_invocation() -> None:
    def handle(logger: Any, request: Any) -> Any:
        one = fnship.current()
        barrier.wait()
        return {"same": fnship.current() is one, "id": fnship.current().activity_id}

    barrier = threading.Barrier(8, timeout=30)

    async def scenario(app: App) -> None:
        answers = await asyncio.gather(
            *(app.respond(exchange(x_activity_id=f"a{number}")) for number in range(8))
        )
        assert [json.loads(each.body) for each in answers] == [
            {"same": True, "id": f"a{number}"} for number in range(8)
        ]

    inside(scenario, handle, max_workers=8)


@pytest.mark.parametrize("why", ["client", "deadline"])
def test_a_call_that_is_cancelled_while_it_waits_never_runs(why: str) -> None:
    held = threading.Event()
    ran: list[str | None] = []

    def handle(logger: Any, request: Any) -> Any:
        ran.append(fnship.current().activity_id)
        held.wait(30)

    async def scenario(app: App) -> None:
        def start(made: Exchange) -> asyncio.Task[Response]:
            return asyncio.create_task(app.respond(made))

        first = start(exchange(x_activity_id="first"))
        while not ran:
            await asyncio.sleep(0.01)
        limit = {"x_timeout": "20ms"} if why == "deadline" else {}
        waiting = exchange(x_activity_id="waiting", **limit)
        second, third = start(waiting), start(exchange(x_activity_id="third"))
        await asyncio.sleep(0)
        if why == "client":
            await asyncio.sleep(0)
            from fnship.function.invocation import Cancelled

            waiting.cancel(Cancelled.CLIENT_GONE)
        assert (await second).status == 504
        held.set()
        assert {(await first).status, (await third).status} == {200}

    try:
        inside(scenario, handle, max_workers=1, max_queue=2)
    finally:
        held.set()
    assert ran == ["first", "third"]


def test_faults_in_threads_do_not_use_threads_up() -> None:
    faults = [SystemExit(1), KeyboardInterrupt(), StopIteration(), GeneratorExit(), ValueError()]
    number = iter(range(10**6))

    def handle(logger: Any, request: Any) -> Any:
        which = next(number) % (len(faults) + 1)
        if which == len(faults):
            return {}
        raise faults[which]

    async def scenario(app: App) -> None:
        answers = await asyncio.gather(*(app.respond(exchange()) for _ in range(120)))
        assert Counter(each.status for each in answers) == {500: 100, 200: 20}

    inside(scenario, handle, max_workers=2)


def test_what_a_plain_handler_gives_to_await_is_awaited_on_the_loop() -> None:
    async def work() -> Any:
        return {"loop": threading.current_thread() is main, "task": fnship.current().activity_id}

    def handle(logger: Any, request: Any) -> Any:
        assert threading.current_thread() is not main
        return work()

    main = threading.current_thread()

    async def scenario(app: App) -> None:
        for headers in ({}, {"x_timeout": "1h"}):
            answer = await app.respond(exchange(x_activity_id="a1", **headers))
            assert json.loads(answer.body) == {"loop": True, "task": "a1"}

    inside(scenario, handle)
