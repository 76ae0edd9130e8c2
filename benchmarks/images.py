"""``benchmarks/images``: size, build, start, memory and stop of the images, on a real engine."""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.bars import Bar
from benchmarks.call import plain_call
from benchmarks.errors import BenchmarkError, MissingTool
from benchmarks.load import load_requests
from benchmarks.report import machine, table, write_docs

_IMAGE: Final = "fnship-bench"
_BASE: Final = "python:3.13-slim-trixie"
_REQUESTS: Final = 10_000
_WORKERS: Final = 2
_READY_WITHIN: Final = 60.0
_LOOK_EVERY: Final = 0.002
_MB: Final = 10**6
_MIB: Final = 2**20

# Where the space goes: bytes by what was installed, printed in the image by its own Python.
_SIZES: Final = """
import collections, importlib.metadata, json, os, sys
root, sizes = sys.argv[1], collections.Counter()
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
class Measured:
    """What one run has measured; seconds and bytes."""

    first_build: float = 0.0
    rebuilds: list[float] = field(default_factory=list)
    empty: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    stop: list[float] = field(default_factory=list)
    over_base: int = 0
    memory: int = 0
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def beyond_empty(self) -> float:
        """Seconds from the start to ready that an empty container does not take."""
        return median(self.ready) - median(self.empty)


def main() -> int:
    """Run; returns the exit status: 0, 1 where something does not work, 2 for a missing tool."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/images",
        description="Measures what `fnship new --watchdog native` builds, on the engine of "
        "DOCKER_HOST. `.ci/docker benchmarks/images` brings an engine of its own.",
    )
    parser.add_argument("--times", type=int, default=7, metavar="N", help="starts, rebuilds (7)")
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    try:
        text = _render(_measure(arguments.times), arguments.times)
    except MissingTool as exc:
        _say(f"error: {exc}")
        return 2
    except BenchmarkError as exc:
        _say(f"error: {exc}")
        return 1
    print(text)
    if arguments.write_docs:
        write_docs(text, "benchmarks/images")
    return 0


def _measure(times: int) -> Measured:
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix="fnship-bench-") as folder:
        function = Path(folder) / "hello"
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "fnship", "new", str(function), "--watchdog", "native"]
        _run(*command, env=environ)
        try:
            _measure_builds(function, times, measured)
            _measure_starts(times, measured)
            _measure_memory(measured)
        finally:
            _docker("rmi", "--force", _IMAGE, check=False)
    return measured


def _measure_builds(function: Path, times: int, measured: Measured) -> None:
    build = ("build", "--tag", _IMAGE, str(function))
    measured.first_build = _seconds(lambda: _docker(*build, "--no-cache"))
    _say(f"first build: {measured.first_build:.1f} s")
    handler = function / "function" / "handler.py"
    for number in range(times):
        with handler.open("a") as file:
            file.write(f"# {number}\n")
        measured.rebuilds.append(_seconds(lambda: _docker(*build)))
        _say(f"code-only rebuild {number + 1} of {times}: {measured.rebuilds[-1]:.2f} s")
    sizes = [int(_docker("inspect", "--format", "{{.Size}}", each)) for each in (_IMAGE, _BASE)]
    measured.over_base = sizes[0] - sizes[1]
    shown = _docker("run", "--rm", "--entrypoint", "python", _IMAGE, "-c", "import fnship; "
                    "print(fnship.__path__[0])")  # fmt: skip
    root = str(Path(shown.strip()).parent)
    sums = _docker("run", "--rm", "--entrypoint", "python", _IMAGE, "-c", _SIZES, root)
    measured.parts = json.loads(sums)


def _measure_starts(times: int, measured: Measured) -> None:
    for number in range(times + 1):
        empty = _start_empty()
        with _container() as container:
            ready = container.ready
            stop = _seconds(container.stop)
        if number:  # the first one warms the files
            measured.empty.append(empty)
            measured.ready.append(ready)
            measured.stop.append(stop)
            _say(
                f"start {number} of {times}: empty {empty:.2f} s, ready {ready:.2f} s, "
                f"stop {stop:.2f} s"
            )


def _start_empty() -> float:
    """Seconds until a container that does nothing has been started."""
    name = f"{_IMAGE}-empty-{os.getpid()}"
    try:
        return _seconds(lambda: _docker("run", "--detach", "--name", name, _BASE, "sleep", "60"))
    finally:
        _docker("rm", "--force", name, check=False)


