"""Puts an engine on its sockets, and takes it off them without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import signal
import socket
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fnship.engine.api.app import create_api, create_functions_api
from fnship.engine.api.common import problem
from fnship.engine.auth import Authority
from fnship.engine.engine import Engine
from fnship.engine.model import Function
from fnship.engine.options import EngineOptions
from fnship.errors import Overloaded, UsageError
from fnship.server.limited import LimitedProtocol
from fnship.server.loop import run_loop
from fnship.server.sockets import address, listen

_log = logging.getLogger(__name__)

__all__ = ["FUNCTIONS", "EngineServer", "local_url", "open_listener", "run_engine"]

FUNCTIONS: Final = "/functions/"
"""What paths begin with that are for functions."""

_SHORT: Final = 2.0  # seconds that requests get which wait for nothing
_LOOK_EVERY: Final = 0.01
_KEEP_ALIVE: Final = 120  # seconds; longer than clients and proxies keep idle connections
_MAX_BODY: Final = 64 * 2**20  # bytes; each route has a limit of its own that is lower
_STREAMS: Final = re.compile(r"/v1/activities/[^/]+/logs")


def open_listener(
    host: str, port: int, *, host_option: str = "--host", port_option: str = "--port"
) -> socket.socket:
    """Open a listening socket.

    Args:
        host: Name or address of an interface.
        port: The port; 0 for a free one.
        host_option: The option that says the host, for messages.
        port_option: The option that says the port.

    Raises:
        UsageError: It cannot be had; says what to do.
    """
    try:
        return listen(host, port)
    except UsageError as exc:
        cause = exc.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        if number == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} on {host} is in use by another process; stop that one, or choose "
                f"another with {port_option}"
            ) from exc
        if number == errno.EADDRNOTAVAIL or isinstance(cause, (socket.gaierror, UnicodeError)):
            raise UsageError(
                f"{host_option} {host!r} is no address of this machine; use 127.0.0.1 or 0.0.0.0"
            ) from exc
        raise


def local_url(listener: socket.socket) -> str:
    """Where this machine reaches a listener, be it bound to every address."""
    url = address(listener)
    return url.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")


def run_engine(
    options: EngineOptions,
    listener: socket.socket,
    *,
    token: str | None = None,
    for_functions: socket.socket | None = None,
    bridge: bool = False,
    functions: Sequence[Function] = (),
    started: Callable[[Engine], None] = lambda _: None,
    on_lines: Callable[[str, str], None] = lambda _, __: None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Run an engine until SIGTERM or SIGINT. In the main thread only.

    Args:
        options: How it is set up.
        listener: What it listens on.
        token: The main token of the API; the one that the data folder keeps by default.
        for_functions: Another listener, with the routes for functions alone.
        bridge: Whether one more such is opened when a function is first run in a container, at
            the address by which containers know this machine.
        functions: Registered before it is ready, in place of others of the same name.
        started: Called when it accepts connections.
        on_lines: Told an activity's id and the lines that its function has logged.
        say: Told what a person at the terminal should know.

    Raises:
        UsageError: It cannot start; says why.
        EngineError: One of `functions` cannot be had.
    """

    async def main() -> None:
        _tell("fnship.engine", say)
        engine = await Engine.open(options)
        try:
            authority = Authority(
                token or engine.folder.token(), engine.folder.path / "tokens.json"
            )
            for function in functions:
                await engine.put_function(function)
        except BaseException:
            await engine.close()
            raise
        server = EngineServer(engine, authority, listener, for_functions, on_lines, bridge=bridge)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        with _noted(engine.folder.path / "url", local_url(listener)):
            await server.serve(lambda: started(engine))

    run_loop(main(), uvicorn.Config("", loop="auto").get_loop_factory(), say)


