"""Requests made from the engine's own description: each is answered as the description has it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import schemathesis
from engine_command import EngineCommand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

EXAMPLES = 40  # for each operation
CHECKS = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)
EXPORTED = st.fixed_dictionaries(
    {"key": st.text(min_size=1, max_size=9), "value": st.none() | st.integers() | st.text()},
    optional={"version": st.integers(1, 9), "expires": st.none() | st.floats(0, 4e9)},
)
NOTHING = b'{"imported":0}'
ANSWERED = {  # in more than their errors
    "GET /v1/activities",
    "GET /v1/functions",
    "GET /v1/logs",
    "GET /v1/state",
    "GET /v1/state/export",
    "GET /v1/tokens",
    "POST /v1/activities/replay",
    "POST /v1/state/import",
    "POST /v1/tokens",
    "PUT /v1/state/item",
}


def lines(items: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in items)


schemathesis.openapi.media_type(
    "application/x-ndjson", st.lists(EXPORTED, max_size=3).map(lines) | st.binary(max_size=9)
)


def test_each_request_is_answered_as_it_is_described(engine: EngineCommand) -> None:
    engine.put("hello", "http://127.0.0.1:9")
    assert engine.call("PUT", "/v1/state/item?key=here", 1).status == 200
    assert engine.call("POST", "/v1/functions/hello/invocations", {}).status == 202
    authorized = {"Authorization": f"Bearer {engine.token}"}
    schema = schemathesis.openapi.from_url(f"{engine.url}/v1/openapi.json", headers=authorized)
    seen: Counter[str] = Counter()
    done: Counter[str] = Counter()

    def check(case: Any) -> None:
        case.headers.update(authorized)
        response = case.call(timeout=60)
        status = response.status_code
        assert status < 500, response.text
        assert status != 401, "it has a token"
        seen[case.operation.label] += 1
        done[case.operation.label] += status < 300 and response.content != NOTHING
        if status >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]
            assert response.json()["status"] == status
        case.validate_response(response, checks=CHECKS)

    for found in schema.get_all_operations():
        each = settings(
            max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck)
        )
        each(given(case=found.ok().as_strategy())(check))()
    assert "POST /v1/functions/{name}/invocations" in seen
    assert "PUT /v1/functions/{name}" in seen
    assert len(seen) > 20
    assert {label for label in ANSWERED if not done[label]} == set()


def test_what_is_open_wants_no_token_and_says_so(engine: EngineCommand) -> None:
    described = engine.call("GET", "/v1/openapi.json").json["paths"]
    for path, operations in described.items():
        for operation in operations.values():
            assert ("401" in operation["responses"]) == path.startswith("/v1/"), path
            assert (operation.get("security") == []) != path.startswith("/v1/"), path


def test_a_value_in_the_query_is_named_whatever_the_body_is(engine: EngineCommand) -> None:
    where = f"/v1/state/item?key=k&version={2**60}"
    answer = engine.call("PUT", where, b"1", {"Content-Type": "text/plain"})
    answer.assert_problem(400, "^version should be ")
