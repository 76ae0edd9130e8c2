"""Access lines: what was asked, how it was answered, and how long that took."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from fnship.function.lines import Stdout, Who
from fnship.server.exchange import Exchange

__all__ = ["AccessLines"]

_NOBODY: Final = Who()
_CALL_ID: Final = b"x-call-id"


class AccessLines:
    """Writes a line for each request: method, path, status and milliseconds.

    Requests that are answered in the same turn of the event loop share one write, which comes
    after their answers.

    Args:
        stdout: Where to.
        loop: The event loop that serves the requests; only there may lines be added.
        call_id: Whether a line ends in the call's ``X-Call-Id``, in square brackets.
    """

    def __init__(self, stdout: Stdout, loop: asyncio.AbstractEventLoop, *, call_id: bool) -> None:
        self._stdout = stdout
        self._loop = loop
        self._call_id = call_id
        self._waiting: list[tuple[float, Exchange, int, float]] = []

    def add(self, exchange: Exchange, status: int, seconds: float) -> None:
        """Write a line soon."""
        if not self._waiting:
            self._loop.call_soon(self.write)
        self._waiting.append((time.time(), exchange, status, seconds))

    def write(self) -> None:
        """Write what has been added, if anything was."""
        if self._waiting:
            added, self._waiting = self._waiting, []
            self._stdout.write("\n".join([self._line(*each) for each in added]))

    def _line(self, when: float, exchange: Exchange, status: int, seconds: float) -> str:
        path = exchange.path
        if not path.isprintable():
            path = ascii(path)[1:-1]  # or it could write lines of its own
        words = f"{exchange.method} {path} {status} {seconds * 1000:.1f} ms"
        if self._call_id:
            call_id = next((value for name, value in exchange.headers if name == _CALL_ID), b"")
            words = f"{words} [{call_id.decode('ascii', 'backslashreplace')}]"
        return self._stdout.style(when, "INFO", "access", 0, words, _NOBODY, None)
