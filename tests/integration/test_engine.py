"""The engine with functions that really run: attempts, retries, logs, state, cancel, restart."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from engine_process import PATIENCE, QUICK, invoke, register, run, running
from server_process import ServerProcess, serving, until

from fnship import contract
from fnship.engine.engine import Engine
from fnship.engine.model import Activity, Function, RetryPolicy, Scope, Source, Status
from fnship.engine.stores.activities import ActivityQuery, Callback
from fnship.engine.submission import Submission
from fnship.errors import AlreadyThere, InvalidRequest, KeyReused, Missing, UsageError

HANDLER = """
import asyncio
from pathlib import Path

import fnship

HERE = Path.cwd()


async def handle(logger, request):
    me = fnship.current()
    logger.info("attempt %s of %s", me.attempt, request.get("do"))
    what = request.get("do")
    if what == "again" and "previous" not in request:
        more = {} if "slowly" in request else {"retry_after": 0.05}
        raise fnship.ExecuteAgain("one more", page=2, **more)
    if what == "again":
        return {"previous": request["previous"], "attempt": me.attempt}
    if what == "fail":
        raise fnship.Failed("no")
    if what == "break":
        1 / 0
    if what == "transient" and me.attempt < request["until"]:
        raise fnship.Transient("not yet")
    if what == "wait":
        (HERE / f"{me.activity_id}.began").touch()
        try:
            while not (HERE / f"{me.activity_id}.gate").exists():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            (HERE / f"{me.activity_id}.cancelled").touch()
            raise
    if what == "count":
        state = fnship.StateClientBuilder(request).with_project_scope()
        await state.set_async("count", lambda old: (old or 0) + 1)
        return {"count": (await state.get_async("count"))[0]}
    return {"done": what, "metadata": request["metadata"]}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("function"), HANDLER, limit=300) as server:
        yield server


def result(activity: Activity) -> Any:
    assert activity.status is Status.SUCCEEDED, activity
    assert activity.outcome is not None
    assert activity.outcome.data is not None
    return msgspec.json.decode(activity.outcome.data)


def url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize("durable", [True, False])
def test_an_activity_succeeds_with_its_log(
    tmp_path: Path, server: ServerProcess, durable: bool
) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))
            scope = Scope("o1", "p1", "e1", "dev")
            activity = await invoke(engine, "f", b'{"do": "it"}', scope=scope, durable=durable)
            found = result(activity)
            assert found["done"] == "it"
            assert found["metadata"]["activityID"] == activity.id
            assert found["metadata"]["projectID"] == "p1"
            assert (activity.attempts, activity.failures) == (1, 0)
            text = await engine.logs.text(activity.id)
            assert text.endswith("msg=attempt 1 of it\n")
            assert (await engine.activity(activity.id)).status is Status.SUCCEEDED

    run(main)


@pytest.mark.parametrize("durable", [True, False])
def test_execute_again_hands_back_what_it_was_given(
    tmp_path: Path, server: ServerProcess, durable: bool
) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))
            activity = await invoke(engine, "f", b'{"do": "again"}', durable=durable)
            assert result(activity) == {
                "previous": {"page": 2, "retry_after": 0.05},
                "attempt": 2,
            }
            assert (activity.attempts, activity.failures, activity.again) == (2, 0, 1)
            lines = (await engine.logs.text(activity.id)).splitlines()
            assert [line.partition("msg=")[2] for line in lines] == [
                "attempt 1 of again",
                "attempt 2 of again",
            ]

    run(main)


@pytest.mark.parametrize("durable", [True, False])
def test_a_transient_error_is_tried_again(
    tmp_path: Path, server: ServerProcess, durable: bool
) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))
            body = b'{"do": "transient", "until": 3}'
            activity = await invoke(engine, "f", body, durable=durable)
            assert (activity.status, activity.attempts) == (Status.SUCCEEDED, 3)
            activity = await invoke(engine, "f", b'{"do": "transient", "until": 99}')
            assert (activity.status, activity.attempts) == (Status.FAILED, QUICK.max_attempts)
            assert activity.outcome is not None
            assert activity.outcome.message.startswith("function: transient error: not yet; ")

    run(main)


