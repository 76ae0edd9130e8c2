"""The durable layer on DBOS, with SQLite.

Every run is a workflow of DBOS without steps: how far an activity has come stands in the engine's
own tables, so nothing of it is kept twice. A run that wants another one enqueues that with a delay
before it ends. DBOS looks for what is due once a second and goes by the wall clock, so a living
process starts the next run by a timer of its own, and what is enqueued is for the one that comes
after a crash. What has ended is deleted, so the file does not grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import json
import logging
import secrets
import sqlite3
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

from dbos import DBOS, DBOSConfig, Serializer, SetEnqueueOptions, SetWorkflowID
from sqlalchemy.exc import SQLAlchemyError

from fnship.engine.durable.interface import Again, Outstanding, Run
from fnship.errors import StorageError

__all__ = ["DBOSDurable"]

_log = logging.getLogger(__name__)

_PROTOCOL: Final = "fnship-1"
"""DBOS recovers what has its own version, so this changes only when runs change their meaning."""

_QUEUE: Final = "runs"
_POLL: Final = 0.1  # seconds between two looks for what is due
_BEHIND: Final = 1.0  # seconds by which what is enqueued is later than our own timer
_AFTER_ERROR: Final = 5.0  # seconds after a run that ended as none should
_FORGET_EVERY: Final = 0.3  # seconds; much less than _BEHIND
_FORGET_AFTER: Final = 5.0  # seconds; DBOS looks at what has ended once more
_FORGET_AT_ONCE: Final = 500


class _JSON(Serializer):
    """What DBOS stores for us is two words; none of it is ever a pickle."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=str)

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data)

    def name(self) -> str:
        return "fnship_json"


