"""What the bodies of the API look like, as JSON Schemas for its description."""

from __future__ import annotations

from typing import Any, Final

from fnship.engine.api.common import PROBLEM_SCHEMA
from fnship.engine.auth import Role
from fnship.engine.model import Status

__all__ = ["SCHEMAS", "answer"]

_STRING: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number"}
_MOMENT: Final = {"type": ["string", "null"], "format": "date-time"}
_STATUS: Final = {"type": "string", "enum": [str(each) for each in Status]}
_OTHER: Final = {"type": ["string", "null"]}
_CURSOR: Final = {
    "type": ["string", "null"],
    "description": "asks for those that follow; null where there are none",
}


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_ERROR: Final = {
    "anyOf": [
        _object(
            {
                "error_code": {"type": ["integer", "null"]},
                "message": _STRING,
                "data": {},
                "stack_trace": {},
            }
        ),
        {"type": "null"},
    ]
}
_CALLBACK: Final = {
    "anyOf": [
        _object(
            {
                "url": {**_STRING, "description": "without what may be secret in it"},
                "status": {"type": "string", "enum": ["pending", "heard", "given up"]},
                "attempts": _WHOLE,
                "due": _MOMENT,
                "heard": _MOMENT,
                "error": {**_OTHER, "description": "what went wrong the last time"},
            }
        ),
        {"type": "null"},
    ]
}
_ACTIVITY: Final = {
    "id": _STRING,
    "function": _STRING,
    "status": _STATUS,
    "attempts": _WHOLE,
    "failures": _WHOLE,
    "result": {"description": "what the function returned; null unless it succeeded"},
    "error": {
        **_ERROR,
        "description": "what its last attempt came to; null where that succeeded",
    },
    "durable": {"type": "boolean"},
    "created": _MOMENT,
    "started": _MOMENT,
    "ended": _MOMENT,
    "due": _MOMENT,
    "organization_id": _STRING,
    "project_id": _STRING,
    "environment_id": _STRING,
    "environment_name": _STRING,
    "replay_of": _OTHER,
    "replayed_by": _OTHER,
    "payload": {"type": "object"},
    "previous": {"description": "what the last attempt left for the next"},
    "event": _object({"source": _OTHER, "source_name": _OTHER, "type": _OTHER}),
    "callback": {**_CALLBACK, "description": "what became of it; null where it has none"},
}
_RETRY: Final = {
    "max_attempts": _WHOLE,
    "first_delay": _NUMBER,
    "factor": _NUMBER,
    "max_delay": _NUMBER,
    "jitter": _NUMBER,
    "again_delay": _NUMBER,
    "max_again": _WHOLE,
    "max_again_age": _NUMBER,
}
_FUNCTION: Final = {
    "name": _STRING,
    "url": _STRING,
    "folder": _STRING,
    "image": _STRING,
    "memory": _STRING,
    "cpus": _OTHER,
    "timeout": _NUMBER,
    "concurrency": _WHOLE,
    "retry": _object(_RETRY),
    "created": _MOMENT,
    "updated": _MOMENT,
}
_TOKEN: Final = {
    "id": _STRING,
    "role": {"type": "string", "enum": [str(each) for each in Role]},
    "name": _STRING,
    "created": _MOMENT,
    "expires": _MOMENT,
}
_LINE: Final = {"activity_id": _STRING, "attempt": _WHOLE, "line": _STRING}
_ITEM: Final = {"key": _STRING, "version": _WHOLE, "value": {"description": "any JSON"}}

SCHEMAS: Final[dict[str, Any]] = {
    "Accepted": _object({"id": _STRING, "status": _STATUS}),
    "Activity": _object(_ACTIVITY, "payload", "previous", "event", "callback"),
    "Activities": _object(
        {"items": {"type": "array", "items": _ref("Activity")}, "cursor": _CURSOR}
    ),
    "CallbackKey": _object({"key": _STRING}),
    "Function": _object(_FUNCTION, "url", "folder", "image", "memory", "cpus"),
    "Functions": _object({"items": {"type": "array", "items": _ref("Function")}}),
    "Imported": _object({"imported": _WHOLE}),
    "Lines": _object(
        {
            "items": {"type": "array", "items": _object(_LINE)},
            "cursor": {**_CURSOR, "type": ["integer", "null"]},
        }
    ),
    "NewToken": _object({**_TOKEN, "token": _STRING}, "created"),
    "Problem": PROBLEM_SCHEMA,
    "Replayed": _object({"replayed": _WHOLE}),
    "State": _object({"items": {"type": "array", "items": _object(_ITEM)}, "cursor": _CURSOR}),
    "StateItem": _object({"value": _ITEM["value"], "version": _WHOLE}),
    "StateVersion": _object({"version": _WHOLE}),
    "Tokens": _object({"items": {"type": "array", "items": _object(_TOKEN)}}),
}
"""By the names that they have in the description."""


def answer(name: str, description: str) -> dict[str, Any]:
    """The description of an answer.

    Args:
        name: One of `SCHEMAS`.
        description: What it means.
    """
    return {
        "description": description,
        "content": {"application/json": {"schema": _ref(name)}},
    }
