"""The route that invokes a function. The busiest one, so it does without FastAPI's machinery."""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fnship import contract
from fnship.engine.api.common import authorize, json_response, problems
from fnship.engine.api.schemas import answer
from fnship.engine.api.waiting import Waits
from fnship.engine.auth import Role
from fnship.engine.document import activity_document
from fnship.engine.engine import Engine
from fnship.engine.model import DEFAULT_ID, Event, Scope
from fnship.engine.submission import Submission
from fnship.errors import InvalidRequest, QuotaExceeded

__all__ = ["DESCRIPTION", "PATH", "route"]

PATH: Final = "/v1/functions/{name}/invocations"
_IDEMPOTENCY_KEY: Final = "Idempotency-Key"
_REPLAYED: Final = "Idempotent-Replayed"
_LONGEST_WAIT: Final = 3600  # seconds
_EPHEMERAL: Final = ("durability", "ephemeral")
_HEADERS: Final = {
    contract.ACTIVITY_ID: "What the activity is to be known by; given again, the same activity.",
    _IDEMPOTENCY_KEY: "Given again with the same payload, it means the same activity.",
    "Prefer": f"`wait=SECONDS` for its end, {_LONGEST_WAIT} at most; `durability=ephemeral` for "
    "one that does not survive a crash of the engine.",
    contract.CALLBACK_URL: "Where its outcome is sent.",
    contract.ORGANIZATION_ID: "Whose it is.",
    contract.PROJECT_ID: "Whose it is.",
    contract.ENVIRONMENT_ID: "Whose it is.",
    contract.ENVIRONMENT_NAME: "Whose it is.",
    contract.EVENT_SOURCE: "What caused it.",
    contract.EVENT_SOURCE_NAME: "What caused it.",
    contract.EVENT_TYPE: "What caused it.",
}

DESCRIPTION: Final[dict[str, Any]] = {
    "tags": ["activities"],
    "summary": "Invoke",
    "description": "Invoke a function. Its activity is on the disk when the answer comes, unless "
    "it is ephemeral.",
    "operationId": "invoke",
    "parameters": [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}},
        *(
            {"name": name, "in": "header", "schema": {"type": "string"}, "description": text}
            for name, text in _HEADERS.items()
        ),
    ],
    "requestBody": {
        "description": "The payload, a JSON object; nothing is the empty one.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
    "responses": {
        str(status): each
        for status, each in {
            200: answer("Activity", "It has ended: under `Prefer: wait`, or earlier."),
            202: answer("Accepted", "It is accepted; the header Location says where it stands."),
            **problems(400, 403, 404, 409, 413, 422, 503, 507),
        }.items()
    },
}
"""The route, for the description of the API."""


def route(engine: Engine, waits: Waits) -> Route:
    """The route.

    Args:
        engine: What runs activities.
        waits: Waits for them.
    """

    async def invoke(request: Request) -> Response:
        authorize(request, Role.INVOKE)
        prefer = _preferences(request.headers.getlist("prefer"))
        submission = _submission(request, await _payload(request, engine.options.max_payload))
        if _EPHEMERAL in prefer.items():
            submission = _ephemeral(submission)
        submitted = await engine.submit(submission)
        activity = submitted.activity
        if "wait" in prefer and not activity.status.final:
            activity = await waits.wait(activity, int(prefer["wait"]))
        headers = {"Location": f"/v1/activities/{activity.id}"}
        if prefer:
            headers["Preference-Applied"] = ", ".join(f"{k}={v}" for k, v in prefer.items())
        if activity.status.final:
            if not submitted.created:
                headers[_REPLAYED] = "true"
            return json_response(activity_document(activity), 200, headers)
        return json_response({"id": activity.id, "status": activity.status}, 202, headers)

    return Route(PATH, invoke, methods=["POST"])


def _submission(request: Request, payload: bytes) -> Submission:
    given = request.headers.get
    return Submission(
        function=request.path_params["name"],
        payload=payload,
        id=given(contract.ACTIVITY_ID),
        idempotency_key=given(_IDEMPOTENCY_KEY),
        scope=Scope(
            given(contract.ORGANIZATION_ID) or DEFAULT_ID,
            given(contract.PROJECT_ID) or DEFAULT_ID,
            given(contract.ENVIRONMENT_ID) or DEFAULT_ID,
            given(contract.ENVIRONMENT_NAME) or DEFAULT_ID,
        ),
        event=Event(
            given(contract.EVENT_SOURCE),
            given(contract.EVENT_SOURCE_NAME),
            given(contract.EVENT_TYPE),
        ),
        callback=given(contract.CALLBACK_URL),
    )


def _ephemeral(submission: Submission) -> Submission:
    if submission.idempotency_key is not None:
        raise InvalidRequest(
            f"an ephemeral invocation has no {_IDEMPOTENCY_KEY}: nothing of it is kept while it "
            "runs. Leave one of the two out"
        )
    return replace(submission, durable=False)


async def _payload(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise QuotaExceeded(f"the payload has more than {limit} bytes")
        parts.append(part)
    return b"".join(parts) or b"{}"


def _preferences(headers: list[str]) -> dict[str, str]:
    """The preferences of a request (RFC 7240) as they are met here; others are passed over."""
    found: dict[str, str] = {}
    for each in ",".join(headers).split(","):
        name, _, value = each.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        known = (
            re.fullmatch(r"[0-9]{1,9}", value, re.ASCII)
            if name == "wait"
            else (name, value.lower()) == _EPHEMERAL
        )
        if known:
            found.setdefault(name, value.lower())
    if "wait" in found:
        found["wait"] = str(min(int(found["wait"]), _LONGEST_WAIT))
    return found
