"""Why a build failed, in words: read from what the builder and pip wrote."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fnship.image.requirements import Requirement, find

__all__ = ["Failure", "contradictions", "explain"]

# What a builder puts before a line of its own or of a command's.
_PREFIX: Final = re.compile(r"^#[0-9]+ (?:\[[^\]]*\] )?(?:[0-9]+\.[0-9]+ )?")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STEP: Final = re.compile(r'^Error: (?:building|error building) at STEP "(?:RUN|COPY) .*": ')

_BASE_MISSING: Final = re.compile(
    r"pull access denied|manifest (?:for \S+ not found|unknown)|failed to resolve source metadata|"
    r"failed to create LLB definition|Error response from daemon: (?:Get|Head|manifest)|"
    r'^(?:Get|Head) "https?://|creating build container|did not resolve to an alias|'
    r"repository does not exist|error getting credentials|failed to load metadata"
)
_FROM: Final = re.compile(
    r"(?:\[internal\] load metadata for |Trying to pull |FROM (?:--platform=\S+ )?)(?P<image>\S+)"
)
_UNREACHABLE: Final = re.compile(
    r"no such host|Temporary failure in name resolution|Temporary failure resolving|"
    r"Failed to establish a new connection|connection refused|Connection refused|i/o timeout|"
    r"Network is unreachable|Could not connect to|ProxyError"
)
_NOT_BUILT: Final = re.compile(
    r"Failed (?:building wheel for|to build) '?(?P<a>[A-Za-z0-9._-]+)|"
    r"Could not build wheels for (?P<b>[A-Za-z0-9._-]+)|"
    r"ERROR: Failed to build installable wheels for .*\((?P<c>[A-Za-z0-9._-]+)"
)
_TAKEN: Final = re.compile(r"^(?:Collecting|Processing) (?P<what>\S+)")
_CONTRADICTION: Final = re.compile(r"\S+ \S+ requires .+, but you have .+ which is incompatible")
_LOOK_CLOSER: Final = "What the builder wrote above says more."


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A build that failed.

    Attributes:
        lines: What the builder wrote.
        requirements: What the function's requirements files ask for.
        arguments: The build arguments, as given or as the Dockerfile has them.
        folder: The function's folder.
    """

    lines: Sequence[str]
    requirements: Sequence[Requirement] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""

    def search(self, pattern: str | re.Pattern[str]) -> re.Match[str] | None:
        """The last match in the lines."""
        compiled = re.compile(pattern)
        found = (compiled.search(line) for line in reversed(self.lines))
        return next(filter(None, found), None)

    def place(self, what: str) -> str:
        """``requirements.txt:2: `` for the line that asks for `what`; empty where none does."""
        name = re.split(r"[^A-Za-z0-9._-]", what.removeprefix("./"), maxsplit=1)[0]
        exact = next((each for each in self.requirements if each.text == what), None)
        found = exact or find(self.requirements, name)
        return f"{found.place}: " if found else ""


def explain(failure: Failure) -> str:
    """What went wrong, and how to mend it, in one line."""
    failure = dataclasses.replace(failure, lines=_plain(failure.lines))
    for rule in _RULES:
        if found := rule(failure):
            return found
    last = next((line for line in reversed(failure.lines) if line.strip("-")), "")
    return f"{last or 'the builder does not say why'}. {_LOOK_CLOSER}"


def contradictions(lines: Iterable[str]) -> list[str]:
    """What pip installed although another package asks for something else."""
    said = (_CONTRADICTION.search(line) for line in _plain(lines))
    return [match[0] for match in said if match]


def _plain(lines: Iterable[str]) -> list[str]:
    """`lines` without colours, and without what the builder puts before them."""
    plain = (_PREFIX.sub("", _COLOUR.sub("", line)).strip() for line in lines)
    return [_STEP.sub("", line) for line in plain]


def _disk_full(failure: Failure) -> str | None:
    if not failure.search(r"(?i)no space left on device|disk quota exceeded"):
        return None
    return (
        "the disk is full, or the engine's part of it. See what takes it with `docker system df`, "
        "and free what no image uses with `docker system prune`"
    )


