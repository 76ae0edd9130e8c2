from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fnship.errors import NotJSON
from fnship.testing import Item, MemoryStore, StaleVersion

ORG = ("o1", None, None)
PROJECT = ("o1", "p1", None)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_values_are_copies() -> None:
    store = MemoryStore()
    value = {"list": [1]}
    store.put(ORG, "k", value)
    value["list"].append(2)
    store.get(ORG, "k")[0]["list"].append(3)  # type: ignore[index]
    assert store.get(ORG, "k") == ({"list": [1]}, 1)


def test_null_is_a_value() -> None:
    store = MemoryStore()
    assert store.get(ORG, "k") is None
    store.put(ORG, "k", None)
    assert store.get(ORG, "k") == (None, 1)


def test_what_is_no_json_is_refused() -> None:
    store = MemoryStore()
    with pytest.raises(NotJSON, match=r'value\["a"\]'):
        store.put(ORG, "k", {"a": b""})
    assert store.get(ORG, "k") is None


def test_a_stale_version_is_refused_and_names_the_current_one() -> None:
    store = MemoryStore()
    assert store.put(ORG, "k", "a", 0) == 1
    for stale in (0, 2):
        with pytest.raises(StaleVersion) as caught:
            store.put(ORG, "k", "b", stale)
        assert caught.value.current == 1
    with pytest.raises(StaleVersion):
        store.put(ORG, "new", "b", 1)
    assert store.put(ORG, "k", "b") == 2


def test_versions_count_on_after_a_delete_and_after_expiry() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    store.put(ORG, "k", 1, 0)
    assert store.delete(ORG, "k")
    assert not store.delete(ORG, "k")
    assert store.put(ORG, "k", 2, 0, ttl=10) == 2
    clock.now = 9.9
    assert store.get(ORG, "k") == (2, 2)
    clock.now = 10.0
    assert store.get(ORG, "k") is None
    assert not store.delete(ORG, "k")
    assert store.put(ORG, "k", 3, 0) == 3
    clock.now = 1e9
    assert store.get(ORG, "k") == (3, 3)


def test_scopes_are_apart() -> None:
    store = MemoryStore()
    store.put(ORG, "k", "wide")
    store.put(PROJECT, "k", "narrow")
    assert store.get(ORG, "k") == ("wide", 1)
    assert store.list(PROJECT) == [Item("k", "narrow", 1)]


def test_lists_by_prefix_in_the_order_of_keys() -> None:
    store = MemoryStore()
    for key in ("b", "a2", "a1", "a", "é"):
        store.put(ORG, key, key)
    store.delete(ORG, "a1")
    assert [item.key for item in store.list(ORG)] == ["a", "a2", "b", "é"]
    assert [item.key for item in store.list(ORG, "a")] == ["a", "a2"]
    assert [item.key for item in store.list(ORG, after="a", limit=2)] == ["a2", "b"]
    assert store.list(PROJECT) == []
    store.clear()
    assert store.list(ORG) == []


class StoreMachine(RuleBasedStateMachine):
    """The store against a plain dictionary."""

    keys = st.sampled_from(["a", "ab", "b"])

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.model: dict[str, tuple[Any, int, float]] = {}
        self.highest: dict[str, int] = {}

    def live(self, key: str) -> tuple[Any, int] | None:
        value, version, expires = self.model.get(key, (None, 0, 0.0))
        return (value, version) if version and self.clock.now < expires else None

    @rule(key=keys, value=st.integers(), version=st.integers(0, 5), ttl=st.none() | st.just(3))
    def put(self, key: str, value: int, version: int, ttl: float | None) -> None:
        found = self.live(key)
        current = found[1] if found else 0
        if version != current:
            with pytest.raises(StaleVersion):
                self.store.put(ORG, key, value, version, ttl)
            return
        new = self.store.put(ORG, key, value, version, ttl)
        assert new == self.highest.get(key, 0) + 1
        self.highest[key] = new
        self.model[key] = (value, new, float("inf") if ttl is None else self.clock.now + ttl)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        assert self.store.delete(ORG, key) is (self.live(key) is not None)
        self.model.pop(key, None)

    @rule(seconds=st.integers(1, 2))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def agrees(self) -> None:
        for key in ("a", "ab", "b"):
            assert self.store.get(ORG, key) == self.live(key)
        for prefix in ("", "a"):
            expected = [
                Item(key, *found)
                for key in ("a", "ab", "b")
                if key.startswith(prefix) and (found := self.live(key)) is not None
            ]
            assert self.store.list(ORG, prefix) == expected


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
