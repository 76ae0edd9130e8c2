"""The Flask-era server: gunicorn's thread worker, with our readiness, drain and JSON errors."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from fnship.errors import UsageError
from fnship.server.asgi import HEAD_LIMIT, ASGIFunction, Holder, held_by
from fnship.server.exchange import error_response
from fnship.server.sockets import while_wanted
from fnship.server.stopping import (
    ARRIVAL_GRACE,
    IDLE_GRACE,
    LAST_GRACE,
    STILL_BUSY_AFTER,
    Stopping,
    still_busy,
)
from fnship.server.wsgi import FunctionFlask

if TYPE_CHECKING:
    from fnship.server.watchdog import WatchdogShare

__all__ = ["OPTIONS", "ForkedWorker", "run_single", "run_workers"]

OPTIONS: Final[dict[str, Any]] = {
    "keepalive": 120,  # seconds; longer than proxies keep idle connections (of-watchdog: 90)
    "limit_request_field_size": HEAD_LIMIT,
    "loglevel": "warning",
}
"""Gunicorn's settings for these workers."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_POLL: Final = 0.1  # seconds between looks at whether a draining worker may stop
_REFUSALS: Final = {
    errors.LimitRequestHeaders: (431, "one of the request's headers is larger than 65536 bytes"),
    errors.LimitRequestLine: (414, "the request's first line is larger than 8190 bytes"),
    errors.UnsupportedTransferCoding: (501, "this transfer coding is not supported"),
}
_OF_THE_ANSWER: Final = tuple(
    getattr(errors, name)
    for name in ("InvalidResponseHeader", "InvalidResponseHeaderName")
    if hasattr(errors, name)  # since gunicorn 27
)
_MALFORMED: Final = (400, "this is not a valid HTTP/1.1 request")


class _Worker(ThreadWorker):  # type: ignore[misc] # gunicorn is not typed
    """Serves a `FunctionFlask` with as many threads as ``GUNICORN_THREADS`` says.

    Signals mean what they mean to `fnship.server.single.FunctionServer`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.problem: str | None = None  # what start() raised, and where
        self.announce: Callable[[], None] = lambda: None  # called when it accepts connections
        self.started: Callable[[], None] = lambda: None  # called when start() is done
        self.say: Callable[[str], None] = lambda _: None
        self._in_hand: set[object] = set()  # connections that are being answered
        self._left: float | None = None  # when it ceased to take connections
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()

    def load_wsgi(self) -> None:
        self.flask: FunctionFlask = self.app.wsgi()
        self.wsgi = self._answer
        settings = self.flask.function.settings
        self._stopping = Stopping(settings)
        self.tpool = ThreadPoolExecutor(settings.gunicorn_threads, "fnship-request")

    def init_signals(self) -> None:
        """Leave them to `run`: until it serves, a signal just ends the process."""

    def run(self) -> None:
        """Serve until a signal says stop, and stop the function."""
        background = self.flask.background
        background.open(started=self.started, failed=self._failed)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in _SIGNALS}
        self.wait_to_listen()
        self.announce()
        super().run()
        ended = background.close(self._stopping.spent)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for sig, handler in before.items():
            signal.signal(sig, handler)
        if not ended:
            self.say("what a handler has started does not end; the process ends without it")
            sys.stdout.flush()
            os._exit(1 if self._stopping.given_up else 0)

    def wait_to_listen(self) -> None:
        """Come back when it is time to take connections."""

    def enqueue_req(self, conn: Any) -> None:
        """Take a connection on which there is something to read."""
        self._connections.add(conn)
        super().enqueue_req(conn)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Begin to take connections or cease to; at the end, those who connect are refused."""
        super().set_accept_enabled(enabled)
        if not self.alive and self._left is None:  # another thread says so, and it may come twice
            self._left = time.monotonic()
            for listener in self.sockets:
                for _ in while_wanted(listener):
                    self.accept(listener)
                listener.close()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Look after the connections; at the end, wait a moment at most for what may arrive."""
        if self._left is None:
            super().wait_for_and_dispatch_events(timeout)
            return
        super().wait_for_and_dispatch_events(min(timeout, _POLL))
        since = time.monotonic() - self._left
        for connection in list(self._connections):
            if since >= (ARRIVAL_GRACE if connection in self._in_hand else IDLE_GRACE):
                # What has arrived by now is read, and then comes the end.
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RD)

    def _answer(self, environ: Any, start_response: Any) -> Any:
        """Pass a request on; its answer ends the connection, where the server is about to go."""

        def start(*head: Any) -> Any:
            if self._stopping.asked:
                start_response.__self__.force_close()  # gunicorn's own response
            return start_response(*head)

        return self.flask(environ, start)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer one request, in one of the threads."""
        self._in_hand.add(conn)
        try:
            return super().handle_request(req, conn)
        except (SystemExit, KeyboardInterrupt) as exc:
            # From a route of the user's; it would end the worker, and all that it holds.
            raise RuntimeError(f"{type(exc).__name__} in a route") from exc
        finally:
            self._in_hand.discard(conn)

    def handle_error(
        self,
        req: Any,  # noqa: ARG002 - gunicorn passes it, and the next but one
        client: socket.socket,
        addr: Any,  # noqa: ARG002 - see above
        exc: Exception,
    ) -> None:
        """Answer what is no request, or broke on the way; gunicorn would answer with a page."""
        if isinstance(exc, errors.ParseException) and not isinstance(exc, _OF_THE_ANSWER):
            status, message = _REFUSALS.get(type(exc), _MALFORMED)
        else:
            self.log.exception("A request broke on its way through the server")
            status, message = 500, f"{type(exc).__name__}: the log says more"
        body = error_response(status, message).body
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's
        """Take a signal."""
        background = self.flask.background
        first = not self._stopping.asked
        if self._stopping.take(sig):
            background.give_up()
            self._leave()
            # A handler that blocks the event loop, or a route of the user's, may not end even so.
            signal.signal(signal.SIGALRM, _end_now)
            signal.setitimer(signal.ITIMER_REAL, LAST_GRACE)
        elif first:
            background.loop.call_soon_threadsafe(self._drain)

    def _leave(self) -> None:
        """Take no more connections, and end when those that are open have their answers."""
        super().handle_exit(signal.SIGTERM, None)

    # On the function's event loop

    def _failed(self, problem: str) -> None:
        self.problem = problem
        self._leave()

    def _drain(self) -> None:
        app = self.flask.function.app
        if app is not None:
            app.drain()
        self._leave_when_done()

    def _leave_when_done(self) -> None:
        loop = self.flask.background.loop
        if self._stopping.may_stop(busy=bool(self._in_hand), served=self.nr):
            self._leave()
            loop.call_later(STILL_BUSY_AFTER, self._tell_busy)
        else:
            loop.call_later(_POLL, self._leave_when_done)

    def _tell_busy(self) -> None:
        if self._in_hand:
            self.say(still_busy(len(self._in_hand)))


