"""The state store over HTTP: GET one key or a listing, PUT with a version, DELETE. No I/O."""

from __future__ import annotations

import base64
import binascii
import math
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

import msgspec

from fnship import contract
from fnship.testing.faults import FaultPlan
from fnship.testing.http import Answer, Request, error
from fnship.testing.store import MemoryStore, Scope, StaleVersion

__all__ = ["StateAPI", "StateCall"]

_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000

_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _ScopeBody(msgspec.Struct):
    organization_id: _Text
    project_id: str | None = None
    environment_id: str | None = None

    def key(self) -> Scope:
        return self.organization_id, self.project_id or None, self.environment_id or None


class _Put(msgspec.Struct):
    scope: _ScopeBody
    key: _Text
    value: msgspec.Raw
    version: Annotated[int, msgspec.Meta(ge=0)]
    ttl: Annotated[float, msgspec.Meta(gt=0)] | None = None


class _Delete(msgspec.Struct):
    scope: _ScopeBody
    key: _Text


_decode_put = msgspec.json.Decoder(_Put).decode
_decode_delete = msgspec.json.Decoder(_Delete).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class StateCall:
    """A request to the state store that arrived.

    Attributes:
        method: GET, PUT or DELETE.
        query: The query, decoded.
        headers: Names in lower case. Not shown in the repr: a token is among them.
        body: As it came.
        status: What it was answered; None where the answer was cut or is still held back.
    """

    method: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    body: bytes
    status: int | None


class _BadRequest(Exception):
    """The request is malformed; the text says how."""


class StateAPI:
    """Answers requests to one store.

    Args:
        store: Where values are.
        faults: What goes wrong.
        knows_token: Whether a token may be used here.
    """

    def __init__(
        self, store: MemoryStore, faults: FaultPlan, knows_token: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._faults = faults
        self._knows_token = knows_token
        self._calls: list[StateCall] = []

    def calls(self) -> list[StateCall]:
        """Every request so far, in the order of arrival."""
        return list(self._calls)

    def answer(self, request: Request) -> Answer:
        """Answer a request to the store's path."""
        index = self._note(request)
        fault = self._faults.next(request.method)
        if fault is None:
            answer = self._carry_out(request)
        else:
            answer = fault.answer(lambda: self._carry_out(request))

        def sent(status: int) -> None:
            self._calls[index] = replace(self._calls[index], status=status)

        answer.sent = sent
        return answer

    def _note(self, request: Request) -> int:
        pairs = urllib.parse.parse_qsl(request.query, keep_blank_values=True)
        headers = {
            name.decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in request.headers.items()
        }
        self._calls.append(StateCall(request.method, dict(pairs), headers, request.body, None))
        return len(self._calls) - 1

    def _carry_out(self, request: Request) -> Answer:
        if not self._knows_token(request.header(contract.STATE_TOKEN)):
            return error(401, f"{contract.STATE_TOKEN} is missing or wrong")
        try:
            match request.method:
                case "GET":
                    return self._get(_query(request))
                case "PUT":
                    return self._put(request.body)
                case "DELETE":
                    return self._delete(request.body)
                case _:
                    return error(
                        405,
                        "the state store knows GET, PUT, DELETE",
                        b"Allow: GET, PUT, DELETE\r\n",
                    )
        except _BadRequest as exc:
            return error(400, str(exc))
        except msgspec.MsgspecError as exc:
            return error(400, f"the body: {exc}")
        except UnicodeDecodeError:
            return error(400, "the request is not UTF-8")

    def _get(self, query: dict[str, str]) -> Answer:
        if not query.get("organization_id"):
            raise _BadRequest("organization_id is missing")
        scope = (
            query["organization_id"],
            query.get("project_id") or None,
            query.get("environment_id") or None,
        )
        if ("key" in query) == ("prefix" in query):
            raise _BadRequest("give either key or prefix")
        if "prefix" in query:
            return self._list(scope, query)
        if not query["key"]:
            raise _BadRequest("key is empty")
        found = self._store.get_raw(scope, query["key"])
        if found is None:
            return error(404, "no such key")
        return Answer(200, _encode({"value": found[0], "version": found[1]}))

    def _list(self, scope: Scope, query: dict[str, str]) -> Answer:
        limit = query.get("limit", str(_PAGE))
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit) <= _LARGEST_PAGE):
            raise _BadRequest(f"limit is not a number from 1 to {_LARGEST_PAGE}")
        after = _read_cursor(query["cursor"]) if query.get("cursor") else None
        size = int(limit)
        found = self._store.list_raw(scope, query["prefix"], after=after, limit=size + 1)
        items: list[dict[str, Any]] = [
            {"key": key, "version": version, "value": raw} for key, raw, version in found[:size]
        ]
        cursor = _write_cursor(found[size - 1][0]) if len(found) > size else None
        return Answer(200, _encode({"items": items, "cursor": cursor}))

    def _put(self, body: bytes) -> Answer:
        put = _decode_put(body)
        if put.ttl is not None and not math.isfinite(put.ttl):
            raise _BadRequest("ttl is not a number of seconds")
        # Raw points into the request's body; the store keeps bytes of its own.
        value = msgspec.Raw(bytes(put.value))
        try:
            version = self._store.put(put.scope.key(), put.key, value, put.version, put.ttl)
        except StaleVersion as exc:
            return error(409, str(exc))
        return Answer(200, _encode({"version": version}))

    def _delete(self, body: bytes) -> Answer:
        delete = _decode_delete(body)
        if not self._store.delete(delete.scope.key(), delete.key):
            return error(404, "no such key")
        return Answer(200)


def _query(request: Request) -> dict[str, str]:
    pairs = urllib.parse.parse_qsl(request.query, keep_blank_values=True, errors="strict")
    return dict(pairs)


def _write_cursor(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _read_cursor(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _BadRequest("this cursor is not one of ours") from None
