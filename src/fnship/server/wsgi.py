"""The Flask-era server's application: the function in Flask, with room for routes of yours."""

from __future__ import annotations

from typing import Any, Final

import flask
from werkzeug.exceptions import HTTPException

from fnship import contract
from fnship.server.asgi import ASGIFunction, LimitedBody
from fnship.server.asgi import create_app as create_function
from fnship.server.exchange import Exchange, refusal
from fnship.server.exchange import Response as Answer
from fnship.server.threads import BackgroundFunction
from fnship.settings import Settings

__all__ = ["FunctionFlask", "create_app"]

_PIECE: Final = 2**16  # bytes of a body that are read at once
_PATHS: Final = {
    contract.INVOKE_PATH: "POST",
    contract.READY_PATH: "GET",
    contract.HEALTH_PATH: "GET",
}


class FunctionFlask(flask.Flask):
    """A Flask application with a function on ``POST /``, and room for routes of your own.

    Its own routes, unknown paths and refusals are answered in the form of the contract; so is an
    `HTTPException` that a route or hook of yours raises.

    Args:
        function: What to serve.
        **options: As for `flask.Flask`; ``import_name`` is the handler's module by default.

    Attributes:
        background: Where the function runs. The first request starts it, unless our own server
            has; ``background.close()`` stops it before the process's end.
    """

    server_kind = "flask"

    def __init__(self, function: ASGIFunction, **options: Any) -> None:
        module, colon, _ = function.name.partition(":")
        options.setdefault("import_name", module if colon else __name__)
        options.setdefault("static_folder", None)
        super().__init__(**options)
        self.function = function
        self.background = BackgroundFunction(function)
        self.url_map.merge_slashes = False  # or /_//ready is answered with a page that redirects
        for path, method in _PATHS.items():
            self.add_url_rule(
                path,
                endpoint=f"fnship{path.replace('/', '.')}",
                view_func=self._answer,
                methods=[method],
                provide_automatic_options=False,
            )
        self.register_error_handler(HTTPException, self._refuse)

    def _answer(self) -> flask.Response:
        body = LimitedBody(self.function.settings.max_body_size)
        stream = flask.request.stream
        while (piece := stream.read(_PIECE)) and body.take(piece):
            pass
        if not body.seen:
            body.take(flask.request.get_data())  # what a hook of the user's has read before
        return self._respond(body.whole)

    def _refuse(self, error: HTTPException) -> flask.Response:
        request = flask.request
        wrong = 405 if request.path in _PATHS else 404
        if request.routing_exception is error and error.code == wrong:
            return self._respond(b"")  # which says what there is, and how to call it
        headers = tuple(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in error.get_headers(request.environ)
            if name.lower() != "content-type"
        )
        return _flask_response(refusal(error.code or 500, error.description or "", headers))

    def _respond(self, body: bytes | bytearray | None) -> flask.Response:
        request = flask.request
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in request.headers
        ]
        exchange = Exchange(request.method, request.path, headers, body)
        return _flask_response(self.background.respond(exchange))


def create_app(handler: Any, settings: Settings | None = None, **options: Any) -> FunctionFlask:
    """A Flask application that serves `handler`, for `fnship.serve` or a server of your own.

    A server of your own starts it with the first request. Nothing tells a WSGI application of a
    client that goes away, so such a call runs on.

    Args:
        handler: ``handle(logger, request)``, async or plain; or ``module:name`` to import.
        settings: Read from the environment by default.
        **options: As for `flask.Flask`.

    Raises:
        UsageError: A setting or the handler is wrong.
    """
    return FunctionFlask(create_function(handler, settings), **options)


def _flask_response(answer: Answer) -> flask.Response:
    response = flask.Response(answer.body, answer.status, content_type="application/json")
    for name, value in answer.headers:
        response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response
