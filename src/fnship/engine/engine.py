"""The engine: accepts activities, runs them, and keeps what belongs to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from fnship import contract
from fnship.engine.addresses import AddressPolicy, guarded_connector
from fnship.engine.attempt import Attempts
from fnship.engine.callbacks import Callbacks, shown_key
from fnship.engine.data import DataFolder
from fnship.engine.durable import Durable
from fnship.engine.durable.dbos import DBOSDurable
from fnship.engine.invoker import Invoker
from fnship.engine.lanes import Lanes
from fnship.engine.live import LiveAttempts
from fnship.engine.model import Activity, Function, Outcome, Source, Status
from fnship.engine.options import EngineOptions
from fnship.engine.runners.image import Containers
from fnship.engine.runners.registry import Runners
from fnship.engine.sql.database import Database
from fnship.engine.stores.activities import (
    ActivityQuery,
    ActivityStore,
    Callback,
    Page,
    check_same_call,
)
from fnship.engine.stores.functions import FunctionStore
from fnship.engine.stores.logs import LogStore
from fnship.engine.stores.state import StateStore
from fnship.engine.submission import Submission, Submitted, check
from fnship.engine.tokens import Tokens
from fnship.engine.workflow import Workflow
from fnship.errors import AlreadyThere, EngineError, InvalidRequest, Missing, Overloaded

__all__ = ["Engine"]

_log = logging.getLogger(__name__)

_CANCELLED: Final = "it was cancelled"
_STOPPED: Final = "the engine stopped, and what is ephemeral is not resumed"
_PURGE_EVERY: Final = 60.0  # seconds
_PURGE_AT_ONCE: Final = 200
_RETRY_HANDOVER: Final = 1.0  # seconds after which an activity is handed over again


class Engine:
    """Runs activities; made with `open`, and `close` ends it. For one event loop.

    Attributes:
        options: How it is set up.
        folder: Where everything is kept.
        functions: The functions.
        state: The state store.
        logs: The logs.
        tokens: The tokens of attempts.
        live: The attempts that are being made.
        callback_key: What callbacks are signed with, as receivers write it.
        on_line: Told the name of a function and each line that its process writes; None: nobody.
        bridge: Given an address of this machine, listens there for functions in containers, and
            gives the ``host:port``; None where they reach what `EngineOptions` advertises.
    """

    def __init__(self, options: EngineOptions, folder: DataFolder, database: Database) -> None:
        self.options = options
        self.folder = folder
        self.functions = FunctionStore(database)
        self.state = StateStore(database, max_value=options.max_value, max_keys=options.max_keys)
        self.logs = LogStore(
            database, keep_seconds=options.keep_logs, keep_bytes=options.keep_log_bytes
        )
        self.tokens = Tokens(folder.secret("tokens"))
        self.live = LiveAttempts()
        self.on_line: Callable[[str, str], None] | None = None
        self.bridge: Callable[[str], Awaitable[str]] | None = None
        self._database = database
        self._activities = ActivityStore(database)
        self._addresses = AddressPolicy(own=options.own_addresses, allow=options.allow)
        self._connector = guarded_connector(self._addresses)
        self._runners = Runners(
            self._addresses,
            Containers(options.containers, str(folder.path), self._reach),
            self._heard,
        )
        self._invoker = Invoker(self._connector)
        self._lanes = Lanes(options.concurrency)
        self._durable: Durable = DBOSDurable(folder.durable)
        self._workflow = Workflow(
            self._activities,
            self.functions,
            Attempts(
                self._invoker,
                self._runners.place,
                self._runners.doubt,
                self.tokens,
                self.live,
                options.advertise_url,
            ),
            self._lanes,
            self._has_ended,
        )
        key = folder.secret("callbacks")
        self.callback_key = shown_key(key)
        self._callbacks = Callbacks(self._activities, self._connector, key)
        self._in_memory: dict[str, Activity] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of ephemeral activities, by their ids
        self._handovers: set[asyncio.Task[None]] = set()
        self._waiters: defaultdict[str, set[asyncio.Future[Activity]]] = defaultdict(set)
        self._chores: list[asyncio.Task[None]] = []
        self._closing = False

    @classmethod
    async def open(cls, options: EngineOptions) -> Engine:
        """Open an engine. It accepts and runs nothing before `begin`.

        Raises:
            UsageError: The data folder cannot be used, or another engine uses it.
        """
        folder = DataFolder(options.data)
        try:
            return cls(options, folder, Database(folder.database))
        except BaseException:
            folder.close()
            raise

    async def begin(self) -> None:
        """Run what comes, and go on with what the last engine left.

        Raises:
            UsageError: What that left cannot be read.
        """
        await self._durable.open(self._workflow.run)
        handed_over = {each.key for each in await self._durable.outstanding()}
        unfinished = await self._activities.unfinished()
        if unfinished:
            _log.info("%d unended from before: they go on", len(unfinished))
        for activity_id, function in unfinished:
            if activity_id not in handed_over:
                await self._hand_over(activity_id, function)
        self._callbacks.start()
        self._chores = [asyncio.create_task(self._purge_for_ever())]
        if any(each.source is Source.IMAGE for each in await self.functions.list()):
            self._chores.append(asyncio.create_task(self._runners.tidy()))

    async def close(self) -> None:
        """Stop. Attempts in flight get `options.grace`; the rest goes on after the next start."""
        self._closing = True
        for chore in self._chores:
            chore.cancel()
        self._lanes.clear()
        for handover in self._handovers:
            handover.cancel()
        tasks = list(self._tasks.values())
        ephemeral = asyncio.create_task(_finish(tasks, self.options.grace))
        await self._durable.close(self.options.grace)
        await ephemeral
        await self._callbacks.close()
        await self._runners.close()
        await self._invoker.close()
        self._database.close()
        self.folder.close()

    def hurry(self) -> None:
        """Cut off what `close` waits for."""
        for task in self._tasks.values():
            task.cancel()
        self._durable.hurry()

    async def submit(self, submission: Submission) -> Submitted:
        """Accept an activity. A durable one is on the disk then.

        Raises:
            InvalidRequest: A value in it is not valid.
            QuotaExceeded: The payload is too large.
            Missing: There is no such function.
            AlreadyThere: The id stands for another call.
            KeyReused: The idempotency key does.
            Overloaded: The engine is stopping.
        """
        if self._closing:
            raise Overloaded("the engine is stopping")
        function = await self.functions.get(submission.function)
        payload = check(submission, self.options.max_payload)
        if submission.callback is not None:
            try:
                self._addresses.check_url(submission.callback)
            except InvalidRequest as exc:
                raise InvalidRequest(f"the callback: {exc}") from exc
        activity = Activity(
            id=submission.id or uuid.uuid4().hex,
            function=function.name,
            payload=payload,
            scope=submission.scope,
            event=submission.event,
            callback=submission.callback,
            durable=submission.durable,
            created=time.time(),
            replay_of=submission.replay_of,
        )
        if not submission.durable:
            return await self._submit_in_memory(activity, named=submission.id is not None)
        if activity.id in self._in_memory:
            raise AlreadyThere(f"activity {activity.id!r} is running, and is ephemeral")
        kept, created = await self._activities.accept(
            activity,
            submission.idempotency_key,
            named=submission.id is not None,
            once=submission.once,
        )
        if created:
            await self._hand_over(kept.id, function.name)
        return Submitted(kept, created)

    async def wait(self, activity_id: str, seconds: float) -> Activity:
        """Wait for the end of an activity.

        Args:
            activity_id: Its id.
            seconds: How long at most.

        Returns:
            The activity as it is then, ended or not.

        Raises:
            Missing: There is none of this id.
        """
        ending: asyncio.Future[Activity] = asyncio.get_running_loop().create_future()
        waiters = self._waiters[activity_id]
        waiters.add(ending)
        try:
            activity = await self.activity(activity_id)
            if activity.status.final:
                return activity
            return await asyncio.wait_for(ending, seconds)
        except TimeoutError:
            return await self.activity(activity_id)
        finally:
            waiters.discard(ending)
            if not waiters:
                self._waiters.pop(activity_id, None)

    @property
    def busy(self) -> bool:
        """Whether an attempt is being made."""
        return len(self.live) > 0

    async def activity(self, activity_id: str) -> Activity:
        """An activity.

        Raises:
            Missing: There is none of this id.
        """
        return self._in_memory.get(activity_id) or await self._activities.get(activity_id)

    async def activities(self, query: ActivityQuery) -> Page:
        """A page of activities, the newest first; ephemeral ones once they have ended.

        Raises:
            InvalidRequest: The limit or the cursor is not valid.
        """
        return await self._activities.page(query)

    async def cancel(self, activity_id: str) -> Activity:
        """Cancel an activity; an attempt in flight is cut off, which its function notices.

        Raises:
            Missing: There is none of this id.
            AlreadyThere: It has ended otherwise.
        """
        if activity_id in self._tasks:
            activity = self._in_memory[activity_id].changed(
                status=Status.CANCELLED, outcome=Outcome(message=_CANCELLED), ended=time.time()
            )
            self._tasks[activity_id].cancel()
            await self._end_in_memory(activity)
            return activity
        activity = await self._activities.cancel(activity_id, time.time(), _CANCELLED)
        await self._durable.cancel(activity_id)
        self._workflow.give_up(activity_id)
        self._has_ended(activity)
        return activity

    async def replay(self, activity_id: str) -> Activity:
        """Run an activity that has ended once more, as a new one.

        Raises:
            Missing: There is none of this id, or no such function any more.
            AlreadyThere: It has not ended.
        """
        activity = await self.activity(activity_id)
        if not activity.status.final:
            raise AlreadyThere(
                f"activity {activity_id!r} has not ended: it is {activity.status}. Cancel it first"
            )
        return await self._replay(activity)

    async def callback(self, activity: Activity) -> Callback | None:
        """What became of the callback of an activity; None where it has none."""
        if activity.callback is None:
            return None
        # Until it has ended there is nothing to tell.
        return await self._activities.callback(activity.id) or Callback(
            activity.id, activity.callback
        )

    async def send_callback(self, activity_id: str) -> Activity:
        """Send the callback of an activity that has ended once more, as often as at first.

        Returns:
            The activity.

        Raises:
            Missing: There is none of this id, or it has no callback.
            AlreadyThere: It has not ended.
        """
        activity = await self.activity(activity_id)
        if activity.callback is None:
            raise Missing(f"activity {activity_id!r} has no callback")
        if not await self._activities.renew_callback(activity_id, time.time()):
            raise AlreadyThere(
                f"activity {activity_id!r} has no outcome to send yet: it is {activity.status}"
            )
        self._callbacks.wake()
        return activity

    async def _replay(self, activity: Activity, *, once: bool = False) -> Activity:
        submission = Submission(
            function=activity.function,
            payload=bytes(activity.payload),
            scope=activity.scope,
            event=activity.event,
            callback=activity.callback,
            durable=activity.durable,
            replay_of=activity.id,
            once=once,
        )
        replayed = (await self.submit(submission)).activity
        if not activity.durable:
            await self._activities.mark_replayed(activity.id, replayed.id)
        return replayed

    async def replay_all(self, query: ActivityQuery) -> int:
        """Run the dead letters that a query names once more.

        Args:
            query: Which; its status, limit and cursor are not heeded.

        Returns:
            How many.
        """
        cursor, count = None, 0
        before = query.created_before or time.time()
        while True:
            page = await self.activities(
                msgspec.structs.replace(
                    query, status=None, dead=True, limit=100, cursor=cursor, created_before=before
                )
            )
            for listed in page.items:
                # Its function is gone, and it stays a dead letter; or somebody else replays it.
                with contextlib.suppress(Missing, AlreadyThere):
                    await self._replay(await self._activities.get(listed.id), once=True)
                    count += 1
            cursor = page.cursor
            if cursor is None:
                return count

    async def put_function(self, function: Function) -> Function:
        """Register a function, or change it; attempts in flight go on as they are.

        Raises:
            InvalidRequest: A value in it is not valid, or its URL may not be called.
        """
        kept = await self.functions.put(await self._runners.check(function))
        await self._runners.changed(kept)
        return kept

    async def delete_function(self, name: str) -> None:
        """Remove a function. Activities of it that have not ended will fail.

        Raises:
            Missing: There is none of this name.
        """
        await self.functions.delete(name)
        await self._runners.forget(name)

    async def _hand_over(self, activity_id: str, name: str) -> None:
        """Give an activity to the durable layer as soon as its function has room for it."""
        try:
            limit = (await self.functions.get(name)).concurrency
        except Missing:
            limit = 1

        def come() -> None:
            self._workflow.take_place(activity_id, name)
            task = asyncio.get_running_loop().create_task(self._submit(activity_id))
            self._handovers.add(task)
            task.add_done_callback(self._handovers.discard)

        self._lanes.enter(name, limit, come)

    async def _submit(self, activity_id: str) -> None:
        while True:
            try:
                await self._durable.submit(activity_id)
                return
            except EngineError as exc:
                _log.warning("activity %s has to wait: %s", activity_id, exc)
            await asyncio.sleep(_RETRY_HANDOVER)

    async def _submit_in_memory(self, activity: Activity, *, named: bool) -> Submitted:
        kept = await self._claim(activity) if named else None
        if kept is not None:
            check_same_call(kept, activity)
            return Submitted(kept, created=False)
        self._in_memory[activity.id] = activity
        task = asyncio.get_running_loop().create_task(self._run_in_memory(activity))
        self._tasks[activity.id] = task
        return Submitted(activity, created=True)

    async def _claim(self, activity: Activity) -> Activity | None:
        """Give an id to an ephemeral activity, before anybody waits for anything.

        Returns:
            What has it already; None where it had nobody.
        """
        running = self._in_memory.setdefault(activity.id, activity)
        if running is not activity:
            return running
        try:
            kept = await self._activities.find(activity.id)
        except BaseException:
            del self._in_memory[activity.id]
            raise
        if kept is not None:
            del self._in_memory[activity.id]
            if kept.status.final:
                self._has_ended(kept)  # for those who came meanwhile, and wait
        return kept

    async def _run_in_memory(self, activity: Activity) -> None:
        def see(changed: Activity) -> None:
            self._in_memory[activity.id] = changed

        try:
            ended = await self._workflow.run_in_memory(activity, see)
        except asyncio.CancelledError:
            if not self._closing:
                raise
            ended = self._in_memory[activity.id].changed(
                status=Status.FAILED,
                outcome=Outcome(code=contract.TRANSIENT, message=_STOPPED),
                ended=time.time(),
            )
        await self._end_in_memory(ended)

    async def _end_in_memory(self, activity: Activity) -> None:
        self._in_memory[activity.id] = activity
        self._tasks.pop(activity.id, None)
        try:
            await self._activities.add_ended(activity)
        except EngineError as exc:
            _log.warning("ephemeral activity %s is not recorded: %s", activity.id, exc)
        finally:
            self._has_ended(activity)
            self._in_memory.pop(activity.id, None)

    def _has_ended(self, activity: Activity) -> None:
        for waiter in self._waiters.pop(activity.id, ()):
            if not waiter.done():
                waiter.set_result(activity)
        self.logs.ended(activity.id)
        if activity.callback is not None:
            self._callbacks.wake()

    async def _reach(self, address: str) -> str:
        """Where a container that knows this machine by `address` reaches the engine."""
        if self.bridge is None:
            return self.options.advertise_url
        reached = await self.bridge(address)
        self._addresses.add_own(reached)
        return f"http://{reached}"

    def _heard(self, name: str, line: str) -> None:
        if self.on_line is not None:
            self.on_line(name, line)

    async def _purge_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_PURGE_EVERY)
            try:
                await self._purge()
            except EngineError as exc:
                _log.warning("old activities are kept for now: %s", exc)

    async def _purge(self) -> None:
        before = time.time() - self.options.keep_activities
        while ids := await self._activities.purge(before, _PURGE_AT_ONCE):
            await self.logs.forget(ids)
        await self.logs.purge()
        await self.state.purge()


async def _finish(tasks: list[asyncio.Task[None]], grace: float) -> None:
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=grace)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
