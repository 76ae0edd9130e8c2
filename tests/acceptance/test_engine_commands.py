"""``fnship engine serve`` and the commands that talk to it, as processes."""

from __future__ import annotations

import concurrent.futures
import json
import re
import signal
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import fnship
from engine_command import EngineCommand, Function, engine_command, function, until


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCommand]:
    with engine_command(tmp_path_factory.mktemp("engine") / "data") as engine:
        yield engine


@pytest.fixture
def called() -> Iterator[Function]:
    with function() as called:
        yield called


@pytest.fixture
def name(engine: EngineCommand, called: Function, tmp_path: Path) -> str:
    """A function of this test's own, registered by a command."""
    name = f"f-{uuid.uuid4().hex[:12]}"
    put = engine.fnship(
        "functions", "put", name, "--url", called.url, "--max-attempts", 1, cwd=tmp_path
    )
    assert (put.status, put.stderr) == (0, f"fnship: {name} is registered\n")
    return name


# The engine


def test_it_says_where_it_is_and_never_its_token(engine):
    said = "".join(engine.said)
    assert f"fnship: the engine listens on {engine.url}\n" in said
    assert f"fnship: its data is in {engine.data}\n" in said
    assert f"fnship: the token for its API is in {engine.data / 'token'}\n" in said
    assert engine.token not in said
    assert stat.S_IMODE((engine.data / "token").stat().st_mode) == 0o600


def test_the_token_of_the_environment_is_the_token(tmp_path):
    token = "a-token-of-the-environment"
    with engine_command(tmp_path / "data", token=token) as engine:
        assert engine.call("GET", "/v1/functions").status == 200
        assert not (tmp_path / "data" / "token").exists()
        listed = fnship(
            "functions", "list", "--engine", engine.url, cwd=tmp_path, env={"FNSHIP_TOKEN": token}
        )
        assert listed.status == 0
        refused = fnship("functions", "list", "--engine", engine.url, cwd=tmp_path)
        refused.assert_mistake(r"there is no token: .*Set FNSHIP_TOKEN, or name the engine's data")
    assert token not in "".join(engine.said)


def test_it_keeps_its_token_and_its_functions(tmp_path):
    with engine_command(tmp_path / "data") as first:
        token = first.token
        first.put("kept", "http://127.0.0.1:9")
    with engine_command(tmp_path / "data") as second:
        assert second.token == token
        assert second.call("GET", "/v1/functions/kept").status == 200


def test_a_port_that_is_taken(engine, tmp_path):
    port = engine.url.rpartition(":")[2]
    ended = fnship("engine", "serve", "--port", port, "--data", tmp_path / "x", cwd=tmp_path)
    ended.assert_mistake(rf"port {port} on 127.0.0.1 is in use .* another with --port$")
    assert not (tmp_path / "x").exists()


def test_a_data_folder_that_is_in_use(engine, tmp_path):
    ended = fnship("engine", "serve", "--port", 0, "--data", engine.data, cwd=tmp_path)
    ended.assert_mistake(rf"another engine, process {engine.process.pid}, uses the data folder")
    assert engine.call("GET", "/v1/functions").status == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "--port"),
        (["--host", "256.0.0.1"], "is no address of this machine"),
        (["--data", "file"], "the data folder file cannot be used"),
        (["--advertise-url", "here"], "'here' is no URL"),
        (["--functions-address", "8701"], "--functions-address '8701' is no address such as"),
        (["--allow", "10.0.0.0/99"], "10.0.0.0/99"),
        (["--grace", "long"], "--grace 'long' is no duration"),
        (["--keep", "0"], "--keep '0' is no duration"),
        (["--max-value", "0"], "--max-value"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, options, said):
    (tmp_path / "file").touch()
    defaults = [] if "--port" in options else ["--port", "0"]
    defaults += [] if "--data" in options else ["--data", "data"]
    fnship("engine", "serve", *defaults, *options, cwd=tmp_path).assert_mistake(said)


@pytest.mark.parametrize("token", ["short", "a token with spaces in it"])
def test_a_token_that_is_none(tmp_path, token):
    ended = fnship("engine", "serve", "--port", 0, cwd=tmp_path, env={"FNSHIP_TOKEN": token})
    ended.assert_mistake("FNSHIP_TOKEN is no token")
    assert token not in ended.stderr


