"""Brings log lines to the engine while functions run.

Each attempt at an activity has a `LogStream`: its lines leave in order, one batch at a time.
A batch keeps its number and content until the engine has stored it, so that an engine that
honours ``X-Log-Batch`` stores it exactly once however often it is sent.

Where an engine offers it, small batches of several attempts share a request.

An engine that fails is *sick*: its streams are parked, one of them at a time tries again with
growing pauses, and nothing waits for it. The first success brings all of them back.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fnship.function.log_engine import Engine, Engines, upload_url
from fnship.function.log_poster import Posted, Poster, PostFailed
from fnship.function.log_shared import NotShared, SharedUploads
from fnship.function.log_stream import Batch, LogStream
from fnship.settings import Settings

__all__ = ["LogUploads"]

_FLUSH_INTERVAL: Final = 0.25  # seconds that a line may wait for others
_STREAM_COST: Final = 1024  # bytes that an activity's own bookkeeping counts for, about
_LOOKED_AT: Final = 32  # streams, when room is made for one line
_TRIES_ALONE: Final = 10  # uploads that fail while those of others succeed
_PAUSE_FIRST: Final = 0.25
_PAUSE_LONGEST: Final = 15.0
_PAUSE_AT_CLOSE_FIRST: Final = 0.05
_LAST_MOMENT: Final = 1.0
_PAUSE_AT_CLOSE: Final = 0.5
_ENDPOINTS_REMEMBERED: Final = 256
_RETRYABLE: Final = frozenset({408, 425, 429})


class LogUploads:
    """All the log streams of one process, on one event loop.

    Args:
        settings: The ``LOG_*`` settings, and ``ENGINE_ALLOWED_HOSTS``.
        poster: Sends the batches.
        say: Called with a sentence when lines are lost or an engine is not to be had.
    """

    def __init__(self, settings: Settings, poster: Poster, say: Callable[[str], None]) -> None:
        self._capacity = settings.log_buffer_capacity
        self._limit = settings.log_buffer_bytes
        self._wait = settings.log_flush_wait
        self._close_within = settings.log_flush_timeout
        self._poster = poster
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._room = asyncio.Semaphore(settings.log_upload_max_connections)
        # For the buffers, which any thread fills. A collection that runs while it is held may log.
        self._lock = threading.RLock()
        self._bytes = 0
        self._unsent: OrderedDict[LogStream, None] = OrderedDict()  # oldest line first
        self._due: set[LogStream] = set()
        self._tick_armed = False
        self._engines: Engines[LogStream] = Engines(settings.engine_allowed_hosts, say)
        self._shared: OrderedDict[str, SharedUploads] = OrderedDict()  # by their URLs
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = contextvars.Context()  # so that no upload counts as part of an invocation
        self._prepared = False
        self._closing = False
        self._closed = False
        self._lost = 0
        self._drops_said = False

    @property
    def buffered(self) -> int:
        """Bytes of lines that are not stored by their engines yet."""
        return self._bytes

    def stream(
        self, endpoint: str, path: str, token: str, attempt: int, *, shared: str | None = None
    ) -> LogStream | None:
        """Open the stream of one attempt.

        Args:
            endpoint: The engine's base URL.
            path: The path to upload to.
            token: Proves to the engine whose lines they are.
            attempt: The attempt's number.
            shared: The path that takes uploads of many attempts; None where there is none.

        Returns:
            The stream; None where nothing may be sent there, which is said once a host.
        """
        engine = self._engines.at(endpoint, path)
        if engine is None:
            return None
        if not self._prepared:
            self._prepared = True
            self._later(self._prepare)
        url = upload_url(endpoint, path) + ("&" if "?" in path else "?") + "append=true"
        together = self._together(upload_url(endpoint, shared)) if shared else None
        return LogStream(self, engine, url, token, attempt, together)

    def _together(self, url: str) -> SharedUploads:
        with self._lock:
            found = self._shared.get(url)
            if found is None:

                async def send(headers: dict[str, str], body: bytes) -> Posted:
                    async with self._room:
                        return await self._poster.post(url, headers, body)

                found = self._shared[url] = SharedUploads(send, self._spawn)
                if len(self._shared) > _ENDPOINTS_REMEMBERED:
                    self._shared.popitem(last=False)  # streams that have it keep it
            return found

    def send_all(self) -> None:
        """Start sending what there is, without waiting for more."""
        for stream in list(self._unsent):
            self.send(stream)

    async def close(self, spent: float = 0.0) -> None:
        """Deliver what is left within ``LOG_FLUSH_TIMEOUT``; say once what could not be.

        Args:
            spent: Seconds of that time that are gone already. However many they are, the lines
                of the last requests get a moment.
        """
        self._closing = True
        within = max(self._close_within - spent, min(self._close_within, _LAST_MOMENT))
        deadline = self._loop.time() + within
        pause = _PAUSE_AT_CLOSE_FIRST
        while True:
            for engine in self._engines:
                if engine.probe is not None:
                    engine.probe.cancel()
                    engine.probe = None
                engine.parked.clear()
            self.send_all()
            remaining = deadline - self._loop.time()
            if not self._unsent or remaining <= 0:
                break
            if self._tasks:
                await asyncio.wait(
                    self._tasks, timeout=remaining, return_when=asyncio.FIRST_COMPLETED
                )
            failed = any(stream.engine.sick for stream in self._unsent)
            if self._unsent and failed and not any(each.sending for each in self._unsent):
                await asyncio.sleep(min(pause, max(0.0, deadline - self._loop.time())))
                pause = min(pause * 2, _PAUSE_AT_CLOSE)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._closed = True
        self._report_losses()
        await self._poster.close()

    def _report_losses(self) -> None:
        left = sum(
            len(each.lines) + (each.batch.lines if each.batch else 0) for each in self._unsent
        )
        problems = {each.engine.last_problem for each in self._unsent} - {""}
        self._unsent.clear()
        lost = self._lost + left
        if lost:
            why = f" ({'; '.join(sorted(problems))})" if problems else ""
            self._say(f"{lost} log lines never reached the engine{why}; they are on stdout only")

    # Filling the buffers, from any thread

    def take(self, stream: LogStream, line: bytes) -> None:
        """Put `line` into the stream's buffer; see `fnship.function.log_stream.Carrier`."""
        with self._lock:
            stream.lines.append(line)
            count = len(stream.lines)
            self._bytes += len(line)
            if stream not in self._unsent:
                self._unsent[stream] = None
                self._bytes += _STREAM_COST
            over = self._bytes > self._limit
            dropped = self._make_room(stream) if over else 0
        if count == 1 or count == self._capacity or dropped:
            # In between, the stream is due already and will be looked at.
            if threading.get_ident() == self._thread:
                self._added(stream, dropped)
            else:
                self._later(self._added, stream, dropped)

    def _later(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args, context=self._context)
        except RuntimeError:
            self._lost += 1  # the loop is closed: a thread outlived the server

    def _make_room(self, newest: LogStream) -> int:
        """Drop the oldest lines until the rest fits; the newest line always stays."""
        dropped = 0
        for stream in list(itertools.islice(self._unsent, _LOOKED_AT)):
            if stream.batch is not None and not stream.sending:
                dropped += stream.batch.lines
                stream.dropped += stream.batch.lines
                self._bytes -= stream.batch.size
                stream.batch = None
            keep = 1 if stream is newest else 0
            while len(stream.lines) > keep and self._bytes > self._limit:
                self._bytes -= len(stream.lines.popleft())
                stream.dropped += 1
                dropped += 1
            if not stream.unsent and not stream.sending:
                self._forget(stream)
                self._later(stream.engine.parked.pop, stream, None)
            if self._bytes <= self._limit:
                break
        self._lost += dropped
        return dropped

    def _forget(self, stream: LogStream) -> None:
        """Stop counting a stream that has nothing to send. Called with the lock held."""
        if stream in self._unsent:
            del self._unsent[stream]
            self._bytes -= _STREAM_COST

    # On the event loop

    def _prepare(self) -> None:
        self._spawn(self._poster.prepare())

    def _added(self, stream: LogStream, dropped: int) -> None:
        if dropped and not self._drops_said:
            self._drops_said = True
            self._say(
                f"the engine at {stream.engine.origin} does not take log lines fast enough: the "
                "oldest unsent ones are dropped, beyond LOG_BUFFER_BYTES"
            )
        if stream.sending:
            return
        if len(stream.lines) >= self._capacity or self._closing:
            self.send(stream)
            return
        self._due.add(stream)
        if not self._tick_armed:
            self._tick_armed = True
            self._loop.call_later(_FLUSH_INTERVAL, self._tick, context=self._context)

    def _tick(self) -> None:
        self._tick_armed = False
        due, self._due = self._due, set()
        for stream in due:
            self.send(stream)

    def send(self, stream: LogStream) -> None:
        """Start sending what `stream` has, unless that is under way or its engine is sick."""
        self._due.discard(stream)
        if stream.sending or not stream.unsent or self._closed:
            return
        if stream.paused and not self._closing:
            return
        if stream.engine.sick and not self._closing:
            self._park(stream)
            return
        stream.sending = True
        self._spawn(self._deliver(stream))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine, context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, stream: LogStream) -> None:
        """Send batch after batch, until there is none or one fails."""
        engine = stream.engine
        try:
            while True:
                with self._lock:
                    batch = stream.take_batch()
                    if batch is None:
                        self._forget(stream)
                        break
                if not await self._deliver_batch(stream, batch):
                    break
                with self._lock:
                    self._bytes -= batch.size
                    stream.batch = None
                if engine.sick:
                    self._recovered(engine)
        finally:
            stream.sending = False
            if engine.sick and stream.unsent and not self._closing:
                self._park(stream)
            stream.release()

    async def _deliver_batch(self, stream: LogStream, batch: Batch) -> bool:
        """Send one batch. Returns whether it is done with: stored, or refused for good."""
        engine = stream.engine
        started = self._loop.time()
        try:
            status = await self._post(stream, batch)
        except PostFailed as exc:
            return self._failed(stream, batch, str(exc), started)
        except Exception as exc:  # noqa: BLE001 - no trouble of the client's may lose a line
            return self._failed(stream, batch, f"{engine.origin}: {type(exc).__name__}", started)
        if 200 <= status < 300:
            engine.stored += 1
            stream.failures = 0
            engine.slow = engine.slow and self._loop.time() - started > self._wait
            return True
        if status >= 500 or status in _RETRYABLE:
            return self._failed(stream, batch, f"{engine.origin} answers {status}", started)
        # The token has expired, or the engine does not want them: sending again cannot help.
        self._lost += batch.lines
        self._say(
            f"the engine at {engine.origin} refused {batch.lines} log lines with status {status}; "
            "they are on stdout only"
        )
        return True

    async def _post(self, stream: LogStream, batch: Batch) -> int:
        if stream.shared is not None and stream.shared.takes(batch.content):
            try:
                return await stream.shared.post(stream.part(batch))
            except NotShared:
                pass  # as it is, from now on
        async with self._room:
            return (await self._poster.post(stream.url, *stream.request(batch))).status

    # Sick engines

    def _failed(self, stream: LogStream, batch: Batch, problem: str, started: float) -> bool:
        """Take note of a failed upload. Returns whether its batch is given up."""
        engine = stream.engine
        stream.failures += 1
        # An engine that stores what others send has trouble with this one alone.
        alone = stream.failures > 1 and engine.stored > stream.stored_before
        stream.stored_before = engine.stored
        if alone and stream.failures > _TRIES_ALONE:
            self._lost += batch.lines
            self._say(f"{batch.lines} log lines of one activity are given up: {problem}")
            stream.failures = 0
            return True
        if alone:
            engine.last_problem = problem
            stream.paused = True
            self._loop.call_later(
                _pause(stream.failures), self._resume, stream, context=self._context
            )
            return False
        if engine.failed(problem, started, self._loop.time()):
            self._say(f"log lines cannot be delivered for now, and are kept: {problem}")
        return False

    def _resume(self, stream: LogStream) -> None:
        stream.paused = False
        self.send(stream)

    def _recovered(self, engine: Engine[LogStream]) -> None:
        engine.failures = 0
        engine.last_problem = ""
        self._drops_said = False
        if engine.probe is not None:
            engine.probe.cancel()
            engine.probe = None
        parked, engine.parked = engine.parked, OrderedDict()
        for stream in parked:
            self.send(stream)

    def _park(self, stream: LogStream) -> None:
        engine = stream.engine
        engine.parked[stream] = None
        stream.release()
        if engine.probe is None:
            engine.probe = self._loop.call_later(
                _pause(engine.failures), self._probe, engine, context=self._context
            )

    def _probe(self, engine: Engine[LogStream]) -> None:
        """Let the stream that has waited longest try; the others follow if it succeeds."""
        engine.probe = None
        while engine.parked:
            stream, _ = engine.parked.popitem(last=False)
            if stream.unsent and not stream.sending:
                stream.sending = True
                self._spawn(self._deliver(stream))
                return


def _pause(failures: int) -> float:
    """Seconds until the next try, by the failures in a row."""
    longest = min(_PAUSE_LONGEST, _PAUSE_FIRST * 2.0 ** min(failures - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, no secret