class DBOSDurable:
    """Keeps its promises with DBOS, of which there is one in a process.

    Args:
        path: The SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run: Run | None = None
        self._tasks: dict[str, asyncio.Task[Again | None]] = {}  # runs in progress, by their keys
        self._waiting: dict[str, _Wait] = {}
        self._cancelled: set[str] = set()
        self._unwanted: list[str] = []  # workflows that are not to begin any more
        self._ended: deque[tuple[float, str]] = deque()  # those that have, and when
        self._chore: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._context = contextvars.Context()
        self._closing = False
        self._numbers = itertools.count(1)
        self._mark = secrets.token_hex(4)  # of this process's workflows

    async def open(self, run: Run) -> None:
        """Begin; see `Durable`."""
        global _current
        self._run = run
        self._context = contextvars.copy_context()
        _current = self
        # DBOS leaves the journal as it finds it.
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        logging.getLogger("dbos").setLevel(logging.ERROR)
        config: DBOSConfig = {
            "name": "fnship",
            "system_database_url": f"sqlite:///{self._path}",
            "application_version": _PROTOCOL,
            "executor_id": "local",
            "serializer": _JSON(),
            "log_level": "ERROR",
            "scheduler_polling_interval_sec": 3600.0,  # there are no schedules of its own
            "enable_otlp": False,
        }
        DBOS(config=config)
        DBOS.launch()  # on this loop's thread, so that it makes its runs on this loop
        await DBOS.register_queue_async(
            _QUEUE, polling_interval_sec=_POLL, on_conflict="always_update"
        )
        self._chore = asyncio.get_running_loop().create_task(self._forget_for_ever())

    async def submit(self, key: str) -> None:
        """Promise a run; see `Durable`."""
        # Whoever calls this may be in a run, whose workflow would be taken for the parent of this.
        loop = asyncio.get_running_loop()
        await loop.create_task(self._start(key), context=self._context.copy())

    async def cancel(self, key: str) -> None:
        """Take a promise back; see `Durable`."""
        self._cancelled.add(key)
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            waiting.timer.cancel()
            with _storage_errors():
                await DBOS.cancel_workflow_async(waiting.workflow)
            self._has_ended(waiting.workflow)
            self._cancelled.discard(key)
        elif key in self._tasks:
            self._tasks[key].cancel()
        else:
            for each in await self._list(key):
                with _storage_errors():
                    await DBOS.cancel_workflow_async(each)
                self._has_ended(each)
            self._cancelled.discard(key)

    async def outstanding(self) -> list[Outstanding]:
        """The promises that are not kept yet; see `Durable`."""
        with _storage_errors():
            found = await DBOS.list_workflows_async(
                status=["PENDING", "ENQUEUED", "DELAYED"], load_input=False, load_output=False
            )
        return [
            Outstanding(each.workflow_id.rpartition(".")[0], running=each.status == "PENDING")
            for each in found
        ]

    async def close(self, grace: float) -> None:
        """End; see `Durable`."""
        global _current
        self._closing = True
        for waiting in self._waiting.values():
            waiting.timer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace)
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        if self._chore is not None:
            self._chore.cancel()
            await asyncio.wait((self._chore,))
        await asyncio.sleep(0)  # the workflows around those runs see that they are cancelled
        await asyncio.to_thread(DBOS.destroy)
        _current = None

    async def _start(self, key: str) -> None:
        with _storage_errors(), SetWorkflowID(self._name(key)):
            await DBOS.start_workflow_async(_workflow, key)

    async def execute(self, key: str) -> None:
        """Make one run: what DBOS calls."""
        assert self._run is not None
        workflow = DBOS.workflow_id
        assert workflow is not None
        if self._closing:
            raise asyncio.CancelledError  # it stays as it is, for the next process
        waiting = self._waiting.get(key)
        if key in self._tasks or (waiting is not None and waiting.workflow != workflow):
            self._has_ended(workflow)  # the promise is being kept by another workflow
            return
        if waiting is not None:
            waiting.timer.cancel()
            await asyncio.sleep(waiting.due - time.monotonic())  # the wall clock was set on
            del self._waiting[key]
        task = asyncio.get_running_loop().create_task(_made(self._run, key))
        self._tasks[key] = task
        try:
            again = await task
        except asyncio.CancelledError:
            if key not in self._cancelled:
                raise  # the engine stops
            again = None
        finally:
            if self._tasks.get(key) is task:
                del self._tasks[key]
        if again is not None and key not in self._cancelled:
            await self._enqueue(key, again.delay)
        self._cancelled.discard(key)
        self._has_ended(workflow)

    async def _enqueue(self, key: str, delay: float) -> None:
        name = self._name(key)
        # In the context of this run, the timer would keep all that DBOS knows of it in memory.
        loop = asyncio.get_running_loop()
        timer = loop.call_later(delay, self._wake, key, context=self._context)
        self._waiting[key] = _Wait(name, time.monotonic() + delay, timer)
        with SetWorkflowID(name), SetEnqueueOptions(delay_seconds=delay + _BEHIND):
            await DBOS.enqueue_workflow_async(_QUEUE, _workflow, key)

    def _wake(self, key: str) -> None:
        task = asyncio.get_running_loop().create_task(self._start_waiting(key))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _start_waiting(self, key: str) -> None:
        """Start a run whose time has come, in the place of the one that is enqueued for it."""
        waiting = self._waiting.pop(key, None)
        if waiting is None or self._closing:
            return
        try:
            await self.submit(key)
        except StorageError as exc:
            _log.warning("%s is late: %s", key, exc)  # the one that is enqueued comes
        else:
            self._unwanted.append(waiting.workflow)

    def _has_ended(self, workflow: str) -> None:
        self._ended.append((time.monotonic(), workflow))

    async def _list(self, key: str) -> list[str]:
        with _storage_errors():
            found = await DBOS.list_workflows_async(
                status=["PENDING", "ENQUEUED", "DELAYED"],
                workflow_id_prefix=f"{key}.",
                load_input=False,
                load_output=False,
            )
        return [each.workflow_id for each in found if each.workflow_id.rpartition(".")[0] == key]

    def _name(self, key: str) -> str:
        return f"{key}.{self._mark}-{next(self._numbers)}"

    async def _forget_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FORGET_EVERY)
            before = time.monotonic() - _FORGET_AFTER
            while self._ended and self._ended[0][0] < before:
                self._unwanted.append(self._ended.popleft()[1])
            while self._unwanted:
                some = self._unwanted[:_FORGET_AT_ONCE]
                try:
                    await DBOS.delete_workflows_async(some)
                except SQLAlchemyError as exc:
                    _log.warning("old runs are kept for now: %s", exc)
                    break
                del self._unwanted[: len(some)]


class _Wait:
    """A run that is to come, and that this process knows of."""

    __slots__ = ("due", "timer", "workflow")

    def __init__(self, workflow: str, due: float, timer: asyncio.TimerHandle) -> None:
        self.workflow = workflow
        self.due = due  # by the monotonic clock
        self.timer = timer


_current: DBOSDurable | None = None


@DBOS.workflow(name="fnship.run", max_recovery_attempts=None)
async def _workflow(key: str) -> None:
    if _current is None:
        raise asyncio.CancelledError  # between two engines; it stays as it is
    await _current.execute(key)


async def _made(run: Run, key: str) -> Again | None:
    """Make a run; whatever goes wrong in it that nobody has foreseen, it is not forgotten."""
    try:
        return await run(key)
    except StorageError as exc:
        _log.warning("%s has to wait: %s", key, exc)
    except Exception:  # noqa: BLE001 - a run that is forgotten would be worse than any
        _log.exception("%s has to wait, as something went wrong that should not", key)
    return Again(_AFTER_ERROR)


@contextlib.contextmanager
def _storage_errors() -> Any:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as exc:
        raise StorageError(f"durable.sqlite: {getattr(exc, 'orig', None) or exc}") from exc
