"""``fnship engine serve`` and the commands that talk to it, as processes."""

from __future__ import annotations

import concurrent.futures
import http.server
import json
import re
import shutil
import signal
import socket
import stat
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from cli_process import fnship
from engine_command import EngineCommand, Function, engine_command, function, until


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


def test_its_limits_can_be_set(tmp_path):
    limits = ("--max-payload", 100, "--concurrency", 1)
    with function() as called, engine_command(tmp_path / "data", *limits) as engine:
        for name in ("one", "other"):
            engine.put(name, called.url)
        too_large = {"text": "x" * 100}
        answer = engine.call("POST", "/v1/functions/one/invocations", too_large)
        answer.assert_problem(413, "100")
        waiting = {"wait": True}
        for name in ("one", "other"):
            assert engine.call("POST", f"/v1/functions/{name}/invocations", waiting).status == 202
        until(lambda: called.calls == 1)
        listed = engine.call("GET", "/v1/activities").json["items"]
        assert sorted(each["status"] for each in listed) == ["queued", "running"]
        called.gate.set()
        until(lambda: called.calls == 2)


def test_a_port_that_is_taken(engine, tmp_path):
    port = engine.url.rpartition(":")[2]
    ended = fnship("engine", "serve", "--port", port, "--data", tmp_path / "x", cwd=tmp_path)
    ended.assert_mistake(rf"port {port} on 127.0.0.1 is in use .* another with --port$")
    assert not (tmp_path / "x").exists()


