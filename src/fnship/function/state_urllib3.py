"""The sync front's requests, made with urllib3, which is loaded when the first one is."""

from __future__ import annotations

import os
import time
import urllib.parse
from typing import TYPE_CHECKING, Any, Final

from fnship.function.state_model import BROKE, Request, Response, Unreached, why_unreached

if TYPE_CHECKING:
    import urllib3

__all__ = ["close_pools", "exchange"]

_CONNECTIONS: Final = 100  # kept open to one store
_PIECE: Final = 2**16  # bytes read at once

_pools: dict[tuple[int, bool, str | None], urllib3.PoolManager] = {}


def exchange(request: Request, timeout: float, verify: bool, proxy: str | None) -> Response:
    """Send a request and read its answer to the end.

    Args:
        request: What to send.
        timeout: Seconds for all of it.
        verify: Whether the certificate is checked.
        proxy: URL of a proxy; None for none.

    Raises:
        Unreached: No whole answer came.
    """
    import urllib3

    deadline = time.monotonic() + timeout
    late = f"did not answer within {timeout:g} s"
    try:
        answer = _pool(verify, proxy).request(
            request.method,
            request.url,
            body=request.body,
            # http.client writes Latin-1; this way UTF-8 goes out, as from aiohttp.
            headers={name: _as_utf8(value) for name, value in request.headers.items()},
            timeout=urllib3.Timeout(total=timeout),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            body = bytearray()
            while piece := answer.read1(_PIECE):
                body += piece
                if time.monotonic() > deadline:
                    raise Unreached(late, sent=True)
        except BaseException:
            answer.close()  # what is left unread must not meet the next request
            raise
        answer.release_conn()
        return Response(answer.status, bytes(body))
    except urllib3.exceptions.HTTPError as exc:
        raise _unreached(exc, late) from exc


def _unreached(exc: urllib3.exceptions.HTTPError, late: str) -> Unreached:
    # In words of our own: some of these exceptions carry the whole URL.
    from urllib3 import exceptions

    if isinstance(exc, exceptions.SSLError | exceptions.NewConnectionError | exceptions.ProxyError):
        return Unreached(why_unreached(exc), sent=False)
    if isinstance(exc, exceptions.TimeoutError):
        return Unreached(late, sent=not isinstance(exc, exceptions.ConnectTimeoutError))
    if isinstance(exc, exceptions.ProtocolError):
        return Unreached(BROKE, sent=True, cut=True)
    return Unreached(f"was not understood: {type(exc).__name__}", sent=True)


def _pool(verify: bool, proxy: str | None) -> urllib3.PoolManager:
    key = os.getpid(), verify, proxy
    pool = _pools.get(key)
    if pool is None:
        for each in [each for each in list(_pools) if each[0] != key[0]]:
            _pools.pop(each, None)  # of the process that this one was forked from
        # Two threads may both come here; setdefault lets one pool win.
        pool = _pools.setdefault(key, _new_pool(verify, proxy))
    return pool


def _new_pool(verify: bool, proxy: str | None) -> urllib3.PoolManager:
    import urllib3

    options: dict[str, Any] = {
        "maxsize": _CONNECTIONS,
        "cert_reqs": "CERT_REQUIRED" if verify else "CERT_NONE",
    }
    if proxy is None:
        pool = urllib3.PoolManager(**options)
    else:
        user = urllib.parse.unquote(urllib.parse.urlsplit(proxy).netloc.rpartition("@")[0])
        authorization = urllib3.make_headers(proxy_basic_auth=user) if user else None
        pool = urllib3.ProxyManager(proxy, proxy_headers=authorization, **options)
    if not verify:
        pool.pool_classes_by_scheme = {
            **pool.pool_classes_by_scheme,
            "https": _unverified_pool_class(),
        }
    return pool


def _unverified_pool_class() -> type[urllib3.HTTPSConnectionPool]:
    """A pool that does not warn at each request of what skip_tls_verify chose knowingly."""
    import urllib3
    from urllib3.connection import HTTPSConnection

    class Connection(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.is_verified = True

    class Pool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool


def close_pools() -> None:
    """Close the idle connections. New ones are opened for the next request."""
    while _pools:
        _pools.popitem()[1].clear()


def _as_utf8(text: str) -> str:
    return text.encode().decode("latin-1")
