"""The two ways to put a watchdog around a function, and what both let one see from outside.

``native`` is our own, inside the server process(es). ``of-watchdog`` is a function behind a
stand-in proxy that plays the real one in ``mode=http``: it starts ``python main.py``, forwards
to it, and passes SIGTERM on to it at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import http.client
import json
import math
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from server_process import (
    PATIENCE,
    Reply,
    ServerProcess,
    launched,
    until,
    write_function,
)

__all__ = [
    "BEHIND",
    "HANDLER",
    "KINDS",
    "LOCK_FILE",
    "NATIVE",
    "STANDIN",
    "AccessLine",
    "Held",
    "Load",
    "Metrics",
    "Watched",
    "children",
    "free_port",
    "lock_file_alone",
    "parse_metrics",
    "steady",
    "watched",
]

NATIVE = "native"
BEHIND = "of-watchdog"
KINDS = (NATIVE, BEHIND)
STANDIN = Path(__file__).with_name("standin_watchdog.py")
LOCK_FILE = Path("/tmp/.lock")  # the contract's own place

_PORTS = range(20_000, 30_000)  # below those that the system gives to whoever asks for any

HANDLER = """\
import asyncio, os, signal, time
from pathlib import Path

import fnship


def start(config):
    if "START_GATE" in config:
        while not Path(config["START_GATE"]).exists():
            time.sleep(0.01)


def ready():
    return not Path("not-ready").exists()


async def handle(logger, request):
    '''Does what the request's keys say, in this order.'''
    if gate := request.get("gate"):
        Path(f"{gate}.{os.getpid()}.begun").touch()
        while not Path(f"{gate}.open").exists():
            await asyncio.sleep(0.01)
    if "block" in request:
        time.sleep(request["block"])  # the whole worker, so that others take the next requests
    if "seconds" in request:
        await asyncio.sleep(request["seconds"])
    if "print" in request:
        print(request["print"])
    if "log" in request:
        logger.info(request["log"])
    if "kill" in request:
        os.kill(os.getpid(), request["kill"])
    if "fail" in request:
        raise fnship.Failed(request["fail"])
    if "bytes" in request:
        return {"text": "x" * request["bytes"]}
    return {"pid": os.getpid(), "echo": request.get("echo")}
"""
"""A handler that does what the tests ask it to."""


class Watched(ServerProcess):
    """A function with a watchdog around it, that runs; see `watched`."""

    def __init__(self, kind: str, server: ServerProcess, port: int, metrics_port: int) -> None:
        super().__init__(server.process, server.folder)
        self.kind = kind
        self.port = port
        self.metrics_port = metrics_port
        self.connections: list[socket.socket] = []  # to be closed in the end

    def connect(self) -> socket.socket:
        connection = super().connect()
        self.connections.append(connection)
        return connection

    def connect_and_send(self, sent: bytes) -> socket.socket:
        connection = self.connect()
        connection.sendall(sent)
        return connection

    def health(self) -> Reply:
        return self.call(method="GET", path="/_/health")

    def scrape(self) -> Metrics:
        """The metrics, parsed by the rules of their format."""
        metrics = ServerProcess(self.process, self.folder)
        metrics.port = self.metrics_port
        reply = metrics.call(method="GET", path="/metrics")
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/plain")
        return parse_metrics(reply.body.decode())

    def is_up(self) -> bool:
        """Whether it is ready; also asked while nothing listens yet."""
        assert self.process.poll() is None, f"it ended: {self.stderr}"
        try:
            return self.ready().status == 200
        except OSError:
            return False

    def access_lines(self) -> list[AccessLine]:
        """What it wrote of each request, oldest first."""
        lines = (self.stdout + self.stderr).splitlines()
        return [AccessLine(*match.groups()) for line in lines if (match := _ACCESS.search(line))]

    def hold(self, name: str, **headers: str) -> Held:
        """Make a call that stays in the handler until it is let go."""
        return Held(self, name, headers)

    def burst(self, count: int) -> list[Reply]:
        """Make so many calls at once, each of which keeps its worker from taking others."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.call({"block": 0.02}), range(count)))

    def spread(self, count: int) -> set[int]:
        """Wait until `count` workers serve. Returns their ids."""
        found: set[int] = set()
        at_once = count

        def seen() -> bool:
            nonlocal at_once
            at_once = min(2 * at_once, 32)  # more than are kept open to one of them
            # Some may be refused by max_inflight.
            found.update(each.json["pid"] for each in self.burst(at_once) if each.status == 200)
            return len(found) >= count

        until(seen, f"{count} workers")
        return found

    def workers(self) -> set[int]:
        """The ids of the processes that serve: the server's children, or itself."""
        if self.kind == NATIVE:
            return children(self.process.pid) or {self.process.pid}
        (function,) = children(self.process.pid)
        return children(function) or {function}


