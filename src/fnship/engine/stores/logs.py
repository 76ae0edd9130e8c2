"""The logs of activities: appended as functions upload them, followed, searched, and let go."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from fnship.engine.sql.database import Database, Row, Session
from fnship.errors import InvalidRequest

__all__ = ["LEVELS", "Found", "LogStore", "Piece", "Upload"]

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""What a line may begin with as its level, the least first."""

_FILE: Final = "logs"
_AT_ONCE: Final = 200  # uploads that are read, or deleted, in one piece
_BYTES_AT_ONCE: Final = 4 * 2**20  # behind which no further upload is read in one piece
_LOOKED_AT: Final = 1000  # uploads that one search looks at
_LOOK_AGAIN: Final = 15.0  # seconds after which a follower looks, whatever it was told


class Upload(NamedTuple):
    """Lines that are to be kept.

    Attributes:
        activity_id: Whose log.
        attempt: Which attempt.
        text: Whole lines.
        batch: What the uploader calls them; a name that was there before is a repeat.
    """

    activity_id: str
    attempt: int
    text: str
    batch: str | None = None


class Piece(NamedTuple):
    """Some lines of an activity.

    Attributes:
        position: Where they stand; what comes later has a larger one.
        attempt: Which attempt wrote them.
        text: The lines, each with its newline.
    """

    position: int
    attempt: int
    text: str


class Found(NamedTuple):
    """A line that a search has found."""

    activity_id: str
    attempt: int
    line: str


