"""A small HTTP/1.1 server connection that can be told to answer late, or to break off.

Made for `fnship.testing.Engine`: no framework, so that an answer can be cut at a chosen
byte, and little work per request, so that a benchmark measures the function and not this.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal, cast

import httptools
import msgspec

__all__ = ["Answer", "Connection", "Cut", "Request", "error"]

Cut = Literal["status", "body"]
"""Where an answer breaks off: inside the status line, or half-way through the body."""

_REASONS: Final = {int(status): status.phrase.encode() for status in HTTPStatus}

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Request:
    """A request, read to its end. Header names are in lower case, values as they came."""

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes

    def header(self, name: str) -> str:
        """The value of header `name`, in any case; empty where it is absent."""
        return self.headers.get(name.lower().encode(), b"").decode("utf-8", "replace")


@dataclass(slots=True)
class Answer:
    """What to send back.

    Args:
        status: The HTTP status.
        body: JSON.
        headers: Further header lines, each ending in CRLF.
        delay: Seconds to hold the answer back.
        cut: Where to break off and close the connection; None to send it all.
        sent: Called with the status just before a whole answer is sent; not called
            where it is cut or nobody is there any more.
    """

    status: int
    body: bytes = b"{}"
    headers: bytes = b""
    delay: float = 0.0
    cut: Cut | None = None
    sent: Callable[[int], None] | None = None


def error(status: int, message: str, headers: bytes = b"") -> Answer:
    """An answer that says what was wrong, as JSON."""
    return Answer(status, msgspec.json.encode({"error": message}), headers)


class Connection(asyncio.Protocol):
    """One connection: requests in, answers out in the same order.

    Args:
        respond: Turns a request into an answer, at once and without waiting.
        open_connections: Where this connection registers while it is open.
        max_body: Bytes that a request's body may have; more is answered 413.
    """

    def __init__(
        self,
        respond: Callable[[Request], Answer],
        open_connections: set[Connection],
        max_body: int,
    ) -> None:
        self._respond = respond
        self._open_connections = open_connections
        self._max_body = max_body
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[Request | Answer, bool]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.on_message_begin()

    def abort(self) -> None:
        """Cut the connection off now."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the base's signature
        """Forget what was not answered yet."""
        self._transport = None
        self._open_connections.discard(self)
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse; complete requests are answered on the way."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request itself was answered; nothing else is spoken here.
            if self._transport is not None:
                self._transport.close()
        except httptools.HttpParserError as exc:
            self._queue.append((error(400, f"not HTTP: {exc}"), False))
            self._serve()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """Start a request."""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; the last of a name wins."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Let the body come where the client waits for that."""
        if self._transport is not None and self._headers.get(b"expect") == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:
        """A piece of the body; what exceeds the limit is read, so that 413 arrives, and dropped."""
        self._size += len(chunk)
        if self._size <= self._max_body:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """Answer, or queue behind an answer that is held back."""
        keep_alive = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
        item: Request | Answer
        if self._size > self._max_body:
            item = error(413, f"the body is larger than {self._max_body} bytes")
        else:
            path, _, query = self._url.decode("ascii", "replace").partition("?")
            method = self._parser.get_method().decode("ascii")
            item = Request(method, path, query, self._headers, b"".join(self._chunks))
        self._queue.append((item, keep_alive))
        self._serve()

    # Answers

    def _serve(self) -> None:
        while self._queue and self._timer is None:
            item, keep_alive = self._queue.popleft()
            answer = self._answer(item) if isinstance(item, Request) else item
            if answer.delay > 0:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(answer.delay, self._send_late, answer, keep_alive)
            else:
                self._send(answer, keep_alive)

    def _answer(self, request: Request) -> Answer:
        try:
            return self._respond(request)
        except Exception:  # a defect must reach the test's log and its client
            logger.exception("the testing engine failed at %s %s", request.method, request.path)
            return error(500, "the testing engine itself failed; its log says why")

    def _send_late(self, answer: Answer, keep_alive: bool) -> None:
        self._timer = None
        self._send(answer, keep_alive)
        self._serve()

    def _send(self, answer: Answer, keep_alive: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if answer.cut is None and answer.sent is not None:
            answer.sent(answer.status)  # before the bytes: who reads the answer finds it noted
        head = (
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b%b\r\n"
            % (
                answer.status,
                _REASONS.get(answer.status, b"Unknown"),
                len(answer.body),
                answer.headers,
                b"" if keep_alive else b"Connection: close\r\n",
            )
        )
        if answer.cut == "status":
            transport.write(b"HTTP/1.1 %d" % (answer.status // 10))
        elif answer.cut == "body":
            transport.write(head + answer.body[: len(answer.body) // 2])
        else:
            transport.write(head + answer.body)
        if answer.cut is not None or not keep_alive:
            transport.close()
