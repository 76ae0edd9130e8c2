"""The counters that workers share, and their text."""

from __future__ import annotations

import functools
import http
import os
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from watchdogs import Metrics, parse_metrics

from fnship.server.metrics import Counters, render

LIMITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
CODES = (200, 400, 404, 405, 408, 413, 429, 431, 499, 500, 503, 504)

seconds = st.one_of(
    st.sampled_from((0.0, *LIMITS)),
    st.floats(0, 100, allow_nan=False, allow_subnormal=False),
)
answers = st.tuples(st.integers(0, 3), st.sampled_from(METHODS), st.sampled_from(CODES), seconds)


def scrape(counters: Counters) -> Metrics:
    return parse_metrics(render(counters).decode())


def labels(method: str, code: int, **more: str) -> frozenset[tuple[str, str]]:
    return frozenset({"method": method, "code": str(code), **more}.items())


@functools.cache
def named(method: str) -> str:
    """How the text writes a method."""
    counters = Counters(1)
    counters.slots[0].begin()
    counters.slots[0].end(method, 418, 0.0)
    (found,) = {
        dict(has)["method"]
        for (name, has) in scrape(counters).samples
        if name == "http_requests_total" and ("code", "418") in has
    }
    return found


class TestText:
    def test_before_anything_is_counted_the_types_and_the_gauge_are_there(self) -> None:
        metrics = scrape(Counters(3))
        assert metrics.kinds == {
            "http_requests_total": "counter",
            "http_request_duration_seconds": "histogram",
            "http_requests_in_flight": "gauge",
        }
        assert metrics.samples == {("http_requests_in_flight", frozenset()): 0}

    @settings(max_examples=50)
    @given(st.lists(answers, max_size=40))
    def test_it_says_what_was_counted_whichever_worker_did(
        self, events: list[tuple[int, str, int, float]]
    ) -> None:
        counters = Counters(4)
        totals: Counter[tuple[str, int]] = Counter()
        below: Counter[tuple[str, int, float]] = Counter()
        sums: dict[tuple[str, int], float] = {}
        for slot, method, code, took in events:
            counters.slots[slot].begin()
            counters.slots[slot].end(method, code, took)
            totals[method, code] += 1
            sums[method, code] = sums.get((method, code), 0.0) + took
            for limit in LIMITS:
                below[method, code, limit] += took <= limit
        metrics = scrape(counters)
        assert metrics.total("http_requests_total") == len(events)
        duration = "http_request_duration_seconds"
        for (method, code), count in totals.items():
            has = labels(named(method), code)
            assert metrics.samples["http_requests_total", has] == count
            assert metrics.samples[f"{duration}_count", has] == count
            assert metrics.samples[f"{duration}_sum", has] == pytest.approx(
                sums[method, code], rel=1e-6, abs=1e-6
            )
            found = {
                float(dict(each)["le"].replace("Inf", "inf")): value
                for (name, each), value in metrics.samples.items()
                if name == f"{duration}_bucket" and has <= each
            }
            assert found.pop(float("inf")) == count
            assert found == {limit: below[method, code, limit] for limit in LIMITS}

    @pytest.mark.parametrize("status", [*http.HTTPStatus, 499])
    def test_every_status_that_can_be_answered_can_be_counted(self, status: int) -> None:
        counters = Counters(1)
        counters.slots[0].begin()
        counters.slots[0].end("POST", int(status), 0.1)
        assert scrape(counters).requests(code=str(int(status))) == 1

    def test_each_method_has_a_name_of_its_own(self) -> None:
        names = {named(method) for method in METHODS}
        assert len(names) == len(METHODS)

    @settings(max_examples=20)
    @given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ-", min_size=1, max_size=20))
    def test_methods_beyond_those_share_one_name(self, method: str) -> None:
        if method not in METHODS:
            assert named(method) == named("BREW")


class TestSlots:
    def test_what_is_in_flight_is_added_up(self) -> None:
        counters = Counters(3)
        for slot in (0, 0, 2):
            counters.slots[slot].begin()
        assert counters.in_flight == 3
        assert scrape(counters).in_flight == 3
        counters.slots[2].end("POST", 200, 0.0)
        assert scrape(counters).in_flight == 2

    def test_a_dead_worker_s_requests_are_given_up_and_its_counts_kept(self) -> None:
        counters = Counters(2)
        slot = counters.slots[1]
        for _ in range(3):
            slot.begin()
        slot.end("POST", 200, 0.2)
        counters.slots[0].begin()
        before = scrape(counters)
        assert slot.forget() == 2
        after = scrape(counters)
        assert after.in_flight == 1
        assert after.counters() == before.counters()
        assert slot.forget() == 0

    def test_what_forked_processes_count_is_seen_here(self) -> None:
        counters = Counters(3)
        children = []
        for index, slot in enumerate(counters.slots):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
                pid = os.fork()
            if pid == 0:
                for _ in range(100 * (index + 1)):
                    slot.begin()
                    slot.end("POST", 200, 0.001)
                slot.begin()
                os._exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        metrics = scrape(counters)
        assert metrics.requests(code="200") == 600
        assert metrics.in_flight == 3


class Workers(RuleBasedStateMachine):
    """Workers that begin, end and die, against a plain account of it."""

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        self.counters = Counters(count)
        self.serving = [0] * count
        self.answered = 0
        self.before = scrape(self.counters)

    def a_slot(self, number: int) -> int:
        return number % len(self.serving)

    @rule(number=st.integers(0, 3))
    def begin(self, number: int) -> None:
        self.counters.slots[self.a_slot(number)].begin()
        self.serving[self.a_slot(number)] += 1

    @precondition(lambda self: any(self.serving))
    @rule(
        data=st.data(), method=st.sampled_from(METHODS), code=st.sampled_from(CODES), took=seconds
    )
    def end(self, data: st.DataObject, method: str, code: int, took: float) -> None:
        busy = [index for index, count in enumerate(self.serving) if count]
        index = data.draw(st.sampled_from(busy))
        self.counters.slots[index].end(method, code, took)
        self.serving[index] -= 1
        self.answered += 1

    @rule(number=st.integers(0, 3))
    def die(self, number: int) -> None:
        index = self.a_slot(number)
        assert self.counters.slots[index].forget() == self.serving[index]
        self.serving[index] = 0

    @invariant()
    def the_text_agrees_and_no_counter_falls(self) -> None:
        metrics = scrape(self.counters)
        assert metrics.in_flight == sum(self.serving)
        assert metrics.requests() == self.answered
        now = metrics.counters()
        assert all(now[key] >= value for key, value in self.before.counters().items())
        self.before = metrics


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=25, stateful_step_count=20)