def test_what_failed_is_not_tried_again_and_is_a_dead_letter(
    tmp_path: Path, server: ServerProcess
) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))
            failed = await invoke(engine, "f", b'{"do": "fail"}')
            assert (failed.status, failed.attempts) == (Status.FAILED, 1)
            broken = await invoke(engine, "f", b'{"do": "break"}')
            assert broken.outcome is not None
            assert broken.outcome.message == "division by zero"
            assert b"handler.py" in bytes(broken.outcome.stack_trace or b"")
            dead = ActivityQuery(dead=True)
            assert [each.id for each in (await engine.activities(dead)).items] == [
                broken.id,
                failed.id,
            ]
            replayed = await engine.replay(failed.id)
            assert (await engine.wait(replayed.id, PATIENCE)).replay_of == failed.id
            assert await engine.replay_all(ActivityQuery()) == 2  # the replayed one failed as well
            with pytest.raises(Missing):
                await engine.replay("nobody")

    run(main)


def test_a_function_that_is_not_there_is_tried_again_until_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path / "data") as engine:
            await register(engine, "f", "http://127.0.0.1:9")
            submitted = await engine.submit(Submission(function="f"))
            while (await engine.activity(submitted.activity.id)).attempts < 2:
                await asyncio.sleep(0.01)
            with serving(tmp_path / "function", HANDLER) as server:
                await register(engine, "f", url(server))
                activity = await engine.wait(submitted.activity.id, PATIENCE)
                assert activity.status is Status.SUCCEEDED
                assert activity.failures == activity.attempts - 1

    run(main)


@pytest.mark.parametrize("durable", [True, False])
def test_cancel_reaches_the_function(tmp_path: Path, server: ServerProcess, durable: bool) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))
            submitted = await engine.submit(
                Submission(function="f", payload=b'{"do": "wait"}', durable=durable)
            )
            activity_id = submitted.activity.id
            began = server.folder / f"{activity_id}.began"
            while not began.exists():
                await asyncio.sleep(0.01)
            cancelled = await engine.cancel(activity_id)
            assert cancelled.status is Status.CANCELLED
            assert (await engine.wait(activity_id, 0)).status is Status.CANCELLED
            await asyncio.to_thread(
                until, (server.folder / f"{activity_id}.cancelled").exists, "the handler's end"
            )
            if durable:
                assert (await engine.cancel(activity_id)).status is Status.CANCELLED
            # Its place is free again.
            await register(engine, "f", url(server), concurrency=1)
            assert (await invoke(engine, "f")).status is Status.SUCCEEDED

    run(main)


def test_one_that_waits_its_turn_can_be_cancelled(tmp_path: Path, server: ServerProcess) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server), concurrency=1)
            ids = []
            for _ in range(3):
                submission = Submission(function="f", payload=b'{"do": "wait"}')
                ids.append((await engine.submit(submission)).activity.id)
            first, second, third = ids
            while not (server.folder / f"{first}.began").exists():
                await asyncio.sleep(0.01)
            await engine.cancel(second)
            (server.folder / f"{first}.gate").touch()
            (server.folder / f"{third}.gate").touch()
            assert (await engine.wait(third, PATIENCE)).status is Status.SUCCEEDED
            assert not (server.folder / f"{second}.began").exists()

    run(main)


def test_state_is_kept_between_activities(tmp_path: Path, server: ServerProcess) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))
            found = await asyncio.gather(
                *(invoke(engine, "f", b'{"do": "count"}') for _ in range(8))
            )
            assert max(result(each)["count"] for each in found) == 8
            other = await invoke(engine, "f", b'{"do": "count"}', scope=Scope("default", "p2"))
            assert result(other)["count"] == 1

    run(main)


