"""Load on one server: wrk, with one thread and 16 connections."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.call import Call
from benchmarks.errors import BenchmarkError, MissingTool
from benchmarks.sink import LogSink

__all__ = ["CONNECTIONS", "Load", "find_wrk", "load", "load_requests"]

CONNECTIONS: Final = 16

_SCRIPT: Final = Path(__file__).with_name("call.lua")
_RESULT: Final = "result: "
_CATCH_UP: Final = 10.0  # seconds that log lines may be behind the answers


@dataclass(frozen=True)
class Load:
    """What came of some seconds of load."""

    requests: int
    seconds: float
    p99: float
    """Milliseconds in which 99 % of the calls were answered."""
    broken: int
    """Connections that failed or calls that took longer than 2 s."""

    @property
    def rate(self) -> float:
        """Requests in a second."""
        return self.requests / self.seconds


def find_wrk() -> str:
    """Where wrk is.

    Raises:
        MissingTool: It is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise MissingTool(
            "wrk is not installed, which makes the load: "
            "apt-get install wrk (Debian, Ubuntu) or brew install wrk (macOS)"
        )
    return path


def load(port: int, call: Call, seconds: int, sink: LogSink | None = None) -> Load:
    """Make calls for some seconds, as fast as they are answered.

    Args:
        port: Where the server listens on 127.0.0.1.
        call: What is called.
        seconds: For how long.
        sink: Where the log lines of these calls arrive. The clock then stops only when every
            call that was answered has its lines there.

    Raises:
        BenchmarkError: An answer had another status than 200, or log lines are missing.
    """
    before = sink.uploads() if sink is not None else 0
    result = _wrk(port, call, seconds)
    if sink is None:
        return result
    waited = _until_stored(sink, before + result.requests)
    return replace(result, seconds=result.seconds + waited)


def load_requests(port: int, call: Call, count: int, host: str = "127.0.0.1") -> int:
    """Make at least `count` calls, and return how many were made."""
    made, seconds = 0, 1
    while made < count:
        result = _wrk(port, call, seconds, host)
        made += result.requests
        seconds = max(1, math.ceil((count - made) / result.rate))
    return made


def _wrk(port: int, call: Call, seconds: int, host: str = "127.0.0.1") -> Load:
    command = [find_wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(_SCRIPT)]
    command += [f"http://{host}:{port}/", "--", call.body]
    for header in call.headers:
        command += header
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in ended.stdout.splitlines():
        if line.startswith(_RESULT):
            result = json.loads(line.removeprefix(_RESULT))
            break
    else:
        raise BenchmarkError(f"wrk failed: {ended.stderr.strip() or ended.stdout.strip()}")
    if result["bad"] or not result["requests"]:
        raise BenchmarkError(
            f"{result['bad']} of {result['requests']} answers had another status than 200"
        )
    return Load(
        requests=result["requests"],
        seconds=result["microseconds"] / 1e6,
        p99=result["p99"] / 1e3,
        broken=result["broken"],
    )


def _until_stored(sink: LogSink, uploads: int) -> float:
    """Wait until the sink has so many uploads; returns for how many seconds."""
    started = time.perf_counter()
    while (stored := sink.uploads()) < uploads:
        waited = time.perf_counter() - started
        if waited > _CATCH_UP:
            raise BenchmarkError(f"{uploads - stored} calls were answered, but their lines lost")
        time.sleep(0.005)
    return time.perf_counter() - started
