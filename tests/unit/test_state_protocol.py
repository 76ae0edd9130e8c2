from __future__ import annotations

import base64
import dataclasses
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.errors import (
    NotJSON,
    StateConflict,
    StateContention,
    StateDenied,
    StateError,
    StateUnavailable,
)
from fnship.function.state_model import (
    Pause,
    Request,
    Response,
    StateItem,
    StateScope,
    Steps,
    Unreached,
    Update,
)
from fnship.function.state_protocol import StateProtocol

TOKEN = "s3cret-token"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


def protocol(
    base_url: str = "http://store:8080/v1/state",
    scope: StateScope | None = None,
    ids: tuple[str, str | None, str | None] = ("o1", "p1", "e1"),
) -> StateProtocol:
    return StateProtocol(base_url, TOKEN, *ids, scope or StateScope("o1", "p1"))


def finish(steps: Steps[Any], *answers: Any) -> Any:
    """Play the store: send each answer for a request, and require that all are asked for."""
    left = list(answers)
    outcome: Any = None
    while True:
        try:
            if isinstance(outcome, Unreached):
                step = steps.throw(outcome)
            else:
                step = steps.send(outcome)
        except StopIteration as stop:
            assert not left
            return stop.value
        match step:
            case Request():
                outcome = left.pop(0)
                if isinstance(outcome, tuple):
                    status, body = outcome
                    body = body if isinstance(body, bytes) else json.dumps(body).encode()
                    outcome = Response(status, body)
            case Update(function, value):
                outcome = function(value)
            case Pause():
                outcome = None


def first_request(steps: Steps[Any]) -> Request:
    step = next(steps)
    assert isinstance(step, Request)
    return step


CUT = Unreached("broke off", sent=True, cut=True)
REFUSED = Unreached("was not reached", sent=False)


# Requests


def test_headers_name_every_id_that_is_known() -> None:
    request = first_request(protocol(scope=StateScope("o1")).get("k"))
    assert {name: value for name, value in request.headers.items() if name.startswith("X-")} == {
        "X-Eaas-State-Token": TOKEN,
        "X-Organization-ID": "o1",
        "X-Project-ID": "p1",
        "X-Environment-ID": "e1",
    }
    request = first_request(protocol(ids=("o1", None, None)).put("k", 1, 0, None))
    assert {"X-Project-ID", "X-Environment-ID"}.isdisjoint(request.headers)
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("scope", "query"),
    [
        (StateScope("o1"), "key=k&organization_id=o1"),
        (StateScope("o1", "p1"), "key=k&organization_id=o1&project_id=p1"),
        (
            StateScope("o1", "p1", "e1"),
            "key=k&organization_id=o1&project_id=p1&environment_id=e1",
        ),
    ],
)
def test_a_read_names_its_scope_in_the_query(scope: StateScope, query: str) -> None:
    request = first_request(protocol(scope=scope).get("k"))
    assert (request.method, request.body) == ("GET", None)
    assert request.url == f"http://store:8080/v1/state?{query}"


def test_writes_name_their_scope_in_the_body_with_null_for_what_is_outside() -> None:
    scope = {"organization_id": "o1", "project_id": "p1", "environment_id": None}
    request = first_request(protocol().put("k", {"a": [1]}, 3, 60))
    assert (request.method, request.url) == ("PUT", "http://store:8080/v1/state")
    assert json.loads(request.body or b"") == {
        "scope": scope,
        "key": "k",
        "value": {"a": [1]},
        "version": 3,
        "ttl": 60,
    }
    request = first_request(protocol().put("k", None, 0, None))
    assert "ttl" not in json.loads(request.body or b"")
    request = first_request(protocol().delete("k"))
    assert request.method == "DELETE"
    assert json.loads(request.body or b"") == {"scope": scope, "key": "k"}


