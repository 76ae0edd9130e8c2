"""A logger for each invocation: its lines go to stdout and, for an engine call, to the engine."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping
from types import FrameType
from typing import Any, Final, Protocol

from fnship.function.lines import Stdout, Who, engine_line

__all__ = ["ActivityLog", "ActivityLogger", "LineTaker", "record_message"]

_REDACTED: Final = "[redacted]"
_LEFT_IN_URLS: Final = ("", "/", "/=", "!$'()*,:;?@/=&+")  # by the encoders that are in use
_NEVER_QUOTED: Final = re.compile(r"[A-Za-z0-9_.~-]+")
_PARTS_OF_A_LINE: Final = 1024  # prints without a newline, before they are put together
_SHORTEST_SECRET: Final = 3  # redacting shorter texts would only tear up the words around them
_LOGGING_FILE: Final = logging.Logger.info.__code__.co_filename
_format_exception: Final = logging.Formatter().formatException
_PLAIN_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LineTaker(Protocol):
    """Takes whole lines on their way to the engine."""

    def append(self, line: bytes) -> None:
        """Take one line, its newline included. Called from any thread; must not block."""

    async def flush(self, wait: float) -> None:
        """Send what was taken, and wait for that at most `wait` seconds."""


class ActivityLog:
    """Where the lines of one invocation go.

    Args:
        stdout: The process's own stream.
        who: Whose lines they are.
        secrets: Texts that must not be seen in any line.
        engine: Takes the lines for the engine; None where there is none.
    """

    __slots__ = ("_partial", "_secrets", "engine", "stdout", "who")

    def __init__(
        self,
        stdout: Stdout,
        who: Who = Who(),  # noqa: B008 - immutable
        secrets: tuple[str, ...] = (),
        engine: LineTaker | None = None,
    ) -> None:
        self.stdout = stdout
        self.who = who
        self.engine = engine
        self._secrets = _with_quoted(secrets) if secrets else ()
        self._partial: dict[int, list[str]] = {}  # by thread: what print has not ended yet

    def write(
        self,
        created: float,
        level: str,
        path: str,
        line: int,
        message: str,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one record.

        Args:
            created: Seconds since the epoch.
            level: Name of its level.
            path: Source file that logged it.
            line: Line in that file.
            message: Its text, newlines and all.
            extra: Further fields, for the JSON style.
        """
        if self._secrets:
            message = self.redact(message)
        text = self.stdout.style(created, level, path, line, message, self.who, extra)
        self.stdout.write(self.redact(text) if extra else text)
        if self.engine is not None:
            engine_text = engine_line(created, level, path, line, message)
            self.engine.append(f"{engine_text}\n".encode(errors="backslashreplace"))

    def printed(self, text: str) -> None:
        """Take what ``print`` wrote: each line that is whole becomes a record."""
        parts = self._partial.setdefault(threading.get_ident(), [])
        parts.append(text)
        if "\n" not in text and len(parts) < _PARTS_OF_A_LINE:
            return
        *whole, rest = "".join(parts).split("\n")
        parts[:] = [rest] if rest else []
        now = time.time()
        for line in whole:
            self.write(now, "INFO", "stdout", 0, line)

    def end_prints(self) -> None:
        """Write what ``print`` left without a newline; the invocation is over."""
        while self._partial:
            _, parts = self._partial.popitem()
            if rest := "".join(parts):
                self.write(time.time(), "INFO", "stdout", 0, rest)

    async def close(self, wait: float) -> None:
        """Bring the last lines on their way; the invocation is over.

        Args:
            wait: At most so many seconds for the engine to store them.
        """
        if self._partial:
            self.end_prints()
        if self.engine is not None:
            await self.engine.flush(wait)

    def redact(self, text: str) -> str:
        """The text without the secrets of this invocation."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, _REDACTED)
        return text


def _with_quoted(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """The secrets, longest first, and as they look in a URL, in JSON and in a repr."""
    plain = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
    known = set(plain)
    for secret in plain:
        if _NEVER_QUOTED.fullmatch(secret):
            continue  # nearly every token: it looks the same wherever it stands
        for safe in _LEFT_IN_URLS:
            quoted = urllib.parse.quote(secret, safe=safe)
            known |= {quoted, re.sub("%..", _lower, quoted)}
        known |= {
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            repr(secret)[1:-1],
        }
    return tuple(sorted(known, key=len, reverse=True))


def _lower(match: re.Match[str]) -> str:
    return match[0].lower()


def record_message(record: logging.LogRecord) -> str:
    """A record's text with its traceback and stack, if it has any."""
    message = _merge(record.msg, record.args)
    if record.exc_info and not record.exc_text:
        record.exc_text = _format_exception(record.exc_info)
    parts = (message, record.exc_text, record.stack_info)
    return (
        "\n".join(part for part in parts if part)
        if record.exc_text or record.stack_info
        else (message)
    )


