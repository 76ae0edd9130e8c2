"""Everything that one run has measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.memory import MeasuredMemory
from benchmarks.startup import MeasuredStart
from benchmarks.throughput import MeasuredThroughput

__all__ = ["Results"]


@dataclass
class Results:
    """By the names of `benchmarks.servers`; what was not asked for is missing."""

    throughput: dict[str, MeasuredThroughput] = field(default_factory=dict)
    starts: dict[str, MeasuredStart] = field(default_factory=dict)
    memory: list[MeasuredMemory] = field(default_factory=list)
    others: float | None = None
    """The share of the CPUs that other processes took meanwhile, from 0 to 1."""
