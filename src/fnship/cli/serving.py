"""A function folder, served by a process of its own for as long as one call lasts."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import IO, Final

import click

from fnship import contract
from fnship.cli.output import Unreachable, complain, note

__all__ = ["serve_folder"]

_SERVING: Final = re.compile(r"fnship: serving .* on (http://\S+)\s*")
_READY_WITHIN: Final = 120.0  # seconds for start() to finish and ready() to say yes
_STOP_WITHIN: Final = 15.0  # seconds; longer than LOG_FLUSH_TIMEOUT by default
_POLL: Final = 0.02


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the function in `folder` on a free port of the loopback address.

    What it writes on stderr is passed on; its stdout, which repeats the log lines that the
    caller gets as an engine, is not.

    Yields:
        Its URL, once it is ready.

    Raises:
        click.exceptions.Exit: It could not start, and has said why on stderr.
        Unreachable: It did not become ready.
    """
    command = [sys.executable, "-P", "-m", "fnship", "run", "--host", "127.0.0.1", "--port", "0"]
    child = subprocess.Popen(  # noqa: S603 - our own command; the folder is one argument of it
        [*command, "--", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    stderr = _Stderr(child.stderr)
    try:
        url = stderr.wait_for_url()
        if url is None:
            raise click.exceptions.Exit(_failed_status(child.wait(), stderr.said_anything))
        _wait_until_ready(url, child)
        yield url
    finally:
        _stop(child)
        stderr.join(_STOP_WITHIN)  # what the function started may hold it open for longer


class _Stderr(threading.Thread):
    """Passes the child's stderr on, and picks its address out of it."""

    def __init__(self, stream: IO[str] | None) -> None:
        super().__init__(name="fnship-invoke-stderr", daemon=True)
        assert stream is not None
        self.said_anything = False
        self._stream = stream
        self._known = threading.Event()
        self._url: str | None = None
        self.start()

    def run(self) -> None:
        with self._stream:
            for line in self._stream:
                match = _SERVING.fullmatch(line)
                if match:
                    self._url = match[1]
                    self._known.set()
                else:
                    self.said_anything = True
                    note(line.rstrip("\n"))
        self._known.set()

    def wait_for_url(self) -> str | None:
        """The child's URL; None where its stderr ended without one."""
        self._known.wait()
        return self._url


def _failed_status(status: int, said_why: bool) -> int:
    if not said_why:
        complain(f"the function's process ended with status {status} while it started")
    return status if status > 0 else 1


def _wait_until_ready(url: str, child: subprocess.Popen[str]) -> None:
    import urllib3

    answer = "no answer"
    limit = time.monotonic() + _READY_WITHIN
    with urllib3.PoolManager(retries=False, timeout=_READY_WITHIN) as pool:
        while time.monotonic() < limit and child.poll() is None:
            with suppress(urllib3.exceptions.HTTPError):
                response = pool.request("GET", f"{url}{contract.READY_PATH}")
                if response.status == HTTPStatus.OK:
                    return
                answer = response.data.decode(errors="replace")
            time.sleep(_POLL)
    if (status := child.poll()) is not None:
        raise click.exceptions.Exit(_failed_status(status, said_why=True))
    raise Unreachable(f"the function did not become ready in {_READY_WITHIN:.0f} s: {answer}")


def _stop(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(signal.SIGINT)  # at a SIGTERM it may wait for a watchdog first
    try:
        child.wait(_STOP_WITHIN)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
