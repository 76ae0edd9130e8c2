"""What ends a run."""

from __future__ import annotations

__all__ = ["BenchmarkError", "MissingTool"]


class BenchmarkError(Exception):
    """Something that is measured does not work; a missed bar is none. Its text says what."""


class MissingTool(BenchmarkError):
    """This machine lacks what the run needs. Its text says how to get it."""
