"""The function as a FastAPI application, with room for routes and dependencies of your own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

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

from fnship import contract
from fnship.function.invocation import Cancelled
from fnship.server.asgi import ASGIFunction, LimitedBody
from fnship.server.asgi import create_app as create_function
from fnship.server.exchange import Exchange, error_response, refusal
from fnship.server.exchange import Response as Answer
from fnship.settings import Settings

__all__ = ["CONNECTION", "FunctionAPI", "create_app"]

CONNECTION: Final = "fnship.connection"
"""The ASGI extension by which our protocol learns what runs for its client."""

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
        connection = request.scope.get("extensions", {}).get(CONNECTION)
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


def _response(answer: Answer) -> Response:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    return Response(bytes(answer.body), answer.status, headers, "application/json")


async def _unexpected_error(request: Request, exc: Exception) -> Response:  # noqa: ARG001 - FastAPI passes it
    return _response(error_response(500, f"{type(exc).__name__}: the log says more"))


def _docstring(function: ASGIFunction) -> str:
    call = function.handler.call if function.handler is not None else None
    return (inspect.getdoc(call) or "") if inspect.isroutine(call) else ""


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
