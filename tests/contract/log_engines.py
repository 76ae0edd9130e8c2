"""The engines that take log lines: the one for tests and the real one, with and without sharing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, Self

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fnship import contract
from fnship.engine.api.app import create_functions_api
from fnship.engine.attempt import LOGS_PATH
from fnship.engine.engine import Engine as RealEngine
from fnship.engine.model import Scope as Owner
from fnship.engine.options import EngineOptions
from fnship.testing import Engine
from fnship.testing.faults import FaultPlan
from fnship.testing.http import Answer
from fnship.testing.logs import split_lines

__all__ = ["KINDS", "FaultyEngine", "log_engine"]

KINDS = ("testing", "testing, shared", "real", "real, shared")


class FaultyEngine(Protocol):
    """Takes log lines, and fails as it is told to."""

    url: str
    plan: FaultPlan

    def headers(self, *, activity_id: str, attempt: int = 1) -> Mapping[str, str]: ...

    def lines(self, activity_id: str) -> list[str]: ...


@contextlib.contextmanager
def log_engine(kind: str, folder: Path) -> Iterator[FaultyEngine]:
    """One of `KINDS`."""
    name, _, shared = kind.partition(", ")
    if name == "real":
        with _Real(folder, shared=bool(shared)) as real:
            yield real
    else:
        with Engine(share_uploads=bool(shared)) as engine:
            yield _Testing(engine)


class _Testing:
    def __init__(self, engine: Engine) -> None:
        self.url = engine.url
        self.plan = engine.faults.logs
        self.headers = engine.headers
        self.lines = engine.lines


class _Real:
    """What functions reach of an engine, in a thread of its own, with faults in front of it."""

    def __init__(self, folder: Path, *, shared: bool) -> None:
        self.plan = FaultPlan()
        self.url = ""
        self._shared = shared
        self._folder = folder
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def headers(self, *, activity_id: str, attempt: int = 1) -> dict[str, str]:
        token = self._engine.tokens.mint("log", activity_id, attempt, Owner(), time.time() + 600)
        headers = {
            contract.ACTIVITY_ID: activity_id,
            contract.ACTIVITY_ATTEMPT: str(attempt),
            contract.ENGINE_ENDPOINT: self.url,
            contract.FILE_UPLOAD: f"{LOGS_PATH}/{activity_id}/{attempt}",
            contract.WORKFLOW_TOKEN: token,
        }
        return headers | ({contract.LOG_BATCH_ENDPOINT: LOGS_PATH} if self._shared else {})

    def lines(self, activity_id: str) -> list[str]:
        reading = asyncio.run_coroutine_threadsafe(self._engine.logs.text(activity_id), self._loop)
        return split_lines(reading.result(30))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        options = EngineOptions(data=self._folder, advertise_url=self.url)
        self._engine = await RealEngine.open(options)
        try:
            app = _Faulty(create_functions_api(self._engine), self.plan)
            server = uvicorn.Server(
                uvicorn.Config(
                    app, lifespan="off", log_config=None, log_level="critical", ws="none"
                )
            )
            server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            serving = asyncio.create_task(server._serve([listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            self._up.set()
            await self._stop.wait()
            server.should_exit = True
            server.force_exit = True
            await serving
        finally:
            await self._engine.close()
            listener.close()


class _Faulty:
    """Does to requests what a plan says."""

    def __init__(self, app: ASGIApp, plan: FaultPlan) -> None:
        self._app = app
        self._plan = plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._plan.next(scope["method"])
        if fault is None:
            await self._app(scope, receive, send)
            return
        said: list[Message] = []

        async def hold(message: Message) -> None:
            said.append(message)

        if fault.status is None and fault.carried_out:
            await self._app(scope, receive, hold)
        else:
            while (await receive()).get("more_body"):
                pass
        await asyncio.sleep(fault.delay)
        if fault.status is not None:
            answer = fault.answer(lambda: Answer(200))
            said = _messages(answer.status, answer.body)
        elif fault.cut is not None:
            said = _messages(200, b"{", length=1000)  # the server closes the connection then
        for message in said:
            await send(message)


def _messages(status: int, body: bytes, length: int | None = None) -> list[Message]:
    size = str(len(body) if length is None else length).encode()
    return [
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-length", size)],
        },
        {"type": "http.response.body", "body": body},
    ]
