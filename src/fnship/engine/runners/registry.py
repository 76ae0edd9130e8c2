"""Where each function answers, and what has to run for that."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec

from fnship.engine.addresses import AddressPolicy
from fnship.engine.model import Function, Source
from fnship.engine.runners.folder import FolderRunner, check_folder

__all__ = ["Runners"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    location: str
    runner: FolderRunner


class Runners:
    """One for each function that needs something to run.

    Args:
        addresses: What URLs may be called.
        on_line: Told the name of a function and each line that its process writes.
    """

    def __init__(self, addresses: AddressPolicy, on_line: Callable[[str, str], None]) -> None:
        self._addresses = addresses
        self._on_line = on_line
        self._runners: dict[str, _Kept] = {}

    def check(self, function: Function) -> Function:
        """See that a function can be where it is said to be.

        Returns:
            It, with its location in full.

        Raises:
            InvalidRequest: It cannot.
        """
        if function.source is Source.FOLDER:
            return msgspec.structs.replace(function, location=check_folder(function.location))
        self._addresses.check_url(function.location)
        return function

    async def url(self, function: Function) -> str:
        """Where a function answers now; what has to run for that is started.

        Raises:
            EngineError: It cannot be; says why.
        """
        if function.source is Source.URL:
            return function.location
        kept = self._runners.get(function.name)
        if kept is None or kept.location != function.location:

            def tell(line: str, name: str = function.name) -> None:
                self._on_line(name, line)

            stale, kept = (
                kept,
                _Kept(function.location, FolderRunner(Path(function.location), tell)),
            )
            self._runners[function.name] = kept
            if stale is not None:
                await stale.runner.close()
        return await kept.runner.url()

    async def forget(self, name: str) -> None:
        """Stop what runs for a function that is gone."""
        kept = self._runners.pop(name, None)
        if kept is not None:
            await kept.runner.close()

    async def close(self) -> None:
        """Stop all of it."""
        kept, self._runners = list(self._runners.values()), {}
        await asyncio.gather(*(each.runner.close() for each in kept))
