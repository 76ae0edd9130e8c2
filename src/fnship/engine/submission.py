"""What somebody asks the engine to run, and whether that can be taken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from fnship.engine.model import Activity, Event, Scope
from fnship.engine.verbatim import verbatim
from fnship.errors import InvalidRequest, MalformedJSON, QuotaExceeded

__all__ = ["Submission", "Submitted", "check"]

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~@+-]{0,199}")
_TEXT: Final = re.compile(r"[\x20-\x7e]{1,255}")  # what a header can carry


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asks the engine to run.

    Attributes:
        function: The function's name.
        payload: A JSON object.
        id: What the activity is to be known by; made where it is None.
        idempotency_key: Given again, it means the same activity.
        scope: Whose activity it is.
        event: What caused it.
        callback: Where the outcome is sent.
        durable: Whether it is to survive a crash of the engine.
        replay_of: The activity that it does again.
        once: Whether it is wanted only if nothing else does that again.
    """

    function: str
    payload: bytes = b"{}"
    id: str | None = None
    idempotency_key: str | None = None
    scope: Scope = Scope()
    event: Event = Event()
    callback: str | None = None
    durable: bool = True
    replay_of: str | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submission.

    Attributes:
        activity: The activity, new or not.
        created: Whether it is new.
    """

    activity: Activity
    created: bool


def check(submission: Submission, max_payload: int) -> msgspec.Raw:
    """See that everything in a submission is as it has to be.

    Args:
        submission: What was asked for.
        max_payload: Bytes that its payload may have.

    Returns:
        The payload, as it is kept.

    Raises:
        QuotaExceeded: The payload is too large.
        InvalidRequest: A value in it is not valid; says which, and what is expected.
    """
    if len(submission.payload) > max_payload:
        raise QuotaExceeded(
            f"the payload has {len(submission.payload)} bytes; {max_payload} are allowed"
        )
    try:
        payload = msgspec.Raw(verbatim(submission.payload))
    except MalformedJSON as exc:
        raise InvalidRequest(f"the payload is not valid: {exc}") from exc
    if not bytes(payload).lstrip().startswith(b"{"):
        raise InvalidRequest("the payload is not valid: it must be a JSON object")
    if submission.id is not None and not _ID.fullmatch(submission.id):
        raise InvalidRequest(
            f"the activity id {submission.id[:40]!r} is not valid: expected 1 to 200 letters, "
            "digits and . _ : ~ @ + - with a letter or digit first"
        )
    texts = {
        "the Idempotency-Key": submission.idempotency_key,
        **{f"the scope's {k}": v for k, v in msgspec.structs.asdict(submission.scope).items()},
        **{f"the event's {k}": v for k, v in msgspec.structs.asdict(submission.event).items()},
    }
    for name, value in texts.items():
        if value is not None and not _TEXT.fullmatch(value):
            raise InvalidRequest(f"{name} is not valid: expected 1 to 255 visible ASCII characters")
    return payload
