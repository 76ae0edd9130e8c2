"""An image, run with Docker or Podman for as long as the engine runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from fnship.engine.model import Resources
from fnship.engine.runners.runner import Place, Runner, Unready
from fnship.errors import InvalidRequest, Overloaded, UsageError
from fnship.image.container import Builder, Image, find_builder
from fnship.image.reference import check_reference
from fnship.image.running import (
    RUNNERS,
    Container,
    Limits,
    bridge_address,
    container_port,
    remove_all,
    start,
    stop_grace,
)

__all__ = ["Containers", "ImageRunner"]

P = ParamSpec("P")
T = TypeVar("T")

_LABEL: Final = "fnship.engine"
_READY_WITHIN: Final = 120.0  # seconds
_STILL_WITHIN: Final = 5.0  # seconds for one that ran to be ready, or to be seen to have ended
_KEPT_OUTPUT: Final = "10m"  # of a container that runs for months


_threads: Final = ThreadPoolExecutor(16, "fnship-containers")
"""Not those of the event loop, which must not wait for as long as a container may take."""


class Containers:
    """What the containers of one engine have in common.

    Args:
        kind: One of `RUNNERS`, which starts them; None for the one that is there.
        owner: What they are marked with, so that this engine's are found again.
        reach: Given the address by which containers know this machine; gives the URL at which
            they reach the engine, and raises an `EngineError` where there can be none.
    """

    def __init__(
        self, kind: str | None, owner: str, reach: Callable[[str], Awaitable[str]]
    ) -> None:
        self.label = f"{_LABEL}={owner}"
        self._kind = kind
        self._reach = reach
        self._swept = False
        self._sweeping = asyncio.Lock()

    async def check(self, image: str, resources: Resources) -> None:
        """See that an image is here, and can be run.

        Raises:
            InvalidRequest: It is not, or cannot; says what to do.
        """
        try:
            check_reference("the image", image)
            Limits(memory=resources.memory, cpus=resources.cpus).check()
            await self.known(await self.builder(), image)
        except UsageError as exc:
            raise InvalidRequest(str(exc)) from exc

    async def builder(self) -> Builder:
        """What starts containers. Those that an engine before this one left are gone then.

        Raises:
            UsageError: There is none.
        """
        builder = await _in_thread(find_builder, self._kind, os.environ, of=RUNNERS)
        async with self._sweeping:
            if not self._swept:
                await _in_thread(remove_all, builder, self.label)
                self._swept = True
        return builder

    async def known(self, builder: Builder, image: str) -> Image:
        """What is known of an image.

        Raises:
            UsageError: It is not here.
        """
        found = await _in_thread(builder.inspect, image)
        if found is None:
            raise UsageError(
                f"{builder.kind} has no image {image} here. Get it first: {builder.kind} pull "
                f"{image}, or build it: fnship build -t {image}"
            )
        return found

    async def endpoint(self, builder: Builder) -> str:
        """Where a container of `builder` reaches the engine.

        Raises:
            EngineError: Nowhere; says what to do.
            UsageError: What starts containers does not tell.
        """
        return await self._reach(await _in_thread(bridge_address, builder))


class ImageRunner(Runner):
    """Runs one container of an image, with limits, and with nothing that it may do as root.

    Args:
        image: Its name.
        resources: What the container may use.
        containers: What it has in common with others.
        on_line: Told each line that the container writes.
    """

    def __init__(
        self,
        image: str,
        resources: Resources,
        containers: Containers,
        on_line: Callable[[str], None],
    ) -> None:
        super().__init__(on_line)
        self._image = image
        self._limits = Limits(memory=resources.memory, cpus=resources.cpus)
        self._containers = containers
        self._container: Container | None = None
        self._doubted: Place | None = None
        self._endpoint = ""
        self._follower: asyncio.subprocess.Process | None = None
        self._grace = 0.0
        self._image_id = ""

    def _runs(self) -> bool:
        return self._follower is not None and self._follower.returncode is None

    def doubt(self, place: Place) -> None:
        """Have it seen before the next call whether the container still runs.

        What follows its output hears of its end a moment after its connections do.
        """
        if place is self._place:
            self._place, self._doubted = None, place

    async def _begin(self) -> Place:
        doubted, self._doubted = self._doubted, None
        if doubted is not None and await self._still_serves(doubted):
            self._place = doubted
            return doubted
        return await super()._begin()

    async def _still_serves(self, place: Place) -> bool:
        try:
            async with asyncio.timeout(_STILL_WITHIN):
                return await self._until_ready(place.url)
        except TimeoutError:
            return True  # it runs, and has no time to say so
        except Unready:
            return False

    async def is_current(self) -> bool:
        """Whether the image that has the name now is the one that runs."""
        if not self._image_id:
            return True
        try:
            builder = await self._containers.builder()
            image = await self._containers.known(builder, self._image)
        except UsageError:
            return False
        return image.id == self._image_id

    async def _start(self) -> None:
        builder = await self._containers.builder()
        image = await self._containers.known(builder, self._image)
        self._image_id = image.id
        self._grace = stop_grace(image.env)
        container = await self._create(builder, image.env)
        # The network's address is there as soon as a container is on it.
        self._endpoint = await self._containers.endpoint(builder)
        self._follower = follower = await asyncio.create_subprocess_exec(
            *container.logs_command,
            env=dict(builder.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
            start_new_session=True,  # Ctrl-C is for the engine, which stops the container itself
        )
        self._listen_to(follower)

    async def _find(self) -> Place:
        container = self._container
        assert container is not None
        try:
            async with asyncio.timeout(_READY_WITHIN):
                if await self._until_ready(container.url):
                    return Place(container.url, self._endpoint)
        except TimeoutError:
            raise Overloaded(f"{self._image} was not ready within {_READY_WITHIN:g} s") from None
        await asyncio.wait(self._readers)
        raise Overloaded(f"{self._image} does not start: {await self._why(container)}")

    async def _create(self, builder: Builder, env: Mapping[str, str]) -> Container:
        creating = asyncio.create_task(
            _in_thread(
                start,
                builder,
                self._image,
                port=0,
                inner_port=container_port(env),
                limits=self._limits,
                grace=self._grace,
                label=self._containers.label,
                kept_output=_KEPT_OUTPUT,
            )
        )
        try:
            self._container = await asyncio.shield(creating)
        except asyncio.CancelledError:
            self._container = await creating  # the thread goes on; what it makes is stopped
            raise
        return self._container

    async def _why(self, container: Container) -> str:
        ended = await _in_thread(container.ended)
        if ended is not None and ended.out_of_memory:
            return f"it needed more than {self._limits.memory} of memory, and was killed"
        status = f" (status {ended.status})" if ended is not None else ""
        return f"{self._last_words()}{status}"

    async def _stop(self, patience: float) -> None:
        container, self._container = self._container, None
        follower, self._follower = self._follower, None
        if container is not None:
            try:
                await _in_thread(container.stop, max(self._grace, patience))
            finally:
                await _in_thread(container.remove)
        if follower is not None:
            await follower.wait()


async def _in_thread(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, partial(call, *arguments, **options))
