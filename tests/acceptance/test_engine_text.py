"""What the engine keeps of logs and state, as ``fnship logs`` and ``fnship state`` show it."""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
import uuid
from pathlib import Path

import pytest
from cli_process import LIMIT, command, environment
from engine_command import EngineCommand, Function, engine_command, function, until

from fnship import contract
from fnship.function.log_form import FormPart, write_form

ASCII = {"PYTHONIOENCODING": "ascii"}


def activity(engine: EngineCommand, called: Function) -> str:
    """An activity that runs until its function's gate is open."""
    name = f"f-{uuid.uuid4().hex[:12]}"
    engine.put(name, called.url)
    accepted = engine.call("POST", f"/v1/functions/{name}/invocations", {"wait": True})
    until(lambda: called.calls > 0)
    activity_id: str = accepted.json["id"]
    return activity_id


def upload(engine: EngineCommand, called: Function, text: str) -> None:
    """Add to the log of the activity that was begun first."""
    kind, body = write_form([FormPart(text.encode())])
    headers = called.headers[0]
    token = {contract.WORKFLOW_TOKEN: headers[contract.WORKFLOW_TOKEN]}
    where = headers[contract.FILE_UPLOAD] + "?append=true"
    assert engine.call("POST", where, body, {"Content-Type": kind, **token}).status == 200