@pytest.mark.parametrize(
    ("base_url", "asked"),
    [
        ("http://h", "http://h/?"),
        ("http://h/", "http://h/?"),
        ("https://h:1/a/b/", "https://h:1/a/b?"),
        ("http://h/a?tenant=x%20y", "http://h/a?tenant=x%20y&"),
        ("http://h/ä b%20c#fragment", "http://h/%C3%A4%20b%20c?"),
        ("http://[::1]:80/a", "http://[::1]:80/a?"),
    ],
)
def test_the_urls_that_stores_have(base_url: str, asked: str) -> None:
    request = first_request(protocol(base_url).get("k"))
    assert request.url == asked + "key=k&organization_id=o1&project_id=p1"


def test_a_user_in_the_url_is_sent_and_never_shown() -> None:
    client = protocol("http://user:p%40ss@h:1/a")
    request = first_request(client.get("k"))
    assert request.url.startswith("http://h:1/a?")
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")) == b"user:p@ss"
    assert client.origin == "http://h:1"
    with pytest.raises(StateUnavailable) as caught:
        finish(client.get("k"), REFUSED)
    assert "ss" not in str(caught.value).replace("passing", "")
    assert TOKEN not in repr(request)
    assert "ser:" not in repr(request)


@pytest.mark.parametrize("url", ["", "store:80", "ftp://h", "http://", "http://h:x", "http://h\n"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="the state store's URL"):
        protocol(url)


@pytest.mark.parametrize("bad", ["", "a\nb", "a\x00", "\ud800", 7])
def test_ids_and_tokens_that_cannot_stand_in_a_header_are_not_repeated(bad: Any) -> None:
    with pytest.raises(ValueError, match="organization") as caught:
        protocol(ids=(bad, None, None))
    assert "a\nb" not in str(caught.value)
    with pytest.raises(ValueError, match="token") as caught:
        StateProtocol("http://h", bad, "o1", None, None, StateScope("o1"))
    assert "a\nb" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "\ud800", 7, None])
def test_what_is_no_key(key: Any) -> None:
    for steps in (protocol().get(key), protocol().put(key, 1, 0, None), protocol().delete(key)):
        with pytest.raises(ValueError, match="state key"):
            next(steps)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_what_is_no_ttl(ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        next(protocol().put("k", 1, 0, ttl))


@pytest.mark.parametrize("value", [float("nan"), b"x", {"a": object()}, "\ud800"])
def test_a_value_that_is_no_json_is_not_sent(value: Any) -> None:
    with pytest.raises(NotJSON, match=r"^value"):
        next(protocol().put("k", value, 0, None))


@given(key=TEXT, organization=IDS, project=IDS)
def test_any_text_survives_the_query(key: str, organization: str, project: str) -> None:
    client = StateProtocol(
        "http://h/", TOKEN, organization, project, None, StateScope(organization, project)
    )
    url = first_request(client.get(key)).url
    assert url.isascii()
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(url).query, strict_parsing=True) == {
        "key": [key],
        "organization_id": [organization],
        "project_id": [project],
    }


# Answers


def test_a_read() -> None:
    assert finish(protocol().get("k"), (200, {"value": [1], "version": 4})) == ([1], 4)
    assert finish(protocol().get("k"), (200, {"value": None, "version": "7"})) == (None, 7)
    assert finish(protocol().get("k"), (200, {"value": 1})) == (1, 0)
    assert finish(protocol().get("k"), (404, b"")) == (None, 0)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b'{"value": 1', "no JSON"),
        (b"[1]", "no object"),
        (b"{}", "without a value"),
        (b'{"value": 1, "version": "x"}', "no whole number"),
        (b'{"value": 1, "version": null}', "no whole number"),
        (b'{"value": 1, "version": true}', "no whole number"),
        (b'{"value": 1, "version": 1.5}', "no whole number"),
    ],
)
def test_a_read_that_answers_rubbish(body: bytes, problem: str) -> None:
    with pytest.raises(StateUnavailable, match=problem):
        finish(protocol().get("k"), (200, body))


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (b'{"version": 2}', 2),
        (b'{"version": "2"}', 2),
        (b"", None),
        (b"OK", None),
        (b"[]", None),
        (b'{"version": "new"}', None),
    ],
)
def test_a_write_tells_its_version_where_the_store_does(body: bytes, version: int | None) -> None:
    assert finish(protocol().put("k", 1, 1, None), (200, body)) == version


