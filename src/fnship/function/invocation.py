"""One invocation: who asked for it, until when it may run, and how it ended."""

from __future__ import annotations

import datetime as dt
import enum
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

from fnship import contract
from fnship.durations import parse_duration
from fnship.function.metadata import Headers

if TYPE_CHECKING:
    from fnship.function.activity_log import ActivityLog

__all__ = [
    "Cancelled",
    "Frame",
    "Invocation",
    "Outcome",
    "active_invocation",
    "current",
    "seconds_allowed",
]


class Frame(TypedDict):
    """One frame of a stack trace, as the contract has it."""

    file: str
    line: int
    function: str


class Outcome(NamedTuple):
    """How an invocation ended.

    Attributes:
        error_code: 0 for success, else one of the codes in `fnship.contract`.
        value: What the handler returned; on an error, the answer's ``data`` or None.
        message: What went wrong; empty on success.
        stack_trace: Frames of an unexpected exception, innermost last.
        timed_out: Whether the deadline ended it.
        refused: Whether it never ran, because too many were waiting.
    """

    error_code: int = 0
    value: Any = None
    message: str = ""
    stack_trace: list[Frame] | None = None
    timed_out: bool = False
    refused: bool = False


class Cancelled(enum.Enum):
    """Why an invocation was cancelled."""

    CLIENT_GONE = "the client went away"
    DEADLINE = "the deadline passed"
    SHUTDOWN = "the server is shutting down"


# A collection that runs while a log is opened may log something itself.
_opening: Final = threading.RLock()


class Invocation:
    """What a handler may know of its own invocation; see `current`.

    Attributes:
        activity_id: The platform's id of this activity; None for a plain call.
        overdue: Called with the outcome where the deadline has passed and the handler, though
            cancelled, does not end.
    """

    __slots__ = (
        "_deadline",
        "_headers",
        "_log",
        "_on_cancel",
        "_open_log",
        "_private",
        "_why",
        "activity_id",
        "overdue",
    )

    def __init__(
        self,
        activity_id: str | None,
        headers: Headers,
        private: dict[str, str] | None,
        deadline: float | None,
        open_log: Callable[[Headers], ActivityLog],
    ) -> None:
        self.activity_id = activity_id
        self._headers = headers  # private: there are tokens in them
        self._private = private
        self._deadline = deadline  # by time.monotonic()
        self._why: Cancelled | None = None
        self._on_cancel: Callable[[], object] | None = None
        self.overdue: Callable[[Outcome], None] | None = None
        self._log: ActivityLog | None = None
        self._open_log = open_log

    def __repr__(self) -> str:
        return f"<Invocation {self.activity_id or 'without activity'}, attempt {self.attempt}>"

    @property
    def log(self) -> ActivityLog:
        """Where its lines go; opened by the first of them, since many log none."""
        if self._log is None:
            with _opening:  # any of its threads may be the first
                if self._log is None:
                    log = self._open_log(self._headers)
                    if self._log is None:
                        self._log = log
        return self._log

    async def close_log(self, wait: float) -> None:
        """Bring its last lines on their way, waiting at most `wait` seconds for the engine."""
        if self._log is not None:
            await self._log.close(wait)

    @property
    def attempt(self) -> int:
        """Which attempt at the activity this is: 1, 2, and so on; 1 where nobody says."""
        return attempt_number(self._private)

    @property
    def deadline(self) -> dt.datetime | None:
        """When the time is up, in UTC; None for no limit."""
        remaining = self.remaining
        if remaining is None:
            return None
        try:
            return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=remaining)
        except OverflowError:
            return dt.datetime.max.replace(tzinfo=dt.UTC)

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, negative once it has passed; None for no limit."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: stop, and clean up."""
        return self._why is not None

    @property
    def why_cancelled(self) -> Cancelled | None:
        """What cancelled it; None while it is not cancelled."""
        return self._why

    def cancel(self, why: Cancelled) -> None:
        """Set the flag, and interrupt the handler where that can be done. First call wins."""
        if self._why is None:
            self._why = why
            if self._on_cancel is not None:
                self._on_cancel()

    def on_cancel(self, interrupt: Callable[[], object] | None) -> None:
        """Have `cancel` call `interrupt`, on the event loop; None for nothing more."""
        self._on_cancel = interrupt


active_invocation: ContextVar[Invocation | None] = ContextVar("fnship_invocation", default=None)
"""The invocation that the running code belongs to, across ``await`` and pool threads."""


def current() -> Invocation:
    """The invocation that calls this, in ``async def`` and plain handlers alike.

    Raises:
        RuntimeError: Called outside of an invocation.
    """
    invocation = active_invocation.get()
    if invocation is None:
        raise RuntimeError(
            "fnship.current() was called outside of an invocation: call it in the handler, or in "
            "what the handler awaits or runs with asyncio.to_thread"
        )
    return invocation


def attempt_number(private: dict[str, str] | None) -> int:
    """The attempt that the engine's header names; 1 without one that makes sense."""
    text = private.get(contract.ACTIVITY_ATTEMPT, "") if private else ""
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def seconds_allowed(
    private: dict[str, str] | None, exec_timeout: float | None, *, x_timeout_counts: bool
) -> float | None:
    """How long an invocation may run: the shortest of what the caller and the settings say.

    Args:
        private: The call's headers for the SDK.
        exec_timeout: The server's own limit in seconds; None or 0 for none.
        x_timeout_counts: Whether ``X-Timeout`` is honoured.

    Returns:
        Seconds, 0 or less where the time is up already; None for no limit. A header that is
        nonsense counts as absent.
    """
    limits = [exec_timeout] if exec_timeout else []
    if private:
        if x_timeout_counts and contract.TIMEOUT in private:
            try:
                wanted = parse_duration(private[contract.TIMEOUT])
            except ValueError:
                wanted = 0.0
            if wanted > 0:
                limits.append(wanted)
        if contract.ACTIVITY_DEADLINE in private:
            try:
                deadline = dt.datetime.fromisoformat(
                    private[contract.ACTIVITY_DEADLINE].upper()  # RFC 3339 allows t and z
                )
            except ValueError:
                deadline = None
            if deadline is not None and deadline.tzinfo is not None:
                limits.append(deadline.timestamp() - time.time())
    return min(limits) if limits else None
