"""What all routes of the API share: the engine, roles, and how answers and errors look."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from fnship.engine.auth import Authority, Role
from fnship.engine.engine import Engine
from fnship.errors import EngineError, TokenRefused

__all__ = [
    "PROBLEM_SCHEMA",
    "CanAdminister",
    "CanInvoke",
    "CanRead",
    "TheAuthority",
    "TheEngine",
    "add_errors",
    "authorize",
    "json_response",
    "problem",
    "problems",
]

PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "the kind of problem"},
        "status": {"type": "integer", "description": "the HTTP status"},
        "detail": {"type": "string", "description": "what is wrong this time"},
    },
}
"""The body of every error (RFC 9457)."""

_METHODS: Final = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH")
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_encode: Final = msgspec.json.Encoder().encode


def authorize(request: Request, role: Role) -> None:
    """See that a request brings a token for a role.

    Raises:
        TokenRefused: It brings none that is good.
        NotAllowed: Its role is not enough.
    """
    authority: Authority = request.app.state.authority
    authority.check(request.headers.get("authorization"), role)


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _authority(request: Request) -> Authority:
    authority: Authority = request.app.state.authority
    return authority


def _needs(role: Role) -> Any:
    async def check(request: Request) -> None:
        authorize(request, role)

    return Depends(check)


TheEngine = Annotated[Engine, Depends(_engine)]
TheAuthority = Annotated[Authority, Depends(_authority)]
CanRead = _needs(Role.READ)
CanInvoke = _needs(Role.INVOKE)
CanAdminister = _needs(Role.ADMIN)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON; raw JSON in it goes out as it came in."""
    return Response(_encode(body), status, headers, _JSON)


def problem(
    status: int, title: str, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Response(_encode(body), status, dict(headers or {}), _PROBLEM)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its description.

    Args:
        *statuses: Their HTTP statuses.
    """
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "content": {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def add_errors(app: FastAPI) -> None:
    """Answer every error as RFC 9457 has it."""

    async def refused(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, EngineError)
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(exc, TokenRefused) else None
        return problem(exc.status, exc.title, str(exc), headers)

    async def http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        title = http.HTTPStatus(exc.status_code).phrase.lower()
        detail, headers = exc.detail, dict(exc.headers or {})
        if exc.status_code == http.HTTPStatus.NOT_FOUND:
            detail = "there is nothing at this path"
        elif exc.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(app, request))
            detail = f"this path takes {headers['Allow']}"
        return problem(exc.status_code, title, detail, headers)

    async def not_valid(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON and any(each["loc"][0] == "body" for each in exc.errors()):
            detail = f"the body is {kind or 'nothing'}; send it as Content-Type: {_JSON}"
            return problem(400, "the request is not valid", detail)
        detail = "; ".join(_invalid(each) for each in exc.errors())
        return problem(400, "the request is not valid", detail)

    async def gone(_: Request, __: Exception) -> Response:
        return problem(400, "the request is not valid", "the body is not whole")  # nobody reads it

    async def failed(_: Request, __: Exception) -> Response:
        return problem(500, "the engine failed", "its own log says how")

    app.add_exception_handler(EngineError, refused)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, failed)


def _invalid(error: Mapping[str, Any]) -> str:
    """What pydantic found wrong with one value, with the name that the value has for its sender."""
    name = ".".join(str(part) for part in error["loc"][1:]) or "the body"
    said = str(error["msg"])
    return f"{name} {said[6:]}" if said.startswith("Input should ") else f"{name}: {said}"


def _methods(app: FastAPI, request: Request) -> list[str]:
    """The methods that there is something for at the path of a request."""
    found = set()
    for method in _METHODS:
        for each in app.router.routes:
            match, _ = each.matches({**request.scope, "method": method})
            if match is Match.FULL:
                found.add(method)
    return sorted(found)
