"""A function folder, served by a process of ours for as long as the engine runs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fnship.engine.runners.runner import Place, Runner, Unready
from fnship.errors import InvalidRequest, Overloaded

__all__ = ["FolderRunner", "check_folder"]

_SERVING: Final = re.compile(r"fnship: serving .* on (http://\S+)\s*")
_ANEW: Final = re.compile(r"fnship: .* changed; starting anew")
_DIED: Final = re.compile(r"fnship: the function's process ended with status .*")
_READY_WITHIN: Final = 60.0  # seconds
_PR_SET_PDEATHSIG: Final = 1  # of prctl(2)


class FolderRunner(Runner):
    """Runs the server of one folder, which reloads itself when a file of the folder changes.

    Args:
        folder: The function's folder.
        on_line: Told each line that the server writes.
    """

    def __init__(self, folder: Path, on_line: Callable[[str], None]) -> None:
        super().__init__(on_line)
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._serving: asyncio.Future[str] | None = None  # where, once it does
        self._dying: asyncio.Future[None] | None = None

    def doubt(self, place: Place) -> None:
        """Do nothing: that a process has ended is noticed at once."""

    def _runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _start(self) -> None:
        self._serving = asyncio.get_running_loop().create_future()
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
        self._listen_to(process)

    async def _find(self) -> Place:
        dying = self._dying = asyncio.get_running_loop().create_future()
        finding = asyncio.create_task(self._until_served())
        try:
            async with asyncio.timeout(_READY_WITHIN):
                waited: list[asyncio.Future[Any]] = [finding, dying, *self._readers]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if finding.done() and (place := finding.result()) is not None:
                    return place
                if dying.done():
                    raise Unready(self._why())
                await asyncio.wait(self._readers)
        except TimeoutError:
            raise Overloaded(
                f"the function in {self._folder} was not ready within {_READY_WITHIN:g} s"
            ) from None
        finally:
            finding.cancel()
            await asyncio.wait([finding])
        raise Overloaded(self._why())

    async def _until_served(self) -> Place | None:
        """Wait until it is ready. Returns where it is; None where it runs no more."""
        while (serving := self._serving) is not None:
            url = await serving
            if not await self._until_ready(url):
                return None
            if serving is self._serving:  # and it was not for a process that is gone again
                return Place(url)
        return None

    def _why(self) -> str:
        return f"the function in {self._folder} does not start: {self._last_words()}"

    def _heard(self, line: str) -> None:
        match = _SERVING.fullmatch(line)
        if match is None:
            super()._heard(line)
            if _ANEW.fullmatch(line) or _DIED.fullmatch(line):
                self._begins_anew(died=_DIED.fullmatch(line) is not None)
        elif self._serving is not None and not self._serving.done():
            self._serving.set_result(match[1])

    def _begins_anew(self, *, died: bool) -> None:
        """Heed that the server puts a new process in the place of one, which may be worse."""
        self._place = None
        if self._serving is not None and self._serving.done():
            self._serving = asyncio.get_running_loop().create_future()
        if died and self._dying is not None and not self._dying.done():
            self._dying.set_result(None)

    async def _stop(self, patience: float) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)  # at a SIGTERM it may wait for a watchdog first
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), patience)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


def check_folder(location: str) -> str:
    """See that there is a function in a folder. Returns its absolute path.

    Raises:
        InvalidRequest: There is none.
    """
    folder = Path(location)
    if not folder.is_absolute():
        raise InvalidRequest(f"the folder {location!r} is not absolute")
    handler = folder / "function" / "handler"
    try:
        is_there = folder.is_dir()
        has_handler = handler.with_suffix(".py").is_file() or handler.is_dir()
    except OSError as exc:
        raise InvalidRequest(f"the folder cannot be looked at: {exc.strerror}") from exc
    if not is_there:
        raise InvalidRequest(f"there is no folder {location!r}")
    if not has_handler:
        raise InvalidRequest(f"there is no function/handler.py in {location!r}")
    return os.path.normpath(folder)


def _end_with_parent() -> None:
    """In the new process: have it stopped when the engine is gone, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
