"""A function folder behind a server that is a process of its own, as it is in production."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from fnship.settings import Settings

LIMIT = 60.0  # seconds after which a server is killed, whatever it does
CPU_LIMIT = 60  # seconds of CPU after which the system kills it
PATIENCE = 20.0  # seconds until a thing that never comes true fails its test

MAIN = "from fnship import serve\n\nserve()\n"
SETTINGS = {field.metadata["variable"] for field in dataclasses.fields(Settings)}
_SERVING = re.compile(r"^fnship: serving .* on http://127\.0\.0\.1:(\d+)", re.MULTILINE)

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "it", seconds: float = PATIENCE) -> T:
    """Ask again and again until `condition` gives something true, and return that."""
    limit = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < limit, f"{what} never came true"
        time.sleep(0.01)
    return answer


@dataclasses.dataclass
class Reply:
    """One answer of a server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ServerProcess:
    """A server that runs; see `serving`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.port = 0

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout.txt").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr.txt").read_text(errors="replace")

    def wait_for_port(self) -> None:
        def known() -> int:
            match = _SERVING.search(self.stderr)
            if match is None and self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}")
            return int(match[1]) if match else 0

        try:
            self.port = until(known, "its port")
        except AssertionError as exc:
            raise AssertionError(f"{exc}; its last words: {self.stderr[-1000:]}") from None

    def wait_until_ready(self) -> None:
        until(lambda: self.ready().status == 200, "ready")

    def ready(self) -> Reply:
        return self.call(method="GET", path="/_/ready")

    def call(
        self,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        path: str = "/",
    ) -> Reply:
        """One request on a connection of its own; a `body` that is not bytes is sent as JSON."""
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, sent, dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def send_and_close(self, body: Any, headers: Mapping[str, str] | None = None) -> socket.socket:
        """Send a request, and leave without reading; close what this returns to go away."""
        sent = json.dumps(body).encode()
        head = {"Content-Length": str(len(sent)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        connection = self.connect()
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + sent)
        return connection

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    def log(self) -> list[dict[str, Any]]:
        """The lines of stdout, where ``LOG_FORMAT=json``."""
        return [json.loads(line) for line in self.stdout.split("\n") if line]


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would set up a function, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**kept, "PORT": "0", "HOST": "127.0.0.1", "GUNICORN_WORKERS": "1", **more}


def write_function(folder: Path, files: str | Mapping[str, str]) -> Path:
    """A function folder: the text of handler.py, or of several files by their paths."""
    files = {"function/handler.py": files} if isinstance(files, str) else files
    for name, text in {"main.py": MAIN, "function/__init__.py": "", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@contextmanager
def launched(
    folder: Path, command: list[str] | None = None, *, limit: float = LIMIT, **env: str
) -> Iterator[ServerProcess]:
    """Start ``python main.py``, or another `command`, and kill all of it in the end."""
    output = folder / "stdout.txt", folder / "stderr.txt"
    with output[0].open("wb") as stdout, output[1].open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *(command or ["main.py"])],
            cwd=folder,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # so that its workers can be killed with it
        )
    if hasattr(resource, "prlimit"):
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
    timer = threading.Timer(limit, _kill, (process,))
    timer.start()
    try:
        yield ServerProcess(process, folder)
    finally:
        timer.cancel()
        timer.join()
        _kill(process)
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def serving(
    folder: Path,
    files: str | Mapping[str, str],
    *,
    command: list[str] | None = None,
    ready: bool = True,
    limit: float = LIMIT,
    **env: str,
) -> Iterator[ServerProcess]:
    """Write a function and serve it, `limit` seconds at most; it is ready unless told otherwise."""
    write_function(folder, files)
    with launched(folder, command, limit=limit, **env) as server:
        server.wait_for_port()
        if ready:
            server.wait_until_ready()
        yield server


@dataclasses.dataclass
class Ended:
    """What a server that did not start left behind."""

    status: int
    stdout: str
    stderr: str

    def assert_mistake(self, said: str) -> None:
        """Status 2, exactly one line on stderr, and nothing else."""
        assert "Traceback" not in self.stderr + self.stdout
        assert re.fullmatch(r"fnship: error: [^\n]+\n", self.stderr), self.stderr
        assert re.search(said, self.stderr), self.stderr
        assert (self.status, self.stdout) == (2, "")


def ended(
    folder: Path,
    files: str | Mapping[str, str],
    *,
    command: list[str] | None = None,
    **env: str,
) -> Ended:
    """Write a function, try to serve it, and wait for the end."""
    write_function(folder, files)
    with launched(folder, command, **env) as server:
        status = server.wait()
        return Ended(status, server.stdout, server.stderr)
