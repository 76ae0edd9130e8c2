"""The testing engine's thread: an event loop of its own that serves one socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Final

from fnship.testing.http import Answer, Connection, Request

__all__ = ["Server"]

_ROUNDS: Final = 5


class Server:
    """Serves from the moment it is made until `close`.

    Args:
        listener: A listening socket; closed in the end.
        respond: Turns a request into an answer; called on the server's thread.
        ssl_context: For https; None for http.
        max_body: Bytes that a request's body may have.

    Attributes:
        accepted: How many connections there were so far.
    """

    def __init__(
        self,
        listener: socket.socket,
        respond: Callable[[Request], Answer],
        ssl_context: ssl.SSLContext | None,
        max_body: int,
    ) -> None:
        self.accepted = 0
        self._listener = listener
        self._respond = respond
        self._ssl_context = ssl_context
        self._max_body = max_body
        self._connections: set[Connection] = set()
        self._accepting: set[asyncio.Task[None]] = set()
        self._loop = _new_event_loop(tls=ssl_context is not None)
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fnship-testing-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cut every connection, stop listening, and wait until the thread has ended."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()
            self._listener.close()

    async def _serve(self) -> None:
        # A server of asyncio's cannot be closed cleanly while it accepts, so this accepts itself.
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        await self._stop.wait()
        self._loop.remove_reader(self._listener)
        # A connection takes the loop some rounds from being accepted to where it can be cut,
        # and one more to end.
        await _rounds()
        for each in list(self._accepting):  # what is left are handshakes of TLS
            each.cancel()
        await _rounds()
        while self._connections:
            for connection in list(self._connections):
                connection.abort()
            await _rounds()

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:  # the client is gone already
            return
        self.accepted += 1
        task = self._loop.create_task(self._connect(accepted))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError):  # of a handshake that fails
            await self._loop.connect_accepted_socket(
                lambda: Connection(self._respond, self._connections, self._max_body),
                accepted,
                ssl=self._ssl_context,
            )


async def _rounds() -> None:
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)


def _new_event_loop(*, tls: bool) -> asyncio.AbstractEventLoop:
    if tls:  # a handshake under way cannot be ended on uvloop, so that `close` would hang
        return asyncio.new_event_loop()
    try:
        import uvloop
    except ImportError:  # not on every platform; only slower without
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
