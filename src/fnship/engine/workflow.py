"""The durable loop around one activity: begin an attempt, make it, record it, again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from fnship import contract
from fnship.engine.attempt import Attempts
from fnship.engine.durable import Again
from fnship.engine.lanes import Lanes
from fnship.engine.model import Activity, Function, Outcome, Status
from fnship.engine.retry import times
from fnship.engine.stores.activities import ActivityStore
from fnship.engine.stores.functions import FunctionStore
from fnship.errors import Missing, StorageError

__all__ = ["Workflow"]

_log = logging.getLogger(__name__)

_RECORD_AGAIN: Final = 1.0  # seconds after which an outcome is recorded again that was not


class Workflow:
    """What is done with an activity whenever it is its turn.

    Args:
        store: Where activities are kept.
        functions: The functions.
        attempts: Makes attempts.
        lanes: Says who may run.
        ended: Called with every activity that has reached its end.
    """

    def __init__(
        self,
        store: ActivityStore,
        functions: FunctionStore,
        attempts: Attempts,
        lanes: Lanes,
        ended: Callable[[Activity], None],
    ) -> None:
        self._store = store
        self._functions = functions
        self._attempts = attempts
        self._lanes = lanes
        self._ended = ended
        self._places: dict[str, str] = {}
        self._resting: set[str] = set()  # activities that this process lets wait
        self._began = time.monotonic()

    def take_place(self, activity_id: str, function: str) -> None:
        """Say that the next run of an activity has its place in the lanes already."""
        self._places[activity_id] = function

    def give_up(self, activity_id: str) -> None:
        """Say that there will be no further run of an activity."""
        self._resting.discard(activity_id)
        function = self._places.pop(activity_id, None)
        if function is not None:
            self._lanes.leave(function)

    async def run(self, activity_id: str) -> Again | None:
        """Run a durable activity once more.

        Returns:
            When to run it again; None where it has ended.
        """
        place = self._places.pop(activity_id, None)
        try:
            try:
                activity = await self._store.get(activity_id)
            except Missing:
                return None
            if activity.status.final:
                return None
            if activity_id in self._resting:
                self._resting.discard(activity_id)  # it has waited, whatever the wall clock says
            elif (left := self._left(activity)) > 0:
                self._resting.add(activity_id)
                return Again(left)
            function = await self._function(activity)
            if place is None:
                await self._lanes.turn(activity.function, function.concurrency if function else 1)
                place = activity.function
            return await self._attempt(activity, function)
        finally:
            if place is not None:
                self._lanes.leave(place)

    async def run_in_memory(self, activity: Activity, see: Callable[[Activity], None]) -> Activity:
        """Run an ephemeral activity to its end.

        Args:
            activity: As it was accepted.
            see: Called with it whenever it has changed.
        """
        while True:
            function = await self._function(activity)
            if function is None:
                return _gone(activity)
            await self._lanes.turn(activity.function, function.concurrency)
            try:
                activity = activity.changed(
                    status=Status.RUNNING,
                    attempts=activity.attempts + 1,
                    started=time.time(),
                    due=None,
                )
                see(activity)
                activity, delay = await self._attempts.make(activity, function)
            finally:
                self._lanes.leave(activity.function)
            _tell(activity, delay)
            if activity.status.final:
                return activity
            see(activity)
            await asyncio.sleep(delay)

    async def _attempt(self, activity: Activity, function: Function | None) -> Again | None:
        if function is None:
            return await self._record(_gone(activity))
        # An attempt that was never recorded: the engine died in the middle of it.
        lost = activity.status is Status.RUNNING
        if lost and activity.failures + 1 >= function.retry.max_attempts:
            return await self._record(_poisonous(activity))
        begun = await self._store.begin(activity.id, time.time())
        if begun is None:
            return None
        try:
            after, delay = await self._attempts.make(begun, function)
        except asyncio.CancelledError:
            # The engine stops, or somebody cancelled the activity; then this changes nothing.
            await asyncio.shield(self._store.interrupt(begun))
            raise
        return await self._record(after, delay)

    async def _record(self, after: Activity, delay: float = 0.0) -> Again | None:
        while True:
            try:
                recorded = await asyncio.shield(self._store.record(after))
                break
            except StorageError as exc:  # the attempt was made, whatever the disk says
                _log.warning("the outcome of activity %s has to wait: %s", after.id, exc)
            await asyncio.sleep(_RECORD_AGAIN)
        if not recorded:
            return None
        _tell(after, delay)
        if after.status is Status.WAITING:
            self._resting.add(after.id)
            return Again(delay)
        self._ended(after)
        return None

    def _left(self, activity: Activity) -> float:
        """Seconds that an activity still has to wait; asked after a restart alone.

        With what it has waited since then that is never more than there was to wait at first,
        however far the clock was set back.
        """
        if activity.status is not Status.WAITING or activity.due is None:
            return 0.0
        longest = activity.due - (activity.started or activity.created)
        return min(activity.due - time.time(), longest - (time.monotonic() - self._began))

    async def _function(self, activity: Activity) -> Function | None:
        try:
            return await self._functions.get(activity.function)
        except Missing:
            return None


def _tell(activity: Activity, delay: float) -> None:
    """Log an attempt that has failed."""
    if activity.outcome is None or activity.outcome.code in (None, contract.EXECUTE_AGAIN):
        return
    what = f"activity {activity.id} of {activity.function}, attempt {activity.attempts}"
    if activity.status is Status.WAITING:
        _log.warning("%s: %s; the next is in %.1f s", what, activity.outcome.message, delay)
    else:
        _log.error("%s: %s; it is a dead letter", what, activity.outcome.message)


def _gone(activity: Activity) -> Activity:
    return _failed(
        activity, f"function: failed: there is no function {activity.function!r} any more"
    )


def _poisonous(activity: Activity) -> Activity:
    failures = activity.failures + 1
    return _failed(
        activity.changed(failures=failures),
        f"function: failed: the engine ended without warning in the middle of an attempt; with "
        f"that it failed {times(failures)}, which is all that its policy allows",
    )


def _failed(activity: Activity, message: str) -> Activity:
    return activity.changed(
        status=Status.FAILED,
        due=None,
        outcome=Outcome(code=contract.FAILED, message=message),
        ended=time.time(),
    )
