"""A real engine for the tests: what it is asked, and the images that they share."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "acceptance"))

from cli_process import command, environment

__all__ = [
    "BASES",
    "LIMIT",
    "STANDIN_SOURCE",
    "Answer",
    "Container",
    "Docker",
    "Ended",
    "bind_program",
    "call",
    "image_environment",
    "until",
    "why_no_docker",
]

BASES = {
    "trixie": ("3.13-slim-trixie", "3.13"),
    "bookworm": ("3.11-slim-bookworm", "3.11"),
}
"""Debian release → the tag of the base image, as `.ci/docker` makes it, and its Python."""

STANDIN_SOURCE = Path(__file__).parents[1] / "contract" / "standin_watchdog.py"
LIMIT = 300.0  # seconds until what hangs fails its test
_POLL = 0.05


@dataclasses.dataclass
class Ended:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


@dataclasses.dataclass
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def until(what: str, check: Callable[[], Any], limit: float = 60.0) -> Any:
    """Ask `check` again and again until its answer is true, and give that."""
    end = time.monotonic() + limit
    while not (found := check()):
        assert time.monotonic() < end, f"waited {limit:g} s for {what}"
        time.sleep(_POLL)
    return found


def call(
    host: str,
    port: int,
    path: str = "/",
    payload: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Answer:
    """One HTTP call on a connection of its own: POST where there is a payload."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        body = None if payload is None else json.dumps(payload).encode()
        sent = {"Connection": "close", **(headers or {})}
        connection.request("GET" if body is None else "POST", path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


def find_client() -> str | None:
    """A docker client that has BuildKit, else any; None where there is none."""
    found = None
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        program = shutil.which("docker", path=folder)
        if program is None:
            continue
        found = found or program
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        major = re.search(r"version ([0-9]+)\.", version)
        buildx = subprocess.run([program, "buildx", "version"], capture_output=True)
        if (major and int(major[1]) < 23) or buildx.returncode == 0:
            return program
    return found


def why_no_docker() -> str | None:
    """Why the tests cannot run here; None where they can."""
    program = find_client()
    if program is None:
        return "docker is not installed"
    shown = subprocess.run([program, "version"], capture_output=True, text=True)
    if shown.returncode:
        return "no docker engine is running (DOCKER_HOST says where it is)"
    for tag, _ in BASES.values():
        there = subprocess.run([program, "image", "inspect", f"python:{tag}"], capture_output=True)
        if there.returncode:
            return f"the engine has no image python:{tag}: .ci/docker makes it"
    return None


class Docker:
    """The engine.

    Args:
        client: A folder for its client, which comes first on the PATH of what is started.
        prefix: What all that this makes is called; nobody else's begins with it.
    """

    def __init__(self, client: Path, prefix: str) -> None:
        program = find_client()
        assert program is not None
        client.mkdir(exist_ok=True)
        (client / "docker").symlink_to(program)
        self.program = program
        self.path = f"{client}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self.prefix = prefix
        self._names = 0

    def name(self, what: str) -> str:
        """A name that nothing has yet."""
        self._names += 1
        return f"{self.prefix}-{what}-{self._names}"

    def environ(self, **more: str) -> dict[str, str]:
        """An environment for commands that drive this engine."""
        return environment(**{"PATH": self.path, **more})

    def __call__(self, *arguments: object, check: bool = True, **env: str) -> Ended:
        """Run the client."""
        return _run([self.program, *map(str, arguments)], self.environ(**env), check=check)

    def fnship(self, *arguments: object, cwd: Path, check: bool = True, **env: str) -> Ended:
        """Run a command of ours."""
        return _run(command(*arguments), self.environ(**env), cwd=cwd, check=check)

    def build(self, folder: Path, image: str, *arguments: str, buildkit: bool = True) -> Ended:
        """What the guide says: ``docker build -t image .``"""
        more = ("--progress", "plain") if buildkit else ("--force-rm",)
        kit = "1" if buildkit else "0"
        return self("build", *more, *arguments, "-t", image, folder, DOCKER_BUILDKIT=kit)

    def inspect(self, thing: str) -> dict[str, Any]:
        """What the engine knows about an image or a container."""
        (known,) = json.loads(self("inspect", thing).stdout)
        return dict(known)

    @contextmanager
    def run(
        self, image: str, *arguments: str, port: int = 8080, command: Sequence[str] = ()
    ) -> Iterator[Container]:
        """A container, until the block ends."""
        name = self.name("run")
        self("run", "--detach", "--name", name, *arguments, image, *command)
        try:
            yield Container(self, name, port)
        finally:
            self("rm", "--force", "--volumes", name, check=False)

    def clean(self) -> None:
        """Remove every container, image and network that this made."""
        for kind, listing, removal in (
            ("container", ("ps", "--all", "--format", "{{.Names}}"), ("rm", "--force")),
            ("image", ("images", "--format", "{{.Repository}}:{{.Tag}}"), ("rmi", "--force")),
            ("network", ("network", "ls", "--format", "{{.Name}}"), ("network", "rm")),
        ):
            shown = self(*listing, check=False).stdout.split()
            ours = [each for each in shown if self.prefix in each]
            if ours:
                done = self(*removal, *ours, check=False)
                assert done.status == 0, f"cannot remove a {kind}: {done.said}"


class Container:
    """A container that runs.

    It is called at its own address on the bridge: the engine's port proxy accepts connections
    for it that it never sees.
    """

    def __init__(self, docker: Docker, name: str, port: int) -> None:
        self.docker = docker
        self.name = name
        self.port = port
        self._host = ""

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.docker.inspect(self.name)["State"])

    @property
    def host(self) -> str:
        if not self._host:
            networks = self.docker.inspect(self.name)["NetworkSettings"]["Networks"]
            self._host = next(iter(networks.values()))["IPAddress"]
        return self._host

    @property
    def log(self) -> str:
        return self.docker("logs", self.name).said

    def call(self, payload: Any = None, path: str = "/", **more: Any) -> Answer:
        """POST `payload`; GET where there is none."""
        return call(self.host, self.port, path, payload, **more)

    def exec(self, code: str) -> str:
        """Run Python in it, and give what that printed."""
        return self.docker("exec", self.name, "python", "-c", code).stdout

    def wait_ready(self) -> Container:
        """Wait until it is ready; fails with its log where it ends before."""

        def ready() -> bool:
            with suppress(OSError, http.client.HTTPException):
                return self.call(path="/_/ready").status == 200
            assert self.state["Running"], self.log
            return False

        until("the container to be ready", ready)
        return self

    def wait_ended(self) -> dict[str, Any]:
        """Wait until it ended, and give its state."""
        until("the container to end", lambda: not self.state["Running"])
        return self.state


def image_environment(docker: Docker, image: str) -> dict[str, str]:
    """The environment variables that an image sets."""
    lines = docker.inspect(image)["Config"]["Env"]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def bind_program(folder: Path, name: str, text: str) -> Path:
    """A program in `folder`."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def _run(
    arguments: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None, check: bool
) -> Ended:
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT,
    )
    ended = Ended(done.returncode, done.stdout, done.stderr)
    assert not check or ended.status == 0, f"{arguments}: {ended.said}"
    return ended