def test_a_port_for_functions_that_is_taken(engine, tmp_path):
    taken = engine.url.removeprefix("http://")
    options = ("--port", 0, "--data", tmp_path / "x", "--functions-address", taken)
    ended = fnship("engine", "serve", *options, cwd=tmp_path)
    ended.assert_mistake(r"is in use .* another with --functions-address$")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_engine_on_every_address_is_found_on_this_machine(tmp_path, host):
    if host == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with engine_command(tmp_path / "data", "--host", host) as engine:
        local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}[host]
        port = engine.url.rpartition(":")[2]
        assert (tmp_path / "data" / "url").read_text() == f"http://{local}:{port}\n"
        assert engine.fnship("functions", "list", cwd=tmp_path).status == 0
        for name in ("127.0.0.1", "localhost"):
            put = ("functions", "put", "f", "--url", f"http://{name}:{port}")
            engine.fnship(*put, cwd=tmp_path).assert_mistake(rf"this engine itself.*--allow {name}")
        elsewhere = ("functions", "put", "f", "--url", f"http://192.0.2.1:{port}")
        assert engine.fnship(*elsewhere, cwd=tmp_path).status == 0


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of an engine that was stopped."""
    data = tmp_path_factory.mktemp("stopped") / "data"
    with engine_command(data):
        pass
    return data


@pytest.mark.parametrize("begin", [0, 4096])
@pytest.mark.parametrize("file", ["engine.sqlite", "durable.sqlite"])
def test_a_file_that_is_damaged(left, tmp_path, file, begin):
    data = shutil.copytree(left, tmp_path / "data")
    whole = (data / file).read_bytes()
    (data / file).write_bytes(whole[:begin] + b"damaged!" * ((len(whole) - begin) // 8))
    ended = fnship("engine", "serve", "--port", 0, "--data", data, cwd=tmp_path)
    ended.assert_mistake(rf"{file} cannot be opened")


def test_a_data_folder_that_is_in_use(engine, tmp_path):
    ended = fnship("engine", "serve", "--port", 0, "--data", engine.data, cwd=tmp_path)
    ended.assert_mistake(rf"another engine, process {engine.process.pid}, uses the data folder")
    assert engine.call("GET", "/v1/functions").status == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "--port"),
        (["--host", "256.0.0.1"], "--host '256.0.0.1' is no address of this machine"),
        (["--host", "192.0.2.1"], "--host '192.0.2.1' is no address of this machine"),
        (
            ["--functions-address", "192.0.2.1:1"],
            "--functions-address '192.0.2.1' is no address of this machine",
        ),
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
    revoked = engine.fnship("engine", "revoke", token_id, "--json", cwd=tmp_path)
    assert revoked.json == {"deleted": token_id}
    fnship("functions", "list", cwd=tmp_path, env=read).assert_mistake("revoked")


def test_the_key_of_callbacks_is_for_administrators(engine, tmp_path):
    shown = engine.fnship("engine", "callback-key", cwd=tmp_path)
    assert (shown.status, shown.stderr) == (0, "")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", shown.stdout)
    told = engine.fnship("engine", "callback-key", "--json", cwd=tmp_path)
    assert json.loads(told.stdout) == {"key": shown.stdout.strip()}
    made = engine.call("POST", "/v1/tokens", {"role": "invoke"}).json["token"]
    engine.call("GET", "/v1/callbacks/key", token=made).assert_problem(403, "admin")


def test_a_callback_that_is_not_heard_is_shown_and_sent_once_more(engine, name, tmp_path):
    call = ("activities", "invoke", name, "--wait", "30s", "--json")
    url = "http://u:p@127.0.0.1:1/told"
    engine.fnship(*call, "--callback", url, cwd=tmp_path).assert_mistake("user")
    activity = engine.fnship(*call, "--callback", "http://127.0.0.1:1/told?s=cret", cwd=tmp_path)
    get = ("activities", "get", activity.json["id"])
    until(lambda: engine.fnship(*get, "--json", cwd=tmp_path).json["callback"]["attempts"])
    found = engine.fnship(*get, "--json", cwd=tmp_path)
    assert found.json["callback"]["status"] == "pending"
    assert found.json["callback"]["error"] == "cannot connect: Connection refused"
    assert found.json["callback"]["url"] == "http://127.0.0.1:1/told?…"
    assert "cret" not in engine.fnship(*get, cwd=tmp_path).stdout
    again = engine.fnship("activities", "callback", activity.json["id"], cwd=tmp_path)
    assert again.stderr == f"fnship: the callback of {activity.json['id']} is sent once more\n"
    other = engine.fnship(*call, cwd=tmp_path).json["id"]
    assert (
        engine.fnship("activities", "get", other, "--json", cwd=tmp_path).json["callback"] is None
    )
    engine.fnship("activities", "callback", other, cwd=tmp_path).assert_mistake("has no callback")


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
    deleted = engine.fnship("functions", "delete", name, "--json", cwd=tmp_path)
    assert (deleted.json, deleted.stderr) == ({"deleted": name}, "")
    engine.fnship("functions", "get", name, cwd=tmp_path).assert_mistake(f"no function '{name}'")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "one of --url, --folder and --image"),
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


def test_where_an_exception_came_from_is_shown(engine, name, tmp_path):
    frames = '[{"file": "handler.py", "line": 7, "function": "handle"}, "?"]'
    payload = f'{{"error_code": 2, "message": "division by zero", "stack_trace": {frames}}}'
    done = engine.fnship(
        "activities", "invoke", name, "--data", payload, "--wait", "30s", cwd=tmp_path
    )
    assert done.status == 12
    assert done.stderr.startswith("  | handler.py:7 in handle\nfnship: division by zero\n")


def test_the_status_of_a_failed_activity_is_its_error_code(engine, name, tmp_path):
    payload = '{"error_code": 4, "message": "not there", "data": {"a": 1}}'
    done = engine.fnship(
        "activities", "invoke", name, "--data", payload, "--wait", "30s", cwd=tmp_path
    )
    assert (done.status, done.stdout) == (14, "")
    assert "fnship: not there\n" in done.stderr
    assert 'fnship: its data: {"a": 1}\n' in done.stderr


def test_a_wait_is_applied_as_far_as_it_goes(engine, name):
    where = f"/v1/functions/{name}/invocations"
    for wanted, applied in ((100000, 3600), (3600, 3600), (7, 7)):
        done = engine.call("POST", where, {}, {"Prefer": f"wait={wanted}"})
        assert done.headers["Preference-Applied"] == f"wait={applied}"


@pytest.mark.parametrize("wait", ["0.5s", "0.5", "500ms", "1"])
def test_a_wait_is_any_duration(engine, name, tmp_path, wait):
    done = engine.fnship("activities", "invoke", name, "--wait", wait, cwd=tmp_path)
    assert (done.status, done.stdout) == (0, "{}\n")


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
        (["activities", "invoke", "f", "--wait", "."], "--wait '.' is no duration"),
        (["activities", "invoke", "f", "--wait", "-1s"], "--wait '-1s' is no duration"),
        (["state", "set", "k", "1", "--ttl", "soon"], "--ttl 'soon' is no duration"),
        (["state", "set", "k", "1", "--ttl", "0"], "--ttl '0' is no duration"),
        (["state", "set", "k", "1", "--version", 2**60], "^fnship: error: version should be "),
        (["engine", "token", "--role", "king"], "--role"),
        (["engine", "revoke", "none"], "there is no token 'none'"),
    ],
)
def test_a_request_that_is_refused_is_one_line(engine, tmp_path, arguments, said):
    engine.fnship(*arguments, cwd=tmp_path).assert_mistake(said)


def test_a_data_folder_without_an_engine(engine, tmp_path):
    folder = tmp_path / "hello"
    (folder / ".fnship").mkdir(parents=True)
    ended = engine.fnship("activities", "list", "--data", folder, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (3, "")
    assert f"no engine runs on the data folder {folder}. Start one with:" in ended.stderr
    (folder / ".fnship" / "url").write_text(engine.url)
    ended = engine.fnship("activities", "list", "--data", folder, cwd=tmp_path)
    assert ended.status == 3
    assert f"but one does on {folder / '.fnship'}: name that" in ended.stderr


def test_a_token_that_is_refused_says_where_it_is_from(engine, tmp_path):
    env = {"FNSHIP_DATA": str(engine.data)}
    wrong = "wrong-token-wrong-token"
    ended = fnship("activities", "list", cwd=tmp_path, env={**env, "FNSHIP_TOKEN": wrong})
    assert ended.status == 2
    assert "It is what FNSHIP_TOKEN says, which goes before" in ended.stderr
    assert wrong not in ended.stderr


def test_who_has_waited_in_vain_learns_why(engine, tmp_path):
    engine.fnship(
        *("functions", "put", "away", "--url", "http://127.0.0.1:9", "--max-attempts", 9),
        cwd=tmp_path,
    )
    ended = engine.fnship("activities", "invoke", "away", "--wait", "1", cwd=tmp_path)
    assert ended.status == 1
    assert "its last attempt: cannot connect to http://127.0.0.1:9" in ended.stderr
    assert "its next attempt is due at 2" in ended.stderr
    said = "".join(engine.said)
    assert f"fnship: activity {ended.stdout.strip()} of away, attempt 1: cannot connect" in said
    engine.call("POST", f"/v1/activities/{ended.stdout.strip()}/cancel")


def test_a_second_signal_cuts_off_what_is_in_flight(tmp_path):
    with function() as called, engine_command(tmp_path / "data", "--grace", "1h") as engine:
        engine.put("slow", called.url)
        engine.call("POST", "/v1/functions/slow/invocations", {"wait": True})
        until(lambda: called.calls == 1)
        engine.process.send_signal(signal.SIGINT)
        until(lambda: any("a second signal cuts them off" in each for each in engine.said))
        assert engine.end() == 0
        assert "Traceback" not in "".join(engine.said)


def test_no_engine(tmp_path):
    ended = fnship(
        "functions", "list", "--data", tmp_path, "--engine", "http://127.0.0.1:9", cwd=tmp_path
    )
    ended.assert_mistake("no engine answers at http://127.0.0.1:9. Start one with: fnship", 3)


class _Stranger(http.server.BaseHTTPRequestHandler):
    """Answers any request with what its server was given."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.body)  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


