"""A folder that the engine serves: its process, and what happens when either of them is killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_command import EngineCommand, engine_command, until

HANDLER = """
import asyncio
import os


async def handle(logger, request):
    await asyncio.sleep(request.get("seconds", 0))
    return {"pid": os.getpid(), "said": "one"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    function = tmp_path / "hello" / "function"
    function.mkdir(parents=True)
    (function / "__init__.py").touch()
    (function / "handler.py").write_text(HANDLER)
    return tmp_path / "hello"


@pytest.fixture
def serving(tmp_path: Path, folder: Path) -> Iterator[EngineCommand]:
    with engine_command(tmp_path / "data") as engine:
        body = {"folder": str(folder), "retry": {"max_attempts": 3, "first_delay": 0.1}}
        assert engine.call("PUT", "/v1/functions/hello", body).status == 201
        yield engine


def invoke(engine: EngineCommand, payload: Any) -> dict[str, Any]:
    answer = engine.call("POST", "/v1/functions/hello/invocations", payload, {"Prefer": "wait=30"})
    assert answer.status == 200, answer.body
    return dict(answer.json)


def lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_it_is_served_and_ends_with_the_engine(serving: EngineCommand) -> None:
    pid = invoke(serving, {})["result"]["pid"]
    assert invoke(serving, {})["result"]["pid"] == pid
    assert lives(pid)
    assert serving.end() == 0
    assert not lives(pid)


def test_a_killed_engine_leaves_no_server(serving: EngineCommand) -> None:
    pid = invoke(serving, {})["result"]["pid"]
    serving.end(signal.SIGKILL)
    until(lambda: not lives(pid))


def test_a_killed_server_is_started_again(serving: EngineCommand) -> None:
    pid = invoke(serving, {})["result"]["pid"]
    ended: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: ended.append(invoke(serving, {"seconds": 1})))
    waiting.start()
    running = "/v1/activities?status=running"
    until(lambda: bool(serving.call("GET", running).json["items"]))
    os.kill(pid, signal.SIGKILL)
    waiting.join(30)
    assert (ended[0]["status"], ended[0]["attempts"]) == ("succeeded", 2)
    assert ended[0]["result"]["pid"] != pid


def test_what_is_saved_is_what_runs(serving: EngineCommand, folder: Path) -> None:
    assert invoke(serving, {})["result"]["said"] == "one"
    (folder / "function" / "handler.py").write_text(HANDLER.replace('"one"', '"two"'))
    until(lambda: invoke(serving, {}).get("result", {}).get("said") == "two")


def put(engine: EngineCommand, folder: Path, **more: Any) -> None:
    retry = {"max_attempts": 50, "first_delay": 0.1, "max_delay": 0.5}
    body = {"folder": str(folder), "retry": retry, **more}
    assert engine.call("PUT", "/v1/functions/hello", body).status in (200, 201)


def submit(engine: EngineCommand) -> str:
    answer = engine.call("POST", "/v1/functions/hello/invocations", {})
    assert answer.status == 202, answer.body
    return f"/v1/activities/{answer.json['id']}"


def ended(engine: EngineCommand, activity: str) -> dict[str, Any]:
    until(lambda: engine.call("GET", activity).json["ended"] is not None)
    return dict(engine.call("GET", activity).json)


def save(folder: Path, handler: str) -> None:
    (folder / "function" / "handler.py").write_text(handler)


@pytest.mark.parametrize("how", ["settings", "folder", "removed", "removed and put"])
def test_it_may_be_changed_while_it_starts(
    serving: EngineCommand, tmp_path: Path, folder: Path, how: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    began, go_on = tmp_path / "began", tmp_path / "go on"
    hold = (
        "import pathlib, time",
        f"pathlib.Path({str(began)!r}).touch()",
        f"while not pathlib.Path({str(go_on)!r}).exists():",
        "    time.sleep(0.02)",
    )
    save(folder, "\n".join(hold) + HANDLER)
    activity = submit(serving)
    until(began.exists)
    if "removed" in how:
        assert serving.call("DELETE", "/v1/functions/hello").status == 204
    if how != "removed":
        put(serving, other if how == "folder" else folder, concurrency=3)
    go_on.touch()
    assert ended(serving, activity)["status"] == ("failed" if how == "removed" else "succeeded")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("def handle(:", r"handler\.py:1: "),
        ("import no_such_module", "no_such_module"),
        (HANDLER + "\n\ndef start():\n    raise RuntimeError('no database')", "no database"),
        ("import os, sys\nsys.stderr.write('bye\\n')\nos._exit(3)", "bye; .* ended with status 3"),
    ],
    ids=["syntax", "module", "start", "exit"],
)
@pytest.mark.parametrize("at", ["first", "a later save"])
def test_one_that_does_not_start_is_tried_again_until_a_save_mends_it(
    serving: EngineCommand, folder: Path, mistake: str, said: str, at: str
) -> None:
    put(serving, folder)
    if at == "a later save":
        invoke(serving, {})
    save(folder, mistake)
    found: list[dict[str, Any]] = []

    def is_tried_again() -> bool:
        activity = submit(serving)
        until(lambda: serving.call("GET", activity).json["attempts"] > 1 or is_over(activity))
        found[:] = [serving.call("GET", activity).json]
        return found[0]["status"] != "succeeded"  # which it may until the save is noticed

    def is_over(activity: str) -> bool:
        return serving.call("GET", activity).json["ended"] is not None

    until(is_tried_again)
    assert found[0]["status"] in ("waiting", "running"), found
    assert found[0]["error"]["error_code"] == 3
    assert re.search(said, found[0]["error"]["message"]), found
    save(folder, HANDLER)
    mended = ended(serving, f"/v1/activities/{found[0]['id']}")
    assert mended["status"] == "succeeded", mended


def test_it_goes_on_when_its_settings_change(serving: EngineCommand, folder: Path) -> None:
    pid = invoke(serving, {})["result"]["pid"]
    put(serving, folder, concurrency=3)
    assert invoke(serving, {})["result"]["pid"] == pid
