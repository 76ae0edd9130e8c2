"""The lines of one attempt at an activity, on their way to the engine: pure bookkeeping."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from typing import Final, NamedTuple, Protocol

from fnship import contract
from fnship.function.lines import engine_line

__all__ = ["Batch", "Engine", "LogStream"]

_BATCH_BYTES: Final = 2**20  # one batch, unless a single line is longer
_BOUNDARY: Final = "fnship-log-content"


class Batch(NamedTuple):
    """Lines that are sent together, and again as they are until the engine has stored them."""

    number: int
    content: bytes
    lines: int
    size: int  # bytes of the lines, as they count against the buffer's limit


class Engine:
    """What is known of one engine's health."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.failures = 0  # in a row
        self.stored = 0  # uploads, ever
        self.slow = False
        self.last_problem = ""
        self.parked: OrderedDict[LogStream, None] = OrderedDict()
        self.probe: asyncio.TimerHandle | None = None

    @property
    def sick(self) -> bool:
        """Whether the last upload failed."""
        return self.failures > 0

    @property
    def worth_waiting_for(self) -> bool:
        """Whether an answer may wait for an upload."""
        return not self.sick and not self.slow


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
        self, carrier: Carrier, engine: Engine, url: str, token: str, attempt: int
    ) -> None:
        self.engine = engine
        self.url = url
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
        """Headers and body of the upload of `batch`."""
        boundary = _boundary(batch.content)
        headers = {
            contract.WORKFLOW_TOKEN: self._token,
            contract.LOG_BATCH: f"{self.attempt}-{batch.number}",
            "Content-Type": f"multipart/form-data; boundary={boundary}",
        }
        return headers, _multipart(batch.content, boundary.encode())


def _boundary(content: bytes) -> str:
    """A boundary that does not occur in `content`; nearly always the plain one."""
    boundary = _BOUNDARY
    while boundary.encode() in content:
        boundary = f"{_BOUNDARY}-{secrets.token_hex(8)}"
    return boundary


def _multipart(content: bytes, boundary: bytes) -> bytes:
    return (
        b"--" + boundary + b"\r\n"
        b'Content-Disposition: form-data; name="content"; filename="stdout"\r\n'
        b"Content-Type: text/plain\r\n\r\n" + content + b"\r\n--" + boundary + b"--\r\n"
    )


def _dropped_note(count: int) -> bytes:
    message = f"{count} older lines were dropped here: the engine did not take them in time"
    return f"{engine_line(time.time(), 'WARNING', 'fnship', 0, message)}\n".encode()
