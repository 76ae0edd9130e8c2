from __future__ import annotations

import asyncio
import io
import json
import logging
import pickle
import re
import sys
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnship.function.activity_log import ActivityLog, ActivityLogger
from fnship.function.lines import Stdout, Who, style_named

TEXT = re.compile(
    r"time=\S+Z level=(?P<level>.+?) path=(?P<path>.*) line=(?P<line>\d+) environment_name= "
    r"environment_id= activity_id=a1 msg=(?P<msg>.*)"
)


class Engine:
    """Takes lines as an engine's stream does."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.flushed: list[float] = []

    def append(self, line: bytes) -> None:
        self.lines.append(line.decode())

    async def flush(self, wait: float) -> None:
        self.flushed.append(wait)


class Lines:
    """A log, its logger, and what came out of them."""

    def __init__(self, style: str = "text", level: int = logging.INFO, *secrets: str) -> None:
        self.stream = io.BytesIO()
        self.engine = Engine()
        stdout = Stdout(self.stream, style_named(style))
        self.log = ActivityLog(stdout, Who(activity_id="a1"), secrets, self.engine)
        self.logger = ActivityLogger("function.handler:handle", level, self)

    @property
    def text(self) -> str:
        return self.stream.getvalue().decode()

    @property
    def parts(self) -> list[dict[str, str]]:
        found = [TEXT.fullmatch(line) for line in self.text.split("\n")[:-1]]
        assert all(found), self.text
        return [match.groupdict() for match in found if match]

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.split("\n")[:-1]]

    @property
    def messages(self) -> list[str]:
        return [each["msg"] for each in self.parts]


def divide(number: int) -> float:
    return 1 / number


def here() -> int:
    return sys._getframe(1).f_lineno


# As a logging.Logger


def test_it_is_a_logger() -> None:
    lines = Lines()
    assert isinstance(lines.logger, logging.Logger)
    assert lines.logger.name == "function.handler:handle"
    assert "function.handler:handle" in repr(lines.logger)
    assert lines.logger.getEffectiveLevel() == logging.INFO
    assert not lines.logger.hasHandlers()
    assert isinstance(lines.logger.getChild("child"), logging.Logger)


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("debug", "DEBUG"),
        ("info", "INFO"),
        ("warning", "WARNING"),
        ("error", "ERROR"),
        ("critical", "CRITICAL"),
        ("fatal", "CRITICAL"),
        ("exception", "ERROR"),
    ],
)
def test_levels_and_places(method: str, level: str) -> None:
    lines = Lines(level=logging.DEBUG)
    getattr(lines.logger, method)("hello %s", "you"), (line := here())
    (part,) = lines.parts
    assert (part["level"], part["path"], part["line"]) == (level, __file__, str(line))
    assert part["msg"].startswith("hello you")
    assert lines.engine.lines == [re.sub(r"environment_name=.*msg=", "msg=", lines.text)]


def test_log_with_a_number_of_ones_own() -> None:
    lines = Lines(level=17)
    lines.logger.log(17, "above")
    lines.logger.log(16, "below")
    lines.logger.log(logging.WARNING, "warning")
    assert [each["level"] for each in lines.parts] == ["Level 17", "WARNING"]
    with pytest.raises(TypeError):
        lines.logger.log("INFO", "a level must be a number")  # type: ignore[arg-type] # on purpose


def test_below_the_level_nothing_is_formatted() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("formatted in vain")

    lines = Lines()
    lines.logger.debug("%s", Costly())
    assert lines.text == ""
    assert not lines.logger.isEnabledFor(logging.DEBUG)
    assert lines.logger.isEnabledFor(logging.INFO)


@pytest.mark.parametrize("level", ["ERROR", logging.ERROR])
def test_set_level_is_for_this_logger_alone(level: int | str) -> None:
    one, other = Lines(), Lines()
    one.logger.setLevel(level)
    for each in (one, other):
        each.logger.warning("w")
        each.logger.error("e")
    assert one.messages == ["e"]
    assert other.messages == ["w", "e"]
    one.logger.setLevel(logging.NOTSET)
    one.logger.debug("everything")
    assert one.messages[-1] == "everything"
    with pytest.raises(ValueError, match="loud"):
        one.logger.setLevel("loud")


def test_disabled() -> None:
    lines = Lines()
    lines.logger.disabled = True
    lines.logger.error("no")
    lines.logger.handle(logging.makeLogRecord({"msg": "no", "levelno": 50}))
    assert not lines.logger.isEnabledFor(logging.ERROR)
    assert lines.text == ""


def test_logging_disable() -> None:
    lines = Lines()
    logging.disable(logging.WARNING)
    try:
        lines.logger.warning("no")
        lines.logger.error("yes")
    finally:
        logging.disable(logging.NOTSET)
    assert lines.messages == ["yes"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("plain",), "plain"),
        (("%d of %d", 1, 2), "1 of 2"),
        (("%(who)s is %(what)s", {"who": "Ada", "what": "here"}), "Ada is here"),
        (("100 %",), "100 %"),
        (("%s", None), "None"),
        (("%s", {}), "{}"),
        (("%s", (1, 2)), "(1, 2)"),
        ((42,), "42"),
        ((None,), "None"),
        ((["a", 1],), "['a', 1]"),
        ((ValueError("an exception"),), "an exception"),
    ],
)
def test_messages_are_merged_as_logging_does(arguments: tuple[Any, ...], text: str) -> None:
    lines = Lines()
    lines.logger.info(*arguments)
    assert lines.messages == [text]
    record = logging.LogRecord("n", 20, "p", 1, arguments[0], arguments[1:], None)
    assert record.getMessage() == text


class Raises:
    def __repr__(self) -> str:
        raise ZeroDivisionError("in repr")

    __str__ = __repr__
    __format__ = __repr__


@pytest.mark.parametrize(
    "arguments",
    [
        ("%d", "no number"),
        ("%s and %s", "one"),
        ("none", "too many"),
        ("%(missing)s", {"a": 1}),
        ("%q", 1),
        ("%", 1),
        (Raises(),),
        ("%s", Raises()),
        (Raises(), Raises()),
        ("%s", [Raises()]),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("more", [{}, {"exc_info": True}])
def test_a_mistake_in_a_message_is_shown_and_never_raised(
    arguments: tuple[Any, ...], more: dict[str, Any]
) -> None:
    lines = Lines()
    lines.logger.info(*arguments, **more)
    assert "cannot be formatted" in lines.messages[0]
    assert lines.parts[0]["path"] == __file__


def test_exceptions() -> None:
    lines = Lines()
    try:
        divide(0)
    except ZeroDivisionError as exc:
        caught = exc
        lines.logger.exception("it %s", "broke")
        lines.logger.log(logging.ERROR, "again", exc_info=True)
    lines.logger.error("later", exc_info=caught)
    lines.logger.error("as a tuple", exc_info=(type(caught), caught, caught.__traceback__))
    lines.logger.error("none", exc_info=False)
    for start, message in zip(
        ("it broke", "again", "later", "as a tuple"), lines.messages, strict=False
    ):
        assert message.startswith(f"{start}\\nTraceback (most recent call last):\\n  File ")
        assert message.endswith("ZeroDivisionError: division by zero")
    assert lines.messages[4] == "none"


def test_a_stack() -> None:
    lines = Lines()
    lines.logger.info("where", stack_info=True)
    assert lines.messages[0].startswith("where\\nStack (most recent call last):\\n  File ")
    assert "test_a_stack" in lines.messages[0].split("\\n")[-2]


def test_stacklevel() -> None:
    lines = Lines()

    def helper(stacklevel: int) -> int:
        lines.logger.info("m", stacklevel=stacklevel), (line := here())
        return line

    inside = [helper(1), helper(2), helper(99)][0]
    outside = here() - 1
    found = [int(each["line"]) for each in lines.parts]
    assert found[:2] == [inside, outside]


@pytest.mark.parametrize("slow", [False, True])
def test_places_through_a_wrapper_of_logging(slow: bool) -> None:
    lines = Lines()
    if slow:
        lines.logger.addFilter(lambda _: True)
    adapter = logging.LoggerAdapter(lines.logger, {"request": "r1"})
    adapter.info("adapted"), (first := here())
    lines.logger.log(logging.INFO, "logged"), (second := here())
    assert [int(each["line"]) for each in lines.parts] == [first, second]
    assert {each["path"] for each in lines.parts} == {__file__}


def test_an_adapter_around_it() -> None:
    class Prefixed(logging.LoggerAdapter[logging.Logger]):
        def process(self, msg: Any, kwargs: Any) -> Any:
            return f"[{self.extra['id']}] {msg}", kwargs  # type: ignore[index] # it is a dict

    lines = Lines("json")
    logging.LoggerAdapter(lines.logger, {"user": "ada"}).info("m")
    Prefixed(lines.logger, {"id": 7}).warning("n %d", 1)
    assert [(each["msg"], each.get("user")) for each in lines.json] == [
        ("m", "ada"),
        ("[7] n 1", None),
    ]


@pytest.mark.parametrize("slow", [False, True])
def test_extra(slow: bool) -> None:
    lines = Lines("json")
    if slow:
        lines.logger.addFilter(lambda _: True)
    lines.logger.info("m", extra={"user": "ada", "count": 3, "deep": {"a": [1]}})
    (line,) = lines.json
    assert (line["user"], line["count"], line["deep"]) == ("ada", 3, {"a": [1]})
    assert set(line) == {
        *("time", "level", "path", "line", "environment_name", "environment_id", "activity_id"),
        *("msg", "user", "count", "deep"),
    }


def test_filters() -> None:
    lines = Lines()

    def marked(record: logging.LogRecord) -> bool:
        record.msg = f"{record.msg}!"
        return "secret" not in record.getMessage()

    lines.logger.addFilter(marked)
    lines.logger.info("fine %d", 1)
    lines.logger.info("a secret")
    lines.logger.removeFilter(marked)
    lines.logger.info("a secret no more")
    assert lines.messages == ["fine 1!", "a secret no more"]


def test_handlers_of_ones_own_get_each_record_too() -> None:
    lines = Lines()
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keep = Keep(level=logging.WARNING)
    lines.logger.addHandler(keep)
    assert lines.logger.hasHandlers()
    lines.logger.info("i")
    lines.logger.warning("w %s", 1, extra={"user": "ada"}), (line := here())
    lines.logger.removeHandler(keep)
    lines.logger.warning("not kept")
    assert lines.messages == ["i", "w 1", "not kept"]
    (record,) = records
    assert (record.getMessage(), record.levelno, record.name) == ("w 1", 30, lines.logger.name)
    assert (record.pathname, record.lineno) == (__file__, line)
    assert record.funcName == "test_handlers_of_ones_own_get_each_record_too"
    assert vars(record)["user"] == "ada"


def test_a_record_that_was_made_elsewhere() -> None:
    lines = Lines("json")
    record = logging.LogRecord("n", logging.WARNING, "/p.py", 3, "hello %s", ("you",), None)
    record.user = "ada"
    lines.logger.handle(record)
    (line,) = lines.json
    assert (line["level"], line["path"], line["line"]) == ("WARNING", "/p.py", 3)
    assert (line["msg"], line["user"]) == ("hello you", "ada")


def test_it_is_not_sent_to_other_processes() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Lines().logger)


# Lines


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_every_record_is_one_line(message: str) -> None:
    lines = Lines()
    lines.logger.info("%s", message)
    assert lines.stream.getvalue().count(b"\n") == 1
    assert lines.stream.getvalue().endswith(b"\n")
    assert [each.count("\n") for each in lines.engine.lines] == [1]


def test_a_long_line_is_kept_whole() -> None:
    lines = Lines()
    lines.logger.info("x" * 3_000_000)
    assert lines.text.endswith("x" * 3_000_000 + "\n")
    assert lines.engine.lines[0].endswith("x" * 3_000_000 + "\n")


# Secrets

TOKEN = "tok-123+/="


def leak(lines: Lines) -> list[Callable[[], object]]:
    logger = lines.logger

    class Holder:
        def __str__(self) -> str:
            return f"<{TOKEN}>"

        __repr__ = __str__

    def traceback() -> None:
        try:
            raise ValueError(f"bad {TOKEN}")
        except ValueError:
            logger.exception("no")

    return [
        lambda: logger.info(" ".join(("with", TOKEN, "in it"))),
        lambda: logger.info("%s", TOKEN),
        lambda: logger.info("%s", {"headers": [TOKEN]}),
        lambda: logger.info("%(token)s", {"token": TOKEN}),
        lambda: logger.info("%s", Holder()),
        lambda: logger.info("%d", TOKEN),
        lambda: logger.info("m", extra={"token": TOKEN}),
        lambda: logger.info("m", extra={TOKEN: 1}),
        lambda: logger.info("m", extra={"request": {"metadata": {"stateStoreToken": TOKEN}}}),
        lambda: logger.info("m", extra={"holder": Holder(), "more": [{TOKEN: (TOKEN,)}]}),
        lambda: logger.info("http://h/?token=%s", urllib.parse.quote(TOKEN, safe="")),
        lambda: logger.info(json.dumps({"a": TOKEN})),
        lambda: logger.info("m", stack_info=True),  # this very line has no token, its source has
        traceback,
        lambda: lines.log.printed(f"printed {TOKEN}\n"),
        lambda: logger.handle(logging.LogRecord("n", 20, "p", 1, TOKEN, (), None)),
    ]


@pytest.mark.parametrize("style", ["text", "json", "readable"])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("number", range(16))
def test_secrets_are_in_no_line(style: str, slow: bool, number: int) -> None:
    lines = Lines(style, logging.INFO, "other-secret", TOKEN)
    if slow:
        lines.logger.addFilter(lambda _: True)
    leak(lines)[number]()
    for text in (lines.text, *lines.engine.lines):
        assert TOKEN not in text
        assert urllib.parse.quote(TOKEN, safe="") not in text
    assert lines.text
    if style == "json":
        assert lines.json


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40),
    st.text(),
)
def test_any_token(token: str, around: str) -> None:
    for style in ("text", "json"):
        lines = Lines(style, logging.INFO, token)
        lines.logger.info("%s%s%s", around, token, around, extra={"deep": [{"t": token}]})
        for text in (lines.text, *lines.engine.lines):
            assert token not in text.replace("[redacted]", "")
        if style == "json":
            assert token not in str(lines.json)


def test_a_secret_inside_of_another_is_gone_as_well() -> None:
    lines = Lines("text", logging.INFO, "abc", "abcdef")
    lines.logger.info("abcdef abc")
    assert lines.messages == ["[redacted] [redacted]"]


def test_texts_too_short_to_be_secrets_are_left() -> None:
    lines = Lines("text", logging.INFO, "a", "")
    lines.logger.info("a banana")
    assert lines.messages == ["a banana"]


# Print


def test_printed_lines() -> None:
    lines = Lines()
    for text in ("one\ntwo", " and more\n", "", "three", "\n\nfour\r\n", "rest"):
        lines.log.printed(text)
    assert lines.messages == ["one", "two and more", "three", "", "four\\r"]
    assert {(each["level"], each["path"], each["line"]) for each in lines.parts} == {
        ("INFO", "stdout", "0")
    }
    lines.log.end_prints()
    assert lines.messages[-1] == "rest"
    lines.log.end_prints()
    assert lines.messages.count("rest") == 1


@given(st.lists(st.text(alphabet="ab\n"), max_size=20))
def test_what_is_printed_in_pieces_comes_out_whole(pieces: list[str]) -> None:
    lines = Lines()
    for each in pieces:
        lines.log.printed(each)
    lines.log.end_prints()
    whole = "".join(pieces)
    expected = whole.split("\n")
    assert lines.messages == (expected[:-1] if expected[-1] == "" else expected)


def test_threads_do_not_mix_their_unfinished_lines() -> None:
    lines = Lines()
    turn = threading.Barrier(4, timeout=30)

    def work(name: str) -> None:
        for _ in range(20):
            turn.wait()
            lines.log.printed(name)
            lines.log.printed(name)
            turn.wait()
            lines.log.printed("\n")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(lines.messages) == ["aa"] * 20 + ["bb"] * 20 + ["cc"] * 20 + ["dd"] * 20


def test_closing_writes_what_is_left_and_flushes() -> None:
    lines = Lines()
    lines.log.printed("left")
    asyncio.run(lines.log.close(0.25))
    assert lines.messages == ["left"]
    assert lines.engine.flushed == [0.25]
    no_engine = ActivityLog(Stdout(io.BytesIO(), style_named("text")))
    asyncio.run(no_engine.close(0.25))
