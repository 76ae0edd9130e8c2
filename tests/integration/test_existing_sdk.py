"""A function on the existing SDK itself, its server and its clients, called by the engine."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from engine_process import invoke, register, run, running
from server_process import launched, until, write_function

from fnship.engine.model import Activity, Scope, Status
from fnship.engine.options import EngineOptions

SDK = Path(sys.prefix) / "existing-sdk"  # where make puts it

MAIN = """
from function.handler import handle
from python_sdk_rafay_workflow import sdk

sdk.serve_function(handle, host="127.0.0.1", port=0)
"""

PLAIN = """
import python_sdk_rafay_workflow
from python_sdk_rafay_workflow.errors import (
    ExecuteAgainException,
    FailedException,
    TransientException,
)
from python_sdk_rafay_workflow.state_client import StateClientBuilder


def handle(logger, request):
    what = request["do"]
    for number in range(25):  # more than it buffers
        logger.info("line %d of %s", number, what)
    builder = StateClientBuilder(request)
    client = getattr(builder, f"with_{request.get('scope', 'env')}_scope")()
    if what == "state":
        client.set("greeting", lambda old: {"was": old, "text": "Ærø €"})
        kept = client.get("greeting")
        client.delete("greeting")
        return {"kept": kept, "then": client.get("greeting")}
    if what == "count":
        client.set("count", lambda old: (old or 0) + 1, max_retries=100)
        return client.get("count")[0]
    if what == "conflict":
        client.set_kv("mine", "a", 0)
        client.set_kv("mine", "b", 7)
    if what == "large":
        client.set_kv("large", "x" * 300_000, 0)
    if what == "again" and "previous" not in request:
        raise ExecuteAgainException("one more", page=2)
    if what == "again":
        return {"previous": request["previous"]}
    if what == "fail":
        raise FailedException("no")
    if what == "transient":
        raise TransientException("not yet")
    if what == "break":
        return 1 / 0
    return {"metadata": request["metadata"], "sdk": python_sdk_rafay_workflow.__file__}
"""

ASYNC = (
    PLAIN.replace("def handle", "async def handle")
    .replace("client.set(", "await client.set_async(")
    .replace('client.get("count")[0]', '(await client.get_async("count"))[0]')
    .replace("client.get(", "await client.get_async(")
    .replace("client.set_kv(", "await client.set_kv_async(")
    .replace("client.delete(", "await client.delete_async(")
)


@pytest.fixture(scope="module", params=["plain", "async"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a function is that the existing SDK serves."""
    assert SDK.is_dir(), "make installs it: make .venv/dev"
    handler = PLAIN if request.param == "plain" else ASYNC
    folder = write_function(
        tmp_path_factory.mktemp("function"), {"main.py": MAIN, "function/handler.py": handler}
    )
    with launched(folder, limit=300, PYTHONPATH=str(SDK)) as server:
        running_on = re.compile(r"running on (http://127\.0\.0\.1:[1-9]\d*) ")
        yield until(lambda: running_on.search(server.stderr), "the server")[1]


def result(activity: Activity) -> Any:
    assert activity.status is Status.SUCCEEDED, activity
    assert activity.outcome is not None
    assert activity.outcome.data is not None
    return msgspec.json.decode(activity.outcome.data)


SCOPE = Scope("o1", "p1", "e1", "dev")


def test_it_is_called_with_its_metadata_and_its_lines_are_kept(tmp_path: Path, url: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url)
            activity = await invoke(engine, "f", b'{"do": "it"}', scope=SCOPE)
            found = result(activity)
            assert Path(found["sdk"]).is_relative_to(SDK)
            assert found["metadata"]["activityID"] == activity.id
            assert found["metadata"]["organizationID"] == "o1"
            assert found["metadata"]["projectID"] == "p1"
            assert found["metadata"]["environmentID"] == "e1"
            assert found["metadata"]["environmentName"] == "dev"
            said = [
                line.partition(" msg=")[2]
                for line in (await engine.logs.text(activity.id)).splitlines()
            ]
            assert [line for line in said if line.startswith("line ")] == [
                f"line {number} of it" for number in range(25)
            ]

    run(main)


@pytest.mark.parametrize("scope", ["org", "project", "env"])
def test_its_state_client(tmp_path: Path, url: str, scope: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url)
            payload = msgspec.json.encode({"do": "state", "scope": scope})
            for _ in range(2):
                found = result(await invoke(engine, "f", payload, scope=SCOPE))
                [value, version] = found["kept"]
                assert value == {"was": None, "text": "Ærø €"}
                assert version >= 1
                assert found["then"] == [None, 0]

    run(main)


def test_its_increments_are_all_counted(tmp_path: Path, url: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url, concurrency=8)
            count = b'{"do": "count"}'
            ended = await asyncio.gather(
                *(invoke(engine, "f", count, scope=SCOPE) for _ in range(10))
            )
            assert max(map(result, ended)) == 10

    run(main)


def test_what_the_store_refuses_is_an_error_of_the_function(tmp_path: Path, url: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url)
            conflict = await invoke(engine, "f", b'{"do": "conflict"}', scope=SCOPE)
            large = await invoke(engine, "f", b'{"do": "large"}', scope=SCOPE)
            for activity, status in ((conflict, "409"), (large, "413")):
                assert activity.status is Status.FAILED
                assert activity.outcome is not None
                assert status in activity.outcome.message

    assert EngineOptions(data=tmp_path, advertise_url="").max_value < 300_000
    run(main)


def test_its_errors_mean_what_they_say(tmp_path: Path, url: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url)
            again = await invoke(engine, "f", b'{"do": "again"}')
            assert result(again) == {"previous": {"page": 2}}
            assert (again.attempts, again.failures) == (2, 0)
            for what, attempts, said in (
                ("fail", 1, "function: failed: no"),
                ("transient", 4, "function: transient error: not yet; it failed 4 times"),
                ("break", 1, "division by zero"),
            ):
                activity = await invoke(engine, "f", msgspec.json.encode({"do": what}))
                assert (activity.status, activity.attempts) == (Status.FAILED, attempts)
                assert activity.outcome is not None
                assert activity.outcome.message.startswith(said)

    run(main)
