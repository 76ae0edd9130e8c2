"""The durable layer on DBOS, with SQLite.

Every run is a workflow of DBOS without steps: how far an activity has come stands in the engine's
own tables, so nothing of it is kept twice. A run that wants another one enqueues that with a delay
before it ends. A living process starts what it has by timers of its own, and what it finds at its
start it takes over at once: DBOS would do both, but by looking once a second and by the wall clock.
So DBOS dequeues nothing here, and keeps what has to be known. What has ended is deleted, so the
file does not grow.
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
from collections import defaultdict, deque
from collections.abc import Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from dbos import (
    DBOS,
    DBOSConfig,
    Serializer,
    SetEnqueueOptions,
    SetWorkflowID,
    WorkflowStatus,
)
from sqlalchemy.exc import SQLAlchemyError

from fnship.engine.durable.interface import Again, Outstanding, Run
from fnship.errors import StorageError, UsageError

__all__ = ["DBOSDurable"]

_log = logging.getLogger(__name__)

_PROTOCOL: Final = "fnship-1"
"""What another version left is not taken over, so this changes when runs change their meaning."""

_FILE_VERSION: Final = 1  # of the file: what an older fnship must not open has a higher one
_QUEUE: Final = "runs"  # which nobody listens to
_AFTER_ERROR: Final = 5.0  # seconds after a run that ended as none should
_FORGET_EVERY: Final = 0.3  # seconds
_FORGET_AFTER: Final = 5.0  # seconds; DBOS looks at what has ended once more
_FORGET_AT_ONCE: Final = 500
_TRY_AGAIN: Final = 1.0  # seconds after which storage is tried again that failed
_LAST_NOTES: Final = 5.0  # seconds that DBOS gets at the end to note what is over
_THREADS: Final = 4  # that use the file; without a limit there is one for each run at once
_UNENDED: Final = ("PENDING", "ENQUEUED", "DELAYED")
_ENDED: Final = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


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
        self._unwanted: set[str] = set()  # workflows to forget
        self._ended: deque[tuple[float, str]] = deque()  # those that have, and when
        self._workflows: set[asyncio.Task[Any]] = set()  # of DBOS, around runs in progress
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
        self._set_up_file()
        config: DBOSConfig = {
            "name": "fnship",
            "system_database_url": f"sqlite:///{self._path}",
            "application_version": _PROTOCOL,
            "executor_id": self._mark,  # so that it leaves to us what earlier processes began
            "serializer": _JSON(),
            "max_executor_threads": _THREADS,
            "log_level": "ERROR",
            "scheduler_polling_interval_sec": 3600.0,  # there are no schedules of its own
            "enable_otlp": False,
        }
        DBOS(config=config)
        DBOS.listen_queues([])
        logger = logging.getLogger("dbos")
        if _retell not in logger.filters:
            logger.addFilter(_retell)
        logger.setLevel(logging.CRITICAL)  # what it has to say of a failed start, the error says
        try:
            DBOS.launch()  # on this loop's thread, so that it makes its runs on this loop
        except SQLAlchemyError as exc:
            raise self._unusable(getattr(exc, "orig", None) or exc) from exc
        logger.setLevel(logging.ERROR)
        await self._take_over()
        self._chore = asyncio.get_running_loop().create_task(self._forget_for_ever())

    async def _take_over(self) -> None:
        """See to what earlier processes have left."""
        earlier: defaultdict[str, list[WorkflowStatus]] = defaultdict(list)
        for each in await self._listed(_UNENDED):
            earlier[_key(each)].append(each)
        self._unwanted.update(each.workflow_id for each in await self._listed(_ENDED))
        for key, workflows in earlier.items():
            last = max(workflows, key=_seconds_left)
            left = _seconds_left(last)
            if left > 0:  # it was enqueued behind a run, which was through by then
                workflows.remove(last)
                self._unwanted.update(each.workflow_id for each in workflows)
                self._arm(key, _Wait(last.workflow_id, left))
            else:
                names = [each.workflow_id for each in workflows]
                self._in_background(self._adopt(key, names))

    def _set_up_file(self) -> None:
        try:
            with contextlib.closing(sqlite3.connect(self._path)) as connection:
                # DBOS leaves the journal as it finds it, and has no use for the version.
                connection.execute("PRAGMA journal_mode=WAL")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version > _FILE_VERSION:
                    raise UsageError(
                        f"{self._path} was written by a newer fnship: its version is {version}, "
                        f"and this one knows {_FILE_VERSION}. Update fnship, or use another data "
                        "folder"
                    )
                connection.execute(f"PRAGMA user_version={_FILE_VERSION}")
        except sqlite3.Error as exc:
            raise self._unusable(exc) from exc

    def _unusable(self, exc: BaseException) -> UsageError:
        return UsageError(
            f"{self._path} cannot be opened as the file of what is to be run: {exc}. Is the "
            "folder writable, and was the file made by fnship?"
        )

    async def submit(self, key: str) -> None:
        """Promise a run; see `Durable`."""
        # Whoever calls this may be in a run, whose workflow would be taken for the parent of this.
        loop = asyncio.get_running_loop()
        await loop.create_task(self._start(key), context=self._context.copy())

    async def cancel(self, key: str) -> None:
        """Take a promise back; see `Durable`."""
        self._cancelled.add(key)
        try:
            if not self._cancel_here(key):
                found = await self._listed(_UNENDED, key)
                if not self._cancel_here(key):  # nor has it begun meanwhile
                    self._unwanted.update(each.workflow_id for each in found)
        finally:
            if key not in self._tasks:
                self._cancelled.discard(key)

    def _cancel_here(self, key: str) -> bool:
        """Cancel what this process waits for or runs. Returns whether there was anything."""
        waiting, task = self._waiting.pop(key, None), self._tasks.get(key)
        if waiting is not None:
            waiting.stop()
            self._unwanted.add(waiting.workflow)
        if task is not None:
            task.cancel()
        return waiting is not None or task is not None

    async def outstanding(self) -> list[Outstanding]:
        """The promises that are not kept yet; see `Durable`."""
        unwanted = self._unwanted.copy()  # what is so afterwards may have something in its place
        keys = {_key(each) for each in await self._listed(_UNENDED, unwanted=unwanted)}
        return [Outstanding(key, running=key not in self._waiting) for key in keys]

    def hurry(self) -> None:
        """Cut off runs; see `Durable`."""
        for task in self._tasks.values():
            task.cancel()

    async def close(self, grace: float) -> None:
        """End; see `Durable`."""
        global _current
        self._closing = True
        for waiting in self._waiting.values():
            waiting.stop()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace)
        for task in self._tasks.values():
            task.cancel()
        if self._chore is not None:
            self._chore.cancel()
            await asyncio.wait((self._chore, *self._background, *self._tasks.values()))
        if self._workflows:
            await asyncio.wait(self._workflows, timeout=_LAST_NOTES)
        self._unwanted.update(workflow for _, workflow in self._ended)
        await self._forget()
        # DBOS has put threads of its own in the place of the loop's, and ends them now.
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor())
        await asyncio.to_thread(DBOS.destroy)
        _current = None

    async def _start(self, key: str) -> None:
        with _storage_errors(), SetWorkflowID(self._name(key)):
            await DBOS.start_workflow_async(_workflow, key)

    async def execute(self, key: str) -> None:
        """Make one run: what DBOS calls."""
        workflow, around = DBOS.workflow_id, asyncio.current_task()
        assert workflow is not None
        assert around is not None
        if self._closing:
            raise asyncio.CancelledError  # it stays as it is, for the next process
        self._workflows.add(around)
        around.add_done_callback(self._workflows.discard)
        if key not in self._tasks and key not in self._waiting and workflow not in self._unwanted:
            await self._make(key)
        self._unwanted.discard(workflow)
        # To DBOS it would be an error if its row were gone before it has noted that it is over.
        around.add_done_callback(lambda _: self._ended.append((time.monotonic(), workflow)))

    async def _make(self, key: str) -> None:
        """Make a run, and see to the one that it wants after it."""
        assert self._run is not None
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

    async def _enqueue(self, key: str, delay: float) -> None:
        wait = self._waiting[key] = _Wait(self._name(key), delay)
        # Until it is enqueued, the workflow of this run stands for the promise.
        while self._waiting.get(key) is wait:
            if self._closing:
                raise asyncio.CancelledError
            try:
                options = SetEnqueueOptions(delay_seconds=wait.left)
                with _storage_errors(), SetWorkflowID(wait.workflow), options:
                    await DBOS.enqueue_workflow_async(_QUEUE, _workflow, key)
                break
            except StorageError as exc:
                _log.warning("%s is not safe yet: %s", key, exc)
            await asyncio.sleep(_TRY_AGAIN)
        if self._waiting.get(key) is wait:
            self._arm(key, wait)
        else:  # it was cancelled meanwhile
            self._unwanted.add(wait.workflow)

    def _arm(self, key: str, wait: _Wait) -> None:
        """Have what waits begin when it is due."""
        self._waiting[key] = wait
        # In the context of a run, the timer would keep all that DBOS knows of it in memory.
        loop = asyncio.get_running_loop()
        wait.timer = loop.call_later(wait.left, self._wake, key, context=self._context)

    def _wake(self, key: str) -> None:
        self._in_background(self._start_waiting(key))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _start_waiting(self, key: str) -> None:
        """Start a run whose time has come, in the place of the one that is enqueued for it."""
        wait = self._waiting.pop(key, None)
        if wait is None or self._closing:
            return
        try:
            await self.submit(key)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is not forgotten
            _log.warning("%s is late: %s", key, exc)
            self._arm(key, _Wait(wait.workflow, _TRY_AGAIN))
        else:
            self._unwanted.add(wait.workflow)

    async def _adopt(self, key: str, workflows: list[str]) -> None:
        """Make a run that another process had begun, or was to begin.

        Its workflows stand for the promise for as long as this takes.
        """
        if self._closing or key in self._tasks or key in self._waiting:
            return
        await self._make(key)
        self._unwanted.update(workflows)

    async def _listed(
        self,
        status: Sequence[str],
        key: str | None = None,
        unwanted: Collection[str] | None = None,
    ) -> list[WorkflowStatus]:
        """The workflows that have this status, but for those that are unwanted."""
        unwanted = self._unwanted if unwanted is None else unwanted
        with _storage_errors():
            found = await DBOS.list_workflows_async(
                status=list(status),
                app_version=_PROTOCOL,
                workflow_id_prefix=None if key is None else f"{key}.",
                load_input=False,
                load_output=False,
            )
        return [
            each for each in found if key in (None, _key(each)) and each.workflow_id not in unwanted
        ]

    def _name(self, key: str) -> str:
        return f"{key}.{self._mark}-{next(self._numbers)}"

    async def _forget_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FORGET_EVERY)
            before = time.monotonic() - _FORGET_AFTER
            while self._ended and self._ended[0][0] < before:
                self._unwanted.add(self._ended.popleft()[1])
            await self._forget()

    async def _forget(self) -> None:
        """Delete what is not wanted."""
        names = list(self._unwanted)
        try:
            for first in range(0, len(names), _FORGET_AT_ONCE):
                some = names[first : first + _FORGET_AT_ONCE]
                await DBOS.delete_workflows_async(some)
                self._unwanted.difference_update(some)
        except SQLAlchemyError as exc:
            _log.warning("old runs are kept for now: %s", exc)


class _Wait:
    """A run that is to come.

    Args:
        workflow: What stands for it in the file.
        delay: Seconds until it is due.
    """

    __slots__ = ("due", "timer", "workflow")

    def __init__(self, workflow: str, delay: float) -> None:
        self.workflow = workflow
        self.due = time.monotonic() + delay
        self.timer: asyncio.TimerHandle | None = None

    @property
    def left(self) -> float:
        """Seconds until then."""
        return max(0.0, self.due - time.monotonic())

    def stop(self) -> None:
        """Let it not begin by itself any more."""
        if self.timer is not None:
            self.timer.cancel()


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


def _retell(record: logging.LogRecord) -> bool:
    """Have what DBOS logs said in our log, and a failure of the storage in one line."""
    exc = record.exc_info[1] if record.exc_info else None
    if isinstance(exc, SQLAlchemyError):
        reason = getattr(exc, "orig", None) or exc
        _log.warning("a note of a run is not kept: durable.sqlite: %s", reason)
    else:
        _log.log(record.levelno, "DBOS: %s", record.getMessage(), exc_info=record.exc_info)
    return False


def _seconds_left(workflow: WorkflowStatus) -> float:
    """Seconds that a workflow still has to wait; 0 where it does not.

    That is never longer than it had to wait at first, however far the clock was set back.
    """
    if workflow.delay_until_epoch_ms is None:
        return 0.0
    now = max(time.time() * 1000, workflow.created_at or 0)
    return max(0.0, (workflow.delay_until_epoch_ms - now) / 1000)


def _key(workflow: WorkflowStatus) -> str:
    return workflow.workflow_id.rpartition(".")[0]


@contextlib.contextmanager
def _storage_errors() -> Any:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as exc:
        raise StorageError(f"durable.sqlite: {getattr(exc, 'orig', None) or exc}") from exc
