"""A steady load on a container, and what became of every request."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Load", "steady_load"]

_PATIENCE = 30.0


class Load:
    """What came back.

    Attributes:
        answers: Status → how many.
        refused: How many found nobody listening.
        lost: What happened to those that were sent, and never answered.
    """

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        self.refused = 0
        self.lost: list[str] = []

    def send(self, host: str, port: int, payload: Any) -> None:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
        try:
            connection.connect()
        except OSError:
            self.refused += 1
            return
        try:
            connection.request("POST", "/", json.dumps(payload), {"Connection": "close"})
            response = connection.getresponse()
            response.read()
            self.answers[response.status] += 1
        except (OSError, http.client.HTTPException) as exc:
            self.lost.append(repr(exc))
        finally:
            connection.close()


@contextmanager
def steady_load(host: str, port: int, payload: Any, rate: float = 20.0) -> Iterator[Load]:
    """Send `rate` requests a second until the block ends; then wait for all of them."""
    load = Load()
    stop = threading.Event()
    senders: list[threading.Thread] = []

    def begin() -> None:
        due = time.monotonic()
        while not stop.is_set():
            sender = threading.Thread(target=load.send, args=(host, port, payload))
            senders.append(sender)
            sender.start()
            due += 1 / rate
            stop.wait(max(0.0, due - time.monotonic()))

    starter = threading.Thread(target=begin)
    starter.start()
    try:
        yield load
    finally:
        stop.set()
        starter.join()
        for sender in senders:
            sender.join()