def _merge(msg: object, args: Any) -> str:
    """``msg % args``; a mistake in them is shown in the line, and never raised at the caller."""
    try:
        text = str(msg)
        return text % args if args else text
    except Exception as exc:  # noqa: BLE001 - __str__ and __format__ are the user's code
        shown = " ".join(_shown(each) for each in (msg, args) if each is not None)
        return f"{shown} (cannot be formatted: {type(exc).__name__})"


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - __repr__ is the user's code
        return f"<{type(value).__name__}>"


class LogOwner(Protocol):
    """Whose lines a logger writes: an invocation."""

    @property
    def log(self) -> ActivityLog:
        """Where they go."""
        ...


class ActivityLogger(logging.Logger):
    """A `logging.Logger` that belongs to one invocation and is in no hierarchy.

    It takes everything that a logger takes: levels, ``extra``, ``exc_info``, ``stacklevel``,
    filters, handlers of your own (which get each record too).
    """

    def __init__(self, name: str, level: int, owner: LogOwner) -> None:
        # What Logger.__init__ would set, without its checks: this runs for every request.
        self.name = name
        self.level = level
        self.parent = None
        self.propagate = False
        self.handlers = []
        self.filters = []
        self.disabled = False
        self._owner = owner

    def __reduce__(self) -> Any:
        raise TypeError("the logger of an invocation cannot be pickled; send its lines instead")

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - logging's name
        """Log from `level` on, for this invocation alone."""
        holder = logging.Handler()
        holder.setLevel(level)  # understands and checks names and numbers
        self.level = holder.level

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Whether a record of `level` would be written."""
        return level >= self.level and level > self.manager.disable and not self.disabled

    def handle(self, record: logging.LogRecord) -> None:
        """Write a record that was made elsewhere."""
        if self.disabled:
            return
        kept: object = self.filter(record)
        if not kept:
            return
        if isinstance(kept, logging.LogRecord):  # since 3.12 a filter may put another in its place
            record = kept
        extra = {key: item for key, item in vars(record).items() if key not in _PLAIN_RECORD}
        self._owner.log.write(
            record.created,
            record.levelname,
            record.pathname,
            record.lineno,
            record_message(record),
            extra,
        )
        for handler in self.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)

    def _log(
        self,
        level: int,
        msg: object,
        args: Any,
        exc_info: Any = None,
        extra: Mapping[str, Any] | None = None,
        stack_info: bool = False,
        stacklevel: int = 1,
    ) -> None:
        frame = _caller(sys._getframe(1), stacklevel)  # noqa: SLF001 - as logging itself does
        if not (exc_info or stack_info or self.filters or self.handlers):
            # The common call, without the cost of a record.
            if len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
                args = args[0]  # "%(name)s" style, as logging reads it
            self._owner.log.write(
                time.time(),
                logging.getLevelName(level),
                frame.f_code.co_filename,
                frame.f_lineno,
                _merge(msg, args),
                extra,
            )
            return
        if isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        elif exc_info and not isinstance(exc_info, tuple):
            exc_info = sys.exc_info()
        stack = None
        if stack_info:
            import traceback

            stack = "Stack (most recent call last):\n" + "".join(traceback.format_stack(frame))
        record = self.makeRecord(
            self.name,
            level,
            frame.f_code.co_filename,
            frame.f_lineno,
            msg,
            args,
            exc_info,
            frame.f_code.co_name,
            extra,
            stack.rstrip("\n") if stack else None,
        )
        self.handle(record)


def _caller(frame: FrameType, stacklevel: int) -> FrameType:
    """The frame that logged: `stacklevel` frames out, not counting those of `logging`."""
    while True:
        if frame.f_code.co_filename != _LOGGING_FILE:
            stacklevel -= 1
        if stacklevel < 1 or frame.f_back is None:
            return frame
        frame = frame.f_back
