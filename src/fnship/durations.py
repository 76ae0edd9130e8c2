"""Go durations, which the watchdog's settings and ``X-Timeout`` are written in."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_duration"]

_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,  # micro sign
    "μs": 1e-6,  # Greek mu
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_WHOLE: Final = re.compile(r"[0-9]+", re.ASCII)
_MAX_SECONDS: Final = 2**63 / 1e9  # Go counts nanoseconds in an int64


def parse_duration(text: str) -> float:
    """Read a Go duration (``1m30s``, ``250ms``) or whole seconds (``30``).

    Follows Go's ``time.ParseDuration``, and the watchdog in taking a bare whole number
    for seconds.

    Args:
        text: The duration. White space around it is ignored.

    Returns:
        Seconds, negative where the text starts with a minus.

    Raises:
        ValueError: The text is neither.
    """
    original, text = text, text.strip()
    sign = -1.0 if text.startswith("-") else 1.0
    text = text[1:] if text[:1] in ("-", "+") else text
    total, end = 0.0, 0
    if _WHOLE.fullmatch(text):
        total, end = float(text), len(text)
    while part := _PART.match(text, end):
        total += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    if end == 0 or end != len(text) or total >= _MAX_SECONDS:
        raise ValueError(f"{original!r} is no duration such as 90s, 1m30s or 250ms")
    return sign * total
