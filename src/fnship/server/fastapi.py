"""The function as a FastAPI application, with room for routes and dependencies of your own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
import socket
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from fnship import contract
from fnship.errors import UsageError
from fnship.function.invocation import Cancelled
from fnship.server.asgi import HEAD_LIMIT, HEAD_TOO_LARGE, ASGIFunction, Holder, LimitedBody
from fnship.server.asgi import create_app as create_function
from fnship.server.exchange import Exchange, error_response, refusal
from fnship.server.exchange import Response as Answer
from fnship.server.single import CONFIG, FunctionServer
from fnship.server.stopping import ARRIVAL_GRACE, IDLE_GRACE, LAST_GRACE
from fnship.settings import Settings

if TYPE_CHECKING:
    from fnship.server.watchdog import WatchdogShare

__all__ = ["FunctionAPI", "create_app", "run_single", "run_workers"]

_CONNECTION: Final = "fnship.connection"
"""The ASGI extension by which our protocol learns what runs for its client."""

_LOOK_EVERY: Final = 0.1  # seconds between looks whether to stop
_METHODS: Final = {
    contract.INVOKE_PATH: ("POST",),
    contract.READY_PATH: ("GET", "HEAD"),
    contract.HEALTH_PATH: ("GET", "HEAD"),
}


class Frame(BaseModel):
    """One frame of a stack trace."""

    file: str
    line: int
    function: str


class Error(BaseModel):
    """What every error is answered with."""

    error_code: int = Field(
        description="1: run it again with `data`, 2: failed, 3: transient, 4: not found, "
        "5: conflict"
    )
    message: str
    data: dict[str, Any] | None = Field(None, description="For the next request, with code 1")
    stack_trace: list[Frame] | None = Field(
        None, description="Of an exception that the function did not expect, innermost last"
    )


class FunctionAPI(FastAPI):
    """A FastAPI application with a function on ``POST /``, and room for all that is yours.

    Dependencies of the whole application hold for the function too; the probes ``/_/ready`` and
    ``/_/health`` answer without them. What is refused in front of the function is answered in the
    form of the contract; errors of your own routes are answered as FastAPI does it.

    Args:
        function: What to serve.
        **options: As for `fastapi.FastAPI`. By default the title is the function's name, and a
            path with a slash too many is not redirected. A lifespan of yours begins before
            ``start()`` and ends after ``stop()``.

    Attributes:
        served: Whether our own server starts and stops the function; otherwise the application's
            lifespan does.
    """

    server_kind = "fastapi"

    def __init__(self, function: ASGIFunction, **options: Any) -> None:
        options.setdefault("title", function.settings.function_name or function.name)
        options.setdefault("redirect_slashes", False)
        super().__init__(**options)
        self.function = function
        self.served = False
        self._going_on: set[asyncio.Task[Answer]] = set()  # answered before they have ended
        self.router.lifespan_context = self._around(self.router.lifespan_context)
        self.add_api_route(
            contract.INVOKE_PATH,
            self._invoke,
            methods=["POST"],
            operation_id="invoke",
            summary="Invoke the function",
            description=_docstring(function),
            response_model=None,
            responses=_ANSWERS,
            openapi_extra=_REQUEST,
        )
        for path, probe in (
            (contract.READY_PATH, self._ready),
            (contract.HEALTH_PATH, self._health),
        ):
            self.add_route(path, probe, methods=["GET"], include_in_schema=False)
        given = options.get("exception_handlers") or {}
        for kind, answer in (
            (HTTPException, self._http_error),
            (RequestValidationError, self._validation_error),
            (Exception, _unexpected_error),
        ):
            if kind not in given:
                self.exception_handlers[kind] = answer

    async def _invoke(self, request: Request) -> Response:
        body = LimitedBody(self.function.settings.max_body_size)
        try:
            async with contextlib.aclosing(request.stream()) as pieces:
                async for piece in pieces:
                    if not body.take(piece):
                        break
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        return await self._respond(request, contract.INVOKE_PATH, body.whole)

    async def _ready(self, request: Request) -> Response:
        return await self._respond(request, contract.READY_PATH)

    async def _health(self, request: Request) -> Response:
        return await self._respond(request, contract.HEALTH_PATH)

    async def _respond(
        self, request: Request, path: str, body: bytes | bytearray | None = b""
    ) -> Response:
        """Have the function answer; or its deadline, where the handler takes no notice of that."""
        if self.function.app is None:  # part of an application with a lifespan of its own
            with contextlib.suppress(Exception):  # it answers with what that was
                await self.function.startup()
        assert self.function.app is not None
        exchange = Exchange(request.method, path, request.scope["headers"], body)
        exchange.connection = waiter = _Waiter()
        connection = request.scope.get("extensions", {}).get(_CONNECTION)
        task = asyncio.create_task(self.function.app.respond(exchange))
        if connection is not None:
            connection.exchange = exchange
        try:
            await asyncio.wait((task, waiter.early), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            if connection is None or not connection.is_cut_off:
                raise
            return _response(_CUT_OFF)
        finally:
            if connection is not None:
                connection.exchange = None
        if task.done():
            answer = task.result()
            return _response(answer._replace(headers=exchange.head(answer)))
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        return _response(waiter.early.result())

    def _own_path(self, request: Request) -> str | None:
        """The path of ours that a request is for."""
        own = (
            (self._invoke, contract.INVOKE_PATH),
            (self._ready, contract.READY_PATH),
            (self._health, contract.HEALTH_PATH),
        )
        endpoint = request.scope.get("endpoint")
        return next((path for each, path in own if each == endpoint), None)

    def _is_unknown(self, request: Request) -> bool:
        """Whether no route is for it; where this is part of another application, that is one."""
        return request.scope.get("endpoint") in (None, self)

    async def _http_error(self, request: Request, exc: HTTPException) -> Response:
        path = self._own_path(request)
        if path is None and (exc.status_code != 404 or not self._is_unknown(request)):
            return await http_exception_handler(request, exc)
        if path is None:
            path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if request.method not in _METHODS.get(path, ()):
            return await self._respond(request, path)  # which says what there is instead
        headers = tuple(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (exc.headers or {}).items()
        )
        return _response(refusal(exc.status_code, str(exc.detail), headers))

    async def _validation_error(self, request: Request, exc: RequestValidationError) -> Response:
        if self._own_path(request) is None:
            return await request_validation_exception_handler(request, exc)
        problems = (
            f"{'.'.join(str(each) for each in error['loc'])}: {error['msg']}"
            for error in exc.errors()
        )
        return _response(refusal(422, "; ".join(problems)))

    def _around(self, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The application's lifespan with the function's in it."""

        @contextlib.asynccontextmanager
        async def lifespan(application: Any) -> AsyncGenerator[Any, None]:
            async with inner(application) as state:
                if self.served:
                    yield state
                    return
                await self.function.startup()
                try:
                    yield state
                finally:
                    await self.function.shutdown()

        return lifespan


