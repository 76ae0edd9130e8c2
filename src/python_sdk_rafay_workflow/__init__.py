"""fnship under the names that handlers in the field import. Re-exports, and nothing else."""

from python_sdk_rafay_workflow import const, errors, event_details, sdk
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
from python_sdk_rafay_workflow.sdk import serve_function

__all__ = [
    "ERROR_CODE_EXECUTE_AGAIN",
    "ERROR_CODE_FAILED",
    "ERROR_CODE_TRANSIENT",
    "EventDetails",
    "EventType",
    "ExecuteAgainException",
    "FailedException",
    "FunctionException",
    "TransientException",
    "const",
    "errors",
    "event_details",
    "sdk",
    "serve_function",
]
