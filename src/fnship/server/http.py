"""HTTP/1.1 for one function: a protocol class that uvicorn's server accepts.

httptools parses; what is here does what a function needs and a general server cannot: a request
is handed over when it is whole, its answer leaves in one write, and a client that goes away
cancels its invocation at no cost to those that stay.
"""

from __future__ import annotations

import asyncio
import contextvars
import http
import math
from collections import deque
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from fnship import contract
from fnship.function.invocation import Cancelled
from fnship.server.asgi import DISCARD_TIMES, HEAD_LIMIT, HEAD_TOO_LARGE, ASGIFunction
from fnship.server.exchange import DURATION, Exchange, Response, error_response
from fnship.server.stopping import ARRIVAL_GRACE, IDLE_GRACE

__all__ = ["FunctionProtocol"]

_WAITING_LIMIT: Final = 32  # pipelined requests of one connection, before it is not read further
_CHECK_AT_MOST_EVERY: Final = 0.5  # seconds
_STATUS_LINES: Final = {
    status.value: (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
    ).encode()
    for status in http.HTTPStatus
}
_LENGTH: Final = b"content-length: %d\r\n\r\n"
_DURATION_AND_LENGTH: Final = DURATION + b": %.6f\r\n" + _LENGTH
_GO_ON: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class FunctionProtocol(asyncio.Protocol):
    """One connection.

    Args:
        config: The server's configuration; its application is an `ASGIFunction`.
        server_state: What the server counts and closes.
        app_state: Not used: a function has its own.
        _loop: The event loop.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002 - the server passes it
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._function = cast(ASGIFunction, config.app)
        settings = self._function.settings
        self._max_body = settings.max_body_size
        self._idle_limit = config.timeout_keep_alive
        self._read_limit = settings.read_timeout or math.inf
        self._write_limit = settings.write_timeout or math.inf
        self._state = server_state
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._check: asyncio.TimerHandle | None = None
        self._last_used = 0.0
        self._unread_since: float | None = None  # since when the client takes no answers
        self._context = contextvars.copy_context()
        # The request that is arriving
        self._began: float | None = None
        self._in_head = False
        self._head_size = 0  # of the head, by packets
        self._empty_size = 0  # of what came after the head without being body
        self._packet_size = 0
        self._all_head = False  # the packet has nothing in it of another request
        self._progress = False
        self._upgrading = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._body_size = 0
        # What has arrived. An answer in the queue is a refusal, and the last word.
        self._current: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[Exchange | Response, bool]] = deque()
        self._deaf = False  # whatever comes further is not looked at
        self._waiting_size = 0  # bytes of their bodies
        self._going = False  # the server ends
        self._last = False  # the connection ends after the current answer

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._state.connections.add(self)  # type: ignore[arg-type] # it closes them, no more
        self._last_used = self._loop.time()
        self._check_later()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the base's signature
        """End, and cancel what runs for this client."""
        self._state.connections.discard(self)
        self._transport = None
        self._deaf = True
        self._waiting.clear()
        self._headers, self._body = [], b""
        if self._check is not None:
            self._check.cancel()
            self._check = None
        if self._current is not None:
            self._current.gone = True
            self._current.cancel(Cancelled.CLIENT_GONE)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._deaf:
            return
        self._last_used = self._loop.time()
        self._packet_size = len(data)
        self._all_head = self._in_head or self._began is None
        self._progress = False
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as exc:
                data = self._without_upgrade(data[exc.args[0] :])
            except httptools.HttpParserError:
                self._refuse(400, "this is not a valid HTTP/1.1 request")
                return
        if self._began is not None:
            self._limit_what_is_not_body()

    def _limit_what_is_not_body(self) -> None:
        """Refuse a head that does not end, and trailers or chunk extensions that do not."""
        if self._in_head:
            self._head_size += self._packet_size if self._all_head else 0
        elif self._progress or self._all_head:
            self._empty_size = 0
        else:
            self._empty_size += self._packet_size
        if max(self._head_size, self._empty_size) > HEAD_LIMIT:
            self._refuse(431, HEAD_TOO_LARGE)

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Turn down another protocol, as HTTP/1.1 allows: read the request as if none was offered.

        The parser would take everything behind the head for that protocol, the body included.
        """
        self._upgrading = False
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._arrived(method, keep=False)
            return b""
        head = [b"%b %b HTTP/1.1\r\n" % (method, self._url)]
        head += [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        return b"".join((*head, b"\r\n", rest))

    def pause_writing(self) -> None:
        """Take no more from a client that does not read its answers."""
        self._unread_since = self._loop.time()
        self._read_on()

    def resume_writing(self) -> None:
        """Go on."""
        self._unread_since = None
        self._read_on()
        if self._current is None:
            self._serve_waiting()

    def _read_on(self) -> None:
        """Read from the client, or do not, by how much of it waits already."""
        if self._transport is None or self._transport.is_closing():
            return
        much = len(self._waiting) >= _WAITING_LIMIT or self._waiting_size > self._max_body
        if self._unread_since is None and not much:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    @property
    def _leaving(self) -> bool:
        """Whether the server is about to end, so that the client should go elsewhere."""
        return self._going or self._function.draining

    def shutdown(self) -> None:
        """End after what has arrived, or is about to, is answered. The server calls this."""
        self._going = True
        wait = ARRIVAL_GRACE if self._began is not None else IDLE_GRACE
        self._loop.call_later(wait, self._close_if_idle)
        self._loop.call_later(ARRIVAL_GRACE, self._abort_if_unread)

    def _close_if_idle(self) -> None:
        if self._current is None and not self._waiting:
            self._close()

    def _abort_if_unread(self) -> None:
        """Give up a client who does not take an answer that it has long had."""
        if self._transport is None or self._current is not None:
            return
        if self._transport.is_closing() or self._unread_since is not None:
            self._transport.abort()

    def cut_off(self) -> None:
        """Cancel what runs; its answer says that the server is going. The server calls this."""
        self._last = True
        self._waiting.clear()
        if self._current is not None:
            self._current.cancel(Cancelled.SHUTDOWN)

    # The parser's side

    def on_message_begin(self) -> None:
        """A new request."""
        self._began = self._last_used
        self._in_head = True
        self._head_size = 0
        self._empty_size = 0
        self._url = b""
        self._headers = []
        self._body = b""
        self._body_size = 0

    def on_url(self, url: bytes) -> None:
        """A piece of its address."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. Trailers are not: nobody in front of us has looked at those."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        self._upgrading = self._parser.should_upgrade()
        if self._head_size + self._packet_size > HEAD_LIMIT:
            size = sum(len(name) + len(value) + 4 for name, value in self._headers)
            if size + len(self._url) > HEAD_LIMIT:
                self._refuse(431, HEAD_TOO_LARGE)
                return
        for name, value in self._headers:
            if name == b"expect" and value.lower() == b"100-continue" and self._transport:
                self._transport.write(_GO_ON)

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._progress = True
        self._body_size += len(body)
        if self._body_size > self._max_body:
            self._body = b""
            if self._body_size > self._max_body * DISCARD_TIMES:
                self._refuse(413, f"the request body is larger than {self._max_body} bytes")
        elif not self._body:
            self._body = body  # nearly always the only one
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self._upgrading:
            keep = self._parser.should_keep_alive() and self._parser.get_http_version() != "1.0"
            self._arrived(self._parser.get_method(), keep=keep)

    # Answers

    def _arrived(self, method: bytes, *, keep: bool) -> None:
        """Serve a request, or let it wait for those before it."""
        if self._deaf:
            return  # refused on the way
        self._began = None
        self._all_head = False
        exchange = Exchange(
            method.decode("ascii"),
            "/" if self._url == b"/" else _path(self._url),
            self._headers,
            self._body if self._body_size <= self._max_body else None,
        )
        self._headers, self._body = [], b""  # an idle connection holds nothing
        if not keep:
            self._deaf = True
        if self._current is None and self._unread_since is None:
            self._serve(exchange, keep)
        else:
            self._waiting.append((exchange, keep))
            self._waiting_size += len(exchange.body or b"")
            self._read_on()

    def _serve(self, exchange: Exchange, keep: bool) -> None:
        self._current = exchange
        if not keep:
            self._last = True
        # Each in a context of its own: what one sets, the next must not see.
        self._task = task = self._loop.create_task(
            self._answer(exchange), context=self._context.copy()
        )
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _answer(self, exchange: Exchange) -> None:
        app = self._function.app
        exchange.connection = self
        try:
            response = await app.respond(exchange) if app is not None else _NOT_UP
        except asyncio.CancelledError:
            self._write(exchange, _GOING)
            raise
        except BaseException as exc:
            # Nothing below should raise. If it does, that is our mistake, and it is said.
            self._write(exchange, error_response(500, f"fnship failed: {type(exc).__name__}"))
            raise
        else:
            self._write(exchange, response)
        finally:
            if self._current is exchange:
                self._next()

    def answer_early(self, exchange: Exchange, response: Response) -> None:
        """Answer although the handler goes on, which takes no notice of being cancelled."""
        if self._current is not exchange or self._task is None:
            return
        # The server does not wait for that task when it stops, but it must not be forgotten.
        self._state.tasks.discard(self._task)
        _abandoned.add(self._task)
        self._task.add_done_callback(_abandoned.discard)
        self._last = True
        self._write(exchange, response)
        exchange.answered_early(response)
        self._next()

    def _write(self, exchange: Exchange, response: Response) -> None:
        transport = self._transport
        if transport is None or exchange.gone:
            return
        if self._leaving and not self._waiting and self._began is None:
            self._last = True
        status, body, headers = response
        parts = [_STATUS_LINES[status]]
        for name, value in self._state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if self._last:
            parts.append(b"connection: close\r\n")
        if exchange.seconds is None:
            parts.append(_LENGTH % len(body))
        else:
            parts.append(_DURATION_AND_LENGTH % (exchange.seconds, len(body)))
        if exchange.method != "HEAD":
            parts.append(body)
        transport.write(b"".join(parts))

    def _next(self) -> None:
        """Turn to the next request of this connection, if there is one."""
        self._current = self._task = None
        self._state.total_requests += 1
        self._last_used = self._loop.time()
        if self._transport is None:
            return
        if self._last:
            self._close()
        else:
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Serve the next request that waits, once the client takes the answers before it."""
        if self._unread_since is not None or not self._waiting:
            return
        entry, keep = self._waiting.popleft()
        if isinstance(entry, Exchange):
            self._waiting_size -= len(entry.body or b"")
            self._serve(entry, keep)
            self._read_on()
        else:
            self._have_the_last_word(entry)

    def _refuse(self, status: int, message: str) -> None:
        """Answer what cannot be served at all, in its turn, and end the connection."""
        if self._deaf:
            return
        self._deaf = True
        response = error_response(status, message)
        if self._current is None:
            self._have_the_last_word(response)
        else:
            self._waiting.append((response, False))

    def _have_the_last_word(self, response: Response) -> None:
        self._last = True
        self._write(Exchange("", "", [], None), response)
        self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # Time

    def _check_later(self) -> None:
        limit = min(self._idle_limit, self._read_limit, self._write_limit)
        again = max(limit / 2, _CHECK_AT_MOST_EVERY)
        self._check = self._loop.call_later(again, self._check_time)

    def _check_time(self) -> None:
        """Close a connection that takes too long; one timer for all of its life.

        That is: on which nothing has happened for long, whose request is not whole within
        ``read_timeout``, or whose client does not take its answer within ``write_timeout``.
        """
        now = self._loop.time()
        self._check = None
        if self._unread_since is not None and now - self._unread_since >= self._write_limit:
            if self._transport is not None:
                self._transport.abort()
            return
        if self._began is not None and now - self._began >= self._read_limit:
            self._refuse(408, f"the request was not whole within {self._read_limit:g} s")
        elif self._current is None and now - self._last_used >= self._idle_limit:
            self._close()
        self._check_later()


def _path(url: bytes) -> str:
    """The path of a request's address, without what stands before and behind it."""
    try:
        path = httptools.parse_url(url).path or b"/"
    except httptools.HttpParserInvalidURLError:
        path = url
    return unquote_to_bytes(path).decode("utf-8", "replace")


_abandoned: Final[set[asyncio.Task[None]]] = set()  # the loop itself would forget them
_GOING: Final = error_response(
    503, "function: transient error: the server is shutting down", contract.TRANSIENT
)
_NOT_UP: Final = error_response(503, "the function is not up")
