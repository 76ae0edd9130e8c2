"""`fnship invoke` against functions that run, and against folders."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_process import LIMIT, command, environment, fnship, running, write_function

ECHO = """
import fnship

async def handle(logger, request):
    logger.info("got %s", sorted(request))
    print("printed")
    error = request.get("error")
    if error:
        raise getattr(fnship, error)("on purpose")
    return request
"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = write_function(tmp_path_factory.mktemp("echo"), ECHO)
    with running(cwd=folder) as (url, _):
        yield url


def test_answer_lines_and_time_are_apart(echo: str, tmp_path: Path) -> None:
    called = fnship("invoke", echo, "--data", '{"name": "Ada"}', cwd=tmp_path)
    assert called.status == 0, called.stderr
    assert called.json["name"] == "Ada"
    *lines, time = called.stderr.splitlines()
    assert [
        line for line in lines if re.search(r"handler\.py:\d+ got \['metadata', 'name'\]$", line)
    ]
    assert [line for line in lines if line.endswith("stdout printed")]
    assert all(line.startswith("  | ") for line in lines)
    assert re.fullmatch(r"fnship: 200 in [0-9.]+ (ms|s)", time)


def test_metadata_comes_from_the_options(echo: str, tmp_path: Path) -> None:
    called = fnship(
        *("invoke", "--url", echo, "--project", "p1", "--environment", "e1"),
        *("--environment-name", "tëst", "--organization", "o1", "--activity-id", "a1"),
        *("--event", "force-destroy", "--event-source", "workload", "--event-source-name", "web"),
        cwd=tmp_path,
    )
    metadata = called.json["metadata"]
    assert metadata.pop("stateStoreUrl").startswith("http://127.0.0.1:")
    assert metadata.pop("stateStoreToken")
    assert metadata == {
        "activityID": "a1",
        "environmentID": "e1",
        "environmentName": "tëst",
        "organizationID": "o1",
        "projectID": "p1",
        "eventSource": "workload",
        "eventSourceName": "web",
        "eventType": "force-destroy",
    }


def test_without_options_the_ids_are_default(echo: str, tmp_path: Path) -> None:
    metadata = fnship("invoke", echo, cwd=tmp_path).json["metadata"]
    assert metadata["projectID"] == metadata["organizationID"] == "default"
    assert metadata["activityID"]


def test_a_plain_call(echo: str, tmp_path: Path) -> None:
    called = fnship("invoke", echo, "--no-logs", "--project", "p1", cwd=tmp_path)
    metadata = called.json["metadata"]
    assert metadata.pop("projectID") == "p1"
    assert set(metadata.values()) == {None}
    assert len(called.stderr.splitlines()) == 1


def test_headers(echo: str, tmp_path: Path) -> None:
    called = fnship(
        *("invoke", echo, "--project", "p1", "-H", "x-project-id: p2"),
        *("--header", "X-Environment-ID:e2", "-H", "X-Else: a: b"),
        cwd=tmp_path,
    )
    metadata = called.json["metadata"]
    assert (metadata["projectID"], metadata["environmentID"]) == ("p2", "e2")


@pytest.mark.parametrize("engine", [[], ["--no-logs"]])
def test_json(echo: str, tmp_path: Path, engine: list[str]) -> None:
    called = fnship("invoke", echo, "--json", "--data", '{"a": 1}', *engine, cwd=tmp_path)
    assert called.stderr == ""
    whole = called.json
    assert whole.keys() == {"status", "answer", "lines", "seconds"}
    assert (whole["status"], whole["answer"]["a"]) == (200, 1)
    assert whole["seconds"] > 0
    shown = [line.partition(" msg=")[2] for line in whole["lines"]]
    assert ("printed" in shown) == (not engine)


@pytest.mark.parametrize("source", ["-", "@request.json"])
def test_data_from_elsewhere(echo: str, tmp_path: Path, source: str) -> None:
    text = '{"name": "Ådå"}'
    (tmp_path / "request.json").write_text(text)
    called = fnship("invoke", echo, "--data", source, cwd=tmp_path, stdin=text)
    assert called.json["name"] == "Ådå"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("ExecuteAgain", 1, "function: execute again: on purpose"),
        ("Failed", 2, "function: failed: on purpose"),
        ("Transient", 3, "function: transient error: on purpose"),
        ("NotFound", 4, "function: not found: on purpose"),
        ("Conflict", 5, "function: conflict: on purpose"),
    ],
)
def test_the_status_tells_the_error_code(
    echo: str, tmp_path: Path, error: str, code: int, message: str
) -> None:
    called = fnship("invoke", echo, "--data", json.dumps({"error": error}), cwd=tmp_path)
    assert called.status == 10 + code
    assert called.stdout == ""
    assert re.search(rf"^fnship: error {code}, .*: {message}$", called.stderr, re.MULTILINE)
    whole = fnship("invoke", echo, "--json", "--data", json.dumps({"error": error}), cwd=tmp_path)
    assert whole.status == 10 + code
    assert whole.json["answer"]["message"] == message


@pytest.mark.parametrize("engine", [[], ["--no-logs"]])
def test_a_bug_in_the_handler_shows_where(tmp_path: Path, engine: list[str]) -> None:
    folder = write_function(
        tmp_path / "buggy", "def handle(logger, request):\n    return {}['x']\n"
    )
    called = fnship("invoke", folder, *engine, cwd=tmp_path)
    assert called.status == 12
    assert "fnship: error 2, failed: 'x'" in called.stderr
    assert re.search(r"handler\.py.*2", called.stderr)


def test_a_timeout(tmp_path: Path) -> None:
    folder = write_function(
        tmp_path / "slow",
        "import asyncio\nasync def handle(logger, request):\n    await asyncio.sleep(3600)\n",
    )
    called = fnship("invoke", folder, "--timeout", "100ms", "--json", cwd=tmp_path)
    assert called.status == 13
    assert called.json["status"] == 504


