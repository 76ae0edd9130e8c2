"""Access lines: their words, and when they are written."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable

import pytest

from fnship.function.lines import Stdout, style_named
from fnship.server.access import AccessLines
from fnship.server.exchange import Exchange


class Stream(io.BytesIO):
    """Remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.writes.append(bytes(data))
        return len(data)


def exchange(path: str = "/", *headers: tuple[bytes, bytes], method: str = "POST") -> Exchange:
    return Exchange(method, path, [(b"host", b"x"), *headers], b"")


def written(act: Callable[[AccessLines], None], *, call_id: bool = False) -> list[bytes]:
    """What was written within one turn of the loop, by writes."""
    stream = Stream()

    async def run() -> None:
        stdout = Stdout(stream, style_named("text"))
        act(AccessLines(stdout, asyncio.get_running_loop(), call_id=call_id))
        await asyncio.sleep(0)

    asyncio.run(run())
    return stream.writes


def words(line: bytes) -> str:
    match = re.fullmatch(r"time=\S+Z level=INFO path=access line=0 .* msg=(.*)\n", line.decode())
    assert match, line
    return match[1]


def test_a_line_says_what_was_asked_and_how_it_was_answered() -> None:
    (line,) = written(lambda lines: lines.add(exchange("/a b", method="GET"), 404, 0.01234))
    assert words(line) == "GET /a b 404 12.3 ms"


def test_those_of_one_turn_share_a_write_in_their_order() -> None:
    def act(lines: AccessLines) -> None:
        for status in (200, 500, 429):
            lines.add(exchange(), status, 0.0)

    (lines,) = written(act)
    said = [words(line) for line in lines.splitlines(keepends=True)]
    assert said == [f"POST / {status} 0.0 ms" for status in (200, 500, 429)]


def test_each_turn_writes_its_own() -> None:
    stream = Stream()

    async def run() -> None:
        lines = AccessLines(
            Stdout(stream, style_named("text")), asyncio.get_running_loop(), call_id=False
        )
        for status in (200, 500):
            lines.add(exchange(), status, 0.0)
            assert len(stream.writes) == (status == 500)
            await asyncio.sleep(0)

    asyncio.run(run())
    assert [words(line) for line in stream.writes] == ["POST / 200 0.0 ms", "POST / 500 0.0 ms"]


def test_at_the_end_nothing_waits_and_nothing_is_written_twice() -> None:
    def act(lines: AccessLines) -> None:
        lines.write()  # nothing is there
        lines.add(exchange(), 200, 0.0)
        lines.write()

    assert len(written(act)) == 1


@pytest.mark.parametrize("path", ["/\n\x1b[2Jtime=now", "/\x00", "/\u2028"])
def test_a_path_writes_no_line_of_its_own(path: str) -> None:
    (line,) = written(lambda lines: lines.add(exchange(path), 404, 0.0))
    assert line.decode().splitlines() == [line.decode()[:-1]]
    assert line[:-1].decode().isprintable()


@pytest.mark.parametrize(
    ("headers", "ending"),
    [
        ([(b"x-call-id", b"abc"), (b"x-call-id", b"second")], "[abc]"),
        ([], "[]"),
        ([(b"x-call-id", b"\xff")], r"[\xff]"),
    ],
)
def test_it_ends_in_the_call_s_id_where_that_is_wanted(
    headers: list[tuple[bytes, bytes]], ending: str
) -> None:
    (line,) = written(lambda lines: lines.add(exchange("/", *headers), 200, 0.0), call_id=True)
    assert words(line) == f"POST / 200 0.0 ms {ending}"
