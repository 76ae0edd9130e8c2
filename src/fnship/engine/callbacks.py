"""Tells callers how their activities ended, and tries again until they have heard it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from typing import Final

import aiohttp
import msgspec

from fnship import contract
from fnship.engine.document import activity_document
from fnship.engine.model import Activity, RetryPolicy
from fnship.engine.retry import backoff
from fnship.engine.stores.activities import ActivityStore, Callback
from fnship.errors import EngineError, Missing

__all__ = ["Callbacks", "sign"]

_log = logging.getLogger(__name__)

_POLICY: Final = RetryPolicy(max_attempts=12)  # the last about 40 minutes after the first
_AT_ONCE: Final = 16
_TIMEOUT: Final = aiohttp.ClientTimeout(30.0, sock_connect=10.0)
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

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._deliver_all())

    def wake(self) -> None:
        """Say that there may be something to deliver."""
        self._wake.set()

    async def close(self) -> None:
        """Stop; what is not delivered yet will be, after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._session.close()

    async def _deliver_all(self) -> None:
        while True:
            self._wake.clear()
            try:
                found, following = await self._store.due_callbacks(time.time(), _AT_ONCE)
                await asyncio.gather(*(self._deliver(each) for each in found))
            except EngineError as exc:
                _log.warning("callbacks have to wait: %s", exc)
                following = time.time() + _AFTER_TROUBLE
                found = []
            if not found:
                delay = None if following is None else max(0.05, following - time.time())
                try:
                    await asyncio.wait_for(self._wake.wait(), delay)
                except TimeoutError:
                    continue

    async def _deliver(self, callback: Callback) -> None:
        try:
            activity = await self._store.get(callback.activity_id)
        except Missing:
            await self._store.end_callback(callback.activity_id)
            return
        problem = await self._post(callback.url, activity)
        if problem is None:
            await self._store.end_callback(activity.id)
        elif callback.attempts + 1 >= _POLICY.max_attempts:
            _log.warning("the callback of activity %s is given up: %s", activity.id, problem)
            await self._store.end_callback(activity.id)
        else:
            delay = backoff(_POLICY, callback.attempts + 1, random.random())  # noqa: S311 - jitter
            await self._store.delay_callback(activity.id, time.time() + delay)

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
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            return str(exc) or type(exc).__name__


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
