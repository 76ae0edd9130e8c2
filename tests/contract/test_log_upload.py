"""What a function logs arrives at every kind of engine, once and in order, whatever goes wrong."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from log_engines import KINDS, FaultyEngine, log_engine
from log_function import TEN, call, messages, serving, ten, ten_async, until

from fnship import contract
from fnship.function.log_form import FormPart, write_form
from fnship.server.exchange import Exchange


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FaultyEngine]:
    with log_engine(request.param, tmp_path / "data") as engine:
        yield engine


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (ten_async, lambda faults: faults.fail(status=500, times=3)),
        (ten, lambda faults: faults.fail(status=503, times=1)),
        (ten_async, lambda faults: faults.fail(status=429, times=2)),
        (ten, lambda faults: faults.drop(times=2)),
        (ten_async, lambda faults: faults.drop(times=2, stored=True)),
        (ten, lambda faults: faults.drop(times=2, where="body")),
        (ten_async, lambda faults: faults.delay(1.5, times=1)),
        (ten, lambda faults: faults.random(rate=0.5, status=502, seed=7)),
    ],
    ids=["500", "503", "429", "dropped", "stored-then-dropped", "cut", "slow", "random"],
)
def test_every_line_arrives_once_and_in_order(
    engine: FaultyEngine, handler: Callable[..., Any], fault: Callable[[Any], None]
) -> None:
    async def scenario() -> None:
        fault(engine.plan)
        async with serving(handler, log_flush_timeout=2.0) as app:
            for number in range(3):
                await call(app, engine, f"a{number}")
            await until(lambda: all(len(engine.lines(f"a{n}")) >= 10 for n in range(3)))
        for number in range(3):
            assert messages(engine, f"a{number}") == TEN

    asyncio.run(scenario())


def test_many_activities_lose_and_repeat_nothing(engine: FaultyEngine) -> None:
    async def handler(logger: logging.Logger, request: dict[str, Any]) -> None:
        for number in range(30):
            logger.info("%d", number)
            if number % 7 == 0:
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        engine.plan.random(rate=0.3, status=500, seed=1)
        engine.plan.drop(times=5, stored=True)
        async with serving(handler) as app:
            await asyncio.gather(*(call(app, engine, f"a{number}") for number in range(100)))
            await until(lambda: app.unsent_log_bytes == 0, 60)
        for number in range(100):
            assert messages(engine, f"a{number}") == [str(each) for each in range(30)]

    asyncio.run(scenario())


def test_those_who_wait_share_a_request_where_that_is_offered(
    engine: FaultyEngine, request: pytest.FixtureRequest
) -> None:
    async def scenario() -> None:
        async with serving(ten_async, log_buffer_capacity=1000) as app:
            await call(app, engine, "warm-up")
            await until(lambda: len(engine.lines("warm-up")) == 10)
            before = engine.plan.requests
            engine.plan.delay(0.2, times=2)
            await asyncio.gather(*(call(app, engine, f"a{number}") for number in range(60)))
            await until(lambda: app.unsent_log_bytes == 0)
            requests = engine.plan.requests - before
        for number in range(60):
            assert messages(engine, f"a{number}") == TEN
        if "shared" in request.node.callspec.id:
            assert requests < 30
        else:
            assert requests == 60

    asyncio.run(scenario())


def test_long_lines_stay_whole(engine: FaultyEngine) -> None:
    def handler(logger: logging.Logger, request: dict[str, Any]) -> None:
        logger.info("before")
        logger.info("%s\nsecond line", "x" * (3 * 2**20))
        logger.info("after")

    async def scenario() -> None:
        async with serving(handler) as app:
            await call(app, engine, "a")
            await until(lambda: len(engine.lines("a")) == 3)
        assert messages(engine, "a") == ["before", "x" * (3 * 2**20) + "\\nsecond line", "after"]

    asyncio.run(scenario())


def test_attempts_do_not_mix(engine: FaultyEngine) -> None:
    async def scenario() -> None:
        async with serving(ten) as app:
            for attempt in (1, 2):
                await call(app, engine, "a", attempt=attempt)
                await until(lambda attempt=attempt: len(engine.lines("a")) == 10 * attempt)
        assert messages(engine, "a") == TEN + TEN

    asyncio.run(scenario())


def test_a_token_that_is_refused_harms_nobody_else(
    engine: FaultyEngine, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def scenario() -> None:
        async with serving(ten, log_buffer_capacity=1000) as app:

            async def forged() -> None:
                headers = {**engine.headers(activity_id="bad"), contract.WORKFLOW_TOKEN: "forged"}
                raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                await app.respond(Exchange("POST", "/", raw, b"{}"))

            await asyncio.gather(forged(), *(call(app, engine, f"a{n}") for n in range(10)))
            await until(lambda: app.unsent_log_bytes == 0)
        assert all(messages(engine, f"a{n}") == TEN for n in range(10))
        assert engine.lines("bad") == []

    asyncio.run(scenario())
    assert b"refused 10 log lines with status 401" in capfdbinary.readouterr().out


def post(
    engine: FaultyEngine, path: str, parts: list[FormPart], headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """An upload made by hand."""
    kind, body = write_form(parts)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(engine.url).netloc, timeout=20)
    try:
        connection.request("POST", path, body, {"Content-Type": kind, **(headers or {})})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_batch_is_stored_once(engine: FaultyEngine) -> None:
    call = engine.headers(activity_id="a")
    for batch, text in (("1-1", "one\n"), ("1-2", "two\n"), ("1-1", "one\n"), ("1-2", "two\n")):
        headers = {
            contract.WORKFLOW_TOKEN: call[contract.WORKFLOW_TOKEN],
            contract.LOG_BATCH: batch,
        }
        path = call[contract.FILE_UPLOAD] + "?append=true"
        assert post(engine, path, [FormPart(text.encode())], headers)[0] == 200
        if shared := call.get(contract.LOG_BATCH_ENDPOINT):
            status, said = post(engine, shared, [FormPart(text.encode(), headers)] * 2)
            assert (status, [each["status"] for each in said["parts"]]) == (200, [200, 200])
    assert engine.lines("a") == ["one", "two"]


def test_a_shared_upload_says_of_each_part_how_it_went(engine: FaultyEngine) -> None:
    shared = engine.headers(activity_id="a").get(contract.LOG_BATCH_ENDPOINT)
    if shared is None:
        return  # it has no such thing, and says nothing of one
    tokens = [engine.headers(activity_id=each)[contract.WORKFLOW_TOKEN] for each in ("a", "b", "c")]
    parts = [
        FormPart(b"of a\n", {contract.WORKFLOW_TOKEN: tokens[0], contract.LOG_BATCH: "1-1"}),
        FormPart(b"of nobody\n", {contract.WORKFLOW_TOKEN: "x", contract.LOG_BATCH: "1-1"}),
        FormPart(b"without a token\n", {contract.LOG_BATCH: "1-1"}),
        FormPart(b"without a number\n", {contract.WORKFLOW_TOKEN: tokens[1]}),
        FormPart(b"of c\n", {contract.WORKFLOW_TOKEN: tokens[2], contract.LOG_BATCH: "1-1"}),
    ]
    status, said = post(engine, shared, parts)
    assert status == 200
    assert [each["status"] for each in said["parts"]] == [200, 401, 401, 400, 200]
    assert [engine.lines(each) for each in "abc"] == [["of a"], [], ["of c"]]
    assert post(engine, shared, [])[0] == 400
