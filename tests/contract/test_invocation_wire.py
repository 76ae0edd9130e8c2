"""Invocation as the contract has it, over every front: our server, alone and with several
processes, and the ASGI application under a server that is not ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import Reply, ServerProcess, serving

from fnship import contract
from fnship.function.handler import inspect_handler
from fnship.server.asgi import ASGIFunction, create_app
from fnship.server.exchange import Exchange
from fnship.settings import Settings

HANDLER = '''
import asyncio, collections, dataclasses, datetime, decimal, enum, math, sys, uuid
import fnship
from . import deeper


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: set


class Ends(BaseException):
    pass


class Bare(fnship.Failed):
    """As one finds them: an error of one's own that forgets its base."""

    def __init__(self, reason):
        self.reason = reason


class Unknown:
    pass


def circular():
    value = {"a": []}
    value["a"].append(value)
    return value


def nested(levels):
    value = None
    for _ in range(levels):
        value = [value]
    return value


def fails_half_way():
    yield 1
    raise LookupError("half way")


def throw(error):
    raise error


DO = {
    "again": lambda: throw(fnship.ExecuteAgain("later", retry_after=5, cursor={"at": [1]})),
    "again, bare": lambda: throw(fnship.ExecuteAgain()),
    "failed": lambda: throw(fnship.Failed("no good")),
    "transient": lambda: throw(fnship.Transient("try again")),
    "not found": lambda: throw(fnship.NotFound("no such thing")),
    "conflict": lambda: throw(fnship.Conflict("somebody was first")),
    "code": lambda: throw(fnship.FunctionError("plain", error_code=3)),
    "no code": lambda: throw(fnship.FunctionError("plain", error_code=0)),
    "bare": lambda: throw(Bare("why")),
    "surrogate error": lambda: throw(fnship.Transient("no file \\udc80")),
    "value error": lambda: throw(ValueError("é is wrong")),
    "empty error": lambda: throw(KeyError()),
    "deeper": lambda: deeper.down(3),
    "exit": lambda: sys.exit(3),
    "exit, bare": lambda: sys.exit(),
    "interrupt": lambda: throw(KeyboardInterrupt()),
    "stop": lambda: throw(StopIteration("over")),
    "generator exit": lambda: throw(GeneratorExit("over")),
    "cancelled": lambda: throw(asyncio.CancelledError()),
    "base": lambda: throw(Ends("all")),
    "recursion": lambda: deeper.for_ever(),
    "error data": lambda: throw(fnship.ExecuteAgain("m", bad=[{"x": math.nan}])),
    "set": lambda: {"set": {1}, "frozen": frozenset("a"), "nested": [{"s": {2}}]},
    "types": lambda: {
        "datetime": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        "uuid": uuid.UUID(int=1),
        "decimal": decimal.Decimal("1.10"),
        "enum": Colour.RED,
        "dataclass": Point(1, {2}),
        "deque": collections.deque([1]),
    },
    "nan": lambda: {"a": [0, {"b": math.nan}]},
    "infinity": lambda: {"a": -math.inf},
    "bytes": lambda: {"a": b"x"},
    "surrogate": lambda: {"a": ["\\ud800"]},
    "unknown": lambda: {"a": {"b c": Unknown()}},
    "circular": circular,
    "nested": lambda: nested(50_000),
    "half way": lambda: {"a": fails_half_way()},
    "key": lambda: {"a": {(1, 2): 3}},
    "none": lambda: None,
    "list": lambda: [1, "two", None],
    "text": lambda: "text",
}


def act(request):
    action = request.get("do")
    if action is None:
        return request
    return DO[action]()


async def handle(logger, request):
    return act(request)


def plain(logger, request):
    return act(request)
