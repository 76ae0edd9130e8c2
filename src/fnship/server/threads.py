"""A function for servers that have threads and no event loop: it brings its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from fnship import contract
from fnship.function.invocation import Cancelled
from fnship.server.asgi import ASGIFunction
from fnship.server.exchange import Exchange, Response, error_response, start_problem
from fnship.server.stopping import LAST_GRACE

__all__ = ["BackgroundFunction"]

T = TypeVar("T")


class BackgroundFunction:
    """Runs a function on an event loop in a thread of its own.

    The server's threads hand their requests over and wait. An async handler runs on the loop and
    a plain one in the function's pool, not in the thread that waits: that one must be free to
    answer when the deadline passes, whatever the handler does. Context variables of the waiting
    thread, such as a framework's current request, are seen by the handler either way.

    Use it in the process that serves, not before a fork.

    Args:
        function: What to run.
    """

    def __init__(self, function: ASGIFunction) -> None:
        self.function = function
        self._first = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting: asyncio.Task[None] | None = None
        self._waiting: dict[Exchange, _Waiter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop; call it from other threads with ``call_soon_threadsafe`` only."""
        assert self._loop is not None
        return self._loop

    def open(
        self,
        *,
        started: Callable[[], object] = lambda: None,
        failed: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Begin to start the function; until that is done it answers "starting".

        Args:
            started: Called on the event loop when it is done.
            failed: Called there with what is wrong, where the function does not start.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_run, args=(self._loop,), name="fnship-loop", daemon=True
        )
        self._thread.start()
        self._await(self._open(started, failed))

    @property
    def is_started(self) -> bool:
        """Whether the function's ``start()`` is over, well or not."""
        return self._starting is not None and self._starting.done()

    def wait(self) -> None:
        """Wait until it is."""
        self._await(self._started())

    def start(self) -> None:
        """Start the function and wait for that; does nothing where `open` was called before.

        It is closed when the interpreter ends, unless `close` was called by then.
        """
        with self._first:
            if self._loop is None:
                self.open()
                self.wait()
                atexit.register(self.close)

    def respond(self, exchange: Exchange) -> Response:
        """Answer one request, whatever it asks for; the first one starts the function."""
        self.start()
        waiter = _Waiter()
        self.loop.call_soon_threadsafe(self._begin, exchange, waiter)
        return waiter.response.result()

    def give_up(self) -> None:
        """Cancel what runs; its answers say that the server is going. For any thread."""
        self.loop.call_soon_threadsafe(self._give_up)

    def close(self, spent: float = 0.0) -> bool:
        """Stop the function and its event loop; does nothing where it is not running.

        Args:
            spent: Seconds of the shutdown's budget that are gone already.

        Returns:
            Whether all that handlers had started has ended.
        """
        if self._loop is None or self._thread is None:
            return True
        atexit.unregister(self.close)
        ended = self._await(self._close(spent))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop = self._thread = None
        return ended

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    # On the event loop

    async def _open(self, started: Callable[[], object], failed: Callable[[str], object]) -> None:
        self.function.open()
        self._starting = asyncio.create_task(self._start(started, failed))

    async def _start(self, started: Callable[[], object], failed: Callable[[str], object]) -> None:
        try:
            await self.function.startup()
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the function did not start
            failed(start_problem(exc))
        else:
            started()

    async def _started(self) -> None:
        assert self._starting is not None
        await self._starting

    def _begin(self, exchange: Exchange, waiter: _Waiter) -> None:
        task = self.loop.create_task(self._respond(exchange, waiter))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _respond(self, exchange: Exchange, waiter: _Waiter) -> None:
        app = self.function.app
        exchange.connection = waiter
        self._waiting[exchange] = waiter
        try:
            waiter.answer(await app.respond(exchange) if app is not None else _NOT_UP)
        except BaseException as exc:
            # Nothing below should raise. If it does, that is our mistake, and it is said.
            waiter.answer(error_response(500, f"fnship failed: {type(exc).__name__}"))
            raise
        finally:
            del self._waiting[exchange]

    def _give_up(self) -> None:
        for exchange in list(self._waiting):
            exchange.cancel(Cancelled.SHUTDOWN)

    async def _close(self, spent: float) -> bool:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,))
        await self.function.shutdown(spent)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        # Threads of asyncio.to_thread count too.
        left.add(asyncio.create_task(self.loop.shutdown_default_executor()))
        return not (await asyncio.wait(left, timeout=LAST_GRACE))[1]


class _Waiter:
    """A thread that waits for its answer."""

    def __init__(self) -> None:
        self.response: Future[Response] = Future()

    def answer(self, response: Response) -> None:
        if not self.response.done():
            self.response.set_result(response)

    def answer_early(self, exchange: Exchange, response: Response) -> None:
        """Let go of the thread while the handler goes on; see `Exchange`."""
        exchange.gone = True
        self.answer(response)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """What the thread does: run the loop until it is stopped.

    A ``sys.exit()`` in a task that a handler started ends that task alone. A handler that takes
    no notice of being cancelled is left where it stands.
    """
    stopped = False
    while not stopped:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            stopped = True
    if not asyncio.all_tasks(loop):
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


_NOT_UP = error_response(503, "the function is not up", contract.TRANSIENT)
