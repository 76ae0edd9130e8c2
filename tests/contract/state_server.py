"""The engine's state API over real HTTP, with the surface of `fnship.testing.Engine`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from fnship import contract
from fnship.engine import model
from fnship.engine.live import LiveAttempts
from fnship.engine.sql.database import Database
from fnship.engine.state_api import state_route
from fnship.engine.stores.state import Keys, StateStore
from fnship.engine.tokens import Tokens
from fnship.function import codec
from fnship.testing import Item, StateCall

MAX_VALUE = 256 * 1024


class SyncStore:
    """A `StateStore` with the methods of `fnship.testing.MemoryStore`."""

    def __init__(
        self, database: Database, store: StateStore, run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self.database = database
        self.store = store
        self._run = run

    def get(self, scope: tuple[Any, ...], key: str) -> tuple[Any, int] | None:
        found = self._run(self.store.get(Keys(*scope), key))
        return None if found is None else (codec.decode(bytes(found[0])), found[1])

    def put(
        self,
        scope: tuple[Any, ...],
        key: str,
        value: Any,
        version: int | None = None,
        ttl: float | None = None,
    ) -> int:
        raw = codec.encode(value, "value")
        return int(self._run(self.store.put(Keys(*scope), key, raw, version, ttl)))

    def delete(self, scope: tuple[Any, ...], key: str) -> bool:
        return bool(self._run(self.store.delete(Keys(*scope), key)))

    def list(self, scope: tuple[Any, ...], prefix: str = "", **options: Any) -> list[Item]:
        found = self._run(self.store.list(Keys(*scope), prefix, **options))
        return [Item(key, codec.decode(bytes(value)), version) for key, value, version in found]

    def clear(self) -> None:
        self._run(self.database.write(lambda s: s._connection.execute("DELETE FROM state")))


class StateServer:
    """Serves the engine's state route on 127.0.0.1, from a thread."""

    def __init__(self, folder: Path | None = None, max_keys: int = 10_000) -> None:
        self._own = None if folder is not None else Path(tempfile.mkdtemp())
        self.database = Database((folder or self._own or Path()) / "engine.sqlite")
        store = StateStore(self.database, max_value=MAX_VALUE, max_keys=max_keys)
        self.tokens = Tokens(b"s" * 32)
        self.live = LiveAttempts()
        self.state_calls: list[StateCall] = []
        self._app = Starlette(routes=[state_route(store, self.tokens, self.live.holds, MAX_VALUE)])
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.state_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/functions/state"
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._answer, interface="asgi3", log_config=None, lifespan="off", access_log=False
            )
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve)
        self.state = SyncStore(self.database, store, self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.database.close()
        self._listener.close()
        if self._own is not None:
            shutil.rmtree(self._own)

    def token(self, *, activity_id: str = "a1", attempt: int = 1, **options: Any) -> str:
        """The state token of an attempt that is being made."""
        scope = options.get("scope", model.Scope("o1", "p1", "e1", "dev"))
        self.live.begin(activity_id, attempt)
        return self.tokens.mint(
            options.get("kind", "state"),
            activity_id,
            attempt,
            scope,
            options.get("expires", 4e9),
        )

    def headers(self, *, activity_id: str = "a1") -> dict[str, str]:
        return {
            contract.ACTIVITY_ID: activity_id,
            contract.STATE_ENDPOINT: self.state_url,
            contract.STATE_TOKEN: self.token(activity_id=activity_id),
            contract.ORGANIZATION_ID: "o1",
            contract.PROJECT_ID: "p1",
            contract.ENVIRONMENT_ID: "e1",
            contract.ENVIRONMENT_NAME: "dev",
        }

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._server.serve([self._listener]))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the request, and answer it."""
        body = b""
        headers = {name.decode(): value.decode("utf-8") for name, value in scope["headers"]}
        at = len(self.state_calls)
        self.state_calls.append(StateCall(scope["method"], {}, headers, b"", None))

        async def noted() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            self.state_calls[at] = dataclasses.replace(self.state_calls[at], body=body)
            return message

        await self._app(scope, noted, send)
