"""What every durable layer does: the one in memory, and the one on DBOS."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from durable_play import play, until
from memory_durable import MemoryDurable

from fnship.engine.durable import Again, Durable, Outstanding, Run
from fnship.engine.durable.dbos import DBOSDurable

Make = Callable[[], Durable]
"""Another durable layer on the same file, as the next process would have it."""


@pytest.fixture(params=["memory", "dbos"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    promises: dict[str, float] = {}
    if request.param == "memory":
        return lambda: MemoryDurable(promises)
    return lambda: DBOSDurable(tmp_path / "durable.sqlite")


@contextlib.asynccontextmanager
async def opened(make: Make, run: Run, grace: float = 2.0) -> AsyncIterator[Durable]:
    durable = make()
    await durable.open(run)
    try:
        yield durable
    finally:
        await durable.close(grace)


async def until_outstanding(durable: Durable, expected: list[Outstanding]) -> None:
    while await durable.outstanding() != expected:
        await asyncio.sleep(0.01)


async def never(key: str) -> None:
    raise AssertionError(f"{key} was run")


def test_a_promise_is_kept_and_the_key_may_come_again(make: Make) -> None:
    async def main() -> None:
        seen: list[str] = []

        async def run(key: str) -> None:
            seen.append(key)

        async with opened(make, run) as durable:
            for count in (1, 2):
                await durable.submit("a")
                await until(lambda count=count: len(seen) == count)
                await until_outstanding(durable, [])
        async with opened(make, never) as durable:
            assert await durable.outstanding() == []

    play(main)


def test_runs_of_one_key_do_not_overlap(make: Make) -> None:
    async def main() -> None:
        running, most = 0, 0
        finish = asyncio.Event()

        async def run(_: str) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await finish.wait()
            running -= 1

        async with opened(make, run) as durable:
            await durable.submit("a")
            await until(lambda: running)
            await durable.submit("a")
            await asyncio.sleep(0.1)
            finish.set()
            await until_outstanding(durable, [])
        assert most == 1

    play(main)


def test_again_is_never_early(make: Make) -> None:
    async def main() -> None:
        began: list[float] = []

        async def run(_: str) -> Again | None:
            began.append(time.monotonic())
            return Again(0.3) if len(began) < 3 else None

        async with opened(make, run) as durable:
            await durable.submit("a")
            await until(lambda: len(began) == 3)
        assert all(after - before >= 0.3 for before, after in itertools.pairwise(began))

    play(main)


def test_cancel_reaches_a_run_in_progress(make: Make) -> None:
    async def main() -> None:
        began, cut = asyncio.Event(), asyncio.Event()

        async def run(_: str) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cut.set()
                raise

        async with opened(make, run) as durable:
            await durable.submit("a")
            await began.wait()
            await durable.cancel("a")
            await cut.wait()
            await until_outstanding(durable, [])
        async with opened(make, never) as durable:
            assert await durable.outstanding() == []

    play(main)


def test_cancel_of_what_waits_and_of_what_nobody_knows(make: Make) -> None:
    async def main() -> None:
        began: list[str] = []

        async def run(key: str) -> Again:
            began.append(key)
            return Again(1.5)

        async with opened(make, run) as durable:
            await durable.submit("a")
            await until(lambda: began)
            await until_outstanding(durable, [Outstanding("a", running=False)])
            await durable.cancel("a")
            await durable.cancel("b")
            assert await durable.outstanding() == []
            await asyncio.sleep(2.0)
            assert began == ["a"]

    play(main)


def test_what_a_close_cuts_short_is_run_by_the_next(make: Make) -> None:
    async def main() -> None:
        began = asyncio.Event()
        seen: list[str] = []

        async def stuck(_: str) -> None:
            began.set()
            await asyncio.Event().wait()

        async def run(key: str) -> None:
            seen.append(key)

        async with opened(make, stuck, grace=0.05) as durable:
            await durable.submit("a")
            await began.wait()
        async with opened(make, run) as durable:
            await until_outstanding(durable, [])
        assert seen == ["a"]

    play(main)


def test_who_is_in_a_hurry_does_not_wait_for_runs(make: Make) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def stuck(_: str) -> None:
            began.set()
            await asyncio.Event().wait()

        async with opened(make, stuck, grace=3600) as durable:
            await durable.submit("a")
            await began.wait()
            asyncio.get_running_loop().call_later(0.1, durable.hurry)
        seen: list[str] = []

        async def run(key: str) -> None:
            seen.append(key)

        async with opened(make, run) as durable:
            await until_outstanding(durable, [])
        assert seen == ["a"]

    play(main)


def test_what_waits_over_a_close_is_not_early(make: Make) -> None:
    async def main() -> None:
        asked: list[float] = []
        began: list[float] = []

        async def first(_: str) -> Again:
            asked.append(time.monotonic())
            return Again(1.0)

        async def run(_: str) -> None:
            began.append(time.monotonic())

        async with opened(make, first) as durable:
            await durable.submit("a")
            await until(lambda: asked)
            await until_outstanding(durable, [Outstanding("a", running=False)])
        async with opened(make, run) as durable:
            await until_outstanding(durable, [])
        assert len(began) == 1
        assert began[0] - asked[0] >= 1.0

    play(main)


def test_a_run_that_raises_is_still_promised(make: Make) -> None:
    async def main() -> None:
        began: list[str] = []

        async def run(key: str) -> None:
            began.append(key)
            raise ZeroDivisionError

        async with opened(make, run) as durable:
            await durable.submit("a")
            await until(lambda: began)
            await until_outstanding(durable, [Outstanding("a", running=False)])

    play(main)
