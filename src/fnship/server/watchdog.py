"""The native watchdog: what a watchdog in front of the function would do, done inside it.

It counts requests over all workers, refuses what is beyond ``max_inflight``, holds the lock file
for as long as requests are accepted, and serves the metrics on a port of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fnship.errors import UsageError
from fnship.server.metrics import Counters, Slot, render
from fnship.server.places import Places, make_places
from fnship.settings import Settings

__all__ = ["LOCK_FILE", "Watchdog", "WatchdogShare"]

LOCK_FILE: Final = Path("/tmp/.lock")  # noqa: S108 - the contract's own place, which probes look at
_SCRAPE_SECONDS: Final = 10.0


class WatchdogShare:
    """What the workers of one server share; made before they are forked.

    Args:
        settings: ``max_inflight``, ``suppress_lock`` and the like.
        workers: How many processes serve at once.
        metrics_listener: Where the metrics are served.
    """

    def __init__(self, settings: Settings, workers: int, metrics_listener: socket.socket) -> None:
        self.settings = settings
        self.counters = Counters(workers)
        self.metrics_listener = metrics_listener
        # A process alone can count by itself.
        shared = settings.max_inflight > 0 and workers > 1
        self._places = make_places(settings.max_inflight) if shared else None
        self.alone = workers == 1
        self._master = os.getpid()
        self._closing = mmap.mmap(-1, 1)  # b"\x01" once the server has been told to stop
        self._free = list(range(workers))

    def prepare_lock(self) -> None:
        """See that the lock file can be made, and take away one that a killed server has left.

        Raises:
            UsageError: It cannot be made; says the mend.
        """
        if self.settings.suppress_lock:
            return
        try:
            LOCK_FILE.touch()
            LOCK_FILE.unlink()
        except OSError as exc:
            raise UsageError(
                f"cannot write {LOCK_FILE}: {exc.strerror}; mount a tmpfs on {LOCK_FILE.parent}, "
                "or set suppress_lock=true"
            ) from exc

    def take_lock(self) -> None:
        """Make the lock file, as requests are accepted from now on. Called in a worker."""
        if self.settings.suppress_lock:
            return
        with contextlib.suppress(OSError):  # a full disk; it could be made a moment ago
            LOCK_FILE.touch()
        if self.closing:
            self._drop_lock()  # the master may have taken it away just before it was made

    def _drop_lock(self) -> None:
        if not self.settings.suppress_lock:
            with contextlib.suppress(OSError):  # whoever took it away has done what we would
                LOCK_FILE.unlink(missing_ok=True)

    @property
    def closing(self) -> bool:
        """Whether no more requests should come."""
        return bool(self._closing[0])

    def close(self) -> None:
        """Say, for all workers, that no more requests should come, and drop the lock file.

        Only in the process that made this: a worker that ends speaks for itself alone.
        """
        if os.getpid() != self._master:
            return
        self._closing[0] = 1
        self._drop_lock()

    def join(self, index: int) -> Watchdog:
        """The watchdog of the worker that counts in slot `index`. Called in that worker."""
        return Watchdog(self, self.counters.slots[index], self._places)

    def assign(self) -> int:
        """Take a slot for a worker that is about to be forked. Called in the master."""
        return self._free.pop()

    def left(self, index: int) -> None:
        """Free the slot of a worker that is gone, and the places that it held."""
        lost = self.counters.slots[index].forget()
        if self._places is not None:
            self._places.give(lost)
        self._free.append(index)


class Watchdog:
    """One worker's part in it. Made by `WatchdogShare.join`.

    Attributes:
        enter: Takes a place for a request. Returns whether there was one.
        leave: Counts the answer by method, status and seconds, and gives the place back.
    """

    def __init__(self, share: WatchdogShare, slot: Slot, places: Places | None) -> None:
        self.enter: Callable[[], bool] = slot.begin
        self.leave: Callable[[str, int, float], None] = slot.end
        self._share = share
        self._slot = slot
        self._places = places
        self._limit = share.settings.max_inflight
        self._metrics_server: asyncio.Server | None = None
        self._open = False
        # What every request passes: a process alone asks nobody for a place, or only itself.
        if places is not None:
            self.enter, self.leave = self._enter_shared, self._leave_shared
        elif self._limit:
            self.enter = self._enter_alone

    async def open(self) -> None:
        """Begin: requests are accepted from now on."""
        self._open = True
        self._share.take_lock()
        self._metrics_server = await asyncio.start_server(
            self._scrape, sock=self._share.metrics_listener.dup()
        )

    def drain(self) -> None:
        """Say that no more requests should come to this worker."""
        self._open = False
        if self._share.alone:
            self._share.close()  # otherwise the master does, who knows whether all of them stop

    async def close(self) -> None:
        """End."""
        self.drain()
        if self._metrics_server is not None:
            self._metrics_server.close()

    @property
    def accepting(self) -> bool:
        """Whether requests should come: from the start until a worker is told to stop."""
        return self._open and not self._share.closing

    @property
    def full(self) -> bool:
        """Whether ``max_inflight`` is reached, over all workers."""
        return self._limit > 0 and self._share.counters.in_flight >= self._limit

    def _enter_alone(self) -> bool:
        return self._slot.in_flight < self._limit and self._slot.begin()

    def _enter_shared(self) -> bool:
        assert self._places is not None
        return self._places.take() and self._slot.begin()

    def _leave_shared(self, method: str, code: int, seconds: float) -> None:
        assert self._places is not None
        self._slot.end(method, code, seconds)
        self._places.give(1)

    def refused(self, method: str, code: int) -> None:
        """Count a request that got no place."""
        self._slot.begin()
        self._slot.end(method, code, 0.0)

    async def _scrape(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one scrape: any GET, whatever its path says but /metrics is a 404."""
        try:
            async with asyncio.timeout(_SCRAPE_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                known = request.startswith((b"GET /metrics ", b"GET /metrics?"))
                body = render(self._share.counters) if known else b"the metrics are at /metrics\n"
                status = b"200 OK" if known else b"404 Not Found"
                kind = b"text/plain; version=0.0.4; charset=utf-8"
                writer.write(
                    b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
                    b"connection: close\r\n\r\n%b" % (status, kind, len(body), body)
                )
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # a scraper that goes away or talks nonsense is owed nothing
        finally:
            writer.close()
