"""Copies records, a few in each run: {"records": how many there are}."""

from logging import Logger
from typing import Any

from fnship import ExecuteAgain

from . import work

RECORDS_PER_RUN = 5


def handle(logger: Logger, request: dict[str, Any]) -> dict[str, Any]:
    records = request.get("records", 8)
    # What the last run was raised with; the first run has none.
    done = request.get("previous", {}).get("done", 0)
    last = min(done + RECORDS_PER_RUN, records)
    while done < last:
        if work.must_stop():
            logger.warning("stopping after record %d: time is up", done)
            break
        work.copy()
        done += 1
        logger.info("record %d of %d copied", done, records)
    if done < records:
        raise ExecuteAgain(f"{done} of {records} records copied", done=done, retry_after=1)
    return {"copied": done}
