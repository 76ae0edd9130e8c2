"""``benchmarks/images``: size, build, start, memory and stop of the images, on a real engine."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.bars import MIB, Bar
from benchmarks.call import plain_call
from benchmarks.command import count, end_well, say
from benchmarks.engine import BASE, PORT, container, docker, run, seconds, standin
from benchmarks.errors import BenchmarkError
from benchmarks.load import find_wrk, load_requests
from benchmarks.report import machine, table, write_docs

_NAME: Final = f"fnship-bench-{os.getpid()}"
_REQUESTS: Final = 10_000
_WORKERS: Final = 2
_MB: Final = 10**6

# Where the space goes: bytes by what was installed, printed in the image by its own Python.
_SIZES: Final = """
import collections, fnship, importlib.metadata, json, os
root, sizes = os.path.dirname(fnship.__path__[0]), collections.Counter()
owners = {name: each[0] for name, each in importlib.metadata.packages_distributions().items()}
for folder, _, files in os.walk(root):
    top = os.path.relpath(folder, root).split(os.sep)[0]
    for file in files:
        name = (file if top == "." else top).partition(".")[0].partition("-")[0]
        owner = owners.get(name) or name.replace("_", "-")
        sizes[owner] += os.lstat(os.path.join(folder, file)).st_size
print(json.dumps(sizes))
"""


@dataclass
class Variant:
    """One way to build the function, and what that takes: seconds and bytes."""

    watchdog: str
    """For ``fnship new --watchdog``."""
    title: str
    """For the tables."""
    grace: int
    """Seconds that a container is given to stop in."""
    stops: int | None = None
    """How many stops are measured; None for as many as there are starts."""
    arguments: tuple[str, ...] = ()
    """For ``docker build``."""
    first_build: float = 0.0
    rebuilds: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)
    over_base: int = 0
    memory: int = 0

    @property
    def image(self) -> str:
        """The image's name."""
        return f"{_NAME}-{self.watchdog}"


@dataclass
class Measured:
    """What one run has measured."""

    native: Variant = field(default_factory=lambda: Variant("native", "native", 10))
    # It goes on for its healthcheck_interval, 30 s, whenever it is stopped: once is enough.
    proxied: Variant = field(
        default_factory=lambda: Variant("of-watchdog", "of-watchdog (stand-in)", 45, stops=1)
    )
    empty: list[float] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[Variant, Variant]:
        """Both images."""
        return self.native, self.proxied


