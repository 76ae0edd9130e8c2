"""Sends log batches over HTTP with aiohttp, which is loaded when the first engine calls."""

from __future__ import annotations

import asyncio
import importlib
import io
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Final

from fnship.function.log_poster import Posted, PostFailed

if TYPE_CHECKING:
    import aiohttp

__all__ = ["HTTPPoster"]

_IN_ONE_PIECE: Final = 2**20
_READ: Final = 2**16  # bytes of an answer


class HTTPPoster:
    """A `fnship.function.log_poster.Poster` on pooled connections.

    Args:
        connections: Open at once.
        timeout: Seconds for one upload.
        verify: Whether certificates are checked.
    """

    def __init__(self, connections: int, timeout: float, *, verify: bool) -> None:
        self._connections = connections
        self._timeout = timeout
        self._verify = verify
        self._opening: asyncio.Task[aiohttp.ClientSession] | None = None
        self._proxies: dict[str, str | None] = {}

    async def prepare(self) -> None:
        """Load the client, without holding up the event loop, and open a session."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, importlib.import_module, "aiohttp")
        import aiohttp

        connector = aiohttp.TCPConnector(limit=self._connections, ssl=self._verify)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Posted:
        """Send one batch; see `fnship.function.log_poster.Poster.post`."""
        if self._opening is None:
            await self.prepare()
        assert self._opening is not None
        session = await asyncio.shield(self._opening)
        import aiohttp

        # The client wants a file for what is large, so that it is written in pieces.
        data = body if len(body) <= _IN_ONE_PIECE else io.BytesIO(body)
        try:
            async with session.post(
                url, data=data, headers=headers, allow_redirects=False, proxy=self._proxy(url)
            ) as response:
                # What little it says is read, so that the connection can be used again too.
                return Posted(response.status, await _beginning(response.content))
        except TimeoutError:
            raise PostFailed(f"{_origin(url)} did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            # The text of some names the whole URL; the kind of trouble and the host are enough.
            raise PostFailed(
                f"{_origin(url)}: {_in_words(exc)}"
            ) from None  # its repr may hold the token

    async def close(self) -> None:
        """Close the session, if one was ever opened."""
        if self._opening is not None:
            session = await asyncio.shield(self._opening)
            await session.close()

    def _proxy(self, url: str) -> str | None:
        """The proxy that the environment asks for, looked up once a host."""
        parts = urllib.parse.urlsplit(url)
        if parts.netloc not in self._proxies:
            bypass = urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2])
            proxies = {} if bypass else urllib.request.getproxies()
            self._proxies[parts.netloc] = proxies.get(parts.scheme)
        return self._proxies[parts.netloc]


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    pieces, left = [], _READ
    while left > 0 and (piece := await content.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _origin(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _in_words(exc: Exception) -> str:
    import aiohttp

    if isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "its certificate is not trusted"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return f"not reached ({exc.os_error.strerror or type(exc.os_error).__name__})"
    if isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | OSError):
        return "the connection broke"
    return type(exc).__name__
