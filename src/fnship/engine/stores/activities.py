"""The activities: what was accepted, how far each has come, and how it ended."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from fnship.engine.model import Activity, Event, Outcome, Scope, Status
from fnship.engine.sql.database import Database, Row, Session
from fnship.errors import AlreadyThere, InvalidRequest, KeyReused, Missing

__all__ = ["ActivityQuery", "ActivityStore", "Callback", "Page", "check_same_call"]

_FILE: Final = "activities"
_LONGEST_PAGE: Final = 500
_CURSOR: Final = re.compile(
    r"a2:([0-9]{1,18}):([0-9]{1,12}\.[0-9]{1,9}(?:e-[0-9]{1,3})?)", re.ASCII
)

_CONDITIONS: Final = {
    "function": "function = :function",
    "status": "status = :status",
    "organization_id": "organization_id = :organization_id",
    "project_id": "project_id = :project_id",
    "environment_id": "environment_id = :environment_id",
    "created_after": "created >= :created_after",
    "created_before": "created < :created_before",
}


class ActivityQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which activities are asked for; the newest come first.

    Attributes:
        function: Of this function.
        status: That have come this far.
        organization_id: Of this organization.
        project_id: Of this project.
        environment_id: Of this environment.
        created_after: Accepted then or later, in seconds since 1970.
        created_before: Accepted before.
        dead: Only dead letters: that have failed, and were not replayed since.
        limit: How many at once, 1 to 500.
        cursor: What the page before gave.
    """

    function: str | None = None
    status: Status | None = None
    organization_id: str | None = None
    project_id: str | None = None
    environment_id: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    dead: bool = False
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the activities that were asked for, without their payloads.

    Attributes:
        items: The activities.
        cursor: Asks for those that follow; None where there are none.
    """

    items: list[Activity]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Callback:
    """An outcome that somebody is to be told, or was.

    Attributes:
        activity_id: Whose outcome.
        url: Where it goes.
        attempts: How often that was tried.
        due: When it is to be tried next, in seconds since 1970; None for never.
        heard: When somebody was told; None for not, or not yet.
        problem: What went wrong the last time; None for nothing.
    """

    activity_id: str
    url: str
    attempts: int = 0
    due: float | None = None
    heard: float | None = None
    problem: str | None = None


class ActivityStore:
    """Keeps activities in a `Database`. Every method that changes one has it on the disk then."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accept(
        self,
        activity: Activity,
        key: str | None = None,
        *,
        named: bool = True,
        once: bool = False,
    ) -> tuple[Activity, bool]:
        """Take a new activity in, unless it is there already.

        Args:
            activity: The new one. What it is a replay of is marked with it.
            key: The caller's ``Idempotency-Key``.
            named: Whether its id is the caller's.
            once: Whether it is wanted only if nothing else is a replay of the same activity.

        Returns:
            The activity as it is kept, and whether it is new.

        Raises:
            AlreadyThere: The id stands for another call; or something else is such a replay.
            KeyReused: The key does.
        """

        def work(session: Session) -> tuple[Activity, bool]:
            earlier = _kept_by_key(session, activity, key, named=named)
            if earlier is not None:
                return earlier, False
            created = session.do(_FILE, "insert", _row(activity)) > 0
            kept = activity if created else _required(session, activity.id)
            if not created:
                check_same_call(kept, activity)
            if key is not None:
                values = {**_key(activity, key), "activity_id": kept.id, "created": kept.created}
                session.do(_FILE, "insert_key", values)
            if created and activity.replay_of is not None:
                values = {"id": activity.replay_of, "replayed_by": activity.id, "once": once}
                if not session.do(_FILE, "mark_replayed", values):
                    raise AlreadyThere(f"activity {activity.replay_of!r} was replayed already")
            return kept, created

        return await self._database.write(work)

    async def find(self, activity_id: str) -> Activity | None:
        """An activity; None where there is none of this id."""

        def work(session: Session) -> Activity | None:
            row = session.one(_FILE, "get", {"id": activity_id})
            return None if row is None else _activity(row)

        return await self._database.read(work)

    async def get(self, activity_id: str) -> Activity:
        """An activity.

        Raises:
            Missing: There is none of this id.
        """
        return await self._database.read(lambda session: _required(session, activity_id))

    async def page(self, query: ActivityQuery) -> Page:
        """A page of activities, the newest first.

        Raises:
            InvalidRequest: The limit or the cursor is not valid.
        """
        if not 1 <= query.limit <= _LONGEST_PAGE:
            raise InvalidRequest(f"limit is {query.limit}: expected 1 to {_LONGEST_PAGE}")
        values = {
            name: value
            for name, value in msgspec.structs.asdict(query).items()
            if name in _CONDITIONS and value is not None
        }
        where = [_CONDITIONS[name] for name in values]
        if query.dead:
            # There are few of them: the plus keeps other indexes out of it.
            where = [f"+{each}" for each in where if not each.startswith("created")] + [
                each for each in where if each.startswith("created")
            ]
            where.append("status = 'failed' AND replayed_by IS NULL")
        if query.cursor is not None:
            where.append("(created, position) < (:last, :position)")
            values["position"], values["last"] = _place(query.cursor)
        values["limit"] = query.limit + 1
        rows = await self._database.read(
            lambda session: session.all(_FILE, "page", values, where=where)
        )
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        return Page([_activity(row) for row in rows], _cursor(rows[-1]) if more else None)

    async def unfinished(self) -> list[tuple[str, str]]:
        """Those that have not ended, as id and function, in the order they were accepted."""
        rows = await self._database.read(
            lambda session: session.all(_FILE, "unfinished", {"after": 0, "limit": -1})
        )
        return [(row["id"], row["function"]) for row in rows]

    async def begin(self, activity_id: str, now: float) -> Activity | None:
        """Begin the next attempt, and count it.

        An attempt that was never recorded, as the engine died in the middle of it, counts as
        failed.

        Returns:
            The activity as it is then; None where it has ended, or is not there.
        """
        row = await self._database.write(
            lambda session: session.one(_FILE, "begin", {"id": activity_id, "now": now})
        )
        return _activity(row) if row is not None else None

    async def record(self, activity: Activity) -> bool:
        """Record what the attempt of `activity.attempts` came to; the first record counts.

        Returns:
            Whether this was it.
        """

        def work(session: Session) -> bool:
            if not session.do(_FILE, "record", _row(activity)):
                return False
            if activity.ended is not None:
                _add_callback(session, activity)
            return True

        return await self._database.write(work)

    async def add_ended(self, activity: Activity) -> None:
        """Keep an activity that was not kept while it ran."""

        def work(session: Session) -> None:
            if session.do(_FILE, "insert", _row(activity)):
                _add_callback(session, activity)

        await self._database.write(work)

    async def interrupt(self, activity: Activity) -> None:
        """Take back the beginning of an attempt that the engine's own stop cut short."""
        await self._database.write(
            lambda session: session.do(
                _FILE, "interrupt", {"id": activity.id, "attempts": activity.attempts}
            )
        )

    async def cancel(self, activity_id: str, now: float, message: str) -> Activity:
        """End an activity as cancelled.

        Raises:
            Missing: There is none of this id.
            AlreadyThere: It has ended otherwise.
        """

        def work(session: Session) -> Activity:
            changed = session.do(
                _FILE, "cancel", {"id": activity_id, "now": now, "message": message}
            )
            activity = _required(session, activity_id)
            if changed:
                _add_callback(session, activity)
            elif activity.status is not Status.CANCELLED:
                raise AlreadyThere(
                    f"activity {activity_id!r} has ended already: it is {activity.status}"
                )
            return activity

        return await self._database.write(work)

    async def mark_replayed(self, activity_id: str, replayed_by: str) -> None:
        """Say that another activity has done this one again; it is no dead letter any more."""
        values = {"id": activity_id, "replayed_by": replayed_by, "once": False}
        await self._database.write(lambda session: session.do(_FILE, "mark_replayed", values))

    async def due_callbacks(
        self, now: float, limit: int, longest: float = math.inf
    ) -> tuple[list[Callback], float | None]:
        """The callbacks to make now, and when the next one is due.

        Args:
            now: Seconds since 1970.
            limit: How many at most.
            longest: Seconds; what is due later than that is to be made now.

        Returns:
            Some of them, and when the first that is to come is due; None for never.
        """

        def work(session: Session) -> tuple[list[Callback], float | None]:
            values = {"now": now, "latest": now + longest, "limit": limit}
            rows = session.all(_FILE, "due_callbacks", values)
            following = session.one(_FILE, "next_callback", values)
            found = [Callback(**row) for row in rows]
            return found, following["due"] if following is not None else None

        return await self._database.read(work)

    async def callback(self, activity_id: str) -> Callback | None:
        """The callback of an activity that has ended; None where it has none."""
        row = await self._database.read(
            lambda session: session.one(_FILE, "get_callback", {"activity_id": activity_id})
        )
        return Callback(**row) if row is not None else None

    async def delay_callback(self, activity_id: str, due: float, problem: str) -> None:
        """Try a callback again later, because of `problem`."""
        values = {"activity_id": activity_id, "due": due, "problem": problem}
        await self._database.write(lambda session: session.do(_FILE, "delay_callback", values))

    async def end_callback(
        self, activity_id: str, *, heard: float | None = None, problem: str | None = None
    ) -> None:
        """A callback was heard, or is given up because of `problem`."""
        values = {"activity_id": activity_id, "heard": heard, "problem": problem}
        await self._database.write(lambda session: session.do(_FILE, "end_callback", values))

    async def renew_callback(self, activity_id: str, now: float) -> bool:
        """Make a callback due, whatever became of it before. Returns whether there is one."""
        values = {"activity_id": activity_id, "now": now}
        changed = await self._database.write(
            lambda session: session.do(_FILE, "renew_callback", values)
        )
        return bool(changed)

    async def purge(self, before: float, limit: int) -> list[str]:
        """Forget activities that ended long ago.

        Args:
            before: Those that ended before, in seconds since 1970.
            limit: How many at most.

        Returns:
            Their ids.
        """

        def work(session: Session) -> list[str]:
            rows = session.all(_FILE, "old", {"before": before, "limit": limit})
            for row in rows:
                session.do(_FILE, "delete", {"id": row["id"]})
                session.do(_FILE, "delete_keys", {"id": row["id"]})
                session.do(_FILE, "delete_callback", {"activity_id": row["id"]})
            return [row["id"] for row in rows]

        return await self._database.write(work)


