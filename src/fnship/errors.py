"""Every exception of fnship, in one tree.

::

FnshipError
├── FunctionError            what a handler raises; answered with its error_code
│   ├── ExecuteAgain             1: run me again later, with this data
│   ├── Failed                   2: do not try again
│   ├── Transient                3: try again, it may work then
│   ├── NotFound                 4: what was asked for does not exist
│   ├── Conflict                 5: somebody else was first
│   └── StateError               the state store said no, or nothing
│       ├── StateUnavailable         3: not reached, timed out, or 5xx
│       ├── StateDenied              2: the token or the request was refused
│       └── StateConflict            5: the version is no longer current
│           └── StateContention          3: still so after every retry of set()
├── MalformedJSON            bytes that are no JSON (a ValueError too)
├── NotJSON                  a value that JSON cannot carry
├── EngineError              what the engine refuses, or could not do
│   ├── InvalidRequest           400: a value that it cannot take
│   ├── TokenRefused             401: no token, a wrong one, or an old one
│   ├── NotAllowed               403: the token is good, but not for this
│   ├── Missing                  404: no such function, activity or key
│   ├── AlreadyThere             409: the id stands for something else
│   ├── KeyReused                422: the Idempotency-Key stands for another payload
│   ├── QuotaExceeded            413: larger or more than is allowed
│   ├── Overloaded               503: too much at once; try again later
│   └── StorageError             507: the database could not store or read it
└── UsageError               a mistake of the user's: one clear line, exit status 2
    ├── SettingError             a setting (environment variable) is wrong
    └── HandlerError             the handler cannot be loaded
"""

from __future__ import annotations

from typing import Any

from fnship import contract

__all__ = [
    "AlreadyThere",
    "Conflict",
    "EngineError",
    "ExecuteAgain",
    "Failed",
    "FnshipError",
    "FunctionError",
    "HandlerError",
    "InvalidRequest",
    "KeyReused",
    "MalformedJSON",
    "Missing",
    "NotAllowed",
    "NotFound",
    "NotJSON",
    "Overloaded",
    "QuotaExceeded",
    "SettingError",
    "StateConflict",
    "StateContention",
    "StateDenied",
    "StateError",
    "StateUnavailable",
    "StorageError",
    "TokenRefused",
    "Transient",
    "UsageError",
]


class FnshipError(Exception):
    """Base of everything that fnship raises on purpose."""


class FunctionError(FnshipError):
    """A handler's own verdict on an invocation.

    Args:
        message: What the caller reads in the answer.
        error_code: What an engine decides by; one of the codes in `fnship.contract`.
    """

    error_code: int = contract.FAILED
    prefix: str = ""

    def __init__(self, message: object = "", error_code: int | None = None) -> None:
        self.message = f"{self.prefix}{message}"
        if error_code is not None:
            self.error_code = error_code
        super().__init__(self.message)

    @property
    def data(self) -> dict[str, Any] | None:
        """What goes into the answer's ``data``; None for no such key."""
        return None


class ExecuteAgain(FunctionError):
    """Ask the engine to run this activity again, with `data` under ``request["previous"]``.

    Args:
        message: Why, for the log.
        **data: JSON values, handed back verbatim. ``retry_after`` (seconds) asks for a
            delay of your own instead of the engine's.
    """

    error_code = contract.EXECUTE_AGAIN
    prefix = "function: execute again: "

    def __init__(self, message: object = "", **data: Any) -> None:
        super().__init__(message)
        self._data = data

    @property
    def data(self) -> dict[str, Any]:
        """The keyword arguments that this was raised with."""
        return self._data


class Failed(FunctionError):
    """The activity failed, and trying again would not help."""

    prefix = "function: failed: "

    def __init__(self, message: object = "") -> None:
        super().__init__(message)


class Transient(FunctionError):
    """The activity failed, but may work when the engine tries again."""

    error_code = contract.TRANSIENT
    prefix = "function: transient error: "

    def __init__(self, message: object = "") -> None:
        super().__init__(message)


class NotFound(FunctionError):
    """What the caller asked for does not exist; the engine does not try again."""

    error_code = contract.NOT_FOUND
    prefix = "function: not found: "

    def __init__(self, message: object = "") -> None:
        super().__init__(message)


