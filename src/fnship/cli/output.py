"""What the commands say and how they end."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from typing import Any, Final

from fnship.errors import FnshipError

__all__ = [
    "UNREACHABLE",
    "USAGE",
    "VERDICT",
    "Unreachable",
    "complain",
    "json_text",
    "note",
    "note_frames",
    "readable",
    "show",
]

# Exit statuses.
USAGE: Final = 2
UNREACHABLE: Final = 3
VERDICT: Final = 10
"""Added to the error_code of a function that answered with one."""

_LINE: Final = re.compile(
    r"time=(?P<time>.*?) level=(?P<level>\S*) path=(?P<path>.*?) line=(?P<line>[0-9]+) "
    r"msg=(?P<message>.*)",
    re.DOTALL,
)


class Unreachable(FnshipError):
    """No function answered. Exit status 3."""


def complain(message: str) -> None:
    """Say on stderr, in one line, what is wrong."""
    note(f"fnship: error: {' '.join(message.splitlines())}")


def note(line: str) -> None:
    """Write a line on stderr, in one piece: several threads write there."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def note_frames(trace: Any) -> None:
    """Write on stderr where an exception came from, a line for each frame.

    Args:
        trace: The ``stack_trace`` of a function's error, whatever it is.
    """
    for frame in trace if isinstance(trace, list) else ():
        if isinstance(frame, dict):
            file, line, function = (frame.get(key) for key in ("file", "line", "function"))
            note(f"  | {file}:{line} in {function}")


def show(text: str, *, end: str = "\n") -> None:
    """Write a text to stdout in UTF-8, as logs and JSON are, whatever a terminal takes.

    Args:
        text: The text.
        end: What follows it.
    """
    sys.stdout.flush()
    sys.stdout.buffer.write(f"{text}{end}".encode(errors="backslashreplace"))
    sys.stdout.buffer.flush()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON, in such characters as stdout can show."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def readable(line: str) -> str:
    """A log line of the wire as ``fnship run`` would show it; any other line as it is."""
    match = _LINE.fullmatch(line)
    if match is None:
        return line
    try:
        created = dt.datetime.fromisoformat(match["time"]).timestamp()
    except (ValueError, OverflowError, OSError):
        return line
    from fnship.function.lines import Who, style_named

    message = match["message"]
    if "Traceback (most recent call last):" in message:
        message = message.replace("\\n", "\n")
    return style_named("readable")(
        created, match["level"], match["path"], int(match["line"]), message, Who(), None
    )
