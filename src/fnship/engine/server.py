"""Puts an engine on its sockets, and takes it off them without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
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
from fnship.errors import UsageError
from fnship.server.loop import run_loop
from fnship.server.sockets import address, listen

__all__ = ["FUNCTIONS", "EngineServer", "open_listener", "run_engine"]

FUNCTIONS: Final = "/functions/"
"""What paths begin with that are for functions."""

_SHORT: Final = 2.0  # seconds that requests get which wait for nothing
_LOOK_EVERY: Final = 0.01
_KEEP_ALIVE: Final = 120  # seconds; longer than clients and proxies keep idle connections
_MAX_BODY: Final = 64 * 2**20  # bytes; each route has a limit of its own that is lower
_STREAMS: Final = re.compile(r"/v1/activities/[^/]+/logs")


def open_listener(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        UsageError: It cannot be had; says what to do.
    """
    try:
        return listen(host, port)
    except UsageError as exc:
        taken = isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.EADDRINUSE
        if taken:
            raise UsageError(
                f"port {port} on {host} is in use by another process; stop that one, or choose "
                "another with --port"
            ) from exc
        raise


def run_engine(
    options: EngineOptions,
    listener: socket.socket,
    *,
    token: str | None = None,
    for_functions: socket.socket | None = None,
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
        functions: Registered before it is ready, in place of others of the same name.
        started: Called when it accepts connections.
        on_lines: Told an activity's id and the lines that its function has logged.
        say: Told what a person at the terminal should know.

    Raises:
        UsageError: It cannot start; says why.
        EngineError: One of `functions` cannot be had.
    """

    async def main() -> None:
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
        server = EngineServer(engine, authority, listener, for_functions, on_lines)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        with _noted(engine.folder.path / "url", address(listener)):
            await server.serve(lambda: started(engine))

    run_loop(main(), uvicorn.Config("", loop="auto").get_loop_factory(), say)


class EngineServer:
    """An engine on its sockets.

    Args:
        engine: The engine, open; `serve` closes it.
        authority: Who may use its API.
        listener: What it listens on.
        for_functions: Another listener, with the routes for functions alone.
        on_lines: Told an activity's id and the lines that its function has logged.
    """

    def __init__(
        self,
        engine: Engine,
        authority: Authority,
        listener: socket.socket,
        for_functions: socket.socket | None = None,
        on_lines: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self._engine = engine
        self._api = create_api(engine, authority)
        functions = create_functions_api(engine, on_lines)
        self._gate = _Gate(self._api, functions)
        self._servers = [(_Server(_config(self._gate)), listener)]
        if for_functions is not None:
            self._servers.append((_Server(_config(functions)), for_functions))
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Stop: accept no more, finish what is in flight within the engine's grace, and end."""
        self._stop.set()

    async def serve(self, started: Callable[[], object] = lambda: None) -> None:
        """Serve until `stop`, and close the engine.

        Args:
            started: Called when connections are accepted; what it raises ends this too.
        """
        serving = [
            asyncio.create_task(server.serve([listener])) for server, listener in self._servers
        ]
        try:
            for server, _ in self._servers:
                await server.up.wait()
            started()
            await self._stop.wait()
        finally:
            await self._close()
            for server, _ in self._servers:
                server.should_exit = True
            await asyncio.gather(*serving)

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
        http="httptools",
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
