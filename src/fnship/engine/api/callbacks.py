"""The route for those who want to know that a callback is the engine's."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from fnship.engine.api.common import CanAdminister, TheEngine, json_response, problems
from fnship.engine.api.schemas import answer

__all__ = ["router"]

router = APIRouter(prefix="/v1/callbacks", tags=["callbacks"], dependencies=[CanAdminister])


@router.get(
    "/key",
    response_model=None,
    responses={200: answer("CallbackKey", "The key."), **problems(403)},
)
async def get_callback_key(engine: TheEngine) -> Response:
    """The key that callbacks are signed with, as libraries for Standard Webhooks take it."""
    return json_response({"key": engine.callback_key}, 200, {"Cache-Control": "no-store"})
