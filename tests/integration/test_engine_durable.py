"""The durable layer: what is handed over is run, over stops, crashes and mistakes, never early."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from durable_play import play, until

from fnship.engine.durable import Again, Run
from fnship.engine.durable import dbos as durable_dbos
from fnship.engine.durable.dbos import DBOSDurable


@contextlib.asynccontextmanager
async def opened(folder: Path, run: Run, grace: float = 2.0) -> AsyncIterator[DBOSDurable]:
    durable = DBOSDurable(folder / "durable.sqlite")
    await durable.open(run)
    try:
        yield durable
    finally:
        await durable.close(grace)


def rows(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "durable.sqlite")) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM workflow_status").fetchone()
        return int(count)


def test_what_is_submitted_is_run_once_and_then_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[str] = []

        async def run(key: str) -> None:
            seen.append(key)

        async with opened(tmp_path, run) as durable:
            await asyncio.gather(*(durable.submit(f"key.{number}") for number in range(50)))
            await until(lambda: len(seen) == 50)
            assert sorted(seen) == sorted(f"key.{number}" for number in range(50))
            await until(lambda: rows(tmp_path) == 0)
            assert await durable.outstanding() == []

    play(main)


def test_again_comes_when_it_is_due_and_never_early(tmp_path: Path) -> None:
    async def main() -> None:
        began: list[float] = []

        async def run(key: str) -> Again | None:
            began.append(time.monotonic())
            return Again(0.2) if len(began) < 4 else None

        async with opened(tmp_path, run) as durable:
            await durable.submit("a")
            await until(lambda: len(began) == 4)
            await asyncio.sleep(1.5)  # what DBOS had enqueued for the worst case does not come
            assert len(began) == 4
            assert all(b - a >= 0.2 for a, b in itertools.pairwise(began))

    play(main)


def test_runs_that_submit_others_are_not_their_parents(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[str] = []
        durable = DBOSDurable(tmp_path / "durable.sqlite")

        async def run(key: str) -> None:
            seen.append(key)
            if key == "first":
                for number in range(20):
                    await durable.submit(f"child-{number}")

        await durable.open(run)
        await durable.submit("first")
        await until(lambda: len(seen) == 21)
        await durable.close(1)

    play(main)


def test_cancel_ends_a_run_and_what_waits(tmp_path: Path) -> None:
    async def main() -> None:
        said: list[str] = []

        async def run(key: str) -> Again | None:
            said.append(f"{key} began")
            if key == "waits":
                return Again(0.3)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                said.append(f"{key} cancelled")
                raise
            return None

        async with opened(tmp_path, run) as durable:
            await durable.submit("runs")
            await durable.submit("waits")
            await until(lambda: len(said) == 2)
            await until(lambda: not durable._tasks.get("waits"))
            await durable.cancel("runs")
            await durable.cancel("waits")
            await durable.cancel("nobody")
            await until(lambda: "runs cancelled" in said)
            await asyncio.sleep(1.6)
            assert said.count("waits began") == 1
            assert await durable.outstanding() == []
            await durable.submit("runs")  # its key is free
            await until(lambda: said.count("runs began") == 2)

    play(main)


def test_what_a_stop_cuts_short_or_keeps_waiting_goes_on(tmp_path: Path) -> None:
    async def first() -> None:
        began: set[str] = set()

        async def run(key: str) -> Again | None:
            began.add(key)
            if key == "waits":
                return Again(0.5)
            await asyncio.sleep(60)
            return None

        async with opened(tmp_path, run, grace=0.05) as durable:
            await durable.submit("runs")
            await durable.submit("waits")
            await until(lambda: len(began) == 2)
            await until(lambda: "waits" in durable._waiting)

    async def second() -> None:
        began: dict[str, float] = {}

        async def run(key: str) -> None:
            began[key] = time.time()

        async with opened(tmp_path, run):
            await until(lambda: len(began) == 2)
            assert began["waits"] - submitted >= 0.5

    submitted = time.time()
    play(first)
    play(second)


def test_a_run_that_raises_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(durable_dbos, "_AFTER_ERROR", 0.1)

    async def main() -> None:
        seen: list[str] = []

        async def run(key: str) -> None:
            seen.append(key)
            if len(seen) < 3:
                raise ZeroDivisionError

        async with opened(tmp_path, run) as durable:
            await durable.submit("a")
            await until(lambda: len(seen) == 3)

    play(main)
    assert "something went wrong that should not" in caplog.text


def test_nothing_is_pickled(tmp_path: Path) -> None:
    async def main() -> None:
        async def run(key: str) -> Again:
            return Again(30)

        async with opened(tmp_path, run) as durable:
            await durable.submit("a-key-to-look-for")
            await until(lambda: durable._waiting)
            with contextlib.closing(sqlite3.connect(durable._path)) as connection:
                dump = "\n".join(connection.iterdump())
        assert "a-key-to-look-for" in dump
        assert "fnship_json" in dump
        assert "pickle" not in dump
        assert "gASV" not in dump  # how a pickle begins in base64

    play(main)


def leave(folder: Path, *workflows: tuple[str, str, float | None]) -> None:
    """Put workflows into the file as a process leaves them that is killed.

    Args:
        folder: Where the file is; there is a workflow in it that waits.
        workflows: The key of each, its status, and the seconds until it is due.
    """
    with contextlib.closing(sqlite3.connect(folder / "durable.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        query = "SELECT * FROM workflow_status WHERE status = 'DELAYED'"
        model = dict(connection.execute(query).fetchone())
        named = {"workflow_uuid": model["workflow_uuid"]}
        query = "SELECT * FROM workflow_input WHERE workflow_uuid = :workflow_uuid"
        given = dict(connection.execute(query, named).fetchone())
        connection.execute("DELETE FROM workflow_status")
        connection.execute("DELETE FROM workflow_input")
        now = time.time() * 1000
        for number, (key, status, seconds) in enumerate(workflows):
            name = {"workflow_uuid": f"{key}.earlier-{number}"}
            insert(
                connection,
                "workflow_status",
                {
                    **model,
                    **name,
                    "status": status,
                    "executor_id": "earlier",
                    "delay_until_epoch_ms": None if seconds is None else int(now + 1000 * seconds),
                    "queue_name": None if seconds is None else model["queue_name"],
                },
            )
            inputs = given["inputs"].replace('"model"', f'"{key}"')
            insert(connection, "workflow_input", {**given, **name, "inputs": inputs})
        connection.commit()


def insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({values})", row)


async def prepare(folder: Path) -> None:
    """Make the file, with a workflow in it that waits."""

    async def run(_: str) -> Again:
        return Again(1000)

    async with opened(folder, run) as durable:
        await durable.submit("model")
        await until(lambda: durable._waiting and durable._waiting["model"].timer)


@pytest.mark.parametrize(
    ("left", "first", "second"),
    [
        ([("PENDING", None)], 0.0, 0.5),
        ([("PENDING", None), ("DELAYED", 1.0)], 1.0, 1.5),
        ([("PENDING", None), ("DELAYED", -5.0)], 0.0, 0.5),
        ([("PENDING", None), ("ENQUEUED", -5.0), ("DELAYED", 1.0)], 1.0, 1.5),
        ([("DELAYED", -0.1)], 0.0, 0.5),
        ([("ENQUEUED", -5.0)], 0.0, 0.5),
    ],
)
def test_what_a_kill_left_is_run_once_and_when_due(
    tmp_path: Path, left: list[tuple[str, float | None]], first: float, second: float
) -> None:
    async def main() -> None:
        await prepare(tmp_path)
        leave(tmp_path, *(("a", status, due) for status, due in left), ("b", "SUCCESS", None))
        before = time.monotonic()
        began: list[float] = []
        running = 0

        async def run(key: str) -> Again | None:
            nonlocal running
            assert key == "a"
            running += 1
            assert running == 1
            began.append(time.monotonic() - before)
            await asyncio.sleep(0.05)
            running -= 1
            return Again(0.5) if len(began) == 1 else None

        async with opened(tmp_path, run) as durable:
            assert [each.key for each in await durable.outstanding()] == ["a"]
            await until(lambda: len(began) == 2)
            await until(lambda: rows(tmp_path) == 0)
            assert len(began) == 2
            assert began[0] >= first - 0.01
            assert began[1] >= second

    play(main)


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_what_a_kill_left_can_be_cancelled(tmp_path: Path, pause: float) -> None:
    async def main() -> None:
        await prepare(tmp_path)
        leave(
            tmp_path,
            ("runs", "PENDING", None),
            ("waits", "PENDING", None),
            ("waits", "DELAYED", 9.0),
        )
        ended: list[str] = []

        async def run(key: str) -> None:
            await asyncio.sleep(60)
            ended.append(key)

        async with opened(tmp_path, run) as durable:
            await asyncio.sleep(pause)
            await durable.cancel("runs")
            await durable.cancel("waits")
            await until(lambda: rows(tmp_path) == 0)
            assert await durable.outstanding() == []
            assert not durable._cancelled
        assert ended == []

    play(main)


def test_a_close_right_after_the_open_does_not_wait_for_runs(tmp_path: Path) -> None:
    async def main() -> None:
        await prepare(tmp_path)
        leave(tmp_path, *((f"k{number}", "PENDING", None) for number in range(50)))

        async def run(_: str) -> None:
            await asyncio.Event().wait()

        for _ in range(2):
            async with opened(tmp_path, run, grace=0.1):
                pass
        assert rows(tmp_path) == 50

    play(main)


def test_nothing_is_left_of_what_ended_before_a_close(tmp_path: Path) -> None:
    async def main() -> None:
        began: list[str] = []

        async def run(key: str) -> None:
            began.append(key)
            await asyncio.sleep(0.05)

        for life in range(2):
            async with opened(tmp_path, run) as durable:
                for number in range(30):
                    await durable.submit(f"k{life}.{number}")
                await until(lambda life=life: len(began) == 30 * (life + 1))
        assert rows(tmp_path) == 0

    play(main)


CHILD = """
import asyncio, sys, time
from pathlib import Path
from fnship.engine.durable import Again
from fnship.engine.durable.dbos import DBOSDurable