def test_a_second_listener_is_for_functions_alone(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with engine_command(tmp_path / "data", "--functions-address", f"127.0.0.1:{port}") as engine:
        second = f"http://127.0.0.1:{port}"
        assert f"fnship: for functions alone, on {second}\n" in engine.said
        first, engine.url = engine.url, second
        assert engine.call("GET", "/v1/functions").status == 404
        assert engine.call("GET", "/functions/state?key=k").status == 401
        engine.url = first
        assert engine.call("GET", "/v1/functions").status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_is_in_flight(tmp_path, number):
    with (
        function() as called,
        engine_command(tmp_path / "data") as engine,
        concurrent.futures.ThreadPoolExecutor(2) as clients,
    ):
        engine.put("slow", called.url)
        path = "/v1/functions/slow/invocations"
        waiting = clients.submit(engine.call, "POST", path, {"wait": True}, {"Prefer": "wait=60"})
        until(lambda: called.calls == 1)
        ending = clients.submit(engine.end, number)
        until(lambda: engine.call("GET", "/readyz").status == 503)
        refused = engine.call("POST", path, {})
        refused.assert_problem(503, "no more requests")
        called.gate.set()
        done = waiting.result()
        assert (done.status, done.json["status"]) == (200, "succeeded")
        assert ending.result() == 0
        assert not (tmp_path / "data" / "url").exists()
        assert "Traceback" not in "".join(engine.said)


def test_what_does_not_end_in_time_goes_on_after_the_next_start(tmp_path):
    with function() as called:
        with (
            engine_command(tmp_path / "data", "--grace", "1s") as engine,
            concurrent.futures.ThreadPoolExecutor(2) as clients,
        ):
            engine.put("slow", called.url)
            path = "/v1/functions/slow/invocations"
            waiting = clients.submit(
                engine.call, "POST", path, {"wait": True}, {"Prefer": "wait=60"}
            )
            until(lambda: called.calls == 1)
            follower = clients.submit(engine.call, "GET", "/v1/activities/none/logs?follow=true")
            assert follower.result().status == 404
            assert engine.end() == 0
            answer = waiting.result()
        assert answer.status == 202
        place = answer.headers["Location"]
        called.gate.set()
        with engine_command(tmp_path / "data") as engine:
            until(lambda: engine.call("GET", place).json["status"] == "succeeded")


def test_a_stop_ends_those_who_follow_a_log(tmp_path):
    with (
        function() as called,
        engine_command(tmp_path / "data") as engine,
        concurrent.futures.ThreadPoolExecutor(1) as clients,
    ):
        engine.put("later", called.url, retry={"first_delay": 600})
        payload = {"error_code": 3, "message": "not yet"}
        accepted = engine.call("POST", "/v1/functions/later/invocations", payload)
        place = accepted.headers["Location"]
        until(lambda: engine.call("GET", place).json["status"] == "waiting")
        follower = clients.submit(engine.call, "GET", f"{place}/logs?follow=true")
        time.sleep(0.2)  # until it is there; where it comes later, it is refused
        assert engine.end() == 0
        assert follower.result().status in (200, 503)
        assert "Traceback" not in "".join(engine.said)


def test_nothing_is_lost_when_it_stops_under_load(tmp_path):
    accepted: list[str] = []
    with function() as called:
        with (
            engine_command(tmp_path / "data") as engine,
            concurrent.futures.ThreadPoolExecutor(1) as clients,
        ):
            engine.put("busy", called.url)
            ending = None
            for number in range(60):
                try:
                    answer = engine.call("POST", "/v1/functions/busy/invocations", {"n": number})
                except Exception:  # it listens no more
                    break
                if answer.status == 503:
                    break
                assert answer.status == 202
                accepted.append(answer.headers["Location"])
                if number == 30:
                    ending = clients.submit(engine.end)
                time.sleep(0.02)
            assert ending is not None
            assert ending.result() == 0
        assert len(accepted) >= 31
        with engine_command(tmp_path / "data") as engine:
            for place in accepted:
                until(lambda place=place: engine.call("GET", place).json["status"] == "succeeded")


# Tokens


def test_a_token_with_a_role_is_made_listed_and_revoked(engine, tmp_path):
    made = engine.fnship(
        "engine", "token", "--role", "read", "--expires", "30d", "--name", "ci", cwd=tmp_path
    )
    assert made.status == 0
    token = made.stdout.strip()
    [token_id] = re.findall(r"fnship: token (\w+) has the role read until 20", made.stderr)
    read = {"FNSHIP_TOKEN": token, "FNSHIP_ENGINE": engine.url}
    assert fnship("functions", "list", cwd=tmp_path, env=read).status == 0
    fnship("functions", "delete", "f", cwd=tmp_path, env=read).assert_mistake(
        "the token has the role read, and this needs admin"
    )
    listed = engine.fnship("engine", "tokens", cwd=tmp_path)
    assert re.search(rf"^{token_id} +read +ci ", listed.stdout, re.MULTILINE)
    assert token not in listed.stdout
    assert engine.fnship("engine", "revoke", token_id, cwd=tmp_path).status == 0
    fnship("functions", "list", cwd=tmp_path, env=read).assert_mistake("revoked")


def test_the_kept_token_is_sent_to_this_machine_alone(engine, tmp_path):
    heard: list[bytes] = []
    with socket.create_server(("0.0.0.0", 0)) as stranger:
        port = stranger.getsockname()[1]
        own = socket.gethostname()
        with concurrent.futures.ThreadPoolExecutor(1) as listener:

            def hear() -> None:
                connection, _ = stranger.accept()
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

            hearing = listener.submit(hear)
            ended = engine.fnship(
                "functions", "list", "--engine", f"http://{own}:{port}", cwd=tmp_path
            )
            hearing.result()
    assert ended.status in (2, 3)
    assert heard[0].startswith(b"GET /v1/functions")
    assert engine.token.encode() not in heard[0]


# Functions and activities


def test_functions_are_shown(engine, name, called, tmp_path):
    table = engine.fnship("functions", "list", cwd=tmp_path).stdout
    assert re.search(rf"^{name} +300s +16 +1 +{called.url}$", table, re.MULTILINE)
    one = engine.fnship("functions", "get", name, "--json", cwd=tmp_path).json
    assert (one["url"], one["retry"]["max_attempts"]) == (called.url, 1)
    shown = engine.fnship("functions", "get", name, cwd=tmp_path).stdout
    assert re.search(r"^retry\.max_attempts +1$", shown, re.MULTILINE)
    changed = engine.fnship(
        "functions",
        *("put", name, "--url", called.url, "--timeout", "1m30s", "--concurrency", 2),
        *("--retry", '{"jitter": 0}', "--json"),
        cwd=tmp_path,
    ).json
    assert (changed["timeout"], changed["concurrency"], changed["retry"]["jitter"]) == (90.0, 2, 0)
    assert engine.fnship("functions", "delete", name, cwd=tmp_path).status == 0
    engine.fnship("functions", "get", name, cwd=tmp_path).assert_mistake(f"no function '{name}'")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "either --url or --folder"),
        (["--url", "x"], "'x' is no URL"),
        (["--url", "http://169.254.169.254"], "link-local"),
        (["--folder", "."], "function"),
        (["--url", "http://127.0.0.1:1", "--retry", "{"], "--retry is not valid"),
        (["--url", "http://127.0.0.1:1", "--retry", "3"], "--retry is no object"),
        (["--url", "http://127.0.0.1:1", "--retry", '{"a": 1}'], r"retry\.a"),
        (["--url", "http://127.0.0.1:1", "--timeout", "soon"], "--timeout 'soon' is no duration"),
    ],
)
def test_a_function_that_cannot_be_is_one_line(engine, tmp_path, options, said):
    engine.fnship("functions", "put", "f", *options, cwd=tmp_path).assert_mistake(said)


