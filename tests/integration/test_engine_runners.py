"""What runs for functions, with real processes: when it ends, and what becomes of calls then."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from fnship.engine.addresses import AddressPolicy
from fnship.engine.model import Function, Source
from fnship.engine.runners.folder import check_folder
from fnship.engine.runners.image import Containers
from fnship.engine.runners.registry import Runners
from fnship.engine.runners.runner import Place
from fnship.errors import InvalidRequest

PATIENCE = 30.0

HANDLER = """
import asyncio
import os
import pathlib


async def handle(logger, request):
    if "began" in request:
        pathlib.Path(request["began"]).touch()
        while not os.path.exists(request["go_on"]):
            await asyncio.sleep(0.02)
    return os.getpid()
"""


def folder(path: Path, handler: str = HANDLER) -> Function:
    (path / "function").mkdir(parents=True)
    (path / "function" / "__init__.py").touch()
    (path / "function" / "handler.py").write_text(handler)
    return Function(name="hello", source=Source.FOLDER, location=str(path))


@contextlib.asynccontextmanager
async def runners(said: list[str] | None = None) -> AsyncIterator[Runners]:
    async def nowhere(address: str) -> str:
        return address

    def hear(name: str, line: str) -> None:
        if said is not None:
            said.append(line)

    some = Runners(AddressPolicy(own=(), allow=()), Containers(None, "nobody", nowhere), hear)
    async with asyncio.timeout(2 * PATIENCE):
        try:
            yield some
        finally:
            await some.close()


async def call(place: Place, payload: Any) -> Any:
    async with aiohttp.ClientSession() as session, session.post(place.url, json=payload) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


class Held:
    """A call that is in flight until it is let go on."""

    def __init__(self, place: Place, files: Path) -> None:
        self._began, self._go_on = files / "began", files / "go on"
        payload = {"began": str(self._began), "go_on": str(self._go_on)}
        self._calling = asyncio.create_task(call(place, payload))

    async def has_begun(self) -> None:
        while not self._began.exists():
            await asyncio.sleep(0.02)

    async def end(self) -> Any:
        self._go_on.touch()
        return await self._calling


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_goes_on_when_what_it_runs_has_not_changed(tmp_path: Path) -> None:
    function = folder(tmp_path / "one")
    other = msgspec.structs.replace(function, concurrency=3, timeout=5.0)

    async def main() -> None:
        async with runners() as some:
            pid = await call(await some.place(function), {})
            await some.changed(other)
            assert await call(await some.place(other), {}) == pid

    asyncio.run(main())


@pytest.mark.parametrize("gone", [False, True], ids=["changed", "removed"])
def test_calls_in_flight_are_finished(tmp_path: Path, gone: bool) -> None:
    function, other = folder(tmp_path / "one"), folder(tmp_path / "two")

    async def main() -> None:
        async with runners() as some:
            place = await some.place(function)
            pid = await call(place, {})
            held = Held(place, tmp_path)
            await held.has_begun()
            await (some.forget(function.name) if gone else some.changed(other))
            assert await call(await some.place(other), {}) != pid
            assert await held.end() == pid
            while lives(pid):
                await asyncio.sleep(0.02)

    asyncio.run(main())


def test_closing_waits_for_what_was_ended_before(tmp_path: Path) -> None:
    function = folder(tmp_path / "one", HANDLER + "\n\ndef stop():\n    print('the last word')\n")
    said: list[str] = []

    async def main() -> None:
        async with runners(said) as some:
            await some.place(function)
            await some.forget(function.name)
            assert "the last word" not in said
        assert any("the last word" in line for line in said)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/" + 5000 * "a", "cannot be looked at: File name too long"),
        ("/tmp/\ud800", r"there is no folder '/tmp/\\ud800'"),
        ("/tmp/\0", r"there is no folder '/tmp/\\x00'"),
        ("relative", "the folder 'relative' is not absolute"),
    ],
    ids=["long", "surrogate", "nul", "relative"],
)
def test_what_cannot_be_a_folder(location: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        check_folder(location)
    str(caught.value).encode()
