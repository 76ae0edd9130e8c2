"""``serve``: what ``main.py`` calls in production."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from fnship.errors import UsageError
from fnship.function.handler import import_handler, inspect_handler
from fnship.server import kinds
from fnship.server.asgi import ASGIFunction, Holder, function_of
from fnship.server.sockets import address, listen
from fnship.server.watchdog import WatchdogShare
from fnship.settings import Settings

__all__ = ["check_installation", "load_function", "say", "serve"]

_DEFAULT_HOST: Final = "0.0.0.0"  # noqa: S104 - in a container, the platform's network is outside
_DEFAULT_PORT: Final = 5000


def serve(
    handler: Callable[..., Any] | Holder | str | None = None,
    *,
    server: str | None = None,
    host: str | None = None,
    port: int | None = None,
) -> None:
    """Serve a function until SIGTERM or SIGINT, with ``GUNICORN_WORKERS`` processes.

    A mistake of the user's, such as a busy port or a handler that cannot be imported, ends the
    process with status 2 and one line on standard error.

    Args:
        handler: ``handle(logger, request)``, or where to find it as ``module:name``. By default
            what ``FUNCTION_TARGET`` names, else ``function.handler:handle``. Or the application
            that ``fnship.server.fastapi.create_app`` or ``fnship.server.wsgi.create_app`` made.
        server: ``asgi``, ``flask`` or ``fastapi``; ``FUNCTION_SERVER``, else asgi by default.
        host: The address to bind; ``HOST``, else 0.0.0.0 by default.
        port: The port; ``PORT``, else 5000 by default.
    """
    try:
        _serve(handler, os.environ, server, host, port)
    except UsageError as exc:
        say(f"error: {exc}")
        sys.exit(2)


def _serve(
    handler: Callable[..., Any] | Holder | str | None,
    environ: Mapping[str, str],
    server: str | None,
    host: str | None,
    port: int | None,
) -> None:
    # The first process of a container gets no signal that it has no handler for.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end_before_the_start)
    check_installation()
    settings = Settings.from_env(environ)
    target = settings.target if handler is None else handler
    kind = _kind(target, server, settings)
    kinds.check_kind(kind, settings)
    host = host or settings.host or _DEFAULT_HOST
    usual = settings.watchdog_port if settings.native_watchdog else _DEFAULT_PORT
    port = next(each for each in (port, settings.port, usual) if each is not None)

    def load() -> ASGIFunction | Holder:
        if isinstance(target, Holder):
            return target
        return load_function(target, settings, environ)

    workers = settings.workers if sys.platform != "win32" else 1
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(host, port))
        share = None
        if settings.native_watchdog:
            metrics = stack.enter_context(listen(host, settings.metrics_port))
            share = WatchdogShare(settings, workers, metrics)
            share.prepare_lock()
            stack.callback(share.close)
        name = target if isinstance(target, str) else function_of(load()).name
        many = f" with {workers} workers" if workers > 1 else ""
        greeting = f"serving {name} on {address(listener)}{many}"
        if workers == 1:
            served = load()
            function_of(served).watchdog = share.join(share.assign()) if share else None
            kinds.run_single(kind, served, listener, announce=lambda: say(greeting), say=say)
        else:
            kinds.run_workers(kind, load, listener, workers, share, greeting=greeting, say=say)


def _kind(target: Callable[..., Any] | Holder | str, wanted: str | None, settings: Settings) -> str:
    """The kind of server for what is to be served."""
    if not isinstance(target, Holder):
        return wanted or settings.server
    if wanted not in (None, target.server_kind):
        raise UsageError(
            f"a {type(target).__name__} is served by the server {target.server_kind}, "
            f"not by {wanted}; leave the server out"
        )
    return target.server_kind


def load_function(
    target: Callable[..., Any] | str,
    settings: Settings,
    environ: Mapping[str, str],
    folder: Path | None = None,
) -> ASGIFunction:
    """Load a handler and make the application that serves it.

    Raises:
        HandlerError: It cannot be loaded.
    """
    found = import_handler(target, folder) if isinstance(target, str) else inspect_handler(target)
    return ASGIFunction(found, settings, environ)


def check_installation(path: list[str] | None = None) -> None:
    """Refuse to start where another SDK has overwritten our drop-in package, or we its.

    Args:
        path: Folders that packages are installed in; ``sys.path`` by default.

    Raises:
        UsageError: Both are installed.
    """
    for folder in sys.path if path is None else path:
        try:
            names = [each.name for each in Path(folder or ".").iterdir()]
        except OSError:
            continue
        for name in names:
            if name.startswith("rafay_workflow_sdk-") and name.endswith(
                (".dist-info", ".egg-info")
            ):
                raise UsageError(
                    "rafay-workflow-sdk is installed beside fnship, and both bring the package "
                    "python_sdk_rafay_workflow. Keep one: pip uninstall -y rafay-workflow-sdk, "
                    "then install fnship again"
                )


def _end_before_the_start(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's
    sys.exit(0)


def say(sentence: str) -> None:
    """Tell whoever started the server something, on standard error."""
    one_line = " ".join(sentence.split())
    sys.stderr.write(f"fnship: {one_line}\n")
    sys.stderr.flush()
