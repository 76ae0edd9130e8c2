"""The kinds of server that a function can be served by, each imported when it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Final, NamedTuple

from fnship.errors import UsageError
from fnship.settings import Settings

__all__ = ["check_kind", "run_single", "run_workers"]


class _Kind(NamedTuple):
    """Where a kind lives: a module has ``run_single``, and one has ``run_workers``."""

    single: str
    workers: str
    requirement: str = ""


_KINDS: Final = {
    "asgi": _Kind("fnship.server.single", "fnship.server.workers"),
    "flask": _Kind("fnship.server.gthread", "fnship.server.gthread", "flask>=3.1,<4"),
    "fastapi": _Kind(
        "fnship.server.fastapi_server", "fnship.server.fastapi_server", "fastapi>=0.120,<1"
    ),
}


def check_kind(kind: str, settings: Settings) -> None:
    """See that a server of this kind can run here.

    Args:
        kind: ``asgi``, ``flask`` or ``fastapi``.
        settings: Say what stands in front of it.

    Raises:
        UsageError: There is no such kind, a package is missing, or the watchdog does not suit it.
    """
    if kind not in _KINDS:
        raise UsageError(f"there is no server {kind!r}; the servers are {', '.join(_KINDS)}")
    if kind == "flask" and settings.native_watchdog:
        raise UsageError(
            "the flask server cannot be its own watchdog (WATCHDOG=native): its probes would go "
            "unanswered while its threads are busy. Run it behind of-watchdog, or choose the "
            "server asgi or fastapi"
        )
    _module(kind, _KINDS[kind].single)


def run_single(kind: str, *args: Any, **kwargs: Any) -> None:
    """Serve in this very process; see `fnship.server.single.run_single`."""
    _module(kind, _KINDS[kind].single).run_single(*args, **kwargs)


def run_workers(kind: str, *args: Any, **kwargs: Any) -> None:
    """Serve in several processes; see `fnship.server.workers.run_workers`."""
    _module(kind, _KINDS[kind].workers).run_workers(*args, **kwargs)


def _module(kind: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        requirement = _KINDS[kind].requirement
        if not requirement or (exc.name or "").startswith("fnship"):
            raise
        raise UsageError(
            f"the {kind} server needs the package {exc.name}, which is not installed: "
            f"pip install '{requirement}'"
        ) from exc
