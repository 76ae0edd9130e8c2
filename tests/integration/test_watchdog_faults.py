"""The native watchdog over several workers, when those die, never start, or start late."""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from server_process import Ended, ended, until
from watchdogs import (
    HANDLER,
    NATIVE,
    Watched,
    children,
    free_port,
    lock_file_alone,
    steady,
    watched,
)

DIES_WHILE_BROKEN = (
    """\
import os
from pathlib import Path

with Path("tries").open("a") as tries:
    tries.write(".")
if Path("broken").exists():
    os._exit(1)
"""
    + HANDLER
)
"""Cannot be started for as long as a file is there."""

FIRST_AND_OTHERS = (
    HANDLER.replace("def start(", "def _start(")
    + """

def start(config):
    children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text()
    if int(children.split()[0]) == os.getpid():  # they are listed as they were born
        Path("first").touch()
        gate = Path("first.go")
    else:
        gate = Path("others.go")
    while not gate.exists():
        time.sleep(0.01)
"""
)
"""The first worker that starts waits for one file, and the others for another."""

SLOW_TO_IMPORT = (
    """\
import time
from pathlib import Path

Path("importing").touch()
while not Path("go").exists():
    time.sleep(0.01)
"""
    + HANDLER
)
"""Is not loaded before a file is there."""

SLOW_TO_TAKE_SIGNALS = """\
import time
import gunicorn.workers.base

init_process = gunicorn.workers.base.Worker.init_process


def slow_init_process(worker):
    time.sleep(0.5)
    init_process(worker)


gunicorn.workers.base.Worker.init_process = slow_init_process

from fnship import serve

serve()
"""

OUT_OF_MEMORY = "bytearray(1 << 40)"  # more than any machine has


def unable(folder: Path, files: str | dict[str, str], workers: int, **env: str) -> Ended:
    """Try to serve with the native watchdog, and wait for the end."""
    usual = {
        "WATCHDOG": "native",
        "suppress_lock": "true",
        "PORT": str(free_port()),
        "metrics_port": str(free_port()),
        "GUNICORN_WORKERS": str(workers),
    }
    return ended(folder, files, **{**usual, **env})


def error_lines(stderr: str) -> list[str]:
    """The lines that fnship itself says an error in."""
    return re.findall(r"^fnship: error: .*$", stderr, re.MULTILINE)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def is_replaced(server: Watched, victim: int, count: int) -> bool:
    workers = server.workers()
    return victim not in workers and len(workers) == count


class TestKilled:
    def test_only_the_requests_that_it_held_are_lost(self, tmp_path: Path) -> None:
        with watched(NATIVE, tmp_path, workers=3) as server:
            server.spread(3)
            calls = [server.hold(f"call{number}") for number in range(9)]
            victim = calls[0].wait_until_held()
            of_victim = [call for call in calls if call.wait_until_held() == victim]
            others = [call for call in calls if call not in of_victim]
            kill(victim)
            assert [call.answer() for call in of_victim] == [(0, b"")] * len(of_victim)
            assert [server.call({}).status for _ in range(20)] == [200] * 20
            until(lambda: is_replaced(server, victim, 3), "another worker")
            for call in others:
                call.release()
            assert [call.answer()[0] for call in others] == [200] * len(others)
            assert victim not in server.spread(3)
            assert server.stop() == 0

    @pytest.mark.parametrize("keep_alive", [False, True], ids=["fresh", "kept"])
    def test_under_load_no_more_is_lost_than_was_in_flight(
        self, tmp_path: Path, keep_alive: bool
    ) -> None:
        threads, kills = 6, 3
        with watched(NATIVE, tmp_path, workers=3, max_inflight="50") as server:
            server.spread(3)
            with steady(server, {"seconds": 0.02}, threads=threads, keep_alive=keep_alive) as load:
                for _ in range(kills):
                    load.wait_for(20)
                    victim = min(server.workers())
                    kill(victim)
                    until(functools.partial(is_replaced, server, victim, 3), "another worker")
                load.wait_for(20)
            assert set(load.statuses) == {200}
            assert len(load.lost) <= threads * kills
            # Their connections were closed; none had to wait until its patience ended.
            assert all(isinstance(exc, ConnectionError) for exc in load.lost), load.lost
            until(lambda: server.scrape().in_flight == 0, "nothing in flight")
            assert server.scrape().requests(code="200") >= len(load.statuses)

    def test_where_all_are_killed_requests_wait_for_the_next(self, tmp_path: Path) -> None:
        with watched(NATIVE, tmp_path, workers=2) as server:
            server.spread(2)
            for worker in server.workers():
                kill(worker)
            assert [server.call({}).status for _ in range(10)] == [200] * 10
            assert server.ready().status == 200
            server.spread(2)

    def test_while_another_starts_the_rest_take_all_requests(self, tmp_path: Path) -> None:
        gate = tmp_path / "go"
        gate.touch()
        with watched(NATIVE, tmp_path, workers=2, START_GATE=str(gate)) as server:
            (victim, _) = server.spread(2)
            gate.unlink()
            kill(victim)
            until(lambda: is_replaced(server, victim, 2), "another worker")
            assert {each.status for each in server.burst(16)} == {200}
            assert {server.ready().status for _ in range(10)} == {200}
            gate.touch()
            assert victim not in server.spread(2)

    def test_while_it_drains_the_rest_finish(self, tmp_path: Path) -> None:
        with watched(NATIVE, tmp_path, workers=2, healthcheck_interval="0") as server:
            server.spread(2)
            calls = [server.hold(f"call{number}") for number in range(8)]
            victim = calls[0].wait_until_held()
            others = [call for call in calls if call.wait_until_held() != victim]
            server.signal(signal.SIGTERM)
            kill(victim)
            assert calls[0].answer() == (0, b"")
            for call in others:
                call.release()
            assert [call.answer()[0] for call in others] == [200] * len(others)
            assert server.wait() == 0

    def test_a_handler_that_ends_its_process_takes_no_other_request(self, tmp_path: Path) -> None:
        with watched(NATIVE, tmp_path, workers=2) as server:
            server.spread(2)
            for _ in range(3):
                with pytest.raises(ConnectionError):
                    server.call({"kill": int(signal.SIGKILL)})
                assert [server.call({}).status for _ in range(10)] == [200] * 10
            server.spread(2)


