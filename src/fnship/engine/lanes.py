"""Who may run now: limits for each function and for all, and fairness between functions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Lanes"]


class Lanes:
    """One lane for each function; a lane lets as many in at once as its function takes.

    Where there is not room for all, the functions take turns, so that one with a long queue
    does not hold up the others. Within a lane, first come, first served. For one event loop.

    Args:
        limit: How many run at once, all functions together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._lanes: dict[str, _Lane] = {}
        self._places: set[asyncio.Future[None]] = set()  # that are waited for in `turn`
        self._turns: deque[_Lane] = deque()  # lanes with somebody waiting, in order of their turns

    def enter(self, function: str, limit: int, come: Callable[[], None]) -> None:
        """Wait for a place; `come` is called when it is there, at once where there is room.

        Whoever has come must `leave` in the end.

        Args:
            function: Whose lane.
            limit: How many its function takes at once, as it is set now.
            come: Called with the place taken. Must not raise.
        """
        lane = self._lanes.get(function)
        if lane is None:
            lane = self._lanes[function] = _Lane(function)
        lane.limit = limit
        if not lane.waiting and lane.running < limit and self._running < self._limit:
            self._admit(lane, come)
            return
        lane.waiting.append(come)
        if not lane.queued:
            lane.queued = True
            self._turns.append(lane)
        self._let_in()

    async def turn(self, function: str, limit: int) -> None:
        """Wait for a place."""
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        self._places.add(place)
        place.add_done_callback(self._places.discard)

        def come() -> None:
            if place.cancelled():
                self.leave(function)
            else:
                place.set_result(None)

        self.enter(function, limit, come)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave(function)
            raise

    def leave(self, function: str) -> None:
        """Give a place back."""
        lane = self._lanes[function]
        lane.running -= 1
        self._running -= 1
        self._let_in()
        if not lane.running and not lane.waiting:
            self._lanes.pop(function, None)

    def clear(self) -> None:
        """Forget everybody who waits; a `turn` that is waited for is cancelled."""
        for lane in self._turns:
            lane.waiting.clear()
            lane.queued = False
        self._turns.clear()
        for place in list(self._places):
            place.cancel()

    @property
    def running(self) -> int:
        """How many have a place."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return sum(len(lane.waiting) for lane in self._turns)

    def _let_in(self) -> None:
        full = 0
        while self._turns and self._running < self._limit and full < len(self._turns):
            lane = self._turns.popleft()
            if lane.waiting and lane.running < lane.limit:
                full = 0
                self._admit(lane, lane.waiting.popleft())
            else:
                full += 1
            if lane.waiting:
                self._turns.append(lane)
            else:
                lane.queued = False

    def _admit(self, lane: _Lane, come: Callable[[], None]) -> None:
        lane.running += 1
        self._running += 1
        come()


class _Lane:
    __slots__ = ("function", "limit", "queued", "running", "waiting")

    def __init__(self, function: str) -> None:
        self.function = function
        self.limit = 0
        self.running = 0
        self.waiting: deque[Callable[[], None]] = deque()
        self.queued = False
