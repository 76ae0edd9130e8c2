"""One attempt of an activity: its headers and tokens, the call, and what is decided after it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from fnship import contract
from fnship.engine.invoker import Answer, Attempt, Invoker, deadline, go_duration, request_body
from fnship.engine.live import LiveAttempts
from fnship.engine.model import Activity, Function, Outcome, Status
from fnship.engine.retry import decide
from fnship.engine.runners.runner import Place
from fnship.engine.tokens import Tokens
from fnship.errors import EngineError

__all__ = ["LOGS_PATH", "STATE_PATH", "Attempts"]

_log = logging.getLogger(__name__)

LOGS_PATH: Final = "/functions/logs"
"""Where functions send their log lines: those of many attempts here, of one below it."""

STATE_PATH: Final = "/functions/state"
"""Where they keep their state."""

_LATE_STATE: Final = 10.0  # seconds after its time in which one that still runs has its state
_LATE_LINES: Final = 3600.0  # seconds after its end in which an attempt may still add to its log


class Attempts:
    """Makes attempts.

    Args:
        invoker: Sends them.
        locate: Tells where a function is, and starts it if need be.
        doubt: Told of a function and of where it was when a connection to it broke.
        tokens: Makes the tokens that a function gets.
        live: Told of every attempt.
        endpoint: The engine's URL, as functions see it unless their place says otherwise.
    """

    def __init__(
        self,
        invoker: Invoker,
        locate: Callable[[Function], Awaitable[Place]],
        doubt: Callable[[Function, Place], None],
        tokens: Tokens,
        live: LiveAttempts,
        endpoint: str,
    ) -> None:
        self._invoker = invoker
        self._locate = locate
        self._doubt = doubt
        self._tokens = tokens
        self._live = live
        self._endpoint = endpoint

    async def make(self, activity: Activity, function: Function) -> tuple[Activity, float]:
        """Make an attempt.

        Args:
            activity: The activity, with this attempt counted.
            function: What to call.

        Returns:
            The activity as it is after the attempt, and, where it is to be run again, the
            seconds until then.
        """
        self._live.begin(activity.id, activity.attempts)
        try:
            answer = await self._call(activity, function)
        except Exception as exc:  # noqa: BLE001 - an outcome of this attempt, not the end of all
            _log.exception("attempt %s of activity %s", activity.attempts, activity.id)
            message = f"the engine itself failed: {type(exc).__name__}; its log says why"
            answer = Answer(Outcome(code=contract.TRANSIENT, message=message))
        finally:
            self._live.end(activity.id, activity.attempts)
        now = time.time()
        decision = decide(
            function.retry,
            activity,
            answer.outcome,
            now=now,
            chance=random.random(),  # noqa: S311 - it spreads load, and is no secret
            wanted_delay=answer.retry_after,
        )
        outcome = answer.outcome
        if decision.reason:
            text = f"{outcome.message}; {decision.reason}"
            outcome = Outcome(
                code=outcome.code, message=text, data=outcome.data, stack_trace=outcome.stack_trace
            )
        waiting = decision.status is Status.WAITING
        after = activity.changed(
            status=decision.status,
            failures=activity.failures + decision.failure,
            again=activity.again + decision.again,
            previous=outcome.data if decision.again else activity.previous,
            outcome=outcome,
            due=now + decision.delay if waiting else None,
            ended=None if waiting else now,
        )
        return after, decision.delay

    async def _call(self, activity: Activity, function: Function) -> Answer:
        try:
            place = await self._locate(function)
        except EngineError as exc:
            return Answer(Outcome(code=contract.TRANSIENT, message=str(exc)))
        previous = bytes(activity.previous) if activity.previous is not None else None
        answer = await self._invoker.send(
            Attempt(
                url=place.url,
                body=request_body(bytes(activity.payload), previous),
                headers=self._headers(activity, function, place.endpoint or self._endpoint),
                timeout=function.timeout,
            )
        )
        if answer.broken:
            self._doubt(function, place)
        return answer

    def _headers(self, activity: Activity, function: Function, endpoint: str) -> dict[str, str]:
        now = time.time()
        expires = now + function.timeout
        scope, event = activity.scope, activity.event
        attempt = (activity.id, activity.attempts, scope)
        headers = {
            contract.ACTIVITY_ID: activity.id,
            contract.ORGANIZATION_ID: scope.organization_id,
            contract.PROJECT_ID: scope.project_id,
            contract.ENVIRONMENT_ID: scope.environment_id,
            contract.ENVIRONMENT_NAME: scope.environment_name,
            contract.ENGINE_ENDPOINT: endpoint,
            contract.FILE_UPLOAD: f"{LOGS_PATH}/{activity.id}/{activity.attempts}",
            contract.LOG_BATCH_ENDPOINT: LOGS_PATH,
            contract.WORKFLOW_TOKEN: self._tokens.mint("log", *attempt, expires + _LATE_LINES),
            contract.STATE_ENDPOINT: endpoint + STATE_PATH,
            contract.STATE_TOKEN: self._tokens.mint("state", *attempt, expires + _LATE_STATE),
            contract.ACTIVITY_ATTEMPT: str(activity.attempts),
            contract.ACTIVITY_DEADLINE: deadline(now, function.timeout),
            contract.TIMEOUT: go_duration(function.timeout),
        }
        told = {
            contract.EVENT_SOURCE: event.source,
            contract.EVENT_SOURCE_NAME: event.source_name,
            contract.EVENT_TYPE: event.type,
        }
        headers.update({name: value for name, value in told.items() if value is not None})
        return headers
