"""Uploads of many attempts in one request, where an engine offers that.

While few requests are on their way, a batch leaves at once; what comes meanwhile shares the next
one. So nobody waits for company, and a busy function needs a fraction of the requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from fnship.function.log_form import FormPart, write_form
from fnship.function.log_poster import Posted, PostFailed

__all__ = ["NotShared", "SharedUploads"]

_REQUESTS: Final = 2  # on their way at once
_PARTS: Final = 200  # in one request
_SMALL: Final = 64 * 2**10  # bytes; what is larger goes alone, so that no small one waits for it
_TOGETHER: Final = 2**20  # bytes of one request, about
_LATER: Final = frozenset({408, 425, 429})  # statuses below 500 that are worth another try


class NotShared(Exception):
    """The engine takes no shared uploads after all: each batch has to go by itself."""


class _Status(msgspec.Struct, frozen=True):
    status: int


class _Answer(msgspec.Struct, frozen=True):
    parts: list[_Status]


class _Waiting(NamedTuple):
    part: FormPart
    status: asyncio.Future[int]


_ANSWER: Final = msgspec.json.Decoder(_Answer)
Send: TypeAlias = Callable[[dict[str, str], bytes], Awaitable[Posted]]


class SharedUploads:
    """Sends batches to one endpoint together.

    Args:
        send: Sends headers and a body there; raises `PostFailed`.
        spawn: Starts a coroutine that nobody waits for.
    """

    def __init__(self, send: Send, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._send = send
        self._spawn = spawn
        self._waiting: deque[_Waiting] = deque()
        self._senders = 0
        self._refused = False

    def takes(self, content: bytes) -> bool:
        """Whether a batch may be sent with others."""
        return not self._refused and len(content) <= _SMALL

    async def post(self, part: FormPart) -> int:
        """Send a batch, with whatever else there is by then.

        Returns:
            The status that the engine gives to this batch.

        Raises:
            PostFailed: There was no answer.
            NotShared: It has to be sent by itself.
        """
        waiting = _Waiting(part, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._senders < _REQUESTS:
            self._senders += 1
            self._spawn(self._send_all())
        return await waiting.status

    async def _send_all(self) -> None:
        taken: list[_Waiting] = []
        try:
            while taken := self._take():
                await self._send_some(taken)
        finally:
            self._senders -= 1
            _fail(taken, PostFailed, "the upload was cut off")

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        size = 0
        while self._waiting and len(taken) < _PARTS and size < _TOGETHER:
            waiting = self._waiting.popleft()
            if not waiting.status.done():  # whoever sent it has been cancelled
                taken.append(waiting)
                size += len(waiting.part.content)
        return taken

    async def _send_some(self, taken: list[_Waiting]) -> None:
        kind, body = write_form([each.part for each in taken])
        try:
            posted = await self._send({"Content-Type": kind}, body)
        except PostFailed as exc:
            _fail(taken, PostFailed, str(exc))
            return
        except Exception as exc:  # noqa: BLE001 - no trouble of the client's may lose a line
            _fail(taken, PostFailed, type(exc).__name__)
            return
        statuses = _statuses(posted, len(taken))
        if statuses is None:
            self._refused = True
            _fail(taken, NotShared, "")
            return
        for each, status in zip(taken, statuses, strict=True):
            if not each.status.done():
                each.status.set_result(status)


def _statuses(posted: Posted, count: int) -> list[int] | None:
    """The status of each part; None where the answer is not of the kind that was offered."""
    if posted.status >= 500 or posted.status in _LATER:
        return [posted.status] * count
    if posted.status != 200:
        return None
    try:
        answer = _ANSWER.decode(posted.body)
    except msgspec.MsgspecError:
        return None
    return [each.status for each in answer.parts] if len(answer.parts) == count else None


def _fail(taken: list[_Waiting], error: type[Exception], text: str) -> None:
    for each in taken:
        if not each.status.done():
            each.status.set_exception(error(text))
