"""The log upload over HTTP: a form with a file for one attempt, or for each of many. No I/O."""

from __future__ import annotations

from typing import Final

import msgspec

from fnship import contract
from fnship.testing.faults import FaultPlan
from fnship.testing.http import Answer, Request, error
from fnship.testing.logs import Attempt, LogSink, Receipt
from fnship.testing.multipart import Part, parse_multipart

__all__ = ["LogAPI"]

_BATCH: Final = contract.LOG_BATCH.lower().encode()
_TOKEN: Final = contract.WORKFLOW_TOKEN.lower().encode()
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
            content = _files(request)[0].body
        except ValueError as exc:
            problem = str(exc)
        batch = request.headers.get(_BATCH)
        receipt = self._sink.arrived(
            attempt, None if batch is None else batch.decode("latin-1"), content
        )

        def store() -> Answer:
            return self._store(request, attempt, receipt, problem)

        fault = self._faults.next(request.method)
        answer = store() if fault is None else fault.answer(store)
        answer.sent = receipt.answered
        return answer

    def answer_many(self, request: Request) -> Answer:
        """Answer a request to the path for many attempts."""
        if request.method != "POST":
            return error(405, "logs are uploaded with POST", b"Allow: POST\r\n")
        try:
            parts = _files(request)
        except ValueError as exc:
            return error(400, str(exc))
        receipts = [self._arrived(part) for part in parts]
        stored: list[int] = []

        def store() -> Answer:
            stored.extend(self._store_part(each) for each in receipts)
            return Answer(200, msgspec.json.encode({"parts": [{"status": n} for n in stored]}))

        def sent(status: int) -> None:
            for number, (_, receipt) in enumerate(each for each in receipts if each):
                receipt.answered(stored[number] if stored else status)

        fault = self._faults.next(request.method)
        answer = store() if fault is None else fault.answer(store)
        answer.sent = sent
        return answer

    def _arrived(self, part: Part) -> tuple[Attempt, Receipt] | None:
        attempt = self._sink.attempt_with(part.headers.get(_TOKEN, ""))
        if attempt is None:
            return None
        return attempt, self._sink.arrived(attempt, part.headers.get(_BATCH), part.body)

    def _store_part(self, arrived: tuple[Attempt, Receipt] | None) -> int:
        if arrived is None:
            return 401
        attempt, receipt = arrived
        if receipt.upload.batch is None:
            return 400
        self._sink.store(attempt, receipt)
        return 200

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


def _files(request: Request) -> list[Part]:
    """The form's file parts ``content``. Raises ValueError where there is none."""
    content_type = request.headers.get(_TYPE, b"").decode("latin-1")
    parts = parse_multipart(content_type, request.body)
    files = [part for part in parts if part.name == "content" and part.filename is not None]
    if not files:
        raise ValueError("the form has no file part named content")
    return files