folder, wanted = Path(sys.argv[1]), int(sys.argv[2])
journal = open(folder / "journal", "a", buffering=1)
accepted = open(folder / "accepted", "a", buffering=1)
due = {}
for line in (folder / "journal").read_text().splitlines():
    word, key, moment = line.split()
    if word == "again":
        due[key] = float(moment)


async def run(key):
    if key in due:
        assert time.time() >= due[key], "early"
        journal.write(f"done {key} {time.time()}\\n")
        return None
    await asyncio.sleep(0.005)
    due[key] = time.time() + 0.2
    journal.write(f"again {key} {due[key]}\\n")
    return Again(0.2)


async def main():
    durable = DBOSDurable(folder / "durable.sqlite")
    await durable.open(run)
    known = len((folder / "accepted").read_text().splitlines())
    print("open", flush=True)
    for number in range(known, wanted):
        await durable.submit(f"k{number}")
        accepted.write(f"k{number}\\n")
    while await durable.outstanding():
        await asyncio.sleep(0.05)
    await durable.close(1)
    print("finished", flush=True)


asyncio.run(main())
"""


def test_kill_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "accepted").touch()
    (tmp_path / "journal").touch()
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    for wanted in range(20, 420, 20):
        with subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), str(wanted)],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            time.sleep(random.random() * 0.3)
            child.send_signal(signal.SIGKILL)
    last = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "400"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert last.stdout == "open\nfinished\n", last.stderr[-2000:]
    assert "early" not in last.stderr
    done = {
        line.split()[1]
        for line in (tmp_path / "journal").read_text().splitlines()
        if line.startswith("done ")
    }
    accepted = set((tmp_path / "accepted").read_text().split())
    assert accepted <= done
    assert len(accepted) == 400
