"""The function as a FastAPI application, without a server around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import PlainTextResponse
from starlette.middleware.base import BaseHTTPMiddleware

import fnship
from fnship import contract
from fnship.errors import HandlerError
from fnship.server.fastapi import FunctionAPI, create_app
from fnship.settings import Settings

QUIET = Settings(capture_stdout=False)
Client = httpx.AsyncClient


def use(
    application: FastAPI, work: Callable[[Client], Awaitable[None]], *, lifespan: bool = True
) -> None:
    """Let `work` call an application that has started; and stop it."""

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if lifespan:
                await stack.enter_async_context(application.router.lifespan_context(application))
            transport = httpx.ASGITransport(application, raise_app_exceptions=False)
            client = Client(transport=transport, base_url="http://test")
            await work(await stack.enter_async_context(client))

    asyncio.run(asyncio.wait_for(run(), 60))


def echo(logger: Any, request: Any) -> Any:
    """Say it again.

    Whatever it was.
    """
    return request


async def echo_async(logger: Any, request: Any) -> Any:
    return request


# The function's own paths


@pytest.mark.parametrize("handler", [echo, echo_async])
def test_an_invocation(handler: Any) -> None:
    async def work(client: Client) -> None:
        answer = await client.post("/", content=b'{"a": 1}', headers={"X-Project-ID": "p1"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["a"] == 1
        assert answer.json()["metadata"]["projectID"] == "p1"
        engine = {contract.ENGINE_ENDPOINT: "http://127.0.0.1:1"}
        assert list((await client.post("/", headers=engine)).json()) == ["data"]

    use(create_app(handler, QUIET), work)


def test_refusals_are_the_contract_s() -> None:
    async def work(client: Client) -> None:
        for method, path, body, status, message in (
            ("POST", "/", b"{", 400, "the request body is not JSON: "),
            ("POST", "/", b"[]", 400, "the request body must be a JSON object"),
            ("POST", "/", b"x" * 11, 413, "the request body is larger than MAX_BODY_SIZE"),
            ("POST", "/", b"x" * 500, 413, "the request body is larger than MAX_BODY_SIZE"),
            ("GET", "/", b"", 405, "GET is not for /; use POST"),
            ("OPTIONS", "/", b"", 405, "OPTIONS is not for /; use POST"),
            ("POST", "/_/ready", b"", 405, "POST is not for /_/ready; use GET"),
            ("PUT", "/_/health", b"", 405, "PUT is not for /_/health; use GET"),
            ("GET", "/nowhere", b"", 404, "there is nothing at /nowhere; invoke with POST /"),
            ("GET", "/_/ready/", b"", 404, "there is nothing at /_/ready/; invoke with POST /"),
        ):
            answer = await client.request(method, path, content=body)
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["error_code"] == 2
            assert answer.json()["message"].startswith(message)
        assert (await client.delete("/")).headers["allow"] == "POST"

    use(create_app(echo, Settings(capture_stdout=False, max_body_size=10)), work)


def test_probes() -> None:
    async def work(client: Client) -> None:
        assert (await client.get("/_/ready")).json() == {"status": "ready"}
        assert (await client.get("/_/health")).json() == {"status": "healthy"}
        head = await client.head("/_/ready")
        assert (head.status_code, head.content) == (200, b"")

    use(create_app(echo, QUIET), work)


def test_it_takes_a_name_and_settings_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAX_WORKERS", "3")
    application = create_app("json:dump")
    assert application.function.settings.max_workers == 3
    assert application.title == "json:dump"
    with pytest.raises(HandlerError, match="no 'nothing' in module json"):
        create_app("json:nothing")


@pytest.mark.parametrize("is_async", [False, True])
def test_each_handler_sees_its_own_context(is_async: bool) -> None:
    user: ContextVar[str] = ContextVar("user")

    def plain(logger: Any, request: Any) -> Any:
        return {"user": user.get(), "activity": fnship.current().activity_id}

    async def handle(logger: Any, request: Any) -> Any:
        await asyncio.sleep(0)
        return plain(logger, request)

    async def who(x_user: Annotated[str, Header()]) -> None:
        user.set(x_user)

    async def work(client: Client) -> None:
        async def call(number: int) -> None:
            headers = {"X-User": f"u{number}", "X-Activity-ID": f"a{number}"}
            answer = await client.post("/", headers=headers)
            assert answer.json() == {"user": f"u{number}", "activity": f"a{number}"}

        await asyncio.gather(*map(call, range(50)))

    use(create_app(handle if is_async else plain, QUIET, dependencies=[Depends(who)]), work)


@pytest.mark.parametrize("deaf", ["plain", "async"])
def test_a_deadline_is_answered_whatever_the_handler_does(deaf: str) -> None:
    started = threading.Event()
    gate = threading.Event()
    ended = threading.Event()

    def plain(logger: Any, request: Any) -> None:
        started.set()
        gate.wait(30)
        ended.set()

    async def stubborn(logger: Any, request: Any) -> None:
        started.set()
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        ended.set()

    async def work(client: Client) -> None:
        answer = await client.post("/", headers={"X-Timeout": "20ms"})
        assert answer.status_code == 504
        assert answer.json()["error_code"] == 3
        assert not ended.is_set()
        gate.set()
        assert not started.is_set() or await asyncio.to_thread(ended.wait, 30)

    use(create_app(plain if deaf == "plain" else stubborn, QUIET), work)


# What is the user's own


def test_routes_of_ones_own() -> None:
    application = create_app(echo, QUIET)

    @application.get("/version")
    async def version() -> dict[str, str]:
        return {"version": "1"}

    @application.get("/", response_class=PlainTextResponse)
    def page() -> str:
        return "hello"

    @application.get("/users/{number}")
    async def user(number: int) -> None:
        raise HTTPException(404, {"no": number})

    @application.get("/broken")
    async def broken() -> None:
        raise LookupError("secret")

    async def work(client: Client) -> None:
        assert (await client.get("/version")).json() == {"version": "1"}
        assert (await client.get("/")).text == "hello"
        assert (await client.post("/", content=b"{}")).status_code == 200
        # Their errors are FastAPI's
        assert (await client.get("/users/7")).json() == {"detail": {"no": 7}}
        assert (await client.get("/users/x")).json()["detail"][0]["loc"] == ["path", "number"]
        assert (await client.post("/version")).json() == {"detail": "Method Not Allowed"}
        failed = await client.get("/broken")
        assert failed.status_code == 500
        assert failed.json() == {"error_code": 2, "message": "LookupError: the log says more"}

    use(application, work)


def test_dependencies_hold_for_the_function_and_not_for_the_probes() -> None:
    calls: list[Any] = []

    async def check(x_key: Annotated[str, Header(min_length=2)]) -> None:
        if x_key == "unknown":
            raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Key"})
        if x_key == "hidden":
            raise HTTPException(404)
        if x_key == "busy":
            raise HTTPException(429, "slower")
        if x_key == "broken":
            raise LookupError("secret")

    async def work(client: Client) -> None:
        assert (await client.get("/_/ready")).status_code == 200
        assert (await client.get("/_/health")).status_code == 200
        for key, status, code, message in (
            ("unknown", 401, 2, "who are you?"),
            ("hidden", 404, 2, "Not Found"),
            ("busy", 429, 3, "slower"),
            ("broken", 500, 2, "LookupError: the log says more"),
            ("x", 422, 2, "header.x-key: String should have at least 2 characters"),
        ):
            answer = await client.post("/", content=b"{}", headers={"X-Key": key})
            assert answer.status_code == status
            assert answer.json() == {"error_code": code, "message": message}
            assert ("www-authenticate" in answer.headers) is (key == "unknown")
        assert not calls
        assert (await client.post("/", headers={"X-Key": "good"})).status_code == 200
        assert len(calls) == 1

    def handle(logger: Any, request: Any) -> None:
        calls.append(request)

    use(create_app(handle, QUIET, dependencies=[Depends(check)]), work)


def test_a_dependency_may_read_the_body_and_keep_something_open() -> None:
    notes: list[str] = []

    async def signed(request: Request) -> AsyncGenerator[None, None]:
        notes.append((await request.body()).decode())
        yield
        notes.append("closed")

    def handle(logger: Any, request: Any) -> Any:
        notes.append("handled")
        return {"a": request["a"]}

    async def work(client: Client) -> None:
        assert (await client.post("/", content=b'{"a": 1}')).json() == {"a": 1}
        assert notes == ['{"a": 1}', "handled", "closed"]

    use(create_app(handle, QUIET, dependencies=[Depends(signed)]), work)


def test_middleware_of_ones_own() -> None:
    application = create_app(echo, QUIET)

    async def stamp(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-stamp"] = "1"
        return response

    application.add_middleware(BaseHTTPMiddleware, dispatch=stamp)

    async def work(client: Client) -> None:
        answer = await client.post("/", content=b'{"a": 1}')
        assert (answer.json()["a"], answer.headers["x-stamp"]) == (1, "1")
        assert (await client.get("/nowhere")).headers["x-stamp"] == "1"

    use(application, work)


def test_exception_handlers_of_ones_own_come_first() -> None:
    async def nothing(request: Request, exc: Any) -> PlainTextResponse:
        return PlainTextResponse("nothing", 404)

    async def work(client: Client) -> None:
        assert (await client.get("/nowhere")).text == "nothing"

    use(create_app(echo, QUIET, exception_handlers={HTTPException: nothing, 404: nothing}), work)


def test_a_lifespan_of_ones_own_goes_around_the_function_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "start", lambda: notes.append("start"), raising=False)
    monkeypatch.setattr(module, "stop", lambda: notes.append("stop"), raising=False)

    @contextlib.asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncGenerator[dict[str, str], None]:
        notes.append("begin")
        yield {"key": "value"}
        notes.append("end")

    async def work(client: Client) -> None:
        notes.append((await client.get("/_/ready")).json()["status"])

    use(create_app(echo, QUIET, lifespan=lifespan), work)
    assert notes == ["begin", "start", "ready", "stop", "end"]


def test_as_part_of_another_application() -> None:
    """Whose lifespan does not start the function: the first request does."""
    part = create_app(echo, QUIET)
    whole = FastAPI()
    whole.mount("/function", part)

    async def work(client: Client) -> None:
        answer = await client.post("/function/", content=b'{"a": 1}')
        assert answer.json()["a"] == 1
        assert (await client.get("/function/_/ready")).json() == {"status": "ready"}
        nothing = await client.get("/function/nowhere")
        assert nothing.json()["message"] == "there is nothing at /nowhere; invoke with POST /"
        wrong = await client.get("/function/")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        await part.function.shutdown()

    use(whole, work)


def test_a_client_that_leaves_in_the_middle_of_its_request() -> None:
    calls: list[Any] = []
    sent: list[Any] = []

    async def run() -> None:
        messages = [
            {"type": "http.request", "body": b'{"a"', "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        application = create_app(lambda logger, request: calls.append(request), QUIET)
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": [],
            "http_version": "1.1",
        }
        async with application.router.lifespan_context(application):
            await application(scope, receive, send)

    asyncio.run(run())
    assert not calls
    assert not any(b"{" in message.get("body", b"") for message in sent)


# The OpenAPI page


def test_the_function_is_documented() -> None:
    application = create_app(echo, Settings(function_name="echo"), version="7")

    @application.get("/version")
    async def version() -> dict[str, str]:
        return {"version": "7"}

    async def work(client: Client) -> None:
        schema = (await client.get("/openapi.json")).json()
        assert schema["info"] == {"title": "echo", "version": "7"}
        assert set(schema["paths"]) == {"/", "/version"}
        operation = schema["paths"]["/"]["post"]
        assert operation["operationId"] == "invoke"
        assert operation["description"] == "Say it again.\n\nWhatever it was."
        assert set(operation["responses"]) == {"200", "400", "413", "500", "503", "504"}
        for status, answer in operation["responses"].items():
            described = answer["content"]["application/json"]["schema"]
            expected = {"$ref": "#/components/schemas/Error"}
            assert described == ({"type": "object"} if status == "200" else expected)
        error = schema["components"]["schemas"]["Error"]
        assert set(error["properties"]) == {"error_code", "message", "data", "stack_trace"}
        assert error["required"] == ["error_code", "message"]
        named = {each["name"] for each in operation["parameters"]}
        assert named == {contract.TIMEOUT, *contract.METADATA_KEYS}
        assert operation["requestBody"]["content"]["application/json"]["schema"]
        page = await client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")

    use(application, work)


def test_what_is_documented_is_what_is_answered() -> None:
    from fnship.server.fastapi import Error

    def fails(logger: Any, request: Any) -> None:
        if request:
            raise fnship.ExecuteAgain("later", retry_after=5)
        raise LookupError("gone")

    async def work(client: Client) -> None:
        for body in (b"{", b"{}"):
            answer = await client.post("/", content=body)
            error = Error.model_validate_json(answer.content, strict=True, extra="forbid")
            assert json.loads(error.model_dump_json(exclude_unset=True)) == answer.json()

    use(create_app(fails, QUIET), work)


def test_a_handler_without_a_docstring() -> None:
    class Handler:
        """Not a word about the function."""

        def __call__(self, logger: Any, request: Any) -> None: ...

    assert isinstance(create_app(Handler(), QUIET), FunctionAPI)
    schema = create_app(Handler(), QUIET).openapi()
    assert "Not a word" not in json.dumps(schema)
