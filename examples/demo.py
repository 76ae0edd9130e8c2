"""What ``make demo`` runs: a new function with an engine around it, called in four ways."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

ORDERS = Path(__file__).with_name("orders")
START_SECONDS = 30


def main() -> int:
    """Run the demo. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the calls")
    once = parser.parse_args().once
    # A terminal's Ctrl-C reaches the engine too; a SIGTERM to us alone must reach it as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="fnship-demo-") as folder:
        function, data = Path(folder) / "orders", Path(folder) / "data"
        os.environ["FNSHIP_DATA"] = str(data)
        step("A new function:", f"fnship new {function}")
        fnship("new", str(function))
        handler = ORDERS / "function" / "handler.py"
        shutil.copy(handler, function / "function")
        show("function/handler.py, with something to do", handler.read_text())
        port = free_port()
        step("Serve it, with an engine around it:", f"fnship dev {function} --port {port}")
        log = Path(folder) / "engine.log"
        with log.open("w") as output:
            engine = start(function, data, port, output)
            try:
                return play(engine, function, log, once=once)
            except KeyboardInterrupt:
                return 0
            finally:
                engine.terminate()
                engine.wait()


def play(engine: subprocess.Popen[bytes], function: Path, log: Path, *, once: bool) -> int:
    """Call the function in every way, and stay up unless told not."""
    if not is_up(engine, log):
        print(log.read_text(), file=sys.stderr)
        print("demo: the engine did not start; its output stands above", file=sys.stderr)
        return 1
    print(log.read_text())
    invoke = ("activities", "invoke", "orders", "--wait", "30s", "--data")
    step("It asks to be run again after each item, and logs:", "3 items, 4 attempts")
    run(*invoke, '{"order": "o-1", "items": ["tea", "milk", "cups"]}', "--activity-id", "first")
    run("logs", "first")
    step("It keeps state:", "the next order counts on")
    run(*invoke, '{"order": "o-2", "items": ["tea"]}')
    run("state", "list", "--organization", "default", "--project", "default")
    step("It fails on demand:", "status 12, and a dead letter that can be replayed")
    run(*invoke, '{"order": "o-3", "items": ["gold"]}')
    run("activities", "dead")
    step("All that happened:", "newest first")
    run("activities", "list")
    if once:
        print("\nThat is all of it. Without ONCE=1 it stays up, for you to call.")
        return 0
    print("\nIt stays up. Try, in another terminal:\n")
    print(f"    export PATH={Path(sys.executable).parent}:$PATH")
    print(f"    export FNSHIP_DATA={os.environ['FNSHIP_DATA']}")
    print(f'    fnship {" ".join(invoke)} \'{{"order": "o-4", "items": ["tea"]}}\'')
    print("    fnship activities replay --dead\n")
    print(f"Edit {function}/function/handler.py, and it starts anew.")
    print("Its log follows; Ctrl-C ends it.\n", flush=True)
    follow(engine, log)
    return 0


def fnship(*arguments: str) -> None:
    """Run a fnship command, whatever it ends with."""
    subprocess.run([sys.executable, "-m", "fnship", *arguments], check=False)
    sys.stdout.flush()


def run(*arguments: str) -> None:
    """Show a fnship command, and run it."""
    shown = " ".join(f"'{each}'" if "{" in each else each for each in arguments)
    print(f"$ fnship {shown}", flush=True)
    fnship(*arguments)
    print(flush=True)


def start(function: Path, data: Path, port: int, output: TextIO) -> subprocess.Popen[bytes]:
    """Start the engine, in a session of its own so that we decide when it ends."""
    command = ["dev", str(function), "--data", str(data), "--port", str(port)]
    return subprocess.Popen(
        [sys.executable, "-m", "fnship", *command],
        stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def is_up(engine: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until the engine says that it listens."""
    for _ in range(START_SECONDS * 20):
        if "call it:" in log.read_text():
            return True
        if engine.poll() is not None:
            return False
        time.sleep(0.05)
    return False


def free_port() -> int:
    """A port that nobody listens on: 8700 where it can be had."""
    for wanted in (8700, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("there is no free port on 127.0.0.1")


def follow(engine: subprocess.Popen[bytes], log: Path) -> None:
    """Print the engine's log until it ends or Ctrl-C comes."""
    with log.open() as lines:
        lines.seek(0, os.SEEK_END)
        while engine.poll() is None:
            print(lines.read(), end="", flush=True)
            time.sleep(0.1)


def step(what: str, how: str) -> None:
    """Say what comes next."""
    print(f"\n── {what} {how}\n", flush=True)


def show(title: str, text: str) -> None:
    """Show a piece of text under a title."""
    print(f"{title}\n")
    for line in text.rstrip("\n").splitlines():
        print(f"    {line}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
