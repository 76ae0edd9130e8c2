"""A function folder, served by a process of ours for as long as the engine runs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp

from fnship import contract
from fnship.errors import InvalidRequest, Overloaded

__all__ = ["FolderRunner", "check_folder"]

_SERVING: Final = re.compile(r"fnship: serving .* on (http://\S+)\s*")
_READY_WITHIN: Final = 60.0  # seconds
_STOP_WITHIN: Final = 15.0  # seconds; longer than LOG_FLUSH_TIMEOUT by default
_POLL: Final = 0.02
_LAST_WORDS: Final = 3  # lines of its stderr that say why it ended
_AGAIN_AFTER: Final = 1.0  # seconds after which one that does not start is started again
_PR_SET_PDEATHSIG: Final = 1  # of prctl(2)


class FolderRunner:
    """Starts the server of one folder when it is first called, and again when it has died.

    It reloads itself when a file of the folder changes.

    Args:
        folder: The function's folder.
        on_line: Told each line that the server writes.
    """

    def __init__(self, folder: Path, on_line: Callable[[str], None]) -> None:
        self._folder = folder
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._url: str | None = None
        self._starting = asyncio.Lock()
        self._readers: list[asyncio.Task[None]] = []
        self._said: deque[str] = deque(maxlen=_LAST_WORDS)
        self._known = asyncio.Event()
        self._failed_at = 0.0

    async def url(self) -> str:
        """Where it answers.

        Raises:
            Overloaded: It does not start; says why. It is tried again a second later.
        """
        if self._url is not None and self._runs():
            return self._url
        async with self._starting:
            if self._url is not None and self._runs():
                return self._url
            if time.monotonic() - self._failed_at < _AGAIN_AFTER:
                raise Overloaded(self._why())
            try:
                return await self._start()
            except BaseException:
                self._failed_at = time.monotonic()
                await self._stop()
                raise

    async def close(self) -> None:
        """Stop it; it finishes what it holds."""
        async with self._starting:
            await self._stop()

    def _runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _start(self) -> str:
        await self._stop()
        self._known.clear()
        self._said.clear()
        command = [sys.executable, "-P", "-m", "fnship", "run", "--host", "127.0.0.1"]
        self._process = process = await asyncio.create_subprocess_exec(
            *command,
            *("--port", "0", "--reload", "--", str(self._folder)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
            preexec_fn=_end_with_parent,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self._on_line)),
            asyncio.create_task(self._read(process.stderr, self._heard)),
        ]
        try:
            async with asyncio.timeout(_READY_WITHIN):
                await self._known.wait()
                if self._url is None:
                    await process.wait()
                    raise Overloaded(self._why())
                await self._until_ready(process, self._url)
        except TimeoutError:
            raise Overloaded(
                f"the function in {self._folder} was not ready within {_READY_WITHIN:g} s"
            ) from None
        return self._url

    async def _until_ready(self, process: asyncio.subprocess.Process, url: str) -> None:
        """Wait until it is; one whose handler cannot be imported says so in its answers."""
        async with aiohttp.ClientSession() as session:
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url + contract.READY_PATH) as response:
                        if response.status == 200 or '"starting"' not in await response.text():
                            return
                await asyncio.sleep(_POLL)
        raise Overloaded(self._why())

    async def _read(self, stream: asyncio.StreamReader, tell: Callable[[str], None]) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # longer than the limit; what was read of it is dropped
            if not line:
                break
            tell(line.decode(errors="replace").rstrip("\n"))
        self._known.set()

    def _heard(self, line: str) -> None:
        match = _SERVING.fullmatch(line)
        if match is not None:
            self._url = match[1]
            self._known.set()
        else:
            self._said.append(line)
            self._on_line(line)

    def _why(self) -> str:
        said = "; ".join(self._said) or "it said nothing"
        return f"the function in {self._folder} does not start: {said}"

    async def _stop(self) -> None:
        process, self._process, self._url = self._process, None, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)  # at a SIGTERM it may wait for a watchdog first
            try:
                await asyncio.wait_for(process.wait(), _STOP_WITHIN)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._readers:
            _, left = await asyncio.wait(self._readers, timeout=1.0)
            for reader in left:
                reader.cancel()
        self._readers = []


def check_folder(location: str) -> str:
    """See that there is a function in a folder. Returns its absolute path.

    Raises:
        InvalidRequest: There is none.
    """
    folder = Path(location)
    if not folder.is_absolute():
        raise InvalidRequest(f"the folder {location!r} is not absolute")
    if not folder.is_dir():
        raise InvalidRequest(f"there is no folder {location}")
    handler = folder / "function" / "handler"
    if not handler.with_suffix(".py").is_file() and not handler.is_dir():
        raise InvalidRequest(f"there is no function/handler.py in {location}")
    return os.path.normpath(folder)


def _end_with_parent() -> None:
    """In the new process: have it stopped when the engine is gone, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