class LogStore:
    """Keeps logs in a `Database`, a row for each upload. For one event loop.

    Args:
        database: Where.
        keep_seconds: How long a line is kept.
        keep_bytes: What all lines together may take.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        *,
        keep_seconds: float,
        keep_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keep_seconds = keep_seconds
        self._keep_bytes = keep_bytes
        self._clock = clock
        self._followers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def append(
        self, activity_id: str, attempt: int, text: str, batch: str | None = None
    ) -> bool:
        """Add lines to the log of one attempt; see `append_all`."""
        (new,) = await self.append_all([Upload(activity_id, attempt, text, batch)])
        return new

    async def append_all(self, uploads: Sequence[Upload]) -> list[bool]:
        """Add lines to the logs of attempts, in this order: all of them, or none.

        Returns:
            Of each upload, whether it was new.
        """
        created = self._clock()
        rows = [_row(upload, created) for upload in uploads]

        def work(session: Session) -> list[bool]:
            return [row is not None and session.do(_FILE, "append", row) > 0 for row in rows]

        if not any(rows):
            return [False] * len(rows)
        new = await self._database.write(work)
        for activity_id in {
            each.activity_id for each, is_new in zip(uploads, new, strict=True) if is_new
        }:
            self._tell(activity_id)
        return new

    async def pieces(self, activity_id: str, *, attempt: int | None = None) -> AsyncIterator[Piece]:
        """The whole log of an activity, attempt by attempt."""
        last = (0, 0)
        while True:
            where = ["activity_id = :activity_id", "(attempt, position) > (:last, :position)"]
            values: dict[str, Any] = {
                "activity_id": activity_id,
                "last": last[0],
                "position": last[1],
                "limit": _AT_ONCE,
                "bytes": _BYTES_AT_ONCE,
            }
            if attempt is not None:
                where.append("attempt = :attempt")
                values["attempt"] = attempt
            rows = await self._read("read", values, where)
            for row in rows:
                yield Piece(row["position"], row["attempt"], row["text"])
            if not rows:
                return
            last = rows[-1]["attempt"], rows[-1]["position"]

    async def text(self, activity_id: str, *, attempt: int | None = None) -> str:
        """The whole log of an activity as one text."""
        return "".join([piece.text async for piece in self.pieces(activity_id, attempt=attempt)])

    async def follow(
        self, activity_id: str, has_ended: Callable[[], Awaitable[bool]], *, after: int = 0
    ) -> AsyncIterator[Piece | None]:
        """The log as it grows, in the order in which it came, until the activity has ended.

        Args:
            activity_id: Whose log.
            has_ended: Whether nothing is to come.
            after: The position behind which to begin.

        Yields:
            What is new; None from time to time where there is nothing.
        """
        news = asyncio.Event()
        followers = self._followers[activity_id]
        followers.add(news)
        try:
            while True:
                news.clear()
                ended = await has_ended()
                values = {
                    "activity_id": activity_id,
                    "limit": _AT_ONCE,
                    "bytes": _BYTES_AT_ONCE,
                }
                while rows := await self._read("follow", {**values, "after": after}):
                    for row in rows:
                        after = row["position"]
                        yield Piece(after, row["attempt"], row["text"])
                if ended:
                    return
                try:
                    await asyncio.wait_for(news.wait(), _LOOK_AGAIN)
                except TimeoutError:
                    yield None
        finally:
            followers.discard(news)
            if not followers:
                self._followers.pop(activity_id, None)

    async def search(
        self,
        *,
        text: str = "",
        level: str | None = None,
        activity_id: str | None = None,
        limit: int = 100,
        cursor: int | None = None,
    ) -> tuple[list[Found], int | None]:
        """Find lines, the newest uploads first.

        Args:
            text: What stands in them, in small or capital letters.
            level: The least level that they have.
            activity_id: Whose log; everybody's by default.
            limit: About how many; the rest of an upload is always given.
            cursor: What the search before gave.

        Returns:
            What was found, and a cursor where there may be more: a search looks at so many
            uploads and no more, so that it takes no longer over a full store.

        Raises:
            InvalidRequest: There is no such level.
        """
        wanted = _at_least(level)
        where: list[str] = []
        values: dict[str, Any] = {
            "levels": wanted,
            "pattern": f"%{_escaped(text)}%",
            "limit": limit,
            "bytes": _BYTES_AT_ONCE,
            "window": _LOOKED_AT,
        }
        if activity_id is not None:
            where.append("activity_id = :activity_id")
            values["activity_id"] = activity_id
        if cursor is not None:
            where.append("position < :cursor")
            values["cursor"] = cursor
        (window,) = await self._read("window", values, where)
        values["lowest"] = window["lowest"]
        where += [
            "position >= :lowest",
            "levels & :levels != 0",
            "text LIKE :pattern ESCAPE '!'",
        ]
        rows = await self._read("search", values, where)
        found: list[Found] = []
        small = text.lower()
        for row in rows:
            found += [
                Found(row["activity_id"], row["attempt"], line)
                for line in reversed(row["text"].split("\n")[:-1])
                if small in line.lower() and _levels(line) & wanted
            ]
            if len(found) >= limit:
                return found, row["position"]
        if rows and (rows[-1]["chosen"] == limit or rows[-1]["chosen"] > len(rows)):
            return found, rows[-1]["position"]
        return found, window["lowest"] if window["count"] == _LOOKED_AT else None

    def ended(self, activity_id: str) -> None:
        """Say that an activity has ended, to those who follow its log."""
        self._tell(activity_id)

    async def forget(self, activity_ids: Sequence[str]) -> None:
        """Drop the logs of activities."""

        def work(session: Session) -> None:
            for activity_id in activity_ids:
                session.do(_FILE, "forget", {"activity_id": activity_id})

        await self._database.write(work)

    async def purge(self) -> int:
        """Drop what is too old or too much, the oldest first.

        Returns:
            How many bytes that were.
        """
        dropped = 0
        excess = await self._over()
        while True:
            over = excess - dropped
            rows = await self._read("oldest", {"limit": _AT_ONCE})
            oldest = self._clock() - self._keep_seconds
            last, size = None, 0
            for row in rows:
                if row["created"] >= oldest and size >= over:
                    break
                last, size = row["position"], size + row["size"]
            if last is None:
                return dropped
            values = {"position": last}
            await self._database.write(
                lambda session, values=values: session.do(_FILE, "delete_up_to", values)  # type: ignore[misc]
            )
            dropped += size

    async def _over(self) -> int:
        (row,) = await self._read("total", {})
        return max(0, int(row["size"]) - self._keep_bytes)

    async def _read(
        self, name: str, values: dict[str, Any], where: Sequence[str] = ()
    ) -> list[Row]:
        return await self._database.read(
            lambda session: session.all(_FILE, name, values, where=where)
        )

    def _tell(self, activity_id: str) -> None:
        for news in self._followers.get(activity_id, ()):
            news.set()


def _row(upload: Upload, created: float) -> dict[str, Any] | None:
    """What is stored of an upload; None where it has no lines."""
    text = upload.text.replace("\0", "\ufffd")  # behind a nought SQLite finds nothing
    if not text:
        return None
    if not text.endswith("\n"):
        text += "\n"
    return {
        "activity_id": upload.activity_id,
        "attempt": upload.attempt,
        "batch": upload.batch,
        "levels": _levels(text),
        "size": len(text.encode()),
        "created": created,
        "text": text,
    }


def _levels(text: str) -> int:
    """A bit for each level that stands in some lines; for none of them, that of INFO."""
    found = 0
    for number, level in enumerate(LEVELS):
        if f"level={level} " in text or f'"level":"{level}"' in text:
            found |= 1 << number
    return found or 1 << LEVELS.index("INFO")


def _at_least(level: str | None) -> int:
    if level is None:
        return (1 << len(LEVELS)) - 1
    if level.upper() not in LEVELS:
        raise InvalidRequest(f"level {level!r} is none of {', '.join(LEVELS)}")
    return sum(1 << number for number in range(LEVELS.index(level.upper()), len(LEVELS)))


def _escaped(text: str) -> str:
    """A pattern for all that may match, whose letters SQLite does not tell apart as Python does."""
    text = "".join(each if each.isascii() else "\0" for each in text)
    for each in ("!", "%", "_"):
        text = text.replace(each, f"!{each}")
    return text.replace("\0", "%")
