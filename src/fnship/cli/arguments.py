"""What ``fnship invoke`` is given on its command line, read and checked."""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
from pathlib import Path
from typing import Any, Final, NoReturn

from fnship.durations import parse_duration
from fnship.errors import UsageError

__all__ = ["check_duration", "check_value", "read_data", "read_header", "read_source", "read_url"]

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def read_source(given: str, name: str) -> tuple[str, bytes]:
    """The bytes that an argument stands for.

    Args:
        given: Themselves, ``@file``, or ``-`` for stdin.
        name: What the argument is called.

    Returns:
        What they are from, for messages, and the bytes.

    Raises:
        UsageError: They cannot be read.
    """
    source = "stdin" if given == "-" else given[1:] if given.startswith("@") else name
    try:
        if given == "-":
            return source, sys.stdin.buffer.read()
        if given.startswith("@"):
            return source, Path(source).read_bytes()
    except OSError as exc:
        raise UsageError(f"cannot read {source}: {exc.strerror}") from exc
    return source, given.encode(errors="surrogateescape")


def read_data(given: str) -> bytes:
    """The request body that ``--data`` names.

    Args:
        given: JSON, ``@file``, or ``-`` for stdin. Nothing in it is the empty object.

    Returns:
        The JSON as it was given, in UTF-8.

    Raises:
        UsageError: It cannot be read, or is not a JSON object; says where it breaks.
    """
    source, raw = read_source(given, "--data")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"{source} is not UTF-8: byte {exc.start + 1}") from exc
    if not text.strip():
        return b"{}"
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as exc:
        raise UsageError(
            f"{source} is not JSON: {exc.msg}, line {exc.lineno} column {exc.colno}{_hint(text)}"
        ) from exc
    except RecursionError as exc:
        raise UsageError(f"{source} is nested too deep") from exc
    except ValueError as exc:
        raise UsageError(f"{source} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise UsageError(f"{source} must be a JSON object, but is {_kind(value)}")
    return text.encode()


def read_header(given: str) -> tuple[str, str]:
    """The header that ``--header`` names.

    Args:
        given: ``Name: value``.

    Raises:
        UsageError: It is no header.
    """
    name, colon, value = given.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _NAME.fullmatch(name) or _CONTROL.search(value):
        shown = name if colon else given  # never the value: it may be a secret
        raise UsageError(f"--header {shown!r} is no header: write it as 'Name: value'")
    return name, value


def check_duration(option: str, given: str) -> None:
    """See that `given` is a duration, and longer than nothing.

    Raises:
        UsageError: It is not.
    """
    try:
        seconds = parse_duration(given)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise UsageError(
            f"{option} {given!r} is no duration: write whole seconds, or one such as 1m30s"
        )


def check_value(name: str, value: str) -> None:
    """See that the header `name` can carry `value`.

    Raises:
        UsageError: It cannot.
    """
    if _CONTROL.search(value):
        raise UsageError(
            f"the header {name} cannot carry {value!r}: it has a control character in it"
        )


def read_url(given: str) -> str:
    """The address of a function.

    Raises:
        UsageError: It is no http or https URL with a host.
    """
    try:
        parts = urllib.parse.urlsplit(given)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a host in half a bracket
        usable = False
    if not usable or re.search(r"\s", given):
        raise UsageError(f"{given!r} is no URL such as http://127.0.0.1:5000")
    return given


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is none of its numbers")


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else "a boolean" if isinstance(value, bool) else "a number"


def _hint(text: str) -> str:
    """What a shell has most often done to it."""
    if '"' not in text and re.match(r"\s*\{\s*\w", text):
        return ". The shell took its quotes: put single ones around the whole, '{\"name\": 1}'"
    return ""
