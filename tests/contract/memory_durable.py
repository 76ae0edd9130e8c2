"""A durable layer in memory: what stands for its file outlives it, as a file outlives a process."""

from __future__ import annotations

import asyncio

from fnship.engine.durable import Again, Outstanding, Run

AFTER_ERROR = 5.0  # seconds


class MemoryDurable:
    """Keeps its promises in a dict that the next one can be given.

    Args:
        promises: When the next run of each key is due, by the loop's clock.
    """

    def __init__(self, promises: dict[str, float]) -> None:
        self._promises = promises
        self._run: Run | None = None
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, asyncio.Task[Again | None]] = {}
        self._closing = False

    async def open(self, run: Run) -> None:
        self._run = run
        for key in self._promises:
            self._keep(key)

    async def submit(self, key: str) -> None:
        if key not in self._promises:
            self._promises[key] = asyncio.get_running_loop().time()
            self._keep(key)

    async def cancel(self, key: str) -> None:
        self._promises.pop(key, None)
        keeper = self._keepers.get(key)
        if key in self._runs:
            self._runs[key].cancel()
        elif keeper is not None:
            keeper.cancel()

    async def outstanding(self) -> list[Outstanding]:
        return [Outstanding(key, running=key in self._runs) for key in self._promises]

    def hurry(self) -> None:
        for run in self._runs.values():
            run.cancel()

    async def close(self, grace: float) -> None:
        self._closing = True
        if self._runs:
            await asyncio.wait(self._runs.values(), timeout=grace)
        keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    def _keep(self, key: str) -> None:
        keeper = asyncio.get_running_loop().create_task(self._kept(key))
        self._keepers[key] = keeper

        def forget(done: asyncio.Task[None]) -> None:
            if self._keepers.get(key) is done:
                del self._keepers[key]

        keeper.add_done_callback(forget)

    async def _kept(self, key: str) -> None:
        loop = asyncio.get_running_loop()
        while key in self._promises and not self._closing:
            while (left := self._promises[key] - loop.time()) > 0:
                await asyncio.sleep(left)
            again = await self._made(key)
            if key not in self._promises:
                return
            if again is None:
                del self._promises[key]
            else:
                self._promises[key] = loop.time() + again.delay

    async def _made(self, key: str) -> Again | None:
        assert self._run is not None
        task = asyncio.ensure_future(self._run(key))
        self._runs[key] = task
        try:
            return await task
        except asyncio.CancelledError:
            if key in self._promises:
                raise
            return None
        except Exception:
            return Again(AFTER_ERROR)
        finally:
            del self._runs[key]
