"""The names of the field, typed."""

from __future__ import annotations

from typing import Any, assert_type

import python_sdk_rafay_workflow as whole
from python_sdk_rafay_workflow import (
    EventDetails,
    EventType,
    ExecuteAgainException,
    FailedException,
    TransientException,
    sdk,
    serve_function,
)
from python_sdk_rafay_workflow.activity_logger import ActivityLogger
from python_sdk_rafay_workflow.state_client import StateClientBuilder


def handle(logger: ActivityLogger, request: dict[str, Any]) -> dict[str, Any]:
    state = StateClientBuilder(request).with_env_scope()
    _value, version = state.get("key")
    assert_type(version, int)
    state.set_kv("key", "value", version)
    state.set("key", lambda old: (old or 0) + 1, max_retries=3)
    state.delete("key")
    if EventDetails(request).type == EventType.DESTROY:
        raise ExecuteAgainException("later", done=1)
    if request.get("bad"):
        raise FailedException("no") from sdk.TransientException("first")
    try:
        logger.info("line")
    except sdk.FunctionException as exc:
        assert_type(exc.error_code, int)
        raise TransientException(exc.message) from exc
    return {"code": sdk.ERROR_CODE_FAILED, "header": sdk.ActivityIDHeader}


async def async_handle(logger: ActivityLogger, request: dict[str, Any]) -> dict[str, Any]:
    state = StateClientBuilder(request).with_org_scope()
    value, version = await state.get_async("key")
    await state.set_async("key", lambda old: old)
    await state.set_kv_async("key", "value", version)
    await state.delete_async("key")
    logger.info("%s", value)
    return {}


def main() -> None:
    serve_function(handle)
    whole.serve_function(async_handle, host="127.0.0.1", port=8000)
    sdk.serve_function(handle, "0.0.0.0", 5000)