class ForkedWorker(_Worker):
    """One of several, kept by `fnship.server.workers`."""

    slot = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.announce = self.app.greeting.say
        self.say = self.app.say
        self.started = lambda: self.app.serving.note(self.age)

    def init_signals(self) -> None:
        """Take gunicorn's, but for those that end it."""
        super(_Worker, self).init_signals()
        for sig in _SIGNALS:
            signal.signal(sig, signal.SIG_DFL)

    def run(self) -> None:
        """Serve, and tell the master if the function did not start."""
        from fnship.server.workers import BOOT_ERROR

        super().run()
        if self.problem is not None:
            self.app.trouble.say(f"error: {self.problem}")
            sys.exit(BOOT_ERROR)

    def wait_to_listen(self) -> None:
        """Leave the connections to the first worker until both have started."""
        from fnship.server.single import WAIT_FOR_FIRST
        from fnship.server.workers import FIRST

        if self.age == FIRST:
            return
        background = self.flask.background
        while self.alive and not background.is_started and self.is_parent_alive():
            time.sleep(_POLL)
        looks = int(WAIT_FOR_FIRST / _POLL)
        while (
            self.alive and looks and not self.app.serving.first_is_done() and self.is_parent_alive()
        ):
            looks -= 1
            time.sleep(_POLL)

    def is_parent_alive(self) -> bool:
        """Whether the master is there; without it, this one ends too.

        It is a good moment to see as well whether it wants the end: see `workers`.
        """
        if super().is_parent_alive():
            if self.app.serving.must_stop() and not self._stopping.asked:
                self.handle_exit(signal.SIGTERM, None)
            return True
        self.alive = False
        return False


class _LoneWorker(_Worker):
    """The only one, in a process that has no master."""

    def is_parent_alive(self) -> bool:
        """Whether there is a reason to go on: nothing depends on who started the process."""
        return True


class _Application(BaseApplication):  # type: ignore[misc] # gunicorn is not typed
    """What a worker without a master asks for its settings and what to serve."""

    def __init__(self, flask: FunctionFlask) -> None:
        super().__init__()
        self.callable = flask

    def load_config(self) -> None:
        for name, value in OPTIONS.items():
            self.cfg.set(name, value)


def run_single(
    served: ASGIFunction | Holder,
    listener: socket.socket,
    *,
    announce: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Serve in this very process until a signal says stop.

    Raises:
        UsageError: The function's ``start()`` failed.
    """
    application = _Application(held_by(FunctionFlask, served))
    cfg = application.cfg
    worker = _LoneWorker(1, os.getppid(), [listener], application, 0, cfg, cfg.logger_class(cfg))
    worker.announce = announce
    worker.say = say
    try:
        worker.init_process()
    finally:
        worker.tmp.close()
        for end in worker.PIPE:
            os.close(end)
    if worker.problem is not None:
        raise UsageError(worker.problem)


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

    workers.run_workers(
        lambda: held_by(FunctionFlask, load()),
        listener,
        count,
        share,
        greeting=greeting,
        say=say,
        worker=ForkedWorker,
        options=OPTIONS,
    )


def _end_now(sig: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's
    """End the process although something in it does not."""
    sys.stdout.flush()
    os._exit(1)