def _add_callback(session: Session, activity: Activity) -> None:
    if activity.callback is not None:
        values = {"activity_id": activity.id, "url": activity.callback, "due": activity.ended}
        session.do(_FILE, "insert_callback", values)


def _required(session: Session, activity_id: str) -> Activity:
    row = session.one(_FILE, "get", {"id": activity_id})
    if row is None:
        raise Missing(f"there is no activity {activity_id!r}")
    return _activity(row)


def check_same_call(kept: Activity, given: Activity) -> None:
    """See that an activity that has an id may be meant by a call that gives the same.

    Raises:
        AlreadyThere: It is another call's; says in what they differ.
    """
    difference = _difference(kept, given)
    if difference:
        raise AlreadyThere(f"activity {given.id!r} exists already, with another {difference}")


def _kept_by_key(
    session: Session, activity: Activity, key: str | None, *, named: bool
) -> Activity | None:
    """What a key stands for; None where it stands for nothing yet. Raises KeyReused."""
    known = None if key is None else session.one(_FILE, "find_key", _key(activity, key))
    if known is None:
        return None
    earlier = _required(session, known["activity_id"])
    difference = _difference(earlier, activity)
    if not difference and named and activity.id != earlier.id:
        difference = "id"
    if difference:
        raise KeyReused(
            f"the Idempotency-Key {key!r} was used for activity {earlier.id!r}, which has "
            f"another {difference}"
        )
    return earlier


