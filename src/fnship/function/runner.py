"""Runs the handler once for each request, and says how that ended."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from fnship import contract
from fnship.errors import FunctionError
from fnship.function.activity_log import ActivityLog, ActivityLogger
from fnship.function.handler import Handler
from fnship.function.invocation import (
    Cancelled,
    Frame,
    Invocation,
    Outcome,
    active_invocation,
    attempt_number,
    seconds_allowed,
)
from fnship.function.lines import Stdout, Who
from fnship.function.log_upload import LogUploads
from fnship.function.metadata import Headers, read_headers
from fnship.function.pool import PoolFull, ThreadPool
from fnship.settings import Settings

__all__ = ["Runner"]

_FRAMES_SHOWN: Final = 50
_GRACE: Final = 1.0  # seconds that a cancelled handler gets to clean up before the answer leaves
_OWN_FILES: Final = f"{Path(__file__).parents[1]}{os.sep}"


class Runner:
    """Runs one handler, on the event loop that made this.

    Args:
        handler: What to run.
        settings: Limits and the log's settings.
        stdout: Where log lines go.
        uploads: Takes the lines of engine calls.
    """

    def __init__(
        self, handler: Handler, settings: Settings, stdout: Stdout, uploads: LogUploads
    ) -> None:
        self._call = handler.call
        self._is_async = handler.is_async
        self._logger_name = settings.function_name or handler.name
        self._exec_timeout = settings.exec_timeout
        self._x_timeout_counts = settings.x_timeout_counts
        self._stdout = stdout
        self._uploads = uploads
        self._level = settings.log_level
        self._flush_wait = settings.log_flush_wait
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPool(self._loop, settings.max_workers, settings.max_queue)

    @property
    def busy_threads(self) -> int:
        """Plain handlers that run or wait for a thread."""
        return self._pool.unfinished

    def close(self) -> None:
        """Let the threads end. What still runs is abandoned."""
        self._pool.close()

    def open(
        self, headers: Headers, metadata: dict[str, str | None], private: dict[str, str] | None
    ) -> Invocation:
        """Prepare the invocation of one request.

        Args:
            headers: All headers of the call.
            metadata: What the handler will find in ``request["metadata"]``.
            private: The headers for the SDK alone.
        """
        deadline = None
        if private is not None or self._exec_timeout:
            seconds = seconds_allowed(
                private, self._exec_timeout, x_timeout_counts=self._x_timeout_counts
            )
            if seconds is not None:
                deadline = time.monotonic() + seconds
        return Invocation(metadata["activityID"], headers, private, deadline, self._open_log)

    def _open_log(self, headers: Headers) -> ActivityLog:
        """Open the log of an invocation from the headers, which no handler can have changed."""
        metadata, private = read_headers(headers)
        private = private or {}
        token = private.get(contract.WORKFLOW_TOKEN, "")
        endpoint = private.get(contract.ENGINE_ENDPOINT)
        path = private.get(contract.FILE_UPLOAD)
        who = Who(
            metadata["environmentName"] or "",
            metadata["environmentID"] or "",
            metadata["activityID"] or "",
        )
        secrets = tuple(each for each in (token, metadata["stateStoreToken"]) if each)
        engine = (
            self._uploads.stream(
                endpoint,
                path,
                token,
                attempt_number(private),
                shared=private.get(contract.LOG_BATCH_ENDPOINT),
            )
            if endpoint and path
            else None
        )
        return ActivityLog(self._stdout, who, secrets, engine)

    async def run(self, invocation: Invocation, request: dict[str, Any]) -> Outcome:
        """Run the handler. Returns its outcome, whatever it does; its log has left by then."""
        reset = active_invocation.set(invocation)
        logger = ActivityLogger(self._logger_name, self._level, invocation)
        try:
            if invocation.remaining is not None:
                value = await self._until_deadline(invocation, logger, request)
            elif self._is_async:
                value = await self._cancellable(invocation, self._call(logger, request))
            else:
                value = await self._in_thread(invocation, logger, request)
        except BaseException as exc:  # noqa: BLE001 - an answer is owed whatever it is
            outcome = self._failure(invocation, exc)
        else:
            why = invocation.why_cancelled
            outcome = Outcome(value=value) if why is None else _cancelled(why)
        finally:
            active_invocation.reset(reset)
            invocation.overdue = None
        await invocation.close_log(self._flush_wait)
        return outcome

    async def _cancellable(self, invocation: Invocation, call: Coroutine[Any, Any, Any]) -> Any:
        """Await the handler in this very task, which `Invocation.cancel` then interrupts."""
        task = asyncio.current_task()
        assert task is not None
        invocation.on_cancel(task.cancel)
        try:
            return await call
        finally:
            invocation.on_cancel(None)
            if invocation.cancelled:
                task.uncancel()

    async def _in_thread(
        self, invocation: Invocation, logger: ActivityLogger, request: dict[str, Any]
    ) -> Any:
        future = self._pool.submit(self._call, logger, request)
        invocation.on_cancel(future.cancel)
        try:
            value = await future
        finally:
            invocation.on_cancel(None)
        if type(value) is not dict and inspect.isawaitable(value):
            # A plain callable around an async one: what it gave belongs on the loop.
            return await self._cancellable(invocation, _awaiting(value))
        return value

    async def _until_deadline(
        self, invocation: Invocation, logger: ActivityLogger, request: dict[str, Any]
    ) -> Any:
        remaining = invocation.remaining
        assert remaining is not None
        if remaining <= 0:
            invocation.cancel(Cancelled.DEADLINE)
            return None
        timer = self._loop.call_later(remaining, self._time_is_up, invocation)
        try:
            if self._is_async:
                return await self._cancellable(invocation, self._call(logger, request))
            return await self._in_thread(invocation, logger, request)
        finally:
            timer.cancel()

    def _time_is_up(self, invocation: Invocation) -> None:
        """Cancel, and see to the answer of a handler that takes no notice of that."""
        invocation.cancel(Cancelled.DEADLINE)
        self._loop.call_later(_GRACE, self._overdue, invocation)

    def _overdue(self, invocation: Invocation) -> None:
        if invocation.overdue is not None:  # it is still running
            invocation.overdue(_cancelled(Cancelled.DEADLINE))

    def _failure(self, invocation: Invocation, exc: BaseException) -> Outcome:
        """What an exception that ended the handler means for the answer."""
        if invocation.why_cancelled is not None:
            return _cancelled(invocation.why_cancelled)
        redact = invocation.log.redact
        if isinstance(exc, PoolFull):
            return Outcome(contract.TRANSIENT, message=_TOO_BUSY, refused=True)
        if isinstance(exc, FunctionError):
            return _verdict(exc, redact)
        task = asyncio.current_task()
        if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
            raise exc  # the server itself gives this request up
        message = redact(_printable(_in_words(exc)))
        frames = _own_frames(exc)
        place: Frame = frames[-1] if frames else {"file": "fnship", "line": 0, "function": ""}
        invocation.log.write(
            time.time(),
            "ERROR",
            place["file"],
            place["line"],
            "".join(traceback.format_exception(type(exc), exc, _own_traceback(exc))).rstrip("\n"),
        )
        return Outcome(contract.FAILED, None, message, frames)


_TOO_BUSY: Final = "function: transient error: every thread is busy and the queue is full"


def _verdict(exc: FunctionError, redact: Callable[[str], str]) -> Outcome:
    """What a handler's own error says; a subclass in the field may lack any part of it."""
    code = getattr(exc, "error_code", None)
    if type(code) is not int or code < 1:
        code = contract.FAILED
    try:
        message = str(exc.message)
    except Exception:  # noqa: BLE001 - the subclass is the user's code
        message = _in_words(exc)
    try:
        data = exc.data
    except Exception as problem:  # noqa: BLE001 - likewise
        data = {"unreadable": _in_words(problem)}
    return Outcome(code, data, redact(_printable(message)))


