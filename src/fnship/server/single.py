"""One server process: uvicorn's server around our protocol, with a function's life in it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import uvicorn

from fnship.errors import UsageError
from fnship.server.asgi import ASGIFunction
from fnship.server.exchange import start_problem
from fnship.server.http import FunctionProtocol
from fnship.server.loop import run_loop
from fnship.server.sockets import while_wanted
from fnship.server.stopping import LAST_GRACE, STILL_BUSY_AFTER, Stopping, still_busy

__all__ = ["CONFIG", "WAIT_FOR_FIRST", "FunctionServer", "run_single"]

WAIT_FOR_FIRST: Final = 10.0  # seconds that a server that has started waits for `may_listen`
_LOOK_EVERY: Final = 0.1  # seconds between looks whether to stop
_KEEP_ALIVE: Final = 120  # seconds; longer than proxies keep idle connections (of-watchdog: 90)

CONFIG: Final[dict[str, Any]] = {
    "access_log": False,  # the application writes its own
    "http": FunctionProtocol,
    "interface": "asgi3",
    "lifespan": "off",  # so that readiness can be asked for while start() runs
    "log_config": None,
    "log_level": "error",
    "loop": "auto",
    "proxy_headers": False,
    "server_header": False,
    "timeout_keep_alive": _KEEP_ALIVE,
    "ws": "none",
}
"""How uvicorn is set up, alone and in a worker."""


class FunctionServer(uvicorn.Server):
    """Serves an `ASGIFunction` until a signal says stop.

    The first SIGTERM, SIGINT or SIGHUP drains: ready says no, what is in flight is finished, the
    log is delivered. `Stopping` says for how long it serves on before. As the watchdog itself, it
    gives what is in flight then ``write_timeout``. A second signal answers 503 to what is left
    and ends.

    Args:
        config: Made with `CONFIG`.
        function: What to serve.
        announce: Called when connections are accepted.
        started: Called when the function's ``start()`` is done.
        start_first: Whether ``start()`` comes before the first connection. Otherwise those
            that come while it runs are answered, with "starting".
        may_listen: Asked after such a start, for some seconds, whether to accept connections.
        must_stop: Asked now and then whether to stop without a signal: the process that looks
            after this one wants it to, or is gone.
        say: Called with what a person at the terminal should know.

    Attributes:
        problem: What ``start()`` raised, and where; None while all is well.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        function: ASGIFunction,
        *,
        announce: Callable[[], None] = lambda: None,
        started: Callable[[], None] = lambda: None,
        start_first: bool = False,
        may_listen: Callable[[], bool] = lambda: True,
        must_stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(config)
        self._started = started
        self._start_first = start_first
        self._may_listen = may_listen
        self._must_stop = must_stop
        self.problem: str | None = None
        self._function = function
        self._announce = announce
        self._say = say
        self._starting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._stopping = Stopping(function.settings)
        self._draining = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal says stop."""
        factory = self.config.get_loop_factory()
        run_loop(self.serve(sockets), factory, self._say, lambda: 1 if self.force_exit else 0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and start the function behind them or, if told so, before."""
        self._loop = asyncio.get_running_loop()
        self._function.open()
        if self._start_first:
            self._starting = self._loop.create_task(self._start_function())
            while not self._starting.done() and not self._asked_to_stop():
                await asyncio.wait((self._starting,), timeout=_LOOK_EVERY)
            if not self._starting.done() or self.problem is not None:
                await self._give_up_start()
                self.should_exit = True
                return
            looks = int(WAIT_FOR_FIRST / _LOOK_EVERY)
            while looks > 0 and not self._may_listen() and not self._asked_to_stop():
                looks -= 1
                await asyncio.sleep(_LOOK_EVERY)
        await super().startup(sockets)
        if self._function.watchdog is not None:
            await self._function.watchdog.open()
        self._announce()
        if not self._start_first:
            self._starting = self._loop.create_task(self._start_function())

    async def _start_function(self) -> None:
        try:
            await self._function.startup()
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the function did not start
            self.problem = start_problem(exc)
            self.should_exit = True
        else:
            # What is loaded by now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            self._started()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop now."""
        stop = await super().on_tick(counter)
        if stop or not self._asked_to_stop():
            return stop
        if not self._draining:
            self._draining = True
            self._function.draining = True
            if self._function.app is not None:
                self._function.app.drain()
        state = self.server_state
        return self._stopping.may_stop(busy=bool(state.tasks), served=state.total_requests)

    def _asked_to_stop(self) -> bool:
        if not self._stopping.asked and self._must_stop():
            self._stopping.take(signal.SIGTERM)
        return self._stopping.asked

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight, then stop the function."""
        assert self._loop is not None
        timers = [self._loop.call_later(STILL_BUSY_AFTER, self._tell_busy)]
        settings = self._function.settings
        if settings.native_watchdog and settings.write_timeout:
            timers.append(self._loop.call_later(settings.write_timeout, self._cut_off))
        try:
            await self._take_waiting(sockets or [])
            await super().shutdown(sockets)
        finally:
            for timer in timers:
                timer.cancel()
            if self._ending is not None:
                self._ending.cancel()
        if self._function.watchdog is not None:
            await self._function.watchdog.close()
        await self._give_up_start()
        if self._stopping.given_up:
            self._ending = self._loop.call_later(2 * LAST_GRACE, self._end_now)
        await self._stop_function(self._stopping.spent)
        if self._ending is not None:
            self._ending.cancel()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left and (await asyncio.wait(left, timeout=LAST_GRACE))[1]:
            self._end_now()

    async def _take_waiting(self, sockets: list[socket.socket]) -> None:
        """Cease to listen; those who have connected by now are still served."""
        assert self._loop is not None
        listeners = [each.dup() for each in sockets]  # a server that is closed closes its own
        for server in self.servers:
            server.close()
        for listener in listeners:
            with listener:
                for _ in while_wanted(listener):
                    with contextlib.suppress(OSError):  # another worker was faster, or it is gone
                        connection, _ = listener.accept()
                        connection.setblocking(False)
                        await self._loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn calls it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _give_up_start(self) -> None:
        """End ``start()``, or the process where it takes no notice of being cancelled."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,), timeout=LAST_GRACE)
            if not self._starting.done():
                self._end_now()

    async def _stop_function(self, spent: float) -> None:
        """Stop the function; where there is more to stop, that comes after it."""
        await self._function.shutdown(spent)

    def _cut_off(self) -> None:
        """Give up what is in flight, and everything if that does not help in time."""
        assert self._loop is not None
        for connection in list(self.server_state.connections):
            if (cut_off := getattr(connection, "cut_off", None)) is not None:
                cut_off()
        self._ending = self._loop.call_later(LAST_GRACE, self._end_now)

    def _end_now(self) -> None:
        """End the process although a handler takes no notice of being cancelled."""
        self._say("what is still running does not end; the process ends without it")
        sys.stdout.flush()
        os._exit(1 if self.force_exit else 0)

    def _tell_busy(self) -> None:
        count = len(self.server_state.tasks)
        if count:
            self._say(still_busy(count))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's
        """Take a signal."""
        if self._stopping.take(sig):
            self.should_exit = self.force_exit = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cut_off)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals for as long as this holds; a drained server ends with status 0."""
        handled = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP"):
            handled.append(signal.SIGHUP)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in handled}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def run_single(
    function: ASGIFunction,
    listener: socket.socket,
    *,
    announce: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Serve in this very process until a signal says stop.

    Raises:
        UsageError: The function's ``start()`` failed.
    """
    config = uvicorn.Config(function, **CONFIG)
    server = FunctionServer(config, function, announce=announce, say=say)
    server.run([listener])
    if server.problem is not None:
        raise UsageError(server.problem)
