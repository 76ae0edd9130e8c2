"""The threads that plain handlers run in, with a bounded queue in front of them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

__all__ = ["PoolFull", "ThreadPool"]


class PoolFull(Exception):
    """Every thread is busy and the queue is full."""


class _Job(NamedTuple):
    future: asyncio.Future[Any]
    context: contextvars.Context
    call: Callable[..., Any]
    args: tuple[Any, ...]


class ThreadPool:
    """Runs blocking calls for one event loop.

    The threads are daemons, started as they are needed: a handler that never ends must not
    keep the process from ending. What is left running at `close` is abandoned.

    Args:
        loop: The event loop that submits and gets the results.
        threads: Calls at once.
        waiting: Calls that may wait for a thread beyond those.
        name: What the threads are called.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, threads: int, waiting: int, name: str = "fnship"
    ) -> None:
        self._loop = loop
        self._threads = threads
        self._limit = threads + waiting
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._delivering = False
        self._started = 0
        self._unfinished = 0
        self._closed = False

    @property
    def unfinished(self) -> int:
        """Calls that are running or waiting."""
        return self._unfinished

    def submit(self, call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run ``call(*args)`` in a thread, with a copy of the caller's context variables.

        Call it on the event loop. A future cancelled before its turn is skipped.

        Raises:
            PoolFull: Too many are waiting already.
        """
        if self._unfinished >= self._limit or self._closed:
            raise PoolFull
        self._unfinished += 1
        if self._started < self._threads and self._started < self._unfinished:
            self._start_thread()
        future = self._loop.create_future()
        self._jobs.put(_Job(future, contextvars.copy_context(), call, args))
        return future

    def _start_thread(self) -> None:
        number = self._started + 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process may have no more of them
            if self._started == 0:
                self._unfinished -= 1
                raise PoolFull from None
        else:
            self._started = number

    def close(self) -> None:
        """Let idle threads end, and busy ones after what they are doing."""
        self._closed = True
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            value, error = None, None
            if not job.future.cancelled():
                try:
                    value = job.context.run(job.call, *job.args)
                except BaseException as exc:  # noqa: BLE001 - it is the caller's, not this thread's
                    error = exc
            self._done.append((job.future, value, error))
            del job, value, error
            # One wake-up of the loop delivers all that is done by then.
            if not self._delivering:
                self._delivering = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # the loop is closed; nobody waits any more

    def _deliver(self) -> None:
        self._delivering = False
        while self._done:
            future, value, error = self._done.popleft()
            self._unfinished -= 1
            if future.cancelled():
                continue
            if error is None:
                future.set_result(value)
            elif isinstance(error, StopIteration | GeneratorExit):
                # A future cannot carry one: it would end the coroutine that awaits it.
                carried = RuntimeError(f"the handler raised {type(error).__name__}: {error}")
                future.set_exception(carried.with_traceback(error.__traceback__))
            else:
                future.set_exception(error)
