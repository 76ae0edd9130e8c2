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
└── UsageError               a mistake of the user's: one clear line, exit status 2
    ├── SettingError             a setting (environment variable) is wrong
    └── HandlerError             the handler cannot be loaded
"""

from __future__ import annotations

from typing import Any

from fnship import contract

__all__ = [
    "Conflict",
    "ExecuteAgain",
    "Failed",
    "FnshipError",
    "FunctionError",
    "HandlerError",
    "MalformedJSON",
    "NotFound",
    "NotJSON",
    "SettingError",
    "StateConflict",
    "StateContention",
    "StateDenied",
    "StateError",
    "StateUnavailable",
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
