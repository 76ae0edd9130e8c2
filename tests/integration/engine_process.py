"""A whole engine in this process: its API on a port, and functions that really run."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fnship.engine.auth import Authority
from fnship.engine.engine import Engine
from fnship.engine.model import Activity, Function, RetryPolicy, Source
from fnship.engine.options import EngineOptions
from fnship.engine.server import EngineServer
from fnship.engine.submission import Submission

QUICK = RetryPolicy(first_delay=0.05, max_delay=0.2, again_delay=0.05, max_attempts=4)
TOKEN = "the-main-token"
PATIENCE = 30.0


@contextlib.asynccontextmanager
async def running(data: Path, port: int = 0, **more: Any) -> AsyncIterator[Engine]:
    """An engine that serves its API and what functions send."""
    listener = socket.create_server(("127.0.0.1", port))
    host, port = listener.getsockname()
    options = EngineOptions(
        data=data,
        advertise_url=f"http://{host}:{port}",
        own_addresses=(f"{host}:{port}",),
        grace=more.pop("grace", 2.0),
        **more,
    )
    engine = await Engine.open(options)
    authority = Authority(TOKEN, engine.folder.path / "tokens.json")
    server = EngineServer(engine, authority, listener)
    started = asyncio.Event()
    serving = asyncio.create_task(server.serve(started.set))
    await started.wait()
    try:
        yield engine
    finally:
        server.stop()
        await serving  # which closes the engine
        listener.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine to its end."""

    async def limited() -> None:
        async with asyncio.timeout(4 * PATIENCE):
            await main()

    asyncio.run(limited())


async def invoke(engine: Engine, name: str, payload: bytes = b"{}", **more: Any) -> Activity:
    """Submit, and wait for the end."""
    submitted = await engine.submit(Submission(function=name, payload=payload, **more))
    activity = await engine.wait(submitted.activity.id, PATIENCE)
    assert activity.status.final, activity
    return activity


async def register(engine: Engine, name: str, url: str, **more: Any) -> Function:
    """Register a function at a URL."""
    values = {"retry": QUICK, "timeout": 20.0, **more}
    return await engine.put_function(Function(name=name, source=Source.URL, location=url, **values))
