"""A stand-in for of-watchdog in ``mode=http``. For tests only: it is not the real one.

It does what CONTRACT §4 says of the real one, as far as a function can tell: it starts
``fprocess`` with its own environment, forwards every request to ``upstream_url`` with a chunked
body and without hop-by-hop headers, and passes SIGTERM on to the function process at once.
Run it as a program; the standard library is all it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

LOCK_FILE = Path("/tmp/.lock")
HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
KNOWN_METHODS = ("get", "put", "head", "post", "delete", "connect", "options", "trace", "patch")
REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 429: "Too Many Requests"}
REASONS |= {500: "Internal Server Error", 503: "Service Unavailable", 504: "Gateway Timeout"}
HEAD_LIMIT = 1 << 20
FIRST_REQUEST = 5.0  # seconds; for so long Go's server waits at the end for who has connected
NOT_BODIES = (204, 304)

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

Headers = list[tuple[str, str]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Head(NamedTuple):
    """The first line of a request or an answer, and its headers."""

    first: list[str]
    headers: Headers

    def get(self, name: str) -> str:
        return next((value for each, value in self.headers if each.lower() == name), "")

    @property
    def chunked(self) -> bool:
        return "chunked" in self.get("transfer-encoding").lower()

    @property
    def end_to_end(self) -> Headers:
        """The headers without those that are for one connection only."""
        dropped = HOP_BY_HOP | {each.strip() for each in self.get("connection").lower().split(",")}
        return [pair for pair in self.headers if pair[0].lower() not in dropped]


class Body:
    """A body as it comes in, whichever way its end is told.

    Args:
        reader: Where from.
        head: What stands before it.
        until_closed: Whether one of unknown length ends with the connection, as an answer's does.
        limit: Seconds that all of it may take; None for no limit.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        head: Head,
        *,
        until_closed: bool = False,
        limit: float | None = None,
    ) -> None:
        self._reader = reader
        self._chunked = head.chunked
        length = head.get("content-length")
        self._left = 0 if self._chunked else int(length or "0")
        self._until_closed = until_closed and not length and not self._chunked
        self._end = None if limit is None else time.monotonic() + limit
        self.whole = not (self._left or self._chunked or self._until_closed)
        self.is_none = self.whole

    async def read(self) -> bytes:
        """The next piece; empty at the end. ConnectionError where it takes too long."""
        if self.whole:
            return b""
        try:
            async with asyncio.timeout(
                None if self._end is None else max(0.0, self._end - time.monotonic())
            ):
                return await (self._read_chunk() if self._chunked else self._read_plain())
        except TimeoutError:
            raise ConnectionError("the body did not come in time") from None

    async def _read_chunk(self) -> bytes:
        if not self._left:
            self._left = int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        if not self._left:
            await self._reader.readuntil(b"\r\n")
            self.whole = True
            return b""
        piece = await self._reader.readexactly(self._left + 2)
        self._left = 0
        return piece[:-2]

    async def _read_plain(self) -> bytes:
        piece = await self._reader.read(65536 if self._until_closed else min(self._left, 65536))
        if self._until_closed:
            self.whole = not piece
        elif piece:
            self._left -= len(piece)
            self.whole = not self._left
        else:
            raise asyncio.IncompleteReadError(b"", self._left)
        return piece

    async def rest(self) -> bytes:
        """All that is left of it."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)


def go_duration(text: str) -> float:
    """Seconds of a duration as Go writes it; ValueError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def setting_seconds(environ: Mapping[str, str], name: str) -> float:
    """A setting that is a Go duration or whole seconds; 0 where it is neither."""
    text = environ.get(name, "")
    try:
        return float(int(text)) if text.isdecimal() else go_duration(text)
    except ValueError:
        return 0.0


def is_true(text: str) -> bool:
    return text.lower() in ("true", "1")


