"""How an activity is shown to people and programs: as a JSON object."""

from __future__ import annotations

import datetime as dt
import urllib.parse
from typing import Any

import msgspec

from fnship.engine.model import Activity, Status
from fnship.engine.stores.activities import Callback

__all__ = ["activity_document", "timestamp", "whole_document"]


def activity_document(activity: Activity) -> dict[str, Any]:
    """What the API gives of an activity in a list. Raw JSON in it goes out as it came in."""
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
    return shown


def whole_document(activity: Activity, callback: Callback | None) -> dict[str, Any]:
    """What the API gives of an activity alone: also what its caller sent.

    Args:
        activity: The activity.
        callback: What became of its callback; None for none.
    """
    return {
        **activity_document(activity),
        "payload": activity.payload,
        "previous": activity.previous,
        "event": msgspec.structs.asdict(activity.event),
        "callback": callback and _callback_document(callback, ended=activity.status.final),
    }


def _callback_document(callback: Callback, *, ended: bool) -> dict[str, Any]:
    if callback.heard is not None:
        status = "heard"
    else:
        status = "given up" if ended and callback.due is None else "pending"
    return {
        "url": _without_secrets(callback.url),
        "status": status,
        "attempts": callback.attempts,
        "due": timestamp(callback.due),
        "heard": timestamp(callback.heard),
        "error": callback.problem,
    }


def _without_secrets(url: str) -> str:
    """A URL as far as it says where it leads: a query may have a token in it."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query and "…", ""))


def timestamp(seconds: float | None) -> str | None:
    """A moment as RFC 3339 has it, in UTC with milliseconds.

    Args:
        seconds: Since 1970; None for no moment.
    """
    if seconds is None:
        return None
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
