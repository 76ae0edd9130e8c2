"""Every example runs as its README says, and its own tests pass."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_process import LIMIT, REPOSITORY, Ended, environment, fnship

from fnship import __version__
from fnship.cli.scaffold import render_function

EXAMPLES = REPOSITORY / "examples"
NAMES = sorted(each.name for each in EXAMPLES.iterdir() if (each / "main.py").exists())


def invoke(name: str, data: dict[str, Any], *options: str) -> Ended:
    return fnship(
        "invoke", f"examples/{name}", "--json", "--data", json.dumps(data), *options, cwd=REPOSITORY
    )


def messages(ended: Ended) -> list[str]:
    return [line.partition(" msg=")[2] for line in ended.json["lines"]]


def test_all_of_them_are_here() -> None:
    assert NAMES == [
        "hello",
        "hello_sync",
        "long_running",
        "orders",
        "stateful",
        "with_modules",
    ]


@pytest.mark.parametrize("name", ["hello", "hello_sync"])
def test_hello(name: str) -> None:
    called = invoke(name, {"name": "Ada"}, "--project", "p1")
    assert called.status == 0, called.stderr
    assert called.json["answer"] == {"message": "Hello, Ada!"}
    assert messages(called) == ["greeting Ada for project p1"]


def test_with_modules() -> None:
    called = invoke("with_modules", {"items": {"apple": 3, "pear": 1}, "coupon": "TEN"})
    assert called.json["answer"] == {"total_cents": 198, "discount_cents": 22}
    unknown = invoke("with_modules", {"items": {"melon": 1}})
    assert unknown.status == 14
    assert unknown.json["answer"]["message"] == "function: not found: not for sale: melon"


def test_orders() -> None:
    again = invoke("orders", {"order": "o-1", "items": ["tea"]})
    assert again.status == 11
    assert again.json["answer"]["data"] == {"packed": 1, "retry_after": 0.2}
    assert messages(again) == ["packing tea, 1 of 1"]
    last = invoke("orders", {"order": "o-1", "items": ["tea"], "previous": {"packed": 1}})
    assert last.json["answer"] == {"order": "o-1", "items": 1, "number": 1}
    assert invoke("orders", {"items": ["gold"]}).status == 12


def test_stateful() -> None:
    called = invoke("stateful", {"visitor": "Ada", "visits": 3})
    assert called.status == 0, called.stderr
    assert called.json["answer"] == {"visitor": "Ada", "visits": 3}
    plain = invoke("stateful", {"visitor": "Ada"}, "--no-logs")
    assert plain.status == 12
    assert "state" in plain.json["answer"]["message"]


def test_long_running_goes_on_where_it_left_off() -> None:
    first = invoke("long_running", {"records": 8})
    assert first.status == 11
    error = first.json["answer"]
    assert error["message"] == "function: execute again: 5 of 8 records copied"
    assert error["data"] == {"done": 5, "retry_after": 1}
    assert messages(first) == [f"record {n} of 8 copied" for n in range(1, 6)]

    second = invoke("long_running", {"records": 8, "previous": error["data"]})
    assert second.status == 0, second.stderr
    assert second.json["answer"] == {"copied": 8}
    assert messages(second) == [f"record {n} of 8 copied" for n in range(6, 9)]


def test_long_running_leaves_before_its_time_is_up() -> None:
    called = invoke("long_running", {"records": 5}, "--timeout", "4s")
    assert called.status == 11
    assert called.json["answer"]["data"]["done"] == 0
    assert messages(called) == ["stopping after record 0: time is up"]


@pytest.mark.parametrize("name", NAMES)
def test_its_own_tests_pass(name: str) -> None:
    tested = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir=.",
            "-c/dev/null",
        ],
        cwd=EXAMPLES / name,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout


@pytest.mark.parametrize("name", NAMES)
def test_its_readme_is_true(name: str) -> None:
    """Each command of the README runs; where it says nothing else, with status 0."""
    text = (EXAMPLES / name / "README.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("fnship ")]
    assert lines
    said = {int(status) for status in re.findall(r"exit status (\d+)", text)}
    for line in lines:
        called = fnship(*shlex.split(line)[1:], cwd=REPOSITORY)
        assert called.status in {0} | said, called.stderr
        assert "Traceback" not in called.stderr


@pytest.mark.parametrize(
    "path",
    # requirements.txt is not: an example has no wheel of fnship beside it.
    ["main.py", "tests/conftest.py", "function/__init__.py"],
)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_fnship_new_writes_it(name: str, path: str) -> None:
    written = {str(each): text for each, text in render_function(name, version=__version__).items()}
    assert (EXAMPLES / name / path).read_text() == written[path]


@pytest.mark.parametrize(("name", "style"), [("hello", "async"), ("hello_sync", "sync")])
def test_the_greetings_are_the_templates(name: str, style: str) -> None:
    for path, text in render_function(name, version=__version__, style=style).items():
        example = EXAMPLES / name / Path(path)
        if example.suffix == ".py":
            assert example.read_text() == text, path
