"""The functions that can be invoked."""

from __future__ import annotations

import math
import re
import time
from typing import Any, Final

import msgspec

from fnship.engine.model import Function, Resources, RetryPolicy, Source
from fnship.engine.sql.database import Database, Row
from fnship.errors import InvalidRequest, Missing

__all__ = ["FunctionStore"]

_FILE: Final = "functions"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # a DNS label (RFC 1123)
_LONGEST_TIMEOUT: Final = 86400.0
_MOST_AT_ONCE: Final = 1000


class FunctionStore:
    """Keeps functions in a `Database`, and in memory what was read of it once.

    Args:
        database: Where. Nobody else may change its functions.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Function] | None = None

    async def put(self, function: Function) -> Function:
        """Keep a function, in place of one of the same name.

        Raises:
            InvalidRequest: A value in it is not valid.
        """
        _check(function)
        known = await self._all()
        values = {
            "name": function.name,
            "source": str(function.source),
            "location": function.location,
            "timeout": function.timeout,
            "concurrency": function.concurrency,
            "retry": msgspec.json.encode(function.retry).decode(),
            "resources": msgspec.json.encode(function.resources).decode(),
            "updated": time.time(),
        }
        row = await self._database.write(lambda session: session.one(_FILE, "put", values))
        assert row is not None
        known[function.name] = kept = _function(row)
        return kept

    async def get(self, name: str) -> Function:
        """A function.

        Raises:
            Missing: There is none of this name.
        """
        known = self._known if self._known is not None else await self._all()
        try:
            return known[name]
        except KeyError:
            raise Missing(f"there is no function {name!r}") from None

    async def list(self) -> list[Function]:
        """Every function, by name."""
        return sorted((await self._all()).values(), key=lambda each: each.name)

    async def delete(self, name: str) -> None:
        """Forget a function.

        Raises:
            Missing: There is none of this name.
        """
        await self.get(name)
        await self._database.write(lambda session: session.do(_FILE, "delete", {"name": name}))
        (await self._all()).pop(name, None)

    async def _all(self) -> dict[str, Function]:
        if self._known is None:
            rows = await self._database.read(lambda session: session.all(_FILE, "all"))
        if self._known is None:  # still: what somebody else has read may have changed since
            self._known = {row["name"]: _function(row) for row in rows}
        return self._known


def _check(function: Function) -> None:
    if not _NAME.fullmatch(function.name):
        raise InvalidRequest(
            f"the name {function.name!r} is not valid: expected 1 to 63 small letters, digits and "
            "hyphens, with no hyphen at either end"
        )
    if not function.location or "\0" in function.location:
        raise InvalidRequest(f"the {function.source} is empty, or has a character that it cannot")
    retry = function.retry
    for name, value, least, most in (
        ("timeout", function.timeout, 0.001, _LONGEST_TIMEOUT),
        ("concurrency", function.concurrency, 1, _MOST_AT_ONCE),
        ("retry.max_attempts", retry.max_attempts, 1, 1000),
        ("retry.first_delay", retry.first_delay, 0, 86400),
        ("retry.factor", retry.factor, 1, 100),
        ("retry.max_delay", retry.max_delay, 0, 7 * 86400),
        ("retry.jitter", retry.jitter, 0, 1),
        ("retry.again_delay", retry.again_delay, 0, 7 * 86400),
        ("retry.max_again", retry.max_again, 0, 10**9),
        ("retry.max_again_age", retry.max_again_age, 0, 3650 * 86400),
    ):
        if not math.isfinite(value) or not least <= value <= most:
            raise InvalidRequest(f"{name} is {value!r}: expected a number from {least} to {most:g}")


def _function(row: Row) -> Function:
    values: dict[str, Any] = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a Row is no dict
    values["source"] = Source(values["source"])
    values["retry"] = msgspec.json.decode(values["retry"], type=RetryPolicy)
    values["resources"] = msgspec.json.decode(values["resources"], type=Resources)
    return Function(**values)
