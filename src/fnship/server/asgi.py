"""The function as an ASGI application, for a server of your own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from fnship.errors import UsageError
from fnship.function.handler import Handler, import_handler, inspect_handler
from fnship.server.app import App
from fnship.server.exchange import Exchange, Response, start_problem
from fnship.server.watchdog import Watchdog
from fnship.settings import Settings

__all__ = [
    "DISCARD_TIMES",
    "HEAD_LIMIT",
    "HEAD_TOO_LARGE",
    "ASGIFunction",
    "Holder",
    "LimitedBody",
    "create_app",
    "function_of",
    "held_by",
]

H = TypeVar("H")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

DISCARD_TIMES: Final = 16
"""How many times MAX_BODY_SIZE is read of a body that is refused anyway: a client that is busy
sending would see a broken connection instead of the answer."""

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a request's head."""

HEAD_TOO_LARGE: Final = f"the request's headers are larger than {HEAD_LIMIT} bytes"

_JSON: Final = (b"content-type", b"application/json")


class _Gone(Exception):
    """The client left before its request was whole."""


class LimitedBody:
    """Puts a body together, and says when to stop reading one that is too large.

    Args:
        limit: ``MAX_BODY_SIZE``.

    Attributes:
        seen: Bytes so far.
    """

    def __init__(self, limit: int) -> None:
        self.seen = 0
        self._limit = limit
        self._kept = bytearray()

    def take(self, piece: bytes) -> bool:
        """Take a piece. Returns whether to read on."""
        self.seen += len(piece)
        if self.seen <= self._limit:
            self._kept += piece
        return self.seen <= self._limit * DISCARD_TIMES

    @property
    def whole(self) -> bytearray | None:
        """The whole body; None where it was too large."""
        return self._kept if self.seen <= self._limit else None


class ASGIFunction:
    """Serves one function over ASGI.

    The lifespan protocol starts and stops it; without that, the first request starts it.
    ASGI cannot tell of a client that goes away without a task to watch for it, so under a
    server of your own such a call runs on; ours cancels it.

    Args:
        handler: What to serve; None where it cannot be loaded.
        settings: Limits and logs.
        environ: Handed to the function's ``start(config)``; ``os.environ`` by default.
        problem: Why there is no handler.

    Attributes:
        app: The running function; None before the start and after the end.
        handler: What is served; None where it cannot be loaded.
        watchdog: The native watchdog's part in this process; None where there is none.
        draining: Whether clients are asked to go elsewhere.
    """

    def __init__(
        self,
        handler: Handler | None,
        settings: Settings,
        environ: Mapping[str, str] | None = None,
        problem: UsageError | None = None,
    ) -> None:
        self.settings = settings
        self.app: App | None = None
        self.watchdog: Watchdog | None = None
        self.draining = False
        self.handler = handler
        self._environ = os.environ if environ is None else environ
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's lifespan."""
        if scope["type"] == "http":
            if self.app is None:
                with contextlib.suppress(Exception):  # the application answers with what it was
                    await self.startup()
            assert self.app is not None
            try:
                body = await self._body(receive)
            except _Gone:
                return
            exchange = Exchange(scope["method"], scope["path"], scope["headers"], body)
            exchange.connection = connection = _Connection(send)
            response = await self.app.respond(exchange)
            if not exchange.gone:
                await connection.answer(exchange, response)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise ValueError(f"a function has no use for ASGI's {scope['type']!r}")

    @property
    def name(self) -> str:
        """What to call it in messages, such as ``function.handler:handle``."""
        return self.handler.name if self.handler is not None else self.settings.target

    def open(self) -> None:
        """Make the function, on the event loop that will run it; it answers "starting"."""
        self.app = App(
            self.handler, self.settings, self._environ, self._problem, watchdog=self.watchdog
        )

    async def startup(self) -> None:
        """Start the function; see `fnship.server.app.App.startup`."""
        if self.app is None:
            self.open()
        assert self.app is not None
        try:
            await self.app.startup()
        except BaseException as exc:
            self.app.broken(UsageError(start_problem(exc)))
            raise

    async def shutdown(self, spent: float = 0.0) -> None:
        """Stop the function; see `fnship.server.app.App.shutdown`."""
        if self.app is not None:
            app, self.app = self.app, None
            await app.shutdown(spent)

    async def _body(self, receive: Receive) -> bytes | bytearray | None:
        """The whole body; None where it is larger than ``MAX_BODY_SIZE``."""
        body = LimitedBody(self.settings.max_body_size)
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            more = body.take(message.get("body", b"")) and bool(message.get("more_body"))
        return body.whole

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.startup()
                except Exception as exc:  # noqa: BLE001 - the server is told, and ends
                    reason = f"start() failed: {type(exc).__name__}: {exc}"
                    await self.shutdown()
                    await send({"type": "lifespan.startup.failed", "message": reason})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.shutdown()
                await send({"type": "lifespan.shutdown.complete"})
                return


def create_app(handler: Any, settings: Settings | None = None) -> ASGIFunction:
    """An ASGI application that serves `handler`, for a server of your own.

    Args:
        handler: ``handle(logger, request)``, async or plain; or ``module:name`` to import.
        settings: Read from the environment by default.

    Raises:
        UsageError: A setting or the handler is wrong.
    """
    settings = settings or Settings.from_env()
    found = import_handler(handler) if isinstance(handler, str) else inspect_handler(handler)
    return ASGIFunction(found, settings)


@runtime_checkable
class Holder(Protocol):
    """An application of some framework that has a function in it."""

    server_kind: str
    function: ASGIFunction


def function_of(served: ASGIFunction | Holder) -> ASGIFunction:
    """The function in what is served."""
    return served if isinstance(served, ASGIFunction) else served.function


def held_by(holder: type[H], served: ASGIFunction | Holder) -> H:
    """What is served as an application of one framework, made where it is a bare function.

    Args:
        holder: The framework's class, which is made with the function alone.
        served: What a server was given.
    """
    if isinstance(served, ASGIFunction):
        return holder(served)  # type: ignore[call-arg] # a class of unknown arguments
    assert isinstance(served, holder)
    return served


class _Connection:
    """The way back of one request."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._early: asyncio.Task[None] | None = None

    async def answer(self, exchange: Exchange, response: Response) -> None:
        status, answer, _ = response
        length = (b"content-length", b"%d" % len(answer))
        start = {"status": status, "headers": [_JSON, length, *exchange.head(response)]}
        await self._send({"type": "http.response.start", **start})
        await self._send({"type": "http.response.body", "body": answer})

    def answer_early(self, exchange: Exchange, response: Response) -> None:
        exchange.answered_early(response)
        self._early = asyncio.get_running_loop().create_task(self.answer(exchange, response))
