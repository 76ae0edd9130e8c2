"""What keeps a function running: when it is started, for whom, and what comes of a failure."""

from __future__ import annotations

import asyncio

import pytest

from fnship.engine.runners.runner import Place, Runner, Unready
from fnship.errors import Overloaded, UsageError


class Counting(Runner):
    """Starts when it is let to, or fails as it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__(lambda line: None)
        self.gate = asyncio.Event()
        self.failure = failure
        self.starts = 0
        self.asked = 0
        self.stops = 0
        self.runs = False

    def doubt(self, place: Place) -> None: ...

    def _runs(self) -> bool:
        return self.runs

    async def _start(self) -> None:
        self.starts += 1
        await self.gate.wait()
        self.runs = True

    async def _find(self) -> Place:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return Place(f"http://start-{self.starts}")

    async def _stop(self, patience: float) -> None:
        self.stops += 1
        self.runs = False


def test_one_start_is_for_all_and_outlives_who_asked_first() -> None:
    async def main() -> None:
        runner = Counting()
        first, second = (asyncio.create_task(runner.place()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        runner.gate.set()
        assert (await second).url == "http://start-1"
        assert (await runner.place()).url == "http://start-1"
        assert runner.starts == 1
        await runner.close()
        assert not runner.runs

    asyncio.run(main())


def test_it_is_started_again_when_it_has_died() -> None:
    async def main() -> None:
        runner = Counting()
        runner.gate.set()
        await runner.place()
        runner.runs = False
        assert (await runner.place()).url == "http://start-2"

    asyncio.run(main())


@pytest.mark.parametrize("failure", [Overloaded("no"), UsageError("no"), OSError("no")])
def test_a_start_that_fails_is_not_tried_again_at_once(failure: Exception) -> None:
    async def main() -> None:
        runner = Counting(failure)
        runner.gate.set()
        for _ in range(3):
            with pytest.raises(Overloaded, match="no"):
                await runner.place()
        assert runner.starts == 1
        runner._failed_at -= 1.0  # a second has gone by
        runner.failure = None
        assert (await runner.place()).url == "http://start-2"

    asyncio.run(main())


def test_a_start_that_nobody_waits_for_any_more_may_fail() -> None:
    async def main() -> None:
        runner = Counting(Overloaded("no"))
        asking = asyncio.create_task(runner.place())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        runner.gate.set()
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="no"):
            await runner.place()
        assert runner.starts == 1

    asyncio.run(main())


def test_closing_ends_a_start() -> None:
    async def main() -> None:
        runner = Counting()
        asking = asyncio.create_task(runner.place())
        while not runner.starts:
            await asyncio.sleep(0)
        await runner.close()
        for late in (asking, runner.place()):  # neither of which was cancelled itself
            with pytest.raises(Overloaded, match="changed or removed"):
                await late
        assert (runner.starts, runner.runs) == (1, False)
        assert runner.stops >= 1

    asyncio.run(main())


def test_one_who_waits_is_cancelled_for_good() -> None:
    async def main() -> None:
        runner = Counting()
        asking = asyncio.create_task(runner.place())
        while not runner.starts:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await runner.close()

    asyncio.run(main())


def test_what_cannot_serve_yet_is_asked_again_and_not_started_again() -> None:
    async def main() -> None:
        runner = Counting(Unready("a syntax error"))
        runner.gate.set()
        for _ in range(2):
            with pytest.raises(Overloaded, match="a syntax error"):
                await runner.place()
        runner.failure = None
        assert (await runner.place()).url == "http://start-1"
        assert (runner.starts, runner.asked) == (1, 3)

    asyncio.run(main())
