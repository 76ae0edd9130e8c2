"""What is compared: each of them one server process, as its documentation runs it in production.

Where a server runs on uvicorn by a command of ours, it gets what fnship's own has: httptools,
uvloop, no access log, no WebSocket, no proxy headers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.peers import PYTHON, version

__all__ = ["MEMORY", "STARTS", "THROUGHPUT", "Subject"]

_FOLDER: Final = Path(__file__).with_name("subjects")


@dataclass(frozen=True)
class Subject:
    """A server that is measured."""

    name: str
    """For ``--only``."""
    title: str
    """For the tables."""
    command: tuple[str, ...]
    """``{port}`` in it stands for the port, which is also in ``PORT``."""
    folder: Path = _FOLDER
    environ: Mapping[str, str] = field(default_factory=dict)
    engine: bool = False
    """Whether it is called as by an engine, with its log lines going to a sink."""

    @property
    def is_peer(self) -> bool:
        """Whether it runs in the peers' environment."""
        return self.command[0] == str(PYTHON)


def _fnship(name: str, title: str, handler: str, *, engine: bool = False, **more: str) -> Subject:
    environ = {
        "FUNCTION_TARGET": f"function.handler:{handler}",
        "GUNICORN_WORKERS": "1",
        "HOST": "127.0.0.1",
        **more,
    }
    command = (sys.executable, "main.py")
    return Subject(name, f"fnship, {title}", command, _FOLDER / "fnship", environ, engine=engine)


def _uvicorn(python: str, app: str, *more: str) -> tuple[str, ...]:
    command = f"{python} -m uvicorn {app} --port {{port}} --http httptools --loop uvloop --ws none"
    return (
        *command.split(),
        "--no-access-log",
        "--log-level",
        "warning",
        "--no-proxy-headers",
        *more,
    )


def _framework(module: str, *more: str) -> tuple[str, ...]:
    start = "from functions_framework._cli import _cli; _cli()"
    return (str(PYTHON), "-c", start, "--target", "handle", "--source", f"{module}.py", *more)


_ASYNC: Final = _fnship("fnship", "async", "handle")
_LINE: Final = _fnship("fnship-line", "async, one line to stdout", "handle_with_line")
_PLAIN: Final = _fnship("fnship-plain", "plain def", "handle_plain")
_ENGINE: Final = _fnship(
    "fnship-engine", "engine call, one line uploaded", "handle_with_line", engine=True
)
_NATIVE: Final = {"WATCHDOG": "native", "metrics_port": "0"}
_QUIET: Final = _fnship(
    "native", "async, as its own watchdog, no access lines", "handle", ACCESS_LOG="false", **_NATIVE
)
_WATCHED: Final = _fnship(
    "native-lines", "async, as its own watchdog, with access lines", "handle", **_NATIVE
)
_LIMIT: Final = Subject(
    "limit",
    f"the limit: bare ASGI on uvicorn {version('uvicorn')}",
    _uvicorn(
        sys.executable,
        "limit:app",
        "--interface",
        "asgi3",
        "--lifespan",
        "off",
        "--no-server-header",
    ),
)
_FASTAPI: Final = Subject(
    "fastapi",
    f"FastAPI {version('fastapi')} on uvicorn",
    _uvicorn(str(PYTHON), "with_fastapi:app"),
)
_FRAMEWORK_ASYNC: Final = Subject(
    "functions-framework",
    f"functions-framework {version('functions-framework')}, async (its ASGI server)",
    _framework("framework_async", "--asgi"),
    environ={"HOST": "127.0.0.1"},
)
_FRAMEWORK_SYNC: Final = Subject(
    "functions-framework-sync",
    f"functions-framework {version('functions-framework')}, sync (its default server)",
    _framework("framework_sync"),
    environ={"HOST": "127.0.0.1"},
)
_RAFAY: Final = Subject(
    "rafay-engine",
    f"rafay-workflow-sdk {version('rafay-workflow-sdk')} on uvicorn, engine call, "
    "its lines uploaded",
    _uvicorn(str(PYTHON), "with_rafay:app"),
    engine=True,
)

THROUGHPUT: Final = (
    _LIMIT,
    _ASYNC,
    _QUIET,
    _WATCHED,
    _LINE,
    _PLAIN,
    _FRAMEWORK_ASYNC,
    _FRAMEWORK_SYNC,
    _FASTAPI,
    _ENGINE,
    _RAFAY,
)
"""Whose requests per second are measured, in turn."""

STARTS: Final = (
    _ASYNC,
    _ENGINE,
    _LIMIT,
    _FRAMEWORK_ASYNC,
    _FRAMEWORK_SYNC,
    _FASTAPI,
    Subject(
        "rafay-engine",
        f"rafay-workflow-sdk {version('rafay-workflow-sdk')}, serve_function, engine call",
        (str(PYTHON), "with_rafay.py"),
        engine=True,
    ),
)
"""Whose start is measured."""

MEMORY: Final = (_ASYNC, _LINE, _PLAIN, _ENGINE)
"""Whose memory is measured."""
