"""``fnship engine serve`` as a process, its API as a program calls it, and a function to call."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
from cli_process import LIMIT, Ended, command, environment, fnship

KEPT = 3
SAYS = re.compile(r"fnship: the engine listens on (http://\S+)")


class Answer:
    """What the API said."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.data

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def assert_problem(self, status: int, said: str) -> None:
        assert self.status == status, self.body
        assert self.headers["Content-Type"] == "application/problem+json"
        found = self.json
        assert set(found) == {"type", "title", "status", "detail"}
        assert found["status"] == status
        assert re.search(said, found["detail"]), found


class EngineCommand:
    """An engine that runs.

    Attributes:
        url: Where it listens.
        data: Its data folder.
        token: The main token of its API.
        process: The process.
        said: The lines that it wrote so far.
    """

    def __init__(self, data: Path, process: subprocess.Popen[str], token: str | None) -> None:
        self.data = data
        self.process = process
        self.said: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            self.said.append(line)
            if "the token for its API" in line:
                break
        else:
            raise AssertionError("".join(self.said))
        found = SAYS.search("".join(self.said))
        assert found is not None, self.said
        self.url = found[1]
        self.token = token or (data / "token").read_text().strip()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._pool = urllib3.PoolManager(retries=False, timeout=LIMIT)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        sent = {"Authorization": f"Bearer {token or self.token}", **(headers or {})}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name: value for name, value in sent.items() if value}
        return Answer(self._pool.request(method, self.url + path, body=body, headers=sent))

    def fnship(self, *arguments: object, cwd: Path, stdin: str | None = None) -> Ended:
        """Run a command against it."""
        return fnship(*arguments, cwd=cwd, stdin=stdin, env={"FNSHIP_DATA": str(self.data)})

    def put(self, name: str, url: str, **more: Any) -> None:
        more.setdefault("retry", {"max_attempts": 1})
        assert self.call("PUT", f"/v1/functions/{name}", {"url": url, **more}).status in (200, 201)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end. Returns the status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        self._pool.clear()
        return status


@contextlib.contextmanager
def engine_command(
    data: Path,
    *arguments: object,
    token: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[EngineCommand]:
    """Run ``fnship engine serve`` on a free port."""
    more = {**(env or {}), **({"FNSHIP_TOKEN": token} if token else {})}
    process = subprocess.Popen(
        command("engine", "serve", "--data", data, "--port", "0", *arguments),
        cwd=data.parent,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            engine = EngineCommand(data, process, token)
        except BaseException:
            process.kill()
            raise
        try:
            yield engine
        finally:
            engine.end()


class Spares:
    """Engines on one data folder, one after the other, the next of which has its modules already.

    Most of the time that an engine needs to start goes into its modules: half a second of 0.7 s.
    """

    def __init__(self, data: Path, *arguments: object) -> None:
        self._data = data
        self._command = [
            *(sys.executable, "-P", "-c", _SPARE),
            *("engine", "serve", "--data", str(data), "--port", "0"),
            *map(str, arguments),
        ]
        self._next = self._load()

    @contextlib.contextmanager
    def engine(self) -> Iterator[EngineCommand]:
        """Start the next one."""
        process = self._start()
        with process:
            try:
                engine = EngineCommand(self._data, process, None)
            except BaseException:
                process.kill()
                raise
            try:
                yield engine
            finally:
                engine.end()

    def kill_in_its_start(self, seconds: float) -> None:
        """Start the next one, and kill it that soon."""
        with self._start() as process:
            time.sleep(seconds)
            process.kill()

    def _start(self) -> subprocess.Popen[str]:
        process, self._next = self._next, self._load()
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        return process

    def close(self) -> None:
        with self._next:
            self._next.kill()

    def _load(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            cwd=self._data.parent,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


_SPARE = """
import sys
import fnship.cli.engine, fnship.engine.server
from fnship.cli.main import main
if sys.stdin.readline():
    sys.exit(main())
"""


class Function(http.server.ThreadingHTTPServer):
    """A function that answers the bytes that it got, unless its request says otherwise.

    Attributes:
        gate: What a request with ``{"wait": true}`` waits for.
        calls: How many requests have come.
        headers: Those of the first few requests.
        attempts: The ids and attempts of those with ``{"drop": "answer"}``, whose first answer is
            dropped when all is done, or ``{"drop": "half"}``, of whose first answer half is.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gate = threading.Event()
        self.calls = 0
        self.headers: list[dict[str, str]] = []
        self.attempts: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Function)
        if len(server.headers) < KEPT:
            server.headers.append(dict(self.headers))
        server.calls += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        wanted = json.loads(body)
        if wanted.get("wait"):
            server.gate.wait(LIMIT)
        if "drop" in wanted:
            name, attempt = self.headers["X-Activity-ID"], self.headers["X-Activity-Attempt"]
            self.close_connection = all(name != each for each, _ in server.attempts)
            server.attempts.append((name, attempt))
            if self.close_connection and wanted["drop"] == "answer":
                return
        status, answer = 200, b'{"data":' + body + b"}"
        if "error_code" in wanted:
            status, answer = 500, body
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        with contextlib.suppress(OSError):  # it was cancelled
            half = self.close_connection and wanted.get("drop") == "half"
            self.wfile.write(answer[: len(answer) // 2] if half else answer)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def function() -> Iterator[Function]:
    """Run such a function."""
    with Function() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.gate.set()
            server.shutdown()
            thread.join(LIMIT)


def until(true: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, "it does not become true"
        time.sleep(0.02)
