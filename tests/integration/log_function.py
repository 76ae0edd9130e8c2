"""A function that logs, served in this process, and the log that arrives at an engine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from fnship.function.handler import inspect_handler
from fnship.server.app import App
from fnship.server.asgi import ASGIFunction
from fnship.server.exchange import Exchange, Response
from fnship.settings import Settings

SETTINGS = Settings(log_flush_timeout=5.0)
LINE = re.compile(r"time=\S+Z level=[A-Z]+ path=\S+ line=\d+ msg=(.*)")


class LogEngine(Protocol):
    """An engine, as far as logs go."""

    def headers(self, *, activity_id: str, attempt: int = 1) -> Mapping[str, str]:
        """Those of a call."""
        ...

    def lines(self, activity_id: str) -> list[str]:
        """The log of an activity."""
        ...


@contextlib.asynccontextmanager
async def serving(handler: Callable[..., Any], **changes: Any) -> AsyncIterator[App]:
    function = ASGIFunction(
        inspect_handler(handler), dataclasses.replace(SETTINGS, **changes), environ={}
    )
    await function.startup()
    assert function.app is not None
    try:
        yield function.app
    finally:
        await function.shutdown()


async def call(
    app: App, engine: LogEngine, activity_id: str, body: bytes = b"{}", *, attempt: int = 1
) -> Response:
    headers = engine.headers(activity_id=activity_id, attempt=attempt)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return await app.respond(Exchange("POST", "/", raw, body))


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    for _ in range(int(seconds * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


def messages(engine: LogEngine, activity_id: str) -> list[str]:
    found = [LINE.fullmatch(line) for line in engine.lines(activity_id)]
    assert all(found), engine.lines(activity_id)
    return [match[1] for match in found if match]


def ten(logger: logging.Logger, request: dict[str, Any]) -> dict[str, Any]:
    for number in range(10):
        logger.info("line %d", number)
    return {}


TEN = [f"line {number}" for number in range(10)]


async def ten_async(logger: logging.Logger, request: dict[str, Any]) -> dict[str, Any]:
    return ten(logger, request)
