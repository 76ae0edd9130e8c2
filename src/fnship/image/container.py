"""Drives docker, podman or buildah, whichever is there: builds images and knows about them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fnship.errors import UsageError
from fnship.image.dockerfile import split_image

__all__ = ["BUILDERS", "Build", "Builder", "Image", "find_builder"]

BUILDERS: Final = ("docker", "podman", "buildah")

_PROBE_WITHIN: Final = 20.0  # seconds for a builder to say that it is there
_BUILDX_SINCE: Final = 23  # the docker client whose BuildKit is a plugin
_UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True)
class Image:
    """What a builder knows about an image.

    Attributes:
        id: The digest of its configuration, ``sha256:…``.
        digests: Repository → the digest that it has there; empty where it was in no registry.
        size: Its size on disk, in bytes.
        env: Its environment variables.
        labels: Its labels.
    """

    id: str
    digests: Mapping[str, str]
    size: int
    env: Mapping[str, str]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What to build.

    Attributes:
        folder: The function's folder.
        dockerfile: The Dockerfile, in that folder or elsewhere.
        image: What to call the image.
        arguments: Build arguments, each ``NAME=value``, or ``NAME`` for the environment's.
        secrets: Build secrets, each such as ``id=pip,src=pip.conf``.
        platform: Such as ``linux/arm64``; the machine's own where empty.
        cache: Whether layers of earlier builds may be used.
    """

    folder: Path
    dockerfile: Path
    image: str
    arguments: Sequence[str] = ()
    secrets: Sequence[str] = ()
    platform: str = ""
    cache: bool = True


