"""The container engine of DOCKER_HOST: what is built on it and run, and what that takes."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.errors import BenchmarkError, MissingTool
from benchmarks.peers import ROOT

__all__ = ["BASE", "PORT", "Container", "container", "docker", "run", "seconds", "standin"]

BASE: Final = "python:3.13-slim-trixie"
PORT: Final = 8080

_READY_WITHIN: Final = 60.0
_LOOK_EVERY: Final = 0.002
_STANDIN: Final = ROOT / "tests" / "contract" / "standin_watchdog.py"


class Container:
    """A container that runs.

    It is called at its own address, as the engine's port proxy would take a share of the time.

    Attributes:
        host: Its address.
        ready: Seconds from its start until it was ready.
    """

    def __init__(self, name: str, host: str, ready: float) -> None:
        self.host = host
        self.ready = ready
        self._name = name

    def stop(self, grace: int) -> float:
        """Stop it; the engine kills it after `grace` seconds.

        Returns:
            Seconds that it took.

        Raises:
            BenchmarkError: It had to be killed, or ended with another status than 0.
        """
        took = seconds(lambda: docker("stop", "--time", str(grace), self._name))
        status = docker("inspect", "--format", "{{.State.ExitCode}}", self._name).strip()
        if status != "0":
            raise BenchmarkError(f"it ended with status {status}: {docker('logs', self._name)}")
        return took

    def memory(self) -> int:
        """Bytes (PSS) of its processes, without a watchdog's."""
        pids = [int(each) for each in docker("top", self._name, "-o", "pid").split()[1:]]
        return sum(_pss(pid) for pid in pids if not _is_watchdog(pid))


@contextmanager
def container(name: str, image: str, environ: Mapping[str, str]) -> Iterator[Container]:
    """A container of ours that is ready, until the block ends.

    Raises:
        BenchmarkError: It does not become ready.
    """
    settings = [each for pair in environ.items() for each in ("--env", "=".join(pair))]
    began = time.perf_counter()
    docker("run", "--detach", "--name", name, *settings, image)
    try:
        host = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).strip()
        while not _is_ready(host):
            if time.perf_counter() - began > _READY_WITHIN:
                raise BenchmarkError(f"it is not ready: {docker('logs', name)}")
            time.sleep(_LOOK_EVERY)
        yield Container(name, host, time.perf_counter() - began)
    finally:
        docker("rm", "--force", "--volumes", name, check=False)


@contextmanager
def standin(repository: str) -> Iterator[tuple[str, ...]]:
    """The tests' stand-in in the place of of-watchdog's image, which may not be at hand.

    Returns:
        The build arguments that take it from `repository`.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="fnship-bench-") as folder:
            program = Path(folder) / "fwatchdog"
            program.write_text(f"#!/usr/bin/env python3\n{_STANDIN.read_text('utf-8')}", "utf-8")
            program.chmod(0o755)
            (Path(folder) / "Dockerfile").write_text(f"FROM {BASE}\nCOPY fwatchdog /fwatchdog\n")
            docker("build", "--tag", f"{repository}:1", folder)
        yield (
            *("--build-arg", f"WATCHDOG_IMAGE_REPO={repository}"),
            *("--build-arg", "WATCHDOG_IMAGE_TAG=1"),
        )
    finally:
        docker("rmi", "--force", f"{repository}:1", check=False)


def docker(*arguments: str, check: bool = True) -> str:
    """Run the engine's client; returns what it prints.

    Raises:
        BenchmarkError: It failed, and `check` is true.
        MissingTool: It is not installed.
    """
    # Another client of that name, without BuildKit, may come first on PATH.
    program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    return run(program, *arguments, environ={"DOCKER_BUILDKIT": "1"}, check=check)


def run(*command: str, environ: Mapping[str, str], check: bool = True) -> str:
    """Run a command with some more environment variables; returns what it prints.

    Raises:
        BenchmarkError: It failed, and `check` is true.
        MissingTool: There is no such program.
    """
    env = {**os.environ, **environ}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        raise MissingTool(f"{command[0]} is missing") from exc
    if check and done.returncode:
        raise BenchmarkError(f"{' '.join(command[:4])} …: {(done.stdout + done.stderr)[-800:]}")
    return done.stdout


def seconds(act: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _is_ready(host: str) -> bool:
    connection = http.client.HTTPConnection(host, PORT, timeout=5)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/_/ready")
        return connection.getresponse().status == 200
    return False


def _is_watchdog(pid: int) -> bool:
    return b"fwatchdog" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"the system does not tell how much memory process {pid} has")
    return int(found[1]) * 1024
