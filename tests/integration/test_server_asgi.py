"""The ASGI application by itself, as a server of one's own would call it."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from server_process import until

import fnship
from fnship.function.handler import inspect_handler
from fnship.server.asgi import ASGIFunction, create_app
from fnship.settings import Settings


class Client:
    """Plays the server's side of one request."""

    def __init__(self, application: ASGIFunction) -> None:
        self.application = application

    async def ask(
        self,
        *messages: dict[str, Any],
        method: str = "POST",
        path: str = "/",
        headers: dict[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
        }
        left = list(messages)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not left:
                await asyncio.Event().wait()
            return left.pop(0)

        async def send(message: Any) -> None:
            sent.append(dict(message))

        async with asyncio.timeout(30):
            await self.application(scope, receive, send)
        return sent

    async def post(self, body: bytes = b"{}", **headers: str) -> tuple[int, Any]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        start, content = await self.ask({"type": "http.request", "body": body}, headers=names)
        assert start["type"] == "http.response.start"
        assert content["type"] == "http.response.body"
        found = dict(start["headers"])
        assert found[b"content-type"] == b"application/json"
        assert found[b"content-length"] == str(len(content["body"])).encode()
        return start["status"], json.loads(content["body"])


def with_client(
    scenario: Callable[[Client], Awaitable[None]], handler: Callable[..., Any], **settings: Any
) -> None:
    async def run() -> None:
        function = ASGIFunction(inspect_handler(handler), Settings(**settings), environ={})
        try:
            await scenario(Client(function))
        finally:
            await function.shutdown()

    asyncio.run(run())


async def echo(logger: Any, request: dict[str, Any]) -> Any:
    return {key: value for key, value in request.items() if key != "metadata"}


def test_without_a_lifespan_the_first_request_starts_it() -> None:
    async def scenario(client: Client) -> None:
        assert client.application.app is None
        assert await client.post(b'{"a": 1}') == (200, {"a": 1})
        assert client.application.app is not None

    with_client(scenario, echo)


def test_first_requests_at_once() -> None:
    async def scenario(client: Client) -> None:
        for status, answer in await asyncio.gather(*(client.post(b'{"a": 1}') for _ in range(5))):
            assert (status, answer) == (200, {"a": 1})

    with_client(scenario, echo)


def test_a_body_in_pieces() -> None:
    async def scenario(client: Client) -> None:
        _, content = await client.ask(
            {"type": "http.request", "body": b'{"a"', "more_body": True},
            {"type": "http.request", "body": b"", "more_body": True},
            {"type": "http.request", "body": b": 1}", "more_body": False},
        )
        assert json.loads(content["body"]) == {"a": 1}

    with_client(scenario, echo)


@pytest.mark.parametrize("came", [[], [b""], [b'{"a": 1}'], [b'{"a"', b":"]])
def test_a_client_that_leaves_before_its_request_is_whole(came: list[bytes]) -> None:
    """What has arrived by then is no request, even where it looks like one."""
    ran: list[Any] = []

    async def handle(logger: Any, request: Any) -> Any:
        ran.append(request)

    async def scenario(client: Client) -> None:
        pieces = [{"type": "http.request", "body": each, "more_body": True} for each in came]
        await client.ask(*pieces, {"type": "http.disconnect"})

    with_client(scenario, handle)
    assert ran == []


def test_a_body_that_is_too_large() -> None:
    async def scenario(client: Client) -> None:
        piece = {"type": "http.request", "body": b"x" * 60, "more_body": True}
        start, content = await client.ask(piece, piece, {"type": "http.request", "body": b"x"})
        assert start["status"] == 413
        assert json.loads(content["body"])["error_code"] == 2
        # Without end it is cut off.
        start, _ = await client.ask(*[piece] * 50)
        assert start["status"] == 413

    with_client(scenario, echo, max_body_size=100)


def test_a_handler_that_does_not_end_is_answered_in_time() -> None:
    end = asyncio.Event()
    ended: list[str] = []

    async def handle(logger: Any, request: Any) -> Any:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue
        ended.append("ended")
        return {"too": "late"}

    async def scenario(client: Client) -> None:
        sent: list[dict[str, Any]] = []
        answered = asyncio.Event()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"{}"}

        async def send(message: Any) -> None:
            sent.append(dict(message))
            if message["type"] == "http.response.body":
                answered.set()

        headers = [(b"x-timeout", b"20ms")]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        async with asyncio.timeout(30):
            call = asyncio.create_task(client.application(scope, receive, send))
            await answered.wait()
            assert sent[0]["status"] == 504
            assert not ended
            end.set()
            await call
        assert ended == ["ended"]
        assert len(sent) == 2  # what it returned in the end is dropped

    with_client(scenario, handle)


class Bare(fnship.Failed):
    def __init__(self, reason: str) -> None:
        self.reason = reason


