"""What keeps one function running: started when it is first called, again when it has died."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec

from fnship import contract
from fnship.errors import Overloaded, UsageError

__all__ = ["STOP_WITHIN", "Place", "Runner", "Unready"]

STOP_WITHIN: Final = 15.0
"""Seconds that a function gets to end, which calls nobody; more than LOG_FLUSH_TIMEOUT is."""

_AGAIN_AFTER: Final = 1.0  # seconds after which one that does not start is started again
_ANEW_AFTER: Final = 5.0  # seconds after which one that runs, and is not ready, is started anew
_POLL: Final = 0.02
_LAST_WORDS: Final = 3  # lines of its stderr that say why it ended
_LAST_LINES: Final = 1.0  # seconds for what it has written, after its end
_NOT_READY: Final = 503
_PASSING: Final = ("starting", "draining")  # reasons not to be ready which pass
_CLOSED: Final = "the function was changed or removed while it started"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a function is.

    Attributes:
        url: Where it answers.
        endpoint: Where it reaches the engine; None for where every function does.
    """

    url: str
    endpoint: str | None = None


class Unready(Overloaded):
    """It runs, but cannot serve as it is. It is left running: a save may mend it."""


class _Readiness(msgspec.Struct):
    """What a server of ours says that is not ready, whatever it lacks."""

    reason: str = ""
    error_code: int | None = None
    message: str = ""


_READINESS: Final = msgspec.json.Decoder(_Readiness)


class Runner(ABC):
    """Keeps one function running until `close`. For one event loop.

    Args:
        on_line: Told each line that it writes.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._place: Place | None = None
        self._starting: asyncio.Task[Place] | None = None
        self._failure = ""
        self._failed_at = 0.0
        self._started = 0.0
        self._closed = False
        self._readers: list[asyncio.Task[None]] = []
        self._said: deque[str] = deque(maxlen=_LAST_WORDS)

    async def place(self) -> Place:
        """Where it is; it is started where it does not run.

        Raises:
            Overloaded: It does not start; says why. It is tried again a second later. Or it was
                closed, and there is another one now, or none.
        """
        if self._closed:
            raise Overloaded(_CLOSED)
        if self._place is not None and self._runs():
            return self._place
        starting = self._starting
        if starting is None:
            lately = time.monotonic() - self._failed_at < _AGAIN_AFTER
            if self._failure and lately and not self._runs():
                raise Overloaded(self._failure)
            self._starting = starting = asyncio.create_task(self._begin())
            starting.add_done_callback(self._begun)
        # Whoever waits may be cancelled; the start is for the others too. And where that is
        # cancelled, they are not.
        await asyncio.wait([starting])
        if starting.cancelled():
            raise Overloaded(_CLOSED)
        return starting.result()

    async def is_current(self) -> bool:
        """Whether what runs is what would be started now."""
        return True

    async def close(self, patience: float = STOP_WITHIN) -> None:
        """Stop it for good; it finishes what it holds. When this is cancelled it is killed.

        Args:
            patience: Seconds that it gets for that.
        """
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._end(patience)

    async def _begin(self) -> Place:
        try:
            if not self._runs() or self._is_broken():
                await self._end()
                self._said.clear()
                self._started = time.monotonic()
                await self._start()
            self._place = await self._find()
        except Unready:  # which a save may mend
            raise
        except (OSError, UsageError) as exc:
            await self._end()
            raise Overloaded(f"the function does not start: {exc}") from exc
        except BaseException:
            await self._end()
            raise
        return self._place

    def _is_broken(self) -> bool:
        """Whether it was not ready for a while: its ``start()`` may succeed now, without a save."""
        return bool(self._failure) and time.monotonic() - self._started > _ANEW_AFTER

    def _begun(self, starting: asyncio.Task[Place]) -> None:
        self._starting = None
        self._failure = ""
        if not starting.cancelled() and (exc := starting.exception()) is not None:
            self._failed_at = time.monotonic()
            self._failure = str(exc)

    async def _end(self, patience: float = STOP_WITHIN) -> None:
        self._place = None
        await self._stop(patience)
        if self._readers:
            _, left = await asyncio.wait(self._readers, timeout=_LAST_LINES)
            for reader in left:
                reader.cancel()
        self._readers = []

    @abstractmethod
    def doubt(self, place: Place) -> None:
        """Be told that a connection to `place` broke."""

    @abstractmethod
    def _runs(self) -> bool:
        """Whether it still does, after it was started."""

    @abstractmethod
    async def _start(self) -> None:
        """Start it.

        Raises:
            EngineError: It cannot be started; says why.
        """

    @abstractmethod
    async def _find(self) -> Place:
        """Wait until it is ready; asked again where it was not, and runs nevertheless.

        Raises:
            Unready: It may still come to be.
            Overloaded: It will not, and is stopped; says why.
        """

    @abstractmethod
    async def _stop(self, patience: float) -> None:
        """Stop what was started, or the part of it that was; kill it when this is cancelled.

        Args:
            patience: Seconds that it gets to finish what it holds.
        """

    # For those that start a process

    def _listen_to(self, process: asyncio.subprocess.Process) -> None:
        """Pass on what a process writes, and keep the last lines of its stderr."""
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self._on_line)),
            asyncio.create_task(self._read(process.stderr, self._heard)),
        ]

    async def _read(self, stream: asyncio.StreamReader, tell: Callable[[str], None]) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # longer than the limit; what was read of it is dropped
            if not line:
                return
            tell(line.decode(errors="replace").rstrip("\n"))

    def _heard(self, line: str) -> None:
        self._said.append(line)
        self._on_line(line)

    def _last_words(self) -> str:
        return "; ".join(self._said) or "it said nothing"

    async def _until_ready(self, url: str) -> bool:
        """Wait until it is ready.

        Returns:
            Whether it is; False where it runs no more.

        Raises:
            Unready: Its handler cannot be loaded, or its ``start()`` failed; says why.
        """
        async with aiohttp.ClientSession() as session:
            while self._runs():
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url + contract.READY_PATH) as response:
                        if response.status != _NOT_READY or _decides(await response.read()):
                            return True
                await asyncio.sleep(_POLL)
        return False


def _decides(answer: bytes) -> bool:
    """Whether a server that is not ready is to be called all the same, and not asked again.

    Raises:
        Unready: It would answer every call with an error.
    """
    try:
        found = _READINESS.decode(answer)
    except msgspec.DecodeError:
        return True  # it speaks of something else there
    if found.error_code is not None:
        raise Unready(f"the function does not start: {found.message}")
    return found.reason not in _PASSING
