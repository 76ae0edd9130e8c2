"""The drop-in package: the names that handlers in the field import, and what they do."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fnship
import python_sdk_rafay_workflow
from fnship import contract
from fnship.testing import Engine
from python_sdk_rafay_workflow import const, errors, sdk

NAMES = {
    "python_sdk_rafay_workflow": [
        "serve_function",
        "ExecuteAgainException",
        "FailedException",
        "TransientException",
        "FunctionException",
        "ERROR_CODE_EXECUTE_AGAIN",
        "ERROR_CODE_FAILED",
        "ERROR_CODE_TRANSIENT",
        "EventDetails",
        "EventType",
    ],
    "python_sdk_rafay_workflow.sdk": [
        "serve_function",
        "ExecuteAgainException",
        "FailedException",
        "TransientException",
        "FunctionException",
        "ERROR_CODE_EXECUTE_AGAIN",
        "ERROR_CODE_FAILED",
        "ERROR_CODE_TRANSIENT",
        "ActivityIDHeader",
        "WorkflowTokenHeader",
    ],
    "python_sdk_rafay_workflow.errors": [
        "ExecuteAgainException",
        "FailedException",
        "TransientException",
        "FunctionException",
        "ERROR_CODE_EXECUTE_AGAIN",
        "ERROR_CODE_FAILED",
        "ERROR_CODE_TRANSIENT",
    ],
    "python_sdk_rafay_workflow.event_details": ["EventDetails", "EventType"],
    "python_sdk_rafay_workflow.state_client": ["StateClient", "StateClientBuilder", "StateScope"],
    "python_sdk_rafay_workflow.activity_logger": ["ActivityLogger"],
    "python_sdk_rafay_workflow.logger": ["ActivityLogger"],
    "python_sdk_rafay_workflow.app_factory": ["create_app"],
}
HEADERS = {
    "ActivityIDHeader": "X-Activity-ID",
    "EnvironmentIDHeader": "X-Environment-ID",
    "EnvironmentNameHeader": "X-Environment-Name",
    "WorkflowTokenHeader": "X-Workflow-Token",
    "EngineAPIEndpointHeader": "X-Engine-Endpoint",
    "ActivityFileUploadHeader": "X-Activity-File-Upload",
    "OrganizationIDHeader": "X-Organization-ID",
    "ProjectIDHeader": "X-Project-ID",
    "EaasStateEndpointHeader": "X-Eaas-State-Endpoint",
    "EaasStateAPITokenHeader": "X-Eaas-State-Token",
    "EventSourceHeader": "X-Event-Source",
    "EventSourceNameHeader": "X-Event-Source-Name",
    "EventTypeHeader": "X-Event-Type",
}


@pytest.mark.parametrize("module", NAMES)
def test_every_name_is_there(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(found, name)] == []
    assert set(NAMES[module]) <= set(found.__all__)


@pytest.mark.parametrize("name", HEADERS)
def test_header_names(name: str) -> None:
    assert getattr(const, name) == getattr(sdk, name) == HEADERS[name]


def test_every_header_name_is_listed() -> None:
    assert sorted(const.__all__) == sorted(HEADERS)


def test_the_classes_are_fnships_own() -> None:
    assert errors.FunctionException is fnship.FunctionError
    assert sdk.ExecuteAgainException is fnship.ExecuteAgain
    assert sdk.FailedException is fnship.Failed
    assert python_sdk_rafay_workflow.TransientException is fnship.Transient
    assert python_sdk_rafay_workflow.EventDetails is fnship.EventDetails


@pytest.mark.parametrize(
    ("exception", "code", "message"),
    [
        (sdk.ExecuteAgainException("m", a=1), 1, "function: execute again: m"),
        (sdk.FailedException("m"), 2, "function: failed: m"),
        (sdk.TransientException("m"), 3, "function: transient error: m"),
        (sdk.FunctionException("m"), 2, "m"),
        (sdk.FunctionException("m", 3), 3, "m"),
        (sdk.FunctionException("m", error_code=sdk.ERROR_CODE_TRANSIENT), 3, "m"),
    ],
)
def test_exceptions_as_handlers_raise_and_catch_them(
    exception: fnship.FunctionError, code: int, message: str
) -> None:
    with pytest.raises(sdk.FunctionException) as caught:
        raise exception
    assert (caught.value.message, caught.value.error_code) == (message, code)


def test_execute_again_carries_its_data() -> None:
    assert sdk.ExecuteAgainException("m", done=3, retry_after=1).data == {
        "done": 3,
        "retry_after": 1,
    }


def test_a_subclass_of_the_fields_own() -> None:
    class QuotaExceeded(sdk.FailedException):
        def __init__(self, quota: int) -> None:
            super().__init__(f"quota {quota} exceeded")
            self.quota = quota

    assert QuotaExceeded(3).message == "function: failed: quota 3 exceeded"
    assert QuotaExceeded(3).error_code == contract.FAILED


def test_serve_function_takes_what_it_took() -> None:
    parameters = inspect.signature(python_sdk_rafay_workflow.serve_function).parameters
    assert list(parameters) == ["handler", "host", "port"]
    assert (parameters["host"].default, parameters["port"].default) == ("0.0.0.0", 5000)


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ({}, {"host": None, "port": None}),
        ({"host": "0.0.0.0", "port": 5000}, {"host": None, "port": None}),
        ({"host": "127.0.0.1", "port": 80}, {"host": "127.0.0.1", "port": 80}),
    ],
)
def test_an_address_is_passed_on_where_it_says_something(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, object], passed_on: dict[str, object]
) -> None:
    served: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr(
        "fnship.server.process.serve", lambda handler, **address: served.append((handler, address))
    )
    python_sdk_rafay_workflow.serve_function(test_header_names, **given)
    assert served == [(test_header_names, passed_on)]


def test_importing_it_loads_no_server_and_no_client() -> None:
    code = (
        "import sys, json, python_sdk_rafay_workflow, python_sdk_rafay_workflow.state_client; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"uvicorn", "gunicorn", "aiohttp", "urllib3", "httptools", "click"}


FIELD_MAIN = """
from python_sdk_rafay_workflow import sdk
from function.handler import handle

