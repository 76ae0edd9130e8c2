"""What every state store does: the one in memory, and the one on SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from state_server import SyncStore

from fnship.engine.sql.database import Database
from fnship.engine.stores.state import Keys, Record, StateStore
from fnship.engine.stores.state import StaleVersion as EngineStaleVersion
from fnship.errors import InvalidRequest, QuotaExceeded
from fnship.testing import Item, MemoryStore, StaleVersion

ORG = ("o1", None, None)
PROJECT = ("o1", "p1", None)
ENVIRONMENT = ("o1", "p1", "e1")
STALE = (StaleVersion, EngineStaleVersion)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sqlite(tmp_path: Path, clock: Clock) -> Iterator[SyncStore]:
    database = Database(tmp_path / "engine.sqlite")
    store = StateStore(database, max_value=100, max_keys=5, clock=clock)
    with asyncio.Runner() as runner:
        yield SyncStore(database, store, runner.run)
    database.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, clock: Clock) -> Any:
    return MemoryStore(clock) if request.param == "memory" else request.getfixturevalue("sqlite")


def test_null_is_a_value(store: Any) -> None:
    assert store.get(ORG, "k") is None
    assert store.put(ORG, "k", None) == 1
    assert store.get(ORG, "k") == (None, 1)


def test_a_stale_version_is_refused_and_names_the_current_one(store: Any) -> None:
    assert store.put(ORG, "k", "a", 0) == 1
    for stale in (0, 2):
        with pytest.raises(STALE) as caught:
            store.put(ORG, "k", "b", stale)
        assert caught.value.current == 1  # type: ignore[union-attr]
    with pytest.raises(STALE):
        store.put(ORG, "new", "b", 1)
    assert store.get(ORG, "new") is None
    assert store.put(ORG, "k", "b") == 2


def test_versions_count_on_after_a_delete_and_after_expiry(store: Any, clock: Clock) -> None:
    store.put(ORG, "k", 1, 0)
    assert store.delete(ORG, "k")
    assert not store.delete(ORG, "k")
    with pytest.raises(STALE):
        store.put(ORG, "k", 2, 1)
    assert store.put(ORG, "k", 2, 0, ttl=10) == 2
    clock.now = 9.9
    assert store.get(ORG, "k") == (2, 2)
    clock.now = 10.0
    assert store.get(ORG, "k") is None
    assert store.list(ORG) == []
    assert not store.delete(ORG, "k")
    with pytest.raises(STALE) as caught:
        store.put(ORG, "k", 3, 2)
    assert caught.value.current == 0  # type: ignore[union-attr]
    assert store.put(ORG, "k", 3, 0) == 3
    clock.now = 1e9
    assert store.get(ORG, "k") == (3, 3)


def test_scopes_are_apart(store: Any) -> None:
    for value, scope in enumerate((ORG, PROJECT, ENVIRONMENT, ("o1", None, "e1"))):
        assert store.put(scope, "k", value) == 1
    assert store.get(PROJECT, "k") == (1, 1)
    assert store.list(ENVIRONMENT) == [Item("k", 2, 1)]
    assert store.delete(PROJECT, "k")
    assert store.get(ORG, "k") == (0, 1)


def test_lists_by_prefix_in_the_order_of_keys(store: Any) -> None:
    for key in ("b", "a%", "a1", "a", "é"):
        store.put(ORG, key, key)
    store.delete(ORG, "a1")
    assert [item.key for item in store.list(ORG)] == ["a", "a%", "b", "é"]
    assert [item.key for item in store.list(ORG, "a")] == ["a", "a%"]
    assert [item.key for item in store.list(ORG, "a%")] == ["a%"]
    assert [item.key for item in store.list(ORG, after="a", limit=2)] == ["a%", "b"]
    assert store.list(PROJECT) == []
    store.clear()
    assert store.list(ORG) == []


@pytest.mark.parametrize("prefix", ["\ud7ff", "\U0010ffff", "a\U0010ffff", "\0", "~"])
def test_prefixes_at_the_edges(store: Any, prefix: str) -> None:
    keys = sorted([prefix, prefix + "x", prefix + "\U0010ffff", chr(1), "b"])
    for key in keys:
        store.put(ORG, key, 1)
    assert [item.key for item in store.list(ORG, prefix)] == [
        key for key in keys if key.startswith(prefix)
    ]


# What only the engine's has


def test_quotas_name_their_limit(sqlite: SyncStore, clock: Clock) -> None:
    for number in range(5):
        sqlite.put(ORG, str(number), "", ttl=10 if number == 0 else None)
    for version in (0, None):
        with pytest.raises(QuotaExceeded, match="than the 5 that are allowed"):
            sqlite.put(ORG, "more", 1, version)
    with pytest.raises(QuotaExceeded, match="has 102 bytes; 100 are allowed"):
        sqlite.put(ORG, "1", "x" * 100)
    assert sqlite.put(ORG, "1", "x" * 98) == 2
    assert sqlite.put(PROJECT, "more", 1) == 1
    clock.now = 10.0  # one has expired, though nothing has purged it
    assert sqlite.put(ORG, "more", 1, 0) == 1


@pytest.mark.parametrize("key", ["", "x" * 1025, "é" * 513, "\ud800"])
def test_keys_that_cannot_be(sqlite: SyncStore, key: str) -> None:
    with pytest.raises(InvalidRequest):
        sqlite.put(ORG, key, 1)


def test_what_has_expired_is_dropped_in_pieces(sqlite: SyncStore, clock: Clock) -> None:
    for number in range(5):
        sqlite.put(ORG, str(number), 1, ttl=1 + number)
    clock.now = 4.0
    assert [sqlite._run(sqlite.store.expire(3)) for _ in range(3)] == [3, 1, 0]
    clock.now = 0.0
    assert [item.key for item in sqlite.list(ORG)] == ["4"]  # the others are really gone
    clock.now = 9.0
    sqlite._run(sqlite.store.purge())
    clock.now = 0.0
    assert sqlite.list(ORG) == []
    assert sqlite.put(ORG, "0", 1, 0) == 2


def rows(store: SyncStore) -> int:
    row = store._run(
        store.database.read(
            lambda session: session._connection.execute("SELECT COUNT(*) FROM state").fetchone()
        )
    )
    return int(row[0])


def test_of_deleted_keys_no_row_is_left_and_versions_count_on(
    sqlite: SyncStore, clock: Clock
) -> None:
    for _ in range(3):
        sqlite.put(ORG, "a", 1)
    sqlite.put(ORG, "b", 1, ttl=1)
    sqlite.put(ORG, "kept", 1)
    sqlite.put(PROJECT, "a", 1)
    sqlite.delete(ORG, "a")
    clock.now = 2.0
    sqlite._run(sqlite.store.purge())
    assert rows(sqlite) == 4  # a client may still hold what it read
    clock.now = 2.0 + 3600.0
    sqlite._run(sqlite.store.purge())
    assert rows(sqlite) == 2
    with pytest.raises(STALE):
        sqlite.put(ORG, "a", 2, 3)
    assert sqlite.put(ORG, "a", 2, 0) == 4
    assert sqlite.put(ORG, "b", 2, 0) == 4
    assert sqlite.put(ORG, "kept", 2) == 2
    assert sqlite.put(PROJECT, "b", 1) == 1
    sqlite._run(sqlite.store.import_(Keys(*ORG), [Record("c", msgspec.Raw(b"1"), 2)]))
    assert sqlite.get(ORG, "c") == (1, 4)
    sqlite._run(sqlite.store.import_(Keys(*ORG), [Record("d", msgspec.Raw(b"1"), 9)]))
    assert sqlite.get(ORG, "d") == (1, 9)


def export(store: SyncStore, scope: Any) -> list[Record]:
    async def read() -> list[Record]:
        return [record async for record in store.store.export(Keys(*scope))]

    return list(store._run(read()))


def test_export_and_import(sqlite: SyncStore, clock: Clock) -> None:
    sqlite.put(ORG, "a", {"x": [1]})
    sqlite.put(ORG, "b", 2)
    sqlite.put(ORG, "b", 3, ttl=10)
    records = export(sqlite, ORG)
    assert [(each.key, bytes(each.value), each.version, each.expires) for each in records] == [
        ("a", b'{"x":[1]}', 1, None),
        ("b", b"3", 2, 10.0),
    ]
    assert sqlite._run(sqlite.store.import_(Keys(*PROJECT), records)) == 2
    assert export(sqlite, PROJECT) == records
    sqlite._run(sqlite.store.import_(Keys(*PROJECT), records))
    assert sqlite.list(PROJECT) == [Item("a", {"x": [1]}, 2), Item("b", 3, 3)]
    clock.now = 10.0
    assert sqlite._run(sqlite.store.import_(Keys(*ENVIRONMENT), records)) == 1


def test_an_import_is_all_or_nothing(sqlite: SyncStore) -> None:
    good = Record("a", msgspec.Raw(b"1"), 1)
    many = [good._replace(key=str(number)) for number in range(6)]
    big = good._replace(value=msgspec.Raw(b"1" * 101))
    for records, kind in (
        (many, QuotaExceeded),
        ([good, big], QuotaExceeded),
        ([good, good._replace(key="")], InvalidRequest),
        ([good, good._replace(version=0)], InvalidRequest),
        ([good, good._replace(version=2**63)], InvalidRequest),
    ):
        with pytest.raises(kind):
            sqlite._run(sqlite.store.import_(Keys(*ORG), records))
        assert sqlite.list(ORG) == []
    assert sqlite._run(sqlite.store.import_(Keys(*ORG), many[:5])) == 5


def test_an_export_of_several_pieces(tmp_path: Path) -> None:
    database = Database(tmp_path / "engine.sqlite")
    with asyncio.Runner() as runner:
        store = SyncStore(database, StateStore(database, max_value=9, max_keys=2000), runner.run)
        for count in (500, 501, 1000):
            records = [Record(f"{n:04}", msgspec.Raw(b"1"), 1) for n in range(count)]
            runner.run(store.store.import_(Keys(str(count)), records))
            assert export(store, (str(count), None, None)) == records
    database.close()


# Against a plain dictionary

KEYS = ("a", "ab", "b")
SCOPES = (ORG, PROJECT)


class Shared:
    """One database and one loop for all examples, each of which has scopes of its own."""

    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.database = Database(Path(self.folder.name) / "engine.sqlite")
        self.examples = 0

    def close(self) -> None:
        self.database.close()
        self.runner.close()
        self.folder.cleanup()


class StoreMachine(RuleBasedStateMachine):
    shared: Shared

    @initialize()
    def begin(self) -> None:
        self.shared.examples += 1
        self.clock = Clock()
        self.model: dict[tuple[Any, str], tuple[Any, int, float]] = {}
        self.highest: dict[tuple[Any, str], int] = {}
        self.hours = 0
        store = StateStore(self.shared.database, max_value=1000, max_keys=10, clock=self.clock)
        self.store = SyncStore(self.shared.database, store, self.shared.runner.run)

    def scope(self, scope: Any) -> tuple[Any, ...]:
        return (f"example {self.shared.examples}", *scope[1:])

    def live(self, scope: Any, key: str) -> tuple[Any, int] | None:
        value, version, expires = self.model.get((scope, key), (None, 0, 0.0))
        return (value, version) if version and self.clock.now < expires else None

    @rule(
        scope=st.sampled_from(SCOPES),
        key=st.sampled_from(KEYS),
        value=st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
        version=st.none() | st.integers(0, 4),
        ttl=st.none() | st.just(3),
    )
    def put(self, scope: Any, key: str, value: Any, version: int | None, ttl: float | None) -> None:
        found = self.live(scope, key)
        current = found[1] if found else 0
        if version is not None and version != current:
            with pytest.raises(STALE) as caught:
                self.store.put(self.scope(scope), key, value, version, ttl)
            assert caught.value.current == current  # type: ignore[union-attr]
            return
        new = self.store.put(self.scope(scope), key, value, version, ttl)
        highest = self.highest.get((scope, key), 0)
        assert new == highest + 1 or (self.hours and new > highest)
        self.highest[scope, key] = new
        expires = float("inf") if ttl is None else self.clock.now + ttl
        self.model[scope, key] = (value, new, expires)

    @rule(scope=st.sampled_from(SCOPES), key=st.sampled_from(KEYS))
    def delete(self, scope: Any, key: str) -> None:
        there = self.live(scope, key) is not None
        assert self.store.delete(self.scope(scope), key) is there
        self.model.pop((scope, key), None)

    @rule(seconds=st.integers(1, 2))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def an_hour_passes(self) -> None:
        self.hours += 1
        self.clock.now += 3600

    @rule()
    def purge(self) -> None:
        self.store._run(self.store.store.purge())

    @rule(scope=st.sampled_from(SCOPES), key=st.sampled_from(KEYS))
    def get(self, scope: Any, key: str) -> None:
        assert self.store.get(self.scope(scope), key) == self.live(scope, key)

    @invariant()
    def agrees(self) -> None:
        for scope in SCOPES:
            expected = [
                Item(key, *found) for key in KEYS if (found := self.live(scope, key)) is not None
            ]
            assert self.store.list(self.scope(scope)) == expected


StoreMachine.TestCase.settings = settings(
    max_examples=2000,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestStoreMachine(StoreMachine.TestCase):  # type: ignore[misc, valid-type]
    @classmethod
    def setUpClass(cls) -> None:
        StoreMachine.shared = Shared()

    @classmethod
    def tearDownClass(cls) -> None:
        StoreMachine.shared.close()
        del StoreMachine.shared