def _no_secrets(failure: Failure) -> str | None:
    if not failure.search("the --mount option requires BuildKit"):
        return None
    return (
        "the Dockerfile uses a build secret, which this engine's classic builder does not know. "
        "Build it with BuildKit (install docker's buildx plugin), podman or buildah"
    )


def _engine_gone(failure: Failure) -> str | None:
    if failure.search("Cannot connect to the Docker daemon|error during connect"):
        return "the engine went away while it was building. Start it again"
    return None


def _no_base(failure: Failure) -> str | None:
    problem = failure.search(_BASE_MISSING)
    if problem is None:
        return None
    image = failure.search(_FROM)
    name = image["image"].rstrip(":.") if image else "the image to start from"
    name = re.sub(r"\$\{(\w+)\}", lambda each: failure.arguments.get(each[1], each[0]), name)
    if failure.search(_UNREACHABLE):
        why = "its registry cannot be reached"
    else:
        why = "its registry does not have it, or does not show it without a login"
    return (
        f"{name} is not here, and {why}. Pull it first, or name another one: "
        "--build-arg PYTHON_IMAGE_REPO=… --build-arg PYTHON_IMAGE_TAG=… for Python, "
        "WATCHDOG_IMAGE_REPO and WATCHDOG_IMAGE_TAG for the watchdog"
    )


def _bad_dockerfile(failure: Failure) -> str | None:
    match = failure.search(r"[Dd]ockerfile parse error (?:on )?line (?P<line>[0-9]+): (?P<why>.+)")
    return f"Dockerfile:{match['line']}: {match['why']}" if match else None


def _wrong_platform(failure: Failure) -> str | None:
    if failure.search("exec format error"):
        return (
            "this machine cannot run programs of the platform that the image is for: build it on "
            "such a machine, or install the emulator (the Debian package qemu-user-static)"
        )
    if failure.search("does not match the specified platform|no match for platform"):
        return "the image to start from is not there for that platform"
    return None


def _bad_line(failure: Failure) -> str | None:
    problem = failure.search(r"Invalid requirement: (?P<what>.*?)(?:: Expected.*)?$")
    where = failure.search(r"\(from line (?P<line>[0-9]+) of (?P<file>[^)]+)\)")
    if problem is None or where is None:
        return None
    return f"{where['file']}:{where['line']}: {problem['what']} is no requirement"


def _missing_file(failure: Failure) -> str | None:
    file = failure.search(r"Could not open requirements file: .*: '(?P<file>[^']+)'")
    if file:
        return (
            f"a requirements file refers to {file['file']}, which the image does not have yet when "
            "pip runs: put its content in the file itself, or add a COPY for it to the Dockerfile"
        )
    file = failure.search(
        r'(?:failed to compute cache key: |calculate checksum of ref \S+: )"?(?P<a>[^":\s]+)"?.*: '
        r"not found|"
        r"COPY failed: .*stat (?P<b>[^:]+): file does not exist|"
        r'no items matching glob "(?P<c>[^"]+)"|cp: cannot stat \'(?P<d>[^\']+)\'',
    )
    if file is None:
        return None
    name = next(each for each in file.groups() if each).removeprefix(failure.folder).lstrip("/")
    return f"the Dockerfile copies {name}, which is not there or which .dockerignore leaves out"


def _no_such_package(failure: Failure) -> str | None:
    missing = failure.search(r"No matching distribution found for (?P<what>.+?)(?: \(from .*)?$")
    if missing is None:
        return None
    what = missing["what"]
    where = failure.place(what)
    parent = failure.search(
        rf"requirement {re.escape(what)} \(from (?P<from>.+?)\) \(from versions"
    )
    if parent and not where:
        asked_by = parent["from"].split("->")[0]
        where = failure.place(asked_by)
        what = f"{what}, which {asked_by} needs,"
    if failure.search(_UNREACHABLE):
        return (
            f"{where}{what} cannot be installed, as the package index cannot be reached from the "
            "build. Behind a proxy, name it with --build-arg PROXY=http://…"
        )
    versions = failure.search(r"\(from versions: (?P<all>.+)\)")
    if versions is None or versions["all"] == "none":
        return (
            f"{where}{what} does not exist on the package index, or not for this Python and "
            "platform. Look how it is spelt"
        )
    known = versions["all"].split(", ")
    return (
        f"{where}{what} does not exist for this Python and platform. "
        f"There is {known[-1]}{f', among {len(known)} versions' if len(known) > 1 else ''}"
    )


