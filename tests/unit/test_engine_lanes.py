"""Lanes: limits, order and fairness."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.engine.lanes import Lanes


def test_a_lane_lets_as_many_in_as_its_function_takes() -> None:
    lanes, came = Lanes(10), []
    for number in range(4):
        lanes.enter("f", 2, lambda number=number: came.append(number))
    assert came == [0, 1]
    assert (lanes.running, lanes.waiting) == (2, 2)
    lanes.leave("f")
    assert came == [0, 1, 2]


def test_functions_take_turns() -> None:
    lanes, came = Lanes(1), []
    lanes.enter("first", 9, lambda: None)
    for number in range(3):
        lanes.enter("long", 9, lambda number=number: came.append(("long", number)))
    lanes.enter("short", 9, lambda: came.append(("short", 0)))
    lanes.leave("first")
    for _ in range(3):
        lanes.leave(came[-1][0])
    assert came == [("long", 0), ("short", 0), ("long", 1), ("long", 2)]


def test_a_full_lane_does_not_hold_up_the_others() -> None:
    lanes, came = Lanes(3), []
    for number in range(3):
        lanes.enter("full", 1, lambda number=number: came.append(number))
    lanes.enter("free", 1, lambda: came.append("free"))
    assert came == [0, "free"]


def test_a_limit_that_is_raised_counts_at_once() -> None:
    lanes, came = Lanes(9), []
    lanes.enter("f", 1, lambda: came.append(1))
    lanes.enter("f", 1, lambda: came.append(2))
    lanes.enter("f", 3, lambda: came.append(3))
    assert came == [1, 2, 3]


async def _one(lanes: Lanes, function: str, inside: Counter[str], most: Counter[str]) -> None:
    await lanes.turn(function, 2)
    inside[function] += 1
    most[function] = max(most[function], inside[function])
    await asyncio.sleep(random.random() / 1000)
    inside[function] -= 1
    lanes.leave(function)


def test_nobody_is_forgotten_and_no_limit_is_passed() -> None:
    async def main() -> None:
        lanes, inside, most = Lanes(3), Counter[str](), Counter[str]()
        names = [random.choice("abc") for _ in range(200)]
        tasks = [asyncio.create_task(_one(lanes, name, inside, most)) for name in names]
        await asyncio.sleep(0.002)
        for task in random.sample(tasks, 50):
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(each is None or isinstance(each, asyncio.CancelledError) for each in done)
        assert max(most.values()) <= 2

    asyncio.run(main())


def test_a_turn_that_is_cancelled_gives_its_place_back() -> None:
    async def main() -> None:
        lanes = Lanes(1)
        await lanes.turn("f", 1)
        waiting = asyncio.create_task(lanes.turn("f", 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        lanes.leave("f")
        assert (lanes.running, lanes.waiting) == (0, 0)
        # And one that is cancelled in the very moment in which it got its place.
        await lanes.turn("f", 1)
        waiting = asyncio.create_task(lanes.turn("f", 1))
        await asyncio.sleep(0)
        lanes.leave("f")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert lanes.running == 0

    asyncio.run(main())


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3)), max_size=60), st.integers(1, 5)
)
def test_everybody_comes_in_the_end(entries: list[tuple[str, int]], limit: int) -> None:
    lanes, came = Lanes(limit), []
    for number, (function, allowed) in enumerate(entries):
        lanes.enter(function, allowed, lambda each=(number, function): came.append(each))
        assert lanes.running <= limit
    left = 0
    while left < len(came):
        lanes.leave(came[left][1])
        left += 1
        assert lanes.running <= limit
    assert sorted(number for number, _ in came) == list(range(len(entries)))
    for function in "abcd":
        order = [number for number, name in came if name == function]
        assert order == sorted(order)
    assert (lanes.running, lanes.waiting) == (0, 0)
