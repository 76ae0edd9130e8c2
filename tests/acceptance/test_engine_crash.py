"""The engine killed at any moment, and stopped under load: what was accepted is done, once."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import urllib3
from engine_command import EngineCommand, Spares, engine_command

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from server_process import ServerProcess, serving, until

KILLS = 100
IN_ITS_START = 5  # of so many lives, one ends while it starts
LONG = 25  # of so many lives, one is long enough to be late in
LATE = 2.0  # seconds with an engine up, after it is due, in which an activity is woken
EVERY = 0.05  # seconds between two submissions of a client: what three of them want can be done
RETRY = {
    "max_attempts": 100,
    "first_delay": 0.05,
    "max_delay": 0.1,
    "again_delay": 0.05,
    "max_again": 5,
}
HANDLER = """
import asyncio
import random
import time
from pathlib import Path

import fnship

calls = open(Path.cwd() / "calls", "a", buffering=1)


async def handle(logger, request):
    me = fnship.current()
    due = request["previous"]["due"] if "previous" in request else 0
    calls.write(f"{me.activity_id} {me.attempt} {time.time()} {due}\\n")
    logger.info("attempt %s", me.attempt)
    await asyncio.sleep(0.01)
    if request.get("again") and not due:
        delay = 0.2 + random.random()
        raise fnship.ExecuteAgain("later", due=time.time() + delay, retry_after=delay)
    return {"activity": me.activity_id}
