"""Routes for logs: read, follow, search."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from fnship.engine.api.common import CanRead, TheEngine, json_response, problems
from fnship.engine.api.schemas import answer
from fnship.engine.engine import Engine

__all__ = ["router"]

router = APIRouter(tags=["logs"])

_LINE_END: Final = re.compile("\r\n|\r|\n")  # each of them ends a line of an event


_LOG: Final = {
    "description": "Its lines; with follow, as they come",
    "content": {
        "text/plain": {"schema": {"type": "string"}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}


@router.get(
    "/v1/activities/{activity_id}/logs",
    dependencies=[CanRead],
    response_model=None,
    responses={**problems(400, 404), 200: _LOG},
)
async def get_logs(
    activity_id: str,
    engine: TheEngine,
    request: Request,
    follow: Annotated[bool, Query(description="as server-sent events, until its end")] = False,
    attempt: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> Response:
    """The log of an activity."""
    await engine.activity(activity_id)
    if follow:
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdecimal() and len(last) < 19 else 0
        return StreamingResponse(
            _events(engine, activity_id, after),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )
    pieces = engine.logs.pieces(activity_id, attempt=attempt)
    return StreamingResponse((piece.text async for piece in pieces), media_type="text/plain")


@router.get(
    "/v1/logs",
    dependencies=[CanRead],
    response_model=None,
    responses={200: answer("Lines", "A page of them."), **problems(400)},
)
async def search_logs(
    engine: TheEngine,
    text: Annotated[str, Query(max_length=1000)] = "",
    level: Annotated[str | None, Query(description="the least one")] = None,
    activity_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Response:
    """Lines of all activities that hold a text, the newest first."""
    found, following = await engine.logs.search(
        text=text, level=level, activity_id=activity_id, limit=limit, cursor=cursor
    )
    items = [each._asdict() for each in found]
    return json_response({"items": items, "cursor": following})


async def _events(engine: Engine, activity_id: str, after: int) -> AsyncIterator[bytes]:
    async def has_ended() -> bool:
        return (await engine.activity(activity_id)).status.final

    async for piece in engine.logs.follow(activity_id, has_ended, after=after):
        if piece is None:
            yield b": still here\n\n"
            continue
        lines = b"".join(b"data: %b\n" % line.encode() for line in _lines(piece.text))
        yield b"id: %d\n%b\n" % (piece.position, lines)
    status = (await engine.activity(activity_id)).status
    yield b"event: end\ndata: %b\n\n" % msgspec.json.encode(status)


def _lines(text: str) -> list[str]:
    """What a reader of events takes for lines: one with a carriage return is several."""
    return _LINE_END.split(text)[:-1]
