"""How much of the machine others took meanwhile: what makes a run worth little."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

__all__ = ["Others"]

_STAT: Final = Path("/proc/stat")
_IDLE: Final = slice(3, 5)  # of its columns: nothing to do, and waiting for a disk
_GUEST: Final = 8  # from here on, columns say again what is in those before


class Others:
    """Watches from when it is made."""

    def __init__(self) -> None:
        self._busy = _busy()
        self._own = _own()
        self._started = time.perf_counter()

    def share(self) -> float | None:
        """The share of all CPUs that went to others, from 0 to 1; None where it is not known.

        To others means: to processes that this one has not started, and to other machines on
        the same hardware. Servers that still run count as others.
        """
        busy = _busy()
        if busy is None or self._busy is None:
            return None
        elapsed = (time.perf_counter() - self._started) * (os.cpu_count() or 1)
        return max(0.0, (busy - self._busy - (_own() - self._own)) / elapsed)


def _busy() -> float | None:
    """Seconds of CPU time that were used since the machine started, by anyone."""
    if not _STAT.exists():
        return None
    ticks = [int(each) for each in _STAT.read_text().splitlines()[0].split()[1:]]
    return (sum(ticks[:_GUEST]) - sum(ticks[_IDLE])) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Those of this process and of the ended ones that it started."""
    return sum(os.times()[:4])