COMMANDS = [
    ("functions", "list"),
    ("functions", "get", "f"),
    ("activities", "list"),
    ("activities", "get", "a"),
    ("activities", "invoke", "f"),
    ("activities", "replay", "a"),
    ("engine", "token", "--role", "read"),
    ("engine", "tokens"),
    ("logs",),
    ("state", "list"),
    ("state", "get", "k"),
    ("state", "set", "k", "1"),
]
BODIES = ["", "<html>", "[]", '{"items": 3}', '{"items": [{"name": 1}], "cursor": null}']


@pytest.mark.parametrize(
    ("body", "commands"), [("{}", COMMANDS), *((body, COMMANDS[:1]) for body in BODIES)]
)
def test_something_that_is_no_engine(tmp_path, body, commands):
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stranger) as stranger,
        concurrent.futures.ThreadPoolExecutor(2) as clients,
    ):
        stranger.body = body.encode()  # type: ignore[attr-defined]
        serving = threading.Thread(target=stranger.serve_forever, args=(0.02,))
        serving.start()
        url = f"http://127.0.0.1:{stranger.server_address[1]}"
        ended = list(
            clients.map(lambda each: fnship(*each, "--engine", url, cwd=tmp_path), commands)
        )
        stranger.shutdown()
        serving.join()
    for each in ended:
        each.assert_mistake("is an engine there", 3)
