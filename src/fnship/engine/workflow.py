"""The durable loop around one activity: begin an attempt, make it, record it, again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fnship import contract
from fnship.engine.attempt import Attempts
from fnship.engine.durable import Again
from fnship.engine.lanes import Lanes
from fnship.engine.model import Activity, Function, Outcome, Status
from fnship.engine.stores.activities import ActivityStore
from fnship.engine.stores.functions import FunctionStore
from fnship.errors import Missing

__all__ = ["Workflow"]


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
            elif (left := _left(activity)) > 0:
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
        if not await asyncio.shield(self._store.record(after)):
            return None
        if after.status is Status.WAITING:
            self._resting.add(after.id)
            return Again(delay)
        self._ended(after)
        return None

    async def _function(self, activity: Activity) -> Function | None:
        try:
            return await self._functions.get(activity.function)
        except Missing:
            return None


def _left(activity: Activity) -> float:
    """Seconds that an activity still has to wait; asked after a restart alone.

    It is never more than there was to wait at first, however far the clock was set back.
    """
    if activity.status is not Status.WAITING or activity.due is None:
        return 0.0
    longest = activity.due - (activity.started or activity.created)
    return min(activity.due - time.time(), longest)


def _gone(activity: Activity) -> Activity:
    return _failed(
        activity, f"function: failed: there is no function {activity.function!r} any more"
    )


def _poisonous(activity: Activity) -> Activity:
    failures = activity.failures + 1
    return _failed(
        activity.changed(failures=failures),
        f"function: failed: the engine ended without warning in the middle of an attempt; with "
        f"that it failed {failures} times, which is all that its policy allows",
    )


def _failed(activity: Activity, message: str) -> Activity:
    return activity.changed(
        status=Status.FAILED,
        outcome=Outcome(code=contract.FAILED, message=message),
        ended=time.time(),
    )
