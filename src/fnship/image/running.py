"""Runs an image as a container: with limits, on the loopback address, and gracefully stopped."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fnship import contract
from fnship.durations import parse_duration
from fnship.errors import UsageError
from fnship.image.container import Builder

__all__ = [
    "RUNNERS",
    "Container",
    "Ended",
    "Limits",
    "bridge_address",
    "container_port",
    "remove_all",
    "start",
    "stop_grace",
]

RUNNERS: Final = ("docker", "podman")
"""The builders that can run what they build."""

_LOOPBACK: Final = "127.0.0.1"
_PORT: Final = 8080  # of both watchdogs
_PIDS: Final = 512  # threads and processes; 4 workers with a pool of 50 threads need 220
_STOP_WITHIN: Final = 10.0  # seconds, as `docker stop` waits; what the native watchdog keeps to
_BEYOND_INTERVAL: Final = 15.0  # seconds for what is in flight, after healthcheck_interval
_POLL: Final = 0.05
_ANSWER_WITHIN: Final = 5.0
_BRIDGES: Final = {"docker": "bridge", "podman": "podman"}  # their networks by default
_MEMORY: Final = re.compile(r"[1-9][0-9]*[bkmg]?", re.IGNORECASE | re.ASCII)
_CPUS: Final = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use.

    Attributes:
        memory: Such as ``512m``.
        cpus: Such as ``1.5``; as many as there are where empty.
    """

    memory: str = "512m"
    cpus: str = ""

    def check(self, mark: str = "") -> None:
        """See that both can be read.

        Args:
            mark: What stands before their names where the user wrote them.

        Raises:
            UsageError: One of them cannot.
        """
        if not _MEMORY.fullmatch(self.memory):
            raise UsageError(f"{mark}memory {self.memory!r} is no size: write it as 512m or 1g")
        if self.cpus and not (_CPUS.fullmatch(self.cpus) and float(self.cpus)):
            raise UsageError(f"{mark}cpus {self.cpus!r} is no number: write it as 2 or 0.5")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended.

    Attributes:
        status: Of its first process.
        out_of_memory: Whether something in it was killed because it reached its limit.
    """

    status: int
    out_of_memory: bool


def container_port(env: Mapping[str, str]) -> int:
    """The port that a container with these variables listens on.

    Raises:
        UsageError: They name none that can be.
    """
    named = env.get("port", "")
    if env.get("WATCHDOG", "").lower() == "native":
        named = env.get("PORT", "") or named
    if not named.strip():
        return _PORT
    if not named.strip().isdecimal() or not 0 < int(named) < 65536:
        raise UsageError(f"{named!r} is no port that the container can listen on")
    return int(named)


def stop_grace(env: Mapping[str, str]) -> float:
    """Seconds that a container with these variables needs to finish what it is doing."""
    try:
        interval = parse_duration(env.get("healthcheck_interval", "") or "0")
    except ValueError:
        interval = 0.0
    return max(_STOP_WITHIN, interval + _BEYOND_INTERVAL) if interval > 0 else _STOP_WITHIN


def bridge_address(builder: Builder) -> str:
    """The address of this machine on the network that containers are on by default.

    Raises:
        UsageError: It is not told.
    """
    done = builder.run("network", "inspect", _BRIDGES[builder.kind])
    try:
        (network,) = json.loads(done.stdout)
        # Docker's spelling, or Podman's.
        parts = network["IPAM"]["Config"] if "IPAM" in network else network["subnets"]
        pairs = [{name.lower(): value for name, value in each.items()} for each in parts]
        for each in pairs:
            subnet = ipaddress.ip_network(each["subnet"])
            if isinstance(subnet, ipaddress.IPv4Network):
                return str(each.get("gateway") or subnet[1])
    except (ValueError, KeyError, TypeError):
        pass
    said = done.stderr.strip() or "it names no IPv4 network"
    raise UsageError(f"{builder.kind} does not say how containers reach this machine: {said}")


def remove_all(builder: Builder, label: str) -> None:
    """Remove every container that has a label.

    Args:
        builder: Whose.
        label: Such as ``name=value``.
    """
    found = builder.run("ps", "--all", "--quiet", "--filter", f"label={label}").stdout.split()
    if found:
        builder.run("rm", "--force", "--volumes", *found)


def start(
    builder: Builder,
    image: str,
    *,
    port: int,
    inner_port: int,
    env: Sequence[str] = (),
    limits: Limits | None = None,
    grace: float = _STOP_WITHIN,
    label: str = "",
    kept_output: str = "",
) -> Container:
    """Start a container that may write nowhere but in ``/tmp``, and may do nothing as root.

    Args:
        builder: One of `RUNNERS`.
        image: What to run.
        port: On the loopback address; 0 for any free one.
        inner_port: The one that the container listens on.
        env: Variables, ``NAME=value``, or ``NAME`` for the one of this environment.
        limits: What it may use.
        grace: Seconds that it gets when something else stops it.
        label: Such as ``name=value``, by which `remove_all` finds it.
        kept_output: How much of what it writes is kept, such as ``10m``; all where empty.

    Raises:
        UsageError: It cannot be started; says why.
    """
    limits = limits or Limits()
    name = f"fnship-{secrets.token_hex(4)}"
    arguments = ["create", "--name", name, "--memory", limits.memory, "--pids-limit", str(_PIDS)]
    if limits.cpus:
        arguments += ["--cpus", limits.cpus]
    arguments += ["--read-only", "--tmpfs", "/tmp"]  # noqa: S108 - in the container
    arguments += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    arguments += ["--stop-timeout", f"{grace:.0f}"]
    arguments += ["--publish", f"{_LOOPBACK}:{port or ''}:{inner_port}"]
    for each in env:
        arguments += ["--env", each]
    if label:
        arguments += ["--label", label]
    if kept_output:
        arguments += ["--log-driver", "json-file", "--log-opt", f"max-size={kept_output}"]
    try:
        for step in ([*arguments, image], ["start", name]):
            done = builder.run(*step)
            if done.returncode:
                raise UsageError(f"{image} cannot be run: {_problem(done.stderr, port)}")
        shown = builder.run("port", name, str(inner_port)).stdout
    except BaseException:  # Ctrl-C too
        builder.run("rm", "--force", name)
        raise
    taken = shown.strip().rpartition(":")[2]
    return Container(builder, name, int(taken) if taken else port)


class Container:
    """A container that was started, until `remove`.

    Attributes:
        name: What it is called.
        port: Where it is reached on the loopback address.
    """

    def __init__(self, builder: Builder, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self._builder = builder

    @property
    def url(self) -> str:
        """Where it is called."""
        return f"http://{_LOOPBACK}:{self.port}"

    @property
    def logs_command(self) -> list[str]:
        """The command that writes what the container writes, until it ends."""
        return [self._builder.program, "logs", "--follow", self.name]

    def follow(self) -> subprocess.Popen[bytes]:
        """Show what it writes, on this process's own stdout and stderr, until it ends."""
        return subprocess.Popen(  # noqa: S603 - our own command
            self.logs_command,
            env=dict(self._builder.environ),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the container; its last lines still come
        )

    def wait_until_ready(self, following: subprocess.Popen[bytes], limit: float) -> str | None:
        """Wait until it answers that it is ready.

        Args:
            following: What `follow` gave; when that ends, so has the container.
            limit: Seconds.

        Returns:
            None when it is ready, or has ended; else what it answered last.
        """
        until = time.monotonic() + limit
        answer = "it does not answer"
        while time.monotonic() < until and following.poll() is None:
            try:
                status, answer = self._ask_ready()
            except (OSError, http.client.HTTPException):
                pass
            else:
                if status == HTTPStatus.OK:
                    return None
            time.sleep(_POLL)
        return None if following.poll() is not None else answer

    def _ask_ready(self) -> tuple[int, str]:
        connection = http.client.HTTPConnection(_LOOPBACK, self.port, timeout=_ANSWER_WITHIN)
        try:
            connection.request("GET", contract.READY_PATH)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace").strip()
        finally:
            connection.close()

    def stop(self, grace: float) -> None:
        """Let it finish what it is doing, for `grace` seconds at most, and wait for its end."""
        with subprocess.Popen(  # noqa: S603 - our own command
            [self._builder.program, "stop", "-t", f"{grace:.0f}", self.name],
            env=dict(self._builder.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a second Ctrl-C is for the caller
        ) as stopping:
            try:
                stopping.wait()
            except KeyboardInterrupt:
                stopping.kill()
                raise

    def kill(self) -> None:
        """End it at once."""
        self._builder.run("kill", self.name)

    def ended(self) -> Ended | None:
        """How it ended; None where it still runs, or is gone."""
        done = self._builder.run("inspect", self.name)
        if done.returncode:
            return None
        state: dict[str, Any] = json.loads(done.stdout)[0]["State"]
        if state.get("Running"):
            return None
        return Ended(int(state["ExitCode"]), bool(state.get("OOMKilled")))

    def remove(self) -> None:
        """Remove it, running or not."""
        self._builder.run("rm", "--force", "--volumes", self.name)


def _problem(stderr: str, port: int) -> str:
    if re.search("address already in use|port is already allocated", stderr):
        return f"port {port} is in use. Take another one with --port, or 0 for any free one"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("Error response from daemon: ")] or lines[-1:]
    why = said[0] if said else "it does not say why"
    return why.removeprefix("Error response from daemon: ").removeprefix("Error: ").rstrip(".")