def _difference(one: Activity, other: Activity) -> str:
    """In what two calls differ; empty where they are the same. A name is nothing that counts."""
    if one.function != other.function:
        return "function"
    if one.scope.ids != other.scope.ids:
        return "scope"
    return "" if _canonical(one.payload) == _canonical(other.payload) else "payload"


def _canonical(payload: msgspec.Raw) -> bytes:
    """The same bytes for the same JSON, whatever its spaces and the order of its keys."""
    return msgspec.json.encode(msgspec.json.decode(payload), order="sorted")


def _key(activity: Activity, key: str) -> dict[str, str]:
    scope = activity.scope
    return {
        "organization_id": scope.organization_id,
        "project_id": scope.project_id,
        "environment_id": scope.environment_id,
        "function": activity.function,
        "key": key,
    }


def _row(activity: Activity) -> Mapping[str, Any]:
    outcome = activity.outcome
    return {
        "id": activity.id,
        "function": activity.function,
        "status": str(activity.status),
        "attempts": activity.attempts,
        "failures": activity.failures,
        "again": activity.again,
        "payload": bytes(activity.payload),
        "previous": _bytes(activity.previous),
        "code": outcome.code if outcome else None,
        "message": outcome.message if outcome else None,
        "data": _bytes(outcome.data) if outcome else None,
        "stack_trace": _bytes(outcome.stack_trace) if outcome else None,
        "organization_id": activity.scope.organization_id,
        "project_id": activity.scope.project_id,
        "environment_id": activity.scope.environment_id,
        "environment_name": activity.scope.environment_name,
        "event_source": activity.event.source,
        "event_source_name": activity.event.source_name,
        "event_type": activity.event.type,
        "callback": activity.callback,
        "durable": activity.durable,
        "created": activity.created,
        "due": activity.due,
        "started": activity.started,
        "ended": activity.ended,
        "replay_of": activity.replay_of,
    }


