"""The same work three ways; ``FUNCTION_TARGET`` chooses."""

from logging import Logger
from typing import Any


async def handle(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    return {"message": f"Hello, {request['name']}!"}


async def handle_with_line(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    logger.info("greeting %s", request["name"])
    return {"message": f"Hello, {request['name']}!"}


def handle_plain(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    return {"message": f"Hello, {request['name']}!"}
