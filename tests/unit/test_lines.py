from __future__ import annotations

import datetime as dt
import io
import json
import os
import re
import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fnship.function.lines import Stdout, Who, engine_line, escape, stamp, style_named

WHO = Who("dev", "e1", "a1")
CREATED = 1700000000.1239
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates too


def line(style: str, message: str = "m", path: str = "/f/handler.py", **more: Any) -> str:
    values = {"who": WHO, "extra": None, "created": CREATED, **more}
    return style_named(style)(
        values["created"], "INFO", path, 7, message, values["who"], values["extra"]
    )


def test_the_line_for_the_engine() -> None:
    assert engine_line(CREATED, "INFO", "/f/handler.py", 7, "hello\nyou") == (
        "time=2023-11-14T22:13:20.123Z level=INFO path=/f/handler.py line=7 msg=hello\\nyou"
    )


def test_the_text_style_carries_the_ids_before_the_message() -> None:
    assert line("text", "hello\r\nyou") == (
        "time=2023-11-14T22:13:20.123Z level=INFO path=/f/handler.py line=7 "
        "environment_name=dev environment_id=e1 activity_id=a1 msg=hello\\r\\nyou"
    )


def test_the_json_style() -> None:
    assert json.loads(line("json", 'say "hi"\nnow', extra={"user": "ada", "n": 1})) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "INFO",
        "path": "/f/handler.py",
        "line": 7,
        "environment_name": "dev",
        "environment_id": "e1",
        "activity_id": "a1",
        "msg": 'say "hi"\nnow',
        "user": "ada",
        "n": 1,
    }


def test_the_readable_style() -> None:
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    handler\.py:7 \[a1\] two\nlines", line("readable", "two\nlines")
    )
    assert line("readable", who=Who()).endswith(" handler.py:7 m")


@given(st.floats(0, 4e9))
@example(0.0)
@example(1700000000.9999)
def test_stamps(created: float) -> None:
    text = stamp(created)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    read = dt.datetime.fromisoformat(text).timestamp()
    assert -0.0001 < created - read < 0.0011


@given(ANY_TEXT)
def test_a_message_stays_on_one_line_and_can_be_read_back(message: str) -> None:
    written = escape(message)
    assert "\n" not in written
    assert "\r" not in written
    assert written.replace("\\n", "\n").replace("\\r", "\r") == message.replace(
        "\\n", "\n"
    ).replace("\\r", "\r")


def circle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


class Raises:
    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__


EXTRAS = st.dictionaries(
    ANY_TEXT | st.integers() | st.none(),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
        max_leaves=5,
    )
    | st.builds(object)
    | st.builds(Raises)
    | st.builds(circle)
    | st.just(10**5000)
    | st.just({1, 2})
    | st.just({(1, 2): "tuple"}),
    max_size=4,
)


@given(ANY_TEXT, ANY_TEXT, EXTRAS)
@example("a\nb\u2028c\udc80", "p\n", {"\udc80": 10**5000})
def test_any_json_line_is_one_line_of_json(message: str, path: str, extra: dict[Any, Any]) -> None:
    text = line("json", message, path, extra=extra)
    assert "\n" not in text
    fields = json.loads(text.encode())  # strict, as UTF-8
    for value in (message, path):
        try:
            value.encode()
        except UnicodeEncodeError:
            continue
        assert value in (fields["msg"], fields["path"])
    assert fields["level"] == "INFO"
    assert fields["activity_id"] == "a1"


def test_extras_do_not_replace_what_a_line_always_has() -> None:
    extra = {"msg": "x", "level": "x", "activity_id": "x", "path": "x", "time": "x", "line": "x"}
    assert json.loads(line("json", extra=extra)) == json.loads(line("json"))


# The stream


@given(ANY_TEXT)
def test_whatever_is_written_is_utf8_and_ends_in_a_newline(text: str) -> None:
    stream = io.BytesIO()
    Stdout(stream, style_named("text")).write(text)
    assert stream.getvalue().endswith(b"\n")
    stream.getvalue().decode()


def test_lines_of_many_threads_are_whole() -> None:
    reading, writing = os.pipe()
    read = bytearray()

    def collect() -> None:
        with open(reading, "rb", closefd=True) as source:
            while chunk := source.read(65536):
                read.extend(chunk)

    reader = threading.Thread(target=collect)
    reader.start()
    with open(writing, "wb") as stream:
        stdout = Stdout(stream, style_named("text"))

        def write(name: str) -> None:
            for number in range(100):
                stdout.write(f"{name}{number} " + name * (number * 211 % 20_000))

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    reader.join()
    lines = read.decode().splitlines()
    assert len(lines) == 400
    assert all(re.fullmatch(r"([a-d])\d+ \1*", each) for each in lines)


def test_a_line_is_out_before_write_returns() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb") as stream:
        Stdout(stream, style_named("text")).write("now")
        assert os.read(source.fileno(), 100) == b"now\n"


def test_lines_are_dropped_where_nobody_reads_any_more() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "wb", buffering=0)  # noqa: SIM115 - closed below
    stdout = Stdout(stream, style_named("text"))  # type: ignore[arg-type] # a FileIO is binary too
    stdout.write("lost")
    stream.close()
    stdout.write("lost as well")
    assert stdout.lost == 2


@pytest.mark.parametrize("name", ["xml", ""])
def test_no_other_styles(name: str) -> None:
    with pytest.raises(KeyError):
        style_named(name)
