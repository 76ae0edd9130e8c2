"""The one request that everybody answers, as a plain call and as an engine's."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.errors import BenchmarkError

__all__ = ["NUMBER", "Call", "engine_call", "plain_call"]

BODY: Final = '{"name": "Ada", "n": 1, "items": [1, 2, 3]}'
NUMBER: Final = "{n}"
"""In a header's value: stands for the number of the call, so that each is another activity."""

_ANSWER: Final = {"message": "Hello, Ada!"}
_PATIENCE: Final = 60.0  # seconds for one answer


@dataclass(frozen=True)
class Call:
    """A POST to ``/``, and what the answer must be."""

    headers: tuple[tuple[str, str], ...]
    answer: dict[str, Any]
    body: str = BODY

    def send(self, port: int) -> int:
        """Make this call once, and return the status.

        Raises:
            OSError: Nobody answers.
            http.client.HTTPException: What answers is not HTTP.
            BenchmarkError: The status is 200, but the answer is wrong.
        """
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        try:
            headers = {name: value.replace(NUMBER, "0") for name, value in self.headers}
            connection.request("POST", "/", self.body.encode(), headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status == 200 and json.loads(body) != self.answer:
            raise BenchmarkError(f"the answer is {body!r} where it should be {self.answer}")
        return response.status


def plain_call() -> Call:
    """What curl or a gateway sends."""
    return Call((("Content-Type", "application/json"),), _ANSWER)


def engine_call(sink: str) -> Call:
    """What an engine sends; its log lines go to `sink`, a base URL."""
    headers = {
        "Content-Type": "application/json",
        "X-Activity-ID": f"activity-{NUMBER}",
        "X-Environment-ID": "environment-1",
        "X-Environment-Name": "development",
        "X-Organization-ID": "organization-1",
        "X-Project-ID": "project-1",
        "X-Eaas-State-Endpoint": f"{sink}/state",
        "X-Eaas-State-Token": "state-token",
        "X-Event-Source": "workload",
        "X-Event-Source-Name": "benchmark",
        "X-Event-Type": "deploy",
        "X-Engine-Endpoint": sink,
        "X-Activity-File-Upload": f"/activities/activity-{NUMBER}/logs",
        "X-Workflow-Token": "workflow-token",
    }
    return Call(tuple(headers.items()), {"data": _ANSWER})
