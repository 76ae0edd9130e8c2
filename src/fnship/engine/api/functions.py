"""Routes for functions: register, look, remove."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from fnship.engine.api.common import CanAdminister, CanRead, TheEngine, json_response, problems
from fnship.engine.api.schemas import answer
from fnship.engine.document import timestamp
from fnship.engine.model import Function, Resources, RetryPolicy, Source
from fnship.errors import InvalidRequest

__all__ = ["router"]

router = APIRouter(prefix="/v1/functions", tags=["functions"])


class Retry(BaseModel):
    """When an activity is run again; times in seconds."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    max_attempts: Annotated[
        int, Field(ge=1, le=1000, description="failures before it has failed")
    ] = 5
    first_delay: Annotated[float, Field(ge=0, description="before the second attempt")] = 1.0
    factor: Annotated[float, Field(ge=1, description="what the delay grows by")] = 2.0
    max_delay: Annotated[float, Field(ge=0, description="what it grows up to")] = 300.0
    jitter: Annotated[float, Field(ge=0, le=1, description="the part of it left to chance")] = 0.5
    again_delay: Annotated[float, Field(ge=0, description="where it asked to be run again")] = 5.0
    max_again: Annotated[
        int, Field(ge=0, le=10**9, description="how often it may ask for that")
    ] = 1000
    max_again_age: Annotated[float, Field(ge=0, description="until how long after it began")] = (
        604800.0
    )


class FunctionBody(BaseModel):
    """A function: where it is, and how it is called. Give one of `url`, `folder` and `image`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    url: Annotated[
        str | None, Field(description="where it answers", examples=["http://127.0.0.1:5000"])
    ] = None
    folder: Annotated[str | None, Field(description="a folder that the engine serves itself")] = (
        None
    )
    image: Annotated[
        str | None, Field(description="an image that the engine runs", examples=["hello:1.0"])
    ] = None
    memory: Annotated[
        str | None, Field(description="what the image's container may use; 512m by default")
    ] = None
    cpus: Annotated[
        str | None, Field(description="how many it may use; all by default", examples=["1.5"])
    ] = None
    timeout: Annotated[float, Field(gt=0, description="seconds that one attempt may take")] = 300.0
    concurrency: Annotated[int, Field(ge=1, le=1000, description="requests at once")] = 16
    retry: Retry = Retry()

    def place(self) -> tuple[Source, str]:
        """Where the function is.

        Raises:
            InvalidRequest: It is at no place, or at two.
        """
        places = {Source.URL: self.url, Source.FOLDER: self.folder, Source.IMAGE: self.image}
        given = [(source, location) for source, location in places.items() if location is not None]
        if len(given) != 1:
            raise InvalidRequest("give one of url, folder and image")
        return given[0]

    def resources(self) -> Resources:
        """What its container may use.

        Raises:
            InvalidRequest: It is said of what runs in no container.
        """
        said = {"memory": self.memory, "cpus": self.cpus}
        given = {name: value for name, value in said.items() if value is not None}
        if given and self.image is None:
            raise InvalidRequest(f"{' and '.join(given)} can be said of an image alone")
        return Resources(**given)


@router.put(
    "/{name}",
    dependencies=[CanAdminister],
    response_model=None,
    responses={
        200: answer("Function", "It was changed."),
        201: answer("Function", "It is new."),
        **problems(400, 403, 507),
    },
)
async def put_function(name: str, body: FunctionBody, engine: TheEngine) -> Response:
    """Register a function, or change it; what the body does not say is set to its default."""
    source, location = body.place()
    kept = await engine.put_function(
        Function(
            name=name,
            source=source,
            location=location,
            timeout=body.timeout,
            concurrency=body.concurrency,
            retry=RetryPolicy(**body.retry.model_dump()),
            resources=body.resources(),
        )
    )
    return json_response(_document(kept), 201 if kept.created == kept.updated else 200)


@router.get(
    "",
    dependencies=[CanRead],
    response_model=None,
    responses={200: answer("Functions", "All of them.")},
)
async def list_functions(engine: TheEngine) -> Response:
    """Every function, by name."""
    return json_response({"items": [_document(each) for each in await engine.functions.list()]})


@router.get(
    "/{name}",
    dependencies=[CanRead],
    response_model=None,
    responses={200: answer("Function", "The function."), **problems(404)},
)
async def get_function(name: str, engine: TheEngine) -> Response:
    """One function."""
    return json_response(_document(await engine.functions.get(name)))


@router.delete(
    "/{name}",
    dependencies=[CanAdminister],
    status_code=204,
    response_model=None,
    responses=problems(403, 404, 507),
)
async def delete_function(name: str, engine: TheEngine) -> Response:
    """Remove a function; activities of it that have not ended will fail."""
    await engine.delete_function(name)
    return Response(status_code=204)


def _document(function: Function) -> dict[str, Any]:
    resources = {"memory": function.resources.memory, "cpus": function.resources.cpus or None}
    return {
        "name": function.name,
        function.source.value: function.location,
        **(resources if function.source is Source.IMAGE else {}),
        "timeout": function.timeout,
        "concurrency": function.concurrency,
        "retry": function.retry,
        "created": timestamp(function.created),
        "updated": timestamp(function.updated),
    }
