"""The engine's logs: stored once and in order, followed, searched, let go; and their upload."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from engine_process import run, running
from hypothesis import given
from hypothesis import strategies as st

from fnship import contract
from fnship.engine.api.logs import _lines
from fnship.engine.engine import Engine
from fnship.engine.form import read_form
from fnship.engine.model import Scope
from fnship.engine.sql.database import Database
from fnship.engine.stores.logs import LogStore, Upload
from fnship.errors import InvalidRequest, StorageError


def with_store(
    tmp_path: Path,
    main: Callable[[LogStore], Awaitable[None]],
    *,
    keep_bytes: int = 10**9,
    clock: Callable[[], float] = time.time,
) -> None:
    async def playing() -> None:
        database = Database(tmp_path / "engine.sqlite")
        try:
            await main(LogStore(database, keep_seconds=100, keep_bytes=keep_bytes, clock=clock))
        finally:
            database.close()

    run(playing)


def line(text: str, level: str = "INFO") -> str:
    return f"time=2026-01-01T00:00:00.000Z level={level} path=h.py line=1 msg={text}\n"


def test_lines_are_kept_in_order_by_attempt(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        await store.append("a", 1, "one\n")
        await store.append("a", 2, "three\nfour\n")
        await store.append("a", 1, "two")  # late, and without its newline
        await store.append("b", 1, "other\n")
        assert await store.text("a") == "one\ntwo\nthree\nfour\n"
        assert await store.text("a", attempt=2) == "three\nfour\n"
        assert await store.text("nobody") == ""

    with_store(tmp_path, main)


def test_a_long_log_comes_whole(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        await asyncio.gather(*(store.append("a", n % 2 + 1, f"{n}\n") for n in range(700)))
        lines = (await store.text("a")).splitlines()
        assert sorted(map(int, lines)) == list(range(700))
        assert [int(each) % 2 for each in lines] == [0] * 350 + [1] * 350

    with_store(tmp_path, main)


def test_a_batch_is_stored_once_and_a_line_without_one_each_time(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        assert await store.append("a", 1, "one\n", "1-1")
        assert not await store.append("a", 1, "one\n", "1-1")
        assert await store.append("a", 1, "one\n", "1-2")
        assert await store.append("a", 2, "one\n", "1-1")
        assert await store.append("a", 1, "two\n")
        assert await store.append("a", 1, "two\n")
        assert await store.text("a") == "one\none\ntwo\ntwo\none\n"

    with_store(tmp_path, main)


def test_follow_gives_what_was_there_and_what_comes(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        ended = False

        async def has_ended() -> bool:
            return ended

        async def follow() -> str:
            pieces = [each async for each in store.follow("a", has_ended)]
            return "".join(each.text for each in pieces if each is not None)

        await store.append("a", 1, "before\n")
        followers = [asyncio.create_task(follow()) for _ in range(3)]
        await asyncio.sleep(0.05)
        await store.append("a", 1, "while\n")
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in followers)
        await store.append("a", 1, "at the end\n")
        ended = True
        store.ended("a")
        assert await asyncio.gather(*followers) == ["before\nwhile\nat the end\n"] * 3
        assert not store._followers

    with_store(tmp_path, main)


def test_search(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        await store.append("a", 1, line("100 % sure") + line("nothing"))
        await store.append("b", 1, line("Sure, too", "ERROR"))
        found, cursor = await store.search(text="sure")
        assert [(each.activity_id, each.line.partition("msg=")[2]) for each in found] == [
            ("b", "Sure, too"),
            ("a", "100 % sure"),
        ]
        assert cursor is None
        found, _ = await store.search(text="sure", level="warning")
        assert [each.activity_id for each in found] == ["b"]
        found, _ = await store.search(text="0 %")
        assert len(found) == 1
        await store.append("c", 1, line("ÄRGER in Århus"))
        for text in ("ärger", "Ärger IN", "åRHUS", "r in å"):
            found, _ = await store.search(text=text)
            assert [each.activity_id for each in found] == ["c"]
        found, _ = await store.search(text="ärger in ö")
        assert found == []
        found, _ = await store.search(text="_")  # no pattern
        assert found == []
        found, _ = await store.search(activity_id="a")
        assert len(found) == 2
        with pytest.raises(InvalidRequest, match="LOUD"):
            await store.search(level="LOUD")

    with_store(tmp_path, main)


def test_search_by_pages(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        for number in range(25):
            await store.append("a", 1, line(f"number {number}"))
        seen: list[str] = []
        cursor = None
        while True:
            found, cursor = await store.search(text="number", limit=10, cursor=cursor)
            seen += [each.line.partition("msg=")[2] for each in found]
            if cursor is None:
                break
        assert seen == [f"number {number}" for number in reversed(range(25))]

    with_store(tmp_path, main)


def test_a_search_looks_at_so_much_and_no_more(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        await store.append("first", 1, line("needle"))
        await store.append_all([Upload("a", 1, line(f"hay {n}")) for n in range(2300)])
        for words in ({"text": "needle"}, {"text": "needle", "level": "info"}):
            found, cursor, searches = [], None, 0
            while searches == 0 or cursor is not None:
                some, cursor = await store.search(**words, limit=10, cursor=cursor)
                found += some
                searches += 1
            assert [each.activity_id for each in found] == ["first"]
            assert searches == 3
        assert await store.search(text="needle", activity_id="first") == (found, None)

    with_store(tmp_path, main)


def test_a_nought_hides_nothing(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        await store.append("a", 1, line("before\0behind") + line("needle"))
        found, _ = await store.search(text="needle")
        assert len(found) == 1
        found, _ = await store.search(text="behind")
        assert found[0].line.endswith("before\ufffdbehind")

    with_store(tmp_path, main)


def test_large_uploads_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    async def main(store: LogStore) -> None:
        texts = [f"{number}" * 2**21 + "\n" for number in range(6)]
        for text in texts:
            await store.append("a", 1, text)
        largest = 0
        read = store._read

        async def measured(*arguments: Any) -> list[Any]:
            nonlocal largest
            rows = await read(*arguments)
            largest = max(largest, sum(len(row["text"]) for row in rows if "text" in row.keys()))  # noqa: SIM118 - of a row it is another question
            return rows

        async def has_ended() -> bool:
            return True

        store._read = measured  # type: ignore[method-assign] # to see what it reads
        assert await store.text("a") == "".join(texts)
        followed = [each.text async for each in store.follow("a", has_ended) if each is not None]
        assert followed == texts
        found, cursor = await store.search()
        while cursor is not None:
            more, cursor = await store.search(cursor=cursor)
            found += more
        assert [each.line + "\n" for each in found] == texts[::-1]
        assert largest <= 3 * len(texts[0])

    with_store(tmp_path, main)


def test_purge_lets_go_what_is_old_or_too_much(tmp_path: Path) -> None:
    now = 1000.0

    async def main(store: LogStore) -> None:
        nonlocal now
        await store.append("a", 1, "x" * 99 + "\n")
        now += 90
        for _ in range(15):
            await store.append("b", 1, "y" * 99 + "\n")
        assert await store.purge() == 600  # 1,600 bytes in all, 1,000 of them are kept
        assert await store.text("a") == ""
        assert len(await store.text("b")) == 1000
        now += 101
        assert await store.purge() == 1000
        assert await store.purge() == 0

    with_store(tmp_path, main, keep_bytes=1000, clock=lambda: now)


def test_a_full_disk_is_never_a_success(tmp_path: Path) -> None:
    async def playing() -> None:
        database = Database(tmp_path / "engine.sqlite")
        store = LogStore(database, keep_seconds=100, keep_bytes=10**9)
        await store.append("a", 1, "before\n")

        def fill(session: Any) -> None:
            (pages,) = session._connection.execute("PRAGMA page_count").fetchone()
            session._connection.execute(f"PRAGMA max_page_count={pages + 2}")

        await database.write(fill)
        stored = 1
        refused = None
        while refused is None:
            try:
                await store.append("a", 1, "x" * 1000 + "\n")
                stored += 1
            except StorageError as exc:
                refused = exc
        assert "full" in str(refused)
        assert len((await store.text("a")).splitlines()) == stored
        (row,) = await database.read(
            lambda session: session._connection.execute("PRAGMA integrity_check").fetchall()
        )
        assert row[0] == "ok"
        database.close()

    run(playing)


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_a_form_gives_its_file(content: bytes, other: bytes) -> None:
    boundary = "b0undary-that-is-not-in-it"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{{}}"{{}}\r\n\r\n'
    body = (
        head.format("note", "").encode()
        + other
        + b"\r\n"
        + head.format("content", '; filename="stdout"').encode()
        + content
        + f"\r\n--{boundary}--\r\n".encode()
    )
    kind = f"multipart/form-data; boundary={boundary}"
    assert [part.content for part in read_form(kind, body)] == [content]
    for cut in {1, len(body) // 2, len(body) - 6}:
        with pytest.raises(InvalidRequest):
            read_form(kind, body[:cut])


@given(st.text(max_size=60), st.binary(max_size=200))
def test_what_is_no_form_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_form(kind, body)


async def upload(
    session: aiohttp.ClientSession, engine: Engine, path: str, token: str | None, **more: Any
) -> int:
    form = aiohttp.FormData()
    lines = io.BytesIO(more.pop("text", "line\n").encode())
    form.add_field("content", lines, filename="stdout")
    headers = {} if token is None else {contract.WORKFLOW_TOKEN: token}
    headers |= more.pop("headers", {})
    url = f"{engine.options.advertise_url}{path}"
    async with session.post(url, data=form, headers=headers) as response:
        return response.status


def test_tokens_are_for_one_log_and_one_attempt(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine, aiohttp.ClientSession() as session:
            soon = time.time() + 60
            good = engine.tokens.mint("log", "a", 1, Scope(), soon)
            path = "/functions/logs/a/1?append=true"
            assert await upload(session, engine, path, good) == 200
            for token, status in (
                (None, 401),
                ("nonsense", 401),
                (engine.tokens.mint("state", "a", 1, Scope(), soon), 401),
                (engine.tokens.mint("log", "a", 1, Scope(), time.time() - 1), 401),
                (engine.tokens.mint("log", "b", 1, Scope(), soon), 403),
                (engine.tokens.mint("log", "a", 2, Scope(), soon), 403),
            ):
                assert await upload(session, engine, path, token) == status
            assert await upload(session, engine, "/functions/logs/a/1", good) == 400
            assert await engine.logs.text("a") == "line\n"

    run(main)


def test_one_huge_line_is_kept_and_one_that_is_too_large_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine, aiohttp.ClientSession() as session:
            token = engine.tokens.mint("log", "a", 1, Scope(), time.time() + 60)
            path = "/functions/logs/a/1?append=true"
            huge = "x" * 10 * 2**20 + "\n"
            assert await upload(session, engine, path, token, text=huge) == 200
            assert await engine.logs.text("a") == huge
            assert await upload(session, engine, path, token, text=huge * 2) == 413

    run(main)


def test_a_carriage_return_ends_a_line_of_an_event() -> None:
    assert _lines("10 %\r20 %\r\ndone\n") == ["10 %", "20 %", "done"]


def test_repeats_and_failures_leave_every_line_once(tmp_path: Path) -> None:
    """An uploader that repeats what it does not know to be stored, as ours does."""

    async def main() -> None:
        async with running(tmp_path) as engine, aiohttp.ClientSession() as session:
            token = engine.tokens.mint("log", "a", 1, Scope(), time.time() + 60)
            path = "/functions/logs/a/1?append=true"
            append = engine.logs.append_all
            chance = random.Random(5)
            refused = 0

            async def failing(*arguments: Any) -> list[bool]:
                stored = await append(*arguments) if chance.random() < 0.7 else None
                if stored is None or chance.random() < 0.2:  # stored, and the answer is lost
                    raise StorageError("a fault")
                return stored

            engine.logs.append_all = failing  # type: ignore[method-assign] # a sick disk
            for number in range(60):
                more: dict[str, Any] = {
                    "headers": {contract.LOG_BATCH: f"1-{number}"},
                    "text": f"{number}\n",
                }
                while (status := await upload(session, engine, path, token, **more)) != 200:
                    assert status == 507
                    refused += 1
                if chance.random() < 0.3:  # and once more, although it was stored
                    await upload(session, engine, path, token, **more)
            assert refused > 10
            assert await engine.logs.text("a") == "".join(f"{n}\n" for n in range(60))

    run(main)
