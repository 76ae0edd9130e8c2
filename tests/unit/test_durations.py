from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.durations import parse_duration

NANOSECONDS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
PARTS = st.tuples(
    st.integers(0, 10_000).map(str)
    | st.from_regex(r"[0-9]{1,4}\.[0-9]{0,9}|\.[0-9]{1,9}", fullmatch=True),
    st.sampled_from(sorted(NANOSECONDS)),
)


def number(text: str) -> Fraction:
    whole, _, rest = text.partition(".")
    return Fraction(int((whole or "0") + rest), 10 ** len(rest))


@given(st.lists(PARTS, min_size=1, max_size=6), st.sampled_from(["", "-", "+"]), st.booleans())
def test_go_durations(parts: list[tuple[str, str]], sign: str, spaced: bool) -> None:
    text = sign + "".join(value + unit for value, unit in parts)
    exact = sum(number(value) * NANOSECONDS[unit] for value, unit in parts)
    seconds = parse_duration(f" {text}\n" if spaced else text)
    assert math.isclose(seconds, exact / 10**9 * (-1 if sign == "-" else 1), rel_tol=1e-12)


@given(st.integers(0, 2**33))
def test_whole_seconds(seconds: int) -> None:
    assert parse_duration(str(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m30s", 90), ("250ms", 0.25), ("0", 0), ("-1.5h", -5400), ("1h", 3600), (".5s", 0.5)],
)
def test_examples(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", "s", "1.5", "1 s", "1d", "1m 30s", "--1s", "1e3s", "٣s", "1S", "0x1s"),
        *("inf", "nan", "9" * 400, "293y", "2562048h", "9223372037", "s1", "1s\0", "½h"),
        *("1..5s", "1s30", "1.s.", "ns", "1µ"),
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration such as"):
        parse_duration(text)


@given(st.text(alphabet=st.sampled_from("0123456789.+-hmsunµμ \0x")) | st.text())
def test_any_text_is_seconds_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert math.isfinite(seconds)
