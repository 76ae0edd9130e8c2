"""A state store in memory: keys in scopes, versions, expiry. No I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import msgspec

from fnship.function import codec

__all__ = ["Item", "MemoryStore", "Scope", "StaleVersion"]

Scope: TypeAlias = tuple[str, str | None, str | None]
"""Organization, project, environment; None for what a wider scope leaves open."""


class StaleVersion(Exception):
    """A write named another version than the current one, which is `current`."""

    def __init__(self, current: int) -> None:
        self.current = current
        super().__init__(f"the key is at version {current}")


class Item(NamedTuple):
    """A key of a scope, as `MemoryStore.list` gives it."""

    key: str
    value: Any
    version: int


@dataclass(slots=True)
class _Entry:
    """What a key holds. Kept after a delete, without a value, for its version to count on."""

    value: msgspec.Raw | None
    version: int
    expires: float | None


class MemoryStore:
    """Values by scope and key. Safe to use from any thread.

    Values go in and come out as copies, by way of JSON. A key's versions count on after it
    was deleted or has expired, so that no version ever means two values.

    Args:
        clock: Seconds that never go back; expiry is measured with it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._scopes: dict[Scope, dict[str, _Entry]] = {}

    def get(self, scope: Scope, key: str) -> tuple[Any, int] | None:
        """The value and its version; None where the key does not exist."""
        found = self.get_raw(scope, key)
        return None if found is None else (codec.decode(bytes(found[0])), found[1])

    def get_raw(self, scope: Scope, key: str) -> tuple[msgspec.Raw, int] | None:
        """As `get`, with the value as JSON."""
        with self._lock:
            entry = self._live(scope, key)
            return None if entry is None or entry.value is None else (entry.value, entry.version)

    def put(
        self,
        scope: Scope,
        key: str,
        value: Any,
        version: int | None = None,
        ttl: float | None = None,
    ) -> int:
        """Write a value.

        Args:
            scope: Where.
            key: Which.
            value: JSON types, or JSON itself as `msgspec.Raw`.
            version: The one last read, 0 to create; None writes whatever is there.
            ttl: Seconds until the key is gone; None for never.

        Returns:
            The new version.

        Raises:
            StaleVersion: `version` is not the current one.
            NotJSON: The value is none.
        """
        raw = value if isinstance(value, msgspec.Raw) else msgspec.Raw(codec.encode(value, "value"))
        with self._lock:
            entry = self._live(scope, key)
            current = entry.version if entry is not None and entry.value is not None else 0
            if version is not None and version != current:
                raise StaleVersion(current)
            new = _Entry(
                value=raw,
                version=1 if entry is None else entry.version + 1,
                expires=None if ttl is None else self._clock() + ttl,
            )
            self._scopes.setdefault(scope, {})[key] = new
            return new.version

    def delete(self, scope: Scope, key: str) -> bool:
        """Delete a key. Returns whether there was one."""
        with self._lock:
            entry = self._live(scope, key)
            if entry is None or entry.value is None:
                return False
            entry.value = None
            return True

    def list(
        self, scope: Scope, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> list[Item]:
        """The items of a scope whose keys start with `prefix`, in the order of their keys.

        Args:
            scope: Where.
            prefix: Start of the keys; empty for all.
            after: Only keys behind this one.
            limit: At most so many; None for all.
        """
        return [
            Item(key, codec.decode(bytes(raw)), version)
            for key, raw, version in self.list_raw(scope, prefix, after=after, limit=limit)
        ]

    def list_raw(
        self, scope: Scope, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> _RawItems:
        """As `list`, with values as JSON: triples of key, value and version."""
        with self._lock:
            keys = sorted(
                key
                for key in self._scopes.get(scope, ())
                if key.startswith(prefix) and (after is None or key > after)
            )
            found: _RawItems = []
            for key in keys:
                if limit is not None and len(found) >= limit:
                    break
                entry = self._live(scope, key)
                if entry is not None and entry.value is not None:
                    found.append((key, entry.value, entry.version))
            return found

    def clear(self) -> None:
        """Forget everything, versions included."""
        with self._lock:
            self._scopes = {}

    def _live(self, scope: Scope, key: str) -> _Entry | None:
        """The key's entry, its value gone where it has expired. The lock is held."""
        entry = self._scopes.get(scope, {}).get(key)
        if entry is not None and entry.expires is not None and self._clock() >= entry.expires:
            entry.value = entry.expires = None
        return entry


_RawItems: TypeAlias = list[tuple[str, msgspec.Raw, int]]
