"""The same work for functions-framework's ASGI server."""

from typing import Any

import functions_framework.aio
from starlette.requests import Request


@functions_framework.aio.http
async def handle(request: Request) -> dict[str, Any]:
    body = await request.json()
    return {"message": f"Hello, {body['name']}!"}
