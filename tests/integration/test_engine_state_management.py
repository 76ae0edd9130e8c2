"""The routes by which people manage state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fnship.engine.api.state import admin_routes, read_routes
from fnship.engine.sql.database import Database
from fnship.engine.stores.state import Keys, StateStore
from fnship.errors import EngineError

PROJECT = {"organization_id": "o1", "project_id": "p1"}
ITEM = "/v1/state/item"


class Client:
    """Calls an application in this process."""

    def __init__(self, app: FastAPI, runner: asyncio.Runner) -> None:
        self._app = app
        self._runner = runner

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._send("GET", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self._send("PUT", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self._send("POST", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self._send("DELETE", path, **options)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
                return await client.request(method, path, **options)

        return self._runner.run(send())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    database = Database(tmp_path / "engine.sqlite")
    yield StateStore(database, max_value=100, max_keys=3)
    database.close()


@pytest.fixture
def client(store: StateStore) -> Iterator[Client]:
    app = FastAPI()
    app.state.engine = SimpleNamespace(state=store)
    app.include_router(read_routes)
    app.include_router(admin_routes)

    @app.exception_handler(EngineError)
    async def refuse(_: Request, exc: EngineError) -> JSONResponse:
        return JSONResponse({"detail": str(exc)}, exc.status)

    with asyncio.Runner() as runner:
        yield Client(app, runner)


def test_the_life_of_a_key(client: Client, store: StateStore) -> None:
    query = PROJECT | {"key": "a/b c"}
    assert client.get(ITEM, params=query).status_code == 404
    assert client.put(ITEM, params=query, content=b'{"x": 1}').json() == {"version": 1}
    assert client.get(ITEM, params=query).json() == {"value": {"x": 1}, "version": 1}
    assert client.put(ITEM, params=query, content=b"2").json() == {"version": 2}
    assert client.put(ITEM, params=query | {"version": "1"}, content=b"3").status_code == 409
    found = asyncio.run(store.get(Keys("o1", "p1"), "a/b c"))
    assert found is not None
    assert (bytes(found[0]), found[1]) == (b"2", 2)
    assert client.delete(ITEM, params=query).status_code == 204
    assert client.delete(ITEM, params=query).status_code == 404


def test_pages(client: Client) -> None:
    for key in "abc":
        client.put(ITEM, params=PROJECT | {"key": key}, content=b"1")
    first = client.get("/v1/state", params=PROJECT | {"limit": 2}).json()
    last = client.get("/v1/state", params=PROJECT | {"cursor": first["cursor"]}).json()
    assert [item["key"] for item in first["items"] + last["items"]] == ["a", "b", "c"]
    assert last["cursor"] is None
    assert client.get("/v1/state", params={"cursor": "nowhere!"}).status_code == 400
    assert client.get("/v1/state").json() == {"items": [], "cursor": None}


def test_export_and_import(client: Client) -> None:
    client.put(ITEM, params=PROJECT | {"key": "a"}, content=b'{"x": "\xc3\xa9"}')
    client.put(ITEM, params=PROJECT | {"key": "b", "ttl": "60"}, content=b"2")
    exported = client.get("/v1/state/export", params=PROJECT).content
    assert [json.loads(line)["key"] for line in exported.splitlines()] == ["a", "b"]
    there = {"organization_id": "o2"}
    answer = client.post("/v1/state/import", params=there, content=exported)
    assert answer.json() == {"imported": 2}
    assert client.get("/v1/state/export", params=there).content == exported


@pytest.mark.parametrize(
    ("lines", "status", "says"),
    [
        (b'{"key": "a", "value": 1}\n{"key": "b"}', 400, "line 2"),
        (b'{"key": "a", "value": NaN}', 400, "line 1"),
        (b'{"key": "", "value": 1}', 400, "1 to 1024 bytes"),
        (b"\n".join(b'{"key": "%d", "value": 1}' % n for n in range(4)), 413, "the 3 that"),
    ],
)
def test_an_import_that_is_refused(client: Client, lines: bytes, status: int, says: str) -> None:
    answer = client.post("/v1/state/import", params=PROJECT, content=lines)
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert client.get("/v1/state", params=PROJECT).json()["items"] == []


def test_values_and_scopes_that_are_refused(client: Client) -> None:
    query = PROJECT | {"key": "a"}
    for value in (b"", b"{", b"NaN", b"\xff"):
        assert client.put(ITEM, params=query, content=value).status_code == 400
    assert client.put(ITEM, params=query, content=b" " * 101 + b"1").status_code == 413
    for wrong in ({"ttl": "inf"}, {"project_id": "", "environment_id": "e1"}):
        assert client.put(ITEM, params=query | wrong, content=b"1").status_code == 400
