"""A real engine in this process: takes logs, keeps state, and fails as it is told to."""

from __future__ import annotations

import secrets
import socket
import ssl
import sys
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Self

from fnship import contract
from fnship.testing.faults import Faults
from fnship.testing.http import Answer, Request, error
from fnship.testing.log_api import LogAPI
from fnship.testing.logs import LogSink, Upload, split_lines
from fnship.testing.server import Server
from fnship.testing.state_api import StateAPI, StateCall
from fnship.testing.store import MemoryStore

__all__ = ["Engine"]

_STATE_PATH = "/state"
_LOGS_PATH = "/logs"  # of many attempts at once; each has one of its own below it


class Engine:
    """An engine for tests, on 127.0.0.1 and in a thread of its own.

    ::

        with Engine() as engine:
            call_my_function(headers=engine.headers(activity_id="a1"))
            assert engine.lines("a1") == [...]
            assert engine.state.get(("o1", "p1", None), "counter") == (1, 1)

    What it knows survives `stop` and `start`, which play an engine that is down for a while.

    Args:
        port: Where to listen; 0 for a free port, which it then keeps.
        ssl_context: The server's certificate, for https; None for http.
        honour_batches: Whether a log batch is stored only once however often it is sent.
            False is an engine that does not know ``X-Log-Batch``.
        share_uploads: Whether it offers to take the lines of many attempts in one upload.
        keep_logs: False counts lines instead of keeping them, for long runs.
        max_body: Bytes that a request may have; more is answered 413.

    Attributes:
        state: The state store's content, a `fnship.testing.MemoryStore`.
        faults: What goes wrong: ``faults.logs`` and ``faults.state``.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        ssl_context: ssl.SSLContext | None = None,
        honour_batches: bool = True,
        share_uploads: bool = True,
        keep_logs: bool = True,
        max_body: int = 64 * 2**20,
    ) -> None:
        self.state = MemoryStore()
        self.faults = Faults()
        self._port = port
        self._ssl_context = ssl_context
        self._max_body = max_body
        self._share_uploads = share_uploads
        self._sink = LogSink(honour_batches=honour_batches, keep=keep_logs)
        self._log_api = LogAPI(self._sink, self.faults.logs)
        self._state_api = StateAPI(self.state, self.faults.state, self._sink.is_state_token)
        self._server: Server | None = None
        self._reserved = False
        self._accepted = 0  # connections, before the last stop

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; does nothing where it does already. After `stop`, on the same port.

        Raises:
            OSError: The port is taken.
        """
        if self._server is not None:
            return
        listener = _bind(self._port)
        try:
            if not self._reserved:
                self._reserve(listener.getsockname()[1])
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        self._port = listener.getsockname()[1]
        self._server = Server(listener, self._respond, self._ssl_context, self._max_body)

    def stop(self) -> None:
        """Cut every connection and stop listening; does nothing where it has stopped."""
        if self._server is not None:
            self._server.close()
            self._accepted += self._server.accepted
            self._server = None

    @property
    def port(self) -> int:
        """The port; 0 before the first start of an engine that was given none."""
        return self._port

    @property
    def url(self) -> str:
        """Where it is, such as ``http://127.0.0.1:40123``."""
        if not self._port:
            raise RuntimeError("the engine has no port before it is started")
        scheme = "http" if self._ssl_context is None else "https"
        return f"{scheme}://127.0.0.1:{self._port}"

    @property
    def connections(self) -> int:
        """How many connections were made to it so far."""
        return self._accepted + (self._server.accepted if self._server is not None else 0)

    @property
    def state_url(self) -> str:
        """Where its state store is."""
        return self.url + _STATE_PATH

    def headers(
        self,
        *,
        activity_id: str | None = None,
        attempt: int = 1,
        organization_id: str | None = "o1",
        project_id: str | None = "p1",
        environment_id: str | None = "e1",
        environment_name: str | None = "dev",
        event_source: str | None = None,
        event_source_name: str | None = None,
        event_type: str | None = None,
        timeout: str | float | None = None,
    ) -> dict[str, str]:
        """The headers of one call of a function by this engine.

        Args:
            activity_id: The activity; None makes up a new one.
            attempt: Which attempt at it, from 1. Each has tokens of its own, the same ones
                whenever it is asked for.
            organization_id: None leaves the header out, here and below.
            project_id: The project.
            environment_id: The environment.
            environment_name: Its name.
            event_source: ``action``, ``schedules`` or ``workload``.
            event_source_name: The name of that.
            event_type: ``deploy``, ``destroy`` or ``force-destroy``.
            timeout: A Go duration, or seconds, for ``X-Timeout``.
        """
        if activity_id is None:
            activity_id = "activity-" + secrets.token_hex(8)
        if isinstance(timeout, int | float):
            timeout = f"{timeout:f}s"
        known = self._sink.attempt(activity_id, attempt)
        headers = {
            contract.ACTIVITY_ID: activity_id,
            contract.ACTIVITY_ATTEMPT: str(attempt),
            contract.ENGINE_ENDPOINT: self.url,
            contract.FILE_UPLOAD: known.path,
            contract.LOG_BATCH_ENDPOINT: _LOGS_PATH if self._share_uploads else None,
            contract.WORKFLOW_TOKEN: known.token,
            contract.STATE_ENDPOINT: self.state_url,
            contract.STATE_TOKEN: known.state_token,
            contract.ORGANIZATION_ID: organization_id,
            contract.PROJECT_ID: project_id,
            contract.ENVIRONMENT_ID: environment_id,
            contract.ENVIRONMENT_NAME: environment_name,
            contract.EVENT_SOURCE: event_source,
            contract.EVENT_SOURCE_NAME: event_source_name,
            contract.EVENT_TYPE: event_type,
            contract.TIMEOUT: timeout,
        }
        return {name: value for name, value in headers.items() if value is not None}

    # Logs

    @property
    def on_line(self) -> Callable[[str, str], object] | None:
        """Called with activity id and line as lines are stored, on the engine's thread."""
        return self._sink.on_line

    @on_line.setter
    def on_line(self, callback: Callable[[str, str], object] | None) -> None:
        self._sink.on_line = callback

    @property
    def uploads(self) -> list[Upload]:
        """The log uploads so far, refused ones too, in the order of arrival."""
        return self._sink.uploads()

    @property
    def stored_uploads(self) -> int:
        """How many uploads were stored."""
        return self._sink.stored_uploads

    @property
    def stored_lines(self) -> int:
        """How many lines they had."""
        return self._sink.stored_lines

    def log(self, activity_id: str) -> str:
        """The whole log of an activity as stored, in the order of arrival."""
        return self._sink.text(activity_id)

    def lines(self, activity_id: str) -> list[str]:
        """The lines of that log, without their newlines."""
        return split_lines(self.log(activity_id))

    def wait_for_lines(self, activity_id: str, count: int, timeout: float = 10.0) -> list[str]:
        """Wait until at least `count` lines of an activity are stored, and return them all.

        Blocks: in a coroutine, call it with ``asyncio.to_thread``.

        Raises:
            TimeoutError: There were fewer after `timeout` seconds; names them.
        """
        if not self._sink.wait_for(activity_id, count, timeout):
            lines = self.lines(activity_id)
            raise TimeoutError(
                f"{len(lines)} of {count} lines of {activity_id} after {timeout:g} s: {lines}"
            )
        return self.lines(activity_id)

    # State

    @property
    def state_calls(self) -> list[StateCall]:
        """The requests to the state store so far, in the order of arrival."""
        return self._state_api.calls()

    # Behind all of it

    def _respond(self, request: Request) -> Answer:
        attempt = self._sink.attempt_at(request.path)
        if attempt is not None:
            return self._log_api.answer(request, attempt)
        if request.path == _LOGS_PATH and self._share_uploads:
            return self._log_api.answer_many(request)
        if request.path == _STATE_PATH:
            return self._state_api.answer(request)
        return error(404, "nothing is here")

    def _reserve(self, port: int) -> None:
        """Keep the port while the engine is stopped, so that nobody gets it in between.

        Linux lets sockets share a port of which one at most listens; elsewhere the port is
        merely likely to be free again.
        """
        if sys.platform == "linux":
            reservation = _bind(port)
            weakref.finalize(self, reservation.close)
        self._reserved = True


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound
