"""The ASGI application around a handler, for those who bring their own server."""

from fnship.server.asgi import create_app

__all__ = ["create_app"]
