"""What the commands share: how they end, what they say, and the numbers that they take."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from benchmarks.errors import BenchmarkError, MissingTool

__all__ = ["count", "end_well", "say"]


def end_well(measure: Callable[[], None]) -> int:
    """Measure; whatever was started for it is ended on every way out.

    Returns:
        The exit status: 0, 1 where something does not work, 2 for a missing tool, 130 where it
        was stopped.
    """
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        measure()
    except MissingTool as exc:
        say(f"error: {exc}")
        return 2
    except BenchmarkError as exc:
        say(f"error: {exc}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    return 0


def count(text: str) -> int:
    """A number of times or seconds, as an argument's type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number of at least 1 is expected")
    return int(text)


def say(sentence: str) -> None:
    """Tell how it goes; what is measured is printed elsewhere."""
    print(sentence, file=sys.stderr, flush=True)


def _stop(number: int, frame: object) -> NoReturn:
    """End as by Ctrl-C, so that every server is ended on the way."""
    raise KeyboardInterrupt
