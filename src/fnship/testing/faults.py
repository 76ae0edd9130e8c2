"""Faults on demand: what goes wrong at the engine, for how many requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from fnship.testing.http import Answer, Cut, error

__all__ = ["Fault", "FaultPlan", "Faults"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request.

    Args:
        delay: Seconds that the answer is held back. The request is carried out on arrival.
        status: Answered instead of carrying the request out; None for no such thing.
        body: What is answered with `status`; None for JSON that explains.
        location: Where a redirect points.
        cut: Where the answer breaks off; None for a whole answer.
        carried_out: Whether the request takes effect although its answer is cut.
    """

    delay: float = 0.0
    status: int | None = None
    body: bytes | None = None
    location: str = ""
    cut: Cut | None = None
    carried_out: bool = True

    @property
    def only_delays(self) -> bool:
        """Whether it leaves alone what is answered."""
        return self.status is None and self.cut is None

    def answer(self, carry_out: Callable[[], Answer]) -> Answer:
        """The answer under this fault.

        Args:
            carry_out: Does what was asked, and answers as if nothing were wrong.
        """
        if self.status is not None:
            location = f"Location: {self.location}\r\n".encode() if self.location else b""
            answer = error(self.status, "a fault, as asked for by the test", location)
            answer.body = answer.body if self.body is None else self.body
        elif self.carried_out:
            answer = carry_out()
        else:
            answer = Answer(200)
        answer.delay = self.delay
        answer.cut = self.cut
        return answer


@dataclass(slots=True)
class _Rule:
    fault: Fault
    left: int | None
    method: str | None
    rate: float
    dice: Random | None

    def strikes(self, method: str) -> bool:
        """Whether a request is hit. Counts it if so."""
        if self.method not in (None, method) or self.left == 0:
            return False
        if self.dice is not None and self.dice.random() >= self.rate:
            return False
        if self.left is not None:
            self.left -= 1
        return True


class FaultPlan:
    """The faults of one side of the engine. Safe to change from any thread at any time.

    Faults are used up in the order they were added: ``fail(500, times=2)`` then
    ``fail(503, times=1)`` answers 500, 500, 503, and then as if nothing had been. Delays
    come on top of whatever else happens. `times` is a number of requests; None means until
    `clear`. With `method`, such as ``"PUT"``, only requests of that kind are hit.

    Attributes:
        requests: How many requests there were, hit or not.
    """

    def __init__(self) -> None:
        self.requests = 0
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []

    def fail(
        self,
        status: int = 500,
        times: int | None = None,
        *,
        body: bytes | None = None,
        method: str | None = None,
    ) -> None:
        """Answer `status` and do nothing; with `body` instead of JSON that explains, if given."""
        self._add(Fault(status=status, body=body), times, method)

    def delay(self, seconds: float, times: int | None = None, *, method: str | None = None) -> None:
        """Carry requests out on arrival, and hold their answers back for `seconds`."""
        self._add(Fault(delay=seconds), times, method)

    def drop(
        self,
        times: int | None = None,
        *,
        stored: bool = False,
        where: Cut = "status",
        method: str | None = None,
    ) -> None:
        """Read the request, and close the connection half-way through the answer.

        Args:
            times: How many requests.
            stored: Carry the request out first, so that a client which repeats it does
                the same thing twice.
            where: ``"status"`` cuts inside the status line. ``"body"`` cuts inside the
                body: the client has seen 200 by then, so the request is always carried out.
            method: Which requests; None for all.
        """
        self._add(Fault(cut=where, carried_out=stored or where == "body"), times, method)

    def redirect(
        self,
        to_url: str,
        times: int | None = None,
        *,
        status: int = 307,
        method: str | None = None,
    ) -> None:
        """Point elsewhere, and do nothing."""
        self._add(Fault(status=status, location=to_url), times, method)

    def random(
        self,
        rate: float = 0.3,
        status: int = 500,
        seed: int | None = None,
        times: int | None = None,
        *,
        method: str | None = None,
    ) -> None:
        """Answer `status` to a share of the requests and do nothing.

        Args:
            rate: The share, from 0 to 1.
            status: What they are answered.
            seed: The same seed hits the same requests; None for other ones each time.
            times: How many are hit in all.
            method: Which requests; None for all.
        """
        dice = Random(seed)  # noqa: S311 - chooses requests, keeps no secret
        self._add(Fault(status=status), times, method, rate, dice)

    def clear(self) -> None:
        """Nothing goes wrong from now on, but answers held back stay so until their time."""
        with self._lock:
            self._rules = []

    def next(self, method: str) -> Fault | None:
        """What happens to a request of `method`; None for nothing. The engine asks this."""
        self.requests += 1
        if not self._rules:
            return None
        delay, chosen = 0.0, None
        with self._lock:
            for rule in self._rules:
                if rule.fault.only_delays:
                    delay += rule.fault.delay if rule.strikes(method) else 0.0
                elif chosen is None and rule.strikes(method):
                    chosen = rule.fault
            self._rules = [rule for rule in self._rules if rule.left != 0]
        if chosen is None and not delay:
            return None
        return replace(chosen or Fault(), delay=delay)

    def _add(
        self,
        fault: Fault,
        times: int | None,
        method: str | None,
        rate: float = 1.0,
        dice: Random | None = None,
    ) -> None:
        with self._lock:
            self._rules = [*self._rules, _Rule(fault, times, method, rate, dice)]


class Faults:
    """The plans of an engine: `logs` for uploads, `state` for the state store."""

    def __init__(self) -> None:
        self.logs = FaultPlan()
        self.state = FaultPlan()