def written(engine: EngineCommand, *arguments: object, cwd: Path) -> tuple[int, bytes, bytes]:
    """Run a command where stdout takes ASCII alone. Gives its status and what it wrote."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(FNSHIP_DATA=str(engine.data), **ASCII),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# Logs


@pytest.fixture(scope="module")
def searched(engine: EngineCommand) -> str:
    """An activity with 2500 lines in its log, in 25 uploads."""
    with function() as called:
        activity_id = activity(engine, called)
        for upload_number in range(25):
            numbers = range(upload_number * 100, upload_number * 100 + 100)
            upload(engine, called, "".join(f"needle {number}\n" for number in numbers))
        return activity_id


@pytest.mark.parametrize(
    ("limit", "count", "more"),
    [((), 1000, True), (("--limit", 30), 30, True), (("--limit", 1700), 1700, True)],
)
def test_a_search_goes_on_up_to_its_limit(engine, searched, tmp_path, limit, count, more):
    found = engine.fnship("logs", "--grep", "NEEDLE", *limit, cwd=tmp_path)
    wanted = [f"{searched} needle {number}" for number in range(2499, 2499 - count, -1)]
    assert found.stdout.splitlines() == wanted
    assert found.stderr == (
        f"fnship: there may be more than these {count} lines: give a higher --limit\n"
    )


@pytest.mark.parametrize(("text", "count"), [("needle", 2500), ("needle 249", 11), ("no", 0)])
def test_a_search_that_finds_all_says_nothing_more(engine, searched, tmp_path, text, count):
    found = engine.fnship("logs", searched, "--grep", text, "--limit", 3000, cwd=tmp_path)
    assert (len(found.stdout.splitlines()), found.stderr, found.status) == (count, "", 0)


def test_a_log_is_followed_to_its_end(engine, called, tmp_path):
    activity_id = activity(engine, called)
    with concurrent.futures.ThreadPoolExecutor(1) as clients:
        following = clients.submit(engine.fnship, "logs", activity_id, "-f", cwd=tmp_path)
        upload(engine, called, "first\n")
        upload(engine, called, "last\n")
        called.gate.set()
        done = following.result()
    assert (done.status, done.stdout, done.stderr) == (0, "first\nlast\n", "")


@pytest.mark.parametrize("killed", [False, True])
def test_a_follower_is_told_that_the_engine_stops(tmp_path, killed):
    with (
        function() as called,
        engine_command(tmp_path / "data", "--grace", "0s") as engine,
    ):
        activity_id = activity(engine, called)
        upload(engine, called, "first\n")
        follower = subprocess.Popen(
            command("logs", activity_id, "--follow"),
            cwd=tmp_path,
            env=environment(FNSHIP_DATA=str(engine.data)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        if killed:
            engine.process.kill()
        engine.end()
        rest, said = follower.communicate(timeout=LIMIT)
    assert (follower.returncode, rest, said.count("\n")) == (3, "", 1)
    wanted = "broke off" if killed else f"the engine stopped before {activity_id} has ended"
    assert said.startswith("fnship: error: ")
    assert wanted in said


# Whatever the terminal takes


def test_logs_are_utf_8(engine, called, tmp_path):
    activity_id = activity(engine, called)
    upload(engine, called, "Ærø €\n")
    plain = written(engine, "logs", activity_id, cwd=tmp_path)
    assert plain == (0, "Ærø €\n".encode(), b"")
    found = written(engine, "logs", "--grep", "ærø", cwd=tmp_path)
    assert found == (0, f"{activity_id} Ærø €\n".encode(), b"")
    status, as_json, _ = written(engine, "logs", activity_id, "--json", cwd=tmp_path)
    assert (status, json.loads(as_json)["line"]) == (0, "Ærø €")
    called.gate.set()
    followed = written(engine, "logs", activity_id, "--follow", cwd=tmp_path)
    assert followed == (0, "Ærø €\n".encode(), b"")


def test_state_is_utf_8(engine, tmp_path):
    scope = ("--project", "utf-8")
    answer = engine.call("PUT", "/v1/state/item?key=%C3%A9&project_id=utf-8", '"Ærø €"'.encode())
    assert answer.status == 200
    status, exported, said = written(engine, "state", "export", *scope, cwd=tmp_path)
    assert (status, said) == (0, b"")
    assert json.loads(exported)["value"] == "Ærø €"
    assert "Ærø €".encode() in exported
    for options in ([], ["--json"]):
        status, got, said = written(engine, "state", "get", "é", *scope, *options, cwd=tmp_path)
        assert (status, said) == (0, b"")
        assert "Ærø €" in str(json.loads(got))
    status, listed, said = written(engine, "state", "list", *scope, cwd=tmp_path)
    assert (status, said) == (0, b"")
    assert listed.isascii()
    status, changed, said = written(engine, "state", "set", "é", "1", *scope, cwd=tmp_path)
    assert (status, changed, said) == (0, "é is at version 2\n".encode(), b"")


def test_a_value_comes_from_a_file_or_stdin(engine, tmp_path):
    (tmp_path / "value.json").write_text('{"a": 1.50}')
    (tmp_path / "text").write_text("hello")
    set_ = ("state", "set", "from elsewhere")
    assert engine.fnship(*set_, "@value.json", cwd=tmp_path).status == 0
    assert engine.fnship(*set_, "-", stdin="[1, 2]", cwd=tmp_path).status == 0
    kept = engine.fnship("state", "get", "from elsewhere", "--json", cwd=tmp_path).json
    assert (kept["value"], kept["version"]) == ([1, 2], 2)
    engine.fnship(*set_, "@none", cwd=tmp_path).assert_mistake("cannot read none: No such file")
    engine.fnship(*set_, "@text", cwd=tmp_path).assert_mistake("text is no JSON")
    engine.fnship(*set_, "-", stdin="", cwd=tmp_path).assert_mistake("stdin is no JSON")
    engine.fnship(*set_, "hello", cwd=tmp_path).assert_mistake("the value is no JSON")


def test_state_goes_and_comes_whole(engine, tmp_path):
    project = ("--project", "p1")
    for ttl in ("1h", "3600", "0.5h", "1800.5"):
        kept = engine.fnship("state", "set", ttl, "1.50", "--ttl", ttl, *project, cwd=tmp_path)
        assert (kept.status, kept.stdout) == (0, f"{ttl} is at version 1\n")
    exported = engine.fnship("state", "export", *project, cwd=tmp_path).stdout
    lines = {each["key"]: each for each in map(json.loads, exported.splitlines())}
    assert set(lines) == {"1h", "3600", "0.5h", "1800.5"}
    assert abs(lines["1h"]["expires"] - lines["0.5h"]["expires"] - 1800) < LIMIT
    assert "1.50" in exported
    (tmp_path / "state.jsonl").write_text(exported)
    written = engine.fnship("state", "import", "state.jsonl", "--project", "p2", cwd=tmp_path)
    assert written.stdout == "4 keys written\n"
    deleted = engine.fnship("state", "delete", "1h", "--project", "p2", "--json", cwd=tmp_path)
    assert deleted.json == {"deleted": "1h"}
    engine.fnship("state", "delete", "1h", "--project", "p2", cwd=tmp_path).assert_mistake("1h")
