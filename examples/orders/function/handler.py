"""Packs an order, one item in each run: {"order": its id, "items": what is in it}."""

from logging import Logger
from typing import Any

from fnship import ExecuteAgain, Failed, StateClientBuilder


async def handle(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    order, items = request.get("order", "?"), request.get("items", [])
    packed = (request.get("previous") or {}).get("packed", 0)
    if packed < len(items):
        if items[packed] == "gold":
            raise Failed("we have no gold")
        logger.info("packing %s, %d of %d", items[packed], packed + 1, len(items))
        raise ExecuteAgain("one item more", packed=packed + 1, retry_after=0.2)
    state = StateClientBuilder(request).with_project_scope()
    await state.set_async("orders", lambda count: (count or 0) + 1)
    count, _ = await state.get_async("orders")
    logger.info("order %s is packed; it is our number %d", order, count)
    return {"order": order, "items": len(items), "number": count}
