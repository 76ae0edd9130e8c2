"""All of it in one module: handlers write ``from python_sdk_rafay_workflow import sdk``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from python_sdk_rafay_workflow.const import (
    ActivityFileUploadHeader,
    ActivityIDHeader,
    EaasStateAPITokenHeader,
    EaasStateEndpointHeader,
    EngineAPIEndpointHeader,
    EnvironmentIDHeader,
    EnvironmentNameHeader,
    EventSourceHeader,
    EventSourceNameHeader,
    EventTypeHeader,
    OrganizationIDHeader,
    ProjectIDHeader,
    WorkflowTokenHeader,
)
from python_sdk_rafay_workflow.errors import (
    ERROR_CODE_EXECUTE_AGAIN,
    ERROR_CODE_FAILED,
    ERROR_CODE_TRANSIENT,
    ExecuteAgainException,
    FailedException,
    FunctionException,
    TransientException,
)
from python_sdk_rafay_workflow.event_details import EventDetails, EventType

__all__ = [
    "ERROR_CODE_EXECUTE_AGAIN",
    "ERROR_CODE_FAILED",
    "ERROR_CODE_TRANSIENT",
    "ActivityFileUploadHeader",
    "ActivityIDHeader",
    "EaasStateAPITokenHeader",
    "EaasStateEndpointHeader",
    "EngineAPIEndpointHeader",
    "EnvironmentIDHeader",
    "EnvironmentNameHeader",
    "EventDetails",
    "EventSourceHeader",
    "EventSourceNameHeader",
    "EventType",
    "EventTypeHeader",
    "ExecuteAgainException",
    "FailedException",
    "FunctionException",
    "OrganizationIDHeader",
    "ProjectIDHeader",
    "TransientException",
    "WorkflowTokenHeader",
    "serve_function",
]

_HOST = "0.0.0.0"  # noqa: S104 - a function in a container is called from outside it
_PORT = 5000


def serve_function(
    handler: Callable[[Any, Any], Any], host: str = _HOST, port: int = _PORT
) -> None:
    """Serve `handler` until SIGTERM, as `fnship.serve` does.

    Args:
        handler: ``handle(logger, request)``, async or plain.
        host: The address to bind. ``HOST`` is heard only where this is left at its default.
        port: The port to bind. ``PORT`` is heard only where this is left at its default.
    """
    from fnship.server.process import serve

    serve(handler, host=None if host == _HOST else host, port=None if port == _PORT else port)