def _measure_memory(measured: Measured) -> None:
    with _container("--env", f"GUNICORN_WORKERS={_WORKERS}") as container:
        load_requests(8080, plain_call(), _REQUESTS, container.host)
        time.sleep(1)
        pids = [int(each) for each in _docker("top", container.name, "-o", "pid").split()[1:]]
        measured.memory = sum(_pss(pid) for pid in pids)
    _say(f"memory with {_WORKERS} workers: {measured.memory / _MIB:.1f} MiB")


class _Container:
    """A container that runs."""

    def __init__(self, name: str, ready: float) -> None:
        self.name = name
        self.ready = ready
        self.host = _address(name)

    def stop(self) -> None:
        _docker("stop", self.name)


@contextmanager
def _container(*options: str) -> Iterator[_Container]:
    name = f"{_IMAGE}-{os.getpid()}"
    began = time.perf_counter()
    _docker("run", "--detach", "--name", name, *options, _IMAGE)
    try:
        host = _address(name)
        while not _is_ready(host):
            if time.perf_counter() - began > _READY_WITHIN:
                raise BenchmarkError(f"it is not ready: {_docker('logs', name)}")
            time.sleep(_LOOK_EVERY)
        yield _Container(name, time.perf_counter() - began)
    finally:
        _docker("rm", "--force", name, check=False)


def _is_ready(host: str) -> bool:
    connection = http.client.HTTPConnection(host, 8080, timeout=5)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/_/ready")
        return connection.getresponse().status == 200
    return False


def _address(name: str) -> str:
    return _docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).strip()


def _pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _judge(measured: Measured) -> list[Bar]:
    beyond, rebuild = measured.beyond_empty, median(measured.rebuilds)
    return [
        Bar("ready, beyond an empty container", "≤ 0.3 s", f"{beyond:.2f} s", beyond <= 0.3),
        Bar(
            "size over the base, native watchdog",
            "≤ 40 MB",
            f"{measured.over_base / _MB:.1f} MB",
            measured.over_base <= 40 * _MB,
        ),
        Bar(
            f"memory (PSS) of {_WORKERS} workers and their parent after {_REQUESTS:,} requests",
            "≤ 75 MiB",
            f"{measured.memory / _MIB:.1f} MiB",
            measured.memory <= 75 * _MIB,
        ),
        Bar("code-only rebuild", "≤ 1 s", f"{rebuild:.2f} s", rebuild <= 1),
    ]


def _render(measured: Measured, times: int) -> str:
    engine = _docker("version", "--format", "{{.Server.Version}}").strip()
    head = (
        f"fnship {version('fnship')}, {dt.datetime.now(dt.UTC).date()}, on {machine()}; Docker "
        f"{engine}, base {_BASE} made by debootstrap. Medians of {times}."
    )
    bars = [(each.what, each.bar, each.measured, each.verdict) for each in _judge(measured)]
    times_taken = [
        ("first build, without a cache", f"{measured.first_build:.1f} s"),
        ("code-only rebuild", f"{median(measured.rebuilds):.2f} s"),
        ("docker run --detach of an empty container", f"{median(measured.empty):.2f} s"),
        ("docker run until ready", f"{median(measured.ready):.2f} s"),
        ("docker stop", f"{median(measured.stop):.2f} s"),
    ]
    parts = sorted(measured.parts.items(), key=lambda each: -each[1])
    rest = measured.over_base - sum(measured.parts.values())
    sizes = [(name, f"{size / _MB:.2f} MB") for name, size in parts if size >= _MB / 100]
    small = sum(size for _, size in parts if size < _MB / 100)
    sizes.append(("the function, links and what is smaller", f"{(rest + small) / _MB:.2f} MB"))
    return "\n\n".join(
        (
            head,
            table(("bar", "wanted", "measured", "met"), bars),
            table(("what", "took"), times_taken),
            table(("what takes the space, compiled bytecode included", "size"), sizes),
        )
    )


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _docker(*arguments: str, check: bool = True) -> str:
    program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    return _run(program, *arguments, env={**os.environ, "DOCKER_BUILDKIT": "1"}, check=check)


def _run(*command: str, env: dict[str, str], check: bool = True) -> str:
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        raise MissingTool(f"{command[0]} is missing") from exc
    if check and done.returncode:
        raise BenchmarkError(f"{' '.join(command[:4])} …: {(done.stdout + done.stderr)[-800:]}")
    return done.stdout


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
