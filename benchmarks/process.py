"""One server at a time, in a process group of its own that never outlives its measurement."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.call import Call
from benchmarks.errors import BenchmarkError
from benchmarks.servers import Subject

__all__ = ["Server", "running"]

_START_WITHIN: Final = 60.0
_STOP_WITHIN: Final = 5.0
_LOOK_EVERY: Final = 0.001
# Below the ports that the system itself hands out: a client that knocks at one of those before
# the server listens may be given that very port, and then talks to itself.
_PORTS: Final = range(20_000, 32_000)


class Server:
    """A running server that has answered its first call.

    Attributes:
        port: Where it listens on 127.0.0.1.
        pid: Its process, the one that was started.
        first_answer: Seconds from the start of the process to its first answer with status 200.
    """

    def __init__(self, port: int, pid: int, first_answer: float, output: Path) -> None:
        self.port = port
        self.pid = pid
        self.first_answer = first_answer
        self._output = output

    def forget_output(self) -> None:
        """Throw away what it wrote to stdout so far."""
        os.truncate(self._output, 0)


@contextlib.contextmanager
def running(subject: Subject, call: Call) -> Iterator[Server]:
    """Start a server, wait for its first answer, and end it with all its children.

    Raises:
        BenchmarkError: It does not start.
    """
    port = _free_port()
    # Nothing of this shell's: no proxy, no setting of fnship's or of a peer's.
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ |= {"LANG": "C.UTF-8", "PORT": str(port), **subject.environ}
    command = [part.format(port=port) for part in subject.command]
    with (
        tempfile.TemporaryDirectory(prefix="fnship-bench-") as folder,
        (Path(folder) / "stdout").open("ab") as stdout,
        (Path(folder) / "stderr").open("ab") as stderr,
    ):
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=subject.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            problem = _wait(process, call, port, started)
            if problem:
                said = "\n".join(Path(stderr.name).read_text("utf-8", "replace").splitlines()[-5:])
                raise BenchmarkError(f"{subject.title}: {problem}\n{said}".rstrip())
            first_answer = time.perf_counter() - started
            yield Server(port, process.pid, first_answer, Path(stdout.name))
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], call: Call, port: int, started: float) -> str:
    """Knock until it answers; returns what is wrong with it, empty for nothing."""
    status = 0
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status = call.send(port)
        if status == 200:
            return ""
        if process.poll() is not None:
            return f"it ended with status {process.returncode}"
        if time.perf_counter() - started > _START_WITHIN:
            return f"it answered {status}" if status else "it does not answer"
        time.sleep(_LOOK_EVERY)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: politely, then for certain."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_WITHIN)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchmarkError("no free port")
