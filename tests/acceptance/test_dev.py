"""``fnship dev``: a function with an engine around it, as a process."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli_process import LIMIT, command, environment, fnship, write_function
from engine_command import until

HANDLER = """
import os

def handle(logger, request):
    print("written by the function")
    logger.info("logged by the function")
    return {"pid": os.getpid(), "says": SAYS}
"""


class Dev:
    """A ``fnship dev`` that runs.

    Attributes:
        process: The process.
        shown: What it wrote to stdout so far.
        said: What it wrote to stderr so far.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.shown: list[str] = []
        self.said: list[str] = []
        streams = ((process.stdout, self.shown), (process.stderr, self.said))
        self._readers = [threading.Thread(target=to.extend, args=(of,)) for of, to in streams]
        for reader in self._readers:
            reader.start()

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.shown)

    def end(self) -> int:
        """Press Ctrl-C, and wait for the end. Returns the status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        status = self.process.wait(LIMIT)
        for reader in self._readers:
            reader.join(LIMIT)
        return status


@contextmanager
def dev(folder: Path, *arguments: object, cwd: Path | None = None) -> Iterator[Dev]:
    """Run ``fnship dev`` in a process group of its own, as a shell does."""
    process = subprocess.Popen(
        command("dev", folder, "--port", 0, *arguments),
        cwd=cwd or folder.parent,
        env=environment(PYTHONIOENCODING="ascii"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        process_group=0,
    )
    with process:
        running = Dev(process)
        try:
            until(lambda: any("call it:" in line for line in running.said))
            yield running
        finally:
            running.end()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_function_is_called_shown_reloaded_and_stopped(tmp_path):
    folder = write_function(tmp_path / "My Function", HANDLER.replace("SAYS", '"first"'))
    call = ("activities", "invoke", "my-function", "--data-folder", folder / ".fnship")
    with dev(folder) as running:
        [said] = re.findall(r"call it: fnship (.*)\n", "".join(running.said))
        assert shlex.split(said) == [*map(str, call), "--wait", "10"]
        first = fnship(*call, "--wait", "30s", cwd=tmp_path)
        assert (first.status, first.json["says"]) == (0, "first")
        until(lambda: running.shows("written by the function"))
        until(lambda: running.shows("logged by the function"))

        handler = folder / "function" / "handler.py"
        handler.write_text(HANDLER.replace("SAYS", '"Ærø €"').replace("written", "wrïtten"))
        until(lambda: fnship(*call, "--wait", "30s", cwd=tmp_path).json["says"] == "Ærø €")
        until(lambda: running.shows("wrïtten by the function"))
        last = fnship(*call, "--wait", "30s", cwd=tmp_path).json["pid"]
        assert last != first.json["pid"]
        assert is_alive(last)
        assert running.end() == 0
    until(lambda: not is_alive(last))
    assert not is_alive(first.json["pid"])
    assert "Traceback" not in "".join(running.said)
    assert not (folder / ".fnship" / "url").exists()


def test_in_its_folder_and_below_the_commands_find_it(tmp_path):
    folder = write_function(tmp_path / "hello", HANDLER.replace("SAYS", "1"))
    call = ("activities", "invoke", "hello", "--wait", "30s")
    with dev(folder, cwd=folder) as running:
        [said] = re.findall(r"call it: fnship (.*)\n", "".join(running.said))
        assert said == "activities invoke hello --wait 10"
        for cwd in (folder, folder / "function"):
            assert fnship(*call, cwd=cwd).status == 0
        # What the environment says goes before.
        ended = fnship(*call, cwd=folder, env={"FNSHIP_ENGINE": "http://127.0.0.1:1"})
        assert "no engine answers at http://127.0.0.1:1" in ended.stderr
        empty = {"FNSHIP_DATA": str(tmp_path), "FNSHIP_ENGINE": "http://127.0.0.1:1"}
        assert fnship(*call, cwd=folder, env=empty).status == 3
        assert running.end() == 0
    assert "127.0.0.1:8700" in fnship(*call, cwd=folder, env={"XDG_DATA_HOME": "."}).stderr


def test_a_folder_without_a_function(tmp_path):
    fnship("dev", tmp_path, "--port", 0, cwd=tmp_path).assert_mistake(
        "there is no function/handler"
    )
    assert list(tmp_path.iterdir()) == []
