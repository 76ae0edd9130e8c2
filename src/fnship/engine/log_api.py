"""The log as functions reach it: each upload is a form with one file of whole lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fnship import contract
from fnship.engine.attempt import LOGS_PATH
from fnship.engine.stores.logs import LogStore
from fnship.engine.tokens import Tokens
from fnship.errors import EngineError, InvalidRequest, NotAllowed, QuotaExceeded, TokenRefused

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["MAX_UPLOAD", "log_route", "read_form"]

MAX_UPLOAD: Final = 16 * 2**20
"""Bytes of one upload."""

_LONGEST_BATCH: Final = 100
_STORED: Final = b'{"stored":true}'

OnLines = Callable[[str, str], None]


def log_route(store: LogStore, tokens: Tokens, on_lines: OnLines) -> Route:
    """The route for functions.

    Args:
        store: Where lines go.
        tokens: Reads the tokens of attempts; one may add to its log until it expires.
        on_lines: Told of an activity's id and its new lines.
    """
    api = _LogAPI(store, tokens, on_lines)
    return Route(f"{LOGS_PATH}/{{activity_id}}/{{attempt:int}}", api.answer, methods=["POST"])


class _LogAPI:
    def __init__(self, store: LogStore, tokens: Tokens, on_lines: OnLines) -> None:
        self._store = store
        self._tokens = tokens
        self._on_lines = on_lines

    async def answer(self, request: Request) -> Response:
        """Take one upload."""
        try:
            activity_id, attempt = self._attempt(request)
            if request.query_params.get("append") != "true":
                raise InvalidRequest("only ?append=true is understood")
            batch = request.headers.get(contract.LOG_BATCH)
            if batch is not None and not 0 < len(batch) <= _LONGEST_BATCH:
                raise InvalidRequest(f"{contract.LOG_BATCH} is not valid")
            body = await _body(request)
            content = read_form(request.headers.get("content-type", ""), body)
            text = content.decode("utf-8", "replace")
            if await self._store.append(activity_id, attempt, text, batch):
                self._on_lines(activity_id, text)
        except EngineError as exc:
            answer = msgspec.json.encode({"error": str(exc)})
            return Response(answer, exc.status, media_type="application/json")
        return Response(_STORED, media_type="application/json")

    def _attempt(self, request: Request) -> tuple[str, int]:
        token = request.headers.get(contract.WORKFLOW_TOKEN)
        if token is None:
            raise TokenRefused(f"{contract.WORKFLOW_TOKEN} is missing")
        grant = self._tokens.verify(token, "log")
        wanted = request.path_params["activity_id"], request.path_params["attempt"]
        if (grant.activity_id, grant.attempt) != wanted:
            raise NotAllowed("the token is for the log of another attempt")
        return wanted


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_UPLOAD:
            raise QuotaExceeded(f"an upload has {MAX_UPLOAD} bytes at most")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_form(content_type: str, body: bytes) -> bytes:
    """The file part ``content`` of a form.

    Args:
        content_type: With the form's boundary.
        body: The whole form.

    Raises:
        InvalidRequest: There is no such part, or it is no form.
    """
    try:
        kind, options = parse_options_header(content_type)
    except ValueError:
        kind, options = b"", {}
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest("the body is no multipart/form-data")
    form = _Form()
    parser = MultipartParser(boundary, form.callbacks())
    try:
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as exc:
        raise InvalidRequest(f"the form is not valid: {exc}") from exc
    if form.content is None or not form.whole:
        raise InvalidRequest("the form has no whole file part named content")
    return b"".join(form.content)


class _Form:
    """Collects the data of the part that is wanted."""

    def __init__(self) -> None:
        self.content: list[bytes] | None = None
        self.whole = False
        self._field = b""
        self._value = b""
        self._disposition = b""
        self._wanted = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._wanted = options.get(b"name") == b"content" and b"filename" in options
        if self._wanted:
            self.content = []

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and self.content is not None:
            self.content.append(data[start:end])

    def _end(self) -> None:
        self.whole = True