class AccessLine(NamedTuple):
    """The parts that every access line has."""

    method: str
    path: str
    status: str
    call_id: str | None


_ACCESS = re.compile(
    r"(?: msg=|^\S+ \S+ )([A-Z]+) (/\S*) (?:- )?(\d{3}) .*?(?:ms|Length: \d+)(?: \[(.*)\])?$"
)


class Held:
    """A call that stays in the handler until `release`, on a connection of its own."""

    def __init__(
        self, server: ServerProcess, name: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._folder = server.folder
        self._name = name
        self._connection = server.send_and_close({"gate": name}, headers)

    @property
    def pid(self) -> int | None:
        """The process that runs the handler for it; None while none does."""
        begun = list(self._folder.glob(f"{self._name}.*.begun"))
        return int(begun[0].suffixes[-2][1:]) if begun else None

    def wait_until_held(self) -> int:
        """Wait until the handler runs. Returns in which process."""
        return until(lambda: self.pid or 0, f"{self._name} held")

    def release(self) -> None:
        (self._folder / f"{self._name}.open").touch()

    def answer(self) -> tuple[int, bytes]:
        """The status and all that was sent; status 0 where the connection just ended."""
        with self._connection:
            got = bytearray()
            try:
                while chunk := self._connection.recv(65536):
                    got += chunk
                    if is_whole(got):
                        break
            except ConnectionResetError:
                pass
        match = re.match(rb"HTTP/1\.1 (\d{3}) ", got)
        return (int(match[1]) if match else 0), bytes(got)

    def drop(self) -> None:
        """Go away without an answer."""
        self._connection.close()


class Load:
    """Threads that make one call after the other; see `steady`."""

    def __init__(self, server: ServerProcess, body: dict[str, Any], keep_alive: bool) -> None:
        self.statuses: list[int] = []
        self.lost: list[Exception] = []
        self._server = server
        self._body = json.dumps(body).encode()
        self._keep_alive = keep_alive
        self._ended = threading.Event()

    def wait_for(self, more: int) -> None:
        """Wait until `more` calls than now have been answered."""
        wanted = len(self.statuses) + more
        until(lambda: len(self.statuses) >= wanted, f"{more} more answers")

    def end(self) -> None:
        self._ended.set()

    def run(self) -> None:
        connection = None
        while not self._ended.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(
                        "127.0.0.1", self._server.port, timeout=PATIENCE
                    )
                connection.request("POST", "/", self._body)
                response = connection.getresponse()
                response.read()
                self.statuses.append(response.status)
            except (OSError, http.client.HTTPException) as exc:
                self.lost.append(exc)
                keep = False
            else:
                keep = self._keep_alive and not response.will_close
            if connection is not None and not keep:
                connection.close()
                connection = None
            time.sleep(0.01)
        if connection is not None:
            connection.close()


@contextmanager
def steady(
    server: ServerProcess, body: dict[str, Any], *, threads: int = 4, keep_alive: bool = False
) -> Iterator[Load]:
    """Call a server again and again for as long as this holds.

    Args:
        server: Whom.
        body: What to send.
        threads: How many calls at once.
        keep_alive: Whether a thread makes all its calls on one connection.
    """
    load = Load(server, body, keep_alive)
    running = [threading.Thread(target=load.run, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield load
    finally:
        load.end()
        for thread in running:
            thread.join(PATIENCE)


def is_whole(got: bytes | bytearray) -> bool:
    """Whether these bytes are a whole answer."""
    head, gap, body = bytes(got).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(gap) and length is not None and len(body) >= int(length[1])


def children(pid: int) -> set[int]:
    """The processes that `pid` has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(each) for each in listed.split()}


@contextmanager
def watched(
    kind: str,
    folder: Path,
    files: str | Mapping[str, str] = HANDLER,
    *,
    workers: int = 1,
    up: bool = True,
    **env: str,
) -> Iterator[Watched]:
    """Serve a function with a watchdog of `kind` around it; it is ready unless told otherwise.

    No lock file is written unless ``suppress_lock`` says so: its place is one for the whole
    machine. Tests that want one ask for the fixture of `lock_file_alone`.
    """
    write_function(folder, files)
    port, metrics_port = free_port(), free_port()
    env = {
        "suppress_lock": "true",
        "metrics_port": str(metrics_port),
        "port": str(port),
        "PORT": "",
        "GUNICORN_WORKERS": str(workers),
        **env,
    }
    command = None
    if kind == NATIVE:
        env["WATCHDOG"] = "native"
    else:
        upstream = free_port()
        command = [str(STANDIN)]
        env |= {
            "PORT": str(upstream),
            "fprocess": f"{sys.executable} main.py",
            "mode": "http",
            "ready_path": "/_/ready",
            "upstream_url": f"http://127.0.0.1:{upstream}",
        }
    with launched(folder, command, **env) as process:
        server = Watched(kind, process, port, metrics_port)
        try:
            if up:
                until(server.is_up, "ready")
            yield server
        finally:
            for connection in server.connections:
                connection.close()


def free_port() -> int:
    """A port that nobody listens on, and that no test of this machine was given lately."""
    with (Path(tempfile.gettempdir()) / "fnship-tests-last-port").open("a+") as last:
        fcntl.flock(last, fcntl.LOCK_EX)
        last.seek(0)
        turns = int(last.read() or "0")
        while True:
            turns += 1
            port = _PORTS[turns % len(_PORTS)]
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                break
        last.truncate(0)
        last.write(str(turns))
        return port


@contextmanager
def lock_file_alone() -> Iterator[Path]:
    """Have the place of the lock file to oneself, among all tests of this machine."""
    with (Path(tempfile.gettempdir()) / "fnship-tests-of-the-lock-file").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        LOCK_FILE.unlink(missing_ok=True)
        try:
            yield LOCK_FILE
        finally:
            LOCK_FILE.unlink(missing_ok=True)


# The text format of the metrics

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)(?: (-?\d+))?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_KINDS_OF_METRIC = ("counter", "gauge", "histogram", "summary", "untyped")

Labels = frozenset[tuple[str, str]]


@dataclasses.dataclass
class Metrics:
    """What one scrape said: every sample by its name and labels, and every family's type."""

    kinds: dict[str, str]
    samples: dict[tuple[str, Labels], float]

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        wanted = set(labels.items())
        return sum(
            value for (each, has), value in self.samples.items() if each == name and wanted <= has
        )

    def requests(self, **labels: str) -> float:
        return self.total("http_requests_total", **labels)

    @property
    def in_flight(self) -> float:
        return self.total("http_requests_in_flight")

    def counters(self) -> dict[tuple[str, Labels], float]:
        """All that may only grow."""
        growing = {name for name, kind in self.kinds.items() if kind in ("counter", "histogram")}
        return {
            key: value for key, value in self.samples.items() if _family(key[0], growing) in growing
        }


def parse_metrics(text: str) -> Metrics:
    """Read Prometheus' text format, and refuse what is not well-formed.

    Beyond the grammar: no sample twice, a type before its samples, the samples of a family
    together, and histograms whose buckets rise to the count.
    """
    assert text.endswith("\n"), "the last line must end"
    metrics = Metrics({}, {})
    finished: set[str] = set()
    current = ""
    for line in text.splitlines():
        if not line.strip():
            continue
        if line.startswith("# TYPE "):
            name, kind = re.fullmatch(rf"# TYPE ({_NAME}) (\w+)", line).groups()  # type: ignore[union-attr] # fails the test
            assert kind in _KINDS_OF_METRIC, line
            assert name not in metrics.kinds, f"a second type of {name}"
            metrics.kinds[name] = kind
        if line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, f"no sample: {line!r}"
        family = _family(match[1], set(metrics.kinds))
        assert family in metrics.kinds, f"a sample before its type: {line!r}"
        if family != current:
            finished.add(current)
            current = family
        assert family not in finished, f"the samples of {family} are not together"
        key = (match[1], _labels(match[2] or ""))
        assert key not in metrics.samples, f"twice: {line!r}"
        metrics.samples[key] = float(match[3].replace("Inf", "inf"))
    for name, kind in metrics.kinds.items():
        if kind == "histogram":
            _check_histogram(metrics, name)
    return metrics


def _labels(text: str) -> Labels:
    found: dict[str, str] = {}
    end = 0
    while end < len(text):
        match = _LABEL.match(text, end)
        assert match is not None, f"no labels: {text!r}"
        assert match[1] not in found, f"a label twice: {text!r}"
        found[match[1]] = match[2]
        end = match.end()
    return frozenset(found.items())


def _family(name: str, known: set[str]) -> str:
    """The metric that a sample belongs to."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if base in known else name


def _check_histogram(metrics: Metrics, name: str) -> None:
    buckets: dict[Labels, list[tuple[float, float]]] = {}
    for (each, labels), value in metrics.samples.items():
        if each == f"{name}_bucket":
            limit = dict(labels)["le"]
            rest = frozenset(pair for pair in labels if pair[0] != "le")
            buckets.setdefault(rest, []).append((float(limit.replace("Inf", "inf")), value))
    for labels, pairs in buckets.items():
        limits = [limit for limit, _ in pairs]
        counts = [count for _, count in pairs]
        assert limits == sorted(set(limits)), f"{name}: limits that do not rise"
        assert counts == sorted(counts), f"{name}: buckets that do not add up"
        assert limits[-1] == math.inf
        assert metrics.samples[f"{name}_count", labels] == counts[-1]
        assert metrics.samples[f"{name}_sum", labels] >= 0
    for each, labels in metrics.samples:
        if each in (f"{name}_sum", f"{name}_count"):
            assert labels in buckets, f"{name}: no buckets for {labels}"
