"""How an activity is shown to people and programs: as a JSON object."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from fnship.engine.model import Activity, Status

__all__ = ["activity_document", "timestamp"]


def activity_document(activity: Activity, *, payload: bool = False) -> dict[str, Any]:
    """What the API gives of an activity. Raw JSON in it goes out as it came in.

    Args:
        activity: The activity.
        payload: Whether with what its caller sent.
    """
    outcome = activity.outcome
    shown: dict[str, Any] = {
        "id": activity.id,
        "function": activity.function,
        "status": activity.status,
        "attempts": activity.attempts,
        "failures": activity.failures,
        "result": None,
        "error": None,
        "durable": activity.durable,
        "created": timestamp(activity.created),
        "started": timestamp(activity.started),
        "ended": timestamp(activity.ended),
        "due": timestamp(activity.due),
        "organization_id": activity.scope.organization_id,
        "project_id": activity.scope.project_id,
        "environment_id": activity.scope.environment_id,
        "environment_name": activity.scope.environment_name,
        "replay_of": activity.replay_of,
        "replayed_by": activity.replayed_by,
    }
    if outcome is not None and activity.status is Status.SUCCEEDED:
        shown["result"] = outcome.data
    elif outcome is not None:
        shown["error"] = {
            "error_code": outcome.code,
            "message": outcome.message,
            "data": outcome.data,
            "stack_trace": outcome.stack_trace,
        }
    if payload:
        shown["payload"] = activity.payload
        shown["previous"] = activity.previous
        shown["event"] = msgspec.structs.asdict(activity.event)
    return shown


def timestamp(seconds: float | None) -> str | None:
    """A moment as RFC 3339 has it, in UTC with milliseconds.

    Args:
        seconds: Since 1970; None for no moment.
    """
    if seconds is None:
        return None
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
