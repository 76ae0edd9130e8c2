"""The async front's requests, made with aiohttp, which is loaded when the first one is."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

from fnship.function.state_model import BROKE, Request, Response, Unreached, why_unreached

if TYPE_CHECKING:
    import aiohttp

__all__ = ["close_session", "exchange"]

_CONNECTIONS: Final = 100  # open at once, from one loop
_ROUNDS: Final = 2  # of the loop: one to see what has arrived, one to act on it

_sessions: dict[
    asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[None, None]]
] = {}


async def exchange(
    request: Request,
    seconds: float,
    verify: bool,
    proxy: str | None,
) -> Response:
    """Send a request and read its answer to the end.

    Args:
        request: What to send.
        seconds: How long all of it may take.
        verify: Whether the certificate is checked.
        proxy: URL of a proxy; None for none.

    Raises:
        Unreached: No whole answer came.
    """
    session = await _session()
    import aiohttp
    import yarl

    if request.method != "GET":
        # A write is not repeated, so it must not meet a pooled connection that the store has
        # closed while a handler kept the loop busy. The loop learns of that in these rounds.
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
    try:
        async with session.request(
            request.method,
            yarl.URL(request.url, encoded=True),
            data=request.body,
            headers=request.headers,
            timeout=aiohttp.ClientTimeout(total=seconds),
            ssl=verify,
            allow_redirects=False,
            proxy=proxy,
        ) as answer:
            return Response(answer.status, await answer.read())
    except TimeoutError as exc:
        sent = not isinstance(exc, aiohttp.ConnectionTimeoutError)
        unreached = Unreached(f"did not answer within {seconds:g} s", sent=sent)
    except (aiohttp.ClientError, ValueError) as exc:
        unreached = _unreached(exc)
    raise unreached


def _unreached(exc: Exception) -> Unreached:
    """In words of our own, and with the system's error for a cause.

    aiohttp's exceptions carry the request's headers and the proxy's password, so they are
    left behind: what is made here is raised outside of their handlers.
    """
    import aiohttp

    if isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ClientSSLError):
        unreached = Unreached(why_unreached(exc.__cause__ or exc), sent=False)
        unreached.__cause__ = exc.__cause__
        return unreached
    if isinstance(
        exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | aiohttp.ClientPayloadError
    ):
        return Unreached(BROKE, sent=True, cut=True)
    return Unreached(f"was not understood: {type(exc).__name__}", sent=True)


async def _session() -> aiohttp.ClientSession:
    """The running loop's session."""
    loop = asyncio.get_running_loop()
    if "aiohttp" not in sys.modules:  # it takes a while, and the loop must not stand still
        await loop.run_in_executor(None, importlib.import_module, "aiohttp")
    held = _sessions.get(loop)
    if held is None:
        for each in [each for each in list(_sessions) if each.is_closed()]:
            _sessions.pop(each, None)  # nothing can be awaited there any more
        session = _new_session()
        held = _sessions[loop] = session, _until_the_loop_ends(loop, session)
        await anext(held[1])
    return held[0]


def _new_session() -> aiohttp.ClientSession:
    import aiohttp

    async def never_repeat(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # aiohttp itself would send a PUT or DELETE again whose answer was lost. It repeats
        # on its own exceptions only.
        try:
            return await handler(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            unreached = _unreached(exc)
        raise unreached

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=[never_repeat],
    )


async def _until_the_loop_ends(
    loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession
) -> AsyncGenerator[None, None]:
    """Close the session when this generator is closed: loops do that to all before they end."""
    try:
        yield
    finally:
        _sessions.pop(loop, None)
        await session.close()


async def close_session() -> None:
    """Close the connections of the running loop. New ones are opened for the next request."""
    held = _sessions.get(asyncio.get_running_loop())
    if held is not None:
        await held[1].aclose()