def test_ids_and_keys(tmp_path: Path, server: ServerProcess) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))
            first = await invoke(engine, "f", b'{"do": "it"}', id="a-1")
            again = await engine.submit(Submission(function="f", payload=b'{"do":"it"}', id="a-1"))
            assert (again.created, again.activity) == (False, first)
            with pytest.raises(AlreadyThere):
                await engine.submit(Submission(function="f", id="a-1"))
            keyed = await invoke(engine, "f", idempotency_key="k")
            again = await engine.submit(Submission(function="f", idempotency_key="k"))
            assert (again.created, again.activity.id) == (False, keyed.id)
            with pytest.raises(KeyReused):
                await engine.submit(
                    Submission(function="f", payload=b'{"x":1}', idempotency_key="k")
                )
            for wrong in ("", "a/b", "ä", " a", "x" * 201):
                with pytest.raises(InvalidRequest, match="activity id"):
                    await engine.submit(Submission(function="f", id=wrong))
            for payload in (b"", b"[1]", b"{", b'"x"', b"nonsense"):
                with pytest.raises(InvalidRequest, match="payload"):
                    await engine.submit(Submission(function="f", payload=payload))
            with pytest.raises(Missing, match="no function 'g'"):
                await engine.submit(Submission(function="g"))

    run(main)


def test_a_thousand_submissions_of_one_id_run_once(tmp_path: Path, server: ServerProcess) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))

            async def client() -> None:
                for _ in range(50):
                    await engine.submit(Submission(function="f", id="one"))

            await asyncio.gather(*(client() for _ in range(20)))
            activity = await engine.wait("one", PATIENCE)
            assert (activity.status, activity.attempts) == (Status.SUCCEEDED, 1)

    run(main)


