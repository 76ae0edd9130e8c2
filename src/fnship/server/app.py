"""Request → invocation → response: what every server of ours shares."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import inspect
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from fnship import contract
from fnship.errors import MalformedJSON, NotJSON, UsageError
from fnship.function import codec, state_http
from fnship.function.activity_log import ActivityLog
from fnship.function.capture import capture_logging, capture_stdout
from fnship.function.handler import LIFECYCLE, Handler
from fnship.function.invocation import Outcome
from fnship.function.lines import Stdout, process_stdout, style_named
from fnship.function.log_http import HTTPPoster
from fnship.function.log_upload import LogUploads
from fnship.function.metadata import read_headers
from fnship.function.pool import PoolFull, ThreadPool
from fnship.function.runner import Runner
from fnship.server.access import AccessLines
from fnship.server.exchange import (
    Exchange,
    Response,
    error_response,
    not_ready,
    outcome_response,
)
from fnship.server.watchdog import Watchdog
from fnship.settings import Settings

__all__ = ["App", "Phase"]

_CHECK_SECONDS: Final = 5.0  # what alive() and ready() may take
_LEAST_FOR_STOP: Final = 1.0  # seconds for stop(), however little is left of the shutdown's time
_UPLOAD_SECONDS: Final = 10.0  # for one upload where LOG_FLUSH_TIMEOUT says 0


class Phase(enum.Enum):
    """Where in its life the function is."""

    STARTING = "starting"
    RUNNING = "running"
    BROKEN = "broken"
    DRAINING = "draining"


class App:
    """One function with its log, its threads and its lifecycle.

    Make it on the event loop that will run it.

    Args:
        handler: What to serve; None where it cannot be loaded, with `problem` saying why.
        settings: Limits and logs.
        environ: Handed to the function's ``start(config)``.
        problem: Answered to every invocation of a function that cannot be loaded.
        watchdog: Counts and limits requests; None where another process does, or nobody.

    Attributes:
        respond: Answers one request, whatever it asks for.
    """

    def __init__(
        self,
        handler: Handler | None,
        settings: Settings,
        environ: Mapping[str, str],
        problem: UsageError | None = None,
        *,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.settings = settings
        self._watchdog = watchdog
        # A request passes here in microseconds, so what is not wanted is not asked for either.
        watched = settings.access_lines or watchdog is not None
        self.respond: Final = self._respond_watched if watched else self._respond
        self._envelope = settings.response_envelope
        self.phase = Phase.STARTING
        self._started = False
        self.problem = problem
        self._environ = environ
        self._handler = handler
        self._stdout = Stdout(process_stdout(), style_named(settings.log_format))
        self.log = ActivityLog(self._stdout)
        self._access: AccessLines | None = None
        poster = HTTPPoster(
            settings.log_upload_max_connections,
            settings.log_flush_timeout or _UPLOAD_SECONDS,
            verify=not settings.skip_tls_verify,
        )
        self._uploads = LogUploads(settings, poster, self.say)
        self._runner = Runner(handler, settings, self._stdout, self._uploads) if handler else None
        self._asking: dict[str, asyncio.Task[Response]] = {}
        # A thread for each, so that one that hangs holds up no other.
        loop = asyncio.get_running_loop()
        self._threads = {name: ThreadPool(loop, 1, 0, name=f"fnship-{name}") for name in LIFECYCLE}
        if settings.access_lines:
            self._access = AccessLines(self._stdout, loop, call_id=settings.log_call_id)
        self._captures = contextlib.ExitStack()

    @property
    def unsent_log_bytes(self) -> int:
        """Bytes of log lines that no engine has stored yet."""
        return self._uploads.buffered

    def say(self, sentence: str) -> None:
        """Write a warning of the server's own to the process's log."""
        self.log.write(time.time(), "WARNING", "fnship", 0, sentence)

    async def startup(self) -> None:
        """Capture logs and run the function's ``start(config)``; then it is ready.

        Raises:
            Exception: What ``start`` raised.
        """
        state_http.configure(verify=not self.settings.skip_tls_verify)
        self._captures.enter_context(capture_logging(self.log, self.settings.log_level))
        if self.settings.capture_stdout:
            self._captures.enter_context(capture_stdout())
        if self._handler is None:
            self.phase = Phase.BROKEN
            return
        if start := self._handler.lifecycle.get("start"):
            config = MappingProxyType(dict(self._environ))
            await self._lifecycle("start", start, *((config,) if _takes_one(start) else ()))
        self._started = True
        if self.phase is Phase.STARTING:
            self.phase = Phase.RUNNING

    def broken(self, problem: UsageError) -> None:
        """Answer every invocation from now on with what is wrong."""
        self.phase = Phase.BROKEN
        self.problem = problem
        self._runner = None

    def drain(self) -> None:
        """Say from now on that this server is not ready; requests are still answered."""
        self.phase = Phase.DRAINING
        if self._watchdog is not None:
            self._watchdog.drain()
        self._uploads.send_all()

    async def shutdown(self, spent: float = 0.0) -> None:
        """Run the function's ``stop()`` and deliver the last log lines.

        Args:
            spent: Seconds of the shutdown's budget that are gone already.
        """
        try:
            began = time.monotonic()
            if (
                self._started
                and self._handler is not None
                and (stop := self._handler.lifecycle.get("stop"))
            ):
                try:
                    within = max(self.settings.log_flush_timeout - spent, _LEAST_FOR_STOP)
                    async with asyncio.timeout(within):
                        await self._lifecycle("stop", stop)
                except TimeoutError:
                    self.say(f"stop() did not end within {within:g} s")
                except asyncio.CancelledError:
                    raise
                except BaseException as exc:  # noqa: BLE001 - the rest must be closed all the same
                    self.say(f"stop() failed: {type(exc).__name__}: {exc}")
            if self._access is not None:
                self._access.write()
            await self._uploads.close(spent + time.monotonic() - began)
            await state_http.close_sessions()
            state_http.close_pools()
        finally:
            for thread in self._threads.values():
                thread.close()
            if self._runner is not None:
                self._runner.close()
            self._captures.close()

    async def _lifecycle(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a lifecycle function: an async one here, a plain one in a thread of its own."""
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        value = await self._threads[name].submit(function, *args)
        return await value if inspect.isawaitable(value) else value

    async def ready(self) -> Response:
        """Answer ``GET /_/ready``: whether an invocation would be served now."""
        if self.phase is Phase.BROKEN:
            return error_response(503, str(self.problem))
        if self.phase is not Phase.RUNNING:
            return not_ready(self.phase.value)
        if self._watchdog is not None and not self._watchdog.accepting:
            return not_ready(Phase.DRAINING.value)
        if self._watchdog is not None and self._watchdog.full:
            return _FULL
        return await self._check("ready", _READY)

    async def alive(self) -> Response:
        """Answer ``GET /_/health``: whether this process is worth keeping."""
        if self._watchdog is not None and not self._watchdog.accepting:
            return not_ready(self.phase.value)
        return await self._check("alive", _HEALTHY)

    async def _check(self, name: str, good: Response) -> Response:
        check = self._handler.lifecycle.get(name) if self._handler else None
        if check is None:
            return good
        # Probes that come together share one answer.
        asking = self._asking.get(name)
        if asking is None or asking.done():
            asking = asyncio.get_running_loop().create_task(self._ask(name, check, good))
            self._asking[name] = asking
        done, _ = await asyncio.wait((asking,), timeout=_CHECK_SECONDS)
        if not done:
            asking.cancel()
        if not done or asking.cancelled():
            return not_ready(f"{name}() took longer than {_CHECK_SECONDS:g} s")
        return asking.result()

    async def _ask(self, name: str, check: Callable[..., Any], good: Response) -> Response:
        try:
            answer = await self._lifecycle(name, check)
            verdict, message = answer if isinstance(answer, tuple) else (answer, "")
            return good if verdict else not_ready(str(message) or f"{name}() says no")
        except PoolFull:
            return not_ready(f"{name}() has not ended since it was asked before")
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - a check that raises has said no
            return not_ready(f"{name}() raised {type(exc).__name__}: {exc}")

    async def _respond(self, exchange: Exchange) -> Response:
        if exchange.path == contract.INVOKE_PATH and exchange.method == "POST":
            return await self._invoke(exchange)
        return await self._other(exchange)

    async def _respond_watched(self, exchange: Exchange) -> Response:
        """Answer, count and limit where this is the watchdog, and write an access line."""
        watchdog = self._watchdog
        if watchdog is not None and exchange.path in _PROBES:
            return await self._other(exchange)  # a watchdog takes no account of its probes
        began = time.perf_counter()
        if watchdog is not None and not watchdog.enter():
            status = _FULL.status
            watchdog.refused(exchange.method, status)
            if self._access is not None:
                self._access.add(exchange, status, time.perf_counter() - began)
            return _FULL
        response = None
        try:
            if exchange.path == contract.INVOKE_PATH and exchange.method == "POST":
                response = await self._invoke(exchange)
            else:
                response = await self._other(exchange)
        finally:
            took = time.perf_counter() - began
            if exchange.gone or response is None:
                status = exchange.early or _CLIENT_CLOSED
            else:
                status = response.status
            if watchdog is not None:
                exchange.seconds = took
                watchdog.leave(exchange.method, status, took)
            if self._access is not None:
                self._access.add(exchange, status, took)
        return response

    async def _invoke(self, exchange: Exchange) -> Response:
        """Run the function on a request, and put what it did into words of the contract."""
        runner = self._runner
        if runner is None:
            return error_response(500, str(self.problem))
        if not self._started:
            return _STARTING
        body = exchange.body
        if body is None:
            return error_response(413, _TOO_LARGE.format(self.settings.max_body_size))
        exchange.body = None  # it is not held beside what is made of it
        try:
            request = codec.decode(body) if body else {}
        except MalformedJSON as exc:
            return error_response(400, f"the request body is not JSON: {exc}")
        if type(request) is not dict:
            return error_response(
                400, f"the request body must be a JSON object, not {_json_kind(request)}"
            )
        metadata, private = read_headers(exchange.headers)
        request["metadata"] = metadata
        exchange.invocation = invocation = runner.open(exchange.headers, metadata, private)
        if invocation.remaining is not None:
            invocation.overdue = functools.partial(self._overdue, exchange)
        try:
            outcome = await runner.run(invocation, request)
        finally:
            exchange.invocation = None
        if outcome.error_code:
            return outcome_response(outcome, invocation)
        try:
            result = codec.encode(outcome.value)
        except NotJSON as exc:
            problem = invocation.log.redact(str(exc))
            return error_response(500, f"the handler returned what JSON cannot carry: {problem}")
        if self._wraps(private):
            result = b'{"data":%b}' % result
        return Response(200, result)

    def _overdue(self, exchange: Exchange, outcome: Outcome) -> None:
        """Answer for a handler whose deadline has passed and that does not end."""
        if exchange.connection is not None:
            exchange.connection.answer_early(exchange, outcome_response(outcome, None))

    def _wraps(self, private: dict[str, str] | None) -> bool:
        """Whether the result goes into an envelope: for an engine call, unless set otherwise."""
        if self._envelope == "auto":
            return private is not None and contract.ENGINE_ENDPOINT in private
        return self._envelope == "always"

    async def _other(self, exchange: Exchange) -> Response:
        """Answer everything that is not an invocation."""
        path, method = exchange.path, exchange.method
        allowed = _METHODS.get(path)
        if allowed is None:
            return error_response(404, f"there is nothing at {path}; invoke with POST /")
        if method not in allowed:
            return error_response(
                405,
                f"{method} is not for {path}; use {allowed[0]}",
                headers=((b"allow", ", ".join(allowed).encode()),),
            )
        return await (self.ready() if path == contract.READY_PATH else self.alive())


_CLIENT_CLOSED: Final = 499  # in access lines: the client did not wait for its answer
_TOO_LARGE: Final = "the request body is larger than MAX_BODY_SIZE, {} bytes"
_METHODS: Final = {
    contract.INVOKE_PATH: ("POST",),
    contract.READY_PATH: ("GET", "HEAD"),
    contract.HEALTH_PATH: ("GET", "HEAD"),
}
_PROBES: Final = frozenset({contract.READY_PATH, contract.HEALTH_PATH})
_FULL: Final = error_response(
    429, "function: transient error: max_inflight requests are served already", contract.TRANSIENT
)
_STARTING: Final = error_response(
    503, "function: transient error: the function is starting", contract.TRANSIENT
)
_READY: Final = Response(200, b'{"status":"ready"}')
_HEALTHY: Final = Response(200, b'{"status":"healthy"}')


def _json_kind(value: object) -> str:
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "a boolean"
    return "a number"


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    return True
