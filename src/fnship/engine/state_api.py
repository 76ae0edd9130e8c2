"""The state store as functions reach it: GET a key or a listing, PUT with a version, DELETE."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fnship import contract
from fnship.engine.attempt import STATE_PATH
from fnship.engine.stores.state import Keys, StateStore
from fnship.engine.tokens import Tokens
from fnship.engine.verbatim import verbatim
from fnship.errors import (
    EngineError,
    InvalidRequest,
    MalformedJSON,
    Missing,
    NotAllowed,
    QuotaExceeded,
    TokenRefused,
)

__all__ = ["read_cursor", "state_route", "write_cursor"]

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000
_ENVELOPE: Final = 64 * 1024  # bytes of a body beside its value

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class _ScopeBody(msgspec.Struct):
    organization_id: _Text
    project_id: str | None = None
    environment_id: str | None = None

    def keys(self) -> Keys:
        return Keys(self.organization_id, self.project_id or None, self.environment_id or None)


class _Put(msgspec.Struct):
    scope: _ScopeBody
    key: _Text
    value: msgspec.Raw
    version: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    ttl: Annotated[float, msgspec.Meta(gt=0)] | None = None


class _Delete(msgspec.Struct):
    scope: _ScopeBody
    key: _Text


_decode_put: Final = msgspec.json.Decoder(_Put).decode
_decode_delete: Final = msgspec.json.Decoder(_Delete).decode
_encode: Final = msgspec.json.Encoder().encode


def state_route(
    store: StateStore, tokens: Tokens, holds: Callable[[str, int], bool], max_value: int
) -> Route:
    """The route for functions.

    Args:
        store: Where values are.
        tokens: Reads the tokens of attempts.
        holds: Whether an attempt is being made: the token of a past one is refused.
        max_value: Bytes that a value may have.
    """
    api = _StateAPI(store, tokens, holds, max_value)
    return Route(STATE_PATH, api.answer, methods=["GET", "PUT", "DELETE"])


class _StateAPI:
    def __init__(
        self,
        store: StateStore,
        tokens: Tokens,
        holds: Callable[[str, int], bool],
        max_value: int,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._holds = holds
        self._max_body = max_value + _ENVELOPE

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            allowed = self._scope_of(request)
            if request.method == "PUT":
                return await self._put(allowed, await self._body(request))
            if request.method == "DELETE":
                return await self._delete(allowed, await self._body(request))
            return await self._get(allowed, request)
        except EngineError as exc:
            return _answer({"error": str(exc)}, exc.status)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            return _answer({"error": f"the body: {exc}"}, 400)
        except RecursionError:
            return _answer({"error": "the body is nested too deeply"}, 400)
        except ClientDisconnect:
            return _answer({"error": "the body is not whole"}, 400)  # nobody reads it

    def _scope_of(self, request: Request) -> Keys:
        token = request.headers.get(contract.STATE_TOKEN)
        if token is None:
            raise TokenRefused(f"{contract.STATE_TOKEN} is missing")
        grant = self._tokens.verify(token, "state")
        if not self._holds(grant.activity_id, grant.attempt):
            raise TokenRefused(
                f"attempt {grant.attempt} of activity {grant.activity_id} has ended, and its "
                "token with it"
            )
        scope = grant.scope
        return Keys(scope.organization_id, scope.project_id, scope.environment_id)

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_body:
                raise QuotaExceeded(f"the body has more than {self._max_body} bytes")
            parts.append(part)
        body = b"".join(parts)
        body.decode()  # the value is kept as it came, so it is looked at here
        return body

    async def _get(self, allowed: Keys, request: Request) -> Response:
        query = request.query_params
        if not query.get("organization_id"):
            raise InvalidRequest("organization_id is missing")
        scope = Keys(
            query["organization_id"],
            query.get("project_id") or None,
            query.get("environment_id") or None,
        )
        _check_scope(scope, allowed)
        if ("key" in query) == ("prefix" in query):
            raise InvalidRequest("give either key or prefix")
        if "prefix" in query:
            return await self._list(scope, query["prefix"], query)
        found = await self._store.get(scope, query["key"])
        if found is None:
            raise Missing("no such key")
        return _answer({"value": found[0], "version": found[1]})

    async def _list(self, scope: Keys, prefix: str, query: Any) -> Response:
        limit = query.get("limit", str(_PAGE))
        if not (
            len(limit) < 9
            and limit.isascii()
            and limit.isdecimal()
            and 1 <= int(limit) <= _LARGEST_PAGE
        ):
            raise InvalidRequest(f"limit is not a number from 1 to {_LARGEST_PAGE}")
        after = read_cursor(query["cursor"]) if query.get("cursor") else None
        size = int(limit)
        found = await self._store.list(scope, prefix, after=after, limit=size + 1)
        items = [
            {"key": item.key, "version": item.version, "value": item.value} for item in found[:size]
        ]
        cursor = write_cursor(found[size - 1].key) if len(found) > size else None
        return _answer({"items": items, "cursor": cursor})

    async def _put(self, allowed: Keys, body: bytes) -> Response:
        put = _decode_put(body)
        if put.ttl is not None and not math.isfinite(put.ttl):
            raise InvalidRequest("ttl is not a number of seconds")
        _check_scope(put.scope.keys(), allowed)
        try:
            value = verbatim(bytes(put.value))
        except MalformedJSON as exc:
            raise InvalidRequest(f"the value: {exc}") from exc
        version = await self._store.put(put.scope.keys(), put.key, value, put.version, put.ttl)
        return _answer({"version": version})

    async def _delete(self, allowed: Keys, body: bytes) -> Response:
        delete = _decode_delete(body)
        _check_scope(delete.scope.keys(), allowed)
        if not await self._store.delete(delete.scope.keys(), delete.key):
            raise Missing("no such key")
        return _answer({})


def _check_scope(wanted: Keys, allowed: Keys) -> None:
    """See that a scope is the activity's own, or a wider one around it."""
    if wanted.environment_id is not None and wanted.project_id is None:
        raise InvalidRequest("environment_id is given without project_id")
    for name, value, own in zip(Keys._fields, wanted, allowed, strict=True):
        if value is not None and value != own:
            raise NotAllowed(f"the token does not allow {name} {value!r}")


def _answer(body: dict[str, Any], status: int = 200) -> Response:
    return Response(_encode(body), status, media_type="application/json")


def write_cursor(key: str) -> str:
    """What a listing that ends behind `key` gives for its next page."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def read_cursor(cursor: str) -> str:
    """The key that a page begins behind.

    Raises:
        InvalidRequest: No listing gave this cursor.
    """
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest("this cursor is not one of ours") from None
