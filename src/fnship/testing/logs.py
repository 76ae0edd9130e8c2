"""The log sink: whose token is good for what, what was stored, what is a repeat. No I/O."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

__all__ = ["Attempt", "LogSink", "Upload"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """A log upload that arrived.

    Attributes:
        activity_id: Whose log.
        batch: Its ``X-Log-Batch``; None where it had none.
        body: The lines, as they stood in the form's file part ``content``; empty where
            there was no such part.
        status: What it was answered; None where the answer was cut or is still held back.
        stored: Whether its lines went into the log.
        attempt: Which attempt at the activity sent it.
    """

    activity_id: str
    batch: str | None
    body: bytes
    status: int | None
    stored: bool
    attempt: int


class Attempt:
    """One attempt at an activity, as the sink knows it.

    Attributes:
        activity_id: The activity.
        number: 1, 2, …
        path: Where it uploads to.
        token: What it must show there.
        state_token: What it must show to the state store.
    """

    def __init__(self, activity_id: str, number: int, path: str) -> None:
        self.activity_id = activity_id
        self.number = number
        self.path = path
        self.token = secrets.token_urlsafe(24)
        self.state_token = secrets.token_urlsafe(24)

    def accepts(self, token: str) -> bool:
        """Whether `token` is this attempt's."""
        return hmac.compare_digest(token.encode(), self.token.encode())


class Receipt:
    """An upload in the making: filled in while it is answered, read through `upload`."""

    __slots__ = ("upload",)

    def __init__(self, upload: Upload) -> None:
        self.upload = upload

    def stored(self) -> None:
        """Note that the lines went into the log."""
        self.upload = replace(self.upload, stored=True)

    def answered(self, status: int) -> None:
        """Note the answer."""
        self.upload = replace(self.upload, status=status)


@dataclass(slots=True)
class _Log:
    """What an activity logged."""

    pieces: list[bytes] = field(default_factory=list)
    lines: int = 0
    batches: set[tuple[int, str]] = field(default_factory=set)


class LogSink:
    """Keeps the logs of activities. Written by one thread, read by any.

    Args:
        honour_batches: Acknowledge a batch id seen before for the same activity and attempt
            without storing it again. False is an engine that does not know batches.
        keep: Keep lines and uploads. False only counts them, which a benchmark wants.
    """

    def __init__(self, *, honour_batches: bool = True, keep: bool = True) -> None:
        self.on_line: Callable[[str, str], object] | None = None
        self.stored_uploads = 0
        self.stored_lines = 0
        self._honour_batches = honour_batches
        self._keep = keep
        self._changed = threading.Condition()
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._by_path: dict[str, Attempt] = {}
        self._by_token: dict[str, Attempt] = {}
        self._state_tokens: set[str] = set()
        self._logs: dict[str, _Log] = {}
        self._receipts: list[Receipt] = []

    def attempt(self, activity_id: str, number: int) -> Attempt:
        """The attempt of that number; the first time, one with fresh tokens of its own."""
        with self._changed:
            known = self._attempts.get((activity_id, number))
            if known is None:
                # The path says nothing of the id: clients differ in what they escape.
                known = Attempt(activity_id, number, f"/logs/{len(self._attempts) + 1}")
                self._attempts[activity_id, number] = known
                self._by_path[known.path] = known
                self._by_token[known.token] = known
                self._state_tokens.add(known.state_token)
            return known

    def attempt_at(self, path: str) -> Attempt | None:
        """The attempt that uploads to `path`."""
        return self._by_path.get(path)

    def attempt_with(self, token: str) -> Attempt | None:
        """The attempt whose token for uploads this is."""
        return self._by_token.get(token)

    def is_state_token(self, token: str) -> bool:
        """Whether any attempt was given `token` for the state store."""
        return token in self._state_tokens

    def arrived(self, attempt: Attempt, batch: str | None, body: bytes) -> Receipt:
        """Note an upload, whatever becomes of it."""
        receipt = Receipt(Upload(attempt.activity_id, batch, body, None, False, attempt.number))
        if self._keep:
            self._receipts.append(receipt)
        return receipt

    def store(self, attempt: Attempt, receipt: Receipt) -> None:
        """Put an upload's lines into the log, unless its batch is there already."""
        upload = receipt.upload
        with self._changed:
            log = self._logs.setdefault(attempt.activity_id, _Log())
            if self._honour_batches and upload.batch is not None:
                batch = (attempt.number, upload.batch)
                if batch in log.batches:
                    return
                log.batches.add(batch)
            count = upload.body.count(b"\n")
            log.lines += count
            self.stored_lines += count
            self.stored_uploads += 1
            if self._keep:
                log.pieces.append(upload.body)
                receipt.stored()
            self._changed.notify_all()
        if self.on_line is not None:
            self._tell(self.on_line, attempt.activity_id, upload.body)

    def text(self, activity_id: str) -> str:
        """The whole log of an activity, in the order of arrival."""
        with self._changed:
            log = self._logs.get(activity_id)
            return "" if log is None else b"".join(log.pieces).decode("utf-8", "replace")

    def wait_for(self, activity_id: str, lines: int, timeout: float) -> bool:
        """Wait until so many lines are stored. Returns whether they are, after `timeout` s."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count(activity_id) >= lines, timeout)

    def uploads(self) -> list[Upload]:
        """Every upload so far, in the order of arrival."""
        return [receipt.upload for receipt in list(self._receipts)]

    def _count(self, activity_id: str) -> int:
        log = self._logs.get(activity_id)
        return 0 if log is None else log.lines

    @staticmethod
    def _tell(on_line: Callable[[str, str], object], activity_id: str, body: bytes) -> None:
        """Hand lines to the callback. Its mistakes are not the uploader's, so they are logged."""
        try:
            for line in split_lines(body.decode("utf-8", "replace")):
                on_line(activity_id, line)
        except Exception:  # whatever the callback raises
            logger.exception("on_line failed")


def split_lines(text: str) -> list[str]:
    """The lines of a log, which end in a newline and in nothing else that Unicode offers."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines
