"""Log lines on their way to a real engine, which fails in every way it can."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from log_function import TEN, call, messages, serving, ten, ten_async, until

import fnship
from fnship.server.exchange import Exchange
from fnship.testing import Engine


@pytest.mark.parametrize("handler", [ten, ten_async])
def test_the_log_is_whole_when_the_answer_comes(handler: Callable[..., Any]) -> None:
    async def scenario(engine: Engine) -> None:
        async with serving(handler) as app:
            # The first upload loads the client, which may take longer than an answer waits.
            await call(app, engine, "warm-up")
            await until(lambda: len(engine.lines("warm-up")) == 10)
            for attempt in range(20):
                await call(app, engine, f"a{attempt}")
                # Whole already, unless this machine stalled for longer than LOG_FLUSH_WAIT.
                if len(engine.lines(f"a{attempt}")) == 10:
                    return
            pytest.fail("no log of twenty was whole with its answer")

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_an_engine_that_does_not_know_batches_gets_every_line_at_least_once() -> None:
    async def scenario(engine: Engine) -> None:
        engine.faults.logs.drop(times=1, stored=True)
        async with serving(ten) as app:
            await call(app, engine, "a")
            await until(lambda: len(engine.lines("a")) >= 20)
        assert messages(engine, "a") == TEN + TEN

    with Engine(honour_batches=False) as engine:
        asyncio.run(scenario(engine))


def test_an_engine_that_comes_back_gets_what_it_missed() -> None:
    async def scenario(engine: Engine) -> None:
        async with serving(ten) as app:
            headers = engine.headers(activity_id="known")
            raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            engine.stop()
            response = await app.respond(Exchange("POST", "/", raw, b"{}"))
            assert response.status == 200
            engine.start()
            await until(lambda: len(engine.lines("known")) == 10)
        assert messages(engine, "known") == TEN

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_lines_leave_while_the_handler_runs() -> None:
    go_on = threading.Event()

    def plain(logger: logging.Logger, request: dict[str, Any]) -> None:
        logger.info("before")
        assert go_on.wait(20)
        logger.info("after")

    async def async_(logger: logging.Logger, request: dict[str, Any]) -> None:
        logger.info("before")
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        logger.info("after")

    async def scenario(engine: Engine, handler: Callable[..., Any]) -> None:
        go_on.clear()
        name = handler.__name__
        async with serving(handler) as app:
            answer = asyncio.create_task(call(app, engine, name))
            await until(lambda: messages(engine, name) == ["before"])
            go_on.set()
            await answer
            await until(lambda: messages(engine, name) == ["before", "after"])

    with Engine() as engine:
        asyncio.run(scenario(engine, plain))
        asyncio.run(scenario(engine, async_))


def test_lines_logged_during_an_upload_are_kept() -> None:
    async def handler(logger: logging.Logger, request: dict[str, Any]) -> None:
        for number in range(200):
            logger.info("%d", number)
            await asyncio.sleep(0.005)

    async def scenario(engine: Engine) -> None:
        engine.faults.logs.delay(0.1)  # there is always an upload under way
        async with serving(handler) as app:
            await call(app, engine, "a")
            await until(lambda: len(engine.lines("a")) >= 200)
        assert messages(engine, "a") == [str(number) for number in range(200)]
        assert len(engine.uploads) > 1

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_lines_after_the_answer_are_delivered() -> None:
    running: list[asyncio.Task[None]] = []

    async def handler(logger: logging.Logger, request: dict[str, Any]) -> None:
        async def later() -> None:
            await asyncio.sleep(0.05)
            logger.info("late")
            print("later still")

        logger.info("early")
        running.append(asyncio.create_task(later()))

    async def scenario(engine: Engine) -> None:
        async with serving(handler) as app:
            await call(app, engine, "a")
            await until(lambda: len(engine.lines("a")) == 3)
        assert messages(engine, "a") == ["early", "late", "later still"]

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_a_known_sick_engine_is_not_waited_for() -> None:
    async def scenario(engine: Engine) -> None:
        engine.faults.logs.fail(status=500)
        async with serving(ten, log_flush_wait=3600.0, log_flush_timeout=0.5) as app:
            await call(app, engine, "first")  # waits until the first upload has failed
            tried = len(engine.uploads)
            assert tried >= 1
            for number in range(50):  # an hour each, if any of them waited
                await call(app, engine, f"a{number}")
            engine.faults.logs.clear()
            await until(lambda: all(len(engine.lines(f"a{n}")) == 10 for n in range(50)))
        assert messages(engine, "first") == TEN

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_an_engine_that_does_not_answer_holds_nothing_up() -> None:
    async def scenario(engine: Engine) -> None:
        async with serving(ten, log_flush_wait=0.1, log_flush_timeout=1.0) as app:
            engine.faults.logs.delay(3600.0)
            for number in range(20):
                await call(app, engine, f"a{number}")
            engine.faults.logs.clear()
            await until(lambda: app.unsent_log_bytes == 0)
        for number in range(20):
            assert messages(engine, f"a{number}") == TEN

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_shutdown_delivers_what_is_left() -> None:
    async def scenario(engine: Engine) -> None:
        engine.faults.logs.fail(status=500, times=4)
        async with serving(ten, log_flush_wait=0.0) as app:
            await call(app, engine, "a")
        assert messages(engine, "a") == TEN

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_a_loss_is_said_once_and_the_lines_are_on_stdout(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    async def scenario(engine: Engine) -> None:
        engine.faults.logs.fail(status=500)
        async with serving(ten, log_flush_timeout=0.3) as app:
            for number in range(3):
                await call(app, engine, f"a{number}")

    with Engine() as engine:
        asyncio.run(scenario(engine))
    out = capfdbinary.readouterr().out.decode()
    assert out.count("30 log lines never reached the engine") == 1
    for number in range(3):
        assert [
            line.rpartition("msg=")[2] for line in out.splitlines() if f"=a{number} " in line
        ] == TEN


@pytest.mark.parametrize("status", [302, 401, 404, 413])
def test_a_refused_batch_is_not_sent_again(
    status: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def scenario(engine: Engine) -> None:
        engine.faults.logs.fail(status=status)
        async with serving(ten, log_buffer_capacity=1000) as app:
            await call(app, engine, "a")
            await until(lambda: len(engine.uploads) >= 1)
        assert len(engine.uploads) == 1

    with Engine(share_uploads=False) as engine:
        asyncio.run(scenario(engine))
    assert f"refused 10 log lines with status {status}" in capfdbinary.readouterr().out.decode()


@pytest.mark.parametrize("fault", [{"status": 404}, {"status": 302}, {"status": 200}])
def test_what_is_no_answer_to_a_shared_upload_ends_them(fault: dict[str, Any]) -> None:
    async def scenario(engine: Engine) -> None:
        engine.faults.logs.fail(**fault, times=1)
        async with serving(ten, log_buffer_capacity=1000) as app:
            await call(app, engine, "a")
            await call(app, engine, "b")
            await until(lambda: len(engine.lines("b")) == 10)
        assert messages(engine, "a") == messages(engine, "b") == TEN
        assert [upload.stored for upload in engine.uploads] == [False, True, True]

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_an_engine_that_is_down_is_tried_soon_however_many_wait_for_it() -> None:
    async def scenario(engine: Engine) -> None:
        async with serving(ten, log_flush_wait=3600.0) as app:
            engine.faults.logs.fail(status=500)
            await asyncio.gather(*(call(app, engine, f"a{number}") for number in range(50)))
            tried = len(engine.uploads)
            assert tried >= 50
            # Fifty failures at once are one: what tries next does so after half a second at most,
            # and then a second: not after the longest pause that there is.
            await until(lambda: len(engine.uploads) >= tried + 2, 10)
            engine.faults.logs.clear()
            await until(lambda: all(len(engine.lines(f"a{n}")) == 10 for n in range(50)))

    with Engine(share_uploads=False) as engine:
        asyncio.run(scenario(engine))


def test_a_redirect_does_not_take_the_token_elsewhere() -> None:
    async def scenario(engine: Engine, other: Engine) -> None:
        engine.faults.logs.redirect(f"{other.url}/elsewhere")
        async with serving(ten) as app:
            await call(app, engine, "a")
            await until(lambda: len(engine.uploads) >= 1)
        assert other.uploads == []

    with Engine() as engine, Engine() as other:
        asyncio.run(scenario(engine, other))


@pytest.mark.parametrize("skip_tls_verify", [False, True])
def test_a_bad_certificate_is_refused_unless_told_otherwise(
    skip_tls_verify: bool, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def scenario(engine: Engine) -> None:
        async with serving(ten, log_flush_timeout=0.5, skip_tls_verify=skip_tls_verify) as app:
            await call(app, engine, "a")
            if skip_tls_verify:
                await until(lambda: len(engine.lines("a")) == 10)

    with Engine(ssl_context=context) as engine:
        asyncio.run(scenario(engine))
        assert bool(engine.lines("a")) == skip_tls_verify
    said = "its certificate is not trusted" in capfdbinary.readouterr().out.decode()
    assert said != skip_tls_verify


def test_uploads_go_to_allowed_hosts_only(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def scenario(engine: Engine, allowed: str) -> None:
        async with serving(ten, engine_allowed_hosts=(allowed,)) as app:
            for number in range(2):
                await call(app, engine, f"{allowed}-{number}")

    with Engine() as engine:
        asyncio.run(scenario(engine, "engine.example.com"))
        assert engine.uploads == []
        out = capfdbinary.readouterr().out.decode()
        assert out.count("is not one of ENGINE_ALLOWED_HOSTS") == 1
        asyncio.run(scenario(engine, f"127.0.0.1:{engine.port}"))
        assert len(engine.lines(f"127.0.0.1:{engine.port}-1")) == 10


def test_unsent_lines_take_a_bounded_amount_of_memory(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    async def handler(logger: logging.Logger, request: dict[str, Any]) -> None:
        for number in range(500):
            logger.info("%04d %s", number, "x" * 1000)

    async def scenario(engine: Engine) -> None:
        engine.faults.logs.fail(status=500)
        async with serving(handler, log_buffer_bytes=100_000) as app:
            await call(app, engine, "a")
            assert app.unsent_log_bytes <= 100_000
            await call(app, engine, "b")
            assert app.unsent_log_bytes <= 100_000
            engine.faults.logs.clear()
            await until(lambda: app.unsent_log_bytes == 0)

    with Engine() as engine:
        asyncio.run(scenario(engine))
        kept = messages(engine, "b")
        assert "older lines were dropped here" in kept[0]
        dropped = int(kept[0].split()[0])
        numbers = [int(line.split()[0]) for line in kept[1:]]
        assert numbers == list(range(500 - len(numbers), 500))  # the newest, in order
        assert dropped + len(numbers) == 500
    assert "are dropped, beyond LOG_BUFFER_BYTES" in capfdbinary.readouterr().out.decode()


def test_attempts_are_numbered_in_their_batches() -> None:
    async def scenario(engine: Engine) -> None:
        async with serving(ten) as app:
            for attempt in (1, 2):
                headers = engine.headers(activity_id="a", attempt=attempt)
                raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                await app.respond(Exchange("POST", "/", raw, b"{}"))
            await until(lambda: len(engine.lines("a")) == 20)
        assert {upload.batch.partition("-")[0] for upload in engine.uploads if upload.batch} >= {
            "1",
            "2",
        }

    with Engine() as engine:
        asyncio.run(scenario(engine))


def test_the_tokens_of_a_call_are_in_no_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    secrets: list[str] = []

    def handler(logger: logging.Logger, request: dict[str, Any]) -> None:
        token = request["metadata"].pop("stateStoreToken")
        logger.info("token %s", token)
        print("in two", end=" ")
        print(token[:5], end="")
        print(token[5:])
        logging.getLogger("library").warning("again %r", {"token": token})
        raise fnship.Failed(f"with {token}")

    async def scenario(engine: Engine) -> bytes:
        async with serving(handler) as app:
            headers = engine.headers(activity_id="a")
            secrets.extend((headers["X-Eaas-State-Token"], headers["X-Workflow-Token"]))
            raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            response = await app.respond(Exchange("POST", "/", raw, b"{}"))
            await until(lambda: len(engine.lines("a")) == 3)
            return response.body

    with Engine() as engine:
        answer = asyncio.run(scenario(engine))
        everything = engine.log("a") + capfdbinary.readouterr().out.decode() + answer.decode()
    assert everything.count("[redacted]") == 7
    for secret in secrets:
        assert secret not in everything
