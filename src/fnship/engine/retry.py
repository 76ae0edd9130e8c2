"""Whether an activity is run again, and when. A policy in, a decision out; nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from fnship import contract
from fnship.engine.model import Activity, Outcome, RetryPolicy, Status

__all__ = ["Decision", "backoff", "decide", "retry_after", "times"]

_NEVER_AGAIN = frozenset({contract.FAILED, contract.NOT_FOUND, contract.CONFLICT})


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an activity after an attempt.

    Attributes:
        status: `Status.WAITING` to run it again; else how it ended.
        delay: Seconds until the next attempt.
        failure: Whether the attempt counts as failed.
        again: Whether it counts as one that asked to be run again.
        reason: Why it is not run again although the outcome alone would allow it; or empty.
    """

    status: Status
    delay: float = 0.0
    failure: bool = False
    again: bool = False
    reason: str = ""


def decide(
    policy: RetryPolicy,
    activity: Activity,
    outcome: Outcome,
    *,
    now: float,
    chance: float,
    wanted_delay: float | None = None,
) -> Decision:
    """Decide after an attempt.

    Args:
        policy: The function's.
        activity: As it was when the attempt began: without this attempt's failure.
        outcome: What the attempt came to.
        now: Seconds since 1970.
        chance: A random number from 0 to 1, for the jitter.
        wanted_delay: Seconds that the function's server asked for, such as in ``Retry-After``.
    """
    if outcome.code is None:
        return Decision(Status.SUCCEEDED)
    if outcome.code in _NEVER_AGAIN:
        return Decision(Status.FAILED, failure=True)
    if outcome.code == contract.EXECUTE_AGAIN:
        return _again(policy, activity, outcome, now)
    failures = activity.failures + 1
    if failures >= policy.max_attempts:
        reason = f"it failed {times(failures)}, which is all that its policy allows"
        return Decision(Status.FAILED, failure=True, reason=reason)
    delay = backoff(policy, failures, chance)
    if wanted_delay is not None:
        delay = max(delay, min(wanted_delay, policy.max_delay))
    return Decision(Status.WAITING, delay=delay, failure=True)


def backoff(policy: RetryPolicy, failures: int, chance: float) -> float:
    """Seconds to wait after so many failures.

    Args:
        policy: How delays grow.
        failures: How many there were, from 1.
        chance: A random number from 0 to 1; 0 gives the shortest delay that the jitter allows.
    """
    grown = policy.first_delay * policy.factor ** min(failures - 1, 64)
    delay = min(grown, policy.max_delay)
    return delay * (1 - policy.jitter * (1 - chance))


def times(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"


def retry_after(outcome: Outcome) -> float | None:
    """The ``retry_after`` in the data of an execute-again, in seconds; None where there is none."""
    if outcome.data is None:
        return None
    data = msgspec.json.decode(outcome.data)
    value = data.get("retry_after") if isinstance(data, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) and value >= 0 else None
    except OverflowError:  # a whole number that no float holds
        return None


def _again(policy: RetryPolicy, activity: Activity, outcome: Outcome, now: float) -> Decision:
    if activity.again + 1 > policy.max_again:
        reason = (
            f"it asked {times(activity.again + 1)} to be run again; {policy.max_again} are allowed"
        )
        return Decision(Status.FAILED, again=True, reason=reason)
    delay = retry_after(outcome)
    delay = policy.again_delay if delay is None else delay
    if now + delay - activity.created > policy.max_again_age:
        reason = (
            f"it would be run again {now + delay - activity.created:.0f} s after it was accepted; "
            f"{policy.max_again_age:g} s are allowed"
        )
        return Decision(Status.FAILED, again=True, reason=reason)
    return Decision(Status.WAITING, delay=delay, again=True)
