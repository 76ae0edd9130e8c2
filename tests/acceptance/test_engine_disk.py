"""A full disk, which is a small one of the test's own."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_command import Answer, EngineCommand, engine_command, function, until

from fnship import contract
from fnship.function.log_form import FormPart, write_form


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        why = f"a file system cannot be mounted here: {mounted.stderr.strip()}"
        if os.environ.get("FNSHIP_REQUIRE_ALL") == "1":
            pytest.fail(why)
        pytest.skip(why)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave nothing free."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    return ballast


def test_a_full_disk_is_never_a_success(disk: Path) -> None:
    headers: dict[str, str] = {}
    accepted: list[str] = []

    with function() as called, engine_command(disk / "data") as engine:
        engine.put("f", called.url, retry={"max_attempts": 3, "first_delay": 0.05})

        def submit(payload: Any) -> Answer:
            answer = engine.call("POST", "/v1/functions/f/invocations", payload)
            if answer.status == 202:
                accepted.append(answer.headers["Location"])
            return answer

        assert submit({"wait": True}).status == 202  # in flight while the disk fills
        until(lambda: called.calls == 1)
        headers.update(called.headers[0])
        for number in range(20):
            assert submit({"n": number}).status == 202
        ballast = fill(disk)
        text = "x" * 20_000
        refusals = []
        for number in range(400):
            answer = submit({"n": number, "text": text})
            if answer.status != 202:
                assert answer.status == 507, answer.json
                answer.assert_problem(507, "full")
                refusals.append(answer)
            if len(refusals) == 20:
                break
        assert len(refusals) == 20

        log, state = upload(engine, headers, text * 20), put(engine, headers, "k", text)
        assert (log.status, state.status) == (507, 507), (log.body, state.body)
        assert engine.call("GET", "/v1/activities?limit=2").status == 200
        called.gate.set()  # what is in flight ends while nothing can be recorded

        ballast.unlink()
        for place in accepted:
            until(lambda place=place: engine.call("GET", place).json["status"] == "succeeded")
        assert submit({"n": 0}).status == 202
        listed = engine.call("GET", "/v1/activities?limit=500").json["items"]
        assert len(listed) == len(accepted)  # none is there that was refused
        assert engine.end() == 0
        assert "Traceback" not in "".join(engine.said)

    for name in ("engine.sqlite", "durable.sqlite"):
        with contextlib.closing(sqlite3.connect(disk / "data" / name)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def upload(engine: EngineCommand, headers: dict[str, str], text: str) -> Answer:
    kind, body = write_form([FormPart(text.encode())])
    path = headers[contract.FILE_UPLOAD] + "?append=true"
    token = headers[contract.WORKFLOW_TOKEN]
    return engine.call("POST", path, body, {"Content-Type": kind, contract.WORKFLOW_TOKEN: token})


def put(engine: EngineCommand, headers: dict[str, str], key: str, value: str) -> Answer:
    names = ("organization_id", "project_id", "environment_id")
    body = {"scope": dict.fromkeys(names, "default"), "key": key, "value": value, "version": 0}
    sent = {contract.STATE_TOKEN: headers[contract.STATE_TOKEN]}
    return engine.call("PUT", "/functions/state", body, sent)
