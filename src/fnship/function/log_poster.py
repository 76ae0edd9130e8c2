"""What carries log lines over the network, as those who send them see it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["PostFailed", "Posted", "Poster"]


class PostFailed(Exception):
    """The engine was not reached, or did not answer in time. The text says which."""


class Posted(NamedTuple):
    """An answer.

    Attributes:
        status: Its status.
        body: The first 64 KiB of what it says.
    """

    status: int
    body: bytes = b""


class Poster(Protocol):
    """Sends one HTTP POST."""

    async def prepare(self) -> None:
        """Load what is needed, before the first line is due."""

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Posted:
        """Send `body`, follow no redirect, and return the answer.

        Raises:
            PostFailed: There was none.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
