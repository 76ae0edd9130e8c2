"""How an engine is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["EngineOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an `Engine` is told at its start. Times in seconds, sizes in bytes.

    Attributes:
        data: The folder that everything is kept in; made where it does not exist.
        advertise_url: Where functions reach the engine.
        containers: ``docker`` or ``podman``, which runs images; None for the one that is there.
        own_addresses: ``host:port`` that the engine itself listens on; no function may be there.
        allow: Hosts and networks that functions may be at although they are refused by default.
        concurrency: Attempts at once, over all functions.
        max_payload: The largest payload.
        keep_activities: How long an activity is kept after its end.
        keep_logs: How long its log is.
        keep_log_bytes: What all logs together may take.
        max_value: The largest value in the state store.
        max_keys: Keys that one scope of it may hold.
        grace: What attempts in flight get at the end.
    """

    data: Path
    advertise_url: str
    containers: str | None = None
    own_addresses: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    concurrency: int = 256
    max_payload: int = 10 * 2**20
    keep_activities: float = 30 * 86400.0
    keep_logs: float = 14 * 86400.0
    keep_log_bytes: int = 2 * 2**30
    max_value: int = 256 * 2**10
    max_keys: int = 10_000
    grace: float = 8.0
