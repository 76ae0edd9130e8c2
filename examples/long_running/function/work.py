"""The work itself, and when to leave it."""

import time

from fnship import current

SECONDS_PER_RECORD = 0.05
LEAVE_EARLY = 5.0  # seconds before the deadline


def copy() -> None:
    """Stands for copying one record, which takes its time."""
    time.sleep(SECONDS_PER_RECORD)


def must_stop() -> bool:
    """Whether nobody waits for this run any more, or soon nobody will."""
    invocation = current()
    remaining = invocation.remaining
    return invocation.cancelled or (remaining is not None and remaining < LEAVE_EARLY)