def test_a_callback_tells_the_outcome_until_it_is_heard(
    tmp_path: Path, server: ServerProcess
) -> None:
    heard: list[tuple[dict[str, str], bytes]] = []

    async def listen(request: web.Request) -> web.Response:
        heard.append((dict(request.headers), await request.read()))
        return web.Response(status=500 if len(heard) < 2 else 200)

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/told", listen)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server))
            callback = f"http://127.0.0.1:{port}/told"
            activity = await invoke(engine, "f", b'{"do": "fail"}', callback=callback)
            while len(heard) < 2:
                assert _state_of(await engine.callback(activity)) in ("pending", "trying again")
                await asyncio.sleep(0.02)
            while _state_of(await engine.callback(activity)) != "heard":
                await asyncio.sleep(0.02)
            await engine.send_callback(activity.id)
            while len(heard) < 3:
                await asyncio.sleep(0.02)
            with pytest.raises(Missing, match="has no callback"):
                await engine.send_callback((await invoke(engine, "f", b"{}")).id)
            key = engine.callback_key  # as a receiver gets it
        await runner.cleanup()
        headers, body = heard[-1]
        assert json.loads(body)["id"] == activity.id
        assert json.loads(body)["status"] == "failed"
        assert headers[contract.CALL_ID] == activity.id
        assert headers[contract.FUNCTION_NAME] == "f"
        signed = f"{activity.id}.{headers['webhook-timestamp']}.".encode() + body
        secret = base64.b64decode(key.removeprefix("whsec_"))
        digest = hmac.new(secret, signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"

    run(main)


def _state_of(callback: Callback | None) -> str:
    assert callback is not None
    if callback.heard is not None:
        assert (callback.attempts, callback.due, callback.problem) == (2, None, None)
        return "heard"
    if callback.problem is not None:
        assert (callback.attempts, callback.problem) == (1, "it got 500")
        return "trying again"
    return "pending"


def test_what_was_accepted_goes_on_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        data = tmp_path / "data"
        async with running(data) as engine:
            patient = RetryPolicy(first_delay=0.05, max_delay=0.2, max_attempts=1000)
            await register(engine, "f", "http://127.0.0.1:9", concurrency=1, retry=patient)
            ids = [(await engine.submit(Submission(function="f"))).activity.id for _ in range(5)]
        with serving(tmp_path / "function", HANDLER) as server:
            async with running(data) as engine:
                await register(engine, "f", url(server), retry=patient)
                for each in ids:
                    assert (await engine.wait(each, PATIENCE)).status is Status.SUCCEEDED

    run(main)


def test_one_that_waits_is_not_woken_early_by_a_restart(
    tmp_path: Path, server: ServerProcess
) -> None:
    async def main() -> None:
        slow = RetryPolicy(again_delay=1.5)
        async with running(tmp_path) as engine:
            await register(engine, "f", url(server), retry=slow)
            again = Submission(function="f", payload=b'{"do": "again", "slowly": true}')
            waiting = (await engine.submit(again)).activity.id
            while (await engine.activity(waiting)).status is not Status.WAITING:
                await asyncio.sleep(0.01)
            due = (await engine.activity(waiting)).due
            # What is left when the engine dies between its own note and that of the durable layer.
            await engine._durable.cancel(waiting)
        async with running(tmp_path) as engine:
            activity = await engine.wait(waiting, PATIENCE)
            assert activity.status is Status.SUCCEEDED
            assert activity.started is not None
            assert due is not None
            assert due <= activity.started < due + 3

    run(main)


def test_an_attempt_that_a_stop_cuts_short_is_made_again_and_is_no_failure(
    tmp_path: Path, server: ServerProcess
) -> None:
    async def main() -> None:
        async with running(tmp_path, grace=0.1) as engine:
            await register(engine, "f", url(server))
            submitted = await engine.submit(Submission(function="f", payload=b'{"do": "wait"}'))
            activity_id = submitted.activity.id
            while not (server.folder / f"{activity_id}.began").exists():
                await asyncio.sleep(0.01)
        (server.folder / f"{activity_id}.gate").touch()
        async with running(tmp_path) as engine:
            activity = await engine.wait(activity_id, PATIENCE)
            assert activity.status is Status.SUCCEEDED
            assert (activity.attempts, activity.failures) == (2, 0)

    run(main)


def test_a_folder_is_served_by_the_engine(tmp_path: Path) -> None:
    lines: list[str] = []

    async def main() -> None:
        function = tmp_path / "function"
        (function / "function").mkdir(parents=True)
        (function / "function" / "__init__.py").touch()
        handler = function / "function" / "handler.py"
        handler.write_text(HANDLER)
        async with running(tmp_path / "data") as engine:
            engine.on_line = lambda name, line: lines.append(f"{name}: {line}")
            folder = Function(name="f", source=Source.FOLDER, location=str(function), retry=QUICK)
            await engine.put_function(folder)
            assert result(await invoke(engine, "f", b'{"do": "it"}'))["done"] == "it"
            assert any(each.startswith("f: ") and "attempt 1 of it" in each for each in lines)
            with pytest.raises(InvalidRequest, match=r"no function/handler\.py"):
                await engine.put_function(
                    Function(name="g", source=Source.FOLDER, location=str(tmp_path / "data"))
                )
            await engine.delete_function("f")
            with pytest.raises(Missing):
                await engine.submit(Submission(function="f"))

    run(main)


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/",
        "http://[fe80::1]/",
        "http://0xa9fea9fe/",
        "http://2852039166/latest",
        "http://[::ffff:169.254.169.254]/",
        "ftp://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
        "http:///",
        "nonsense",
        "http://127.0.0.1:99999/",
    ],
)
def test_urls_that_are_refused(tmp_path: Path, location: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            with pytest.raises(InvalidRequest) as refused:
                await register(engine, "f", location)
            assert "secret" not in str(refused.value)
            with pytest.raises(InvalidRequest):
                await register(engine, "f", engine.options.advertise_url)

    run(main)


def test_a_data_folder_is_for_one_engine(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as engine:
            with pytest.raises(UsageError, match="another engine, process"):
                await Engine.open(engine.options)

    run(main)