def _activity(row: Row) -> Activity:
    outcome = None
    if row["message"] is not None:
        outcome = Outcome(
            code=row["code"],
            message=row["message"],
            data=_raw(row["data"]),
            stack_trace=_raw(row["stack_trace"]),
        )
    return Activity(
        id=row["id"],
        function=row["function"],
        status=Status(row["status"]),
        attempts=row["attempts"],
        failures=row["failures"],
        again=row["again"],
        payload=msgspec.Raw(row["payload"]),
        previous=_raw(row["previous"]),
        outcome=outcome,
        scope=Scope(
            row["organization_id"],
            row["project_id"],
            row["environment_id"],
            row["environment_name"],
        ),
        event=Event(row["event_source"], row["event_source_name"], row["event_type"]),
        callback=row["callback"],
        durable=bool(row["durable"]),
        created=row["created"],
        due=row["due"],
        started=row["started"],
        ended=row["ended"],
        replay_of=row["replay_of"],
        replayed_by=row["replayed_by"],
    )


def _bytes(raw: msgspec.Raw | None) -> bytes | None:
    return bytes(raw) if raw is not None else None


def _raw(value: bytes | None) -> msgspec.Raw | None:
    return msgspec.Raw(value) if value is not None else None


def _cursor(row: Row) -> str:
    """Where a page has ended, in letters that a URL takes as they are."""
    place = f"a2:{row['position']}:{float(row['created'])!r}"
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[int, float]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.urlsafe_b64decode(padded.encode("ascii")).decode("ascii")
    except ValueError:
        text = ""
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidRequest(
            f"cursor {cursor!r} was not made by this engine: use the one that the page before gave"
        )
    return int(match[1]), float(match[2])
