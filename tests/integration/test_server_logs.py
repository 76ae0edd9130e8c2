"""What a function says, as it leaves the process: whole lines, each with its own ids, no tokens."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess, serving

HANDLER = """
import asyncio, logging, sys, threading
import fnship
from . import helper

print("at import")
logging.getLogger("import").warning("logged at import")


def start(config):
    print("in start")
    logging.getLogger("start").warning("logged in start")


def speak(logger, name, number):
    logger.info("%s logger %d", name, number)
    helper.library.info("%s library %d", name, number)
    print(name, "print", number)


async def everywhere(logger, request):
    name = request["name"]
    for number in range(request["turns"]):
        speak(logger, name, number)
        await asyncio.sleep(0.001)
        await asyncio.to_thread(speak, logger, name, number)
        print(name, end=" ")
        await asyncio.sleep(0)
        print("task", number)
    return {}


def leak(logger, request):
    metadata = request["metadata"]
    token = metadata["stateStoreToken"]
    how = request["how"]
    if how == "logs":
        logger.info("with %s", token)
        logger.info(metadata)
        logger.info("extra", extra={"metadata": metadata, "token": token})
        helper.library.warning("library %s", token, extra={"deep": [token]})
        print("printed", token)
        print("in pieces " + token[:5], end="")
        print(token[5:])
        try:
            raise ValueError(token)
        except ValueError:
            logger.exception("caught")
        print(token, file=sys.stdout)
        sys.stdout.write(token + "\\n")
        return {}
    if how == "error":
        raise ValueError(f"no access with {token}")
    if how == "failed":
        raise fnship.Failed(f"no access with {token}")
    if how == "cause":
        try:
            raise KeyError(token)
        except KeyError as exc:
            raise RuntimeError("outer") from exc
    if how == "key":
        return {token: float("nan")}
    if how == "error data":
        raise fnship.ExecuteAgain("again", **{token: float("nan")})
    if how == "exit":
        sys.exit(f"bye {token}")


def texts(logger, request):
    for text in request["texts"]:
        logger.info(text)
        print(text)
    logger.info("surrogate \\udc80 and null \\0")
    print("surrogate \\udc80")
    logger.warning("extra", extra={"user": "ada", "deep": {"a": [1, None]}, "odd": {1, 2}})
    return {}


def levels(logger, request):
    for level in (10, 20, 30, 40, 50):
        logger.log(level, "logger %d", level)
        helper.library.log(level, "library %d", level)
    return {}


DO = {"leak": leak, "texts": texts, "levels": levels}


async def handle(logger, request):
    if request.get("do") == "everywhere":
        return await everywhere(logger, request)
    if request.get("thread"):
        return await asyncio.to_thread(DO[request["do"]], logger, request)
    return DO[request["do"]](logger, request)
