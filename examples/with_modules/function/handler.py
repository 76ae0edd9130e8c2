"""Prices an order: {"items": {name: count}, "coupon": code or nothing}."""

from logging import Logger
from typing import Any

from fnship import NotFound

from . import pricing


async def handle(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    items = request.get("items", {})
    try:
        total = pricing.sum_of(items)
    except pricing.UnknownItem as exc:
        raise NotFound(f"not for sale: {exc}") from exc
    off = pricing.discount(total, request.get("coupon"))
    logger.info("%d items for %d cents, %d off", sum(items.values()), total, off)
    return {"total_cents": total - off, "discount_cents": off}