def test_a_result_is_shown_as_the_function_wrote_it(engine, name, tmp_path):
    payload = '{"n": 123456789012345678901234567890, "price": 1.50}'
    done = engine.fnship(
        "activities", "invoke", name, "--data", payload, "--wait", "30s", cwd=tmp_path
    )
    assert done.status == 0
    assert "123456789012345678901234567890" in done.stdout
    assert "1.50" in done.stdout
    assert json.loads(done.stdout) == json.loads(payload)
    assert re.search(r"activity \w+ has succeeded after 1 attempt\n", done.stderr)
    whole = engine.fnship(
        "activities", "invoke", name, "--data", payload, "--wait", "30s", "--json", cwd=tmp_path
    )
    assert whole.json["status"] == "succeeded"
    assert "1.50" in whole.stdout
    shown = engine.fnship("activities", "get", whole.json["id"], cwd=tmp_path).stdout
    assert re.search(r"^payload +.*1\.50", shown, re.MULTILINE)


def test_the_status_of_a_failed_activity_is_its_error_code(engine, name, tmp_path):
    payload = '{"error_code": 4, "message": "not there", "data": {"a": 1}}'
    done = engine.fnship(
        "activities", "invoke", name, "--data", payload, "--wait", "30s", cwd=tmp_path
    )
    assert (done.status, done.stdout) == (14, "")
    assert "fnship: not there\n" in done.stderr
    assert 'fnship: its data: {"a": 1}\n' in done.stderr


