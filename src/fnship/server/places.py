"""Places for requests, shared by forked processes: taking one and giving it back needs no lock."""

from __future__ import annotations

import mmap
import os
from typing import Protocol

from fnship.errors import UsageError

__all__ = ["EventPlaces", "PipePlaces", "Places", "make_places"]


class Places(Protocol):
    """A number of places. Made before the processes that share them are forked."""

    def take(self) -> bool:
        """Take one. Returns whether there was one."""
        ...

    def give(self, count: int) -> None:
        """Give some back, which any of the processes has taken."""
        ...


class EventPlaces:
    """Places that a semaphore of the kernel's counts, which only Linux has.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._event = os.eventfd(count, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)

    def take(self) -> bool:
        """Take one."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return False
        return True

    def give(self, count: int) -> None:
        """Give some back."""
        if count:
            os.eventfd_write(self._event, count)


class PipePlaces:
    """Places that are bytes in a pipe, for every other system.

    Args:
        count: How many there are.

    Raises:
        UsageError: The system's pipes hold fewer; says how many.
    """

    def __init__(self, count: int) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        # A pipe may count by pages, and the first and the last one in use be nearly empty. So
        # what it holds for certain is a page less; all but one byte of that must be to spare.
        spare = mmap.PAGESIZE - 1
        holds = os.write(self._writer, b"." * (count + spare)) - spare
        if holds < count:
            os.close(self._reader)
            os.close(self._writer)
            raise UsageError(
                f"max_inflight={count} cannot be counted over several workers here: the system "
                f"allows {holds}. Set max_inflight to that, or GUNICORN_WORKERS=1"
            )
        os.read(self._reader, spare)

    def take(self) -> bool:
        """Take one."""
        try:
            os.read(self._reader, 1)
        except BlockingIOError:
            return False
        return True

    def give(self, count: int) -> None:
        """Give some back."""
        for _ in range(count):  # one write of many might leave a page half empty for good
            os.write(self._writer, b".")


def make_places(count: int) -> Places:
    """The places of this system.

    Args:
        count: How many there are.

    Raises:
        UsageError: It cannot count so many.
    """
    return EventPlaces(count) if hasattr(os, "eventfd") else PipePlaces(count)