class Broken(fnship.Failed):
    @property
    def data(self) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "error", [Bare("x"), Broken("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]
)
@pytest.mark.parametrize("is_async", [True, False])
def test_nothing_that_a_handler_raises_reaches_the_server(
    error: BaseException, is_async: bool
) -> None:
    async def handle(logger: Any, request: Any) -> Any:
        raise error

    def plain(logger: Any, request: Any) -> Any:
        raise error

    async def scenario(client: Client) -> None:
        status, answer = await client.post()
        assert (status, answer["error_code"]) == (500, 2)
        status, answer = await client.post(x_timeout="1h")
        assert (status, answer["error_code"]) == (500, 2)

    with_client(scenario, handle if is_async else plain)


def test_what_a_result_raises_while_it_is_written_does_not_either() -> None:
    async def handle(logger: Any, request: Any) -> Any:
        return {"a": (1 // 0 for _ in range(1))}

    async def scenario(client: Client) -> None:
        status, answer = await client.post()
        assert (status, answer["error_code"]) == (500, 2)
        assert 'result["a"]' in answer["message"]

    with_client(scenario, handle)


# Handlers of every shape


def plain(logger: Any, request: dict[str, Any]) -> Any:
    return {"id": fnship.current().activity_id, "a": request["a"]}


async def asynchronous(logger: Any, request: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    return plain(logger, request)


class CallableObject:
    def __call__(self, logger: Any, request: Any) -> Any:
        return plain(logger, request)

    async def method(self, logger: Any, request: Any) -> Any:
        return await asynchronous(logger, request)


class AsyncCallable:
    async def __call__(self, logger: Any, request: Any) -> Any:
        return await asynchronous(logger, request)


def with_extra(extra: str, logger: Any, request: Any) -> Any:
    return plain(logger, request)


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class AwaitableObject:
    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return {"id": fnship.current().activity_id, "a": 1}


@pytest.mark.parametrize(
    "handler",
    [
        plain,
        asynchronous,
        CallableObject(),
        CallableObject().method,
        AsyncCallable(),
        functools.partial(with_extra, "extra"),
        functools.partial(AsyncCallable()),
        decorated(plain),
        decorated(asynchronous),
        decorated(decorated(asynchronous)),
        lambda logger, request: asynchronous(logger, request),
        lambda logger, request: AwaitableObject(),
    ],
    ids=range(12),
)
def test_handlers_of_every_shape(handler: Callable[..., Any]) -> None:
    async def scenario(client: Client) -> None:
        answer = {"id": "a1", "a": 1}
        assert await client.post(b'{"a": 1}', x_activity_id="a1") == (200, answer)
        limited = await client.post(b'{"a": 1}', x_activity_id="a1", x_timeout="1h")
        assert limited == (200, answer)

    with_client(scenario, handler)


# The lifespan


async def lifespan(application: ASGIFunction, *types: str) -> list[dict[str, Any]]:
    left = [{"type": f"lifespan.{each}"} for each in types]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async with asyncio.timeout(30):
        await application({"type": "lifespan"}, receive, send)
    return sent


def with_lifecycle(**functions: Callable[..., Any]) -> ASGIFunction:
    handler = inspect_handler(echo)
    handler.lifecycle.update(functions)
    return ASGIFunction(handler, Settings(), environ={})


def test_the_lifespan_starts_and_stops_it() -> None:
    happened: list[str] = []
    application = with_lifecycle(
        start=lambda: happened.append("start"), stop=lambda: happened.append("stop")
    )
    sent = asyncio.run(lifespan(application, "startup", "shutdown"))
    assert [each["type"] for each in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert happened == ["start", "stop"]
    assert application.app is None


def test_a_start_that_fails_is_told() -> None:
    def start() -> None:
        raise LookupError("no database")

    stdout = sys.stdout
    (sent,) = asyncio.run(lifespan(with_lifecycle(start=start), "startup"))
    assert sent == {
        "type": "lifespan.startup.failed",
        "message": "start() failed: LookupError: no database",
    }
    assert sys.stdout is stdout
    until(
        lambda: not any(each.name.startswith("fnship") for each in threading.enumerate()),
        "the end of the threads",
    )


def test_a_start_that_fails_without_a_lifespan_is_answered() -> None:
    def start() -> None:
        raise LookupError("no database")

    async def run() -> None:
        client = Client(with_lifecycle(start=start))
        try:
            for _ in range(2):
                status, answer = await client.post()
                assert status in (500, 503)
                assert answer["error_code"] in (2, 3)
                assert "start() failed" in answer["message"]
                assert "LookupError: no database" in answer["message"]
        finally:
            await client.application.shutdown()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["websocket", "webtransport"])
def test_other_protocols(kind: str) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(ValueError, match=f"no use for ASGI's '{kind}'"):
            await client.application({"type": kind}, None, None)  # type: ignore[arg-type] # unused

    with_client(scenario, echo)


def test_create_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_BODY_SIZE", "7")
    assert create_app(echo).settings.max_body_size == 7
    assert create_app(echo, Settings(max_body_size=8)).settings.max_body_size == 8
    monkeypatch.setenv("MAX_BODY_SIZE", "seven")
    with pytest.raises(fnship.errors.SettingError):
        create_app(echo)