def test_an_activity_is_invoked_listed_and_cancelled(engine, name, tmp_path):
    options = ("--data", '{"wait": true}', "--project", "p1", "--event", "deploy", "--key", name)
    accepted = engine.fnship("activities", "invoke", name, *options, cwd=tmp_path)
    assert accepted.status == 0
    activity = accepted.stdout.strip()
    again = engine.fnship("activities", "invoke", name, *options, "--wait", "1s", cwd=tmp_path)
    assert (again.status, again.stdout.strip()) == (1, activity)
    assert f"activity {activity} is running still" in again.stderr
    got = engine.fnship("activities", "get", activity, "--json", cwd=tmp_path).json
    assert (got["project_id"], got["event"]["type"]) == ("p1", "deploy")
    listed = engine.fnship(
        "activities", "list", "--function", name, "--project", "p1", "--json", cwd=tmp_path
    ).json
    assert [each["id"] for each in listed["items"]] == [activity]
    assert engine.fnship("activities", "cancel", activity, cwd=tmp_path).status == 0
    table = engine.fnship("activities", "list", "--function", name, cwd=tmp_path).stdout
    assert re.search(rf"^{activity} +{name} +cancelled ", table, re.MULTILINE)
    replayed = engine.fnship("activities", "replay", activity, cwd=tmp_path)
    assert re.fullmatch(r"\w+\n", replayed.stdout)


def test_dead_letters_are_listed_and_replayed(engine, name, tmp_path):
    payload = '{"error_code": 2, "message": "no\\u001b[31m"}'
    for _ in range(3):
        engine.fnship(
            "activities", "invoke", name, "--data", payload, "--wait", "30s", cwd=tmp_path
        )
    first = engine.fnship("activities", "dead", "--function", name, "--limit", 2, cwd=tmp_path)
    assert first.stdout.count(name) == 2
    assert "\x1b" not in first.stdout
    [cursor] = re.findall(r"there are more: --cursor (\S+)", first.stderr)
    rest = engine.fnship("activities", "dead", "--function", name, "--cursor", cursor, cwd=tmp_path)
    assert rest.stdout.count(name) == 1
    replayed = engine.fnship("activities", "replay", "--dead", "--function", name, cwd=tmp_path)
    assert replayed.stderr == "fnship: 3 activities are run once more\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["activities", "get", "none?x=1#y"], "there is no activity .none.x=1#y"),
        (["activities", "cancel", "none"], "there is no activity 'none'"),
        (["activities", "replay"], "either the ID of an activity or --dead"),
        (["activities", "replay", "a", "--dead"], "either the ID of an activity or --dead"),
        (["activities", "replay", "a", "--function", "f"], "leave the filters out"),
        (["activities", "list", "--cursor", "nowhere"], "cursor 'nowhere' was not made by"),
        (["activities", "list", "--after", "yesterday"], "created_after"),
        (["activities", "invoke", "nobody"], "there is no function 'nobody'"),
        (["activities", "invoke", "f", "--data", "{"], "--data is not JSON"),
        (["activities", "invoke", "f", "--wait", "0"], "--wait '0' is no duration"),
        (["activities", "invoke", "f", "--callback", "x"], "'x' is no URL"),
        (["engine", "token", "--role", "king"], "--role"),
        (["engine", "revoke", "none"], "there is no token 'none'"),
    ],
)
def test_a_request_that_is_refused_is_one_line(engine, tmp_path, arguments, said):
    engine.fnship(*arguments, cwd=tmp_path).assert_mistake(said)


def test_no_engine(tmp_path):
    ended = fnship(
        "functions", "list", "--data", tmp_path, "--engine", "http://127.0.0.1:9", cwd=tmp_path
    )
    ended.assert_mistake("no engine answers at http://127.0.0.1:9. Start one with: fnship", 3)


def test_something_that_is_no_engine(tmp_path):
    with function() as other:
        ended = fnship("activities", "replay", "x", "--engine", other.url, cwd=tmp_path)
    assert ended.status in (2, 3)
    assert len(ended.stderr.splitlines()) == 1
