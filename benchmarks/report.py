"""The tables: on the terminal, and in ``docs/benchmarks.md`` between two markers."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Final

from benchmarks.bars import MIB, judge
from benchmarks.errors import BenchmarkError
from benchmarks.memory import MANY, MANY_MORE
from benchmarks.peers import ROOT
from benchmarks.results import Results

__all__ = ["machine", "render", "table", "write_docs"]

_PAGE: Final = ROOT / "docs" / "benchmarks.md"
_END: Final = "<!-- end -->"


def render(results: Results, how: str) -> str:
    """Everything measured, as Markdown that reads as well on a terminal.

    Args:
        results: What was measured.
        how: A sentence on rounds and seconds.
    """
    return "\n\n".join(_parts(results, how))


def write_docs(text: str, writer: str = "benchmarks/run") -> None:
    """Put `text` into the page, in place of what the last run of `writer` wrote.

    Raises:
        BenchmarkError: The page or its markers are missing.
    """
    begin = f"<!-- begin: written by {writer} --write-docs -->"
    page = _PAGE.read_text("utf-8") if _PAGE.exists() else ""
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(_END)}", re.DOTALL)
    if not pattern.search(page):
        raise BenchmarkError(f"{_PAGE} lacks the lines {begin} and {_END}")
    _PAGE.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{_END}", page), "utf-8")


def _parts(results: Results, how: str) -> Iterator[str]:
    yield f"fnship {version('fnship')}, {dt.datetime.now(dt.UTC).date()}, on {machine()}. {how}"
    if results.others is not None:
        yield f"Other processes took {results.others:.1%} of the CPUs meanwhile."
    yield table(
        ("bar", "wanted", "measured", "met"),
        [(each.what, each.bar, each.measured, each.verdict) for each in judge(results)],
    )
    if results.throughput:
        yield _throughput(results)
    if results.starts:
        yield table(
            ("start to first answer", "median", "lowest", "highest"),
            [
                (each.title, *map(_ms, (each.typical, min(each.seconds), max(each.seconds))))
                for each in results.starts.values()
            ],
        )
    if results.memory:
        yield _memory(results)


def _throughput(results: Results) -> str:
    limit = results.throughput.get("limit")
    rows = []
    for each in results.throughput.values():
        share = f"{each.rate / limit.rate:.0%}" if limit else ""
        spread = f"{each.lowest:,.0f} to {each.highest:,.0f}"
        rows.append((each.title, f"{each.rate:,.0f}", spread, share, f"{each.p99:.1f} ms"))
    rates = table(("requests per second", "median", "range", "of the limit", "p99"), rows)
    broken = [
        f"{each.title}: {each.broken} calls failed or took longer than 2 s."
        for each in results.throughput.values()
        if each.broken
    ]
    return "\n\n".join((rates, *broken))


def _memory(results: Results) -> str:
    rows = []
    for each in results.memory:
        after, more = each.after_many, each.after_more
        grown = "not measured" if each.growth is None else f"{each.growth / MIB:+.2f} MiB"
        later = "not measured" if more is None else _mib(more.rss)
        rows.append((each.title, _mib(after.pss), _mib(after.rss), later, grown))
    head = ("memory of the worker", f"PSS after {MANY:,}", "RSS then")
    return table((*head, f"RSS after {MANY_MORE:,} more", "growth"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned; all but the first to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join((line(head), line(rule), *map(line, rows)))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f} MiB"


def machine() -> str:
    """The machine that this runs on, in words."""
    kernel = ".".join(platform.release().split(".")[:2])
    return (
        f"a machine with {os.cpu_count()} CPUs ({platform.machine()}), "
        f"{platform.system()} {kernel}, Python {platform.python_version()}"
    )
