"""The engine killed at any moment, and stopped under load: what was accepted is done, once."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from engine_command import EngineCommand, engine_command

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from server_process import ServerProcess, serving, until

KILLS = 25
RETRY = {
    "max_attempts": 100,
    "first_delay": 0.05,
    "max_delay": 0.1,
    "again_delay": 0.05,
    "max_again": 5,
}
HANDLER = """
import asyncio
import time
from pathlib import Path

import fnship

calls = open(Path.cwd() / "calls", "a", buffering=1)


async def handle(logger, request):
    me = fnship.current()
    calls.write(f"{me.activity_id} {me.attempt} {time.time()}\\n")
    logger.info("attempt %s", me.attempt)
    await asyncio.sleep(0.01)
    if request.get("again") and "previous" not in request:
        raise fnship.ExecuteAgain("later", due=time.time() + 0.3, retry_after=0.3)
    if "previous" in request and time.time() < request["previous"]["due"] - 0.3:
        raise fnship.Failed("early")
    return {"activity": me.activity_id}
"""


class Client:
    """Submits activities for as long as it is told to, and keeps the ids that were accepted."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.refused = 0
        self._number = 0
        self._pool = urllib3.PoolManager(retries=False, timeout=20)

    def submit_until(self, engine: EngineCommand, end: threading.Event) -> None:
        while not end.is_set():
            self._number += 1
            activity_id = f"a{self._number}"
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
                if answer.status == 202:
                    self.accepted.append(activity_id)
                else:
                    self.refused += 1
            time.sleep(0.01)

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


def attempts(server: ServerProcess) -> Counter[str]:
    return Counter(line.split()[0] for line in (server.folder / "calls").read_text().splitlines())


def check_all_done(engine: EngineCommand, client: Client, server: ServerProcess) -> None:
    """Every activity that was accepted has ended, and well."""

    def outstanding() -> int:
        found = 0
        for status in ("queued", "running", "waiting"):
            page = engine.call("GET", f"/v1/activities?status={status}&limit=500")
            found += len(page.json["items"])
        return found

    until(lambda: outstanding() == 0, "the end of all activities", 60)
    made = attempts(server)
    for activity_id in client.accepted:
        found = engine.call("GET", f"/v1/activities/{activity_id}").json
        assert found["status"] == "succeeded", found
        assert found["result"] == {"activity": activity_id}
        assert made[activity_id] >= 1
        assert found["attempts"] >= made[activity_id]


@pytest.mark.timeout(300)
def test_kill_at_any_moment_under_load(tmp_path: Path) -> None:
    client = Client()
    with serving(tmp_path / "function", HANDLER, limit=280) as server:
        for number in range(KILLS):
            with engine_command(tmp_path / "data") as engine:
                if number == 0:
                    engine.put("f", f"http://127.0.0.1:{server.port}", retry=RETRY)
                with client.submitting(engine):
                    time.sleep(0.05 + random.random() * 0.4)
                    engine.end(signal.SIGKILL)
        assert len(client.accepted) > KILLS
        with engine_command(tmp_path / "data") as engine:
            check_all_done(engine, client, server)
            assert engine.end() == 0


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
            check_all_done(engine, client, server)


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