@dataclass(frozen=True, slots=True)
class Builder:
    """One of `BUILDERS`, found to work.

    Attributes:
        kind: Which of them.
        program: Where it is.
        environ: The environment that it runs in.
        buildkit: Whether it has what BuildKit has: build secrets, and stages side by side.
        loads: Whether it must be told to keep what it builds.
        passed_over: Why others, which would have come first, were not taken.
    """

    kind: str
    program: str
    environ: Mapping[str, str] = field(repr=False)
    buildkit: bool = True
    loads: bool = False
    passed_over: Sequence[str] = ()

    def build(self, build: Build, tell: Callable[[str], None]) -> tuple[int, list[str]]:
        """Build an image.

        Args:
            build: What.
            tell: Called with each line that the builder writes.

        Returns:
            The builder's exit status, 0 for success, and its lines.
        """
        lines = []
        with subprocess.Popen(  # noqa: S603 - no shell; what users gave are single arguments
            [self.program, *self._build_arguments(build)],
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    lines.append(line.rstrip())
                    tell(lines[-1])
            except BaseException:  # Ctrl-C too
                process.terminate()
                raise
        return process.returncode, lines

    def _build_arguments(self, build: Build) -> list[str]:
        arguments = ["build", "--tag", build.image, "--file", str(build.dockerfile)]
        if self.kind != "docker":
            arguments += ["--format", "docker"]  # the OCI format knows no health check
        elif self.buildkit:
            arguments += ["--progress", "plain"]
        else:
            arguments.append("--force-rm")  # the container of a step that failed, too
        if self.kind == "buildah":
            arguments.append("--layers")
        if self.loads:
            arguments.append("--load")
        for each in build.arguments:
            arguments += ["--build-arg", each]
        for each in build.secrets:
            arguments += ["--secret", each]
        if build.platform:
            arguments += ["--platform", build.platform]
        if not build.cache:
            arguments.append("--no-cache")
        return [*arguments, str(build.folder)]

    def inspect(self, image: str) -> Image | None:
        """What is known about `image`; None where it is not there."""
        if self.kind == "buildah":
            return self._inspect_by_buildah(image)
        done = self.run("image", "inspect", image)
        if done.returncode:
            return None
        (known,) = json.loads(done.stdout)
        config = known.get("Config") or {}
        digests = (each.partition("@")[::2] for each in known.get("RepoDigests") or ())
        return Image(
            id=_with_algorithm(known["Id"]),
            # Podman gives what was only ever built here one for the host "localhost".
            digests={
                _full_name(name): digest
                for name, digest in digests
                if not name.startswith("localhost/")
            },
            size=int(known["Size"]),
            env=_variables(config.get("Env")),
            labels=config.get("Labels") or {},
        )

    def _inspect_by_buildah(self, image: str) -> Image | None:
        done = self.run("inspect", "--type", "image", image)
        listed = self.run("images", "--json", image)
        if done.returncode or listed.returncode:
            return None
        known, row = json.loads(done.stdout), json.loads(listed.stdout)[0]
        config = known["Docker"].get("config") or {}
        return Image(
            id=_with_algorithm(known["FromImageID"]),
            digests={},
            size=_size(row["size"]),
            env=_variables(config.get("Env")),
            labels=config.get("Labels") or {},
        )

    def pinned(self, image: str) -> str:
        """`image` with the digest that it has here.

        Args:
            image: ``repository:tag``.

        Raises:
            UsageError: It is not here, or came from no registry.
        """
        image = image.partition("@")[0]
        repository, _ = split_image(image)
        known = self.inspect(image)
        if known is None:
            raise UsageError(
                f"{image} cannot be pinned: {self.kind} does not have it. "
                f"Get it first: {self.kind} pull {image}"
            )
        digest = known.digests.get(_full_name(repository))
        if digest is None:
            raise UsageError(
                f"{image} cannot be pinned: it came from no registry, so it has no digest that "
                f"others could get it by. Get it from one: {self.kind} pull {image}"
            )
        return f"{image}@{digest}"

    def run(
        self, *arguments: str, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this builder to its end, and keep what it writes."""
        return _run([self.program, *arguments], self.environ, timeout)


def find_builder(
    wanted: str | None, environ: Mapping[str, str], *, of: Sequence[str] = BUILDERS
) -> Builder:
    """The builder to use.

    Args:
        wanted: One of `of`; where None, the first of them that works.
        environ: The environment variables, such as ``DOCKER_HOST`` and ``PATH``.
        of: Those that can do what is to be done.

    Raises:
        UsageError: None works; says why of each.
    """
    problems: list[str] = []
    broken: list[str] = []
    for kind in of if wanted is None else (wanted,):
        program = shutil.which(kind, path=environ.get("PATH"))
        if program is None:
            problems.append(f"{kind} is not installed")
            continue
        try:
            found = _probe(kind, program, environ)
            return dataclasses.replace(found, passed_over=tuple(broken))
        except UsageError as exc:
            broken.append(str(exc))
            problems.append(str(exc))
    raise UsageError(
        f"no container engine works here: {'; '.join(problems)}. "
        "Start one, or install Docker, Podman or Buildah"
    )


def _probe(kind: str, program: str, environ: Mapping[str, str]) -> Builder:
    command = [program, "version" if kind != "buildah" else "info"]
    if kind == "docker":
        command += ["--format", "{{json .}}"]
    try:
        done = _run(command, environ, _PROBE_WITHIN)
    except subprocess.TimeoutExpired as exc:
        raise UsageError(f"{kind} does not answer within {_PROBE_WITHIN:.0f} s") from exc
    except OSError as exc:
        raise UsageError(f"{kind} does not start: {exc.strerror}") from exc
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UsageError(f"{kind} does not work: {said[-1].rstrip('.')}")
    if kind != "docker":
        return Builder(kind, program, environ)
    try:
        known: Any = json.loads(done.stdout)
        major = int(re.match(r"[0-9]+", known["Client"]["Version"])[0])  # type: ignore[index]
    except (ValueError, KeyError, TypeError):
        return Builder("podman", program, environ)  # podman, under docker's name
    asked = environ.get("DOCKER_BUILDKIT", "")
    plugin = major >= _BUILDX_SINCE and not _run([program, "buildx", "version"], environ).returncode
    buildkit = asked not in ("0", "false") and (major < _BUILDX_SINCE or plugin)
    environ = {**environ, "DOCKER_BUILDKIT": "1" if buildkit else "0"}
    return Builder(kind, program, environ, buildkit=buildkit, loads=buildkit and plugin)


def _run(
    command: Sequence[str], environ: Mapping[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - no shell; what users gave are single arguments
        command,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )


def _full_name(repository: str) -> str:
    """`repository` with the registry and the owner that are left out in its short form."""
    first, slash, _ = repository.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return repository
    return f"docker.io/{repository}" if slash else f"docker.io/library/{repository}"


def _with_algorithm(digest: str) -> str:
    return digest if ":" in digest else f"sha256:{digest}"


def _variables(lines: Sequence[str] | None) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in lines or ())}


def _size(text: str) -> int:
    number, unit = text.split()
    return round(float(number) * _UNITS[unit.upper()])
