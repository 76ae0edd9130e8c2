"""One Python function, served in production.

What a handler imports, and what ``main.py`` calls. Each name is loaded when it is first used,
so that importing one exception does not load a server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fnship.errors import (
        Conflict,
        ExecuteAgain,
        Failed,
        FnshipError,
        FunctionError,
        NotFound,
        StateConflict,
        StateContention,
        StateDenied,
        StateError,
        StateUnavailable,
        Transient,
    )
    from fnship.function.events import EventDetails, EventType
    from fnship.function.invocation import Invocation, current
    from fnship.function.state import StateClient, StateClientBuilder, StateScope
    from fnship.server.process import serve

__all__ = [
    "Conflict",
    "EventDetails",
    "EventType",
    "ExecuteAgain",
    "Failed",
    "FnshipError",
    "FunctionError",
    "Invocation",
    "NotFound",
    "StateClient",
    "StateClientBuilder",
    "StateConflict",
    "StateContention",
    "StateDenied",
    "StateError",
    "StateScope",
    "StateUnavailable",
    "Transient",
    "__version__",
    "current",
    "serve",
]

__version__ = "0.1.0"

_HOMES = {
    "EventDetails": "fnship.function.events",
    "EventType": "fnship.function.events",
    "Invocation": "fnship.function.invocation",
    "StateClient": "fnship.function.state",
    "StateClientBuilder": "fnship.function.state",
    "StateScope": "fnship.function.state",
    "current": "fnship.function.invocation",
    "serve": "fnship.server.process",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fnship' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "fnship.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
