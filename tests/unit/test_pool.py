from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_process import until

from fnship.function.pool import PoolFull, ThreadPool

WITHIN = 30.0


@contextmanager
def pool(threads: int, waiting: int) -> Iterator[ThreadPool]:
    made = ThreadPool(asyncio.get_running_loop(), threads, waiting, name="test-pool")
    try:
        yield made
    finally:
        made.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(WITHIN):
            await scenario()

    asyncio.run(limited())
    until(lambda: not any(each.name.startswith("test-pool") for each in threading.enumerate()))


def test_values_and_errors() -> None:
    async def scenario() -> None:
        with pool(2, 2) as threads:
            assert await threads.submit(divmod, 7, 2) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await threads.submit(divmod, 7, 0)
            assert threads.unfinished == 0

    run(scenario)


class Ends(BaseException):
    pass


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Ends()])
def test_no_exception_ends_a_thread(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def scenario() -> None:
        with pool(1, 1) as threads:
            with pytest.raises(type(error)):
                await threads.submit(fail)
            assert await threads.submit(int, "5") == 5

    run(scenario)


@pytest.mark.parametrize("error", [StopIteration("done"), GeneratorExit("done")])
def test_what_a_coroutine_cannot_carry_is_wrapped(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def scenario() -> None:
        with pool(1, 1) as threads:
            with pytest.raises(RuntimeError, match=f"{type(error).__name__}: done") as caught:
                await threads.submit(fail)
            assert "fail" in [each.name for each in caught.traceback]
            assert await threads.submit(int, "5") == 5

    run(scenario)


def test_context_variables_are_carried_in_and_not_out() -> None:
    variable = contextvars.ContextVar("variable", default="none")

    def read_and_set() -> str:
        found = variable.get()
        variable.set("changed in the thread")
        return found

    async def one(value: str, threads: ThreadPool) -> None:
        variable.set(value)
        assert await threads.submit(read_and_set) == value
        assert variable.get() == value

    async def scenario() -> None:
        with pool(2, 20) as threads:
            await asyncio.gather(*(one(str(number), threads) for number in range(20)))
            assert await threads.submit(variable.get) == "none"

    run(scenario)


def test_full() -> None:
    async def scenario() -> None:
        held = threading.Event()
        with pool(2, 1) as threads:
            busy = [threads.submit(held.wait, WITHIN) for _ in range(3)]
            assert threads.unfinished == 3
            with pytest.raises(PoolFull):
                threads.submit(int)
            held.set()
            assert all(await asyncio.gather(*busy))
            assert await threads.submit(int, "1") == 1

    run(scenario)


def test_no_queue_at_all() -> None:
    async def scenario() -> None:
        held = threading.Event()
        with pool(1, 0) as threads:
            busy = threads.submit(held.wait, WITHIN)
            with pytest.raises(PoolFull):
                threads.submit(int)
            held.set()
            await busy
            assert await threads.submit(int, "1") == 1

    run(scenario)


def test_a_call_that_is_cancelled_while_it_waits_never_runs() -> None:
    ran: list[str] = []

    async def scenario() -> None:
        held = threading.Event()
        with pool(1, 2) as threads:
            busy = threads.submit(held.wait, WITHIN)
            waiting = threads.submit(ran.append, "cancelled")
            last = threads.submit(ran.append, "last")
            assert waiting.cancel()
            held.set()
            await busy
            await last
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert threads.unfinished == 0

    run(scenario)
    assert ran == ["last"]


def test_a_call_that_is_cancelled_while_it_runs_frees_its_thread() -> None:
    async def scenario() -> None:
        held, started = threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            held.wait(WITHIN)

        with pool(1, 1) as threads:
            busy = threads.submit(work)
            await asyncio.to_thread(started.wait, WITHIN)
            busy.cancel()
            assert threads.unfinished == 1
            held.set()
            assert await threads.submit(int, "2") == 2
            assert threads.unfinished == 0

    run(scenario)


def test_the_loop_goes_on_while_threads_block() -> None:
    async def scenario() -> None:
        held = threading.Event()
        with pool(2, 10) as threads:
            busy = [threads.submit(held.wait, WITHIN) for _ in range(6)]
            for _ in range(50):
                await asyncio.sleep(0)
            assert not any(each.done() for each in busy)
            held.set()
            await asyncio.gather(*busy)

    run(scenario)


def test_threads_are_started_as_they_are_needed_and_no_more() -> None:
    def names() -> set[str]:
        return {each.name for each in threading.enumerate() if each.name.startswith("test-pool")}

    async def scenario() -> None:
        with pool(3, 100) as threads:
            assert names() == set()
            for _ in range(5):
                await threads.submit(int)
            assert names() == {"test-pool-1"}
            held = threading.Event()
            busy = [threads.submit(held.wait, WITHIN) for _ in range(50)]
            assert names() == {"test-pool-1", "test-pool-2", "test-pool-3"}
            held.set()
            await asyncio.gather(*busy)
            assert all(each.daemon for each in threading.enumerate() if each.name in names())

    run(scenario)


def test_closed() -> None:
    async def scenario() -> None:
        with pool(1, 1) as threads:
            await threads.submit(int)
        with pytest.raises(PoolFull):
            threads.submit(int)

    run(scenario)


def test_what_runs_when_the_loop_is_closed_is_abandoned() -> None:
    held = threading.Event()

    async def scenario() -> None:
        with pool(2, 2) as threads:
            threads.submit(held.wait, WITHIN)
            threads.submit(held.wait, WITHIN)

    asyncio.run(scenario())
    held.set()  # both threads end without anybody to tell
    until(lambda: not any(each.name.startswith("test-pool") for each in threading.enumerate()))


@settings(max_examples=25)
@given(
    st.integers(1, 4),
    st.lists(st.sampled_from(["value", "error", "cancel"]), max_size=40),
)
def test_every_call_ends_in_its_own_way(threads: int, kinds: list[str]) -> None:
    ran: list[int] = []

    def work(number: int, kind: str) -> int:
        ran.append(number)
        if kind == "error":
            raise ValueError(number)
        return number

    async def scenario() -> None:
        with pool(threads, len(kinds)) as made:
            futures = [made.submit(work, *each) for each in enumerate(kinds)]
            cancelled = {
                number
                for number, kind in enumerate(kinds)
                if kind == "cancel" and futures[number].cancel()
            }
            ends = await asyncio.gather(*futures, return_exceptions=True)
            for number, (kind, end) in enumerate(zip(kinds, ends, strict=True)):
                if number in cancelled:
                    assert isinstance(end, asyncio.CancelledError)
                elif kind == "error":
                    assert repr(end) == f"ValueError({number})"
                else:
                    assert end == number
            assert await made.submit(int, "9") == 9
            assert made.unfinished == 0
            assert set(range(len(kinds))) - cancelled <= set(ran)
            assert len(ran) == len(set(ran))

    run(scenario)
