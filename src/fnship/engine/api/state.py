"""The state store as people manage it: any scope, with a token for the API."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from fnship.engine.api.common import problems
from fnship.engine.api.schemas import answer
from fnship.engine.model import DEFAULT_ID
from fnship.engine.state_api import read_cursor, write_cursor
from fnship.engine.stores.state import Keys, Record, StateStore
from fnship.engine.verbatim import verbatim
from fnship.errors import InvalidRequest, MalformedJSON, Missing

__all__ = ["admin_routes", "read_routes"]

_Id = Annotated[str, Query(max_length=255)]
_Key = Annotated[str, Query(min_length=1, max_length=1024)]
_LINES: Final = "application/x-ndjson"
_EXPORT: Final = {
    "description": "A line of JSON for each key",
    "content": {_LINES: {"schema": {"type": "string"}}},
}
_VALUE: Final = {
    "requestBody": {
        "description": "The value, any JSON. It is kept as it is written.",
        "required": True,
        "content": {"application/json": {"schema": {}}},
    }
}
_EXPORTED: Final = {
    "requestBody": {
        "description": "What was exported; nothing is no keys.",
        "content": {_LINES: {"schema": {"type": "string"}}},
    }
}

read_routes = APIRouter(prefix="/v1/state", tags=["state"])
"""For tokens that may read, and all above them."""

admin_routes = APIRouter(prefix="/v1/state", tags=["state"])
"""For tokens that may do everything."""


class _Line(msgspec.Struct):
    key: str
    value: msgspec.Raw
    version: int = 1
    expires: float | None = None


_decode_line: Final = msgspec.json.Decoder(_Line).decode
_encode: Final = msgspec.json.Encoder().encode


@read_routes.get("", responses={200: answer("State", "A page of it.")})
async def list_state(
    request: Request,
    organization_id: _Id = DEFAULT_ID,
    project_id: _Id = "",
    environment_id: _Id = "",
    prefix: Annotated[str, Query(max_length=1024)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=2048)] = None,
) -> Response:
    """List the keys of a scope, with their values."""
    scope = _scope(organization_id, project_id, environment_id)
    after = read_cursor(cursor) if cursor else None
    found = await _store(request).list(scope, prefix, after=after, limit=limit + 1)
    items = [
        {"key": item.key, "version": item.version, "value": item.value} for item in found[:limit]
    ]
    more = write_cursor(found[limit - 1].key) if len(found) > limit else None
    return _answer({"items": items, "cursor": more})


@read_routes.get(
    "/item", responses={200: answer("StateItem", "The value, and its version."), **problems(404)}
)
async def get_state(
    request: Request,
    key: _Key,
    organization_id: _Id = DEFAULT_ID,
    project_id: _Id = "",
    environment_id: _Id = "",
) -> Response:
    """Get the value of a key, and its version."""
    scope = _scope(organization_id, project_id, environment_id)
    found = await _store(request).get(scope, key)
    if found is None:
        raise Missing(f"there is no state key {key!r} in this scope")
    return _answer({"value": found[0], "version": found[1]})


@admin_routes.put(
    "/item",
    responses={200: answer("StateVersion", "The new version."), **problems(403, 409, 413, 507)},
    openapi_extra=_VALUE,
)
async def put_state(
    request: Request,
    key: _Key,
    organization_id: _Id = DEFAULT_ID,
    project_id: _Id = "",
    environment_id: _Id = "",
    version: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    ttl: Annotated[float | None, Query(gt=0)] = None,
) -> Response:
    """Write a value; with a version, only if that is the current one."""
    scope = _scope(organization_id, project_id, environment_id)
    if ttl is not None and not math.isfinite(ttl):
        raise InvalidRequest("ttl is not a number of seconds")
    value = await request.body()
    try:
        value = verbatim(value)
    except MalformedJSON as exc:
        raise InvalidRequest(f"the value is not valid: {exc}") from exc
    return _answer({"version": await _store(request).put(scope, key, value, version, ttl)})


@admin_routes.delete("/item", status_code=204, responses=problems(403, 404, 507))
async def delete_state(
    request: Request,
    key: _Key,
    organization_id: _Id = DEFAULT_ID,
    project_id: _Id = "",
    environment_id: _Id = "",
) -> Response:
    """Delete a key."""
    scope = _scope(organization_id, project_id, environment_id)
    if not await _store(request).delete(scope, key):
        raise Missing(f"there is no state key {key!r} in this scope")
    return Response(status_code=204)


@read_routes.get("/export", responses={200: _EXPORT})
async def export_state(
    request: Request,
    organization_id: _Id = DEFAULT_ID,
    project_id: _Id = "",
    environment_id: _Id = "",
) -> StreamingResponse:
    """Everything of a scope, one JSON object a line."""
    scope = _scope(organization_id, project_id, environment_id)

    async def lines() -> AsyncIterator[bytes]:
        async for record in _store(request).export(scope):
            yield _encode(record._asdict()) + b"\n"

    return StreamingResponse(lines(), media_type=_LINES)


@admin_routes.post(
    "/import",
    responses={200: answer("Imported", "How many keys."), **problems(403, 413, 507)},
    openapi_extra=_EXPORTED,
)
async def import_state(
    request: Request,
    organization_id: _Id = DEFAULT_ID,
    project_id: _Id = "",
    environment_id: _Id = "",
) -> Response:
    """Write what was exported: all of it, or nothing."""
    scope = _scope(organization_id, project_id, environment_id)
    records = []
    body = await request.body()
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            records.append(_record(line, number))
    return _answer({"imported": await _store(request).import_(scope, records)})


def _record(line: bytes, number: int) -> Record:
    try:
        read = _decode_line(verbatim(line))
    except (MalformedJSON, msgspec.MsgspecError) as exc:
        raise InvalidRequest(f"line {number} is not valid: {exc}") from exc
    return Record(read.key, msgspec.Raw(bytes(read.value)), read.version, read.expires)


def _scope(organization_id: str, project_id: str, environment_id: str) -> Keys:
    if environment_id and not project_id:
        raise InvalidRequest("environment_id is given without project_id")
    return Keys(organization_id or DEFAULT_ID, project_id or None, environment_id or None)


def _store(request: Request) -> StateStore:
    store: StateStore = request.app.state.engine.state
    return store


def _answer(body: dict[str, Any]) -> Response:
    return Response(_encode(body), media_type="application/json")
