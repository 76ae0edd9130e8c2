"""``fnship run``: a server that stays up through every mistake, and mends itself at a save."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from server_process import Reply, ServerProcess, serving, until

RUN = ["-P", "-m", "fnship", "run"]


def handler(value: str, before: str = "") -> str:
    return f"{before}def handle(logger, request):\n    return {{'value': '{value}'}}\n"


class Editor:
    """Saves files, and waits for what the server then answers."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def save(self, text: str, name: str = "handler.py") -> None:
        (self.server.folder / "function" / name).write_text(text)

    def call(self) -> Reply:
        """One call; again, where its connection met a process that was just ending."""
        while True:
            try:
                return self.server.call({})
            except ConnectionError:
                assert self.server.process.poll() is None

    def until_value(self, value: str) -> None:
        def answered() -> bool:
            reply = self.call()
            return reply.status == 200 and reply.json == {"value": value}

        until(answered, f"the value {value!r}")

    def until_said(self, *parts: str) -> None:
        """The mistake is answered to every call, and said where the server was started."""

        def answered() -> bool:
            reply = self.call()
            return reply.status == 500 and all(each in reply.json["message"] for each in parts)

        until(answered, f"the mistake {parts}")
        assert self.call().json["error_code"] == 2
        ready = self.server.ready()
        assert ready.status == 503
        assert parts[0] in ready.json["message"]
        until(lambda: parts[0] in self.server.stderr, "the same on stderr")


def test_through_every_mistake(tmp_path: Path) -> None:
    with serving(tmp_path, handler("one"), command=[*RUN, "--reload"]) as server:
        editor = Editor(server)
        editor.until_value("one")
        editor.save(handler("two"))
        editor.until_value("two")
        editor.save("def handle(logger, request)\n    return {}\n")
        editor.until_said("it has a syntax error", "handler.py:1: ")
        editor.save(handler("three"))
        editor.until_value("three")
        editor.save("import no_such_thing\n" + handler("x"))
        editor.until_said("'no_such_thing' is not installed", "handler.py:1: ")
        editor.save("def other(): pass\n")
        editor.until_said("there is no 'handle'")
        editor.save(handler("four", "from . import words\n"))
        editor.until_said("words")
        editor.save("", "words.py")
        editor.until_value("four")
        editor.save(handler("x", "import sys\nsys.exit(3)\n"))
        editor.until_said("SystemExit: 3", "handler.py:2: ")
        editor.save(handler("five", "def start():\n    1 / 0\n"))
        editor.until_said("start() failed with ZeroDivisionError", "handler.py:2: ")
        editor.save(handler("six"))
        editor.until_value("six")
        assert "Traceback" not in server.stderr
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_a_save_within_the_same_second(tmp_path: Path) -> None:
    """Bytecode is told from older source by its size and second alone."""
    env = {"PYTHONDONTWRITEBYTECODE": ""}
    with serving(tmp_path, handler("one"), command=[*RUN, "--reload"], **env) as server:
        editor = Editor(server)
        editor.until_value("one")
        file = tmp_path / "function" / "handler.py"
        before = file.stat()
        editor.save(handler("two"))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        editor.until_value("two")


@pytest.mark.parametrize("arguments", [[], ["--reload"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_and_leaves_nothing_behind(
    tmp_path: Path, arguments: list[str], number: signal.Signals
) -> None:
    text = "import os\ndef handle(logger, request):\n    return {'pid': os.getpid()}\n"
    with serving(tmp_path, text, command=[*RUN, *arguments]) as server:
        pid = server.call({}).json["pid"]
        assert (pid == server.process.pid) is not bool(arguments)
        server.signal(number)
        assert server.wait() == 0

        def gone() -> bool:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            return False

        until(gone, "the function's process")
        assert "Traceback" not in server.stderr


def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    text = (
        "import os\ndef handle(logger, request):\n"
        "    return os._exit(3) if 'die' in request else {'value': 'alive'}\n"
    )
    with serving(tmp_path, text, command=[*RUN, "--reload"]) as server:
        editor = Editor(server)
        editor.until_value("alive")
        with server.send_and_close({"die": True}) as connection:
            assert connection.recv(100) == b""
        until(lambda: "ended with status 3" in server.stderr, "its end")
        editor.until_value("alive")  # without a save


def test_lines_are_readable_and_calls_are_listed(tmp_path: Path) -> None:
    text = "def handle(logger, request):\n    logger.info('two\\nlines')\n    return {}\n"
    with serving(tmp_path, text, command=RUN) as server:
        server.call({})
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert " INFO    handler.py:2 two\nlines\n" in server.stdout
        assert " INFO    access POST / 200 " in server.stdout
