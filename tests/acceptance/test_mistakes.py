"""What people get wrong with `fnship` and `fnship run`: one clear line, status 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cli_process import LIMIT, command, environment, fnship, running, write_function

from fnship import __version__

FINE = "def handle(logger, request):\n    return {}\n"


def test_version(tmp_path: Path) -> None:
    shown = fnship("--version", cwd=tmp_path)
    assert (shown.status, shown.stdout, shown.stderr) == (0, f"fnship {__version__}\n", "")


def test_the_version_costs_no_server_and_no_client(tmp_path: Path) -> None:
    code = (
        "import sys; from fnship.cli.main import main; main(['--version']); "
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"uvicorn", "gunicorn", "aiohttp", "urllib3", "msgspec", "watchfiles"}


@pytest.mark.parametrize("name", ["new", "run", "invoke"])
def test_help_has_examples(tmp_path: Path, name: str) -> None:
    shown = fnship(name, "--help", cwd=tmp_path)
    assert shown.status == 0
    assert f"\n    fnship {name} " in shown.stdout
    assert f"\n  {name} " in fnship("--help", cwd=tmp_path).stdout
    assert fnship(name, "-h", cwd=tmp_path).stdout == shown.stdout


def test_without_a_command_the_help(tmp_path: Path) -> None:
    shown = fnship(cwd=tmp_path)
    assert (shown.status, shown.stdout) == (2, "")
    assert shown.stderr.startswith("Usage: fnship [OPTIONS] COMMAND")


def test_a_reader_that_leaves_is_no_mistake(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("--help"),
            cwd=tmp_path,
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "No such command 'frob'. Its help says more: fnship --help"),
        (["--frob"], "No such option '--frob'"),
        (["run", "--frob"], "No such option '--frob'. Its help says more: fnship run --help"),
        (["run", "--port", "http"], "'http' is not a valid integer"),
        (["run", "--port", "70000"], "70000 is not in the range 0<=x<=65535"),
        (["run", "nowhere"], "nowhere does not exist. Write a new function with: fnship new DIR"),
        (["run", "file.txt"], r"file\.txt is a file, not a folder"),
        (["run"], r"there is no function/handler\.py in /.*--target module:name"),
        (["run", "--reload"], r"there is no function/handler\.py in"),
        (["run", "--target", "handler"], "'handler' does not name a handler"),
        (["run", "--target", "nowhere:handle"], r"there is no nowhere\.py in"),
    ],
)
def test_in_the_command(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "file.txt").touch()
    fnship(*arguments, cwd=tmp_path, env={"PORT": "0"}).assert_mistake(said)


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("def handle(logger, request)\n", r"handler\.py:1: it has a syntax error: expected ':'"),
        ("def handle(request):\n    return {}\n", r"handler\.py:1: .* takes \(request\), but is"),
        ("def other(logger, request):\n    return {}\n", "there is no 'handle' in module"),
        ("handle = {}\n", "is a dict, not a function"),
        ("import os\n\nimport nosuch\n" + FINE, r"handler\.py:3: module 'nosuch' is not installed"),
        ("import nosuch.part\n" + FINE, "pip install -r function/requirements.txt"),
        ("from . import nosuch\n" + FINE, r"handler\.py:1: .*nosuch"),
        ("raise SystemExit(3)\n", r"handler\.py:1: importing function\.handler failed"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def start(config):\n    1 / 0\n" + FINE, r"handler\.py:2: start\(\) failed"),
    ],
)
def test_in_the_handler(tmp_path: Path, handler: str, said: str) -> None:
    write_function(tmp_path, handler)
    (tmp_path / "function" / "requirements.txt").touch()
    ended = fnship("run", cwd=tmp_path, env={"PORT": "0"})
    if handler.startswith("def start"):  # it accepts connections before start() has run
        first, _, ended.stderr = ended.stderr.partition("\n")
        assert first.startswith("fnship: serving ")
    ended.assert_mistake(said)
    invoked = fnship("invoke", ".", cwd=tmp_path)
    invoked.assert_mistake(said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "PORT='http' is not valid: expected a whole number"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT='xml' is not valid: expected one of"),
        ("ACCESS_LOG", "maybe", "ACCESS_LOG='maybe' is not valid: expected true or false"),
        ("MAX_WORKERS", "0", "MAX_WORKERS='0' is not valid"),
    ],
)
def test_in_a_setting(tmp_path: Path, name: str, value: str, said: str) -> None:
    write_function(tmp_path, FINE)
    fnship("run", cwd=tmp_path, env={"PORT": "0", name: value}).assert_mistake(said)
    fnship("invoke", ".", cwd=tmp_path, env={name: value}).assert_mistake(said)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    write_function(tmp_path, FINE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fnship("run", "--port", port, cwd=tmp_path).assert_mistake(f"port {port} .* is in use")


def test_reload_without_what_it_needs(tmp_path: Path) -> None:
    write_function(tmp_path, FINE)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['watchfiles'] = None\n")
    fnship("run", "--reload", cwd=tmp_path, env={"PYTHONPATH": str(hidden)}).assert_mistake(
        r"pip install 'watchfiles"
    )


def test_flags_come_before_the_environment(tmp_path: Path) -> None:
    write_function(tmp_path, FINE, other="def go(logger, request):\n    return {'other': True}\n")
    env = {"PORT": "1", "HOST": "203.0.113.1", "FUNCTION_TARGET": "nowhere:handle"}
    flags = ["--port", "0", "--host", "127.0.0.1", "--target", "function.other:go"]
    with running(*flags, cwd=tmp_path, env=env) as (url, _):
        assert fnship("invoke", url, cwd=tmp_path).json == {"other": True}


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    write_function(tmp_path, FINE)
    with running(cwd=tmp_path, env={"LOG_FORMAT": "", "FUNCTION_TARGET": " "}) as (url, _):
        assert fnship("invoke", url, cwd=tmp_path).json == {}