"""
FILES = {
    "function/handler.py": HANDLER,
    "function/helper.py": "import logging\nlibrary = logging.getLogger('my.library')\n",
}
TOKENS = {"X-Workflow-Token": "workflow-tok3n/+=", "X-Eaas-State-Token": "state-tok3n%2B"}


@pytest.fixture(params=["text", "json", "readable"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path, FILES, LOG_FORMAT=request.param) as server:
        yield server


def headers(activity: str) -> dict[str, str]:
    return {
        "X-Activity-ID": activity,
        "X-Environment-ID": f"id-{activity}",
        "X-Environment-Name": f"name-{activity}",
    }


def test_every_line_has_the_ids_of_its_own_invocation(tmp_path: Path) -> None:
    with serving(tmp_path, FILES, LOG_FORMAT="json") as server:

        def call(name: str) -> None:
            body = {"do": "everywhere", "name": name, "turns": 10}
            assert server.call(body, headers(name)).status == 200

        with ThreadPoolExecutor(6) as clients:
            list(clients.map(call, "abcdef"))
        assert server.stop() == 0
        plain = [each for each in server.stdout.split("\n") if not each.startswith("{")]
        lines = [json.loads(each) for each in server.stdout.split("\n") if each.startswith("{")]
    assert set(plain) == {"at import", "in start", ""}
    outside = [each["msg"] for each in lines if not each["activity_id"]]
    assert outside == ["logged in start"]
    for name in "abcdef":
        mine = [each for each in lines if each["activity_id"] == name]
        assert {(each["environment_id"], each["environment_name"]) for each in mine} == {
            (f"id-{name}", f"name-{name}")
        }
        expected = [
            f"{name} {how} {number}"
            for number in range(10)
            for how in ("logger", "library", "print", "logger", "library", "print", "task")
        ]
        assert [each["msg"] for each in mine] == expected
        for each in mine:
            kind = each["msg"].split()[1]
            if kind in ("print", "task"):
                assert (each["level"], each["path"], each["line"]) == ("INFO", "stdout", 0)
            else:
                assert each["path"].endswith("function/handler.py")
                assert "helper.library.info" in source(each) or "logger.info" in source(each)


def source(line: dict[str, Any]) -> str:
    return HANDLER.splitlines()[line["line"] - 1]


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("engine", [False, True])
def test_no_token_is_in_any_line_or_answer(
    server: ServerProcess, thread: bool, engine: bool
) -> None:
    sent = {**headers("a1"), **TOKENS}
    if engine:  # one that cannot be reached
        sent |= {"X-Engine-Endpoint": "http://127.0.0.1:1", "X-Activity-File-Upload": "/logs"}
    for how in ("logs", "error", "failed", "cause", "exit"):
        reply = server.call({"do": "leak", "how": how, "thread": thread}, sent)
        assert reply.status == (200 if how == "logs" else 500)
        for token in TOKENS.values():
            assert token.encode() not in reply.body, how
    server.signal(signal.SIGKILL)
    server.wait()
    text = server.stdout + server.stderr
    for token in TOKENS.values():
        assert token not in text, [each for each in text.split("\n") if token in each]
    assert text.count("[redacted]") > 10


@pytest.mark.parametrize("how", ["key", "error data"])
def test_a_token_in_a_key_path(tmp_path: Path, how: str) -> None:
    with serving(tmp_path, FILES) as server:
        reply = server.call({"do": "leak", "how": how}, TOKENS)
        assert reply.status == 500
        assert "which JSON cannot carry" in reply.json["message"]
        assert "tok3n" not in reply.json["message"]


def test_lines_of_json_are_json_whatever_they_hold(tmp_path: Path) -> None:
    texts = ["two\nlines\r\n", '"quotes" and \\', "\u2028\u0085\x1b[31m", "😀", "", " ", "{}", "\t"]
    with serving(tmp_path, FILES, LOG_FORMAT="json", CAPTURE_STDOUT="true") as server:
        assert server.call({"do": "texts", "texts": texts}, headers("a1")).status == 200
        assert server.stop() == 0
        raw = (tmp_path / "stdout.txt").read_bytes().decode()  # strictly UTF-8
    lines = [json.loads(each) for each in raw.split("\n") if each.startswith("{")]
    mine = [each for each in lines if each["activity_id"] == "a1"]
    logged = [each["msg"] for each in mine if each["path"] != "stdout"]
    assert logged[: len(texts)] == texts
    assert logged[len(texts)].startswith("surrogate ")
    assert (mine[-1]["user"], mine[-1]["deep"]) == ("ada", {"a": [1, None]})
    printed = [each["msg"] for each in mine if each["path"] == "stdout"]
    expected = [part for text in texts for part in f"{text}\n".split("\n")[:-1]]
    assert printed[:-1] == expected


def test_a_newline_in_a_message_is_written_out(tmp_path: Path) -> None:
    with serving(tmp_path, FILES) as server:
        server.call({"do": "texts", "texts": ["two\nlines\r\nand more"]}, headers("a1"))
        assert server.stop() == 0
        (line,) = [each for each in server.stdout.split("\n") if r"two\nlines" in each]
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=INFO path=/.*/function/handler\.py "
        r"line=\d+ environment_name=name-a1 environment_id=id-a1 activity_id=a1 "
        r"msg=two\\nlines\\r\\nand more",
        line,
    )


def test_print_that_is_not_captured(tmp_path: Path) -> None:
    with serving(tmp_path, FILES, CAPTURE_STDOUT="false") as server:
        server.call({"do": "texts", "texts": ["hello"]}, headers("a1"))
        assert server.stop() == 0
        lines = server.stdout.split("\n")
    assert "hello" in lines
    assert sum("msg=hello" in each for each in lines) == 1


@pytest.mark.parametrize(
    ("level", "seen"),
    [("", [20, 30, 40, 50]), ("DEBUG", [10, 20, 30, 40, 50]), ("error", [40, 50])],
)
def test_the_level(tmp_path: Path, level: str, seen: list[int]) -> None:
    with serving(tmp_path, FILES, LOG_FORMAT="json", LOG_LEVEL=level) as server:
        server.call({"do": "levels"}, headers("a1"))
        assert server.stop() == 0
        lines = [json.loads(each) for each in server.stdout.split("\n") if each.startswith("{")]
    assert [each["msg"] for each in lines if each["activity_id"]] == [
        f"{who} {number}" for number in seen for who in ("logger", "library")
    ]


def test_a_line_is_out_when_the_answer_is(tmp_path: Path) -> None:
    """A process that is killed loses no line that it logged."""
    with serving(tmp_path, FILES) as server:
        server.call({"do": "texts", "texts": ["the last words"]}, headers("a1"))
        server.signal(signal.SIGKILL)
        server.wait()
        assert server.stdout.count("msg=the last words") == 2


@pytest.mark.parametrize(
    "replacement",
    ["codecs.getwriter('utf-8')(sys.stdout.detach())", "io.StringIO()", "None"],
)
def test_a_handler_that_replaces_stdout(tmp_path: Path, replacement: str) -> None:
    """As code that is older than Python 3 does, for its accents."""
    handler = (
        f"import codecs, io, sys\nsys.stdout = {replacement}\n"
        "def handle(logger, request):\n    logger.info('é')\n    print('é')\n    return {}\n"
    )
    with serving(tmp_path, handler, limit=20) as server:
        assert server.call({}, headers("a1")).status == 200
        assert server.stop() == 0
        assert server.stdout.count("activity_id=a1 msg=é") == 2


def test_the_name_of_the_logger(tmp_path: Path) -> None:
    handler = "def handle(logger, request):\n    return {'name': logger.name}\n"
    with serving(tmp_path, handler, FUNCTION_NAME="my-function") as server:
        assert server.call({}).json == {"name": "my-function"}