def log(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y/%m/%d %H:%M:%S')} {line}\n")
    sys.stderr.flush()


class Standin:
    """The watchdog."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.host = environ.get("HOST") or None  # the real one listens everywhere
        self.port = int(environ.get("port", "8080"))
        self.metrics_port = int(environ.get("metrics_port", "8081"))
        self.fprocess = environ["fprocess"].split()
        upstream = urlsplit(environ["upstream_url"])
        self.upstream = upstream.hostname, upstream.port
        self.ready_path = environ.get("ready_path", "")
        self.exec_timeout = setting_seconds(environ, "exec_timeout")
        self.read_timeout = setting_seconds(environ, "read_timeout") or None
        self.write_timeout = setting_seconds(environ, "write_timeout") or None
        self.healthcheck_interval = setting_seconds(environ, "healthcheck_interval")
        self.max_inflight = int(environ.get("max_inflight") or "0")
        self.suppress_lock = is_true(environ.get("suppress_lock", ""))
        self.buffers = is_true(environ.get("http_buffer_req_body", ""))
        self.logs_call_id = is_true(environ.get("log_call_id") or environ.get("log_callid") or "")
        self.accepting = False
        self.closing = False
        self.in_flight = 0
        self.totals: Counter[tuple[str, str]] = Counter()
        self.slower: Counter[tuple[str, str, int]] = Counter()  # requests by their bucket
        self.seconds: Counter[tuple[str, str]] = Counter()
        self.idle: list[Streams] = []  # connections to the function that are kept
        self.fresh: set[asyncio.StreamWriter] = set()  # clients before their first request
        self.waiting: set[asyncio.StreamWriter] = set()  # clients between two requests
        self.answering: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until SIGTERM. Returns the exit status."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        function = await asyncio.create_subprocess_exec(
            *self.fprocess, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )

        def stop() -> None:
            if function.returncode is None:
                function.send_signal(signal.SIGTERM)
            stopped.set()

        loop.add_signal_handler(signal.SIGTERM, stop)
        assert function.stdout is not None
        assert function.stderr is not None
        tasks = {
            loop.create_task(forward(function.stdout, sys.stdout.fileno())),
            loop.create_task(forward(function.stderr, sys.stderr.fileno())),
            loop.create_task(self.end_with(function)),
        }
        server = await asyncio.start_server(
            self.serve, self.host, self.port, backlog=1024, limit=HEAD_LIMIT
        )
        metrics = await asyncio.start_server(self.serve_metrics, self.host, self.metrics_port)
        self.accepting = True
        if not self.suppress_lock:
            LOCK_FILE.touch()
        log(f"Listening on port: {self.port}")
        await stopped.wait()
        log(f"SIGTERM: no new connections in {self.healthcheck_interval:g}s")
        self.accepting = False
        if not self.suppress_lock:
            LOCK_FILE.unlink(missing_ok=True)
        await asyncio.sleep(self.healthcheck_interval)
        log(f"No new connections allowed, draining: {self.in_flight} requests")
        self.closing = True
        listeners = [each.dup() for each in server.sockets]
        server.close()
        late = [loop.create_task(self.serve_late(each)) for each in listeners]
        await asyncio.gather(*late)
        for client in self.waiting:
            client.close()
        loop.call_later(FIRST_REQUEST, lambda: [client.close() for client in self.fresh])
        if self.answering:
            await asyncio.wait(self.answering, timeout=self.write_timeout)
        log(f"Exiting. Active connections: {self.in_flight}")
        metrics.close()
        for task in tasks:
            task.cancel()
        return 0

    async def end_with(self, function: asyncio.subprocess.Process) -> None:
        """Die with the function process, unless it ends in peace."""
        if await function.wait():
            log(f"Forked function has terminated: exit status {function.returncode}")
            os._exit(1)

    # One client

    async def serve_late(self, listener: socket.socket) -> None:
        """Take those who have connected before the end, whom a listener that closes would reset."""
        listener.setblocking(False)
        with listener, contextlib.suppress(BlockingIOError):
            while True:
                client, _ = listener.accept()
                streams = await asyncio.open_connection(sock=client, limit=HEAD_LIMIT)
                task = asyncio.create_task(self.serve(*streams))
                self.answering.add(task)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a connection's requests, one after the other."""
        task = asyncio.current_task()
        assert task is not None
        self.answering.add(task)
        self.fresh.add(writer)
        try:
            began = await reader.read(1)
            self.fresh.discard(writer)
            while began and await self.answer(began, reader, writer):
                self.answering.discard(task)
                self.waiting.add(writer)
                began = await reader.read(1)
                self.waiting.discard(writer)
                self.answering.add(task)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            writer.transport.abort()  # the client is gone, too slow, or talks nonsense
        finally:
            self.fresh.discard(writer)
            self.waiting.discard(writer)
            self.answering.discard(task)
            writer.close()

    async def answer(
        self, began: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request. Returns whether the connection is kept."""
        async with asyncio.timeout(self.read_timeout):
            head = await read_head(reader, began)
        method, target, version = head.first
        path = target.partition("?")[0]
        body = Body(reader, head, limit=self.read_timeout)
        keep = "close" not in head.get("connection").lower() and version == "HTTP/1.1"
        if path in ("/_/health", "/_/ready"):
            status, headers, payload = await self.probe(method, path)
        else:
            status, headers, payload = await self.counted(head, body)
        while not body.whole and await body.read():
            pass  # what nobody has read; a client that is still sending would miss the answer
        keep = keep and not self.closing
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Answered')}"]
        lines += [f"{name}: {value}" for name, value in headers if name.lower() != "content-length"]
        lines += [] if keep else ["Connection: close"]
        lines += [] if status in NOT_BODIES else [f"Content-Length: {len(payload)}"]
        sent = "\r\n".join((*lines, "", "")).encode("latin-1")
        writer.write(sent if method == "HEAD" else sent + payload)
        async with asyncio.timeout(self.write_timeout):
            await writer.drain()
        return keep

    async def probe(self, method: str, path: str) -> tuple[int, Headers, bytes]:
        if method != "GET":
            return 405, [], b""
        if not self.accepting:
            return 503, [], b""
        if path == "/_/health":
            return 200, [], b"OK"
        if self.max_inflight and self.in_flight >= self.max_inflight:
            return 429, [], b""
        if not self.ready_path:
            return 200, [], b""
        ask = Head(["GET", self.ready_path, "HTTP/1.1"], [])
        try:
            return await self.invoke(ask, Body(asyncio.StreamReader(), ask))
        except (OSError, asyncio.IncompleteReadError):
            return 500, [], b""

    async def counted(self, head: Head, body: Body) -> tuple[int, Headers, bytes]:
        """Forward a request within the limits, count it and write its access line."""
        method, target, _ = head.first
        started = time.monotonic()
        full = self.max_inflight and self.in_flight >= self.max_inflight
        self.in_flight += 1
        status, headers, payload = 429, Headers(), b""
        try:
            if full:
                payload = b"Concurrent request limit exceeded\n"
            else:
                async with asyncio.timeout(self.limit(head)):
                    status, headers, payload = await self.invoke(head, body)
        except TimeoutError:
            status = 504
        except (OSError, asyncio.IncompleteReadError) as exc:
            log(f"Upstream HTTP request error: {exc!r}")
            status = 500
        finally:
            self.in_flight -= 1
            took = time.monotonic() - started
            name = method.lower() if method.lower() in KNOWN_METHODS else "unknown"
            labels = (str(status), name)
            self.totals[labels] += 1
            self.seconds[labels] += took  # type: ignore[assignment] # a Counter adds floats too
            self.slower[(*labels, sum(took > limit for limit in BUCKETS))] += 1
            call_id = f" [{head.get('x-call-id')}]" if self.logs_call_id else ""
            reason = REASONS.get(status, "")
            log(f"{method} {target} - {status} {reason} - ContentLength: {len(payload)}{call_id}")
        return status, [*headers, ("X-Duration-Seconds", f"{took:f}")], payload

    def limit(self, head: Head) -> float | None:
        """Seconds that this request may take; None for no limit."""
        if not self.exec_timeout:
            return None
        try:
            return min(self.exec_timeout, go_duration(head.get("x-timeout")))
        except ValueError:
            return self.exec_timeout

    # The function

    async def invoke(self, head: Head, body: Body) -> tuple[int, Headers, bytes]:
        """Have the function answer a request."""
        method, target, _ = head.first
        while self.idle and self.idle[-1][0].at_eof():
            self.idle.pop()[1].close()
        reader, writer = (
            self.idle.pop()
            if self.idle
            else await asyncio.open_connection(*self.upstream, limit=HEAD_LIMIT)
        )
        keep = False
        try:
            headers = [each for each in head.end_to_end if each[0].lower() != "content-length"]
            if self.buffers:
                whole = await body.rest()
                headers.append(("Content-Length", str(len(whole))))
                write_head(writer, [method, target, "HTTP/1.1"], headers)
                writer.write(whole)
            elif not body.is_none:
                headers.append(("Transfer-Encoding", "chunked"))
                write_head(writer, [method, target, "HTTP/1.1"], headers)
                while piece := await body.read():
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
            else:
                write_head(writer, [method, target, "HTTP/1.1"], headers)
            await writer.drain()
            answer = await read_head(reader)
            while answer.first[1].startswith("1"):
                answer = await read_head(reader)
            status = int(answer.first[1])
            payload = b""
            if method != "HEAD" and status not in NOT_BODIES:
                payload = await Body(reader, answer, until_closed=True).rest()
            keep = "close" not in answer.get("connection").lower()
            return status, answer.end_to_end, payload
        finally:
            if keep:
                self.idle.append((reader, writer))
            else:
                writer.close()

    # The metrics

    async def serve_metrics(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            head = await read_head(reader)
            found = head.first[1] == "/metrics"
            body = self.metrics().encode() if found else b""
            first = ["HTTP/1.1", "200", "OK"] if found else ["HTTP/1.1", "404", "Not Found"]
            kind = ("Content-Type", "text/plain; version=0.0.4")
            length = ("Content-Length", str(len(body)))
            write_head(writer, first, [kind, length, ("Connection", "close")])
            writer.write(body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()

    def metrics(self) -> str:
        lines = ["# HELP http_requests_in_flight Requests being served.\n"]
        lines += ["# TYPE http_requests_in_flight gauge\n"]
        lines += [f"http_requests_in_flight {self.in_flight}\n"]
        lines += ["# TYPE http_requests_total counter\n"]
        for (code, method), count in self.totals.items():
            lines.append(f'http_requests_total{{code="{code}",method="{method}"}} {count}\n')
        name = "http_request_duration_seconds"
        lines.append(f"# TYPE {name} histogram\n")
        for (code, method), count in self.totals.items():
            labels = f'code="{code}",method="{method}"'
            for index, limit in enumerate(BUCKETS):
                below = sum(self.slower[code, method, each] for each in range(index + 1))
                lines.append(f'{name}_bucket{{{labels},le="{limit:g}"}} {below}\n')
            lines.append(f'{name}_bucket{{{labels},le="+Inf"}} {count}\n')
            lines.append(f"{name}_sum{{{labels}}} {self.seconds[code, method]}\n")
            lines.append(f"{name}_count{{{labels}}} {count}\n")
        return "".join(lines)


async def forward(source: asyncio.StreamReader, to: int) -> None:
    """Pass a function's output on as it comes, however long its lines are."""
    while piece := await source.read(65536):
        while piece:
            piece = piece[os.write(to, piece) :]


async def read_head(reader: asyncio.StreamReader, began: bytes = b"") -> Head:
    """Read a first line and the headers. Raises ValueError for what is none."""
    try:
        text = (began + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as exc:
        raise ValueError("the head is too large") from exc
    first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) != 3:
        raise ValueError("no HTTP")
    headers = Headers()
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError("no header")
        headers.append((name, value.strip()))
    return Head(parts, headers)


def write_head(writer: asyncio.StreamWriter, first: list[str], headers: Headers) -> None:
    lines = [" ".join(first), *(f"{name}: {value}" for name, value in headers), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))


def main() -> None:
    status = asyncio.run(Standin(os.environ).run())
    log("The stand-in ends")
    sys.exit(status)


if __name__ == "__main__":
    main()
