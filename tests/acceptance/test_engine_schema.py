"""Requests made from the engine's own description: none of them is an error of the engine's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from engine_command import EngineCommand, engine_command
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = 40  # for each operation


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCommand]:
    with engine_command(tmp_path_factory.mktemp("engine") / "data") as engine:
        engine.put("hello", "http://127.0.0.1:9")
        yield engine


def test_no_request_is_an_error_of_the_engine(engine: EngineCommand) -> None:
    authorized = {"Authorization": f"Bearer {engine.token}"}
    schema = schemathesis.openapi.from_url(f"{engine.url}/v1/openapi.json", headers=authorized)
    seen: Counter[str] = Counter()

    def check(case: Any) -> None:
        case.headers.update(authorized)
        response = case.call(timeout=60)
        status = response.status_code
        assert status < 500, response.text
        assert status != 401, "it has a token"
        seen[case.operation.label] += 1
        if status >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]
            assert response.json()["status"] == status

    for found in schema.get_all_operations():
        each = settings(
            max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck)
        )
        each(given(case=found.ok().as_strategy())(check))()
    assert "POST /v1/functions/{name}/invocations" in seen
    assert "PUT /v1/functions/{name}" in seen
    assert len(seen) > 20
