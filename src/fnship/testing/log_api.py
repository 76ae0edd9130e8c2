"""The log upload over HTTP: a form with one file part, to the path of an attempt. No I/O."""

from __future__ import annotations

from typing import Final

from fnship import contract
from fnship.testing.faults import FaultPlan
from fnship.testing.http import Answer, Request, error
from fnship.testing.logs import Attempt, LogSink, Receipt
from fnship.testing.multipart import parse_multipart

__all__ = ["LogAPI"]

_BATCH: Final = contract.LOG_BATCH.lower().encode()
_TYPE: Final = b"content-type"
_STORED: Final = b'{"stored":true}'


class LogAPI:
    """Answers uploads to one sink.

    Args:
        sink: Where lines go.
        faults: What goes wrong.
    """

    def __init__(self, sink: LogSink, faults: FaultPlan) -> None:
        self._sink = sink
        self._faults = faults

    def answer(self, request: Request, attempt: Attempt) -> Answer:
        """Answer a request to the path of `attempt`."""
        problem, content = "", b""
        try:
            content = _content(request)
        except ValueError as exc:
            problem = str(exc)
        batch = request.headers.get(_BATCH)
        receipt = self._sink.arrived(
            attempt, None if batch is None else batch.decode("latin-1"), content
        )
        fault = self._faults.next(request.method)
        if fault is None:
            answer = self._store(request, attempt, receipt, problem)
        else:
            answer = fault.answer(lambda: self._store(request, attempt, receipt, problem))
        answer.sent = receipt.answered
        return answer

    def _store(self, request: Request, attempt: Attempt, receipt: Receipt, problem: str) -> Answer:
        if request.method != "POST":
            return error(405, "logs are uploaded with POST", b"Allow: POST\r\n")
        if not attempt.accepts(request.header(contract.WORKFLOW_TOKEN)):
            return error(401, f"{contract.WORKFLOW_TOKEN} is missing or wrong")
        if "append=true" not in request.query.split("&"):
            return error(400, "only ?append=true is understood")
        if problem:
            return error(400, problem)
        self._sink.store(attempt, receipt)
        return Answer(200, _STORED)


def _content(request: Request) -> bytes:
    """The form's file part ``content``. Raises ValueError where there is none."""
    content_type = request.headers.get(_TYPE, b"").decode("latin-1")
    for part in parse_multipart(content_type, request.body):
        if part.name == "content" and part.filename is not None:
            return part.body
    raise ValueError("the form has no file part named content")