'''
DEEPER = """
def down(levels):
    if levels:
        return down(levels - 1)
    raise LookupError("at the bottom")


def for_ever():
    return for_ever()
"""
FILES = {"function/handler.py": HANDLER, "function/deeper.py": DEEPER}
OTHER_SERVER = """
import socket, sys
import uvicorn
from fnship.server.asgi import create_app

listener = socket.create_server(("127.0.0.1", 0))
print(f"fnship: serving it on http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
config = uvicorn.Config(create_app("function.handler:handle"), log_config=None)
uvicorn.Server(config).run(sockets=[listener])
"""
FRONTS = {
    "one process": {},
    "two processes, plain": {"GUNICORN_WORKERS": "2", "FUNCTION_TARGET": "function.handler:plain"},
    "another server": {},
}
EMPTY = dict.fromkeys(contract.METADATA_KEYS.values())
ENGINE = {"X-Engine-Endpoint": "http://127.0.0.1:1/"}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ServerProcess]]:
    """Start a front when the first test asks for it, and keep it for the others."""
    servers: dict[str, ServerProcess] = {}
    with contextlib.ExitStack() as stack:

        def get(name: str) -> ServerProcess:
            if name not in servers:
                other = name == "another server"
                files = {**FILES, "main.py": OTHER_SERVER} if other else FILES
                folder = tmp_path_factory.mktemp("front")
                context = serving(folder, files, limit=600, **FRONTS[name])
                servers[name] = stack.enter_context(context)
            return servers[name]

        yield get


@pytest.fixture(params=FRONTS)
def server(front: Callable[[str], ServerProcess], request: pytest.FixtureRequest) -> ServerProcess:
    return front(request.param)


@pytest.fixture(params=["one process", "two processes, plain"])
def our_server(
    front: Callable[[str], ServerProcess], request: pytest.FixtureRequest
) -> ServerProcess:
    return front(request.param)


def refused(reply: Reply, status: int, message: str, error_code: int = 2) -> None:
    """An answer that says why, in the contract's form, and nothing else."""
    assert reply.headers["content-type"] == "application/json"
    assert reply.status == status
    assert reply.json == {"error_code": error_code, "message": message}


# The request


def test_the_request_is_the_body_and_the_metadata(server: ServerProcess) -> None:
    body = {"name": "Ada", "n": [1, 2.5, None, True, "é😀", {"deep": {}}], "": ""}
    reply = server.call(body)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.body))
    assert reply.json == {**body, "metadata": EMPTY}


def test_each_header_becomes_its_key(server: ServerProcess) -> None:
    headers = {name: f"value of {key}" for name, key in contract.METADATA_KEYS.items()}
    found = server.call({}, headers).json["metadata"]
    assert found == {key: f"value of {key}" for key in contract.METADATA_KEYS.values()}


@pytest.mark.parametrize("case", [str.lower, str.upper, str])
def test_names_of_headers_have_no_case(server: ServerProcess, case: Callable[[str], str]) -> None:
    assert server.call({}, {case("X-Activity-ID"): "a1"}).json["metadata"]["activityID"] == "a1"


@pytest.mark.parametrize(
    "mine", [{"activityID": "mine", "projectID": "mine", "more": 1}, None, [], "text", {}]
)
def test_metadata_in_the_body_is_never_trusted(server: ServerProcess, mine: Any) -> None:
    reply = server.call({"metadata": mine, "a": 1}, {"X-Project-ID": "p1"})
    assert reply.json == {"metadata": {**EMPTY, "projectID": "p1"}, "a": 1}


def test_headers_for_the_sdk_are_never_shown(server: ServerProcess) -> None:
    private = {
        "X-Engine-Endpoint": "http://127.0.0.1:1",
        "X-Activity-File-Upload": "/secret-path",
        "X-Workflow-Token": "secret-token",
        "X-Activity-Attempt": "7",
        "X-Activity-Deadline": "2999-01-01T00:00:00Z",
        "X-Timeout": "59s",
    }
    reply = server.call({"a": 1}, private)
    assert reply.json == {"data": {"a": 1, "metadata": EMPTY}}
    for value in private.values():
        assert value.encode() not in reply.body


def test_a_header_that_is_not_ascii(server: ServerProcess) -> None:
    connection = server.connect()
    with connection, connection.makefile("rb") as answer:
        connection.sendall(
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n"
            b"x-environment-name: caf\xc3\xa9\r\nx-project-id: caf\xe9\r\n\r\n{}"
        )
        body = answer.read().partition(b"\r\n\r\n")[2]
    metadata = json.loads(body)["metadata"]
    assert (metadata["environmentName"], metadata["projectID"]) == ("café", "café")


@pytest.mark.parametrize("body", [b"", None])
def test_an_empty_body_is_an_empty_object(server: ServerProcess, body: bytes | None) -> None:
    assert server.call(body).json == {"metadata": EMPTY}


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", ""]
)
def test_the_content_type_is_ignored(server: ServerProcess, kind: str) -> None:
    assert server.call({"a": 1}, {"Content-Type": kind}).json["a"] == 1


def test_of_duplicate_keys_the_last_wins(server: ServerProcess) -> None:
    reply = server.call(b'{"a": 1, "b": {"c": 1, "c": 2}, "a": {"x": 3}}')
    assert reply.json == {"a": {"x": 3}, "b": {"c": 2}, "metadata": EMPTY}


def test_integers_of_any_size_are_exact(server: ServerProcess) -> None:
    numbers = [2**53 + 1, -(2**63) - 1, 2**64, 10**300 + 7]
    assert server.call({"n": numbers}).json["n"] == numbers


def test_a_byte_order_mark(server: ServerProcess) -> None:
    assert server.call(b'\xef\xbb\xbf{"a": 1}').json["a"] == 1


def test_a_chunked_body(server: ServerProcess) -> None:
    """As a watchdog in front forwards them."""
    connection = server.connect()
    with connection, connection.makefile("rb") as answer:
        connection.sendall(
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            b'4\r\n{"a"\r\n4;ext=1\r\n: 1}\r\n0\r\n\r\n'
        )
        assert json.loads(answer.read().partition(b"\r\n\r\n")[2])["a"] == 1


# What is no request


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"{",
            "expecting property name enclosed in double quotes at line 1 column 2 (character 1)",
        ),
        (b'{"a": 1,\n "b": x}', "expecting value at line 2 column 7 (character 15)"),
        (b'{"a": 1} more', "extra data at line 1 column 10 (character 9)"),
        (b"name=Ada", "expecting value at line 1 column 1 (character 0)"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": "\xff"}', "invalid UTF-8 at byte 7"),
        (b'{"a": "\\ud800"}', "a \\u escape is half of a surrogate pair"),
        (b"[" * 10_000, "nested too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
        (b" ", "empty"),
        (
            b'{"a": ' + b"9" * 5000 + b"}",
            f"an integer has more than {sys.get_int_max_str_digits()} digits",
        ),
    ],
)
def test_what_is_no_json_is_refused_and_said_where(
    server: ServerProcess, body: bytes, message: str
) -> None:
    refused(server.call(body), 400, f"the request body is not JSON: {message}")


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf" * 3_000_000, b"\xef\xbb\xbf" * 5000 + b"{}"])
def test_byte_order_marks_without_end(server: ServerProcess, body: bytes) -> None:
    reply = server.call(body)
    assert reply.status == 400
    assert reply.json["error_code"] == 2
    assert server.call({"a": 1}).json["a"] == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", "an array"),
        (b'[{"a": 1}]', "an array"),
        (b'"text"', "a string"),
        (b"5", "a number"),
        (b"-1.5", "a number"),
        (b"true", "a boolean"),
        (b"null", "null"),
    ],
)
def test_what_is_no_object(server: ServerProcess, body: bytes, kind: str) -> None:
    refused(server.call(body), 400, f"the request body must be a JSON object, not {kind}")


def test_a_body_that_is_too_large(server: ServerProcess) -> None:
    large = b'{"a":"' + b"x" * (11 * 2**20) + b'"}'
    message = "the request body is larger than MAX_BODY_SIZE, 10485760 bytes"
    refused(server.call(large), 413, message)
    fits = b'{"a":"' + b"x" * (10 * 2**20 - 8) + b'"}'
    assert server.call(fits).status == 200


# The answer


def test_an_engine_call_gets_an_envelope(server: ServerProcess) -> None:
    assert server.call({"a": 1}, ENGINE).json == {"data": {"a": 1, "metadata": EMPTY}}
    for action, value in (("list", [1, "two", None]), ("none", None), ("text", "text")):
        assert server.call({"do": action}, ENGINE).json == {"data": value}
        assert server.call({"do": action}).json == value


@pytest.mark.parametrize("envelope", ["auto", "always", "never"])
@pytest.mark.parametrize("engine", [False, True])
def test_the_setting_for_the_envelope(envelope: str, engine: bool) -> None:
    async def call() -> bytes:
        function = ASGIFunction(
            inspect_handler(lambda logger, request: {"a": 1}),
            Settings(response_envelope=envelope),
            environ={},
        )
        await function.startup()
        assert function.app is not None
        try:
            headers = [(b"x-engine-endpoint", b"http://127.0.0.1:1")] if engine else []
            return (await function.app.respond(Exchange("POST", "/", headers, b"{}"))).body
        finally:
            await function.shutdown()

    wrapped = envelope == "always" or (envelope == "auto" and engine)
    assert asyncio.run(call()) == (b'{"data":{"a":1}}' if wrapped else b'{"a":1}')


@pytest.mark.parametrize("headers", [{}, ENGINE])
@pytest.mark.parametrize(
    ("action", "answer"),
    [
        (
            "again",
            {
                "error_code": 1,
                "message": "function: execute again: later",
                "data": {"retry_after": 5, "cursor": {"at": [1]}},
            },
        ),
        ("again, bare", {"error_code": 1, "message": "function: execute again: ", "data": {}}),
        ("failed", {"error_code": 2, "message": "function: failed: no good"}),
        ("transient", {"error_code": 3, "message": "function: transient error: try again"}),
        ("not found", {"error_code": 4, "message": "function: not found: no such thing"}),
        ("conflict", {"error_code": 5, "message": "function: conflict: somebody was first"}),
        ("code", {"error_code": 3, "message": "plain"}),
        ("no code", {"error_code": 2, "message": "plain"}),
        ("bare", {"error_code": 2, "message": "why"}),
        (
            "surrogate error",
            {"error_code": 3, "message": "function: transient error: no file \\udc80"},
        ),
    ],
)
def test_errors_of_the_handler(
    server: ServerProcess, action: str, answer: dict[str, Any], headers: dict[str, str]
) -> None:
    reply = server.call({"do": action}, headers)
    assert reply.status == 500
    assert reply.headers["content-type"] == "application/json"
    assert reply.json == answer


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("value error", "é is wrong"),
        ("empty error", "KeyError"),
        ("deeper", "at the bottom"),
        ("exit", r"the handler called sys\.exit\(3\)"),
        ("exit, bare", r"the handler called sys\.exit\(\)"),
        ("interrupt", "KeyboardInterrupt"),
        ("stop", ".*StopIteration.*"),
        ("generator exit", ".*over"),
        ("cancelled", "CancelledError"),
        ("base", "all"),
        ("recursion", "maximum recursion depth exceeded.*"),
    ],
)
def test_an_unexpected_exception_comes_with_its_own_frames(
    server: ServerProcess, action: str, message: str
) -> None:
    for headers in ({}, ENGINE):
        reply = server.call({"do": action}, headers)
        assert reply.status == 500
        assert set(reply.json) == {"error_code", "message", "stack_trace"}
        assert reply.json["error_code"] == 2
        assert re.fullmatch(message, reply.json["message"])
        frames = reply.json["stack_trace"]
        assert frames
        folder = str(server.folder / "function")
        for frame in frames:
            assert set(frame) == {"file", "line", "function"}
            assert frame["file"].startswith(folder)
            assert type(frame["line"]) is int
    assert server.call({"a": 1}).json["a"] == 1  # it lives on


def test_the_innermost_frame_stands_last(server: ServerProcess) -> None:
    frames = server.call({"do": "deeper"}).json["stack_trace"]
    assert [each["function"] for each in frames[-6:]] == ["act", "<lambda>", *["down"] * 4]
    lines = DEEPER.splitlines()
    assert lines[frames[-1]["line"] - 1] == '    raise LookupError("at the bottom")'
    assert lines[frames[-2]["line"] - 1] == "        return down(levels - 1)"


def test_a_long_stack_is_cut(server: ServerProcess) -> None:
    frames = server.call({"do": "recursion"}).json["stack_trace"]
    assert 10 < len(frames) <= 50
    assert frames[-1]["function"] == "for_ever"


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("set", {"set": [1], "frozen": ["a"], "nested": [{"s": [2]}]}),
        (
            "types",
            {
                "datetime": "2024-01-02T00:00:00Z",
                "uuid": "00000000-0000-0000-0000-000000000001",
                "decimal": "1.10",
                "enum": "red",
                "dataclass": {"x": 1, "y": [2]},
                "deque": [1],
            },
        ),
    ],
)
def test_what_becomes_json(server: ServerProcess, action: str, answer: Any) -> None:
    reply = server.call({"do": action})
    assert (reply.status, reply.json) == (200, answer)


RETURNED = "the handler returned what JSON cannot carry: "


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("nan", RETURNED + 'result["a"][1]["b"] is nan, which JSON cannot carry'),
        ("infinity", RETURNED + 'result["a"] is -inf, which JSON cannot carry'),
        (
            "bytes",
            RETURNED + 'result["a"] is of type bytes, which JSON cannot carry; '
            "decode it to text, or encode it with base64",
        ),
        ("surrogate", RETURNED + 'result["a"][0] has a lone surrogate at character 0'),
        (
            "unknown",
            RETURNED + 'result["a"]["b c"] is of type function.handler.Unknown, '
            "which JSON cannot carry; return its plain values instead",
        ),
        ("circular", RETURNED + 'result["a"][0] contains itself'),
        ("nested", RETURNED + "result" + "[0]" * 200 + " is nested deeper than 200 levels"),
        (
            "key",
            RETURNED + 'result["a"] has a key of type tuple, which JSON cannot carry; use text',
        ),
        (
            "half way",
            RETURNED + 'result["a"] cannot be turned into JSON: LookupError: half way',
        ),
        (
            "error data",
            (
                "the handler's error holds what JSON cannot carry: "
                'error["data"]["bad"][0]["x"] is nan, which JSON cannot carry'
            ),
        ),
    ],
)
def test_what_cannot_be_json_is_named_with_its_place(
    server: ServerProcess, action: str, message: str
) -> None:
    reply = server.call({"do": action})
    refused(reply, 500, message)
    assert server.call({"a": 1}).json["a"] == 1


# Paths and methods


def test_ready_and_health(server: ServerProcess) -> None:
    for path, answer in (("/_/ready", {"status": "ready"}), ("/_/health", {"status": "healthy"})):
        reply = server.call(method="GET", path=path)
        assert (reply.status, reply.json) == (200, answer)
        assert reply.headers["content-type"] == "application/json"
        head = server.call(method="HEAD", path=path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(reply.body))


@pytest.mark.parametrize("path", ["/nowhere", "/_/", "/index.html", "/_/ready/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_is_there(server: ServerProcess, method: str, path: str) -> None:
    refused(
        server.call(b"" if method == "POST" else None, method=method, path=path),
        404,
        f"there is nothing at {path}; invoke with POST /",
    )


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/", "POST"),
        ("PUT", "/", "POST"),
        ("DELETE", "/", "POST"),
        ("PATCH", "/", "POST"),
        ("OPTIONS", "/", "POST"),
        ("POST", "/_/ready", "GET, HEAD"),
        ("DELETE", "/_/health", "GET, HEAD"),
    ],
)
def test_the_wrong_method(server: ServerProcess, method: str, path: str, allow: str) -> None:
    reply = server.call(method=method, path=path)
    assert reply.headers["allow"] == allow
    refused(reply, 405, f"{method} is not for {path}; use {allow.partition(',')[0]}")


def test_a_query_does_not_matter(server: ServerProcess) -> None:
    assert server.call({"a": 1}, path="/?x=1").json["a"] == 1
    assert server.call(method="GET", path="/_/ready?x=1").status == 200


# What our own server adds


def test_a_header_of_60_kib_is_taken(our_server: ServerProcess) -> None:
    headers = {"X-Large": "x" * 60 * 1024, "X-Project-ID": "p1"}
    assert our_server.call({}, headers).json["metadata"]["projectID"] == "p1"


@pytest.mark.parametrize("headers", [1, 20])
def test_headers_of_more_than_64_kib_are_refused(our_server: ServerProcess, headers: int) -> None:
    sent = {f"X-Large-{number}": "x" * (65 * 1024 // headers) for number in range(headers)}
    refused(our_server.call({}, sent), 431, "the request's headers are larger than 65536 bytes")
    assert our_server.call({"a": 1}).json["a"] == 1


def test_a_server_of_ones_own_takes_a_handler_or_its_name(tmp_path: Path) -> None:
    def handle(logger: Any, request: Any) -> Any:
        return {}

    assert isinstance(create_app(handle), ASGIFunction)
    assert create_app(handle, Settings(max_workers=3)).settings.max_workers == 3