def _printable(text: str) -> str:
    """Text that JSON can carry: what a file name or a broken decoder put in is written out."""
    return text.encode(errors="backslashreplace").decode()


async def _awaiting(value: Any) -> Any:
    return await value


def _cancelled(why: Cancelled) -> Outcome:
    return Outcome(
        contract.TRANSIENT,
        message=f"function: transient error: {why.value} before the function had ended",
        timed_out=why is not Cancelled.SHUTDOWN,
        refused=why is Cancelled.SHUTDOWN,
    )


def _in_words(exc: BaseException) -> str:
    if isinstance(exc, SystemExit):
        return f"the handler called sys.exit({'' if exc.code is None else repr(exc.code)})"
    try:
        text = str(exc)
    except Exception as problem:  # noqa: BLE001 - __str__ is the user's code
        text = f"(its text cannot be read: {type(problem).__name__})"
    return text or type(exc).__name__


def _own_traceback(exc: BaseException) -> TracebackType | None:
    """The traceback from the handler on: how fnship came to call it is of no interest."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        tb = tb.tb_next
    return tb


def _own_frames(exc: BaseException) -> list[Frame]:
    """The frames of the traceback that are not fnship's, innermost last."""
    frames: list[Frame] = [
        {"file": frame.f_code.co_filename, "line": line, "function": frame.f_code.co_name}
        for frame, line in traceback.walk_tb(exc.__traceback__)
        if not frame.f_code.co_filename.startswith(_OWN_FILES)
    ]
    if not frames and exc.__cause__ is not None:
        # Python itself put another exception around it, as for a StopIteration.
        return _own_frames(exc.__cause__)
    return frames[-_FRAMES_SHOWN:]
