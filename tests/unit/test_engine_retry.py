"""Retry: a policy in, a decision out."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship import contract
from fnship.engine.model import Activity, Outcome, RetryPolicy, Status
from fnship.engine.retry import backoff, decide, retry_after

POLICY = RetryPolicy()
NOW = 1_000_000.0


def activity(**fields: object) -> Activity:
    return Activity(id="a", function="f", created=NOW, **fields)


def again(data: object) -> Outcome:
    return Outcome(code=contract.EXECUTE_AGAIN, data=msgspec.Raw(msgspec.json.encode(data)))


def test_success_ends_it() -> None:
    decision = decide(POLICY, activity(), Outcome(), now=NOW, chance=0.5)
    assert (decision.status, decision.failure) == (Status.SUCCEEDED, False)


@pytest.mark.parametrize("code", [contract.FAILED, contract.NOT_FOUND, contract.CONFLICT])
def test_what_is_final_is_never_repeated(code: int) -> None:
    decision = decide(POLICY, activity(), Outcome(code=code), now=NOW, chance=0.5)
    assert (decision.status, decision.failure) == (Status.FAILED, True)


def test_a_transient_error_is_repeated_until_the_attempts_are_used_up() -> None:
    failed = Outcome(code=contract.TRANSIENT)
    for failures in range(POLICY.max_attempts - 1):
        decision = decide(POLICY, activity(failures=failures), failed, now=NOW, chance=1.0)
        assert decision.status is Status.WAITING
        assert decision.delay == min(2.0**failures, POLICY.max_delay)
    last = activity(failures=POLICY.max_attempts - 1)
    decision = decide(POLICY, last, failed, now=NOW, chance=1.0)
    assert decision.status is Status.FAILED
    assert "5 times" in decision.reason


def test_what_the_server_asks_for_lengthens_the_delay_up_to_the_limit() -> None:
    failed = Outcome(code=contract.TRANSIENT)

    def delay(wanted: float) -> float:
        return decide(POLICY, activity(), failed, now=NOW, chance=1.0, wanted_delay=wanted).delay

    assert delay(0) == 1.0
    assert delay(30) == 30.0
    assert delay(10_000) == POLICY.max_delay


def test_execute_again_is_no_failure_and_says_when() -> None:
    one = decide(POLICY, activity(failures=4), again({"page": 2}), now=NOW, chance=0.5)
    assert (one.status, one.failure, one.again) == (Status.WAITING, False, True)
    assert one.delay == POLICY.again_delay
    other = decide(POLICY, activity(), again({"retry_after": 0.25}), now=NOW, chance=0.5)
    assert other.delay == 0.25


def test_execute_again_is_bounded_by_count_and_by_age() -> None:
    often = activity(again=POLICY.max_again)
    decision = decide(POLICY, often, again({}), now=NOW, chance=0.5)
    assert decision.status is Status.FAILED
    assert "1000 are allowed" in decision.reason
    late = decide(POLICY, activity(), again({}), now=NOW + POLICY.max_again_age, chance=0.5)
    assert late.status is Status.FAILED
    assert "after it was accepted" in late.reason


@pytest.mark.parametrize("value", [True, "5", -1, None, [1], {"s": 1}])
def test_a_retry_after_that_is_no_number_of_seconds_is_passed_over(value: object) -> None:
    assert retry_after(again({"retry_after": value})) is None


def test_data_that_is_no_object_has_no_retry_after() -> None:
    assert retry_after(again([1])) is None
    assert retry_after(Outcome(code=1)) is None


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1), st.floats(1, 10))
def test_a_backoff_is_within_its_bounds(
    failures: int, chance: float, jitter: float, factor: float
) -> None:
    policy = RetryPolicy(jitter=jitter, factor=factor)
    delay = backoff(policy, failures, chance)
    assert 0 <= delay <= policy.max_delay
    assert delay >= (1 - jitter) * min(policy.first_delay, policy.max_delay) - 1e-9
    assert delay <= backoff(policy, failures + 1, chance) + 1e-9
