"""The state store: values by scope and key, changed only by who has seen the last change."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from fnship.engine.sql.database import Database, Session
from fnship.errors import AlreadyThere, InvalidRequest, QuotaExceeded

__all__ = ["Item", "Keys", "Record", "StaleVersion", "StateStore"]

_FILE: Final = "state"
_LONGEST_KEY: Final = 1024  # bytes
_HIGHEST: Final = 2**53  # of the versions that are taken in; there is room above it
_PIECE: Final = 500  # rows that are expired, forgotten or exported at once
_REMEMBERED: Final = 3600.0  # seconds for which the row of a deleted key is kept


class StaleVersion(AlreadyThere):
    """A write named another version than the current one, which is `current`."""

    def __init__(self, current: int) -> None:
        self.current = current
        super().__init__(f"the key is at version {current}")


class Keys(NamedTuple):
    """A scope: whose keys they are; None for what a wider scope leaves open."""

    organization_id: str
    project_id: str | None = None
    environment_id: str | None = None


class Item(NamedTuple):
    """One key of a scope; the value is raw JSON."""

    key: str
    value: msgspec.Raw
    version: int


class Record(NamedTuple):
    """One key of a scope as it is exported: with `expires`, in seconds since 1970 or None."""

    key: str
    value: msgspec.Raw
    version: int
    expires: float | None = None


_Records: TypeAlias = list[Record]  # the store has a method of the name `list`


class StateStore:
    """Keeps state in a `Database`.

    A key's versions count on after it was deleted or has expired, so that no version ever means
    two values. An hour later nothing is left of it but the highest version in its scope, from
    which new keys go on.

    Args:
        database: Where.
        max_value: Bytes that a value may have.
        max_keys: Keys that a scope may hold.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_value: int,
        max_keys: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._max_value = max_value
        self._max_keys = max_keys
        self._clock = clock

    async def get(self, scope: Keys, key: str) -> tuple[msgspec.Raw, int] | None:
        """The value as JSON, and its version; None where the key does not exist."""
        values = self._values(scope, key)
        row = await self._database.read(lambda session: session.one(_FILE, "get", values))
        return None if row is None else (msgspec.Raw(row["value"]), row["version"])

    async def put(
        self,
        scope: Keys,
        key: str,
        value: bytes,
        version: int | None = None,
        ttl: float | None = None,
    ) -> int:
        """Write a value, if nobody else has since it was read.

        Args:
            scope: Where.
            key: Which.
            value: JSON.
            version: The one last read, 0 to create; None writes whatever is there.
            ttl: Seconds until the key is gone; None for never.

        Returns:
            The new version.

        Raises:
            StaleVersion: `version` is not the current one.
            QuotaExceeded: The value is too large, or the scope has too many keys.
            InvalidRequest: The key is empty or too long.
        """
        self._check_value(key, value)
        values = self._values(scope, key)
        values |= {
            "value": value,
            "version": version,
            "expires": None if ttl is None else values["now"] + ttl,
        }

        def work(session: Session) -> int:
            if not version and session.one(_FILE, "get", values) is None:
                self._check_room(session, values)
            row = session.one(_FILE, "put", values)
            if row is not None:
                return int(row["version"])
            current = session.one(_FILE, "get", values)
            raise StaleVersion(current["version"] if current is not None else 0)

        return await self._database.write(work)

    async def delete(self, scope: Keys, key: str) -> bool:
        """Delete a key. Returns whether there was one."""
        values = self._values(scope, key)
        return bool(await self._database.write(lambda session: session.do(_FILE, "delete", values)))

    async def list(
        self, scope: Keys, prefix: str = "", *, after: str | None = None, limit: int = 1000
    ) -> list[Item]:
        """The items of a scope whose keys start with `prefix`, in the order of their keys.

        Args:
            scope: Where.
            prefix: Start of the keys; empty for all.
            after: Only keys behind this one.
            limit: At most so many.
        """
        return [
            Item(record.key, record.value, record.version)
            for record in await self._page(scope, prefix, after, limit)
        ]

    async def export(self, scope: Keys) -> AsyncIterator[Record]:
        """Every item of a scope, in the order of their keys, read in pieces."""
        after: str | None = None
        while True:
            page = await self._page(scope, "", after, _PIECE)
            for record in page:
                yield record
            if len(page) < _PIECE:
                return
            after = page[-1].key

    async def import_(self, scope: Keys, records: Sequence[Record]) -> int:
        """Write what was exported, all of it or nothing, whatever is there.

        A key that is there already gets a version above its own; another one keeps the version
        that it had where it comes from. What has expired since is left out.

        Args:
            scope: Where.
            records: The items.

        Returns:
            How many were written.

        Raises:
            QuotaExceeded: A value is too large, or the scope would have too many keys.
            InvalidRequest: A key or a version is not valid.
        """
        now = self._clock()
        rows = []
        for record in records:
            self._check_value(record.key, bytes(record.value))
            if not 0 < record.version <= _HIGHEST:
                raise InvalidRequest(f"the version of {record.key!r} is not from 1 to {_HIGHEST}")
            if record.expires is None or record.expires > now:
                rows.append(
                    self._values(scope, record.key)
                    | {
                        "value": bytes(record.value),
                        "version": record.version,
                        "expires": record.expires,
                    }
                )

        def work(session: Session) -> int:
            for values in rows:
                session.do(_FILE, "import", values)
            if rows:
                self._check_room(session, rows[0], beside=0)
            return len(rows)

        return await self._database.write(work)

    async def expire(self, limit: int = _PIECE) -> int:
        """Drop values whose time is over.

        Args:
            limit: At most so many, so that other writes come in between.

        Returns:
            How many were dropped.
        """
        values = {"now": self._clock(), "limit": limit}
        return await self._database.write(lambda session: session.do(_FILE, "expire", values))

    async def purge(self) -> None:
        """Drop every value whose time is over, and keys long deleted, in small pieces."""
        while await self.expire() == _PIECE:
            pass
        while await self._forget() == _PIECE:
            pass

    async def _forget(self) -> int:
        values = {"before": self._clock() - _REMEMBERED, "limit": _PIECE}

        def work(session: Session) -> int:
            session.do(_FILE, "note_forgotten", values)
            return session.do(_FILE, "forget", values)

        return await self._database.write(work)

    async def _page(self, scope: Keys, prefix: str, after: str | None, limit: int) -> _Records:
        values = self._values(scope, "")
        values |= {
            "prefix": _text(prefix),
            "behind": _behind(prefix),
            "after": _text(after or ""),
            "limit": limit,
        }
        rows = await self._database.read(lambda session: session.all(_FILE, "list", values))
        return [
            Record(row["key"], msgspec.Raw(row["value"]), row["version"], row["expires"])
            for row in rows
        ]

    def _values(self, scope: Keys, key: str) -> dict[str, Any]:
        return {
            "organization_id": _text(scope.organization_id),
            "project_id": _text(scope.project_id or ""),
            "environment_id": _text(scope.environment_id or ""),
            "key": _text(key),
            "now": self._clock(),
        }

    def _check_value(self, key: str, value: bytes) -> None:
        if not 0 < len(_text(key).encode()) <= _LONGEST_KEY:
            raise InvalidRequest(f"a state key has 1 to {_LONGEST_KEY} bytes")
        if len(value) > self._max_value:
            raise QuotaExceeded(
                f"the value of {key!r} has {len(value)} bytes; {self._max_value} are allowed"
            )

    def _check_room(self, session: Session, values: dict[str, Any], beside: int = 1) -> None:
        """See that `beside` more keys than there are have room in a scope."""
        most = self._max_keys - beside
        count = session.one(_FILE, "count", values | {"most": most + 1})
        if count is not None and count["keys"] > most:
            raise QuotaExceeded(
                f"the scope would have more keys than the {self._max_keys} that are allowed"
            )


def _text(text: str) -> str:
    """The text, which must be such as the database can keep."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("a key or an id is not Unicode text") from None
    return text


def _behind(prefix: str) -> str | None:
    """The least text behind all that start with `prefix`; None where there is none."""
    trimmed = prefix.rstrip("\U0010ffff")
    if not trimmed:
        return None
    following = ord(trimmed[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:
        following = 0xE000  # surrogates are no characters
    return trimmed[:-1] + chr(following)
