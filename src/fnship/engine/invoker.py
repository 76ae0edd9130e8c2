"""One attempt over HTTP: what a function is sent, and what its answer means."""

from __future__ import annotations

import datetime as dt
import email.utils
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from fnship import contract
from fnship.engine.model import Outcome
from fnship.engine.verbatim import verbatim
from fnship.errors import MalformedJSON

__all__ = [
    "MAX_ANSWER",
    "Answer",
    "Attempt",
    "Invoker",
    "deadline",
    "go_duration",
    "read_answer",
    "reason",
    "request_body",
]

MAX_ANSWER: Final = 16 * 2**20
"""Bytes of a function's answer that are taken."""

_CONNECT: Final = 10.0  # seconds for a connection
_LATE: Final = 2.0  # seconds beyond its timeout in which a function may still say that it is over
_SHOWN: Final = 200  # characters of an answer that is no JSON, in the message about it
_TRY_AGAIN: Final = frozenset({408, 425, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a function is asked to do once.

    Attributes:
        url: Where it answers.
        body: A JSON object.
        headers: What the contract puts beside it.
        timeout: Seconds that it may take.
    """

    url: str
    body: bytes
    headers: Mapping[str, str]
    timeout: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Attributes:
        outcome: How it ended.
        retry_after: Seconds that the server asks to be left alone; None where it does not.
        broken: Whether there was no answer because there was no connection, or no more.
    """

    outcome: Outcome
    retry_after: float | None = None
    broken: bool = False


class _Error(msgspec.Struct):
    """The body of an answer that is an error."""

    error_code: int
    message: str = ""
    data: msgspec.Raw = msgspec.Raw()
    stack_trace: msgspec.Raw = msgspec.Raw()


_ERRORS: Final = msgspec.json.Decoder(_Error)
_OBJECTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Invoker:
    """Sends attempts. Never follows a redirect, and uses no proxy and no cookies.

    Args:
        connector: Makes the connections; checks where they go.
    """

    def __init__(self, connector: aiohttp.BaseConnector) -> None:
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
            skip_auto_headers=("User-Agent", "Accept"),
            headers={"User-Agent": "fnship-engine", "Content-Type": "application/json"},
        )

    async def send(self, attempt: Attempt) -> Answer:
        """Make an attempt.

        Returns:
            What came of it, whatever that is: what went wrong on the way is an outcome too.
        """
        try:
            async with self._session.post(
                attempt.url,
                data=attempt.body,
                headers=attempt.headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(attempt.timeout + _LATE, sock_connect=_CONNECT),
            ) as response:
                body = await _read(response)
                if body is None:
                    return Answer(_failed(f"the answer is larger than {MAX_ANSWER} bytes"))
                return read_answer(response.status, response.headers, body, time.time())
        except TimeoutError:
            return Answer(_transient(f"it did not answer within {attempt.timeout:g} s"))
        except aiohttp.InvalidURL:
            return Answer(_failed(f"{attempt.url} is no URL"))
        except aiohttp.ClientConnectorError as exc:
            outcome = _transient(f"cannot connect to {attempt.url}: {reason(exc)}")
            return Answer(outcome, broken=True)
        except (aiohttp.ClientError, OSError) as exc:
            return Answer(_transient(f"the connection broke: {reason(exc)}"), broken=True)

    async def close(self) -> None:
        """Close what connections there are."""
        await self._session.close()


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None where it is too large."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER:
            response.close()
            return None
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def request_body(payload: bytes, previous: bytes | None) -> bytes:
    """What is sent: the payload, and with it what the last attempt gave.

    Args:
        payload: A JSON object, as its caller wrote it.
        previous: JSON, handed back as it came; None for none.
    """
    if previous is None:
        return payload
    head = payload.rstrip()[:-1].rstrip()
    comma = b"" if head.strip() == b"{" else b","
    # Of two keys of the same name the last one counts, so the caller's own is replaced.
    return head + comma + b'"previous":' + previous + b"}"


def read_answer(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
    """What an answer means to the engine.

    Args:
        status: The HTTP status.
        headers: Its headers.
        body: Its body.
        now: Seconds since 1970.
    """
    if 200 <= status < 300:  # ours answers 200; another's handler may say 201 or 204
        return Answer(_success(body))
    error = _error(body)
    if status in _TRY_AGAIN:
        message = error.message if error is not None else ""
        outcome = _transient(message or f"it answered {status}{_shown(body)}")
        return Answer(outcome, _retry_after(headers, now))
    if error is not None:
        return Answer(
            Outcome(
                code=error.error_code,
                message=error.message,
                data=error.data or None,
                stack_trace=error.stack_trace or None,
            )
        )
    if 300 <= status < 400:
        return Answer(
            _failed(
                f"it answered {status}, a redirect to {headers.get('Location', 'nowhere')!r}, "
                "which is not followed: register the function with the URL where it answers"
            )
        )
    if status >= 500:
        return Answer(_transient(f"it answered {status} without an error_code{_shown(body)}"))
    return Answer(_failed(f"it answered {status}{_shown(body)}"))


def deadline(now: float, timeout: float) -> str:
    """When an attempt that begins now must be over, as RFC 3339 has it."""
    moment = dt.datetime.fromtimestamp(now + timeout, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def go_duration(seconds: float) -> str:
    """A Go duration, as ``X-Timeout`` is written."""
    return f"{max(1, round(seconds * 1000))}ms"


def _success(body: bytes) -> Outcome:
    if not body.strip():
        return Outcome(data=msgspec.Raw(b"null"))
    try:
        body = verbatim(body)
    except MalformedJSON as exc:
        return _failed(f"it answered with JSON that cannot be read ({exc}){_shown(body)}")
    try:
        value = _OBJECTS.decode(body)
    except msgspec.DecodeError:
        return Outcome(data=msgspec.Raw(body))  # which is no object
    # Another server's function may answer with its bare result.
    return Outcome(data=value["data"] if "data" in value else msgspec.Raw(body))


def _error(body: bytes) -> _Error | None:
    try:
        error = _ERRORS.decode(verbatim(body))
    except (MalformedJSON, msgspec.DecodeError):
        return None
    known = contract.EXECUTE_AGAIN <= error.error_code <= contract.CONFLICT
    return error if known else None


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The ``Retry-After`` of an answer in seconds (RFC 9110, 10.2.3)."""
    given = headers.get("Retry-After", "")
    if given.isascii() and given.isdecimal() and len(given) < 10:
        return float(given)
    try:
        moment = email.utils.parsedate_to_datetime(given)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _shown(body: bytes) -> str:
    text = " ".join(body[: 4 * _SHOWN].decode(errors="replace").split())
    return f": {text[:_SHOWN]}" if text else ""


def reason(exc: Any) -> str:
    """Why a request had no answer, in the words of the operating system where it has some.

    Args:
        exc: What aiohttp raised.
    """
    inner = getattr(exc, "os_error", None) or exc
    number = getattr(inner, "errno", None)
    # asyncio's own words for it repeat the address, and leave out what went wrong.
    said = os.strerror(number) if isinstance(number, int) and number > 0 else ""
    return said or getattr(inner, "strerror", None) or str(inner) or type(exc).__name__


def _failed(message: str) -> Outcome:
    return Outcome(code=contract.FAILED, message=message)


def _transient(message: str) -> Outcome:
    return Outcome(code=contract.TRANSIENT, message=message)
