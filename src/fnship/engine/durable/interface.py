"""What the engine asks of its durable layer, whatever that is built on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["Again", "Durable", "Outstanding", "Run"]


@dataclass(frozen=True, slots=True)
class Again:
    """A run wants another one after it.

    Attributes:
        delay: Seconds until then.
    """

    delay: float


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A promise that is not kept yet.

    Attributes:
        key: What was handed over.
        running: Whether its run has begun; otherwise it waits.
    """

    key: str
    running: bool


Run: TypeAlias = Callable[[str], Awaitable[Again | None]]
"""Does what is due for a key; None where nothing is left to do."""


class Durable(Protocol):
    """Runs what it is given until that says that it is done, over crashes and restarts.

    A run that was cut short is made again from its beginning, so `Run` must look how far its
    work has come. Runs of one key never overlap within a process. Everything here is called on
    one event loop, and runs are made on that.
    """

    async def open(self, run: Run) -> None:
        """Begin. Runs that an earlier process began, or that were to come, are made."""
        ...

    async def submit(self, key: str) -> None:
        """Promise to run `key`. The promise is on the disk when this comes back.

        Raises:
            StorageError: It is not.
        """
        ...

    async def cancel(self, key: str) -> None:
        """Take a promise back. A run in progress is cancelled, which it sees as any task does."""
        ...

    async def outstanding(self) -> list[Outstanding]:
        """The promises that are not kept yet."""
        ...

    def hurry(self) -> None:
        """Cut off the runs that `close` waits for."""
        ...

    async def close(self, grace: float) -> None:
        """End. What is not done then is done after the next `open`.

        Args:
            grace: Seconds for runs in progress; then they are cancelled.
        """
        ...
