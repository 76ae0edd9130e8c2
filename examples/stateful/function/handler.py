"""Counts visits: {"visitor": who came, "visits": how often, 1 by default}."""

from logging import Logger
from typing import Any

from fnship import StateClientBuilder


async def handle(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    visitor = request.get("visitor", "somebody")
    key = f"visits/{visitor}"
    state = StateClientBuilder(request).with_project_scope()
    for _ in range(request.get("visits", 1)):
        await state.set_async(key, lambda visits: (visits or 0) + 1)
    visits, version = await state.get_async(key)
    logger.info("%s has been here %d times; %s is at version %d", visitor, visits, key, version)
    return {"visitor": visitor, "visits": visits}