def main() -> int:
    """Run; returns the exit status, see `benchmarks.command.end_well`."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/images",
        description="Measures what `fnship new` builds, with either watchdog, on the engine of "
        "DOCKER_HOST. `.ci/docker benchmarks/images` brings an engine of its own.",
    )
    parser.add_argument("--times", type=count, default=7, metavar="N", help="starts, rebuilds (7)")
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    arguments = parser.parse_args()

    def measure() -> None:
        find_wrk()
        text = _render(_measure(arguments.times), arguments.times)
        print(text)
        if arguments.write_docs:
            write_docs(text, "benchmarks/images")

    return end_well(measure)


def _measure(times: int) -> Measured:
    measured = Measured()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fnship-bench-")))
        measured.proxied.arguments = stack.enter_context(standin(f"{_NAME}-standin"))
        for each in measured.variants:
            stack.callback(docker, "rmi", "--force", each.image, check=False)
        _measure_builds(folder, times, measured)
        _measure_starts(times, measured)
        for each in measured.variants:
            _measure_memory(each)
    return measured


def _measure_builds(folder: Path, times: int, measured: Measured) -> None:
    for each in measured.variants:
        function = folder / each.watchdog
        new = ("new", str(function), "--watchdog", each.watchdog)
        path = os.pathsep.join(sys.path)
        run(sys.executable, "-m", "fnship", *new, environ={"PYTHONPATH": path})
        each.first_build = _build(each, function, "--no-cache")
        say(f"first build, {each.title}: {each.first_build:.1f} s")
    for number in range(1, times + 1):
        for each in measured.variants:
            function = folder / each.watchdog
            with (function / "function" / "handler.py").open("a") as file:
                file.write(f"# {number}\n")
            each.rebuilds.append(_build(each, function))
            say(f"code-only rebuild {number} of {times}, {each.title}: {each.rebuilds[-1]:.2f} s")
    for each in measured.variants:
        each.over_base = _size(each.image) - _size(BASE)
    native = measured.native.image
    sizes = docker("run", "--rm", "--entrypoint", "python", native, "-c", _SIZES)
    measured.parts = json.loads(sizes)


def _build(variant: Variant, function: Path, *more: str) -> float:
    """Build its image; returns the seconds that it took."""
    command = ("build", "--tag", variant.image, *variant.arguments, *more, str(function))
    return seconds(lambda: docker(*command))


def _size(image: str) -> int:
    return int(docker("inspect", "--format", "{{.Size}}", image))


def _measure_starts(times: int, measured: Measured) -> None:
    for number in range(times + 1):  # the first one warms the files
        empty = _start_empty()
        if number:
            measured.empty.append(empty)
            say(f"start {number} of {times}: empty {empty:.2f} s")
        for each in measured.variants:
            with container(f"{each.image}-run", each.image, {}) as started:
                if not number:
                    continue
                each.ready.append(started.ready)
                said = f"start {number} of {times}: {each.title}, ready {started.ready:.2f} s"
                if each.stops is None or number <= each.stops:
                    each.stopped.append(started.stop(each.grace))
                    said += f", stopped {each.stopped[-1]:.2f} s"
                say(said)


def _start_empty() -> float:
    """Seconds until a container that does nothing has been started."""
    name = f"{_NAME}-empty"
    try:
        return seconds(lambda: docker("run", "--detach", "--name", name, BASE, "sleep", "60"))
    finally:
        docker("rm", "--force", name, check=False)


def _measure_memory(variant: Variant) -> None:
    environ = {"GUNICORN_WORKERS": str(_WORKERS)}
    with container(f"{variant.image}-run", variant.image, environ) as started:
        load_requests(PORT, plain_call(), _REQUESTS, started.host)
        time.sleep(1)
        variant.memory = started.memory()
    say(f"memory with {_WORKERS} workers, {variant.title}: {variant.memory / MIB:.1f} MiB")


def _judge(measured: Measured) -> list[Bar]:
    native = measured.native
    beyond = median(native.ready) - median(measured.empty)
    rebuild = max(median(each.rebuilds) for each in measured.variants)
    memory = max(each.memory for each in measured.variants)
    over = f"{native.over_base / _MB:.1f} MB"
    return [
        Bar("ready, beyond an empty container", "≤ 0.3 s", f"{beyond:.2f} s", beyond <= 0.3),
        Bar("size over the base, native watchdog", "≤ 40 MB", over, native.over_base <= 40 * _MB),
        Bar(
            f"memory (PSS) of {_WORKERS} workers and their parent after {_REQUESTS:,} requests",
            "≤ 75 MiB",
            f"{memory / MIB:.1f} MiB",
            memory <= 75 * MIB,
        ),
        Bar("code-only rebuild", "≤ 1 s", f"{rebuild:.2f} s", rebuild <= 1),
    ]


def _render(measured: Measured, times: int) -> str:
    engine = docker("version", "--format", "{{.Server.Version}}").strip()
    head = (
        f"fnship {version('fnship')}, {dt.datetime.now(dt.UTC).date()}, on {machine()}; Docker "
        f"{engine}, base {BASE} made by debootstrap. Medians of {times}."
    )
    bars = [(each.what, each.bar, each.measured, each.verdict) for each in _judge(measured)]
    titles = [each.title for each in measured.variants]
    return "\n\n".join(
        (
            head,
            table(("bar", "wanted", "measured", "met"), bars),
            table(("by watchdog", *titles), _figures(measured)),
            table(("what takes the space, compiled bytecode included", "size"), _sizes(measured)),
        )
    )


def _figures(measured: Measured) -> list[tuple[str, ...]]:
    """What both images take, side by side."""
    empty = f"{median(measured.empty):.2f} s"
    rows = [
        (
            f"{each.first_build:.1f} s",
            f"{median(each.rebuilds):.2f} s",
            f"{each.over_base / _MB:.1f} MB",
            empty,
            f"{median(each.ready):.2f} s",
            f"{each.memory / MIB:.1f} MiB",
            f"{median(each.stopped):.2f} s",
        )
        for each in measured.variants
    ]
    names = (
        "first build, without a cache",
        "code-only rebuild",
        "size over the base",
        "docker run --detach of an empty container",
        "docker run until ready",
        f"memory of the server, {_WORKERS} workers",
        "docker stop",
    )
    return list(zip(names, *rows, strict=True))


def _sizes(measured: Measured) -> list[tuple[str, str]]:
    """What takes the space in the native image, the largest first."""
    parts = sorted(measured.parts.items(), key=lambda each: -each[1])
    shown = [(name, size) for name, size in parts if size >= _MB / 100]
    rest = measured.native.over_base - sum(size for _, size in shown)
    if rest < 0:
        raise BenchmarkError(f"the image is {-rest} bytes smaller than what is in it")
    return [
        (name, f"{size / _MB:.2f} MB")
        for name, size in (*shown, ("the function, links and what is smaller", rest))
    ]


if __name__ == "__main__":
    sys.exit(main())
