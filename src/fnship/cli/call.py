"""One call of a function over HTTP, and what its answer says."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fnship import contract
from fnship.cli.output import Unreachable

__all__ = ["Answer", "Reply", "is_function", "read_answer", "send"]

_CONNECT_TIMEOUT: Final = 10.0
_PROBE_TIMEOUT: Final = 2.0
_NOT_HERE: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
_BUSY: Final = HTTPStatus.TOO_MANY_REQUESTS
_READY_ANSWERS: Final = (HTTPStatus.OK, _BUSY, HTTPStatus.SERVICE_UNAVAILABLE)
_SHOWN: Final = 200  # bytes of an answer that is not the function's own


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        status: The HTTP status.
        body: The body's bytes.
        seconds: From the call until the whole body was there.
    """

    status: int
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply says.

    Attributes:
        value: What the function returned; on an error, the whole of its answer.
        error_code: 0 for success, else one of the codes in `fnship.contract`.
    """

    value: Any
    error_code: int = 0


def send(url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
    """Call a function, and wait for its answer for as long as it takes.

    Raises:
        Unreachable: There was no answer.
    """
    import urllib3

    headers = {
        "Content-Type": "application/json",
        # UTF-8 in a header, by way of the only encoding that the client writes.
        **{
            name: value.encode(errors="surrogateescape").decode("latin-1")
            for name, value in headers.items()
        },
    }
    timeout = urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=None)
    begun = time.perf_counter()
    try:
        with urllib3.PoolManager(retries=False, timeout=timeout) as pool:
            response = pool.request("POST", url, body=body, headers=headers, redirect=False)
            return Reply(response.status, response.data, time.perf_counter() - begun)
    except urllib3.exceptions.HTTPError as exc:
        raise Unreachable(f"{url} does not answer: {_reason(exc)}") from exc


def is_function(url: str) -> bool:
    """Whether a function server answers there, ready or not."""
    import urllib3

    try:
        with urllib3.PoolManager(retries=False, timeout=_PROBE_TIMEOUT) as pool:
            response = pool.request("GET", f"{url}{contract.READY_PATH}", redirect=False)
            said = json.loads(response.data)
    except (urllib3.exceptions.HTTPError, ValueError):
        return False
    return isinstance(said, dict) and response.status in _READY_ANSWERS


def read_answer(url: str, reply: Reply) -> Answer:
    """Tell a result from an error.

    Args:
        url: What was called, for messages.
        reply: What came back.

    Raises:
        Unreachable: No function can have said that.
    """
    value, is_json = _decode(reply.body)
    if reply.status == HTTPStatus.OK and is_json:
        wrapped = isinstance(value, dict) and value.keys() == {"data"}
        return Answer(value["data"] if wrapped else value)
    code = value.get("error_code") if isinstance(value, dict) else None
    if isinstance(code, int) and code > 0 and reply.status not in _NOT_HERE:
        return Answer(value, code)
    if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR or reply.status == _BUSY:
        # A gateway or a watchdog spoke for a function that could not: worth another try.
        shown = reply.body[:_SHOWN].decode(errors="replace").strip()
        message = f"HTTP status {reply.status}{f': {shown}' if shown else ''}"
        return Answer({"error_code": contract.TRANSIENT, "message": message}, contract.TRANSIENT)
    language = "" if is_json else ", and not in JSON"
    raise Unreachable(f"{url} answered {reply.status}{language}: is a function there?")


def _decode(body: bytes) -> tuple[Any, bool]:
    try:
        return json.loads(body), True
    except (ValueError, RecursionError):
        return None, False


def _reason(exc: Exception) -> str:
    """The innermost cause, in the system's words."""
    cause: BaseException = exc
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause)
