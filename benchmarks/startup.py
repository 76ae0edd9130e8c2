"""From the start of the process to the first answer with status 200."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.call import engine_call, plain_call
from benchmarks.process import running
from benchmarks.servers import STARTS, Subject
from benchmarks.sink import LogSink

__all__ = ["MeasuredStart", "measure_starts"]


@dataclass(frozen=True)
class MeasuredStart:
    """Of one server."""

    title: str
    seconds: tuple[float, ...]

    @property
    def typical(self) -> float:
        """The median, in seconds."""
        return median(self.seconds)


def measure_starts(*, times: int, say: Callable[[str], None]) -> dict[str, MeasuredStart]:
    """Start each of `STARTS` in turn, and once more before that so that its files are warm.

    Args:
        times: How often.
        say: Told what goes on.

    Returns:
        What was measured, by the name of the subject.
    """
    seconds: dict[str, list[float]] = {each.name: [] for each in STARTS}
    with LogSink() as sink:
        for number in range(times + 1):
            for subject in STARTS:
                took = _start(subject, sink)
                if number:
                    seconds[subject.name].append(took)
                    say(f"start {number} of {times}: {subject.title}: {took * 1000:.0f} ms")
    return {each.name: MeasuredStart(each.title, tuple(seconds[each.name])) for each in STARTS}


def _start(subject: Subject, sink: LogSink) -> float:
    call = engine_call(sink.url) if subject.engine else plain_call()
    with running(subject, call) as server:
        return server.first_answer
