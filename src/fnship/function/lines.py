"""How a log line is written: for the engine, and in three styles for stdout."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, cast

import msgspec

__all__ = [
    "LineStyle",
    "Stdout",
    "Who",
    "engine_line",
    "escape",
    "process_stdout",
    "stamp",
    "style_named",
]

_MILLISECONDS: Final = tuple(f".{number:03d}Z" for number in range(1000))
_COLUMNS: Final = max(map(len, ("DEBUG", "INFO", "WARNING", "ERROR")))


class Who(NamedTuple):
    """Whose line it is; the ids are empty outside of an activity."""

    environment_name: str = ""
    environment_id: str = ""
    activity_id: str = ""


class LineStyle(Protocol):
    """Writes one line, without its newline."""

    def __call__(
        self,
        created: float,
        level: str,
        path: str,
        line: int,
        message: str,
        who: Who,
        extra: Mapping[str, Any] | None,
    ) -> str:
        """Write it from a record's parts."""
        ...


class _Clock:
    """Remembers the text of the second that was asked for last; most lines ask for the same."""

    second: tuple[int, str] = (-1, "")


def stamp(created: float) -> str:
    """A point in time as RFC 3339 in UTC with milliseconds.

    Args:
        created: Seconds since the epoch.
    """
    whole = int(created)
    number, text = _Clock.second
    if whole != number:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _Clock.second = whole, text
    return text + _MILLISECONDS[int((created - whole) * 1000)]


def escape(message: str) -> str:
    r"""Keep a record on one line: a newline in it is written ``\n``."""
    if "\n" in message:
        message = message.replace("\n", "\\n")
    if "\r" in message:
        message = message.replace("\r", "\\r")
    return message


def engine_line(created: float, level: str, path: str, line: int, message: str) -> str:
    """One line as engines store it."""
    return f"time={stamp(created)} level={level} path={path} line={line} msg={escape(message)}"


def text_line(
    created: float,
    level: str,
    path: str,
    line: int,
    message: str,
    who: Who,
    extra: Mapping[str, Any] | None,  # noqa: ARG001 - the text style has no place for it
) -> str:
    """The production style: the engine's line with the ids before its message."""
    return (
        f"time={stamp(created)} level={level} path={path} line={line} "
        f"environment_name={who.environment_name} environment_id={who.environment_id} "
        f"activity_id={who.activity_id} msg={escape(message)}"
    )


def json_line(
    created: float,
    level: str,
    path: str,
    line: int,
    message: str,
    who: Who,
    extra: Mapping[str, Any] | None,
) -> str:
    """One JSON object. What a record was given as ``extra`` stands under its own names."""
    fields: dict[str, Any] = {
        "time": stamp(created),
        "level": level,
        "path": path,
        "line": line,
        "environment_name": who.environment_name,
        "environment_id": who.environment_id,
        "activity_id": who.activity_id,
        "msg": message,
    }
    if extra:
        fields = {**{_printable(key): value for key, value in extra.items()}, **fields}
    try:
        return _encode(fields).decode()
    except Exception:  # noqa: BLE001 - the extras are the user's objects, and may raise anything
        return _encode({key: _printable(value) for key, value in fields.items()}).decode()


def readable_line(
    created: float,
    level: str,
    path: str,
    line: int,
    message: str,
    who: Who,
    extra: Mapping[str, Any] | None,  # noqa: ARG001 - the readable style has no place for it
) -> str:
    """The development style: local time, level, place, and the message with its own lines."""
    clock = time.strftime("%H:%M:%S", time.localtime(created))
    place = f"{PurePath(path).name}:{line}" if line else path
    activity = f" [{who.activity_id}]" if who.activity_id else ""
    return f"{clock} {level:<{_COLUMNS}} {place}{activity} {message}"


_encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder(enc_hook=str).encode
_STYLES: Final[dict[str, LineStyle]] = {
    "text": text_line,
    "json": json_line,
    "readable": readable_line,
}


def style_named(name: str) -> LineStyle:
    """The style that ``LOG_FORMAT`` names: text, json or readable."""
    return _STYLES[name]


def _printable(value: object) -> str:
    """The text of any object; nothing that it does stops a line from being written."""
    try:
        text = str(value)
    except Exception as exc:  # noqa: BLE001 - __str__ is the user's code
        text = f"({type(value).__name__} cannot be shown: {type(exc).__name__})"
    return text.encode(errors="backslashreplace").decode()


def process_stdout() -> BinaryIO:
    """The stream that log lines go to, also where a handler's module has put another in place."""
    try:
        return cast(BinaryIO, sys.stdout.buffer)
    except (AttributeError, ValueError):  # a StringIO, None, or detached
        with contextlib.suppress(OSError):
            return open(1, "wb", closefd=False)
        return io.BytesIO()  # there is no stdout at all


class Stdout:
    """Writes whole lines to a stream at once, from any thread.

    A line is written before the call returns, so a process that is killed loses none that it
    logged. When the stream is gone, lines are dropped: a function outlives its log reader.

    Args:
        stream: A buffered binary stream, such as ``sys.stdout.buffer``.
        style: How lines look.
    """

    def __init__(self, stream: BinaryIO, style: LineStyle) -> None:
        self._stream = stream
        self.style = style
        self.lost = 0  # lines that the stream did not take

    def write(self, line: str) -> None:
        """Write `line` and a newline."""
        try:
            self._stream.write(f"{line}\n".encode(errors="backslashreplace"))
            self._stream.flush()
        except BrokenPipeError:
            self.lost += 1
            self._abandon()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.lost += 1

    def _abandon(self) -> None:
        """Nobody reads any more: what is buffered must not fail once more as the process ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
