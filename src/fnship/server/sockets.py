"""Listening sockets, opened before anything else so that a busy port is said at once."""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Iterator
from typing import Final

from fnship.errors import UsageError

__all__ = ["address", "listen", "while_wanted"]

_BACKLOG: Final = 2048
_HIGHEST_PORT: Final = 65535


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: Name or address of an interface; ``0.0.0.0`` for all of IPv4, ``::`` for all.
        port: The port; 0 for a free one.

    Raises:
        UsageError: The port is taken, or the address cannot be had; says the mend.
    """
    if not 0 <= port <= _HIGHEST_PORT:
        raise UsageError(f"port {port} is not valid: expected 0 to {_HIGHEST_PORT}")
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            where[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both
        )
    except (socket.gaierror, UnicodeError) as exc:
        raise UsageError(f"HOST={host!r} is no address of this machine: {exc}") from exc
    except OSError as exc:
        raise UsageError(_why(exc, host, port)) from exc
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """Where `listener` is reached, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def while_wanted(listener: socket.socket) -> Iterator[None]:
    """Come round for each client that has connected and was not accepted yet.

    A server that is about to close a listener accepts them before: closing resets them, although
    to them it looks as if they had been let in. Ends after as many as can wait at once.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        for _ in range(_BACKLOG):
            if not selector.select(0):
                return
            yield


def _why(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use by another process; stop that one, "
            f"or choose another port, such as PORT={port + 1}"
        )
    if exc.errno == errno.EACCES:
        return f"port {port} needs privileges that this process does not have; use one above 1023"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"HOST={host!r} is no address of this machine; use 127.0.0.1 or 0.0.0.0"
    return f"cannot listen on {host} port {port}: {exc.strerror or exc}"
