"""The development server: one process, and a fresh one after each save where asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, TypeAlias

from fnship.errors import UsageError
from fnship.server import kinds
from fnship.server.asgi import ASGIFunction
from fnship.server.process import check_installation, load_function, say
from fnship.server.sockets import address, listen
from fnship.settings import Settings

__all__ = ["run"]

_DEFAULT_HOST: Final = "127.0.0.1"
_DEFAULT_PORT: Final = 5000
_POLL: Final = 200  # milliseconds between looks at the function's process
_PATIENCE: Final = 5.0  # seconds that the old process gets to finish its requests
_Seen: TypeAlias = tuple[str, int, int]  # a path, when it was changed, and its size

_TOO_SOON: Final = 2.0  # seconds; a process that ends within them may only do so again
_PAUSE_FIRST: Final = 0.5  # seconds until it is started again all the same, unless it is saved
_PAUSE_LONGEST: Final = 4.0  # what that doubles up to: meanwhile calls wait


def run(folder: Path, settings: Settings, *, reload: bool) -> int:
    """Serve the function in `folder` until Ctrl-C.

    With `reload`, a handler that cannot be loaded is answered with status 500 and what is wrong
    until the next save mends it.

    Args:
        folder: Where ``function/handler.py`` is.
        settings: The address is 127.0.0.1:5000 unless they say otherwise.
        reload: Whether to start anew after each save.

    Returns:
        The exit status.

    Raises:
        UsageError: The port is busy, the folder is not there or, without `reload`, the handler
            cannot be loaded.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; write one with `fnship new {folder}`")
    check_installation()
    # Whatever environment this is started in, no watchdog stands in front of it.
    settings = dataclasses.replace(settings, fprocess="", watchdog="of-watchdog")
    kinds.check_kind(settings.server, settings)
    folder = folder.resolve()
    os.chdir(folder)  # as in the image, whose working directory is the project's folder
    port = _DEFAULT_PORT if settings.port is None else settings.port
    with listen(settings.host or _DEFAULT_HOST, port) as listener:
        if reload:
            return _Reloading(folder, settings, listener).run()
        function = load_function(settings.target, settings, os.environ, folder)
        _serve(function, settings, listener)
    return 0


def _serve(function: ASGIFunction, settings: Settings, listener: socket.socket) -> None:
    greeting = f"serving {settings.target} on {address(listener)}"
    kinds.run_single(
        settings.server,
        function,
        listener,
        announce=lambda: say(greeting),
        say=say,
    )


class _Reloading:
    """Keeps the socket, and puts a new process behind it after each save.

    Connections that come in between wait in the socket's queue; none is refused.
    """

    def __init__(self, folder: Path, settings: Settings, listener: socket.socket) -> None:
        self._folder = folder
        self._settings = settings
        self._listener = listener
        self._spawn = multiprocessing.get_context("spawn")
        self._process: SpawnProcess | None = None
        self._started = 0.0
        self._pause = 0.0
        self._due = 0.0  # when it is started again, where it has ended

    def run(self) -> int:
        from watchfiles import PythonFilter, watch

        signal.signal(signal.SIGTERM, _interrupt)
        before: set[_Seen] | None = _seen(self._folder)
        try:
            self._start()
            for changes in watch(
                self._folder,
                watch_filter=PythonFilter(),
                rust_timeout=_POLL,
                yield_on_timeout=True,
                raise_interrupt=True,
            ):
                names = {Path(path).name for _, path in changes}
                if before is not None:
                    # What was saved before there was a watch on it.
                    names |= {Path(path).name for path, *_ in before ^ _seen(self._folder)}
                    before = None
                if names:
                    say(f"{', '.join(sorted(names))} changed; starting anew")
                    self._stop()
                    self._pause = 0.0
                    self._start()
                else:
                    self._revive()
        except KeyboardInterrupt:
            pass  # the way to end it
        finally:
            self._stop(None)  # a second signal cuts it off, as without --reload
        return 0

    def _start(self) -> None:
        self._started = time.monotonic()
        self._process = self._spawn.Process(
            target=_serve_here, args=(self._folder, self._settings, self._listener)
        )
        resource_tracker.ensure_running()  # which would unblock what is blocked here
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # for the new process
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _stop(self, patience: float | None = _PATIENCE) -> None:
        process, self._process = self._process, None
        if process is None or process.pid is None:
            return
        process.terminate()
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C: not even so long
            process.join(patience)
        if process.exitcode is None:
            process.kill()
            process.join()

    def _revive(self) -> None:
        """Start anew what ended by itself; not at once where it would only end again."""
        now = time.monotonic()
        process = self._process
        if process is not None and process.exitcode is not None:
            self._process = None
            too_soon = now - self._started < _TOO_SOON
            self._pause = min(max(_PAUSE_FIRST, 2 * self._pause), _PAUSE_LONGEST) * too_soon
            self._due = now + self._pause
            when = f" in {self._pause:g} s" if self._pause else ""
            status = process.exitcode
            say(f"the function's process ended with status {status}; starting it again{when}")
        if self._process is None and now >= self._due:
            self._start()


def _seen(folder: Path) -> set[_Seen]:
    """The Python files of a folder, with what changes when they are saved."""
    found: set[_Seen] = set()
    for root, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith((".", "__pycache__"))]
        for file in files:
            if file.endswith(".py"):
                path = os.path.join(root, file)  # noqa: PTH118 - there may be many
                with contextlib.suppress(OSError):
                    status = os.stat(path)  # noqa: PTH116 - see above
                    found.add((path, status.st_mtime_ns, status.st_size))
    return found


def _serve_here(folder: Path, settings: Settings, listener: socket.socket) -> None:
    """What the process behind the socket does: serve, or say what is wrong until a save."""
    os.setsid()  # a Ctrl-C at the terminal goes to the parent alone, which passes it on
    # So does one that came before.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, handler)
    # Bytecode is told from older source by its size and second, and saves come faster.
    sys.dont_write_bytecode = True
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function = load_function(settings.target, settings, os.environ, folder)
        _serve(function, settings, listener.dup())
    except UsageError as exc:
        say(f"error: {exc}")
        _serve(ASGIFunction(None, settings, os.environ, exc), settings, listener)


def _end_with_parent() -> None:
    """Stop when the parent is gone, however it went: nobody else would stop this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's
    raise KeyboardInterrupt
