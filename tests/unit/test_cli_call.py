"""What an answer means to `fnship invoke`, told from its status and its body."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.cli.call import Reply, is_function, read_answer, send
from fnship.cli.output import Unreachable
from fnship.testing import Engine

URL = "http://127.0.0.1:5000"


def reply(status: int, body: Any) -> Reply:
    return Reply(status, body if isinstance(body, bytes) else json.dumps(body).encode(), 0.01)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ({"data": {"a": 1}}, {"a": 1}),
        ({"data": None}, None),
        ({"a": 1}, {"a": 1}),
        ({"data": 1, "more": 2}, {"data": 1, "more": 2}),
        ([1], [1]),
    ],
)
def test_success(body: Any, value: Any) -> None:
    answer = read_answer(URL, reply(200, body))
    assert (answer.value, answer.error_code) == (value, 0)


@pytest.mark.parametrize("status", [400, 413, 500, 503, 504])
@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 42])
def test_an_error_of_the_function(status: int, code: int) -> None:
    body = {"error_code": code, "message": "m", "data": {"done": 1}}
    answer = read_answer(URL, reply(status, body))
    assert (answer.value, answer.error_code) == (body, code)


@pytest.mark.parametrize("status", [429, 500, 502, 504])
@pytest.mark.parametrize("body", [b"Bad gateway", b"", {"error": "x"}, {"error_code": "2"}, [1]])
def test_an_error_without_a_code_is_worth_another_try(status: int, body: Any) -> None:
    answer = read_answer(URL, reply(status, body))
    assert answer.error_code == 3
    assert answer.value["message"].startswith(f"HTTP status {status}")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (302, b""),
        (403, b"no"),
        (404, {"error_code": 2, "message": "no such path"}),
        (405, {"error_code": 2, "message": "use POST"}),
    ],
)
def test_what_is_no_function(status: int, body: Any) -> None:
    with pytest.raises(Unreachable, match=f"{URL} answered {status}.*: is a function there"):
        read_answer(URL, reply(status, body))


@given(st.integers(200, 599), st.binary(max_size=20))
def test_any_answer_is_understood_or_refused(status: int, body: bytes) -> None:
    try:
        answer = read_answer(URL, reply(status, body))
    except Unreachable:
        return
    assert answer.error_code >= 0


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Unreachable, match=f"{url} does not answer: connection refused"):
        send(url, b"{}", {})
    assert not is_function(url)


def test_a_server_that_is_no_function() -> None:
    with Engine() as engine:
        assert not is_function(engine.url)
