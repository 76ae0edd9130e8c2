"""What the state client's parts pass to each other: scopes, items, and the steps of an operation.

Every operation on the store is a generator of steps. It yields a `Request` and is sent the
`Response`, or has `Unreached` thrown in; it yields a `Pause` and is sent nothing; it yields an
`Update` and is sent what the function returned. What it returns is the operation's result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

__all__ = [
    "BROKE",
    "Pause",
    "Request",
    "Response",
    "StateItem",
    "StateScope",
    "Step",
    "Steps",
    "Unreached",
    "Update",
    "why_unreached",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StateScope:
    """Where keys live: an organization, a project in it, or an environment in that.

    Args:
        organization_id: The organization.
        project_id: None for the organization's own keys.
        environment_id: None for the project's own keys.
    """

    organization_id: str
    project_id: str | None = None
    environment_id: str | None = None

    def __str__(self) -> str:
        words = [f"organization {self.organization_id}"]
        if self.project_id:
            words.append(f"project {self.project_id}")
        if self.environment_id:
            words.append(f"environment {self.environment_id}")
        return ", ".join(words)


class StateItem(NamedTuple):
    """A key in a listing."""

    key: str
    value: Any
    version: int


@dataclass(frozen=True, slots=True)
class Request:
    """Send this. `headers` are not in the repr, because a token is among them."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What came back."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Update:
    """Call `function` with `value`."""

    function: Callable[[Any], Any]
    value: Any


class Unreached(Exception):
    """No whole answer came.

    Args:
        problem: What happened, as the rest of a sentence about the store.
        sent: Whether the request may have arrived.
        cut: Whether the connection broke, as one from a pool does when the store has
            closed it meanwhile.
    """

    def __init__(self, problem: str, *, sent: bool, cut: bool = False) -> None:
        self.problem = problem
        self.sent = sent
        self.cut = cut
        super().__init__(problem)


def why_unreached(exc: BaseException) -> str:
    """Why no connection was made, as the rest of a sentence about the store.

    Args:
        exc: What an HTTP client raised. Its own text may carry a URL, so it is not used;
            the system's error behind it is.
    """
    import ssl

    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"was not reached: its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return f"was not reached: TLS failed ({cause.reason or 'no handshake'})"
        if isinstance(cause, OSError) and cause.errno:
            words = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
            return f"was not reached: {words}"
        cause = cause.__cause__ or cause.__context__
    return "was not reached"


BROKE: Final = "broke the connection off before its answer was whole"

Step: TypeAlias = Request | Pause | Update
Steps: TypeAlias = Generator[Step, Any, T]
