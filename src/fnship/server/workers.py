"""Several server processes: gunicorn keeps them running."""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import FrameType, MappingProxyType
from typing import Any, Final

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from uvicorn_worker import UvicornWorker

from fnship.errors import UsageError
from fnship.server.asgi import ASGIFunction, Holder, function_of
from fnship.server.single import CONFIG, FunctionServer
from fnship.server.watchdog import WatchdogShare

__all__ = ["BOOT_ERROR", "FunctionWorker", "run_workers"]

_FOR_EVER: Final = 10 * 365 * 86400  # seconds; the platform decides when its patience ends
BOOT_ERROR: Final = 113
"""What a worker ends with that cannot start; gunicorn's own 3 might be a handler's."""
_DEATHS_AT_START: Final = 5  # workers in a row that end before they serve, until we give up
FIRST: Final = 1  # what gunicorn numbers the first worker
_PAUSE_FIRST: Final = 0.05  # seconds before another worker takes the place of one of those
_PAUSE_LONGEST: Final = 5.0
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_NO_OPTIONS: Final = MappingProxyType[str, Any]({})


def run_workers(
    load: Callable[[], ASGIFunction | Holder],
    listener: socket.socket,
    count: int,
    share: WatchdogShare | None,
    *,
    greeting: str,
    say: Callable[[str], None],
    worker: type[Any] | None = None,
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> None:
    """Serve in `count` processes until a signal says stop.

    A worker that dies is replaced; the others serve on. Workers that die before they ever
    serve end the whole, rather than being started for ever.

    Args:
        load: Makes the application; called in every worker, after the fork.
        listener: The socket that they share.
        count: How many.
        share: What they share of the native watchdog; None where there is none.
        greeting: Said once, when the first of them accepts connections.
        say: Called with that, and with what went wrong in a worker; once, however many it
            went wrong in.
        worker: Gunicorn's worker class; `FunctionWorker` by default.
        options: Settings of gunicorn that this class wants.

    Raises:
        SystemExit: 2 where the function cannot be loaded or started.
    """
    master = os.getpid()
    # Until a new worker has handlers of its own, a signal must end it and not only be queued.
    os.register_at_fork(after_in_child=lambda: _forget_handlers(master))
    try:
        _Application(
            load,
            listener,
            {"worker_class": worker or FunctionWorker, "workers": count, **options},
            share,
            _Once(say, greeting),
            _Once(say),
            say,
        ).run()
    except SystemExit as exc:
        # A worker that ends passes here too: it was forked somewhere below run().
        if exc.code == BOOT_ERROR and os.getpid() == master:
            sys.exit(2)  # the worker has said why
        raise


class _Once:
    """Lets one of several processes speak: the first that takes the only byte of a pipe.

    Args:
        say: How it speaks.
        sentence: What it says unless told otherwise.
    """

    def __init__(self, say: Callable[[str], None], sentence: str = "") -> None:
        self._say = say
        self._sentence = sentence
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.write(writer, b".")

    def say(self, sentence: str = "") -> None:
        """Speak, unless somebody has spoken."""
        try:
            os.read(self._reader, 1)
        except BlockingIOError:
            return
        self._say(sentence or self._sentence)


class _Serving:
    """Which workers serve, in memory that they share with the master: a byte for each.

    The bytes before them say whether the first worker is gone, and whether all are to stop.
    """

    _BEFORE: Final = 2

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def note(self, age: int) -> None:
        """Say that the worker of this number serves."""
        self._memory[self._place(age)] = 1

    def holds(self, age: int) -> bool:
        """Whether it does."""
        return bool(self._memory[self._place(age)])

    def take_back(self, age: int) -> bool:
        """Say that it does no more. Returns whether it did."""
        did = self.holds(age)
        self._memory[self._place(age)] = 0
        return did

    def first_is_done(self) -> bool:
        """Whether the first worker has started, or is gone."""
        return self.holds(FIRST) or bool(self._memory[0])

    def first_is_gone(self) -> None:
        """Say that it is."""
        self._memory[0] = 1

    def must_stop(self) -> bool:
        """Whether the workers were told to stop."""
        return bool(self._memory[1])

    def stop(self) -> None:
        """Say that they were: one to whom no signal came, as it was just being born, sees it."""
        self._memory[1] = 1

    def _place(self, age: int) -> int:
        return self._BEFORE + age % (len(self._memory) - self._BEFORE)


class _Application(BaseApplication):  # type: ignore[misc] # gunicorn is not typed
    def __init__(
        self,
        load: Callable[[], ASGIFunction | Holder],
        listener: socket.socket,
        options: Mapping[str, Any],
        share: WatchdogShare | None,
        greeting: _Once,
        trouble: _Once,
        say: Callable[[str], None],
    ) -> None:
        self.say = say
        self._load = load
        self._listener = listener
        self._options = options
        self.share = share
        self.serving = _Serving()
        self.greeting = greeting
        self.trouble = trouble
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"fd://{self._listener.detach()}",  # gunicorn closes it
            "control_socket_disable": True,
            "graceful_timeout": _FOR_EVER,
            "loglevel": "warning",
            "proc_name": "fnship",
            "timeout": 0,  # a handler may block for as long as it likes
            "child_exit": self._after_exit,
            "pre_fork": self._before_fork,
            **self._options,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:  # what this version does not have needs no setting
                self.cfg.set(name, value)

    def _before_fork(self, _master: _Master, worker: Any) -> None:
        if self.share is not None:
            worker.slot = self.share.assign()

    def _after_exit(self, master: _Master, worker: Any) -> None:
        if self.share is not None:
            self.share.left(worker.slot)
        master.worker_ended(worker)

    def load(self) -> ASGIFunction | Holder:
        try:
            return self._load()
        except UsageError as exc:
            self.trouble.say(f"error: {exc}")
            sys.exit(BOOT_ERROR)

    def run(self) -> None:
        _Master(self).run()


class _Master(Arbiter):  # type: ignore[misc] # gunicorn is not typed
    """Gunicorn's own, but for how it takes workers that never start."""

    WORKER_BOOT_ERROR = BOOT_ERROR
    APP_LOAD_ERROR = BOOT_ERROR + 1

    def __init__(self, app: _Application) -> None:
        self._halting = False
        self._stopping = False
        self._deaths = 0  # in a row, of workers that had not served yet
        self._next_try = 0.0
        super().__init__(app)
        self.log.error_log.addFilter(_without_boot_errors)

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Queue a signal; while the workers are stopped, pass one that ends them on to them."""
        if not self._stopping:
            super().signal(sig, frame)
        elif sig in _ENDING:
            self.kill_workers(signal.SIGTERM)

    def kill_workers(self, sig: int) -> None:
        """Send all workers a signal that ends them."""
        super().kill_workers(sig)
        self.app.serving.stop()  # after the signal, so that none takes that for a second one

    def stop(self, graceful: bool = True) -> None:  # noqa: ARG002 - gunicorn's signature
        """Stop the workers, who finish what they hold."""
        self._stopping = True
        if self.app.share is not None:
            self.app.share.close()
        super().stop()

    def handle_int(self) -> None:
        """Take a SIGINT like a SIGTERM."""
        self.handle_term()

    def handle_quit(self) -> None:
        """Take a SIGQUIT like a SIGTERM."""
        self.handle_term()

    def handle_hup(self) -> None:
        """Take a SIGHUP like a SIGTERM: there is no configuration to read anew."""
        self.handle_term()

    def _not_for_us(self) -> None:
        """Do nothing: how many workers there are is a setting, and logs go to stdout."""

    handle_ttin = handle_ttou = handle_usr1 = handle_usr2 = handle_winch = _not_for_us

    def manage_workers(self) -> None:
        """Keep as many workers as there should be; with pauses, where they end at the start."""
        if time.monotonic() >= self._next_try:
            super().manage_workers()

    def reap_workers(self) -> None:
        """See which workers have ended."""
        try:
            super().reap_workers()
        except HaltServer:
            if not self._halting and not self._stopping:
                self._halting = True
                raise  # otherwise another one has said the same before

    def worker_ended(self, worker: Any) -> None:
        """Count the workers in a row that end before they serve, and give up after some.

        As long as others serve, it goes on trying, less and less often.
        """
        if worker.age == FIRST:
            self.app.serving.first_is_gone()
        if self.app.serving.take_back(worker.age):
            self._deaths = 0
            return
        self._deaths += 1
        self._next_try = time.monotonic() + min(_PAUSE_LONGEST, _PAUSE_FIRST * 2**self._deaths)
        others_serve = any(self.app.serving.holds(each.age) for each in self.WORKERS.values())
        if self._deaths < _DEATHS_AT_START or others_serve or self._halting or self._stopping:
            return
        self.app.trouble.say(
            f"error: {self._deaths} workers in a row ended before they could serve; the lines "
            "above say how. If they were killed, the memory limit is too small for the function"
        )
        raise HaltServer("no worker starts", BOOT_ERROR)


class FunctionWorker(UvicornWorker):  # type: ignore[misc] # not typed
    """One process that serves with a `FunctionServer`.

    Attributes:
        CONFIG_KWARGS: How uvicorn is set up.
        SERVER: What serves.
    """

    CONFIG_KWARGS = CONFIG
    SERVER: Callable[..., FunctionServer] = FunctionServer
    slot = 0  # in what the workers share of the native watchdog

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn's own lines go where those of the function go.
        for name in ("uvicorn.error", "uvicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers = []
            logger.propagate = True

    def run(self) -> None:
        """Serve until the master says stop."""
        served: ASGIFunction | Holder = self.wsgi
        application: _Application = self.app
        if application.share is not None:
            function_of(served).watchdog = application.share.join(self.slot)
        self.config.app = served
        server = self.SERVER(
            self.config,
            served,
            announce=application.greeting.say,
            started=lambda: application.serving.note(self.age),
            # The first worker answers the probes while it starts. The others leave the
            # connections to it until they have started, and it too.
            start_first=self.age > FIRST,
            may_listen=application.serving.first_is_done,
            must_stop=lambda: application.serving.must_stop() or os.getppid() != self.ppid,
            say=application.say,
        )
        server.run(self.sockets)
        if server.problem is not None:
            application.trouble.say(f"error: {server.problem}")
            sys.exit(BOOT_ERROR)


def _forget_handlers(master: int) -> None:
    if os.getppid() == master:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)


def _without_boot_errors(record: logging.LogRecord) -> bool:
    """Leave out what gunicorn adds to an error that the worker has explained."""
    if isinstance(record.args, tuple) and record.args[1:] == (BOOT_ERROR,):
        return False
    return not str(record.msg).startswith(("Shutting down", "Reason:"))
