"""Counters that several worker processes share, and their text for Prometheus.

Each worker counts in a slot of its own in memory that it shares with the others, so nothing
is locked on the way of a request; a scrape adds the slots up. A worker that takes the place of
a dead one goes on in its slot, so that no counter ever falls.
"""

from __future__ import annotations

import bisect
import http
import mmap
from collections.abc import Iterator
from typing import Final

__all__ = ["Counters", "Slot", "render"]

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "UNKNOWN")
_CODES: Final = (*(status.value for status in http.HTTPStatus), 499)
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

# One series is a row of 8-byte cells: a cell a bucket, one for what is slower than all of them,
# and the sum of seconds. The count is what the buckets add up to.
_ROW: Final = len(_BUCKETS) + 2
_SUM: Final = len(_BUCKETS) + 1
_SERIES: Final = len(_METHODS) * len(_CODES)
_ROWS: Final = {
    (method, code): (method_index * len(_CODES) + code_index) * _ROW
    for method_index, method in enumerate(_METHODS)
    for code_index, code in enumerate(_CODES)
}
_IN_FLIGHT: Final = _SERIES * _ROW  # the cell after all series
_CELLS: Final = _IN_FLIGHT + 1


class Counters:
    """The counters of all workers, in memory that forked processes share.

    Args:
        slots: How many workers count at once.
    """

    def __init__(self, slots: int) -> None:
        memory = memoryview(mmap.mmap(-1, slots * _CELLS * 8))
        self.slots = [
            Slot(memory[index * _CELLS * 8 : (index + 1) * _CELLS * 8]) for index in range(slots)
        ]

    @property
    def in_flight(self) -> int:
        """Requests that are being served, over all workers."""
        return sum(slot.in_flight for slot in self.slots)

    def series(self) -> Iterator[tuple[str, int, list[int], float]]:
        """Every series that has counted: method, status, requests by bucket, sum of seconds."""
        for (method, code), row in _ROWS.items():
            buckets = [
                sum(slot.counts[row + index] for slot in self.slots)
                for index in range(len(_BUCKETS) + 1)
            ]
            if any(buckets):
                yield method, code, buckets, sum(slot.sums[row + _SUM] for slot in self.slots)


class Slot:
    """What one worker counts; nobody else writes to it while that worker lives."""

    def __init__(self, memory: memoryview) -> None:
        self.counts = memory.cast("Q")
        self.sums = memory.cast("d")
        self._method, self._code, self._row = "", 0, 0  # nearly always those of the last answer

    @property
    def in_flight(self) -> int:
        """Requests that this worker is serving."""
        return self.counts[_IN_FLIGHT]

    def begin(self) -> bool:
        """Count a request that has come. Returns true."""
        self.counts[_IN_FLIGHT] += 1
        return True

    def end(self, method: str, code: int, seconds: float) -> None:
        """Count its answer."""
        if code != self._code or method != self._method:
            row = _ROWS.get((method, code))
            self._row = _ROWS[_METHODS[-1], code] if row is None else row
            self._method, self._code = method, code
        row = self._row
        bucket = bisect.bisect_left(_BUCKETS, seconds) if seconds > _BUCKETS[0] else 0
        counts = self.counts
        counts[_IN_FLIGHT] -= 1
        counts[row + bucket] += 1
        self.sums[row + _SUM] += seconds

    def forget(self) -> int:
        """Drop what a worker that died was serving. Returns how many requests that were."""
        lost = self.counts[_IN_FLIGHT]
        self.counts[_IN_FLIGHT] = 0
        return lost


def render(counters: Counters) -> bytes:
    """The counters in Prometheus' text format."""
    totals = ["# TYPE http_requests_total counter"]
    durations = ["# TYPE http_request_duration_seconds histogram"]
    for method, code, buckets, seconds in counters.series():
        labels = f'code="{code}",method="{method.lower()}"'  # as Go's metrics library writes it
        running = 0
        for limit, count in zip((*_BUCKETS, "+Inf"), buckets, strict=True):
            running += count
            bucket = f'http_request_duration_seconds_bucket{{{labels},le="{limit}"}}'
            durations.append(f"{bucket} {running}")
        durations.append(f"http_request_duration_seconds_sum{{{labels}}} {seconds:.9g}")
        durations.append(f"http_request_duration_seconds_count{{{labels}}} {running}")
        totals.append(f"http_requests_total{{{labels}}} {running}")
    gauge = [
        "# TYPE http_requests_in_flight gauge",
        f"http_requests_in_flight {counters.in_flight}",
    ]
    return ("\n".join((*totals, *durations, *gauge)) + "\n").encode()