def _not_built(failure: Failure) -> str | None:
    if not failure.search(
        r"subprocess-exited-with-error|metadata-generation-failed|Failed building wheel"
    ):
        return None
    match = failure.search(_NOT_BUILT) or failure.search(r"^╰─> (?P<a>[A-Za-z0-9._-]+)$")
    name = next((each for each in match.groups() if each), "") if match else ""
    if not name:
        taken = failure.search(_TAKEN)
        name = taken["what"] if taken else "a requirement"
    said = failure.search(r"^(?:fatal )?[Ee]rror: (?P<why>(?!subprocess-exited|metadata-gen).+)$")
    why = f" ({said['why'].rstrip('.')})" if said else ""
    return (
        f"{failure.place(name)}{name} has no wheel for this Python and platform, and could "
        f"not be built from its source{why}. Take a version that has a wheel, or give the build "
        'what it lacks: --build-arg BUILD_PACKAGE="gcc libc6-dev python3-dev"'
    )


def _conflict(failure: Failure) -> str | None:
    match = failure.search(r"Cannot install (?P<what>.+) because these package versions")
    if match is None:
        return None
    causes = [
        line for line in failure.lines if re.search(r" depends on |The user requested ", line)
    ]
    seen = "; ".join(dict.fromkeys(causes[:4]))
    return f"the requirements contradict each other: {match['what']} ({seen})"


def _hashes(failure: Failure) -> str | None:
    if failure.search("DO NOT MATCH THE HASHES"):
        return f"a package is not the one whose hash the requirements name. {_LOOK_CLOSER}"
    if failure.search(r"[Hh]ashes are required in --require-hashes mode"):
        return (
            "one requirement has a hash, so pip asks for a hash of all of them, the wheel in "
            "wheels/ included: give each one, or none"
        )
    return None


def _syntax(failure: Failure) -> str | None:
    if not failure.search(r"^\*\*\* Error compiling"):
        return None
    where = failure.search(r'^File "(?P<file>[^"]+)", line (?P<line>[0-9]+)')
    why = failure.search(r"^(?P<why>\w+Error: .+)$")
    place = f"{where['file'].removeprefix('./')}:{where['line']}: " if where else ""
    return f"{place}{why['why'] if why else 'does not compile'}"


def _tests(failure: Failure) -> str | None:
    failed = [line for line in failure.lines if re.match(r"(?:FAILED|ERROR) \S+\.py", line)]
    if not failed:
        return None
    return f"the function's tests fail: {'; '.join(dict.fromkeys(failed[:3]))}"


def _debian(failure: Failure) -> str | None:
    match = failure.search(
        r"E: (?:Unable to locate package|Package(?= '\S+' has no)|Couldn't find any package by \w+)"
        r" '?(?P<name>[^'\s]+)"
    )
    if match is None:
        if failure.search(r"^E: ") and failure.search(_UNREACHABLE):
            return "Debian's packages cannot be reached from the build"
        return None
    return (
        f"Debian has no package {match['name']}, which ADDITIONAL_PACKAGE or BUILD_PACKAGE names, "
        "for the release that the image is of"
    )


# The first that has something to say is right: the plainer a cause shows, the earlier it stands.
_RULES: Final[tuple[Callable[[Failure], str | None], ...]] = (
    _disk_full,
    _no_secrets,
    _engine_gone,
    _syntax,
    _tests,
    _bad_line,
    _conflict,
    _hashes,
    _not_built,
    _no_such_package,
    _missing_file,
    _debian,
    _bad_dockerfile,
    _wrong_platform,
    _no_base,
)
