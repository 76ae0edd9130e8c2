"""The bars that fnship is to clear, and whether it did. A missed one is said, never an error."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.memory import MANY, MANY_MORE
from benchmarks.results import Results

__all__ = ["MIB", "Bar", "judge"]

MIB = 2**20


@dataclass(frozen=True)
class Bar:
    """One bar, and what was measured."""

    what: str
    bar: str
    measured: str = "not measured"
    met: bool | None = None
    """None where it was not measured."""

    @property
    def verdict(self) -> str:
        """Whether it was met, in a word."""
        return {True: "yes", False: "no", None: ""}[self.met]


def judge(results: Results) -> list[Bar]:
    """Hold the results against the bars."""
    return [
        _share(results, "async, no line logged, of the limit", ("fnship", "limit"), 0.85),
        _share(results, "async, one line to stdout, of the limit", ("fnship-line", "limit"), 0.70),
        _share(results, "as its own watchdog, of the bare server", ("native", "fnship"), 0.90),
        _share(results, "the same with access lines", ("native-lines", "fnship"), 0.75),
        _slower(results, "p99 as its own watchdog", "native", 1.3),
        _slower(results, "the same with access lines", "native-lines", 1.3),
        _times(
            results,
            "plain def, to functions-framework's sync server",
            ("fnship-plain", "functions-framework-sync"),
            6,
        ),
        _times(
            results,
            "engine call with its line uploaded, to rafay-workflow-sdk",
            ("fnship-engine", "rafay-engine"),
            12,
        ),
        _start(results, "start to first answer", 0.300),
        _memory(results, f"memory of a worker (PSS) after {MANY:,} requests", 45 * MIB),
        _growth(results, f"its growth (RSS) over {MANY_MORE:,} more", 1 * MIB),
    ]


def _share(results: Results, what: str, names: tuple[str, str], least: float) -> Bar:
    bar = f"≥ {least:.0%}"
    ratio = _ratio(results, *names)
    return Bar(what, bar) if ratio is None else Bar(what, bar, f"{ratio:.0%}", ratio >= least)


def _times(results: Results, what: str, names: tuple[str, str], least: float) -> Bar:
    bar = f"≥ {least:g} times"
    ratio = _ratio(results, *names)
    return Bar(what, bar) if ratio is None else Bar(what, bar, f"{ratio:.1f} times", ratio >= least)


def _slower(results: Results, what: str, name: str, most: float) -> Bar:
    bar = f"≤ {most:g} times"
    if name not in results.throughput or "fnship" not in results.throughput:
        return Bar(what, bar)
    ratio = results.throughput[name].p99 / results.throughput["fnship"].p99
    return Bar(what, bar, f"{ratio:.2f} times", ratio <= most)


def _ratio(results: Results, name: str, other: str) -> float | None:
    if name not in results.throughput or other not in results.throughput:
        return None
    return results.throughput[name].rate / results.throughput[other].rate


def _start(results: Results, what: str, most: float) -> Bar:
    bar = f"≤ {most * 1000:.0f} ms"
    if "fnship" not in results.starts:
        return Bar(what, bar)
    took = results.starts["fnship"].typical
    return Bar(what, bar, f"{took * 1000:.0f} ms", took <= most)


def _memory(results: Results, what: str, most: int) -> Bar:
    """The largest counts."""
    bar = f"≤ {most / MIB:g} MiB"
    if not results.memory:
        return Bar(what, bar)
    pss = max(each.after_many.pss for each in results.memory)
    return Bar(what, bar, f"{pss / MIB:.1f} MiB", pss <= most)


def _growth(results: Results, what: str, most: int) -> Bar:
    """The largest counts. Up to `most` it is none: the allocator keeps what it was lent."""
    bar = f"none (≤ {most / MIB:g} MiB)"
    growths = [each.growth for each in results.memory if each.growth is not None]
    if not growths:
        return Bar(what, bar)
    return Bar(what, bar, f"{max(growths) / MIB:.1f} MiB", max(growths) <= most)
