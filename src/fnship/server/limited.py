"""Uvicorn's own protocol, with a limit for the headers of a request."""

from __future__ import annotations

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fnship.server.asgi import HEAD_LIMIT, HEAD_TOO_LARGE
from fnship.server.exchange import error_response

__all__ = ["LimitedProtocol"]


class LimitedProtocol(HttpToolsProtocol):
    """Refuses headers that are too large (431), also while they are still coming, and nonsense.

    Attributes:
        in_head: Whether a request has begun to arrive, and its headers are not whole.
    """

    in_head = False
    _head_size = 0
    _unparsed = 0  # bytes that came while the head was not whole

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        super().data_received(data)
        if self.in_head:
            self._unparsed += len(data)
            if self._unparsed > HEAD_LIMIT and not self.transport.is_closing():
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self.in_head = True
        self._head_size = self._unparsed = 0

    def on_url(self, url: bytes) -> None:
        """Take the path and query, or a part of them."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > HEAD_LIMIT:
            raise ValueError(HEAD_TOO_LARGE)  # the parser stops, and a refusal is sent

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self.in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words
        """Refuse what cannot be served at all, and end the connection."""
        if max(self._head_size, self._unparsed) > HEAD_LIMIT:
            status, detail = 431, HEAD_TOO_LARGE
        else:
            status, detail = 400, "this is not a valid HTTP/1.1 request"
        kind, body = self.refusal(status, detail)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def refusal(self, status: int, detail: str) -> tuple[str, bytes]:
        """The Content-Type and the body of a refusal; a function's by default."""
        return "application/json", error_response(status, detail)[1]
