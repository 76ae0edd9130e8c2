"""The state store's protocol without any I/O: what to ask, and what an answer means.

The operations are generators of the steps in `fnship.function.state_model`; the sync and the
async front in `fnship.function.state_http` carry the same steps out, each in its way.
"""

from __future__ import annotations

import random
import re
import urllib.parse
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from fnship import contract
from fnship.errors import (
    MalformedJSON,
    StateConflict,
    StateContention,
    StateDenied,
    StateUnavailable,
)
from fnship.function import codec
from fnship.function.state_checks import check_key, check_text, check_ttl, header_value, take_apart
from fnship.function.state_model import (
    Pause,
    Request,
    Response,
    StateItem,
    StateScope,
    Steps,
    Unreached,
    Update,
)

__all__ = ["StateProtocol"]

_FIRST_PAUSE: Final = 0.01  # seconds
_LONGEST_PAUSE: Final = 1.0
_LARGEST_PAGE: Final = 1000  # items
_NO_LISTING: Final = frozenset({400, 404, 405})
_MAY_PASS: Final = frozenset({408, 425, 429})  # statuses below 500 that are worth another try


class StateProtocol:
    """Asks one store about one scope.

    Args:
        base_url: The store's URL. User name and password in it are sent as basic
            authentication, and never shown.
        token: Shown to the store, and to nobody else.
        organization_id: Sent as a header with every request, as are the next two.
        project_id: None leaves the header out.
        environment_id: None leaves the header out.
        scope: Where the keys are.

    Raises:
        ValueError: The URL is no http or https URL, or an id or the token is empty or
            cannot stand in a header.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        organization_id: str,
        project_id: str | None,
        environment_id: str | None,
        scope: StateScope,
    ) -> None:
        self._scope = scope
        self._token = token
        self._url, self.origin, authorization = take_apart(base_url)
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "fnship",
            **authorization,
        }
        for name, what, value in (
            (contract.STATE_TOKEN, "the state store's token", token),
            (contract.ORGANIZATION_ID, "the organization's id", organization_id),
            (contract.PROJECT_ID, "the project's id", project_id or None),
            (contract.ENVIRONMENT_ID, "the environment's id", environment_id or None),
        ):
            if value is not None:
                headers[name] = header_value(value, what)
        self._headers = headers
        self._headers_with_body = {**headers, "Content-Type": "application/json"}

    def get(self, key: str) -> Steps[tuple[Any, int]]:
        """Read a key: its value and version, or None and 0."""
        check_key(key)
        response = yield from self._ask(key, self._request("GET", query={"key": key}))
        if response.status == 404:
            return None, 0
        answer = self._object(key, self._accept(key, response))
        if "value" not in answer:
            raise self._unavailable(key, "answered without a value")
        return answer["value"], self._version(key, answer)

    def put(self, key: str, value: Any, version: int, ttl: float | None) -> Steps[int | None]:
        """Write a key whose version is still `version`."""
        check_key(key)
        head: dict[str, Any] = {"scope": self._scope_body(), "key": key}
        head["value"] = msgspec.Raw(codec.encode(value, root="value"))
        head["version"] = version
        if ttl is not None:
            head["ttl"] = check_ttl(ttl)
        response = yield from self._ask(key, self._request("PUT", body=head))
        if response.status == 409:
            problem = "the version is no longer current"
            raise StateConflict(problem, key=key, scope=str(self._scope))
        return _told_version(self._accept(key, response).body)

    def update(
        self,
        key: str,
        update_fn: Callable[[Any], Any],
        max_retries: int,
        ttl: float | None,
        dice: Callable[[], float] = random.random,
    ) -> Steps[Any]:
        """Read, change and write a key until nobody else wrote in between.

        A lost answer to a write is not repeated: the write may have been carried out, and
        to apply `update_fn` once more would count twice.
        """
        retries = 0
        while True:
            old, version = yield from self.get(key)
            new = yield Update(update_fn, old)
            try:
                yield from self.put(key, new, version, ttl)
                return new
            except StateConflict as exc:
                if retries >= max_retries:
                    problem = f"others wrote first every time, with {retries} retries"
                    raise StateContention(problem, key=key, scope=str(self._scope)) from exc
            # Jitter parts writers that met; the growth parts ever more of them.
            longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(retries, 10))
            yield Pause(longest * (0.5 + dice() / 2))
            retries += 1

    def delete(self, key: str) -> Steps[None]:
        """Delete a key, or find it gone."""
        check_key(key)
        body = {"scope": self._scope_body(), "key": key}
        response = yield from self._ask(key, self._request("DELETE", body=body))
        if response.status != 404:
            self._accept(key, response)

    def list(self, prefix: str, limit: int | None) -> Steps[_Items]:
        """The scope's keys that start with `prefix`, page by page, at most `limit` of them."""
        check_text(prefix, "a prefix")
        items: _Items = []
        cursor = ""
        while limit is None or len(items) < limit:
            page = _LARGEST_PAGE if limit is None else min(_LARGEST_PAGE, limit - len(items))
            query = {"prefix": prefix, "limit": str(page)}
            if cursor:
                query["cursor"] = cursor
            response = yield from self._ask(prefix, self._request("GET", query=query))
            if response.status in _NO_LISTING:
                raise self._denied(prefix, "offers no listing", response)
            answer = self._object(prefix, self._accept(prefix, response))
            if "items" not in answer:
                raise self._denied(prefix, "offers no listing", response)
            items += self._items(prefix, answer["items"])
            previous, cursor = cursor, answer.get("cursor") or ""
            if not cursor:
                break
            if not isinstance(cursor, str) or cursor == previous:
                raise self._unavailable(prefix, "answered with a cursor that leads nowhere")
        return items[:limit]

    # Requests

    def _request(
        self, method: str, query: dict[str, str] | None = None, body: dict[str, Any] | None = None
    ) -> Request:
        if query is None:
            return Request(method, self._url, self._headers_with_body, msgspec.json.encode(body))
        scope = {name: value for name, value in self._scope_body().items() if value}
        text = urllib.parse.urlencode(query | scope, quote_via=urllib.parse.quote, safe="")
        joint = "&" if "?" in self._url else "?"
        return Request(method, f"{self._url}{joint}{text}", self._headers)

    def _scope_body(self) -> dict[str, str | None]:
        return {
            "organization_id": self._scope.organization_id,
            "project_id": self._scope.project_id,
            "environment_id": self._scope.environment_id,
        }

    def _ask(self, key: str, request: Request) -> Steps[Response]:
        """Exchange one request; a read is asked once more where the connection broke."""
        repeatable = request.method == "GET"
        while True:
            try:
                response: Response = yield request
                return response
            except Unreached as exc:
                if not (exc.cut and repeatable):
                    problem = exc.problem
                    if exc.sent and request.method != "GET":
                        problem += "; it may or may not have done what it was asked"
                    raise self._unavailable(key, problem) from exc
                repeatable = False

    # Answers

    def _accept(self, key: str, response: Response) -> Response:
        """The answer, if it is a success."""
        status = response.status
        if 200 <= status < 300:
            return response
        if status >= 500 or status in _MAY_PASS:
            raise self._unavailable(key, f"answered {status}{self._words(response)}")
        if 300 <= status < 400:
            raise self._denied(key, f"answered {status}, a redirect, never followed", response)
        raise self._denied(key, f"refused with status {status}{self._words(response)}", response)

    def _object(self, key: str, response: Response) -> dict[str, Any]:
        try:
            answer = codec.decode(response.body)
        except MalformedJSON as exc:
            problem = f"answered with something that is no JSON ({exc})"
            raise self._unavailable(key, problem) from exc
        if not isinstance(answer, dict):
            raise self._unavailable(key, "answered with JSON that is no object")
        return answer

    def _items(self, prefix: str, found: Any) -> _Items:
        if not isinstance(found, list):
            raise self._unavailable(prefix, "answered with a listing that is no array")
        items = []
        for each in found:
            if not (isinstance(each, dict) and isinstance(each.get("key"), str)):
                raise self._unavailable(prefix, "answered with an item without a key")
            items.append(StateItem(each["key"], each.get("value"), self._version(prefix, each)))
        return items

    def _version(self, key: str, answer: dict[str, Any]) -> int:
        version = _as_version(answer.get("version", 0))
        if version is None:
            raise self._unavailable(key, "answered with a version that is no whole number")
        return version

    def _unavailable(self, key: str, problem: str) -> StateUnavailable:
        return StateUnavailable(
            f"the store at {self.origin} {problem}", key=key, scope=str(self._scope)
        )

    def _denied(self, key: str, problem: str, response: Response) -> StateDenied:
        return StateDenied(
            f"the store at {self.origin} {problem}",
            key=key,
            scope=str(self._scope),
            status=response.status,
        )

    def _words(self, response: Response) -> str:
        """What the store says about it, if it does so in JSON. Never a token."""
        try:
            answer = codec.decode(response.body)
        except MalformedJSON:
            return ""
        said = answer.get("error") or answer.get("message") if isinstance(answer, dict) else None
        if not isinstance(said, str):
            return ""
        words = " ".join(said.replace(self._token, "***").split())
        return f": {words[:200]}"


_Items: TypeAlias = list[StateItem]  # inside the class, list is a method


def _as_version(version: Any) -> int | None:
    """A version as a number; some stores write it as text. None where it is none."""
    if isinstance(version, str) and re.fullmatch(r"[0-9]{1,18}", version, re.ASCII):
        return int(version)
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def _told_version(body: bytes) -> int | None:
    """The new version, where the answer to a write tells it; not every store does."""
    try:
        answer = codec.decode(body)
    except MalformedJSON:
        return None
    return _as_version(answer.get("version")) if isinstance(answer, dict) else None
