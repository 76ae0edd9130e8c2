"""Requests that wait for the end of their activity, until the engine stops."""

from __future__ import annotations

import asyncio
from typing import Final

from fnship.engine.engine import Engine
from fnship.engine.model import Activity
from fnship.errors import EngineError

__all__ = ["Waits"]

_FOR_EVER: Final = 10 * 86400.0  # seconds; each wait has a shorter limit of its own


class Waits:
    """Waits for activities, and can be told to stop.

    Args:
        engine: What runs them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits: set[asyncio.Timeout] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._limits)

    async def wait(self, activity: Activity, seconds: float) -> Activity:
        """Wait for the end of an activity.

        Args:
            activity: As it is known.
            seconds: How long at most.

        Returns:
            It as it is then; as far as that can be told, once the engine has stopped.
        """
        try:
            async with asyncio.timeout(0.0 if self._stopped else seconds) as limit:
                self._limits.add(limit)
                try:
                    return await self._engine.wait(activity.id, _FOR_EVER)
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            pass
        try:
            return await self._engine.activity(activity.id)
        except EngineError:
            if self._stopped:
                return activity
            raise

    def stop(self) -> None:
        """End every wait now."""
        self._stopped = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            limit.reschedule(now)
