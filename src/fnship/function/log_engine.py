"""The engines that log lines go to: which may be sent to, and how well each of them is."""

from __future__ import annotations

import asyncio
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

__all__ = ["Engine", "Engines", "upload_url"]

Stream = TypeVar("Stream")
"""What has lines for an engine."""

_REMEMBERED: Final = 256


class Engine(Generic[Stream]):
    """What is known of one engine's health."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.failures = 0  # in a row; those of uploads that were under way together count once
        self.failed_at = 0.0  # when the last of them was counted, by the loop's clock
        self.stored = 0  # uploads, ever
        self.slow = False
        self.last_problem = ""
        self.parked: OrderedDict[Stream, None] = OrderedDict()
        self.probe: asyncio.TimerHandle | None = None

    @property
    def sick(self) -> bool:
        """Whether the last upload failed."""
        return self.failures > 0

    @property
    def worth_waiting_for(self) -> bool:
        """Whether an answer may wait for an upload."""
        return not self.sick and not self.slow

    def failed(self, problem: str, started: float, now: float) -> bool:
        """Note that an upload failed.

        Args:
            problem: Why.
            started: When it began, by the loop's clock.
            now: When it failed.

        Returns:
            Whether it is the first in a row.
        """
        self.last_problem = problem
        if self.failures and started < self.failed_at:
            return False
        self.failures += 1
        self.failed_at = now
        return self.failures == 1


class Engines(Generic[Stream]):
    """All engines that a process has lines for, or had lately. Used from any thread.

    Args:
        allowed: Hosts that may be sent to, ``ENGINE_ALLOWED_HOSTS``; empty for any.
        say: Told, once a host, why nothing is sent there.
    """

    def __init__(self, allowed: tuple[str, ...], say: Callable[[str], None]) -> None:
        self._allowed = allowed
        self._say = say
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Engine[Stream]] = OrderedDict()
        self._refused: set[str] = set()

    def at(self, endpoint: str, path: str) -> Engine[Stream] | None:
        """The engine of a base URL; None where nothing may be sent to this path of it."""
        try:
            parts = urllib.parse.urlsplit(endpoint)
            problem = _why_not(parts, path, self._allowed)
        except ValueError:
            self._refuse("", "is no address")
            return None
        if problem:
            self._refuse(parts.netloc.rpartition("@")[2], problem)
            return None
        return self._get(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")

    def __iter__(self) -> Iterator[Engine[Stream]]:
        with self._lock:
            return iter(list(self._known.values()))

    def _get(self, origin: str) -> Engine[Stream]:
        with self._lock:
            engine = self._known.get(origin)
            if engine is None:
                engine = self._known[origin] = Engine(origin)
                if len(self._known) > _REMEMBERED:
                    self._forget_one(engine)
            return engine

    def _forget_one(self, newest: Engine[Stream]) -> None:
        for origin, each in self._known.items():
            if each is not newest and not each.parked:
                del self._known[origin]
                return

    def _refuse(self, host: str, problem: str) -> None:
        if host not in self._refused and len(self._refused) < _REMEMBERED:
            self._refused.add(host)
            self._say(f"no log lines are sent to {host or 'the engine'}: it {problem}")


def upload_url(endpoint: str, path: str) -> str:
    """Where to upload to: a path of an engine's base URL."""
    return f"{endpoint.rstrip('/')}/{path.lstrip('/')}"


def _why_not(parts: urllib.parse.SplitResult, path: str, allowed: tuple[str, ...]) -> str | None:
    """Why no lines may be sent to this address; None where they may."""
    if parts.scheme not in ("http", "https") or not parts.hostname or not path:
        return "is no http or https address with an upload path"
    if allowed and not _host_allowed(parts, allowed):
        return "is not one of ENGINE_ALLOWED_HOSTS"
    return None


def _host_allowed(parts: urllib.parse.SplitResult, allowed: tuple[str, ...]) -> bool:
    host = (parts.hostname or "").lower()
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except ValueError:
        return False
    names = {host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}"}
    return any(
        each in names or (each.startswith("*.") and host.endswith(each[1:])) for each in allowed
    )
