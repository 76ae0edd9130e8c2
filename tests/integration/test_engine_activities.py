"""The store of activities, on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from fnship import contract
from fnship.engine.model import Activity, Outcome, Scope, Status
from fnship.engine.sql.database import Database
from fnship.engine.stores.activities import ActivityQuery, ActivityStore, Callback
from fnship.errors import AlreadyThere, InvalidRequest, KeyReused, Missing

NOW = 1_800_000_000.0


def with_store(tmp_path: Path, main: Callable[[ActivityStore], Awaitable[None]]) -> None:
    async def run() -> None:
        database = Database(tmp_path / "engine.sqlite")
        try:
            await main(ActivityStore(database))
        finally:
            database.close()

    asyncio.run(run())


def activity(activity_id: str = "a", payload: bytes = b"{}", **fields: object) -> Activity:
    return Activity(
        id=activity_id, function="f", payload=msgspec.Raw(payload), created=NOW, **fields
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        given = activity(
            "a", b'{ "a" : 1.50 }', scope=Scope("o", "p", "e", "n"), callback="http://x"
        )
        assert await store.accept(given) == (given, True)
        assert await store.get("a") == given
        with pytest.raises(Missing, match="no activity 'b'"):
            await store.get("b")

    with_store(tmp_path, main)


def test_an_id_given_again_is_the_same_activity(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        first, _ = await store.accept(activity("a", b'{"x":1,"y":2}'))
        again, created = await store.accept(activity("a", b'{ "y": 2, "x": 1 }'))
        assert (again, created) == (first, False)
        for other in (
            activity("a", b'{"x":1,"y":3}'),
            activity("a", b'{"x":true,"y":2}'),  # true is not 1
            activity("a", b'{"x":1,"y":2}').changed(function="g"),
            activity("a", b'{"x":1,"y":2}', scope=Scope("elsewhere")),
        ):
            with pytest.raises(AlreadyThere):
                await store.accept(other)

    with_store(tmp_path, main)


def test_a_key_given_again_is_the_same_activity(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        first, _ = await store.accept(activity("a", b'{"x":1}'), "k")
        again, created = await store.accept(activity("b", b'{"x":1}'), "k", named=False)
        assert (again, created) == (first, False)
        with pytest.raises(Missing):
            await store.get("b")
        with pytest.raises(KeyReused, match=r"'k'.*another payload"):
            await store.accept(activity("c", b'{"x":2}'), "k", named=False)
        with pytest.raises(KeyReused, match=r"'k'.*another id"):
            await store.accept(activity("c", b'{"x":1}'), "k")
        # A key that comes with an id that is there already is kept with it.
        kept, created = await store.accept(activity("a", b'{"x":1}'), "later")
        assert (kept, created) == (first, False)
        assert (await store.accept(activity("e", b'{"x":1}'), "later", named=False))[0] == first
        # Another project's key is another key.
        _, created = await store.accept(activity("d", scope=Scope("o", "p2")), "k")
        assert created

    with_store(tmp_path, main)


def test_a_thousand_submissions_of_one_id_are_one_activity(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        done = await asyncio.gather(*(store.accept(activity("a")) for _ in range(1000)))
        assert sum(created for _, created in done) == 1
        assert {each.id for each, _ in done} == {"a"}

    with_store(tmp_path, main)


def test_the_first_outcome_counts(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        await store.accept(activity("a"))
        begun = await store.begin("a", NOW + 1)
        assert begun is not None
        assert (begun.status, begun.attempts, begun.started) == (Status.RUNNING, 1, NOW + 1)
        ended = begun.changed(
            status=Status.SUCCEEDED, outcome=Outcome(data=msgspec.Raw(b"1")), ended=NOW + 2
        )
        assert await store.record(ended)
        assert not await store.record(ended.changed(status=Status.FAILED))
        assert await store.get("a") == ended
        assert await store.begin("a", NOW + 3) is None
        with pytest.raises(AlreadyThere, match="succeeded"):
            await store.cancel("a", NOW + 3, "no")

    with_store(tmp_path, main)


def test_an_attempt_that_was_overtaken_records_nothing(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        await store.accept(activity("a"))
        first = await store.begin("a", NOW)
        second = await store.begin("a", NOW)  # after a crash
        assert first is not None
        assert second is not None
        assert (second.attempts, second.failures) == (2, 1)
        ended = first.changed(status=Status.FAILED, ended=NOW)
        assert not await store.record(ended)
        assert (await store.get("a")).status is Status.RUNNING

    with_store(tmp_path, main)


def test_an_attempt_that_the_engine_itself_cut_short_is_no_failure(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        await store.accept(activity("a"))
        first = await store.begin("a", NOW)
        assert first is not None
        await store.interrupt(first)
        second = await store.begin("a", NOW)
        assert second is not None
        assert (second.attempts, second.failures) == (2, 0)

    with_store(tmp_path, main)


def test_cancel(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        await store.accept(activity("a"))
        cancelled = await store.cancel("a", NOW + 1, "why")
        assert (cancelled.status, cancelled.ended) == (Status.CANCELLED, NOW + 1)
        assert await store.cancel("a", NOW + 2, "again") == cancelled
        assert await store.begin("a", NOW) is None
        with pytest.raises(Missing):
            await store.cancel("b", NOW, "why")

    with_store(tmp_path, main)


def test_pages(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        for number in range(7):
            await store.accept(
                activity(f"a{number}", scope=Scope("o", "even" if number % 2 == 0 else "odd"))
            )
        await store.cancel("a3", NOW, "")
        found, cursor = [], None
        while True:
            page = await store.page(ActivityQuery(limit=3, cursor=cursor))
            found += [each.id for each in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == [f"a{number}" for number in reversed(range(7))]
        page = await store.page(ActivityQuery(project_id="odd", status=Status.QUEUED))
        assert [each.id for each in page.items] == ["a5", "a1"]
        assert (await store.page(ActivityQuery(function="g"))).items == []
        assert (await store.page(ActivityQuery(created_before=NOW))).items == []
        assert len((await store.page(ActivityQuery(created_after=NOW))).items) == 7

    with_store(tmp_path, main)


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!", "ä", "YTEt", "YTEtLTE", "YTEtOTk5OTk5OTk5OTk5OTk5OTk5OTk5"]
)
def test_a_cursor_from_nowhere_is_refused(tmp_path: Path, cursor: str) -> None:
    async def main(store: ActivityStore) -> None:
        with pytest.raises(InvalidRequest, match="cursor"):
            await store.page(ActivityQuery(cursor=cursor))

    with_store(tmp_path, main)


def test_dead_letters(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        failed = Outcome(code=contract.FAILED, message="no")
        for name in ("a", "b"):
            await store.accept(activity(name))
            begun = await store.begin(name, NOW)
            assert begun is not None
            await store.record(begun.changed(status=Status.FAILED, outcome=failed, ended=NOW))
        await store.mark_replayed("a", "c")
        page = await store.page(ActivityQuery(dead=True))
        assert [each.id for each in page.items] == ["b"]
        assert (await store.get("a")).replayed_by == "c"

    with_store(tmp_path, main)


def test_callbacks_are_owed_from_the_end_on(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        await store.accept(activity("a", callback="http://x/"))
        assert await store.due_callbacks(NOW + 9, 10) == ([], None)
        begun = await store.begin("a", NOW)
        assert begun is not None
        await store.record(begun.changed(status=Status.SUCCEEDED, outcome=Outcome(), ended=NOW))
        found, following = await store.due_callbacks(NOW, 10)
        assert [(each.activity_id, each.url, each.attempts) for each in found] == [
            ("a", "http://x/", 0)
        ]
        assert following is None
        await store.delay_callback("a", NOW + 5, "it got 500")
        assert await store.due_callbacks(NOW, 10) == ([], NOW + 5)
        found, _ = await store.due_callbacks(NOW - 9000, 10, 300)  # the clock was set back
        assert [each.attempts for each in found] == [1]
        kept = await store.callback("a")
        assert kept == Callback("a", "http://x/", 1, NOW + 5, None, "it got 500")
        await store.end_callback("a", problem="it got 404")
        assert await store.due_callbacks(NOW + 9, 10) == ([], None)
        assert await store.callback("a") == Callback("a", "http://x/", 2, problem="it got 404")
        assert await store.renew_callback("a", NOW + 7)
        assert await store.due_callbacks(NOW + 7, 10) == (
            [Callback("a", "http://x/", 0, NOW + 7)],
            None,
        )
        await store.end_callback("a", heard=NOW + 8)
        assert await store.callback("a") == Callback("a", "http://x/", 1, heard=NOW + 8)
        assert not await store.renew_callback("b", NOW)
        assert await store.purge(NOW + 1, 10) == ["a"]
        assert await store.callback("a") is None

    with_store(tmp_path, main)


def test_purge_forgets_what_ended_long_ago_and_its_keys(tmp_path: Path) -> None:
    async def main(store: ActivityStore) -> None:
        for name in ("a", "b"):
            await store.accept(activity(name), f"key-{name}")
        await store.cancel("a", NOW, "")
        assert await store.purge(NOW + 1, 10) == ["a"]
        assert await store.unfinished() == [("b", "f")]
        _, created = await store.accept(activity("c"), "key-a")
        assert created

    with_store(tmp_path, main)


def test_what_was_accepted_is_there_after_the_next_start(tmp_path: Path) -> None:
    async def first(store: ActivityStore) -> None:
        await store.accept(activity("a", b'{"x":1}'))

    async def second(store: ActivityStore) -> None:
        assert await store.get("a") == activity("a", b'{"x":1}')

    with_store(tmp_path, first)
    with_store(tmp_path, second)
