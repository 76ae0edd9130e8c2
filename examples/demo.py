"""What ``make demo`` runs: a new function, served, called, and left running to play with."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, TextIO

from fnship.testing import Engine

START_SECONDS = 30
REQUEST = {"name": "World"}


def main() -> int:
    """Run the demo. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the first call")
    once = parser.parse_args().once
    # A terminal's Ctrl-C reaches the server too; a SIGTERM to us alone must reach it as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="fnship-demo-") as folder:
        function = Path(folder) / "hello"
        step("A new function:", f"fnship new {function}")
        fnship("new", str(function), check=True)
        show("function/handler.py", (function / "function" / "handler.py").read_text())
        port = free_port()
        step("Serve it:", f"fnship run {function} --port {port}")
        log = Path(folder) / "server.log"
        with log.open("w") as output:
            server = start(function, port, output)
            try:
                return call_and_wait(server, port, log, once=once)
            except KeyboardInterrupt:
                return 0
            finally:
                server.terminate()
                server.wait()


def call_and_wait(server: subprocess.Popen[bytes], port: int, log: Path, *, once: bool) -> int:
    """Call the function with metadata, show what went in and out, and stay up unless told not."""
    url = f"http://127.0.0.1:{port}"
    if not ready(url, server):
        print(log.read_text(), file=sys.stderr)
        print("demo: the function did not start; its output stands above", file=sys.stderr)
        return 1
    step("Call it, as an engine would:", "POST / with metadata, and a place for its log")
    with Engine() as engine:
        headers = engine.headers(
            activity_id="demo-1", project_id="demo", environment_name="staging"
        )
        answer = post(url, REQUEST, headers)
        lines = engine.wait_for_lines("demo-1", 1)
    show("in: the body", json.dumps(REQUEST))
    show("in: some of the headers", "\n".join(f"{key}: {headers[key]}" for key in SHOWN))
    show("out: the log that the engine received", "\n".join(lines))
    show("out: the answer", json.dumps(answer, indent=2))
    if once:
        print("\nThat is all of it. Without ONCE=1 the function stays up, for you to call.")
        return 0
    print(f"\nIt is up at {url}. Try, in another terminal:\n")
    print(f"    curl {url} -d '{json.dumps(REQUEST)}'\n")
    print("Its log follows; Ctrl-C ends it.\n", flush=True)
    follow(server, log)
    return 0


SHOWN = ("X-Activity-ID", "X-Project-ID", "X-Environment-Name", "X-Engine-Endpoint")


def fnship(*arguments: str, check: bool) -> None:
    """Run a fnship command."""
    subprocess.run([sys.executable, "-m", "fnship", *arguments], check=check)


def start(function: Path, port: int, output: TextIO) -> subprocess.Popen[bytes]:
    """Start the development server, in a session of its own so that we decide when it ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "fnship", "run", str(function), "--port", str(port)],
        stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def ready(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the function says that it is ready."""
    for _ in range(START_SECONDS * 20):
        if server.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"{url}/_/ready", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    return False


def post(url: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    """Invoke the function."""
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def free_port() -> int:
    """A port that nobody listens on: 5000 where it can be had."""
    for wanted in (5000, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("there is no free port on 127.0.0.1")


def follow(server: subprocess.Popen[bytes], log: Path) -> None:
    """Print the server's log until it ends or Ctrl-C comes."""
    with log.open() as lines:
        lines.seek(0, os.SEEK_END)
        while server.poll() is None:
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