def test_a_delete() -> None:
    assert finish(protocol().delete("k"), (200, b"")) is None
    assert finish(protocol().delete("k"), (204, b"")) is None
    assert finish(protocol().delete("k"), (404, b"")) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, StateDenied),
        (307, StateDenied),
        (400, StateDenied),
        (401, StateDenied),
        (403, StateDenied),
        (408, StateUnavailable),
        (413, StateDenied),
        (429, StateUnavailable),
        (500, StateUnavailable),
        (503, StateUnavailable),
    ],
)
def test_what_statuses_mean(status: int, kind: type[StateError]) -> None:
    client = protocol()
    operations = (client.get("k"), client.put("k", 1, 0, None), client.delete("k"))
    for steps in operations:
        with pytest.raises(kind, match=str(status)) as caught:
            finish(steps, (status, {"error": "because"}))
        assert caught.value.key == "k"
        assert caught.value.scope == "organization o1, project p1"
        assert ("because" in str(caught.value)) is not (300 <= status < 400)
        if isinstance(caught.value, StateDenied):
            assert caught.value.status == status


def test_a_conflict_is_one_at_a_write_only() -> None:
    with pytest.raises(StateConflict):
        finish(protocol().put("k", 1, 0, None), (409, b""))
    for steps in (protocol().get("k"), protocol().delete("k")):
        with pytest.raises(StateDenied, match="409"):
            finish(steps, (409, b""))
    with pytest.raises(StateDenied, match="404"):
        finish(protocol().put("k", 1, 0, None), (404, b""))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": f"no {TOKEN}\n  here"}, ": no *** here"),
        ({"error": "x" * 1000}, ": " + "x" * 200),
        ({"error": 7}, ""),
        ([TOKEN], ""),
        (TOKEN.encode(), ""),
    ],
)
def test_a_stores_own_words_are_kept_short_and_without_the_token(body: Any, words: str) -> None:
    with pytest.raises(StateDenied) as caught:
        finish(protocol().get("k"), (401, body))
    assert str(caught.value).endswith(f"refused with status 401{words}")


def test_a_read_is_asked_once_more_where_the_connection_broke() -> None:
    assert finish(protocol().get("k"), CUT, (404, b"")) == (None, 0)
    with pytest.raises(StateUnavailable, match="broke off") as caught:
        finish(protocol().get("k"), CUT, CUT)
    assert caught.value.__cause__ is CUT
    with pytest.raises(StateUnavailable, match=r"not reached$"):
        finish(protocol().get("k"), REFUSED)


def test_a_write_whose_answer_is_lost_is_not_repeated() -> None:
    for steps in (protocol().put("k", 1, 0, None), protocol().delete("k")):
        with pytest.raises(StateUnavailable, match="may or may not have"):
            finish(steps, CUT)
    with pytest.raises(StateUnavailable, match=r"not reached$"):
        finish(protocol().put("k", 1, 0, None), REFUSED)


# set


def test_an_update_is_tried_again_with_what_others_wrote() -> None:
    seen = []

    def add(old: int | None) -> int:
        seen.append(old)
        return (old or 0) + 1

    new = finish(
        protocol().update("k", add, 5, None),
        *((404, b""), (409, b"")),
        *((200, {"value": 7, "version": 3}), (409, b"")),
        *((200, {"value": 8, "version": 4}), (200, b"")),
    )
    assert new == 9
    assert seen == [None, 7, 8]


