"""What the engine knows of functions and activities. Values only; nothing here does anything."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

__all__ = [
    "DEFAULT_ID",
    "Activity",
    "Event",
    "Function",
    "Outcome",
    "Resources",
    "RetryPolicy",
    "Scope",
    "Source",
    "Status",
]

DEFAULT_ID: Final = "default"
"""The organization, project and environment of a call that names none."""


class Status(StrEnum):
    """How far an activity has come."""

    QUEUED = "queued"
    """Accepted; no attempt has begun yet, or there is no room for the next one."""
    RUNNING = "running"
    """An attempt is being made."""
    WAITING = "waiting"
    """Between two attempts, until its time has come."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing happens to it any more."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class RetryPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When an activity is run again. Times in seconds.

    Attributes:
        max_attempts: How often it may fail before it has failed for good.
        first_delay: Before the second attempt; every further one waits `factor` times as long.
        factor: What the delay grows by.
        max_delay: What it grows up to.
        jitter: The part of a delay that is left to chance, 0 to 1.
        again_delay: Before it is run again because it asked to be, without a ``retry_after``.
        max_again: How often it may ask for that.
        max_again_age: For how long after it was accepted it may.
    """

    max_attempts: int = 5
    first_delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 300.0
    jitter: float = 0.5
    again_delay: float = 5.0
    max_again: int = 1000
    max_again_age: float = 7 * 86400.0


class Source(StrEnum):
    """Where a function is."""

    URL = "url"
    FOLDER = "folder"
    IMAGE = "image"


class Resources(msgspec.Struct, frozen=True):
    """What the container of an image may use.

    Attributes:
        memory: Such as ``512m``.
        cpus: Such as ``1.5``; as many as there are where empty.
    """

    memory: str = "512m"
    cpus: str = ""


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function that can be invoked.

    Attributes:
        name: What it is called by.
        source: What `location` is.
        location: A URL, a folder, or the name of an image.
        timeout: Seconds that one attempt may take.
        concurrency: Requests at once.
        retry: When an activity of it is run again.
        resources: What its container may use, where it is an image.
        created: When it was first registered, in seconds since 1970.
        updated: When it was last changed.
    """

    name: str
    source: Source
    location: str
    timeout: float = 300.0
    concurrency: int = 16
    retry: RetryPolicy = RetryPolicy()
    resources: Resources = Resources()
    created: float = 0.0
    updated: float = 0.0


class Scope(msgspec.Struct, frozen=True):
    """Whose activity it is."""

    organization_id: str = DEFAULT_ID
    project_id: str = DEFAULT_ID
    environment_id: str = DEFAULT_ID
    environment_name: str = DEFAULT_ID

    @property
    def ids(self) -> tuple[str, str, str]:
        """What tells it from others, which its environment's name does not."""
        return self.organization_id, self.project_id, self.environment_id


class Event(msgspec.Struct, frozen=True):
    """What caused it, as its caller says."""

    source: str | None = None
    source_name: str | None = None
    type: str | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt came to.

    Attributes:
        code: None for success, else an error code of `fnship.contract`.
        message: What went wrong; empty for success.
        data: What the function returned, or gave with its error. Raw JSON; None for none.
        stack_trace: Of an exception that the function did not expect. Raw JSON.
    """

    code: int | None = None
    message: str = ""
    data: msgspec.Raw | None = None
    stack_trace: msgspec.Raw | None = None


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """One invocation of a function, over all its attempts. Times in seconds since 1970.

    Attributes:
        id: What it is known by, over all attempts.
        function: The name of the function.
        status: How far it has come.
        attempts: Attempts begun.
        failures: Those of them that count as failed.
        again: How often it asked to be run again.
        payload: What the caller sent. Raw JSON, an object.
        previous: What the last attempt gave, to be handed to the next. Raw JSON; None for none.
        outcome: What the last attempt came to; None before.
        scope: Whose it is.
        event: What caused it.
        callback: Where the outcome is sent; None for nowhere.
        durable: Whether it survives a crash of the engine.
        created: When it was accepted.
        due: When the next attempt may begin; None where none is to come.
        started: When the last attempt began.
        ended: When it reached its end.
        replay_of: The activity that this one does again; None for none.
        replayed_by: The one that did this one again; None for none.
    """

    id: str
    function: str
    status: Status = Status.QUEUED
    attempts: int = 0
    failures: int = 0
    again: int = 0
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    previous: msgspec.Raw | None = None
    outcome: Outcome | None = None
    scope: Scope = Scope()
    event: Event = Event()
    callback: str | None = None
    durable: bool = True
    created: float = 0.0
    due: float | None = None
    started: float | None = None
    ended: float | None = None
    replay_of: str | None = None
    replayed_by: str | None = None

    def changed(self, **fields: Any) -> Activity:
        """The same with other fields."""
        return msgspec.structs.replace(self, **fields)
