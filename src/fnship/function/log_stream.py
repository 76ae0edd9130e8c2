"""The lines of one attempt at an activity, on their way to the engine: pure bookkeeping."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, NamedTuple, Protocol

from fnship import contract
from fnship.function.lines import engine_line
from fnship.function.log_engine import Engine
from fnship.function.log_form import FormPart, write_form
from fnship.function.log_shared import SharedUploads

__all__ = ["Batch", "LogStream"]

_BATCH_BYTES: Final = 2**20  # one batch, unless a single line is longer


class Batch(NamedTuple):
    """Lines that are sent together, and again as they are until the engine has stored them."""

    number: int
    content: bytes
    lines: int
    size: int  # bytes of the lines, as they count against the buffer's limit


class Carrier(Protocol):
    """What carries the lines of a stream: `fnship.function.log_upload.LogUploads`."""

    def take(self, stream: LogStream, line: bytes) -> None:
        """Put `line` into the stream's buffer. Called from any thread."""

    def send(self, stream: LogStream) -> None:
        """Start sending what the stream has. Called on the event loop."""


class LogStream:
    """The lines of one attempt at an activity, on their way to the engine.

    Made by `fnship.function.log_upload.LogUploads.stream`.
    """

    def __init__(
        self,
        carrier: Carrier,
        engine: Engine[LogStream],
        url: str,
        token: str,
        attempt: int,
        shared: SharedUploads | None = None,
    ) -> None:
        self.engine = engine
        self.url = url
        self.shared = shared  # where its batches may go together with those of others
        self.attempt = attempt
        self.lines: deque[bytes] = deque()
        self.batch: Batch | None = None  # taken out of lines, and not stored yet
        self.sending = False
        self.paused = False  # it alone has trouble, and waits before it tries again
        self.failures = 0  # in a row
        self.stored_before = 0  # the engine's count at the last of them
        # Numbers only grow, also where the same attempt is run again by another process.
        self.batches = time.time_ns() // 1000
        self.dropped = 0  # lines given up since the last batch was taken
        self._waiter: asyncio.Future[None] | None = None
        self._carrier = carrier
        self._token = token

    def append(self, line: bytes) -> None:
        """Take one line, its newline included. Called from any thread; does not block."""
        self._carrier.take(self, line)

    @property
    def unsent(self) -> bool:
        """Whether anything still has to leave."""
        return self.batch is not None or bool(self.lines)

    async def flush(self, wait: float) -> None:
        """Send what there is, and wait until the engine has it.

        Args:
            wait: At most so many seconds; 0 sends without waiting. An engine that is known
                to be sick or slow is not waited for at all.
        """
        if not self.unsent:
            return
        self._carrier.send(self)
        if wait <= 0 or self.paused or not self.engine.worth_waiting_for:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(wait, self._waited_in_vain)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _waited_in_vain(self) -> None:
        self.engine.slow = True
        self.release()

    def release(self) -> None:
        """Let go of who waits in `flush`: all has been sent, or will not be soon."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take_batch(self) -> Batch | None:
        """The batch to send next: the one that was not stored yet, or a new one of the lines."""
        if self.batch is None and self.unsent:
            taken: list[bytes] = []
            size = 0
            while self.lines and (not taken or size + len(self.lines[0]) <= _BATCH_BYTES):
                line = self.lines.popleft()
                taken.append(line)
                size += len(line)
            note = _dropped_note(self.dropped) if self.dropped else b""
            self.dropped = 0
            self.batches += 1
            self.batch = Batch(self.batches, note + b"".join(taken), len(taken), size)
        return self.batch

    def request(self, batch: Batch) -> tuple[dict[str, str], bytes]:
        """Headers and body of an upload of `batch` alone."""
        kind, body = write_form([FormPart(batch.content)])
        return {**self._headers(batch), "Content-Type": kind}, body

    def part(self, batch: Batch) -> FormPart:
        """`batch` in an upload that it shares with others."""
        return FormPart(batch.content, self._headers(batch))

    def _headers(self, batch: Batch) -> dict[str, str]:
        return {
            contract.WORKFLOW_TOKEN: self._token,
            contract.LOG_BATCH: f"{self.attempt}-{batch.number}",
        }


def _dropped_note(count: int) -> bytes:
    message = f"{count} older lines were dropped here: the engine did not take them in time"
    return f"{engine_line(time.time(), 'WARNING', 'fnship', 0, message)}\n".encode()
