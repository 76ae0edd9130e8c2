"""What signals ask of a server, by a clock that the test turns."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.server.stopping import Stopping
from fnship.settings import Settings

ALONE = Settings()
BEHIND = Settings(fprocess="python main.py", healthcheck_interval=30.0)
NATIVE = Settings(fprocess="python main.py", watchdog="native", healthcheck_interval=5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(settings: Settings, sig: int = signal.SIGTERM) -> tuple[Stopping, Clock]:
    clock = Clock()
    stopping = Stopping(settings, clock)
    assert not stopping.asked
    assert stopping.spent == 0
    assert not stopping.may_stop(busy=False, served=0)
    assert stopping.take(sig) is False
    assert stopping.asked
    return stopping, clock


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("busy", [False, True])
def test_alone_it_may_stop_at_once(sig: signal.Signals, busy: bool) -> None:
    stopping, _ = asked(ALONE, sig)
    assert stopping.may_stop(busy=busy, served=0)


def test_behind_a_watchdog_it_serves_on_and_then_until_idle() -> None:
    stopping, clock = asked(BEHIND)
    assert not stopping.may_stop(busy=False, served=0)
    clock.now += 31.9
    assert not stopping.may_stop(busy=False, served=0)
    clock.now += 0.1
    assert not stopping.may_stop(busy=True, served=0)
    clock.now += 0.4
    assert not stopping.may_stop(busy=False, served=0)
    clock.now += 0.1
    assert stopping.may_stop(busy=False, served=0)
    assert stopping.spent == pytest.approx(32.5)


def test_as_long_as_a_watchdog_that_is_late_sends_requests_it_is_not_idle() -> None:
    stopping, clock = asked(BEHIND)
    clock.now += 32
    for served in range(1, 9):  # each of which was over before anyone looked
        clock.now += 0.3
        assert not stopping.may_stop(busy=False, served=served)
    clock.now += 0.5
    assert stopping.may_stop(busy=False, served=8)


def test_requests_that_do_not_cease_keep_it_for_three_seconds() -> None:
    stopping, clock = asked(BEHIND)
    clock.now += 32
    for served in range(1, 10):
        clock.now += 0.3
        assert not stopping.may_stop(busy=False, served=served)
    clock.now += 0.3
    assert not stopping.may_stop(busy=True, served=10)
    clock.now += 0.1
    assert stopping.may_stop(busy=False, served=11)


def test_as_the_watchdog_it_serves_on_and_then_finishes() -> None:
    stopping, clock = asked(NATIVE)
    clock.now += 4.9
    assert not stopping.may_stop(busy=False, served=0)
    clock.now += 0.1
    assert stopping.may_stop(busy=True, served=0)


@pytest.mark.parametrize("settings", [BEHIND, NATIVE])
def test_ctrl_c_waits_for_no_watchdog(settings: Settings) -> None:
    stopping, _ = asked(settings, signal.SIGINT)
    assert stopping.may_stop(busy=True, served=0)


@given(st.sampled_from([ALONE, BEHIND, NATIVE]), st.lists(st.floats(0, 3), max_size=20))
def test_a_second_signal_gives_up_once_and_not_too_soon(
    settings: Settings, pauses: list[float]
) -> None:
    stopping, clock = asked(settings)
    answers = []
    for pause in pauses:
        clock.now += pause
        late = stopping.spent >= 1
        given_up = stopping.take(signal.SIGTERM)
        assert given_up is (late and True not in answers)
        answers.append(given_up)
    assert stopping.given_up is (True in answers)
    if stopping.given_up:
        assert stopping.may_stop(busy=True, served=0)
