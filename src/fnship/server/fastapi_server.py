"""FastAPI applications on uvicorn's own protocol: as many promises of ours as it can keep."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fnship.errors import UsageError
from fnship.function.invocation import Cancelled
from fnship.server.asgi import ASGIFunction, Holder, held_by
from fnship.server.exchange import Exchange
from fnship.server.fastapi import CONNECTION, FunctionAPI
from fnship.server.limited import LimitedProtocol
from fnship.server.single import CONFIG, FunctionServer
from fnship.server.stopping import ARRIVAL_GRACE, IDLE_GRACE, LAST_GRACE

if TYPE_CHECKING:
    from fnship.server.watchdog import WatchdogShare

__all__ = ["APIProtocol", "APIServer", "run_single", "run_workers"]

_LOOK_EVERY: Final = 0.1  # seconds between looks whether to stop


class APIProtocol(LimitedProtocol):
    """Uvicorn's own protocol, made to keep what ours promises of clients that leave or linger.

    Attributes:
        exchange: What runs for the client; set by the application.
        is_cut_off: Whether the server has given up what runs.
    """

    exchange: Exchange | None = None
    is_cut_off = False

    def on_message_begin(self) -> None:
        """Let the application say what runs for this request."""
        super().on_message_begin()
        extensions: dict[str, Any] = {CONNECTION: self}
        self.scope["extensions"] = extensions

    def on_headers_complete(self) -> None:
        """Begin to answer; the last time on this connection, where the server is about to go."""
        super().on_headers_complete()
        api: FunctionAPI = self.config.app  # type: ignore[assignment] # ours is nothing else
        if api.function.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        if self.exchange is not None:
            self.exchange.gone = True
            self.exchange.cancel(Cancelled.CLIENT_GONE)

    def shutdown(self) -> None:
        """End after what has arrived, or is about to, is answered. The server calls this."""
        if self.cycle is not None:
            self.cycle.keep_alive = False
        self.loop.call_later(IDLE_GRACE, self._close_if, self._is_idle)
        self.loop.call_later(ARRIVAL_GRACE, self._close_if, self._is_incomplete)

    def _close_if(self, condition: Callable[[], bool]) -> None:
        if condition():
            self.transport.close()

    def _is_idle(self) -> bool:
        """Whether nothing is due on this connection, and nothing has begun to arrive."""
        cycle: RequestResponseCycle | None = self.cycle
        return not self.in_head and (cycle is None or cycle.response_complete)

    def _is_incomplete(self) -> bool:
        """Whether a request has begun to arrive and is not whole."""
        cycle: RequestResponseCycle | None = self.cycle
        return self.in_head or (
            cycle is not None and cycle.more_body and not cycle.response_started
        )

    def cut_off(self) -> None:
        """Cancel what runs; its answer says that the server is going. The server calls this."""
        self.is_cut_off = True
        if self.exchange is not None:
            self.exchange.cancel(Cancelled.SHUTDOWN)


class APIServer(FunctionServer):
    """Serves a `FunctionAPI`, whose own lifespan goes around the function's.

    Args:
        config: Made with `API_CONFIG`.
        api: What to serve.
        **hooks: As for `FunctionServer`.
    """

    def __init__(self, config: uvicorn.Config, api: FunctionAPI, **hooks: Any) -> None:
        super().__init__(config, api.function, **hooks)
        api.served = True
        self._own = _Lifespan(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin the application's lifespan, then as any server of ours."""
        beginning = asyncio.create_task(self._own.startup())
        while not beginning.done() and not self._asked_to_stop():
            await asyncio.wait((beginning,), timeout=_LOOK_EVERY)
        if not beginning.done() or self._own.should_exit:
            self.problem = self._own.problem if beginning.done() else None
            self.should_exit = True
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=LAST_GRACE)
            return
        self.lifespan.state.update(self._own.state)
        await super().startup(sockets)
        if not self.started:
            await self._own.shutdown()

    async def _stop_function(self, spent: float) -> None:
        await super()._stop_function(spent)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._own.shutdown(), LAST_GRACE if self.force_exit else None)


class _Lifespan(LifespanOn):
    """Uvicorn's driver of a lifespan, but a failure to start becomes one clear line."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.problem = "the application's lifespan failed"
        self.logger = logging.Logger("fnship.lifespan", logging.CRITICAL + 1)  # says nothing

    async def send(self, message: Any) -> None:
        """Take what the application says of its lifespan."""
        if message["type"] == "lifespan.startup.failed":
            self.problem = _last_of(message.get("message", "")) or self.problem
        elif message["type"] == "lifespan.startup.complete":
            self.logger = logging.getLogger("uvicorn.error")
        await super().send(message)


API_CONFIG: Final[dict[str, Any]] = {**CONFIG, "http": APIProtocol, "ws": "auto"}
"""How uvicorn is set up, alone and in a worker."""


def run_single(
    served: ASGIFunction | Holder,
    listener: socket.socket,
    *,
    announce: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Serve in this very process; see `fnship.server.single.run_single`."""
    api = held_by(FunctionAPI, served)
    server = APIServer(uvicorn.Config(api, **API_CONFIG), api, announce=announce, say=say)
    server.run(sockets=[listener])
    if server.problem is not None:
        raise UsageError(server.problem)


def run_workers(
    load: Callable[[], ASGIFunction | Holder],
    listener: socket.socket,
    count: int,
    share: WatchdogShare | None,
    *,
    greeting: str,
    say: Callable[[str], None],
) -> None:
    """Serve in `count` processes; see `fnship.server.workers.run_workers`."""
    from fnship.server import workers

    class Worker(workers.FunctionWorker):
        CONFIG_KWARGS = API_CONFIG
        SERVER = APIServer

    workers.run_workers(
        lambda: held_by(FunctionAPI, load()),
        listener,
        count,
        share,
        greeting=greeting,
        say=say,
        worker=Worker,
    )


def _last_of(traceback: str) -> str:
    """Where an exception came from and what it says, from the text of its traceback."""
    places = re.findall(r'^  File "(.+)", line (\d+)', traceback, re.MULTILINE)
    lines = traceback.strip().splitlines()
    if not places or not lines:
        return ""
    file, line = places[-1]
    return f"{file}:{line}: the application's lifespan failed with {lines[-1]}"
