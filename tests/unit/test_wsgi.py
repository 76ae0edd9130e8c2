"""The function as a Flask application, without a server around it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import pytest
from werkzeug.exceptions import HTTPException

import fnship
from fnship.errors import HandlerError
from fnship.server.asgi import ASGIFunction
from fnship.server.exchange import Exchange
from fnship.server.threads import BackgroundFunction
from fnship.server.wsgi import FunctionFlask, create_app
from fnship.settings import Settings

QUIET = Settings(capture_stdout=False)


@pytest.fixture
def make() -> Iterator[Callable[..., FunctionFlask]]:
    """Make applications that are stopped in the end."""
    made: list[FunctionFlask] = []

    def make(handler: Any, settings: Settings = QUIET, **options: Any) -> FunctionFlask:
        made.append(create_app(handler, settings, **options))
        return made[-1]

    before = set(threading.enumerate())
    yield make
    for each in made:
        each.background.close()
    limit = time.monotonic() + 30
    while set(threading.enumerate()) - before:
        assert time.monotonic() < limit, set(threading.enumerate()) - before
        time.sleep(0.01)


def echo(logger: Any, request: Any) -> Any:
    return request


async def echo_async(logger: Any, request: Any) -> Any:
    return request


# The function's own paths


@pytest.mark.parametrize("handler", [echo, echo_async])
def test_an_invocation(make: Callable[..., FunctionFlask], handler: Any) -> None:
    client = make(handler).test_client()
    answer = client.post("/", data=b'{"a": 1}', headers={"X-Project-ID": "p1"})
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert answer.json is not None
    assert answer.json["a"] == 1
    assert answer.json["metadata"]["projectID"] == "p1"
    assert answer.json["metadata"]["activityID"] is None
    assert client.post("/").json == {"metadata": dict.fromkeys(answer.json["metadata"])}


def test_refusals_are_the_contract_s(make: Callable[..., FunctionFlask]) -> None:
    client = make(echo, Settings(capture_stdout=False, max_body_size=10)).test_client()
    for answer, status, message in (
        (client.post("/", data=b"{"), 400, "the request body is not JSON: "),
        (client.post("/", data=b"[]"), 400, "the request body must be a JSON object"),
        (client.post("/", data=b"x" * 11), 413, "the request body is larger than MAX_BODY_SIZE"),
        (client.post("/", data=b"x" * 500), 413, "the request body is larger than MAX_BODY_SIZE"),
        (client.get("/"), 405, "GET is not for /; use POST"),
        (client.options("/"), 405, "OPTIONS is not for /; use POST"),
        (client.post("/_/ready"), 405, "POST is not for /_/ready; use GET"),
        (client.get("/nowhere"), 404, "there is nothing at /nowhere; invoke with POST /"),
        (client.get("/_//ready"), 404, "there is nothing at /_//ready; invoke with POST /"),
    ):
        assert answer.status_code == status
        assert answer.content_type == "application/json"
        assert answer.json is not None
        assert answer.json["error_code"] == 2
        assert answer.json["message"].startswith(message)
    assert client.delete("/").headers["Allow"] == "POST"


def test_probes(make: Callable[..., FunctionFlask]) -> None:
    client = make(echo).test_client()
    assert client.get("/_/ready").json == {"status": "ready"}
    assert client.get("/_/health").json == {"status": "healthy"}
    head = client.head("/_/ready")
    assert (head.status_code, head.data) == (200, b"")


def test_a_body_of_unknown_length(make: Callable[..., FunctionFlask]) -> None:
    """As servers hand over a chunked one."""
    answer = (
        make(echo)
        .test_client()
        .post(
            "/",
            input_stream=io.BytesIO(b'{"a": 1}'),
            environ_overrides={"wsgi.input_terminated": True},
        )
    )
    assert answer.json is not None
    assert answer.json["a"] == 1


def test_a_body_that_a_hook_has_read(make: Callable[..., FunctionFlask]) -> None:
    application = make(echo)
    seen = []

    @application.before_request
    def look() -> None:
        seen.append(flask.request.get_json(force=True))

    answer = application.test_client().post("/", data=b'{"a": 1}')
    assert answer.json is not None
    assert (answer.json["a"], seen) == (1, [{"a": 1}])


def test_it_takes_a_name_and_settings_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAX_WORKERS", "3")
    application = create_app("json:dump")
    assert application.function.settings.max_workers == 3
    assert application.function.name == "json:dump"
    with pytest.raises(HandlerError, match="no 'nothing' in module json"):
        create_app("json:nothing")


# What is the user's own


def test_routes_and_hooks_of_ones_own(make: Callable[..., FunctionFlask]) -> None:
    application = make(echo)

    @application.get("/version")
    def version() -> dict[str, str]:
        return {"version": "1"}

    @application.get("/")
    def page() -> str:
        return "<p>hello</p>"

    @application.before_request
    def check() -> None:
        if "X-Denied" in flask.request.headers:
            flask.abort(401, "who are you?")
        if "X-Slower" in flask.request.headers:
            flask.abort(429)

    client = application.test_client()
    assert client.get("/version").json == {"version": "1"}
    assert client.get("/").text == "<p>hello</p>"
    assert client.post("/", data=b"{}").status_code == 200
    denied = client.post("/", data=b"{}", headers={"X-Denied": "1"})
    assert denied.status_code == 401
    assert denied.json == {"error_code": 2, "message": "who are you?"}
    slower = client.post("/", data=b"{}", headers={"X-Slower": "1"})
    assert slower.status_code == 429
    assert slower.json is not None
    assert slower.json["error_code"] == 3


def test_errors_of_routes_of_ones_own_are_json_too(
    make: Callable[..., FunctionFlask], caplog: pytest.LogCaptureFixture
) -> None:
    application = make(echo)

    @application.get("/missing")
    def missing() -> str:
        flask.abort(404, "no such user")

    @application.get("/broken")
    def broken() -> str:
        raise LookupError("secret")

    client = application.test_client()
    assert client.get("/missing").json == {"error_code": 2, "message": "no such user"}
    wrong = client.post("/missing")
    assert wrong.status_code == 405
    assert set(wrong.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert wrong.json is not None
    assert wrong.json["error_code"] == 2
    failed = client.get("/broken")
    assert failed.status_code == 500
    assert failed.content_type == "application/json"
    assert b"secret" not in failed.data
    assert "LookupError: secret" in caplog.text


def test_a_hook_that_says_404_does_not_invoke(make: Callable[..., FunctionFlask]) -> None:
    calls: list[Any] = []
    application = make(lambda logger, request: calls.append(request))

    @application.before_request
    def hide() -> None:
        flask.abort(404, "hidden")

    answer = application.test_client().post("/", data=b"{}")
    assert (answer.status_code, answer.json) == (404, {"error_code": 2, "message": "hidden"})
    assert not calls


def test_an_error_handler_of_ones_own_comes_first(make: Callable[..., FunctionFlask]) -> None:
    application = make(echo)

    @application.errorhandler(404)
    def nothing(error: HTTPException) -> tuple[str, int]:
        return "nothing", 404

    assert application.test_client().get("/nowhere").text == "nothing"


@pytest.mark.parametrize("is_async", [False, True])
def test_the_handler_sees_the_request_s_context(
    make: Callable[..., FunctionFlask], is_async: bool
) -> None:
    def plain(logger: Any, request: Any) -> Any:
        return {
            "path": flask.request.full_path,
            "user": flask.g.user,
            "activity": fnship.current().activity_id,
            "thread": threading.current_thread().name,
        }

    async def handle(logger: Any, request: Any) -> Any:
        await asyncio.sleep(0)
        return plain(logger, request)

    application = make(handle if is_async else plain)

    @application.before_request
    def remember() -> None:
        flask.g.user = flask.request.headers["X-User"]

    def call(number: int) -> Any:
        headers = {"X-User": f"u{number}", "X-Activity-ID": f"a{number}"}
        return application.test_client().post(f"/?n={number}", data=b"{}", headers=headers).json

    with ThreadPoolExecutor(8, "request") as threads:
        answers = list(threads.map(call, range(50)))
    for number, answer in enumerate(answers):
        thread = answer.pop("thread")
        assert thread == "fnship-loop" if is_async else thread.startswith("fnship-")
        expected = {"path": f"/?n={number}", "user": f"u{number}", "activity": f"a{number}"}
        assert answer == expected


def test_lines_belong_to_their_invocation(
    make: Callable[..., FunctionFlask], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def handle(logger: Any, request: Any) -> Any:
        logger.info("from the logger")
        logging.getLogger("some.library").warning("from a library")
        print("printed")

    application = make(handle, Settings(log_format="json"))
    application.test_client().post("/", data=b"{}", headers={"X-Activity-ID": "a1"})
    application.background.close()
    lines = [json.loads(each) for each in capfdbinary.readouterr().out.splitlines()]
    ours = [each for each in lines if each["activity_id"] == "a1"]
    messages = [each.get("message", each.get("msg")) for each in ours]
    assert messages == ["from the logger", "from a library", "printed"]


# The function in the background


def background(handler: Any, **settings: Any) -> BackgroundFunction:
    from fnship.function.handler import inspect_handler

    settings = {"capture_stdout": False, **settings}
    return BackgroundFunction(ASGIFunction(inspect_handler(handler), Settings(**settings), {}))


def post(**headers: str) -> Exchange:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Exchange("POST", "/", raw, b"{}")


def test_it_can_be_stopped_and_started_again() -> None:
    function = background(echo)
    assert function.close() is True  # nothing to do
    for _ in range(2):
        assert function.respond(post()).status == 200
        assert function.close() is True
    assert function.function.app is None


def test_the_first_of_many_requests_starts_it_once() -> None:
    module = sys.modules[__name__]
    starts: list[int] = []

    async def start() -> None:
        starts.append(1)
        await asyncio.sleep(0.05)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "start", start, raising=False)
        function = background(echo)
    try:
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: function.respond(post()).status, range(8)))
        assert answers == [200] * 8
        assert starts == [1]
    finally:
        function.close()


@pytest.mark.parametrize("error", [LookupError("no database"), SystemExit(3)])
def test_a_start_that_fails_is_answered(error: BaseException) -> None:
    module = sys.modules[__name__]

    def start() -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "start", start, raising=False)
        function = background(echo)
    try:
        for _ in range(2):
            answer = function.respond(post())
            assert answer.status == 500
            assert b"start() failed with " in answer.body
            ready = function.respond(Exchange("GET", "/_/ready", [], b""))
            assert ready.status == 503
    finally:
        function.close()


def test_our_server_is_told_how_the_start_went() -> None:
    told: list[str] = []
    function = background(echo)
    function.open(started=lambda: told.append("started"), failed=told.append)
    function.wait()
    assert told == ["started"]
    assert function.respond(post()).status == 200
    assert function.close()


@pytest.mark.parametrize("deaf", ["plain", "async"])
def test_a_deadline_is_answered_whatever_the_handler_does(deaf: str) -> None:
    gate = threading.Event()

    def plain(logger: Any, request: Any) -> None:
        gate.wait(30)

    async def stubborn(logger: Any, request: Any) -> None:
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    function = background(plain if deaf == "plain" else stubborn)
    try:
        answer = function.respond(post(x_timeout="20ms"))
        assert answer.status == 504
        assert not gate.is_set()
        gate.set()
        assert function.respond(post()).status == 200
    finally:
        gate.set()
        function.close()


def test_what_is_given_up_is_answered() -> None:
    running = threading.Event()
    gate = threading.Event()

    def plain(logger: Any, request: Any) -> None:
        running.set()
        gate.wait(30)

    function = background(plain)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(function.respond, post())
        running.wait(30)
        function.give_up()
        answer = call.result(30)
    assert answer.status == 503
    assert b"the server is shutting down" in answer.body
    gate.set()
    assert function.close()


def test_a_task_that_exits_takes_nobody_with_it() -> None:
    async def leave() -> None:
        sys.exit(3)

    async def handle(logger: Any, request: Any) -> Any:
        task = asyncio.create_task(leave())
        await asyncio.wait((task,))
        return {"raised": type(task.exception()).__name__}

    function = background(handle)
    try:
        for _ in range(3):
            answer = function.respond(post())
            assert json.loads(answer.body) == {"raised": "SystemExit"}
    finally:
        assert function.close()


def test_a_task_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fnship.server.threads.LAST_GRACE", 0.1)
    over = threading.Event()

    async def stubborn() -> None:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    tasks = []

    async def handle(logger: Any, request: Any) -> Any:
        tasks.append(asyncio.create_task(stubborn()))

    function = background(handle)
    assert function.respond(post()).status == 200
    loop = function.loop
    assert function.close() is False
    # Not to leave it to the next test: let it end after all.
    over.set()
    loop.run_until_complete(asyncio.wait({*tasks, *asyncio.all_tasks(loop)}))
    loop.close()
