from __future__ import annotations

import contextvars
import datetime as dt
import io
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnship
from fnship import contract
from fnship.function.activity_log import ActivityLog
from fnship.function.invocation import (
    Cancelled,
    Invocation,
    active_invocation,
    attempt_number,
    current,
    seconds_allowed,
)
from fnship.function.lines import Stdout, style_named


def invocation(
    private: dict[str, str] | None = None, seconds: float | None = None, **more: Any
) -> Invocation:
    deadline = None if seconds is None else time.monotonic() + seconds
    log = ActivityLog(Stdout(io.BytesIO(), style_named("text")))
    return Invocation("a1", [], private, deadline, more.get("open_log", lambda _: log))


def allowed(
    exec_timeout: float | None = None, *, counts: bool = True, **headers: str
) -> float | None:
    names = {"timeout": contract.TIMEOUT, "deadline": contract.ACTIVITY_DEADLINE}
    private = {names[name]: value for name, value in headers.items()}
    return seconds_allowed(private or None, exec_timeout, x_timeout_counts=counts)


def in_seconds(seconds: float, zone: dt.tzinfo = dt.UTC) -> str:
    return (dt.datetime.now(zone) + dt.timedelta(seconds=seconds)).isoformat()


# How long it may run


def test_no_limit() -> None:
    assert allowed() is None
    assert allowed(0) is None
    assert allowed(counts=False) is None


@pytest.mark.parametrize(
    ("exec_timeout", "timeout", "seconds"),
    [
        (None, "1m30s", 90),
        (None, "30", 30),
        (60, "1m30s", 60),  # it may shorten, not lengthen
        (60, "250ms", 0.25),
        (0, "2s", 2),
        (60, "nonsense", 60),
        (60, "", 60),
        (60, "-1s", 60),
        (60, "0", 60),
        (None, "nonsense", None),
        (None, "1h; rm", None),
        (None, "9" * 400, None),
    ],
)
def test_x_timeout(exec_timeout: float | None, timeout: str, seconds: float | None) -> None:
    assert allowed(exec_timeout, timeout=timeout) == seconds


def test_x_timeout_where_it_does_not_count() -> None:
    assert allowed(0, counts=False, timeout="1s") is None


@pytest.mark.parametrize("seconds", [-3600.0, 0.0, 5.0, 3600.0])
@pytest.mark.parametrize("zone", [dt.UTC, dt.timezone(dt.timedelta(hours=-7, minutes=-30))])
def test_a_deadline(seconds: float, zone: dt.tzinfo) -> None:
    found = allowed(deadline=in_seconds(seconds, zone))
    assert found is not None
    assert seconds - 60 < found <= seconds


@pytest.mark.parametrize("zone", ["Z", "z", "+00:00"])
@pytest.mark.parametrize("fraction", ["", ".5", ".123456", ".123456789"])
def test_deadlines_as_other_languages_write_them(zone: str, fraction: str) -> None:
    found = allowed(deadline=f"2999-12-31T23:59:59{fraction}{zone}")
    assert found is not None
    assert found > 10**9


@pytest.mark.parametrize(
    "text", ["", "soon", "2999-12-31T23:59:59", "2999-13-01T00:00:00Z", "1700000000", "Z"]
)
def test_a_deadline_that_is_nonsense_counts_as_absent(text: str) -> None:
    assert allowed(deadline=text) is None
    assert allowed(9, deadline=text, timeout="3s") == 3


def test_the_shortest_limit_wins() -> None:
    found = allowed(60, timeout="50s", deadline=in_seconds(5))
    assert found is not None
    assert found <= 5
    assert allowed(60, timeout="50s", deadline=in_seconds(500)) == 50


@given(st.text(), st.text(), st.none() | st.floats(0, 1e9))
def test_any_headers(timeout: str, deadline: str, exec_timeout: float | None) -> None:
    found = allowed(exec_timeout, timeout=timeout, deadline=deadline)
    assert found is None or found < 10**12
    if exec_timeout:
        assert found is not None
        assert found <= exec_timeout


@pytest.mark.parametrize(
    ("text", "attempt"),
    [("1", 1), ("7", 7), ("0", 1), ("-3", 1), ("", 1), ("two", 1), ("²", 1), ("9" * 5000, 1)],
)
def test_the_attempt(text: str, attempt: int) -> None:
    assert attempt_number({contract.ACTIVITY_ATTEMPT: text}) == attempt
    assert invocation({contract.ACTIVITY_ATTEMPT: text}).attempt == attempt


def test_without_an_attempt() -> None:
    assert attempt_number(None) == attempt_number({}) == invocation().attempt == 1


# What a handler may know of it


def test_time_that_remains() -> None:
    limited = invocation(seconds=100)
    assert limited.remaining is not None
    assert 0 < limited.remaining <= 100
    assert limited.deadline is not None
    assert limited.deadline.tzinfo is dt.UTC
    left = (limited.deadline - dt.datetime.now(dt.UTC)).total_seconds()
    assert 0 < left <= 100.001
    over = invocation(seconds=-5)
    assert over.remaining is not None
    assert over.remaining < 0


def test_no_deadline() -> None:
    assert invocation().remaining is None
    assert invocation().deadline is None


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-12:00"])
def test_the_last_deadline_of_all(text: str) -> None:
    seconds = allowed(deadline=text)
    assert seconds is not None
    deadline = invocation(seconds=seconds).deadline
    assert deadline is not None
    assert deadline.year == 9999


def test_current_is_the_invocation_of_the_context() -> None:
    one = invocation()

    def inside() -> None:
        active_invocation.set(one)
        assert current() is one
        assert fnship.current() is one
        assert current().activity_id == "a1"

    contextvars.copy_context().run(inside)
    with pytest.raises(RuntimeError, match="outside of an invocation"):
        current()


def test_a_token_is_not_in_its_repr() -> None:
    private = {contract.WORKFLOW_TOKEN: "t0ken", contract.ACTIVITY_ATTEMPT: "2"}
    assert repr(invocation(private)) == "<Invocation a1, attempt 2>"


# Cancellation


@pytest.mark.parametrize("why", list(Cancelled))
def test_cancelling(why: Cancelled) -> None:
    one = invocation()
    calls: list[str] = []
    one.on_cancel(lambda: calls.append("interrupted"))
    assert not one.cancelled
    assert one.why_cancelled is None
    one.cancel(why)
    assert one.cancelled
    assert one.why_cancelled is why
    one.cancel(Cancelled.SHUTDOWN)
    one.cancel(Cancelled.DEADLINE)
    assert one.why_cancelled is why
    assert calls == ["interrupted"]


def test_nothing_is_interrupted_once_it_is_over() -> None:
    one = invocation()
    one.on_cancel(lambda: pytest.fail("too late"))
    one.on_cancel(None)
    one.cancel(Cancelled.CLIENT_GONE)
    assert one.cancelled


# Its log


def test_the_log_is_opened_once_by_whichever_thread_is_first() -> None:
    opened: list[ActivityLog] = []
    entered = threading.Barrier(8, timeout=30)

    def open_log(_: Any) -> ActivityLog:
        opened.append(ActivityLog(Stdout(io.BytesIO(), style_named("text"))))
        return opened[-1]

    one = invocation(open_log=open_log)
    found: list[ActivityLog] = []

    def use() -> None:
        entered.wait()
        found.append(one.log)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(opened) == 1
    assert found == opened * 8
