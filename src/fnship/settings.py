"""Settings from the environment: the only place that reads it.

Every field of `Settings` names its variable and how it is read; `docs/reference/settings.md`
has a heading for each, and a test holds the two together.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from fnship import contract
from fnship.durations import parse_duration
from fnship.errors import SettingError

__all__ = ["Settings", "granted_cpus"]

_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})

# A reader turns a variable's text into a value, or raises ValueError saying what it expected.
_Reader = Callable[[str], Any]


def _whole(minimum: int, maximum: int | None = None) -> _Reader:
    upto = f" and at most {maximum}" if maximum is not None else ""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
            raise ValueError(f"a whole number of at least {minimum}{upto}")
        number = int(text)
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError(f"a whole number of at least {minimum}{upto}")
        return number

    return read


def _flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("true or false")


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})\s*([a-z]*)", text.lower(), re.ASCII)
    if match is None or match[2] not in _SIZE_UNITS or int(match[1]) == 0:
        raise ValueError("a size in bytes of at least 1, or one such as 512KiB or 10MiB")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = -1.0
    if seconds < 0:
        raise ValueError("whole seconds or a duration such as 90s or 1m30s")
    return seconds


def _milliseconds(text: str) -> float:
    try:
        seconds = parse_duration(f"{text}ms" if text.isdecimal() else text)
    except ValueError:
        seconds = -1.0
    if seconds < 0:
        raise ValueError("whole milliseconds or a duration such as 200ms")
    return seconds


def _choice(*allowed: str) -> _Reader:
    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return text.lower()

    return read


def _level(text: str) -> int:
    level = logging.getLevelNamesMapping().get(text.upper())
    if level is None and re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        level = int(text)
    if level is None:
        raise ValueError("a level such as DEBUG, INFO, WARNING or ERROR")
    return level


def _text(text: str) -> str:
    return text


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in text.split(",") if host.strip())
    for host in hosts:
        if "/" in host or "@" in host:
            raise ValueError("hosts such as engine.example.com, engine:8700 or *.example.com")
    return hosts


def _env(variable: str, read: _Reader, default: Any, also: str | None = None) -> Any:
    return field(default=default, metadata={"variable": variable, "read": read, "also": also})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the function server is told by its environment. Immutable; read once at start.

    An empty variable counts as unset. Times are in seconds and sizes in bytes.
    """

    # What is served
    target: str = _env("FUNCTION_TARGET", _text, contract.DEFAULT_TARGET)
    function_name: str = _env("FUNCTION_NAME", _text, "")
    server: str = _env("FUNCTION_SERVER", _choice("asgi", "flask", "fastapi"), "asgi")
    response_envelope: str = _env("RESPONSE_ENVELOPE", _choice("auto", "always", "never"), "auto")

    # Where
    host: str | None = _env("HOST", _text, None)
    port: int | None = _env("PORT", _whole(0, 65535), None)

    # How many, how much, how long
    gunicorn_workers: int | None = _env("GUNICORN_WORKERS", _whole(1, 1024), None)
    gunicorn_threads: int = _env("GUNICORN_THREADS", _whole(1, 1024), 2)
    max_workers: int = _env("MAX_WORKERS", _whole(1, 10_000), 50)
    max_queue: int = _env("MAX_QUEUE", _whole(0), 1000)
    max_body_size: int = _env("MAX_BODY_SIZE", _size, 10 * 2**20)
    exec_timeout: float | None = _env("exec_timeout", _seconds, None)

    # Logs
    log_level: int = _env("LOG_LEVEL", _level, logging.INFO)
    log_format: str = _env("LOG_FORMAT", _choice("text", "json", "readable"), "text")
    access_log: bool | None = _env("ACCESS_LOG", _flag, None)
    capture_stdout: bool = _env("CAPTURE_STDOUT", _flag, True)
    log_buffer_capacity: int = _env("LOG_BUFFER_CAPACITY", _whole(1), 10)
    log_buffer_bytes: int = _env("LOG_BUFFER_BYTES", _size, 8 * 2**20)
    log_flush_timeout: float = _env("LOG_FLUSH_TIMEOUT", _seconds, 10.0)
    log_flush_wait: float = _env("LOG_FLUSH_WAIT", _milliseconds, 0.2)
    log_upload_max_connections: int = _env("LOG_UPLOAD_MAX_CONNECTIONS", _whole(1), 100)
    engine_allowed_hosts: tuple[str, ...] = _env("ENGINE_ALLOWED_HOSTS", _hosts, ())
    skip_tls_verify: bool = _env("skip_tls_verify", _flag, False)

    # The watchdog around it, or in it
    fprocess: str = _env("fprocess", _text, "")
    watchdog: str = _env("WATCHDOG", _choice("of-watchdog", "native"), "of-watchdog")
    healthcheck_interval: float = _env("healthcheck_interval", _seconds, 0.0)
    watchdog_port: int = _env("port", _whole(0, 65535), 8080)
    metrics_port: int = _env("metrics_port", _whole(0, 65535), 8081)
    max_inflight: int = _env("max_inflight", _whole(0, 65536), 0)
    read_timeout: float = _env("read_timeout", _seconds, 0.0)
    write_timeout: float = _env("write_timeout", _seconds, 0.0)
    suppress_lock: bool = _env("suppress_lock", _flag, False)
    log_call_id: bool = _env("log_call_id", _flag, False, also="log_callid")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings.

        Args:
            environ: The variables; ``os.environ`` by default.

        Raises:
            SettingError: A variable cannot be used; names it and what it expects.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for each in fields(cls):
            variable: str = each.metadata["variable"]
            text = environ.get(variable, "").strip()
            if not text and (also := each.metadata["also"]):
                variable = also  # another spelling that is in use
                text = environ.get(variable, "").strip()
            if not text:
                continue
            try:
                values[each.name] = each.metadata["read"](text)
            except ValueError as exc:
                raise SettingError(variable, text, str(exc)) from None
        return cls(**values)

    @property
    def behind_watchdog(self) -> bool:
        """Whether another process, such as of-watchdog, started this one and proxies to it."""
        return bool(self.fprocess) and not self.native_watchdog

    @property
    def native_watchdog(self) -> bool:
        """Whether this server is its own watchdog."""
        return self.watchdog == "native"

    @property
    def access_lines(self) -> bool:
        """Whether each request gets a line; unless set, only where this is the watchdog."""
        return self.native_watchdog if self.access_log is None else self.access_log

    @property
    def x_timeout_counts(self) -> bool:
        """Whether ``X-Timeout`` shortens a request: always, but for a watchdog told not to."""
        return self.exec_timeout != 0 or not (self.behind_watchdog or self.native_watchdog)

    @property
    def workers(self) -> int:
        """How many server processes to run in production."""
        return self.gunicorn_workers or granted_cpus()


def granted_cpus(root: Path = Path("/sys/fs/cgroup")) -> int:
    """How many CPUs this process may use: the cgroup's quota, rounded up, and its affinity.

    Args:
        root: Where the cgroup file system is mounted.
    """
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    quota = _cgroup_quota(root)
    return max(1, min(cpus, math.ceil(quota))) if quota is not None else cpus


def _cgroup_quota(root: Path) -> float | None:
    """CPUs that the cgroup grants, by version 2's file or version 1's pair; None for no limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            limit = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None