class _Waiter:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self.early: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answer_early(self, exchange: Exchange, response: Answer) -> None:
        exchange.gone = True
        self.early.set_result(response)


def create_app(handler: Any, settings: Settings | None = None, **options: Any) -> FunctionAPI:
    """A FastAPI application that serves `handler`, for `fnship.serve` or a server of your own.

    ASGI cannot tell of a client that goes away without a task to watch for it, so under a server
    of your own such a call runs on; ours cancels it.

    Args:
        handler: ``handle(logger, request)``, async or plain; or ``module:name`` to import.
        settings: Read from the environment by default.
        **options: As for `fastapi.FastAPI`: ``title``, ``dependencies``, ``lifespan`` …

    Raises:
        UsageError: A setting or the handler is wrong.
    """
    return FunctionAPI(create_function(handler, settings), **options)


class APIProtocol(HttpToolsProtocol):
    """Uvicorn's own protocol, made to keep what ours promises of clients that leave or linger.

    Attributes:
        exchange: What runs for the client; set by the application.
        is_cut_off: Whether the server has given up what runs.
    """

    exchange: Exchange | None = None
    is_cut_off = False
    _in_head = False
    _head_size = 0
    _unparsed = 0  # bytes that came while the head was not whole

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        super().data_received(data)
        if self._in_head:
            self._unparsed += len(data)
            if self._unparsed > HEAD_LIMIT and not self.transport.is_closing():
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """Let the application say what runs for this request."""
        super().on_message_begin()
        extensions: dict[str, Any] = {_CONNECTION: self}
        self.scope["extensions"] = extensions
        self._in_head = True
        self._head_size = self._unparsed = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        self._head_size += len(name) + len(value) + 4
        if self._head_size > HEAD_LIMIT:
            raise ValueError(HEAD_TOO_LARGE)  # the parser stops, and a refusal is sent

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words
        """Refuse what cannot be served at all, and end the connection."""
        if max(self._head_size, self._unparsed) > HEAD_LIMIT:
            status, body, _ = error_response(431, HEAD_TOO_LARGE)
        else:
            status, body, _ = error_response(400, "this is not a valid HTTP/1.1 request")
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def on_headers_complete(self) -> None:
        """Begin to answer; the last time on this connection, where the server is about to go."""
        self._in_head = False
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
        return not self._in_head and (cycle is None or cycle.response_complete)

    def _is_incomplete(self) -> bool:
        """Whether a request has begun to arrive and is not whole."""
        cycle: RequestResponseCycle | None = self.cycle
        return self._in_head or (
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
    api = _application(served)
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
        lambda: _application(load()),
        listener,
        count,
        share,
        greeting=greeting,
        say=say,
        worker=Worker,
    )