class Conflict(FunctionError):
    """The request contradicts what is there already; the engine does not try again."""

    error_code = contract.CONFLICT
    prefix = "function: conflict: "

    def __init__(self, message: object = "") -> None:
        super().__init__(message)


class StateError(FunctionError):
    """The state store could not do what was asked.

    A handler that lets it pass ends with the error code of the subclass, so an engine
    tries again exactly where that may help.

    Args:
        problem: What happened, without any token.
        key: The state key; empty for a listing.
        scope: The scope in words, such as ``organization o1, project p1``.
    """

    def __init__(self, problem: str, *, key: str, scope: str) -> None:
        self.problem = problem
        self.key = key
        self.scope = scope
        super().__init__(f"state key {key!r} ({scope}): {problem}")


class StateUnavailable(StateError):
    """The store was not reached, did not answer in time, or answered 5xx. Try again later."""

    error_code = contract.TRANSIENT


class StateDenied(StateError):
    """The store refused the token or the request. `status` is its HTTP status."""

    def __init__(self, problem: str, *, key: str, scope: str, status: int) -> None:
        self.status = status
        super().__init__(problem, key=key, scope=scope)


class StateConflict(StateError):
    """The version given is no longer current: read the key again and decide anew."""

    error_code = contract.CONFLICT


class StateContention(StateConflict):
    """`set` lost every race it was allowed. Raise `max_retries`, or spread the writers."""

    error_code = contract.TRANSIENT


class MalformedJSON(FnshipError, ValueError):
    """Bytes that are no JSON. The text says what is wrong and, where it can, at which place."""


class NotJSON(FnshipError):
    """A value that JSON cannot carry.

    Attributes:
        type_name: The type at fault, or what is wrong with the value.
        key_path: Where it stands, such as ``result["items"][3]``.
    """

    def __init__(self, problem: str, *, type_name: str, key_path: str) -> None:
        self.type_name = type_name
        self.key_path = key_path
        super().__init__(f"{key_path} {problem}")


class EngineError(FnshipError):
    """The engine refuses a request, or could not do it. Its text says what was wrong.

    Attributes:
        status: The HTTP status that its API answers with.
        title: The kind of problem, the same for each of its kind.
    """

    status: int = 500
    title: str = "the engine failed"


class InvalidRequest(EngineError):
    """A value cannot be taken. The text names it and says what is expected."""

    status = 400
    title = "the request is not valid"


class TokenRefused(EngineError):
    """There is no token, or it is wrong, expired or of a past attempt."""

    status = 401
    title = "the token is refused"


class NotAllowed(EngineError):
    """The token is good, but does not allow this."""

    status = 403
    title = "the token does not allow this"


class Missing(EngineError):
    """What the request names does not exist."""

    status = 404
    title = "it does not exist"


class AlreadyThere(EngineError):
    """The id stands for something else already, or it is too late for what was asked."""

    status = 409
    title = "it contradicts what is there"


class KeyReused(EngineError):
    """The ``Idempotency-Key`` was used before, with another payload."""

    status = 422
    title = "the idempotency key stands for another payload"


class QuotaExceeded(EngineError):
    """It is larger, or would be more, than is allowed."""

    status = 413
    title = "a quota is exceeded"


class Overloaded(EngineError):
    """The engine has too much to do. Try again later."""

    status = 503
    title = "the engine is overloaded"


class StorageError(EngineError):
    """The database could not store or read it; a full disk, for example. Nothing was changed."""

    status = 507
    title = "the data could not be stored"


class UsageError(FnshipError):
    """A mistake that the user can mend. Its text says what, where, and how to mend it."""


class SettingError(UsageError):
    """The environment variable `name` has a value that cannot be used."""

    def __init__(self, name: str, value: str, expected: str) -> None:
        self.name = name
        super().__init__(f"{name}={value!r} is not valid: expected {expected}")


class HandlerError(UsageError):
    """The handler cannot be loaded.

    Attributes:
        problem: What is wrong, in one sentence.
        file: Path of the file at fault; None where there is none.
        line: Line in that file, counted from 1; None where unknown.
        mend: What to do about it.
    """

    def __init__(
        self, problem: str, *, mend: str, file: str | None = None, line: int | None = None
    ) -> None:
        self.problem = problem
        self.file = file
        self.line = line
        self.mend = mend
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{where}{problem}. {mend}")
