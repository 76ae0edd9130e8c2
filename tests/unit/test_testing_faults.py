from __future__ import annotations

from fnship.testing import Fault, FaultPlan
from fnship.testing.http import Answer


def statuses(plan: FaultPlan, count: int, method: str = "POST") -> list[int | None]:
    faults = [plan.next(method) for _ in range(count)]
    return [fault.status if fault is not None else None for fault in faults]


def test_nothing_goes_wrong_by_itself() -> None:
    assert FaultPlan().next("GET") is None


def test_faults_are_used_up_in_order() -> None:
    plan = FaultPlan()
    plan.fail(500, times=2)
    plan.redirect("http://elsewhere", times=1)
    plan.fail(503, times=1)
    assert statuses(plan, 5) == [500, 500, 307, 503, None]


def test_without_a_number_they_last_until_cleared() -> None:
    plan = FaultPlan()
    plan.fail(502)
    assert statuses(plan, 20) == [502] * 20
    plan.clear()
    assert statuses(plan, 1) == [None]


def test_delays_come_on_top() -> None:
    plan = FaultPlan()
    plan.delay(1.0, times=2)
    plan.delay(0.5, times=1)
    plan.fail(500, times=1)
    assert [plan.next("GET") for _ in range(3)] == [
        Fault(delay=1.5, status=500),
        Fault(delay=1.0),
        None,
    ]


def test_a_delay_of_nothing_uses_up_no_other_fault() -> None:
    plan = FaultPlan()
    plan.delay(0)
    plan.fail(500, times=1)
    assert statuses(plan, 2) == [500, None]


def test_a_share_is_the_same_share_for_the_same_seed() -> None:
    plans = [FaultPlan(), FaultPlan()]
    for plan in plans:
        plan.random(rate=0.3, status=503, seed=7)
    first, second = (statuses(plan, 1000) for plan in plans)
    assert first == second
    assert 200 < first.count(503) < 400
    assert first.count(None) == 1000 - first.count(503)


def test_a_rate_of_one_hits_all_and_of_none_none() -> None:
    plan = FaultPlan()
    plan.random(rate=0.0)
    plan.random(rate=1.0, times=3)
    assert statuses(plan, 4) == [500, 500, 500, None]


def test_only_requests_of_a_method() -> None:
    plan = FaultPlan()
    plan.fail(409, times=1, method="PUT")
    assert statuses(plan, 3, "GET") == [None] * 3
    assert statuses(plan, 2, "PUT") == [409, None]


def test_dropped_requests_are_carried_out_when_asked_and_when_the_client_sees_a_success() -> None:
    plan = FaultPlan()
    plan.drop(1)
    plan.drop(1, stored=True)
    plan.drop(1, where="body")
    for carried_out, where in ((False, "status"), (True, "status"), (True, "body")):
        done = []
        fault = plan.next("POST")
        assert fault is not None
        answer = fault.answer(lambda: done.append(1) or Answer(200))  # noqa: B023
        assert answer.cut == where
        assert bool(done) is carried_out


def test_an_answer_of_the_tests_own() -> None:
    plan = FaultPlan()
    plan.fail(200, body=b"rubbish")
    fault = plan.next("GET")
    assert fault is not None
    answer = fault.answer(lambda: Answer(404))
    assert (answer.status, answer.body) == (200, b"rubbish")
