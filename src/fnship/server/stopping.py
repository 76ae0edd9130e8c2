"""What signals ask of a server, and when it may stop: the same for every kind, without I/O."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Final

from fnship.settings import Settings

__all__ = [
    "ARRIVAL_GRACE",
    "IDLE_GRACE",
    "LAST_GRACE",
    "STILL_BUSY_AFTER",
    "Stopping",
    "still_busy",
]

IDLE_GRACE: Final = 0.2
"""Seconds at the end for a request that may be on its way already."""

ARRIVAL_GRACE: Final = 5.0
"""Seconds at the end for one that has begun to arrive."""

LAST_GRACE: Final = 3.0
"""Seconds that what is cut off at the end gets to clean up."""

STILL_BUSY_AFTER: Final = 1.0
"""Seconds of shutdown after which it is said what is waited for."""

_WATCHDOG_EXTRA: Final = 2.0  # seconds beyond the watchdog's own healthcheck_interval
_QUIET: Final = 0.5  # seconds without a request that make a server idle which a watchdog feeds
_QUIET_WITHIN: Final = 3.0  # seconds to wait for that; a watchdog later than this is not stopping
_AGAIN_AFTER: Final = 1.0  # seconds; before, a signal is the same one, come by another way


class Stopping:
    """Remembers the signals of one server.

    The first one asks it to drain and stop. Behind a watchdog, which goes on sending requests for
    a while, a server that got SIGTERM first serves on for ``healthcheck_interval`` + 2 s and then
    until half a second has brought no request: the watchdog of a machine that is short of time may
    be late with its own part. Where requests do not cease it waits 3 s for that, and then for an
    instant with none in flight. As the watchdog itself it serves on for ``healthcheck_interval``. A
    second signal, a second or more later, asks it to give up what is in flight.

    Args:
        settings: What stands in front of the server.
        clock: Seconds that only ever grow.

    Attributes:
        given_up: Whether the second signal has come.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.given_up = False
        self._settings = settings
        self._clock = clock
        self._asked: float | None = None
        self._linger = 0.0
        self._until_idle = False
        self._served = 0
        self._last_busy = 0.0

    @property
    def asked(self) -> bool:
        """Whether the first signal has come."""
        return self._asked is not None

    @property
    def spent(self) -> float:
        """Seconds since then; 0 before."""
        return 0.0 if self._asked is None else self._clock() - self._asked

    def take(self, sig: int) -> bool:
        """Take a signal.

        Returns:
            Whether it asks to give up what is in flight; true once at most.
        """
        if self._asked is None:
            self._asked = self._clock()
            if sig == signal.SIGTERM and self._settings.behind_watchdog:
                self._linger = self._settings.healthcheck_interval + _WATCHDOG_EXTRA
                self._until_idle = True
            elif sig == signal.SIGTERM and self._settings.native_watchdog:
                self._linger = self._settings.healthcheck_interval
            return False
        if self.given_up or self.spent < _AGAIN_AFTER:
            return False
        self.given_up = True
        return True

    def may_stop(self, *, busy: bool, served: int) -> bool:
        """Whether no more requests need be taken; asked again and again.

        Args:
            busy: Whether any are in flight.
            served: How many have been answered, ever.
        """
        if self._asked is None:
            return False
        if busy or served != self._served:
            self._served, self._last_busy = served, self._clock()
        if self.given_up:
            return True
        over = self.spent - self._linger
        if over < 0:
            return False
        quiet = self._clock() - self._last_busy >= _QUIET
        return not self._until_idle or quiet or (over >= _QUIET_WITHIN and not busy)


def still_busy(count: int) -> str:
    """What a person who waits for the end should know."""
    return f"waiting for {count} requests to end; a second signal cuts them off"