def test_a_folder_is_started_for_the_call_and_stopped(tmp_path: Path) -> None:
    folder = write_function(
        tmp_path / "here",
        "import os, pathlib\n"
        "def start(config):\n    pathlib.Path('log').write_text('started ')\n"
        "def stop():\n    pathlib.Path('log').open('a').write('stopped')\n"
        "def handle(logger, request):\n    return {'pid': os.getpid()}\n",
    )
    called = fnship("invoke", folder, cwd=tmp_path)
    assert called.status == 0, called.stderr
    assert (folder / "log").read_text() == "started stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(called.json["pid"], 0)


def test_state_lasts_for_the_call(tmp_path: Path) -> None:
    folder = write_function(
        tmp_path / "counts",
        "from fnship import StateClientBuilder\n"
        "def handle(logger, request):\n"
        "    state = StateClientBuilder(request).with_project_scope()\n"
        "    for _ in range(3):\n"
        "        state.set('n', lambda n: (n or 0) + 1)\n"
        "    return {'state': state.get('n')}\n",
    )
    called = fnship("invoke", folder, cwd=tmp_path)
    assert called.json == {"state": [3, 3]}, called.stderr


def test_what_the_function_writes_on_stderr_is_passed_on(tmp_path: Path) -> None:
    folder = write_function(
        tmp_path / "loud",
        "import sys\n"
        "def handle(logger, request):\n    sys.stderr.write('ouch\\n')\n    return {}\n",
    )
    called = fnship("invoke", folder, cwd=tmp_path)
    assert called.json == {}
    assert "ouch" in called.stderr.splitlines()


def test_with_none_running_the_current_folder(tmp_path: Path) -> None:
    folder = write_function(
        tmp_path / "here", "def handle(logger, request):\n    return {'a': 1}\n"
    )
    with free_port() as port:
        called = fnship("invoke", cwd=folder, env={"PORT": port})
    assert called.json == {"a": 1}
    assert "no function runs on http://127.0.0.1:" in called.stderr


def test_with_one_running_that_one(echo: str, tmp_path: Path) -> None:
    port = echo.rpartition(":")[2]
    called = fnship("invoke", "--data", '{"a": 1}', cwd=tmp_path, env={"PORT": port})
    assert called.json["a"] == 1


def test_with_none_running_and_no_function_here(tmp_path: Path) -> None:
    with free_port() as port:
        called = fnship("invoke", cwd=tmp_path, env={"PORT": port})
    called.assert_mistake(r"no function runs on .* no function/handler\.py in", status=3)


def test_something_else_on_the_port_is_no_function(tmp_path: Path) -> None:
    folder = write_function(
        tmp_path / "here", "def handle(logger, request):\n    return {'a': 1}\n"
    )
    with web_server(b"<html>") as url:
        called = fnship("invoke", cwd=folder, env={"PORT": url.rpartition(":")[2]})
        assert called.json == {"a": 1}
        fnship("invoke", url, cwd=folder).assert_mistake(
            "answered 200, and not in JSON: is a function there", status=3
        )


def test_nobody_there(tmp_path: Path) -> None:
    with free_port() as port:
        called = fnship("invoke", f"http://127.0.0.1:{port}", cwd=tmp_path)
    called.assert_mistake("does not answer: connection refused", status=3)


def test_a_function_that_dies_in_the_call(tmp_path: Path) -> None:
    folder = write_function(
        tmp_path / "dies", "import os\ndef handle(logger, request):\n    os._exit(1)\n"
    )
    fnship("invoke", folder, cwd=tmp_path).assert_mistake("does not answer: ", status=3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", '{"a": }'], "--data is not JSON: Expecting value, line 1 column 7"),
        (["--data", "[1, 2]"], "--data must be a JSON object, but is a list"),
        (["--data", "@nowhere.json"], r"cannot read nowhere\.json: No such file"),
        (["-H", "nonsense"], "--header 'nonsense' is no header"),
        (["--timeout", "soon"], "--timeout 'soon' is no duration"),
        (["--event", "explode"], "'explode' is not one of"),
        (["--project", "a\nb"], r"X-Project-ID cannot carry 'a\\nb': it has a control character"),
        (["--frob"], "No such option '--frob'"),
        (["--url", "nowhere"], "'nowhere' is no URL"),
        (["localhost:5000"], "'localhost:5000' is no URL such as http://127.0.0.1:5000"),
        (["ftp://host/"], "'ftp://host/' is no URL"),
        (["folder", "--url", "http://127.0.0.1:1"], "name one thing to call"),
        (["nowhere"], "nowhere does not exist. Write a new function with: fnship new DIR"),
        (["."], r"there is no function/handler\.py in"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], said: str) -> None:
    fnship("invoke", *arguments, cwd=tmp_path).assert_mistake(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_what_was_started(tmp_path: Path, number: signal.Signals) -> None:
    folder = write_function(
        tmp_path / "slow",
        "import asyncio, os\n"
        "async def handle(logger, request):\n"
        "    logger.info('pid %d', os.getpid())\n"
        "    await asyncio.sleep(3600)\n",
    )
    process = subprocess.Popen(
        command("invoke", folder),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            seen = re.search(r"pid (\d+)", process.stderr.readline())
            assert seen
            process.send_signal(number)
            _, stderr = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert "Traceback" not in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen[1]), 0)


@contextmanager
def free_port() -> Iterator[str]:
    """A port that refuses connections while this lasts: bound, and not listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield str(bound.getsockname()[1])


@contextmanager
def web_server(body: bytes) -> Iterator[str]:
    """A server that answers everything with `body`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the base class calls it that

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