class _Say(logging.Handler):
    """Hands what is logged to whoever is at the terminal."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        try:
            self._say(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler does: a closed terminal ends nothing
            self.handleError(record)


def _tell(name: str, say: Callable[[str], None]) -> None:
    """Have the log of a part of this process told."""
    logger = logging.getLogger(name)
    logger.handlers = [_Say(say)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class EngineServer:
    """An engine on its sockets.

    Args:
        engine: The engine, open; `serve` closes it.
        authority: Who may use its API.
        listener: What it listens on.
        for_functions: Another listener, with the routes for functions alone.
        on_lines: Told an activity's id and the lines that its function has logged.
        bridge: Whether functions in containers get a listener of their own when there is one.
    """

    def __init__(
        self,
        engine: Engine,
        authority: Authority,
        listener: socket.socket,
        for_functions: socket.socket | None = None,
        on_lines: Callable[[str, str], None] = lambda _, __: None,
        *,
        bridge: bool = False,
    ) -> None:
        self._engine = engine
        self._api = create_api(engine, authority)
        self._functions = create_functions_api(engine, on_lines)
        self._gate = _Gate(self._api, self._functions)
        self._listener = listener
        self._for_functions = for_functions
        self._serving: dict[asyncio.Task[None], _Server] = {}
        self._bridges: dict[str, str] = {}
        self._opening = asyncio.Lock()
        self._stop = asyncio.Event()
        if bridge:
            engine.bridge = self._bridge

    def stop(self) -> None:
        """Stop: accept no more, finish what is in flight within the engine's grace, and end.

        The second time, what is in flight is cut off.
        """
        if self._stop.is_set():
            self._engine.hurry()
            return
        self._stop.set()
        if self._engine.busy:
            grace = self._engine.options.grace
            _log.info("attempts in flight get %g s to end; a second signal cuts them off", grace)

    async def serve(self, started: Callable[[], object] = lambda: None) -> None:
        """Serve until `stop`, and close the engine.

        Args:
            started: Called when connections are accepted; what it raises ends this too.
        """
        try:
            await self._engine.begin()
            await self._serve(self._gate, self._listener)
            if self._for_functions is not None:
                await self._serve(self._functions, self._for_functions)
            started()
            await self._stop.wait()
        finally:
            await self._close()
            for server in self._serving.values():
                server.should_exit = True
            await asyncio.gather(*self._serving)

    async def _serve(self, app: ASGIApp, listener: socket.socket) -> None:
        server = _Server(_config(app))
        self._serving[asyncio.create_task(server.serve([listener]))] = server
        await server.up.wait()

    async def _bridge(self, host: str) -> str:
        """Listen for functions at an address of this machine, unless something does already.

        Returns:
            ``host:port``.

        Raises:
            Overloaded: Nothing can; says what to do.
        """
        async with self._opening:
            if host not in self._bridges:
                self._bridges[host] = await self._open_bridge(host)
        return self._bridges[host]

    async def _open_bridge(self, host: str) -> str:
        bound, port = self._listener.getsockname()[:2]
        if bound in (host, "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            return f"{host}:{port}"
        try:
            listener = _listen_near(host, port)
        except UsageError as exc:
            raise Overloaded(
                f"containers know this machine as {host}, where the engine cannot listen for "
                f"them ({exc}). Start it with --functions-address, where they do reach it, and "
                "with --advertise-url, if they know that by another name"
            ) from exc
        await self._serve(self._functions, listener)
        return address(listener).removeprefix("http://")

    async def _close(self) -> None:
        """Functions are served to the end: attempts in flight need their state and their logs."""
        self._api.state.stopping = True
        self._gate.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHORT):
                while self._gate.active > len(self._api.state.waits):  # noqa: ASYNC110 - rare
                    await asyncio.sleep(_LOOK_EVERY)
        await self._engine.close()
        self._api.state.waits.stop()


def _listen_near(host: str, port: int) -> socket.socket:
    """Listen on a port of `host`, or on any other where it is taken."""
    try:
        return listen(host, port)
    except UsageError:
        return listen(host, 0)


class _Gate:
    """What stands before both applications: it tells them apart, and shuts.

    Attributes:
        active: Requests to the API that are being answered, but for streams.
    """

    def __init__(self, api: ASGIApp, functions: ASGIApp) -> None:
        self._api = api
        self._functions = functions
        self._streams: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.active = 0

    def is_closed(self) -> bool:
        """Whether the API's requests are refused."""
        return self._closed

    def close(self) -> None:
        """Refuse the API's requests from now on, and end its streams."""
        self._closed = True
        for stream in self._streams:
            stream.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path.startswith(FUNCTIONS):
            await self._functions(scope, receive, send)
        elif _STREAMS.fullmatch(path):
            await self._stream(scope, receive, send)
        elif self._closed and path not in ("/healthz", "/readyz"):
            await _refusal(scope, receive, send)
        else:
            self.active += 1
            try:
                await self._api(scope, _limited(receive), send)
            finally:
                self.active -= 1

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_closed():
            await _refusal(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await self._api(scope, receive, noted)
        except asyncio.CancelledError:
            if not self.is_closed():
                raise
            task.uncancel()
            if begun:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await _refusal(scope, receive, send)
        finally:
            self._streams.discard(task)


_refusal: Final = problem(
    503,
    "the engine is stopping",
    "it takes no more requests; try again when it has started anew",
    {"Retry-After": "1", "Connection": "close"},
)


def _limited(receive: Receive) -> Receive:
    """A body that is too large for any route is not taken in."""
    size = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > _MAX_BODY:
            raise HTTPException(413, f"the body has more than {_MAX_BODY} bytes")
        return message

    return limited


class _Protocol(LimitedProtocol):
    """Refuses as the API does."""

    def refusal(self, status: int, detail: str) -> tuple[str, bytes]:
        """The Content-Type and the body of a refusal."""
        answer = problem(status, "the request cannot be read", detail)
        return str(answer.media_type), bytes(answer.body)


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals to whoever started it.

    Attributes:
        up: Set when it accepts connections.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        http=_Protocol,
        interface="asgi3",
        lifespan="off",
        log_config=None,
        log_level="error",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(_SHORT),
        timeout_keep_alive=_KEEP_ALIVE,
        ws="none",
    )


@contextlib.contextmanager
def _noted(file: Path, url: str) -> Iterator[None]:
    """Keep the engine's URL in a file of its data folder, for the commands of this machine."""
    try:
        file.write_text(f"{url}\n", "ascii")
    except OSError as exc:
        raise UsageError(f"{file} cannot be written: {exc.strerror}") from exc
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