def pauses(dice: float) -> Iterator[float]:
    """How long an update that always loses pauses, until it gives up."""
    steps = protocol().update("k", lambda _: 1, 12, None, dice=lambda: dice)
    outcome = None
    while True:
        step = steps.send(outcome)
        outcome = None
        if isinstance(step, Request):
            outcome = Response(404 if step.method == "GET" else 409, b"")
        elif isinstance(step, Pause):
            yield step.seconds


def test_an_update_pauses_longer_and_longer_and_not_in_step() -> None:
    longest, shortest = pauses(1.0), pauses(0.0)
    found = [next(longest) for _ in range(12)]
    assert found[:4] == [0.01, 0.02, 0.04, 0.08]
    assert found[7:] == [1.0] * 5
    assert [next(shortest) for _ in range(12)] == [each / 2 for each in found]
    with pytest.raises(StateContention, match="12 retries") as caught:
        next(longest)
    assert isinstance(caught.value.__cause__, StateConflict)


def test_an_update_without_retries_tries_once() -> None:
    with pytest.raises(StateContention, match="0 retries"):
        finish(protocol().update("k", lambda _: 1, 0, None), (404, b""), (409, b""))


def test_an_update_whose_answer_is_lost_counts_no_second_time() -> None:
    calls = []
    with pytest.raises(StateUnavailable, match="may or may not"):
        finish(protocol().update("k", calls.append, 5, None), (404, b""), CUT)
    assert calls == [None]


# list


def page(*keys: str, cursor: str | None = None) -> tuple[int, dict[str, Any]]:
    items = [{"key": key, "version": 1, "value": key.upper()} for key in keys]
    return 200, {"items": items, "cursor": cursor}


def test_a_listing_follows_its_cursor() -> None:
    steps = protocol().list("a/ü", None)
    request = first_request(steps)
    assert request.url.endswith("?prefix=a%2F%C3%BC&limit=1000&organization_id=o1&project_id=p1")
    body = json.dumps(page("a", cursor="c&1")[1]).encode()
    second = steps.send(Response(200, body))
    assert isinstance(second, Request)
    assert "&cursor=c%261&" in second.url
    body = json.dumps(page("b")[1]).encode()
    with pytest.raises(StopIteration) as stop:
        steps.send(Response(200, body))
    assert stop.value.value == [StateItem("a", "A", 1), StateItem("b", "B", 1)]


def test_a_listing_stops_at_its_limit() -> None:
    client = protocol()
    assert "limit=3&" in first_request(client.list("", 3)).url
    items = finish(client.list("", 3), page("a", "b", cursor="x"), page("c", "d", cursor="y"))
    assert [item.key for item in items] == ["a", "b", "c"]
    assert finish(client.list("", 0)) == []


@pytest.mark.parametrize("answer", [(400, b""), (404, b""), (405, b""), (200, {"value": 1})])
def test_a_store_without_listings(answer: tuple[int, Any]) -> None:
    with pytest.raises(StateDenied, match="offers no listing") as caught:
        finish(protocol().list("p", 1), answer)
    assert caught.value.status == answer[0]


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([(200, b"x")], "no JSON"),
        ([(200, {"items": 7})], "no array"),
        ([(200, {"items": [7]})], "without a key"),
        ([(200, {"items": [{"key": "k", "version": "x"}]})], "no whole number"),
        ([page("a", cursor="c"), page("b", cursor="c")], "leads nowhere"),
        ([(200, {"items": [], "cursor": 7})], "leads nowhere"),
    ],
)
def test_a_listing_that_answers_rubbish(answers: list[Any], problem: str) -> None:
    with pytest.raises(StateUnavailable, match=problem):
        finish(protocol().list("p", None), *answers)


# scopes


def test_a_scope_in_words() -> None:
    assert str(StateScope("o1")) == "organization o1"
    assert str(StateScope("o1", "p1")) == "organization o1, project p1"
    assert str(StateScope("o1", "p1", "e1")) == "organization o1, project p1, environment e1"


def test_a_scope_is_fixed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StateScope("o1").project_id = "p1"  # type: ignore[misc]
    assert StateScope("o1") == StateScope(organization_id="o1")
