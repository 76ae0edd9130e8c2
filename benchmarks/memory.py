"""The memory of a worker, after many requests and after many more."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.call import engine_call, plain_call
from benchmarks.load import load_requests
from benchmarks.process import running
from benchmarks.servers import MEMORY, Subject
from benchmarks.sink import LogSink

__all__ = ["MANY", "MANY_MORE", "MeasuredMemory", "Memory", "can_measure", "measure_memory"]

MANY: Final = 100_000
MANY_MORE: Final = 1_000_000

_SETTLE: Final = 0.5  # seconds; connections have been closed by then
_STEP: Final = 100_000  # requests between two looks at what it has written


@dataclass(frozen=True)
class Memory:
    """Of one process, in bytes."""

    pss: int
    """Proportional set size: pages that it shares count by its share."""
    rss: int
    """Resident set size: they count in full."""


@dataclass(frozen=True)
class MeasuredMemory:
    """Of one server."""

    title: str
    after_many: Memory
    after_more: Memory | None
    """None where there was no soak."""

    @property
    def growth(self) -> int | None:
        """Bytes of RSS by which it grew in between.

        PSS would also tell of others that began or ended to share its libraries meanwhile.
        """
        return None if self.after_more is None else self.after_more.rss - self.after_many.rss


def can_measure() -> bool:
    """Whether this system tells a process's PSS."""
    return sys.platform == "linux"


def measure_memory(*, soak: bool, say: Callable[[str], None]) -> list[MeasuredMemory]:
    """Measure each of `MEMORY` after `MANY` requests and, for a soak, after `MANY_MORE` beyond."""
    with LogSink() as sink:
        return [_measure(subject, sink, soak, say) for subject in MEMORY]


def _measure(
    subject: Subject, sink: LogSink, soak: bool, say: Callable[[str], None]
) -> MeasuredMemory:
    call = engine_call(sink.url) if subject.engine else plain_call()
    with running(subject, call) as server:

        def after(count: int) -> Memory:
            made = 0
            while made < count:
                made += load_requests(server.port, call, min(_STEP, count - made))
                server.forget_output()
            time.sleep(_SETTLE)
            memory = _memory(server.pid)
            sizes = f"PSS {memory.pss:,}, RSS {memory.rss:,} bytes"
            say(f"memory after {made:,} more requests: {subject.title}: {sizes}")
            return memory

        return MeasuredMemory(subject.title, after(MANY), after(MANY_MORE) if soak else None)


def _memory(pid: int) -> Memory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    sizes = {
        name: int(size) * 1024
        for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)
    }
    return Memory(pss=sizes["Pss"], rss=sizes["Rss"])