if __name__ == "__main__":
    sdk.serve_function(handle)
"""
FIELD_HANDLER = """
from python_sdk_rafay_workflow import EventDetails, sdk

def handle(logger, request):
    logger.info("from the field")
    if EventDetails(request).is_deploy():
        raise sdk.ExecuteAgainException("soon", done=1)
    return {"project": request["metadata"]["projectID"]}
"""


def test_a_function_from_the_field_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(FIELD_MAIN)
    (tmp_path / "function").mkdir()
    (tmp_path / "function" / "handler.py").write_text(FIELD_HANDLER)
    process = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={**os.environ, "PORT": "0", "HOST": "127.0.0.1", "GUNICORN_WORKERS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, Engine() as engine:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            serving = re.search(r"serving function\.handler:handle on (http://\S+)", said)
            assert serving, said
            first = post(serving[1], engine.headers(activity_id="a1", project_id="p1"))
            second = post(serving[1], engine.headers(activity_id="a2", event_type="deploy"))
            lines = engine.wait_for_lines("a1", 1)
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert first == (200, {"data": {"project": "p1"}})
    assert second == (
        500,
        {"error_code": 1, "message": "function: execute again: soon", "data": {"done": 1}},
    )
    assert lines[0].endswith(" msg=from the field")


def post(url: str, headers: dict[str, str]) -> tuple[int, object]:
    import urllib3

    with urllib3.PoolManager() as pool:
        while True:  # bounded by the test's own timeout: 503 is said until start() is done
            answer = pool.request("POST", url, body=b"{}", headers=headers, retries=False)
            if answer.status != 503:
                return answer.status, answer.json()
            time.sleep(0.01)
