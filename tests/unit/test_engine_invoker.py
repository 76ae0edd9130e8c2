"""What a function is sent, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship import contract
from fnship.engine.invoker import Answer, deadline, go_duration, read_answer, request_body

NOW = 1_800_000_000.0

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def answer(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(status, headers or {}, raw, NOW)


def data(found: Answer) -> Any:
    assert found.outcome.data is not None
    return msgspec.json.decode(found.outcome.data)


@given(st.dictionaries(st.text(), values), values, st.sampled_from(["", " ", "\n\t "]))
def test_previous_is_added_verbatim(payload: dict[str, Any], previous: Any, space: str) -> None:
    raw = space + json.dumps(payload, indent=1) + space
    body = request_body(raw.encode(), json.dumps(previous).encode())
    assert json.loads(body) == {**payload, "previous": previous}


def test_without_previous_the_payload_is_sent_as_it_came() -> None:
    assert request_body(b'{ "a" : 1e0 }', None) == b'{ "a" : 1e0 }'
    assert request_body(b"{ }", b"1") == b'{"previous":1}'


def test_success() -> None:
    assert data(answer(200, {"data": {"a": 1}})) == {"a": 1}
    assert data(answer(200, {"data": None})) is None
    assert data(answer(200, {"a": 1})) == {"a": 1}  # another server's: no envelope
    assert data(answer(200, [1])) == [1]
    assert data(answer(200, b"")) is None
    assert data(answer(204, b"")) is None
    assert data(answer(201, {"data": 1})) == 1
    assert bytes(answer(200, b'{"data": 1.50}').outcome.data or b"") == b"1.50"


def test_success_that_is_no_json_is_a_failure() -> None:
    found = answer(200, b"<html>welcome</html>").outcome
    assert found.code == contract.FAILED
    assert "<html>welcome" in found.message


@pytest.mark.parametrize("code", range(1, 6))
def test_an_error_keeps_its_code(code: int) -> None:
    found = answer(500, {"error_code": code, "message": "m", "data": {"n": 1}}).outcome
    assert (found.code, found.message) == (code, "m")
    assert msgspec.json.decode(found.data or b"") == {"n": 1}


@pytest.mark.parametrize("body", [b"", b"oops", b'{"error_code": 77}', b'{"message": "x"}', b"[]"])
def test_a_500_without_a_code_is_transient(body: bytes) -> None:
    assert answer(500, body).outcome.code == contract.TRANSIENT


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_these_are_transient_whatever_they_say(status: int) -> None:
    found = answer(status, {"error_code": 2, "message": "full"})
    assert found.outcome.code == contract.TRANSIENT
    assert found.outcome.message == "full"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413])
def test_other_4xx_are_final(status: int) -> None:
    found = answer(status, b"no").outcome
    assert (found.code, found.message) == (contract.FAILED, f"it answered {status}: no")


def test_a_redirect_is_named() -> None:
    found = answer(302, b"", {"Location": "http://elsewhere/"}).outcome
    assert found.code == contract.FAILED
    assert "http://elsewhere/" in found.message


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Fri, 15 Jan 2027 08:00:10 GMT", 10.0),
        ("Fri, 15 Jan 2020 08:00:10 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-3", None),
        ("9" * 400, None),
    ],
)
def test_retry_after(given_: str, seconds: float | None) -> None:
    assert answer(503, b"", {"Retry-After": given_}).retry_after == seconds


@given(st.integers(100, 599), st.binary(max_size=60), st.text(max_size=20))
def test_every_answer_means_something(status: int, body: bytes, later: str) -> None:
    found = read_answer(status, {"Retry-After": later}, body, NOW)
    assert found.outcome.code is None or 1 <= found.outcome.code <= 5
    assert (found.outcome.code is None) <= (200 <= status < 300)


def test_how_times_are_written() -> None:
    assert deadline(NOW, 1.5) == "2027-01-15T08:00:01.500Z"
    assert go_duration(90) == "90000ms"
    assert go_duration(0.0001) == "1ms"
