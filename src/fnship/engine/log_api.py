"""The log as functions reach it: each upload is a form with a file of whole lines, or many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fnship import contract
from fnship.engine.attempt import LOGS_PATH
from fnship.engine.form import FilePart, read_form
from fnship.engine.stores.logs import LogStore, Upload
from fnship.engine.tokens import Tokens
from fnship.errors import EngineError, InvalidRequest, NotAllowed, QuotaExceeded, TokenRefused

__all__ = ["MAX_PARTS", "MAX_UPLOAD", "log_routes"]

MAX_UPLOAD: Final = 16 * 2**20
"""Bytes of one upload."""

MAX_PARTS: Final = 1000
"""Files in an upload of many attempts."""

_LONGEST_BATCH: Final = 100
_BATCH: Final = contract.LOG_BATCH.lower().encode()
_TOKEN: Final = contract.WORKFLOW_TOKEN.lower().encode()
_STORED: Final = b'{"stored":true}'

OnLines = Callable[[str, str], None]


def log_routes(store: LogStore, tokens: Tokens, on_lines: OnLines) -> list[Route]:
    """The routes for functions: the log of one attempt, and those of many at once.

    Args:
        store: Where lines go.
        tokens: Reads the tokens of attempts; one may add to its log until it expires.
        on_lines: Told of an activity's id and its new lines.
    """
    api = _LogAPI(store, tokens, on_lines)
    one = f"{LOGS_PATH}/{{activity_id}}/{{attempt:int}}"
    return [
        Route(one, api.take_one, methods=["POST"]),
        Route(LOGS_PATH, api.take_many, methods=["POST"]),
    ]


class _LogAPI:
    def __init__(self, store: LogStore, tokens: Tokens, on_lines: OnLines) -> None:
        self._store = store
        self._tokens = tokens
        self._on_lines = on_lines

    async def take_one(self, request: Request) -> Response:
        """Take lines of one attempt."""
        try:
            batch = request.headers.get(contract.LOG_BATCH)
            token = request.headers.get(contract.WORKFLOW_TOKEN)
            attempt = self._attempt(token)
            if attempt != (request.path_params["activity_id"], request.path_params["attempt"]):
                raise NotAllowed("the token is for the log of another attempt")
            if request.query_params.get("append") != "true":
                raise InvalidRequest("only ?append=true is understood")
            if batch is not None:
                _check_batch(batch)
            part = (await _parts(request))[-1]
            await self._append([Upload(*attempt, _text(part), batch)])
        except EngineError as exc:
            return Response(_error(exc), exc.status, media_type="application/json")
        return Response(_STORED, media_type="application/json")

    async def take_many(self, request: Request) -> Response:
        """Take lines of several attempts, each with its own token; says of each how it went."""
        try:
            parts = await _parts(request)
            if len(parts) > MAX_PARTS:
                raise QuotaExceeded(f"an upload has {MAX_PARTS} files at most")
            answers: list[dict[str, Any]] = []
            uploads: list[Upload] = []
            for part in parts:
                try:
                    uploads.append(self._upload(part))
                    answers.append({"status": 200})
                except EngineError as exc:
                    answers.append({"status": exc.status, "error": str(exc)})
            await self._append(uploads)
        except EngineError as exc:
            return Response(_error(exc), exc.status, media_type="application/json")
        body = msgspec.json.encode({"parts": answers})
        return Response(body, media_type="application/json")

    def _upload(self, part: FilePart) -> Upload:
        token = part.headers.get(_TOKEN)
        attempt = self._attempt(None if token is None else token.decode("latin-1"))
        batch = part.headers.get(_BATCH, b"").decode("latin-1")
        _check_batch(batch)
        return Upload(*attempt, _text(part), batch)

    def _attempt(self, token: str | None) -> tuple[str, int]:
        if token is None:
            raise TokenRefused(f"{contract.WORKFLOW_TOKEN} is missing")
        grant = self._tokens.verify(token, "log")
        return grant.activity_id, grant.attempt

    async def _append(self, uploads: list[Upload]) -> None:
        new = await self._store.append_all(uploads)
        for upload, is_new in zip(uploads, new, strict=True):
            if is_new:
                self._on_lines(upload.activity_id, upload.text)


def _check_batch(batch: str) -> None:
    if not 0 < len(batch) <= _LONGEST_BATCH:
        raise InvalidRequest(
            f"{contract.LOG_BATCH} is missing or not valid: ATTEMPT-SEQUENCE, of at most "
            f"{_LONGEST_BATCH} characters"
        )


async def _parts(request: Request) -> list[FilePart]:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_UPLOAD:
            raise QuotaExceeded(f"an upload has {MAX_UPLOAD} bytes at most")
        pieces.append(piece)
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return read_form(request.headers.get("content-type", ""), body)


def _text(part: FilePart) -> str:
    return part.content.decode("utf-8", "replace")


def _error(exc: EngineError) -> bytes:
    return msgspec.json.encode({"error": str(exc)})