class TestNeverStarts:
    @pytest.mark.parametrize(
        ("how", "workers"),
        [("os._exit(1)", 2), ("os._exit(0)", 5), ("os.kill(os.getpid(), 9)", 2)],
    )
    def test_several_that_end_at_import_end_the_whole(
        self, tmp_path: Path, how: str, workers: int
    ) -> None:
        end = unable(tmp_path, f"import os\n{how}\n{HANDLER}", workers)
        assert end.status == 2
        (line,) = error_lines(end.stderr)
        assert "memory limit" in line
        assert "Traceback" not in end.stderr

    @pytest.mark.parametrize(
        ("how", "status"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", -9)]
    )
    def test_the_only_one_ends_as_it_does(self, tmp_path: Path, how: str, status: int) -> None:
        assert unable(tmp_path, f"import os\n{how}\n{HANDLER}", 1).status == status

    @pytest.mark.parametrize("workers", [1, 3])
    def test_no_memory_at_import(self, tmp_path: Path, workers: int) -> None:
        end = unable(tmp_path, f"import os\n{OUT_OF_MEMORY}\n{HANDLER}", workers)
        assert end.status == 2
        end.assert_mistake("handler.py:2: .*MemoryError")

    @pytest.mark.parametrize("workers", [1, 3])
    def test_no_memory_in_start(self, tmp_path: Path, workers: int) -> None:
        handler = f"def start():\n    {OUT_OF_MEMORY}\n\n\nasync def handle(logger, request): ...\n"
        end = unable(tmp_path, handler, workers)
        assert end.status == 2
        (line,) = error_lines(end.stderr)
        assert "handler.py:2: start() failed with MemoryError" in line
        assert "Traceback" not in end.stderr

    def test_a_memory_limit_too_small_to_start_in(self, tmp_path: Path) -> None:
        """The handler's module lowers the limit, as a small container does from the beginning."""
        limits = (
            "import resource\n"
            "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), used + (8 << 20)))\n"
            "ballast = [bytes(1 << 20) for _ in range(64)]\n"
        )
        end = unable(tmp_path, limits + HANDLER, 2)
        assert end.status == 2
        (line,) = error_lines(end.stderr)
        assert "MemoryError" in line

    def test_while_one_serves_the_others_are_tried_again_and_again(self, tmp_path: Path) -> None:
        with watched(NATIVE, tmp_path, DIES_WHILE_BROKEN, workers=2) as server:
            (victim, _) = server.spread(2)
            broken, tries = tmp_path / "broken", tmp_path / "tries"
            broken.touch()
            before = len(tries.read_text())
            kill(victim)
            until(lambda: len(tries.read_text()) >= before + 3, "three tries")
            assert {each.status for each in server.burst(16)} == {200}
            assert server.process.poll() is None
            broken.unlink()
            assert victim not in server.spread(2)
            assert error_lines(server.stderr) == []

    def test_once_none_serves_they_are_the_end(self, tmp_path: Path) -> None:
        with watched(NATIVE, tmp_path, DIES_WHILE_BROKEN, workers=2) as server:
            workers = server.spread(2)
            (tmp_path / "broken").touch()
            for worker in workers:
                kill(worker)
            assert server.wait() == 2
            assert len(error_lines(server.stderr)) == 1
            assert "Traceback" not in server.stderr

    def test_those_beside_one_that_serves_are_no_reason_to_end(self, tmp_path: Path) -> None:
        """As where the memory limit is enough for some of them."""
        handler = (
            "import os\n"
            "try:\n"
            "    os.close(os.open('only', os.O_CREAT | os.O_EXCL))\n"
            "except FileExistsError:\n"
            "    with open('tries', 'a') as tries:\n"
            "        tries.write('.')\n"
            "    os._exit(1)\n"
        )
        tries = tmp_path / "tries"
        with watched(NATIVE, tmp_path, handler + HANDLER, workers=2) as server:
            until(lambda: tries.exists() and len(tries.read_text()) >= 3, "three tries")
            assert {each.status for each in server.burst(16)} == {200}
            assert server.stop() == 0


class TestStart:
    @pytest.mark.parametrize("workers", [2, 6])
    def test_sigterm_while_they_are_loaded_is_a_good_end(
        self, tmp_path: Path, workers: int
    ) -> None:
        handler = "import time\ntime.sleep(60)\n" + HANDLER
        with watched(NATIVE, tmp_path, handler, workers=workers, up=False) as server:
            until(lambda: len(children(server.process.pid)) == workers, "workers")
            assert server.stop() == 0
            assert server.stderr == ""

    def test_sigterm_reaches_a_worker_that_has_just_been_forked(self, tmp_path: Path) -> None:
        files = {"main.py": SLOW_TO_TAKE_SIGNALS, "function/handler.py": HANDLER}
        with watched(NATIVE, tmp_path, files, workers=2, up=False) as server:
            until(lambda: children(server.process.pid), "a worker")
            assert server.stop() == 0

    def test_sigterm_reaches_the_one_that_replaces_a_dead_one(self, tmp_path: Path) -> None:
        files = {"main.py": SLOW_TO_TAKE_SIGNALS, "function/handler.py": HANDLER}
        with watched(NATIVE, tmp_path, files, workers=2) as server:
            (victim, _) = server.spread(2)
            kill(victim)
            until(lambda: is_replaced(server, victim, 2), "another worker")
            assert server.stop() == 0

    @pytest.mark.parametrize("workers", [2, 4])
    def test_one_that_starts_later_takes_no_requests_until_it_has(
        self, tmp_path: Path, workers: int
    ) -> None:
        (tmp_path / "first.go").touch()
        with watched(NATIVE, tmp_path, FIRST_AND_OTHERS, workers=workers) as server:
            until(lambda: len(server.workers()) == workers, "workers")
            for _ in range(3):
                assert {each.status for each in server.burst(16)} == {200}
                assert {server.ready().status for _ in range(10)} == {200}
            (tmp_path / "others.go").touch()
            server.spread(2)

    def test_once_ready_has_said_yes_no_call_finds_it_starting(self, tmp_path: Path) -> None:
        """Though the first worker be the slowest of all."""
        (tmp_path / "others.go").touch()
        with watched(NATIVE, tmp_path, FIRST_AND_OTHERS, workers=2, up=False) as server:
            until(lambda: (tmp_path / "first").exists(), "the first")
            until(lambda: len(server.workers()) == 2, "workers")
            for _ in range(5):
                if server.is_up():
                    assert {each.status for each in server.burst(16)} == {200}
            (tmp_path / "first.go").touch()
            until(server.is_up, "ready")
            server.spread(2)

    def test_signals_that_ask_for_nothing_do_nothing(self, tmp_path: Path) -> None:
        with watched(NATIVE, tmp_path, workers=2) as server:
            workers = server.spread(2)
            for name in ("SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCHLD"):
                server.signal(getattr(signal, name))
                assert server.call({}).status == 200
                assert server.spread(2) == workers
                assert server.workers() == workers
            assert server.stop() == 0
            assert server.stderr.count("\n") == 1  # the greeting

    @pytest.mark.parametrize("workers", [1, 2])
    def test_no_lock_file_is_there_before_it_accepts(self, tmp_path: Path, workers: int) -> None:
        with lock_file_alone() as lock_file:
            lock_file.touch()  # as a killed server leaves it
            with watched(
                NATIVE, tmp_path, SLOW_TO_IMPORT, workers=workers, up=False, suppress_lock="false"
            ) as server:
                until((tmp_path / "importing").exists, "the import")
                assert not lock_file.exists()
                (tmp_path / "go").touch()
                until(server.is_up, "ready")
                assert lock_file.exists()
                assert server.stop() == 0
                assert not lock_file.exists()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_metrics_port_that_is_taken(self, tmp_path: Path, workers: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            end = unable(tmp_path, HANDLER, workers, metrics_port=str(port))
        end.assert_mistake(rf"port {port} .* is in use")

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_lock_file_that_cannot_be_written(self, tmp_path: Path, workers: int) -> None:
        with lock_file_alone() as lock_file:
            lock_file.symlink_to(tmp_path / "no" / "such" / "folder")
            end = unable(tmp_path, HANDLER, workers, suppress_lock="false")
        assert end.status == 2
        (line,) = error_lines(end.stderr)
        assert "/tmp/.lock" in line
        assert "suppress_lock" in line
        assert "Traceback" not in end.stderr

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_inflight", "-1"),
            ("max_inflight", "100000"),
            ("metrics_port", "http"),
            ("healthcheck_interval", "soon"),
            ("write_timeout", "-1s"),
            ("suppress_lock", "perhaps"),
        ],
    )
    def test_a_setting_that_is_none(self, tmp_path: Path, name: str, value: str) -> None:
        unable(tmp_path, HANDLER, 2, **{name: value}).assert_mistake(f"{name}='{value}'")
