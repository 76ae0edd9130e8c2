"""The engine's state API: the client's suite against it, tokens, quotas, races, a full disk."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import urllib3
from state_server import MAX_VALUE, StateServer
from test_state_client import (  # noqa: F401 - the same tests, with another engine
    front,
    test_a_client_shows_no_token,
    test_a_forked_process_has_pools_of_its_own,
    test_a_listing_of_several_pages,
    test_a_loop_driven_by_hand,
    test_a_stale_write_conflicts,
    test_a_sync_call_inside_a_coroutine,
    test_listing,
    test_neither_client_is_loaded_before_it_is_used,
    test_no_increment_is_lost_between_threads_and_loops,
    test_sessions_are_closed_when_asked_and_opened_again,
    test_set_async_takes_async_and_plain_functions,
    test_set_meets_another_writer,
    test_set_refuses_an_async_function,
    test_set_returns_the_new_value,
    test_the_builder,
    test_the_life_of_a_key,
    test_what_the_update_raises_comes_out,
)

from fnship import contract
from fnship.engine.model import Scope

PROJECT = {"organization_id": "o1", "project_id": "p1", "environment_id": None}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StateServer]:
    with StateServer(tmp_path) as server:
        yield server


class Caller:
    """Sends requests, and gives status and body."""

    def __init__(self, server: StateServer) -> None:
        self.server = server
        self.token: str | None = server.token()
        self._pool = urllib3.PoolManager(retries=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def send(self, method: str, body: bytes | None = None, **query: str) -> tuple[int, Any]:
        headers = {} if self.token is None else {contract.STATE_TOKEN: self.token}
        url = self.server.state_url
        if query:
            url += "?" + "&".join(f"{name}={value}" for name, value in query.items())
        answer = self._pool.request(method, url, body=body, headers=headers)
        return answer.status, json.loads(answer.data)

    def put(self, key: str = "k", **fields: Any) -> tuple[int, Any]:
        body = {"scope": PROJECT, "key": key, "value": 1, "version": 0} | fields
        return self.send("PUT", json.dumps(body).encode())

    def get(self, **query: str) -> tuple[int, Any]:
        return self.send("GET", **({"key": "k", "organization_id": "o1"} | query))


@pytest.fixture
def caller(engine: StateServer) -> Iterator[Caller]:
    with Caller(engine) as caller:
        yield caller


def test_answers(caller: Caller) -> None:
    assert caller.put(value={"a": [1, "ü"]}) == (200, {"version": 1})
    assert caller.get(project_id="p1") == (200, {"value": {"a": [1, "ü"]}, "version": 1})
    assert caller.get() == (404, {"error": "no such key"})
    assert caller.put() == (409, {"error": "the key is at version 1"})
    query = {"prefix": "", "organization_id": "o1", "project_id": "p1"}
    status, listed = caller.send("GET", **query)
    assert (status, listed["cursor"]) == (200, None)
    assert listed["items"] == [{"key": "k", "version": 1, "value": {"a": [1, "ü"]}}]
    delete = json.dumps({"scope": PROJECT, "key": "k"}).encode()
    assert [caller.send("DELETE", delete)[0] for _ in range(2)] == [200, 404]


def test_pages(caller: Caller) -> None:
    for key in "abc":
        caller.put(key)
    query = {"prefix": "", "organization_id": "o1", "project_id": "p1", "limit": "2"}
    _, first = caller.send("GET", **query)
    _, last = caller.send("GET", **query, cursor=first["cursor"])
    keys = [[item["key"] for item in page["items"]] for page in (first, last)]
    assert (keys, last["cursor"]) == ([["a", "b"], ["c"]], None)


def test_a_token_is_good_for_its_own_attempt_and_scope(caller: Caller) -> None:
    server = caller.server
    assert caller.put()[0] == 200
    server.live.begin("a1", 2)
    assert caller.get() == (
        401,
        {"error": "attempt 1 of activity a1 has ended, and its token with it"},
    )
    for refused in (
        server.token(kind="log"),
        server.token(expires=1.0),
        server.token()[:-1] + "\x7e",
        "",
        "1..",
        None,
    ):
        caller.token = refused
        status, answer = caller.get()
        assert status == 401
        assert refused is None or len(refused) < 9 or refused not in str(answer)
    caller.token = server.token(scope=Scope("o1", "p2", "e1"))
    assert caller.get(project_id="p1")[0] == 403
    assert caller.put()[0] == 403
    delete = json.dumps({"scope": PROJECT, "key": "k"}).encode()
    assert caller.send("DELETE", delete)[0] == 403
    assert caller.send("GET", prefix="", organization_id="o1", project_id="p1")[0] == 403
    assert caller.get(organization_id="o2")[0] == 403
    assert caller.get(project_id="p2", environment_id="e2")[0] == 403
    assert caller.get()[0] == 404  # the organization's, which is its own


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"scope": {"organization_id": "o1"}, "key": "k", "value": NaN, "version": 0}',
        b'{"scope": {"organization_id": "o1"}, "key": "k", "value": "\xff", "version": 0}',
        b'{"scope": {"organization_id": "o1"}, "key": "", "value": 1, "version": 0}',
        b'{"scope": {"organization_id": "o1"}, "key": "k", "value": 1, "version": -1}',
        b'{"scope": {"organization_id": "o1"}, "key": "k", "value": 1, "version": 1e400}',
        b'{"scope": {"organization_id": "o1"}, "key": "k", "value": 1, "version": 0, "ttl": 0}',
        b'{"scope": {"organization_id": "o1"}, "key": "k", "value": 1}',
        b'{"scope": {"organization_id": ""}, "key": "k", "value": 1, "version": 0}',
        b'{"scope": {"organization_id": "o1"}, "key": "k", "value": '
        + b"[" * 50_000
        + b"]" * 50_000
        + b', "version": 0}',
    ],
)
def test_a_malformed_write_is_refused(caller: Caller, body: bytes) -> None:
    status, answer = caller.send("PUT", body)
    assert (status, list(answer)) == (400, ["error"])
    assert caller.server.state.list(("o1", None, None)) == []


@pytest.mark.parametrize(
    "query",
    [
        {"key": "k"},
        {"organization_id": "o1"},
        {"organization_id": "o1", "key": "k", "prefix": "k"},
        {"organization_id": "o1", "environment_id": "e1", "key": "k"},
        {"organization_id": "o1", "prefix": "", "limit": "0"},
        {"organization_id": "o1", "prefix": "", "limit": "1001"},
        {"organization_id": "o1", "prefix": "", "limit": "0000010009"},
        {"organization_id": "o1", "prefix": "", "limit": "9" * 5000},
        {"organization_id": "o1", "prefix": "", "cursor": "nowhere!"},
    ],
)
def test_a_malformed_read_is_refused(caller: Caller, query: dict[str, str]) -> None:
    assert caller.send("GET", **query)[0] == 400


def test_quotas(tmp_path: Path) -> None:
    with StateServer(tmp_path, max_keys=2) as server, Caller(server) as caller:
        assert caller.put(value="x" * (MAX_VALUE - 2))[0] == 200
        status, answer = caller.put(value="x" * (MAX_VALUE - 1), version=1)
        assert (status, str(MAX_VALUE) in answer["error"]) == (413, True)
        assert caller.send("PUT", b" " * (MAX_VALUE + 70_000))[0] == 413
        assert caller.put("l")[0] == 200
        status, answer = caller.put("m")
        assert (status, " 2 " in answer["error"]) == (413, True)
        assert caller.put("l", version=1)[0] == 200  # what is there may change
        assert caller.put("l")[0] == 409
        assert caller.put("m", scope={"organization_id": "o1"})[0] == 200


@pytest.mark.timeout(400)  # 10,000 commits, one after the other, each to the disk
def test_fifty_clients_with_two_hundred_increments_each(engine: StateServer) -> None:
    headers = {contract.STATE_TOKEN: engine.token()}
    query = {"key": "n", "organization_id": "o1", "project_id": "p1"}
    won: list[int] = []
    lost: list[int] = []

    async def increment(session: aiohttp.ClientSession) -> None:
        version = value = done = 0
        pause = 0.1
        while done < 200:
            body = {"scope": PROJECT, "key": "n", "value": value + 1, "version": version}
            async with session.put(engine.state_url, json=body) as answer:
                if answer.status == 200:
                    value, version = value + 1, (await answer.json())["version"]
                    won.append(version)
                    done += 1
                    pause = 0.1
                    continue
                assert answer.status == 409
                lost.append(version)
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, 3)
            async with session.get(engine.state_url, params=query) as answer:
                found = await answer.json()
                value, version = found["value"], found["version"]

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            await asyncio.gather(*(increment(session) for _ in range(50)))

    asyncio.run(run())
    assert sorted(won) == list(range(1, 10_001))
    assert lost
    assert engine.state.get(("o1", "p1", None), "n") == (10_000, 10_000)


def test_a_full_disk(caller: Caller) -> None:
    database = caller.server.database

    def bound(spare: int) -> None:
        def work(session: Any) -> None:
            (pages,) = session._connection.execute("PRAGMA page_count").fetchone()
            session._connection.execute(f"PRAGMA max_page_count={pages + spare}")

        caller.server.state._run(database.write(work))

    bound(60)
    answers = {f"k{n:02}": caller.put(f"k{n:02}", value="x" * 30_000) for n in range(40)}
    stored = [key for key, (status, _) in answers.items() if status == 200]
    assert {status for status, _ in answers.values()} == {200, 507}
    assert all("full" in answer["error"] for status, answer in answers.values() if status == 507)
    found = caller.server.state.list(("o1", "p1", None))
    assert [(item.key, item.version, len(item.value)) for item in found] == [
        (key, 1, 30_000) for key in stored
    ]
    connection = sqlite3.connect(database.path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    bound(1000)
    assert caller.put("later", value="x" * 30_000) == (200, {"version": 1})
