"""Carries the steps of the state protocol out over HTTP, in a thread or on an event loop.

Connections are pooled. The sync front has its pools per process, made anew after a fork; the
async front has a session per event loop, which ends with the loop: `asyncio.run` and servers
close it on their way out. A program that drives loops by hand awaits `close_sessions` first.

Redirects are not followed, cookies are not kept, and nothing is repeated here.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import urllib.parse
from typing import Any, NamedTuple, TypeVar

from fnship.function import state_aiohttp, state_urllib3
from fnship.function.state_model import Pause, Request, Step, Steps, Unreached

__all__ = ["Terms", "close_pools", "close_sessions", "configure", "run", "run_async"]

T = TypeVar("T")

_verify = True


class Terms(NamedTuple):
    """How requests are made.

    Args:
        timeout: Seconds for one request and its answer.
        verify: Whether certificates are checked; None as configured.
    """

    timeout: float
    verify: bool | None


def configure(*, verify: bool) -> None:
    """Say once at start whether certificates are checked where a client leaves that open."""
    global _verify
    _verify = verify


def run(steps: Steps[T], terms: Terms) -> T:
    """Carry out an operation, blocking this thread.

    Raises:
        StateError: As the operation says.
    """
    outcome: Any = None
    while True:
        try:
            step = _resume(steps, outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result
        outcome = _perform(step, terms)


async def run_async(steps: Steps[T], terms: Terms) -> T:
    """As `run`, on the running event loop."""
    outcome: Any = None
    while True:
        try:
            step = _resume(steps, outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result
        outcome = await _perform_async(step, terms)


def close_pools() -> None:
    """Close the sync front's idle connections. It opens new ones when it is used again."""
    state_urllib3.close_pools()
    _proxy.cache_clear()


async def close_sessions() -> None:
    """Close the async front's connections of the running loop, as at the end of a server."""
    await state_aiohttp.close_session()


def _resume(steps: Steps[Any], outcome: Any) -> Step:
    """The next step. Raises StopIteration with the operation's result."""
    return steps.throw(outcome) if isinstance(outcome, Unreached) else steps.send(outcome)


def _perform(step: Step, terms: Terms) -> Any:
    if isinstance(step, Request):
        try:
            return state_urllib3.exchange(step, *_in_full(step, terms))
        except Unreached as exc:
            return exc
    if isinstance(step, Pause):
        return time.sleep(step.seconds)
    new = step.function(step.value)
    if inspect.isawaitable(new):
        if inspect.iscoroutine(new):
            new.close()
        raise TypeError("the update function is async: use set_async, or a plain function")
    return new


async def _perform_async(step: Step, terms: Terms) -> Any:
    if isinstance(step, Request):
        try:
            return await state_aiohttp.exchange(step, *_in_full(step, terms))
        except Unreached as exc:
            return exc
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    new = step.function(step.value)
    return await new if inspect.isawaitable(new) else new


def _in_full(request: Request, terms: Terms) -> tuple[float, bool, str | None]:
    """Timeout, whether to verify, and the proxy."""
    parts = urllib.parse.urlsplit(request.url)
    verify = _verify if terms.verify is None else terms.verify
    return terms.timeout, verify, _proxy(parts.scheme, parts.netloc)


@functools.lru_cache(maxsize=64)
def _proxy(scheme: str, netloc: str) -> str | None:
    """The proxy that the environment or the system sets for a host, as other clients do."""
    import urllib.request

    if urllib.request.proxy_bypass(netloc):
        return None
    return urllib.request.getproxies().get(scheme)
