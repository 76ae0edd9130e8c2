"""Where each function answers, and what has to run for that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fnship.engine.addresses import AddressPolicy
from fnship.engine.model import Function, Resources, Source
from fnship.engine.runners.folder import FolderRunner, check_folder
from fnship.engine.runners.image import Containers, ImageRunner
from fnship.engine.runners.runner import STOP_WITHIN, Place, Runner
from fnship.errors import UsageError

__all__ = ["Runners"]


@dataclass(slots=True)
class _Kept:
    runs: tuple[Source, str, Resources]
    runner: Runner
    patience: float = STOP_WITHIN  # seconds; no attempt that it was found for takes longer


class Runners:
    """One for each function that needs something to run.

    Args:
        addresses: What URLs may be called.
        containers: What images are run with.
        on_line: Told the name of a function and each line that its process writes.
    """

    def __init__(
        self,
        addresses: AddressPolicy,
        containers: Containers,
        on_line: Callable[[str, str], None],
    ) -> None:
        self._addresses = addresses
        self._containers = containers
        self._on_line = on_line
        self._kept: dict[str, _Kept] = {}
        self._retired: set[asyncio.Task[None]] = set()  # of what is being stopped

    async def check(self, function: Function) -> Function:
        """See that a function can be where it is said to be.

        Returns:
            It, with its location in full.

        Raises:
            InvalidRequest: It cannot.
        """
        if function.source is Source.FOLDER:
            return msgspec.structs.replace(function, location=check_folder(function.location))
        if function.source is Source.IMAGE:
            await self._containers.check(function.location, function.resources)
        else:
            self._addresses.check_url(function.location)
        return function

    async def place(self, function: Function) -> Place:
        """Where a function is now; what has to run for that is started.

        Raises:
            EngineError: It cannot be; says why.
        """
        if function.source is Source.URL:
            return Place(function.location)
        kept = self._kept.get(function.name)
        if kept is None or kept.runs != _what_runs(function):
            self._retire(function.name)
            kept = _Kept(_what_runs(function), self._runner(function))
            self._kept[function.name] = kept
        kept.patience = max(kept.patience, function.timeout + STOP_WITHIN)
        return await kept.runner.place()

    def doubt(self, function: Function, place: Place) -> None:
        """Be told that a connection to a function broke, which was at `place`."""
        kept = self._kept.get(function.name)
        if kept is not None:
            kept.runner.doubt(place)

    async def changed(self, function: Function) -> None:
        """Stop what runs for a function, unless that is just what it is to be from now on.

        Does not wait for the end: calls in flight are finished first.
        """
        kept = self._kept.get(function.name)
        if kept is None:
            return
        current = kept.runs == _what_runs(function) and await kept.runner.is_current()
        if not current and self._kept.get(function.name) is kept:
            self._retire(function.name)

    async def forget(self, name: str) -> None:
        """Stop what runs for a function that is gone; does not wait for the end."""
        self._retire(name)

    async def _last_retired(self) -> None:
        """Wait for the end of what is being stopped, which has nothing to finish any more."""
        if self._retired:
            _, left = await asyncio.wait(self._retired, timeout=STOP_WITHIN)
            for closing in left:
                closing.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _retire(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            closing = asyncio.create_task(kept.runner.close(kept.patience))
            self._retired.add(closing)
            closing.add_done_callback(self._retired.discard)

    async def tidy(self) -> None:
        """Remove what an engine that ended without warning has left running."""
        with contextlib.suppress(UsageError):  # which is said when a container is wanted
            await self._containers.builder()

    async def close(self) -> None:
        """Stop all of it, when there are no attempts any more."""
        kept, self._kept = list(self._kept.values()), {}
        await asyncio.gather(self._last_retired(), *(each.runner.close() for each in kept))

    def _runner(self, function: Function) -> Runner:
        def tell(line: str, name: str = function.name) -> None:
            self._on_line(name, line)

        if function.source is Source.FOLDER:
            return FolderRunner(Path(function.location), tell)
        return ImageRunner(function.location, function.resources, self._containers, tell)


def _what_runs(function: Function) -> tuple[Source, str, Resources]:
    return function.source, function.location, function.resources
