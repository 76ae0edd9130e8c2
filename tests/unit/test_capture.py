"""Lines that do not come through the handler's logger, each to the invocation it belongs to."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import logging
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fnship.function.activity_log import ActivityLog
from fnship.function.capture import capture_logging, capture_stdout
from fnship.function.invocation import Invocation, active_invocation
from fnship.function.lines import Stdout, Who, style_named
from fnship.function.pool import ThreadPool

library = logging.getLogger("some.library")
MESSAGE = re.compile(r"time=\S+ level=(\S+) path=(.*) line=(\d+) .*? activity_id=(\S*) msg=(.*)")


class Run:
    """What invocations wrote, each to a stream of its own, and what the process did."""

    def __init__(self) -> None:
        self.streams: dict[str, io.BytesIO] = {}
        self.process_log = self.log("")

    def log(self, activity_id: str) -> ActivityLog:
        stream = self.streams[activity_id] = io.BytesIO()
        return ActivityLog(Stdout(stream, style_named("text")), Who("dev", "e1", activity_id))

    def invocation(self, activity_id: str) -> Invocation:
        log = self.log(activity_id)
        return Invocation(activity_id, [], None, None, lambda _: log)

    def messages(self, activity_id: str) -> list[str]:
        text = self.streams[activity_id].getvalue().decode()
        found = [MESSAGE.fullmatch(line) for line in text.split("\n")[:-1]]
        assert all(match and match[4] == activity_id for match in found), text
        return [match[5] for match in found if match]


@contextlib.contextmanager
def capturing(level: int = logging.INFO) -> Iterator[Run]:
    run = Run()
    root = logging.getLogger()
    others, root.handlers[:] = root.handlers[:], []  # pytest's, which raise at a bad message
    try:
        with capture_logging(run.process_log, level), capture_stdout():
            yield run
    finally:
        root.handlers[:] = others


@pytest.fixture
def run() -> Iterator[Run]:
    with capturing() as run:
        yield run


def inside(invocation: Invocation, function: Any, *args: Any) -> Any:
    def call() -> Any:
        active_invocation.set(invocation)
        return function(*args)

    return contextvars.copy_context().run(call)


def test_lines_of_libraries_belong_to_the_invocation(run: Run) -> None:
    inside(run.invocation("a1"), library.warning, "careful, %s", "you")
    assert run.messages("a1") == ["careful, you"]
    assert run.messages("") == []


def test_lines_outside_of_any_belong_to_the_process(run: Run) -> None:
    library.info("starting")
    logging.info("with logging itself")
    logging.getLogger().error("with the root")
    assert run.messages("") == ["starting", "with logging itself", "with the root"]


def test_the_level_is_that_of_the_settings() -> None:
    with capturing(logging.ERROR) as run:
        inside(run.invocation("a1"), library.warning, "no")
        inside(run.invocation("a1"), library.error, "yes")
    assert run.messages("a1") == ["yes"]


def test_what_logging_was_is_what_it_is_afterwards() -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), sys.stdout
    with capturing(logging.DEBUG):
        assert root.level == logging.DEBUG
        assert sys.stdout is not before[2]
    assert (root.level, list(root.handlers), sys.stdout) == before


def test_a_stdout_that_was_put_in_its_place_is_left_there() -> None:
    original = sys.stdout
    mine = io.StringIO()
    try:
        with capture_stdout():
            sys.stdout = mine
        assert sys.stdout is mine
    finally:
        sys.stdout = original


def test_tracebacks_and_places(run: Run) -> None:
    def work() -> None:
        try:
            divmod(1, 0)
        except ZeroDivisionError:
            library.exception("it broke")

    inside(run.invocation("a1"), work)
    (message,) = run.messages("a1")
    assert message.startswith("it broke\\nTraceback (most recent call last):\\n")
    match = MESSAGE.match(run.streams["a1"].getvalue().decode())
    assert match is not None
    assert match[2] == __file__


class Raises:
    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__


@pytest.mark.parametrize("arguments", [("%d", "x"), (Raises(),), ("%s", Raises()), ("%s %s", 1)])
def test_a_mistake_in_a_message_is_never_raised(arguments: tuple[Any, ...]) -> None:
    with capturing() as run:
        inside(run.invocation("a1"), library.info, *arguments)
    assert "cannot be formatted" in run.messages("a1")[0]


# Print


def test_print_belongs_to_the_invocation(capsys: pytest.CaptureFixture[str]) -> None:
    with capturing() as run:

        def work() -> None:
            print("one", 2, sep="-")
            print("un", end="")
            print("finished", flush=True)
            sys.stdout.writelines(["a\n", "b\n"])
            assert sys.stdout.write("c\n") == 2

        inside(run.invocation("a1"), work)
        print("outside")
    assert run.messages("a1") == ["one-2", "unfinished", "a", "b", "c"]
    assert capsys.readouterr().out == "outside\n"


def test_it_is_a_stream_like_the_one_before() -> None:
    original = sys.stdout
    with capturing() as run:

        def look() -> None:
            assert sys.stdout.encoding == original.encoding
            assert sys.stdout.errors == original.errors
            assert sys.stdout.isatty() == original.isatty()
            assert sys.stdout.buffer is original.buffer
            assert sys.stdout.writable()
            assert not sys.stdout.readable()
            sys.stdout.close()
            assert not sys.stdout.closed
            with pytest.raises(TypeError, match="must be str, not bytes"):
                sys.stdout.write(b"bytes")  # type: ignore[arg-type] # on purpose
            with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
                print("elsewhere")
            assert elsewhere.getvalue() == "elsewhere\n"

        look()
        inside(run.invocation("a1"), look)
        assert run.messages("a1") == []


# Across await, threads and tasks


def test_two_invocations_at_once_never_mix() -> None:
    async def speak(run: Run, name: str, turns: int) -> None:
        active_invocation.set(run.invocation(name))
        loop = asyncio.get_running_loop()
        pool = ThreadPool(loop, 2, 10)

        def in_a_thread(how: str, turn: int) -> None:
            library.info("%s %s %d log", name, how, turn)
            print(name, how, turn, "print")

        for turn in range(turns):
            in_a_thread("here", turn)
            await asyncio.sleep(0)
            print(name, "task", end=" ")
            await asyncio.create_task(asyncio.sleep(0))
            print(turn)
            await asyncio.to_thread(in_a_thread, "to_thread", turn)
            await pool.submit(in_a_thread, "pool", turn)
            await asyncio.gather(
                *(asyncio.to_thread(in_a_thread, f"gathered-{each}", turn) for each in range(3))
            )
        pool.close()

    async def scenario(run: Run) -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(speak(run, name, 5) for name in "abcd"))

    with capturing() as run:
        asyncio.run(scenario(run))
    for name in "abcd":
        expected = [f"{name} task {turn}" for turn in range(5)] + [
            f"{name} {how} {turn} {kind}"
            for how in ("here", "to_thread", "pool", "gathered-0", "gathered-1", "gathered-2")
            for turn in range(5)
            for kind in ("log", "print")
        ]
        assert sorted(run.messages(name)) == sorted(expected)
        here = [each for each in run.messages(name) if " here " in each]
        assert here == [
            f"{name} here {turn} {kind}" for turn in range(5) for kind in ("log", "print")
        ]
    assert run.messages("") == []


def test_a_thread_of_ones_own_belongs_to_the_process() -> None:
    """A bare thread starts without the context: its lines are kept, but are nobody's."""
    with capturing() as run:

        def work() -> None:
            thread = threading.Thread(target=library.info, args=("from a bare thread",))
            thread.start()
            thread.join()

        inside(run.invocation("a1"), work)
    if getattr(sys.flags, "thread_inherit_context", 0):  # since 3.14, on some builds
        assert run.messages("a1") == ["from a bare thread"]
    else:
        assert run.messages("") == ["from a bare thread"]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["print", "log", "await", "thread"])),
        max_size=40,
    )
)
def test_any_interleaving(steps: list[tuple[str, str]]) -> None:
    async def speak(run: Run, name: str, queue: asyncio.Queue[tuple[int, str] | None]) -> None:
        active_invocation.set(run.invocation(name))
        while (step := await queue.get()) is not None:
            number, how = step
            if how == "print":
                print(number)
            elif how == "log":
                library.info(number)
            elif how == "thread":
                await asyncio.to_thread(print, number)
            else:
                await asyncio.sleep(0)

    async def scenario(run: Run) -> None:
        queues: dict[str, asyncio.Queue[tuple[int, str] | None]] = {
            name: asyncio.Queue() for name in "abc"
        }
        speakers = [asyncio.create_task(speak(run, *each)) for each in queues.items()]
        for number, (name, how) in enumerate(steps):
            queues[name].put_nowait((number, how))
            if number % 3 == 0:
                await asyncio.sleep(0)
        for queue in queues.values():
            queue.put_nowait(None)
        await asyncio.gather(*speakers)

    with capturing() as run:
        asyncio.run(scenario(run))
    for name in "abc":
        assert run.messages(name) == [
            str(number) for number, (who, how) in enumerate(steps) if who == name and how != "await"
        ]
