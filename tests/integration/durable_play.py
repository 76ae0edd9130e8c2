"""Plays a scene on an event loop of its own, for a minute at most."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


def play(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(limited())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)
