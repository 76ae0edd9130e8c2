"""Tells callers how their activities ended, and tries again until they have heard it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import random
import time
import urllib.parse
from collections import Counter
from typing import Final

import aiohttp
import msgspec

from fnship import contract
from fnship.engine.document import activity_document
from fnship.engine.invoker import reason
from fnship.engine.model import Activity, RetryPolicy
from fnship.engine.retry import backoff
from fnship.engine.stores.activities import ActivityStore, Callback
from fnship.errors import EngineError, Missing

__all__ = ["Callbacks", "shown_key", "sign"]

_log = logging.getLogger(__name__)

_POLICY: Final = RetryPolicy(max_attempts=12)  # the last about 40 minutes after the first
_AT_ONCE: Final = 64
_AT_ONE_HOST: Final = 4  # of those, so that a host which is silent leaves room for others
_LOOKED_AT: Final = 500  # that are due, to find some that may go
_TIMEOUT: Final = aiohttp.ClientTimeout(30.0, sock_connect=10.0)
_SOONEST: Final = 0.05  # seconds until what is due next is looked for
_AFTER_TROUBLE: Final = 5.0  # seconds until the database is asked again that failed


class Callbacks:
    """Delivers outcomes. What is still to be delivered outlives a crash.

    A delivery is a POST of the activity as the API shows it, signed as Standard Webhooks are. It
    is done when the answer is 2xx; any other is tried again, a dozen times.

    Args:
        store: Knows what is still to be delivered.
        connector: Makes the connections; checks where they go. Not closed by this.
        secret: What the signatures are made with.
    """

    def __init__(
        self, store: ActivityStore, connector: aiohttp.BaseConnector, secret: bytes
    ) -> None:
        self._store = store
        self._secret = secret
        self._session = aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_TIMEOUT,
        )
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._active: dict[str, asyncio.Task[None]] = {}  # deliveries, by their activities
        self._hosts: Counter[str] = Counter()  # where they go

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._deliver_all())

    def wake(self) -> None:
        """Say that there may be something to deliver."""
        self._wake.set()

    async def close(self) -> None:
        """Stop; what is not delivered yet will be, after the next start."""
        if self._task is not None:
            ending = [self._task, *self._active.values()]
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
        await self._session.close()

    async def _deliver_all(self) -> None:
        while True:
            self._wake.clear()
            try:
                delay = await self._begin_due()
            except EngineError as exc:
                _log.warning("callbacks have to wait: %s", exc)
                delay = _AFTER_TROUBLE
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)

    async def _begin_due(self) -> float | None:
        """Begin the deliveries that are due and have room. Returns the seconds until the next."""
        now = time.time()
        # What is due later than any delay is long was set so by a clock that has gone back since.
        found, following = await self._store.due_callbacks(now, _LOOKED_AT, _POLICY.max_delay)
        for each in found:
            host = urllib.parse.urlsplit(each.url).netloc
            free = len(self._active) < _AT_ONCE and self._hosts[host] < _AT_ONE_HOST
            if free and each.activity_id not in self._active:
                self._begin(each, host)
        return None if following is None else max(_SOONEST, following - now)

    def _begin(self, callback: Callback, host: str) -> None:
        def ended(_: asyncio.Task[None]) -> None:
            del self._active[callback.activity_id]
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
            self._wake.set()

        self._hosts[host] += 1
        task = asyncio.get_running_loop().create_task(self._try(callback))
        self._active[callback.activity_id] = task
        task.add_done_callback(ended)

    async def _try(self, callback: Callback) -> None:
        try:
            await self._deliver(callback)
        except Exception as exc:  # noqa: BLE001 - it is due all the same, and others are too
            _log.warning("the callback of %s has to wait: %s", callback.activity_id, exc)
            await asyncio.sleep(_AFTER_TROUBLE)

    async def _deliver(self, callback: Callback) -> None:
        try:
            activity = await self._store.get(callback.activity_id)
        except Missing as exc:
            await self._store.end_callback(callback.activity_id, problem=str(exc))
            return
        try:
            problem = await self._post(callback.url, activity)
        except Exception as exc:  # noqa: BLE001 - whatever a URL brings about is its own trouble
            problem = f"{type(exc).__name__}: {exc}"
        if problem is None:
            await self._store.end_callback(activity.id, heard=time.time())
        elif callback.attempts + 1 >= _POLICY.max_attempts:
            _log.warning("the callback of activity %s is given up: %s", activity.id, problem)
            await self._store.end_callback(activity.id, problem=problem)
        else:
            delay = backoff(_POLICY, callback.attempts + 1, random.random())  # noqa: S311 - jitter
            _log.warning(
                "the callback of activity %s waits %.1f s: %s", activity.id, delay, problem
            )
            await self._store.delay_callback(activity.id, time.time() + delay, problem)

    async def _post(self, url: str, activity: Activity) -> str | None:
        """Returns what went wrong; None where it was heard."""
        body = msgspec.json.encode(activity_document(activity))
        moment = str(int(time.time()))
        took = (activity.ended or 0.0) - activity.created
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "fnship-engine",
            "webhook-id": activity.id,
            "webhook-timestamp": moment,
            "webhook-signature": sign(self._secret, activity.id, moment, body),
            contract.CALL_ID: activity.id,
            contract.DURATION_SECONDS: f"{took:.6f}",
            contract.FUNCTION_STATUS: "200" if activity.status == "succeeded" else "500",
            contract.FUNCTION_NAME: activity.function,
        }
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return (
                    None if response.ok and response.status < 300 else f"it got {response.status}"
                )
        except TimeoutError:
            return f"it did not answer within {_TIMEOUT.total:g} s"
        except aiohttp.ClientConnectorError as exc:
            return f"cannot connect: {reason(exc)}"
        except (aiohttp.ClientError, OSError) as exc:
            return f"the connection broke: {reason(exc)}"


def shown_key(secret: bytes) -> str:
    """The key of the signatures, as Standard Webhooks write it."""
    return f"whsec_{base64.b64encode(secret).decode()}"


def sign(secret: bytes, activity_id: str, moment: str, body: bytes) -> str:
    """The signature of a delivery, as Standard Webhooks define it.

    Args:
        secret: The key of the HMAC.
        activity_id: What ``webhook-id`` says.
        moment: What ``webhook-timestamp`` says, whole seconds since 1970.
        body: The body, byte for byte.
    """
    signed = f"{activity_id}.{moment}.".encode() + body
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
