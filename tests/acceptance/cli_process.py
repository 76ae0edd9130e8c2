"""The command line as a process, as people and scripts meet it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fnship.settings import Settings

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {field.metadata["variable"] for field in dataclasses.fields(Settings)}
LIMIT = 60  # seconds until a process that hangs fails its test


@dataclasses.dataclass
class Ended:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def assert_mistake(self, said: str, status: int = 2) -> None:
        """One clear line on stderr, a status, and nothing else."""
        assert "Traceback" not in self.stderr
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("fnship: error: ")
        assert re.search(said, lines[0]), lines[0]
        assert self.stdout == ""
        assert self.status == status


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would set up a function, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**kept, **more}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "fnship", *map(str, arguments)]


def fnship(
    *arguments: object, cwd: Path, stdin: str | None = None, env: dict[str, str] | None = None
) -> Ended:
    """Run a command to its end."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**env or {}),
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@contextmanager
def running(
    *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``fnship run``, and give its URL and its process; stop it in the end."""
    process = subprocess.Popen(
        command("run", *arguments),
        cwd=cwd,
        env=environment(**{"PORT": "0", **(env or {})}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            seen = []
            for line in process.stderr:
                seen.append(line)
                if match := re.search(r"fnship: serving .* on (http://\S+)", line):
                    yield match[1], process
                    break
            else:
                raise AssertionError("".join(seen))
        finally:
            process.terminate()
            process.communicate(timeout=LIMIT)


def write_function(folder: Path, handler: str, **more: str) -> Path:
    """A function folder whose handler.py is `handler`; `more` are further files of function/."""
    (folder / "function").mkdir(parents=True)
    (folder / "function" / "__init__.py").touch()
    (folder / "function" / "handler.py").write_text(handler)
    for name, text in more.items():
        (folder / "function" / f"{name}.py").write_text(text)
    return folder
