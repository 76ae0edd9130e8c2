"""What functions answer, callers send and disks do that nobody would expect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from engine_process import PATIENCE, invoke, register, run, running

from fnship import contract
from fnship.engine.model import Activity, RetryPolicy, Scope, Status
from fnship.engine.sql.database import Database
from fnship.engine.stores.activities import ActivityQuery
from fnship.engine.stores.functions import FunctionStore
from fnship.engine.submission import Submission
from fnship.errors import AlreadyThere, InvalidRequest, KeyReused, StorageError

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
ONCE = RetryPolicy(max_attempts=1)


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """A server that answers so; gives its URL."""
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def saying(status: int, body: bytes, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return answer


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=b'{"data":' + await request.read() + b"}")


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (200, b'{"data":{"a":1e999}}', {}, "out of range"),
        (200, b"[" * 5000 + b"]" * 5000, {}, "nested too deeply"),
        (200, b'{"data":"\xff"}', {}, "cannot be read"),
        (500, b'{"error_code":1,"message":"m","data":{"a":1e999}}', {}, "without an error_code"),
        (500, b'{"error_code":2,"message":"m","data":' + b"[" * 5000 + b"]" * 5000 + b"}", {}, ""),
        (503, b"", {"Retry-After": "Mon, 01 Jan 2020 00:00:00 +9999999999999999"}, "503"),
        (503, b"", {"Retry-After": "9" * 400}, "503"),
    ],
)
def test_an_answer_that_nobody_can_read_is_an_outcome(
    tmp_path: Path, durable: bool, status: int, body: bytes, headers: dict[str, str], said: str
) -> None:
    async def main() -> None:
        async with (
            answering(saying(status, body, **headers)) as url,
            running(tmp_path) as engine,
        ):
            await register(engine, "f", url, retry=ONCE)
            activity = await invoke(engine, "f", durable=durable)
            assert (activity.status, activity.attempts) == (Status.FAILED, 1)
            assert activity.outcome is not None
            assert said in activity.outcome.message

    run(main)


def test_a_wish_to_wait_for_ever_is_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        body = b'{"error_code":1,"message":"m","data":{"retry_after":1' + b"0" * 400 + b"}}"
        async with answering(saying(500, body)) as url, running(tmp_path) as engine:
            await register(engine, "f", url, retry=RetryPolicy(again_delay=0.05, max_again=1))
            activity = await invoke(engine, "f")
            assert (activity.status, activity.attempts) == (Status.FAILED, 2)

    run(main)


@pytest.mark.parametrize("durable", [True, False])
def test_a_defect_of_the_engines_own_is_a_failed_attempt(
    tmp_path: Path, durable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with answering(echo) as url, running(tmp_path) as engine:
            await register(engine, "f", url)
            send = engine._invoker.send
            tries = 0

            async def defective(attempt: Any) -> Any:
                nonlocal tries
                tries += 1
                if tries == 1:
                    raise ZeroDivisionError("a defect")
                return await send(attempt)

            engine._invoker.send = defective  # type: ignore[method-assign] # a defect
            activity = await invoke(engine, "f", durable=durable)
            assert (activity.status, activity.attempts) == (Status.SUCCEEDED, 2)

    run(main)
    assert "ZeroDivisionError" in caplog.text


def test_a_byte_order_mark_goes_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        bodies = []

        async def again_once(request: web.Request) -> web.Response:
            bodies.append(await request.read())
            if len(bodies) == 1:
                answer = b'{"error_code":1,"message":"m","data":{"retry_after":0}}'
                return web.Response(status=500, body=b"\xef\xbb\xbf" + answer)
            return web.Response(body=b'\xef\xbb\xbf{"data":1}')

        async with answering(again_once) as url, running(tmp_path) as engine:
            await register(engine, "f", url)
            activity = await invoke(engine, "f", b"\xef\xbb\xbf{}", id="a")
            assert bytes(activity.payload) == b"{}"
            assert bodies == [b"{}", b'{"previous":{"retry_after":0}}']
            assert activity.outcome is not None
            assert bytes(activity.outcome.data or b"") == b"1"
            again = await engine.submit(
                Submission(function="f", payload=b"\xef\xbb\xbf{ }", id="a")
            )
            assert not again.created

    run(main)


@pytest.mark.parametrize("payload", [b'{"a":1e999}', b'"text"', b"\xef\xbb\xbf[]", b"{" * 5000])
def test_a_payload_that_nobody_can_read_is_refused(tmp_path: Path, payload: bytes) -> None:
    async def main() -> None:
        async with answering(echo) as url, running(tmp_path) as engine:
            await register(engine, "f", url)
            with pytest.raises(InvalidRequest, match="payload"):
                await engine.submit(Submission(function="f", payload=payload))

    run(main)


def test_a_value_that_nobody_can_read_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine, aiohttp.ClientSession() as session:
            engine.live.begin("a", 1)
            token = engine.tokens.mint("state", "a", 1, Scope(), time.time() + 60)
            url = f"{engine.options.advertise_url}/functions/state"
            names = ("organization_id", "project_id", "environment_id")
            for value, status in ((b"1e999", 400), (b"1e99", 200)):
                body = b'{"scope":{%b},"key":"k","version":0,"value":%b}' % (
                    b",".join(b'"%b":"default"' % name.encode() for name in names),
                    value,
                )
                headers = {contract.STATE_TOKEN: token}
                async with session.put(url, data=body, headers=headers) as response:
                    assert response.status == status

    run(main)


def test_ephemeral_invocations_of_one_id_are_one(tmp_path: Path) -> None:
    async def main() -> None:
        calls: Counter[str] = Counter()

        async def count(request: web.Request) -> web.Response:
            calls[request.headers[contract.ACTIVITY_ID]] += 1
            await asyncio.sleep(0.1)
            return await echo(request)

        async with answering(count) as url, running(tmp_path) as engine:
            await register(engine, "f", url)
            ended = await asyncio.gather(
                *(invoke(engine, "f", b'{"n":1}', id="a", durable=False) for _ in range(20))
            )
            assert {each.status for each in ended} == {Status.SUCCEEDED}
            later = await engine.submit(
                Submission(function="f", payload=b'{ "n": 1 }', id="a", durable=False)
            )
            assert (later.created, later.activity.status) == (False, Status.SUCCEEDED)
            with pytest.raises(AlreadyThere, match="another payload"):
                await engine.submit(Submission(function="f", id="a", durable=False))
            assert calls == {"a": 1}
            assert not engine._in_memory

    run(main)


def test_an_ephemeral_one_that_a_stop_cuts_off_is_recorded_as_failed(tmp_path: Path) -> None:
    async def main() -> None:
        async def never(_: web.Request) -> web.Response:
            await asyncio.sleep(3600)
            raise AssertionError

        async with answering(never) as url:
            async with running(tmp_path, grace=0.1) as engine:
                await register(engine, "f", url)
                submitted = await engine.submit(Submission(function="f", durable=False))
                await asyncio.sleep(0.1)
            async with running(tmp_path) as engine:
                activity = await engine.activity(submitted.activity.id)
                assert activity.status is Status.FAILED
                assert activity.outcome is not None
                assert "the engine stopped" in activity.outcome.message

    run(main)


def test_keys_and_ids_that_contradict_each_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with answering(echo) as url, running(tmp_path) as engine:
            await register(engine, "f", url)
            first = await engine.submit(Submission(function="f", id="a", idempotency_key="k"))

            async def again(**more: Any) -> Activity:
                submitted = await engine.submit(Submission(function="f", **more))
                assert not submitted.created
                return submitted.activity

            assert (await again(idempotency_key="k")).id == "a"
            assert (await again(id="a", idempotency_key="l")).id == "a"
            assert (await again(idempotency_key="l")).id == "a"
            named = Scope(environment_name="of another name")
            assert (await again(id="a", scope=named)).id == first.activity.id
            with pytest.raises(KeyReused, match="another id"):
                await again(id="b", idempotency_key="k")
            with pytest.raises(AlreadyThere, match="another scope"):
                await again(id="a", scope=Scope("elsewhere"))

    run(main)


def test_an_outcome_is_recorded_when_the_disk_takes_it_again(tmp_path: Path) -> None:
    async def main() -> None:
        calls = 0

        async def count(request: web.Request) -> web.Response:
            nonlocal calls
            calls += 1
            return await echo(request)

        async with answering(count) as url, running(tmp_path) as engine:
            await register(engine, "f", url, retry=ONCE)
            record = engine._activities.record
            refusals = 2

            async def full(activity: Activity) -> bool:
                nonlocal refusals
                if refusals:
                    refusals -= 1
                    raise StorageError("the disk is full")
                return await record(activity)

            engine._activities.record = full  # type: ignore[method-assign] # a full disk
            activity = await invoke(engine, "f")
            assert (activity.status, activity.attempts, calls) == (Status.SUCCEEDED, 1, 1)

    run(main)


def test_dead_letters_are_replayed_once_by_however_many(tmp_path: Path) -> None:
    async def main() -> None:
        body = b'{"error_code":2,"message":"function: failed: m"}'
        async with answering(saying(500, body)) as url, running(tmp_path) as engine:
            await register(engine, "f", url)
            for _ in range(12):
                await invoke(engine, "f")
            counts = await asyncio.gather(
                *(engine.replay_all(ActivityQuery(function="f")) for _ in range(3))
            )
            assert sum(counts) == 12
            page = await engine.activities(ActivityQuery(function="f", limit=100))
            replayed = [each.replay_of for each in page.items if each.replay_of is not None]
            assert len(replayed) == len(set(replayed)) == 12
            # One that somebody names is replayed as often as it is named.
            one = await engine.replay(replayed[0])
            assert (await engine.activity(replayed[0])).replayed_by == one.id

    run(main)


@pytest.mark.parametrize("host", ["a" * 64 + ".example.com", "a..b", ".x"])
def test_a_callback_that_goes_nowhere_holds_up_no_other(tmp_path: Path, host: str) -> None:
    async def main() -> None:
        heard = asyncio.Event()
        silent = 0

        async def hear(request: web.Request) -> web.Response:
            nonlocal silent
            if request.path == "/silent":
                silent += 1
                await asyncio.sleep(3600)
            heard.set()
            return web.Response()

        async with answering(echo) as url, answering(hear) as told, running(tmp_path) as engine:
            await register(engine, "f", url)
            # As if it had been accepted: nobody may name such a host any more.
            activity = await invoke(engine, "f", callback=f"{told}silent")
            await engine._database.write(
                lambda session: session.do(
                    "activities",
                    "insert_callback",
                    {"activity_id": f"{activity.id}-x", "url": f"http://{host}/", "due": 0.0},
                )
            )
            for _ in range(30):
                await invoke(engine, "f", callback=f"{told}silent")
            async with answering(hear) as elsewhere:
                await invoke(engine, "f", callback=elsewhere)
                await asyncio.wait_for(heard.wait(), PATIENCE)
            assert 1 <= silent <= 4

    run(main)


def test_a_redirect_is_not_followed_and_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        paths = []

        async def around(request: web.Request) -> web.Response:
            paths.append(request.path)
            return web.Response(status=307, headers={"Location": "/round"})

        async with answering(around) as url, running(tmp_path) as engine:
            await register(engine, "f", url)
            activity = await invoke(engine, "f")
            assert activity.status is Status.FAILED
            assert activity.outcome is not None
            assert "a redirect to '/round', which is not followed" in activity.outcome.message
            assert paths == ["/"]

    run(main)


@pytest.mark.parametrize("set_back", [3600.0, 10**8])
def test_a_clock_that_is_set_back_makes_nothing_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_back: float
) -> None:
    async def main() -> None:
        real = time.time
        began: list[float] = []

        async def again_once(_: web.Request) -> web.Response:
            began.append(time.monotonic())
            if len(began) == 1:
                body = b'{"error_code":1,"message":"m","data":{"retry_after":0.5}}'
                return web.Response(status=500, body=body)
            return web.Response(body=b"{}")

        async with answering(again_once) as url, running(tmp_path) as engine:
            await register(engine, "f", url)
            submitted = await engine.submit(Submission(function="f"))
            while not began:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(time, "time", lambda: real() - set_back)
            activity = await engine.wait(submitted.activity.id, PATIENCE)
            assert activity.status is Status.SUCCEEDED
            assert began[1] - began[0] >= 0.5

    run(main)


def test_a_function_is_what_it_was_last_said_to_be(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", "http://127.0.0.1:9/old")
        database = Database(tmp_path / "engine.sqlite")
        for _ in range(20):
            store = FunctionStore(database)  # which has read nothing yet
            reading = [asyncio.create_task(store.get("f")) for _ in range(8)]
            await asyncio.sleep(0)
            kept = await store.put(await store.get("f"))
            await asyncio.gather(*reading)
            assert await store.get("f") is kept
        database.close()

    run(main)
