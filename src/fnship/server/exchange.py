"""One request and its answer, as every server of ours hands them to the function and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from fnship import contract
from fnship.errors import NotJSON
from fnship.function import codec
from fnship.function.handler import place_of
from fnship.function.invocation import Cancelled, Invocation, Outcome

__all__ = [
    "DURATION",
    "Connection",
    "Exchange",
    "Response",
    "error_response",
    "not_ready",
    "outcome_response",
    "refusal",
    "start_problem",
]

DURATION: Final = b"x-duration-seconds"
"""The header in which a watchdog says how long a request took."""

_TRY_AGAIN: Final = frozenset({408, 429, 502, 503, 504})


class Response(NamedTuple):
    """An answer: its status, its JSON, and what stands in its head beside the usual."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Connection(Protocol):
    """Where a request came from."""

    def answer_early(self, exchange: Exchange, response: Response) -> None:
        """Answer a request whose handler goes on; what that returns later is dropped."""


class Exchange:
    """One request that has arrived, with what its connection must know of it.

    Args:
        method: Such as ``POST``.
        path: Without its query.
        headers: Names in lower case and values.
        body: The whole body; None where it was larger than ``MAX_BODY_SIZE``.

    Attributes:
        invocation: What runs for it; None before and after.
        gone: Whether the client has closed the connection, or has its answer already.
        connection: Where it came from; None until it is served.
        early: The status that it was answered with while the handler went on; None as a rule.
        seconds: How long it took, where the answer's head is to say so; None where it is not.
    """

    __slots__ = (
        "body",
        "connection",
        "early",
        "gone",
        "headers",
        "invocation",
        "method",
        "path",
        "seconds",
    )

    def __init__(
        self,
        method: str,
        path: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes | bytearray | None,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.invocation: Invocation | None = None
        self.gone = False
        self.early: int | None = None
        self.connection: Connection | None = None
        self.seconds: float | None = None

    def head(self, response: Response) -> tuple[tuple[bytes, bytes], ...]:
        """What stands in the head of its answer beside the usual."""
        if self.seconds is None:
            return response.headers
        return *response.headers, (DURATION, b"%.6f" % self.seconds)

    def answered_early(self, response: Response) -> None:
        """Note that it has its answer, though the handler goes on."""
        self.gone = True
        self.early = response.status

    def cancel(self, why: Cancelled) -> None:
        """Cancel what runs for it, if anything does."""
        if self.invocation is not None:
            self.invocation.cancel(why)


def error_response(
    status: int,
    message: str,
    error_code: int = contract.FAILED,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Response:
    """An answer that says what is wrong, in the form of the contract."""
    body = codec.encode({"error_code": error_code, "message": message})
    return Response(status, body, headers)


def refusal(status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    """An answer for a request that somebody in front of the function refuses with `status`."""
    again = status in _TRY_AGAIN
    return error_response(
        status, message, contract.TRANSIENT if again else contract.FAILED, headers
    )


def start_problem(exc: BaseException) -> str:
    """What a function's ``start()`` raised, and where."""
    file, line = place_of(exc, Path.cwd())
    return f"{file}:{line}: start() failed with {type(exc).__name__}: {exc}"


def not_ready(reason: str) -> Response:
    """The answer of a probe that says no."""
    return Response(503, codec.encode({"status": "not ready", "reason": reason}))


def outcome_response(outcome: Outcome, invocation: Invocation | None) -> Response:
    """The answer to an invocation that did not succeed."""
    answer: dict[str, Any] = {"error_code": outcome.error_code, "message": outcome.message}
    if outcome.value is not None:
        answer["data"] = outcome.value
    if outcome.stack_trace is not None:
        answer["stack_trace"] = outcome.stack_trace
    status = 504 if outcome.timed_out else 503 if outcome.refused else 500
    try:
        return Response(status, codec.encode(answer, root="error"))
    except NotJSON as exc:
        problem = str(exc) if invocation is None else invocation.log.redact(str(exc))
        return error_response(500, f"the handler's error holds what JSON cannot carry: {problem}")
