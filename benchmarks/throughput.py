"""Requests per second: every server in turn, round after round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.call import engine_call, plain_call
from benchmarks.errors import BenchmarkError
from benchmarks.load import Load, load
from benchmarks.process import running
from benchmarks.servers import Subject
from benchmarks.sink import LogSink

__all__ = ["MeasuredThroughput", "measure_throughput"]


@dataclass(frozen=True)
class MeasuredThroughput:
    """Of one server."""

    title: str
    rounds: tuple[Load, ...]

    @property
    def rate(self) -> float:
        """The median of its requests per second."""
        return median(each.rate for each in self.rounds)

    @property
    def lowest(self) -> float:
        """The least of them."""
        return min(each.rate for each in self.rounds)

    @property
    def highest(self) -> float:
        """The most."""
        return max(each.rate for each in self.rounds)

    @property
    def p99(self) -> float:
        """The median of the milliseconds in which 99 % of the calls were answered."""
        return median(each.p99 for each in self.rounds)

    @property
    def broken(self) -> int:
        """Calls of all rounds that failed or took longer than 2 s."""
        return sum(each.broken for each in self.rounds)


def measure_throughput(
    subjects: Sequence[Subject],
    *,
    rounds: int,
    seconds: int,
    warm_up: int,
    say: Callable[[str], None],
) -> dict[str, MeasuredThroughput]:
    """Measure each of them, one at a time, each round in a process of its own.

    Args:
        subjects: What to measure.
        rounds: How often.
        seconds: Of load for each point.
        warm_up: Seconds of load before it that do not count.
        say: Told what goes on.

    Returns:
        What was measured, by the name of the subject.
    """
    loads: dict[str, list[Load]] = {each.name: [] for each in subjects}
    with LogSink() as sink:
        for number in range(1, rounds + 1):
            for subject in subjects:
                result = _measure(subject, sink, seconds, warm_up)
                loads[subject.name].append(result)
                say(f"round {number} of {rounds}: {subject.title}: {result.rate:,.0f}/s")
    return {each.name: MeasuredThroughput(each.title, tuple(loads[each.name])) for each in subjects}


def _measure(subject: Subject, sink: LogSink, seconds: int, warm_up: int) -> Load:
    call = engine_call(sink.url) if subject.engine else plain_call()
    its_sink = sink if subject.engine else None
    with running(subject, call) as server:
        try:
            load(server.port, call, warm_up, its_sink)
            return load(server.port, call, seconds, its_sink)
        except BenchmarkError as exc:
            raise BenchmarkError(f"{subject.title}: {exc}") from exc
