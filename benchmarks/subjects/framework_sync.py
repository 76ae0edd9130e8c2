"""The same work for functions-framework's default server."""

from typing import Any

import flask
import functions_framework


@functions_framework.http
def handle(request: flask.Request) -> dict[str, Any]:
    body = request.get_json()
    return {"message": f"Hello, {body['name']}!"}
