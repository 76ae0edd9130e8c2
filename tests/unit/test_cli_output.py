"""Log lines and JSON as the commands show them."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.cli.output import complain, json_text, readable
from fnship.function.lines import engine_line


@pytest.mark.parametrize(
    "time", ["2026-01-02T03:04:05.678Z", "2026-01-02 03:04:05,678", "2026-01-02T03:04:05+00:00"]
)
def test_a_line_of_the_wire_becomes_readable(time: str) -> None:
    line = f"time={time} level=INFO path=/f/function/handler.py line=12 msg=a msg=b line=3"
    assert re.fullmatch(r"\d\d:\d\d:05 INFO    handler\.py:12 a msg=b line=3", readable(line))


def test_a_print() -> None:
    assert readable(engine_line(0, "INFO", "stdout", 0, "hi")).endswith("INFO    stdout hi")


def test_a_traceback_gets_its_lines_back() -> None:
    message = "Traceback (most recent call last):\n  File x\nValueError: no"
    assert readable(engine_line(0, "ERROR", "h.py", 1, message)).endswith(message)


@given(st.text())
def test_any_other_line_stays_as_it_is(line: str) -> None:
    assert readable(line) == line


@given(st.floats(0, 4e9), st.text(), st.integers(0, 10**6), st.text())
def test_every_line_of_ours_is_understood(
    created: float, path: str, number: int, message: str
) -> None:
    line = engine_line(created, "INFO", path, number, message)
    assert readable(line) != line


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@given(value=st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_json_fits_any_stdout(encoding: str, value: dict[str, object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        text = json_text(value, indent=2)
    assert json.loads(text.encode(encoding).decode(encoding)) == value


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain("first\nsecond")
    assert capsys.readouterr().err == "fnship: error: first second\n"
