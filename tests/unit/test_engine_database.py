"""The engine's database: what is committed together, and who is told when it cannot be."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnship.engine.sql.database import Database, Session
from fnship.errors import Missing, StorageError, UsageError

pytestmark = pytest.mark.anyio
SCOPE = {"organization_id": "o", "project_id": "", "environment_id": ""}


def put(session: Session, key: str, value: bytes = b"1") -> int:
    row = session.one(
        "state",
        "put",
        SCOPE | {"key": key, "value": value, "version": None, "expires": None, "now": 0.0},
    )
    assert row is not None
    return int(row["version"])


async def keys(database: Database) -> set[str]:
    values = SCOPE | {"prefix": "", "behind": None, "after": "", "now": 0.0, "limit": 10**6}
    rows = await database.read(lambda session: session.all("state", "list", values))
    return {row["key"] for row in rows}


def bound_pages(spare: int) -> Any:
    """Let the writer's connection grow by so many pages and no more, as a full disk does."""

    def work(session: Session) -> None:
        connection = session._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages + spare}")

    return work


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "engine.db")
    yield database
    database.close()


async def held(database: Database) -> tuple[threading.Event, asyncio.Future[None]]:
    """Hold the writer, so that what is written next shares one commit."""
    begun, go = threading.Event(), threading.Event()

    def wait(_: Session) -> None:
        begun.set()
        assert go.wait(30)

    holding = asyncio.ensure_future(database.write(wait))
    assert await asyncio.to_thread(begun.wait, 30)
    return go, holding


async def together(database: Database, works: list[Any]) -> list[Any]:
    go, holding = await held(database)
    writes = [asyncio.ensure_future(database.write(work)) for work in works]
    await asyncio.sleep(0)  # all are queued
    go.set()
    await holding
    return await asyncio.gather(*writes, return_exceptions=True)


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


async def test_one_that_fails_leaves_the_others_alone(database: Database) -> None:
    def fails(session: Session) -> None:
        put(session, "lost")
        raise Missing("no")

    def mistaken(session: Session) -> None:
        put(session, "lost too")
        session._connection.execute("SELECT * FROM nowhere")

    def stops(session: Session) -> None:
        raise StopIteration

    first, lost, wrong, stopped, last = await together(
        database,
        [lambda s: put(s, "a"), fails, mistaken, stops, lambda s: put(s, "b")],
    )
    assert (first, last) == (1, 1)
    assert isinstance(lost, Missing)
    assert isinstance(wrong, StorageError)
    assert isinstance(stopped, RuntimeError)
    assert await keys(database) == {"a", "b"}


async def test_a_commit_that_fails_is_told_to_all(database: Database) -> None:
    def breaks(session: Session) -> None:
        # A child without its parent, looked at when it is committed.
        session._connection.execute("PRAGMA defer_foreign_keys=ON")
        session._connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        session._connection.execute("CREATE TABLE child (id INTEGER REFERENCES parent)")
        session._connection.execute("INSERT INTO child VALUES (1)")

    def refused(session: Session) -> None:
        raise Missing("what was seen is gone with the rest")

    told = await together(database, [lambda s: put(s, "a"), breaks, refused])
    assert [type(each) for each in told] == [StorageError] * 3
    assert len({id(each) for each in told}) == 3
    assert await keys(database) == set()
    assert await database.write(lambda s: put(s, "a")) == 1


async def test_a_transaction_that_sqlite_gave_up_is_told_to_all(database: Database) -> None:
    def gives_up(session: Session) -> None:
        put(session, "b")
        session._connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    told = await together(database, [lambda s: put(s, "a"), gives_up, lambda s: put(s, "c")])
    assert [str(each) for each in told] == ["engine.db: database or disk is full"] * 3
    assert await keys(database) == set()
    assert await database.write(lambda s: put(s, "d")) == 1


async def test_a_full_disk(database: Database) -> None:
    await database.write(bound_pages(30))
    stored = set()
    for round_ in range(10):
        names = [f"{round_}-{n}" for n in range(10)]
        told = await together(
            database, [lambda s, name=name: put(s, name, b"x" * 9000) for name in names]
        )
        for name, answer in zip(names, told, strict=True):
            if answer == 1:
                stored.add(name)
            else:
                assert isinstance(answer, StorageError)
    assert 0 < len(stored) < 100
    assert await keys(database) == stored
    assert integrity(database.path) == "ok"
    await database.write(bound_pages(1000))
    assert await database.write(lambda s: put(s, "after", b"x" * 9000)) == 1


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.sampled_from(["good", "raises", "full", "gives up"]), min_size=1, max_size=8),
        min_size=1,
        max_size=4,
    )
)
def test_what_was_answered_is_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]]
) -> None:
    def work(kind: str, name: str) -> Any:
        def do(session: Session) -> int:
            version = put(session, name)
            if kind == "raises":
                raise Missing("no")
            if kind == "full":
                raise sqlite3.OperationalError("database or disk is full")
            if kind == "gives up":
                session._connection.execute("ROLLBACK")
                raise sqlite3.OperationalError("disk I/O error")
            return version

        return do

    async def run() -> None:
        database = Database(tmp_path_factory.mktemp("db") / "engine.db")
        try:
            stored = set()
            for number, kinds in enumerate(batches):
                names = [f"{number}-{index}" for index in range(len(kinds))]
                told = await together(database, list(map(work, kinds, names)))
                for kind, name, answer in zip(kinds, names, told, strict=True):
                    assert answer == 1 or isinstance(answer, Missing | StorageError)
                    assert kind == "good" or answer != 1
                    if answer == 1:
                        stored.add(name)
            assert await keys(database) == stored
        finally:
            database.close()

    asyncio.run(run())


async def test_what_is_queued_is_written_before_the_end(database: Database) -> None:
    writes = [
        asyncio.ensure_future(database.write(lambda s, n=n: put(s, str(n)))) for n in range(300)
    ]
    await asyncio.sleep(0)
    database.close()
    assert await asyncio.gather(*writes) == [1] * 300
    database.close()
    with pytest.raises(StorageError, match="closed"):
        await database.write(lambda s: put(s, "late"))
    with pytest.raises(StorageError, match="closed"):
        await keys(database)


async def test_a_caller_that_went_away_harms_nobody(database: Database) -> None:
    go, holding = await held(database)
    gone = asyncio.ensure_future(database.write(lambda s: put(s, "gone")))
    stays = asyncio.ensure_future(database.write(lambda s: put(s, "stays")))
    await asyncio.sleep(0)
    gone.cancel()
    go.set()
    await holding
    assert await stays == 1
    assert gone.cancelled()


def test_a_loop_that_was_closed_harms_nobody(database: Database) -> None:
    go = threading.Event()

    async def leave() -> None:
        writing = asyncio.ensure_future(database.write(lambda _: go.wait(30)))
        await asyncio.sleep(0)
        assert not writing.done()

    asyncio.run(leave())
    go.set()
    assert asyncio.run(database.write(lambda s: put(s, "a"))) == 1


@pytest.mark.parametrize("content", [b"this is no database" * 100, None])
def test_a_file_that_cannot_be_opened(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "engine.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be opened"):
        Database(path)


def test_a_file_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    Database(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=9999")
    connection.close()
    with pytest.raises(UsageError, match="newer"):
        Database(path)
