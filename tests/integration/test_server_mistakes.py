"""What cannot be started: exactly one line on stderr, nothing on stdout, status 2."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from server_process import MAIN, ended, serving

from fnship.settings import granted_cpus

FINE = "def handle(logger, request):\n    return {}\n"
RUN = ["-P", "-m", "fnship", "run"]


@pytest.fixture(params=[1, 2], ids=["one process", "two processes"])
def workers(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("def handle(logger, request)\n    pass\n", r"handler\.py:1: it has a syntax error"),
        ("import no_such_thing\n" + FINE, r"handler\.py:1: module 'no_such_thing' is not instal"),
        ("def handle(request):\n    return {}\n", r"handler\.py:1: .* takes \(request\), but is"),
        ("def other(logger, request): pass\n", "there is no 'handle' in module function.handler"),
        ("handle = 5\n", "is an int, not a function"),
        ("def handle(logger, request):\n    yield\n", r"handler\.py:1: .* is a generator"),
        ("import os\n1 / 0\n", r"handler\.py:2: importing .* ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)\n", r"handler\.py:2: importing .* SystemExit"),
        ("raise ValueError('two\\nlines\\r\\nor three')\n", "ValueError: two"),
        ("class E(BaseException): pass\nraise E('all')\n", r"handler\.py:2: importing .* E: all"),
        (
            {"function/handler.py": "from . import utils\n", "function/utils.py": "x = (\n"},
            r"utils\.py:1: it has a syntax error",
        ),
        ({"function/other.py": ""}, r"there is no function/handler\.py in /.*fnship new DIR"),
    ],
    ids=range(12),
)
def test_handlers(tmp_path: Path, files: str, said: str, workers: str) -> None:
    ended(tmp_path, files, GUNICORN_WORKERS=workers).assert_mistake(said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "PORT='http' is not valid: expected a whole number"),
        ("GUNICORN_WORKERS", "0", "GUNICORN_WORKERS='0' is not valid"),
        ("exec_timeout", "soon", "exec_timeout='soon' is not valid: expected whole seconds or a"),
        ("LOG_LEVEL", "loud\nand clear", r"LOG_LEVEL='loud\\nand clear' is not valid"),
        ("FUNCTION_TARGET", "handler", "'handler' does not name a handler.* module:name"),
        ("FUNCTION_TARGET", "function.nowhere:handle", r"there is no function/nowhere\.py in"),
        ("HOST", "203.0.113.77", "HOST='203.0.113.77' is no address of this machine"),
        ("HOST", "0.0.0..0", "HOST='0.0.0..0'"),
        ("HOST", "a" * 70, "HOST='aaaa"),
        ("HOST", "no such host", "HOST='no such host'"),
    ],
)
def test_settings(tmp_path: Path, name: str, value: str, said: str) -> None:
    ended(tmp_path, FINE, **{name: value}).assert_mistake(said)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_setting_of_no_text(tmp_path: Path, workers: str) -> None:
    host = os.fsdecode(b"\xff")
    ended(tmp_path, FINE, HOST=host, GUNICORN_WORKERS=workers).assert_mistake("HOST=")


@pytest.mark.parametrize("command", [["main.py"], [*RUN, "."]])
def test_a_port_that_is_taken(tmp_path: Path, command: list[str], workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        mistake = ended(tmp_path, FINE, command=command, PORT=port, GUNICORN_WORKERS=workers)
    mistake.assert_mistake(rf"port {port} on 127\.0\.0\.1 is in use.*such as PORT=\d+")


@pytest.mark.parametrize("command", [["main.py"], [*RUN, "."]])
@pytest.mark.parametrize(
    "name", ["rafay_workflow_sdk-0.0.35.dist-info", "rafay_workflow_sdk-1.egg-info"]
)
def test_both_sdks(tmp_path: Path, command: list[str], name: str) -> None:
    packages = tmp_path / "packages"
    (packages / name).mkdir(parents=True)
    mistake = ended(tmp_path, FINE, command=command, PYTHONPATH=str(packages))
    mistake.assert_mistake("rafay-workflow-sdk is installed beside fnship.*pip uninstall -y rafay")


def test_a_handler_that_main_imports(tmp_path: Path, workers: str) -> None:
    files = {
        "function/handler.py": "def handle(request):\n    return {}\n",
        "main.py": MAIN.replace("serve()", "from function.handler import handle\nserve(handle)"),
    }
    mistake = ended(tmp_path, files, GUNICORN_WORKERS=workers)
    mistake.assert_mistake(r"handler\.py:1: function\.handler:handle takes \(request\), but")


START = [
    (
        "def start(config):\n    1 / 0\n",
        "2: start() failed with ZeroDivisionError: division by zero",
    ),
    ("async def start():\n    raise ValueError('a\\nb')\n", "2: start() failed with ValueError: a"),
    ("import sys\ndef start():\n    sys.exit(4)\n", "3: start() failed with SystemExit: 4"),
    ("async def start():\n    raise SystemExit\n", "2: start() failed with SystemExit"),
    ("def start():\n    raise KeyboardInterrupt\n", "2: start() failed with KeyboardInterrupt"),
]


@pytest.mark.parametrize(("start", "said"), START, ids=range(len(START)))
def test_start_that_raises(tmp_path: Path, start: str, said: str, workers: str) -> None:
    """It accepts connections before start() is done, and says so: that is one line more."""
    mistake = ended(tmp_path, start + FINE, GUNICORN_WORKERS=workers)
    greeting, _, mistake.stderr = mistake.stderr.partition("\n")
    assert greeting.startswith("fnship: serving function.handler:handle on http://127.0.0.1:")
    handler = tmp_path.resolve() / "function" / "handler.py"
    mistake.assert_mistake("")
    assert f"fnship: error: {handler}:{said}" in mistake.stderr


DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"


def test_workers_that_are_killed_before_they_serve(tmp_path: Path) -> None:
    mistake = ended(tmp_path, DIES + FINE, GUNICORN_WORKERS="2")
    assert mistake.status == 2
    assert "Traceback" not in mistake.stderr
    said = [line for line in mistake.stderr.splitlines() if line.startswith("fnship: ")]
    assert len(said) == 1
    assert "ended before they could serve" in said[0]


def test_what_can_be_started_says_so_in_one_line(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, FINE, GUNICORN_WORKERS=workers) as server:
        many = " with 2 workers" if workers == "2" else ""
        assert server.stderr == (
            f"fnship: serving function.handler:handle on http://127.0.0.1:{server.port}{many}\n"
        )
        assert server.stop() == 0
        assert server.stderr.count("\n") == 1
        assert server.stdout == ""


def test_without_a_setting_there_are_as_many_workers_as_cpus(tmp_path: Path) -> None:
    with serving(tmp_path, FINE, GUNICORN_WORKERS="") as server:
        cpus = granted_cpus()
        said = f" with {cpus} workers" if cpus > 1 else ""
        assert server.stderr.endswith(f"http://127.0.0.1:{server.port}{said}\n")
