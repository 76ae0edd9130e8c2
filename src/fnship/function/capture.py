"""Lines that do not come through the handler's logger: ``logging`` at large, and ``print``.

Each goes to the invocation that the running code belongs to, which the context variable
knows across ``await``, the pool's threads and ``asyncio.to_thread``; outside of any, to the
process's own log.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from fnship.function.activity_log import ActivityLog, record_message
from fnship.function.invocation import active_invocation

__all__ = ["capture_logging", "capture_stdout"]


class _CaptureHandler(logging.Handler):
    """Stands at the root of `logging`."""

    def __init__(self, process_log: ActivityLog) -> None:
        super().__init__()
        self._process_log = process_log

    def handle(self, record: logging.LogRecord) -> bool:
        # No lock around it, as logging's own handlers have: every line is written at once.
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        invocation = active_invocation.get()
        log = self._process_log if invocation is None else invocation.log
        log.write(
            record.created,
            record.levelname,
            record.pathname,
            record.lineno,
            record_message(record),
        )


class _CapturedStdout(io.TextIOBase):
    """Stands in for ``sys.stdout``; outside of invocations it is just that."""

    def __init__(self, original: TextIO) -> None:
        self._original = original

    def write(self, text: str) -> int:
        invocation = active_invocation.get()
        if invocation is None:
            return self._original.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        invocation.log.printed(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._original.flush()

    def close(self) -> None:
        """Leave the process's stream open: it is not this object's to close."""

    def fileno(self) -> int:
        return self._original.fileno()

    def isatty(self) -> bool:
        return self._original.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override] # a plain attribute in the base
        return self._original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override] # a plain attribute in the base
        return self._original.errors

    def __getattr__(self, name: str) -> Any:
        # buffer, mode, name, reconfigure …
        return getattr(self._original, name)


@contextlib.contextmanager
def capture_logging(process_log: ActivityLog, level: int) -> Iterator[None]:
    """Send every record that reaches the root logger to where it belongs.

    Args:
        process_log: For records outside of any invocation.
        level: The root logger's level for as long as this holds.
    """
    root = logging.getLogger()
    handler = _CaptureHandler(process_log)
    previous = root.level
    # What logging.basicConfig() put there would write every line a second time, unredacted.
    displaced = [each for each in root.handlers if type(each) is logging.StreamHandler]
    for each in displaced:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for each in displaced:
            root.addHandler(each)
        root.setLevel(previous)


@contextlib.contextmanager
def capture_stdout() -> Iterator[None]:
    """Turn what invocations print into lines of their logs."""
    original = sys.stdout
    proxy = _CapturedStdout(original)
    sys.stdout = proxy
    try:
        yield
    finally:
        if sys.stdout is proxy:
            sys.stdout = original
