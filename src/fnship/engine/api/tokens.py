"""Routes for tokens: make, look, revoke."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from fnship.engine.api.common import CanAdminister, TheAuthority, json_response, problems
from fnship.engine.api.schemas import answer
from fnship.engine.auth import Role
from fnship.engine.document import timestamp

__all__ = ["router"]

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], dependencies=[CanAdminister])

_LONGEST_LIFE = 10 * 365 * 86400.0


class TokenBody(BaseModel):
    """A token that is to be made."""

    model_config = ConfigDict(extra="forbid")

    role: Annotated[Role, Field(description="what it allows")]
    expires_in: Annotated[
        float | None, Field(gt=0, le=_LONGEST_LIFE, description="seconds; for ever by default")
    ] = None
    name: Annotated[str, Field(max_length=200, description="what it is for")] = ""


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={201: answer("NewToken", "The token."), **problems(400, 403, 507)},
)
async def make_token(body: TokenBody, authority: TheAuthority) -> Response:
    """Make a token. The answer is the only place where it is ever shown."""
    expires = time.time() + body.expires_in if body.expires_in is not None else None
    token_id, token = await asyncio.to_thread(authority.mint, body.role, expires, body.name)
    made = {
        "id": token_id,
        "token": token,
        "role": body.role,
        "name": body.name,
        "expires": timestamp(expires),
    }
    return json_response(made, 201, {"Cache-Control": "no-store"})


@router.get(
    "", response_model=None, responses={200: answer("Tokens", "All of them."), **problems(403)}
)
async def list_tokens(authority: TheAuthority) -> Response:
    """Every token that is good, but for the main one; none is shown itself."""
    items = [
        {
            "id": each.id,
            "role": each.role,
            "name": each.name,
            "created": timestamp(each.created),
            "expires": timestamp(each.expires),
        }
        for each in authority.records()
    ]
    return json_response({"items": items})


@router.delete(
    "/{token_id}", status_code=204, response_model=None, responses=problems(403, 404, 507)
)
async def revoke_token(token_id: str, authority: TheAuthority) -> Response:
    """Refuse a token from now on."""
    await asyncio.to_thread(authority.revoke, token_id)
    return Response(status_code=204)