def _application(served: ASGIFunction | Holder) -> FunctionAPI:
    if isinstance(served, ASGIFunction):
        return FunctionAPI(served)
    assert isinstance(served, FunctionAPI)
    return served


def _response(answer: Answer) -> Response:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    return Response(bytes(answer.body), answer.status, headers, "application/json")


async def _unexpected_error(request: Request, exc: Exception) -> Response:  # noqa: ARG001 - FastAPI passes it
    return _response(error_response(500, f"{type(exc).__name__}: the log says more"))


def _docstring(function: ASGIFunction) -> str:
    call = function.handler.call if function.handler is not None else None
    return (inspect.getdoc(call) or "") if inspect.isroutine(call) else ""


def _last_of(traceback: str) -> str:
    """Where an exception came from and what it says, from the text of its traceback."""
    places = re.findall(r'^  File "(.+)", line (\d+)', traceback, re.MULTILINE)
    lines = traceback.strip().splitlines()
    if not places or not lines:
        return ""
    file, line = places[-1]
    return f"{file}:{line}: the application's lifespan failed with {lines[-1]}"


_CUT_OFF: Final = refusal(
    503, f"function: transient error: {Cancelled.SHUTDOWN.value} before the function had ended"
)
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "What the function returned; for an engine's call, as `data`",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
    400: {"model": Error, "description": "The body is not a JSON object"},
    413: {"model": Error, "description": "The body is larger than MAX_BODY_SIZE"},
    500: {"model": Error, "description": "The function failed; `error_code` says how"},
    503: {"model": Error, "description": "The function is starting, stopping or overloaded"},
    504: {"model": Error, "description": "The deadline passed before the function had ended"},
}
_REQUEST: Final[dict[str, Any]] = {
    "requestBody": {
        "description": "What the function gets, beside `metadata` from the headers",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
    "parameters": [
        {
            "name": name,
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": description,
        }
        for name, description in (
            (contract.TIMEOUT, "How long it may take, such as `1m30s`"),
            *((name, f"`metadata.{key}`") for name, key in contract.METADATA_KEYS.items()),
        )
    ],
}
