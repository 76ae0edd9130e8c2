"""What `fnship invoke` is given: read, or refused with the place of the mistake."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.cli.arguments import check_duration, read_data, read_header, read_url
from fnship.errors import UsageError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Cs: a lone surrogate cannot stand on a command line either
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(), VALUES)


@given(OBJECTS)
def test_any_object_goes_through_as_it_is(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    assert read_data(text) == text.encode()


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_nothing_is_the_empty_object(text: str) -> None:
    assert read_data(text) == b"{}"


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(b"\xef\xbb\xbf" + '{"name": "Ådå"}'.encode())
    assert read_data(f"@{file}") == '{"name": "Ådå"}'.encode()


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}')))
    assert read_data("-") == b'{"a": 1}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,}', "--data is not JSON: .* line 1 column"),
        ('{\n"a": x}', "line 2 column 6"),
        ("{name: Ada}", "The shell took its quotes"),
        ('{"a": NaN}', "NaN is none of its numbers"),
        ('{"a": -Infinity}', "-Infinity is none of its numbers"),
        ("[1]", "must be a JSON object, but is a list"),
        ('"a"', "but is a string"),
        ("3", "but is a number"),
        ("true", "but is a boolean"),
        ("null", "but is null"),
        ("[" * 100_000, "is nested too deep"),
        ('{"a": "\udcff"}', "--data is not UTF-8: byte 8"),
        ("@/nowhere/request.json", "cannot read /nowhere/request.json: No such file"),
        ("@/", "cannot read /: Is a directory"),
    ],
)
def test_what_is_no_object(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_data(text)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UsageError, match=r"request\.json is not UTF-8: byte 8"):
        read_data(f"@{file}")


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("X-Key: 1", ("X-Key", "1")),
        ("X-Key:1", ("X-Key", "1")),
        ("x:", ("x", "")),
        ("X-When: 12:30", ("X-When", "12:30")),
    ],
)
def test_headers(text: str, header: tuple[str, str]) -> None:
    assert read_header(text) == header


@pytest.mark.parametrize("text", ["", "X-Key", ": 1", "X Key: 1", "X-Key: a\r\nX-B: 2", "Ä: 1"])
def test_what_is_no_header(text: str) -> None:
    with pytest.raises(UsageError, match="is no header: write it as 'Name: value'"):
        read_header(text)


def test_a_header_that_is_refused_does_not_show_its_value() -> None:
    with pytest.raises(UsageError) as caught:
        read_header("Bad Name: s3cret")
    assert "s3cret" not in str(caught.value)


@given(st.text())
def test_a_header_is_read_or_refused(text: str) -> None:
    try:
        name, value = read_header(text)
    except UsageError:
        return
    assert name.isascii()
    assert "\n" not in value
    assert "\r" not in value


@pytest.mark.parametrize("text", ["1", "90s", "1m30s", "250ms"])
def test_durations(text: str) -> None:
    check_duration("--timeout", text)


@pytest.mark.parametrize("text", ["", "0", "-1s", "soon", "1 s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"--timeout .* is no duration"):
        check_duration("--timeout", text)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:5000", "https://example.com/function/hello?x=1", "http://[::1]:5000/"],
)
def test_urls(url: str) -> None:
    assert read_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "http://", "http://:5000", "http://host:port", "http://[::1", "http://a b"],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError, match="is no URL such as"):
        read_url(url)
