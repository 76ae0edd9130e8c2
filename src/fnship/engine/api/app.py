"""The applications: the API for people and programs, and what functions send to the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from fnship import __version__
from fnship.engine.api import activities, callbacks, functions, invocations, logs, state, tokens
from fnship.engine.api.common import (
    CanAdminister,
    CanRead,
    add_errors,
    json_response,
    problem,
    problems,
)
from fnship.engine.api.schemas import SCHEMAS
from fnship.engine.api.waiting import Waits
from fnship.engine.auth import Authority
from fnship.engine.engine import Engine
from fnship.engine.log_api import log_routes
from fnship.engine.state_api import state_route

__all__ = ["create_api", "create_functions_api"]

_ABOUT = """Invokes functions, durably, and keeps their state and their logs.

Every request brings a token: `Authorization: Bearer TOKEN`. A token has a role: `read` looks at
everything, `invoke` runs, cancels and replays activities as well, `admin` does everything. Every
error is an `application/problem+json`. Times are RFC 3339 in UTC, durations are seconds.
"""
_METHODS = ("get", "put", "post", "delete", "patch")


def create_api(engine: Engine, authority: Authority) -> FastAPI:
    """Make the API.

    Args:
        engine: What does the work.
        authority: Who may use it.

    Returns:
        The application. While its `state.stopping` is true it is not ready, and `state.waits`
        ends what waits for activities.
    """
    app = FastAPI(
        title="fnship engine",
        version=__version__,
        description=_ABOUT,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.engine = engine
    app.state.authority = authority
    app.state.stopping = False
    app.state.waits = Waits(engine)
    app.router.routes.append(invocations.route(engine, app.state.waits))
    for each in (functions, activities, logs, callbacks, tokens):
        app.include_router(each.router)
    app.include_router(state.read_routes, dependencies=[CanRead])
    app.include_router(state.admin_routes, dependencies=[CanAdminister])

    @app.get("/healthz", response_model=None, tags=["health"])
    async def healthy() -> Response:
        """Whether the engine lives."""
        return json_response({"status": "healthy"})

    @app.get("/readyz", response_model=None, tags=["health"], responses=problems(503))
    async def ready() -> Response:
        """Whether it takes requests."""
        if app.state.stopping:
            return problem(503, "the engine is stopping", "send requests to another, or wait")
        return json_response({"status": "ready"})

    @app.get("/v1/openapi.json", dependencies=[CanRead], response_model=None, tags=["health"])
    async def describe() -> Response:
        """This description (OpenAPI 3.1)."""
        return json_response(_description(app))

    add_errors(app)
    return app


def create_functions_api(
    engine: Engine, on_lines: Callable[[str, str], None] = lambda _, __: None
) -> Starlette:
    """Make what functions reach: their state and their logs, with the tokens of their attempts.

    Args:
        engine: What keeps both.
        on_lines: Told an activity's id and the lines that its function has logged.
    """

    async def elsewhere(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        return json_response({"error": exc.detail}, exc.status_code, dict(exc.headers or {}))

    return Starlette(
        routes=[
            *log_routes(engine.logs, engine.tokens, on_lines),
            state_route(engine.state, engine.tokens, engine.live.holds, engine.options.max_value),
        ],
        exception_handlers={HTTPException: elsewhere},
    )


def _description(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        described["paths"][invocations.PATH] = {"post": invocations.DESCRIPTION}
        components = described.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):  # ours are problems
            schemas.pop(unused, None)
        schemas.update(SCHEMAS)
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
        for where, operations in described["paths"].items():
            for method in _METHODS:
                if method in operations:
                    _correct(operations[method], is_open=not where.startswith("/v1/"))
        app.openapi_schema = described
    return app.openapi_schema


def _correct(operation: dict[str, Any], *, is_open: bool) -> None:
    """Describe errors as they are: a value that is not valid is answered 400 here."""
    responses = operation["responses"]
    more = []
    if operation is not invocations.DESCRIPTION and responses.pop("422", None) is not None:
        more.append(400)
    if "requestBody" in operation:
        more.append(413)
    if is_open:
        operation["security"] = []
    else:
        more.append(401)
    responses.update({str(status): each for status, each in problems(*more).items()})