"""


class Client:
    """Submits activities for as long as it is told to, and keeps the ids that were accepted.

    One that it had no answer for it submits again, by the same id.
    """

    def __init__(self, name: str = "a") -> None:
        self.accepted: list[str] = []
        self.refused = 0
        self._name = name
        self._number = 1
        self._pool = urllib3.PoolManager(retries=False, timeout=20)

    def submit_until(self, engine: EngineCommand, end: threading.Event) -> None:
        while not end.is_set():
            activity_id = f"{self._name}{self._number}"
            headers = {
                "Authorization": f"Bearer {engine.token}",
                "X-Activity-ID": activity_id,
            }
            body = json.dumps({"n": self._number, "again": self._number % 3 == 0})
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                answer = self._pool.request(
                    "POST",
                    f"{engine.url}/v1/functions/f/invocations",
                    body=body,
                    headers=headers,
                )
                if answer.status in (200, 202):  # 200: accepted before, and done
                    self.accepted.append(activity_id)
                    self._number += 1
                else:
                    self.refused += 1
            time.sleep(EVERY)

    @contextlib.contextmanager
    def submitting(self, engine: EngineCommand) -> Iterator[None]:
        end = threading.Event()
        thread = threading.Thread(target=self.submit_until, args=(engine, end))
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()


class Call(NamedTuple):
    """A call of the function."""

    activity_id: str
    attempt: int
    moment: float
    due: float  # when it was to be run again; 0 where it did not ask for that


class Life(NamedTuple):
    """What an engine had of time until the next one."""

    up: float  # when it said that it listens
    ended: float = math.inf

    def until(self, moment: float, since: float) -> float:
        """Seconds that it was up after `since`, and before `moment`."""
        return max(0.0, min(self.ended, moment) - max(self.up, since))


def calls(server: ServerProcess) -> list[Call]:
    found = [line.split() for line in (server.folder / "calls").read_text().splitlines()]
    return [Call(each[0], int(each[1]), float(each[2]), float(each[3])) for each in found]


def activities(engine: EngineCommand, status: str = "", limit: int = sys.maxsize) -> dict[str, Any]:
    """Those that there are, or those that have this status, the newest first."""
    filtered = f"&status={status}" if status else ""
    found: dict[str, Any] = {}
    more = ""
    while len(found) < limit:
        page = engine.call("GET", f"/v1/activities?limit=500{filtered}{more}").json
        found.update({each["id"]: each for each in page["items"]})
        if page["cursor"] is None:
            break
        more = f"&cursor={page['cursor']}"
    return found


def check_all_done(engine: EngineCommand, clients: Sequence[Client], server: ServerProcess) -> None:
    """Every activity that was accepted has ended, and well, and was not called after that."""
    accepted = {each for client in clients for each in client.accepted}
    # Not asked by status: one that goes from one to the next would be seen in neither.
    ended: dict[str, Any] = {}

    def all_ended() -> bool:
        ended.update(activities(engine))
        return all(each["status"] == "succeeded" for each in ended.values())

    until(all_ended, "the end of all activities", 60)
    assert accepted <= ended.keys()
    made = calls(server)
    for activity_id in accepted:
        assert ended[activity_id]["result"] == {"activity": activity_id}
    times: Counter[str] = Counter(call.activity_id for call in made)
    assert all(times[activity_id] >= 1 for activity_id in ended)
    assert all(ended[each]["attempts"] >= count for each, count in times.items())
    assert len({(call.activity_id, call.attempt) for call in made}) == len(made)
    for call in made:
        assert call.moment <= moment(ended[call.activity_id]["ended"]) + 0.001, call


def moment(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def check_waking(made: Sequence[Call], lives: Sequence[Life]) -> None:
    """Nothing was woken early, and next to nothing late: a machine may stand still for a while."""
    woken: dict[tuple[str, float], Call] = {}
    for call in made:
        if call.due:
            assert call.moment >= call.due, call
            woken.setdefault((call.activity_id, call.due), call)
    assert woken
    late = []
    for call in woken.values():
        seconds = sum(life.until(call.moment, call.due) for life in lives)
        if seconds > LATE:
            late.append((call, seconds))
    assert len(late) <= len(woken) / 50, late


@pytest.mark.timeout(400)
def test_kill_at_any_moment_under_load(tmp_path: Path) -> None:
    clients = [Client(name) for name in "abc"]
    lives: list[Life] = []
    recorded: dict[str, Any] = {}

    def check_recorded(engine: EngineCommand, limit: int) -> None:
        """What was recorded as the outcome of an activity stays that."""
        found = activities(engine, "succeeded", limit)
        for activity_id, outcome in found.items():
            assert recorded.setdefault(activity_id, outcome) == outcome

    with (
        serving(tmp_path / "function", HANDLER, limit=380) as server,
        contextlib.closing(Spares(tmp_path / "data")) as spares,
    ):
        for number in range(KILLS):
            if number % IN_ITS_START == 1:
                spares.kill_in_its_start(random.random() * 0.3)
                continue
            with spares.engine() as engine, contextlib.ExitStack() as load:
                up = time.time()
                if number == 0:
                    engine.put("f", f"http://127.0.0.1:{server.port}", retry=RETRY)
                check_recorded(engine, 500)
                for client in clients:
                    load.enter_context(client.submitting(engine))
                time.sleep(2 * LATE if number % LONG == LONG - 1 else random.random() * 0.4)
                engine.end(signal.SIGKILL)
                lives.append(Life(up, time.time()))
        assert all(len(client.accepted) > KILLS / 2 for client in clients)
        with spares.engine() as engine:
            lives.append(Life(time.time()))
            check_all_done(engine, clients, server)
            check_recorded(engine, sys.maxsize)
            assert engine.end() == 0
        check_waking(calls(server), lives)


def test_a_stop_under_load_loses_nothing(tmp_path: Path) -> None:
    client = Client()
    with serving(tmp_path / "function", HANDLER) as server:
        with engine_command(tmp_path / "data") as engine:
            engine.put("f", f"http://127.0.0.1:{server.port}", retry=RETRY)
            with client.submitting(engine):
                time.sleep(1)
                assert engine.end() == 0
        assert client.accepted
        with engine_command(tmp_path / "data") as engine:
            check_all_done(engine, [client], server)


def test_a_function_killed_in_the_middle_is_tried_again(tmp_path: Path) -> None:
    slow = "import time\ndef handle(logger, request):\n    time.sleep(60)\n"
    with engine_command(tmp_path / "data") as engine:
        with serving(tmp_path / "slow", slow) as server:
            engine.put("f", f"http://127.0.0.1:{server.port}", retry=RETRY)
            answer = engine.call("POST", "/v1/functions/f/invocations", {})
            where = answer.headers["Location"]
            until(lambda: engine.call("GET", where).json["status"] == "running", "the attempt")
            server.signal(signal.SIGKILL)
            server.wait()
        with serving(tmp_path / "quick", HANDLER) as server:
            engine.put("f", f"http://127.0.0.1:{server.port}", retry=RETRY)

            def ended() -> bool:
                return bool(engine.call("GET", where).json["ended"])

            until(ended, "its end")
            found = engine.call("GET", where).json
            assert found["status"] == "succeeded"
            assert found["attempts"] >= 2


def test_a_poison_activity_ends_after_its_attempts(tmp_path: Path) -> None:
    """One in whose attempts the engine dies, over and over."""
    slow = "import time\ndef handle(logger, request):\n    time.sleep(60)\n"
    with serving(tmp_path / "slow", slow, GUNICORN_WORKERS="1") as server:
        where = ""
        for number in range(4):
            with engine_command(tmp_path / "data") as engine:
                if number == 0:
                    policy = {**RETRY, "max_attempts": 3}
                    engine.put("f", f"http://127.0.0.1:{server.port}", retry=policy)
                    answer = engine.call("POST", "/v1/functions/f/invocations", {})
                    where = answer.headers["Location"]

                if number < 3:
                    until(lambda: attempted(engine, where) == number + 1, "the attempt")  # noqa: B023
                    engine.end(signal.SIGKILL)
                    continue
                until(lambda: engine.call("GET", where).json["ended"], "its end")  # noqa: B023
                found = engine.call("GET", where).json
                assert (found["status"], found["attempts"], found["failures"]) == ("failed", 3, 3)
                assert "without warning" in found["error"]["message"]


def attempted(engine: EngineCommand, where: str) -> int:
    found = engine.call("GET", where).json
    return int(found["attempts"]) if found["status"] == "running" else 0
