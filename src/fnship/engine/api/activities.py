"""Routes for activities: look, cancel, replay."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from fnship.engine.api.common import CanInvoke, CanRead, TheEngine, json_response, problems
from fnship.engine.api.schemas import answer
from fnship.engine.document import activity_document, whole_document
from fnship.engine.engine import Engine
from fnship.engine.model import Activity, Status
from fnship.engine.stores.activities import ActivityQuery
from fnship.errors import InvalidRequest

__all__ = ["router"]

router = APIRouter(prefix="/v1/activities", tags=["activities"])

_ONE: Final[dict[int | str, dict[str, Any]]] = {200: answer("Activity", "The activity.")}

_Moment = Annotated[
    dt.datetime | None, Query(description="RFC 3339, or seconds since 1970; UTC by default")
]


@router.get(
    "",
    dependencies=[CanRead],
    response_model=None,
    responses={200: answer("Activities", "A page of them."), **problems(400)},
)
async def list_activities(
    engine: TheEngine,
    function: str | None = None,
    status: Status | None = None,
    organization_id: str | None = None,
    project_id: str | None = None,
    environment_id: str | None = None,
    created_after: _Moment = None,
    created_before: _Moment = None,
    dead: Annotated[bool, Query(description="failed, and not replayed since")] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(description="what the page before gave")] = None,
) -> Response:
    """Activities, the newest first; ephemeral ones once they have ended."""
    page = await engine.activities(
        ActivityQuery(
            function=function,
            status=status,
            organization_id=organization_id,
            project_id=project_id,
            environment_id=environment_id,
            created_after=_seconds(created_after),
            created_before=_seconds(created_before),
            dead=dead,
            limit=limit,
            cursor=cursor,
        )
    )
    items = [activity_document(each) for each in page.items]
    return json_response({"items": items, "cursor": page.cursor})


class Selection(BaseModel):
    """Which dead letters are meant; all by default."""

    model_config = ConfigDict(extra="forbid")

    function: str | None = None
    organization_id: str | None = None
    project_id: str | None = None
    environment_id: str | None = None
    created_after: dt.datetime | None = None
    created_before: dt.datetime | None = None


@router.post(
    "/replay",
    dependencies=[CanInvoke],
    response_model=None,
    responses={200: answer("Replayed", "How many."), **problems(400, 403, 503, 507)},
)
async def replay_dead(engine: TheEngine, selection: Selection | None = None) -> Response:
    """Run dead letters once more, each as a new activity."""
    chosen = selection or Selection()
    count = await engine.replay_all(
        ActivityQuery(
            function=chosen.function,
            organization_id=chosen.organization_id,
            project_id=chosen.project_id,
            environment_id=chosen.environment_id,
            created_after=_seconds(chosen.created_after),
            created_before=_seconds(chosen.created_before),
        )
    )
    return json_response({"replayed": count})


@router.get(
    "/{activity_id}",
    dependencies=[CanRead],
    response_model=None,
    responses={**_ONE, **problems(404)},
)
async def get_activity(activity_id: str, engine: TheEngine) -> Response:
    """One activity, with its payload."""
    return await _shown(engine, await engine.activity(activity_id))


@router.post(
    "/{activity_id}/cancel",
    dependencies=[CanInvoke],
    response_model=None,
    responses={**_ONE, **problems(403, 404, 409, 507)},
)
async def cancel_activity(activity_id: str, engine: TheEngine) -> Response:
    """Cancel an activity; an attempt in flight is cut off."""
    return await _shown(engine, await engine.cancel(activity_id))


@router.post(
    "/{activity_id}/replay",
    dependencies=[CanInvoke],
    response_model=None,
    status_code=202,
    responses={
        202: answer("Accepted", "The new activity."),
        **problems(403, 404, 409, 503, 507),
    },
)
async def replay_activity(activity_id: str, engine: TheEngine) -> Response:
    """Run an activity that has ended once more, as a new one."""
    activity = await engine.replay(activity_id)
    headers = {"Location": f"/v1/activities/{activity.id}"}
    return json_response({"id": activity.id, "status": activity.status}, 202, headers)


@router.post(
    "/{activity_id}/callback",
    dependencies=[CanInvoke],
    response_model=None,
    status_code=202,
    responses={
        202: answer("Activity", "The activity, with its callback."),
        **problems(403, 404, 409, 507),
    },
)
async def send_callback(activity_id: str, engine: TheEngine) -> Response:
    """Send the callback of an activity that has ended once more, until it is heard."""
    return await _shown(engine, await engine.send_callback(activity_id), 202)


async def _shown(engine: Engine, activity: Activity, status: int = 200) -> Response:
    return json_response(whole_document(activity, await engine.callback(activity)), status)


def _seconds(moment: dt.datetime | None) -> float | None:
    if moment is None:
        return None
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
    except (OverflowError, ValueError) as exc:
        raise InvalidRequest(f"{moment} is out of range") from exc
