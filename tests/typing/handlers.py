"""Handlers as people write them with types: mypy must have nothing to say, and know what comes."""

from __future__ import annotations

import datetime as dt
from logging import Logger
from typing import Any, assert_type

from fnship import (
    Conflict,
    EventDetails,
    EventType,
    ExecuteAgain,
    Failed,
    FunctionError,
    NotFound,
    Transient,
    current,
    serve,
)


async def handle(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    event = EventDetails(request)
    assert_type(event.source, str)
    assert_type(event.type, EventType | None)
    assert_type(event.get_workload_name(), tuple[str, bool])
    if event.is_force_destroy():
        raise ExecuteAgain("not yet", retry_after=5, done=["a"])
    logger.info("attempt %d", current().attempt)
    return {"type": event.get_type_as_string()}


def plain(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    invocation = current()
    assert_type(invocation.activity_id, str | None)
    assert_type(invocation.attempt, int)
    assert_type(invocation.deadline, dt.datetime | None)
    assert_type(invocation.remaining, float | None)
    assert_type(invocation.cancelled, bool)
    try:
        logger.info("working on %s", request)
    except (Failed, Transient, NotFound, Conflict) as exc:
        assert_type(exc.message, str)
        assert_type(exc.error_code, int)
        raise FunctionError(exc.message, error_code=3) from exc
    return {}


class Greeter:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    async def __call__(self, logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
        logger.debug("greeting")
        return {"message": f"{self.greeting}, {request['name']}!"}


def main() -> None:
    serve()
    serve(handle)
    serve(plain, port=8000)
    serve(Greeter("Hello"), host="127.0.0.1")
    serve("function.handler:handle")
