"""``fnship run --image``: runs an image as it would be run in production, until Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from fnship.cli.output import Unreachable, complain, note
from fnship.errors import UsageError
from fnship.image.container import find_builder
from fnship.image.running import (
    RUNNERS,
    Container,
    Ended,
    Limits,
    container_port,
    start,
    stop_grace,
)

__all__ = ["run_image"]

_PORT: Final = 8080
_READY_WITHIN: Final = 120.0  # seconds for start() to finish and ready() to say yes
_VARIABLE: Final = re.compile(r"[^=\x00]+(=[^\x00]*)?")
_KILLED: Final = 137  # 128 + SIGKILL


def run_image(
    image: str, *, port: int | None, env: Sequence[str], limits: Limits, engine: str | None
) -> int:
    """Run `image` until Ctrl-C, SIGTERM, or its own end.

    Args:
        image: What to run.
        port: On the loopback address; 8080 by default, 0 for any free one.
        env: Variables, ``NAME=value``, or ``NAME`` for the one of this environment.
        limits: What it may use.
        engine: One of `RUNNERS`; what is there by default.

    Returns:
        The exit status: 0 where it was stopped and ended well, 1 where it ended badly.

    Raises:
        UsageError: It cannot be run.
        Unreachable: It did not become ready.
    """
    _check(env, limits)
    builder = find_builder(engine, os.environ, of=RUNNERS)
    for problem in builder.passed_over:
        note(f"fnship: {problem}: running with {builder.kind}")
    known = builder.inspect(image)
    if known is None:
        raise UsageError(
            f"{builder.kind} has no image {image} here. Build it with: fnship build -t {image}"
        )
    variables = {**known.env, **_given(env)}
    grace = stop_grace(variables)
    with _interrupted_by_sigterm():
        container = start(
            builder,
            image,
            port=_PORT if port is None else port,
            inner_port=container_port(variables),
            env=env,
            limits=limits,
            grace=grace,
        )
        following = container.follow()
        try:
            return _watch(container, following, image, limits, grace)
        finally:
            container.remove()
            following.wait()


def _check(env: Sequence[str], limits: Limits) -> None:
    for each in env:
        if not _VARIABLE.fullmatch(each):
            raise UsageError(f"--env {each.partition('=')[0]!r} is no variable: write NAME=VALUE")
    limits.check("--")


def _given(env: Sequence[str]) -> dict[str, str]:
    """What `env` sets, the variables that it only names included."""
    pairs = (each.partition("=") for each in env)
    return {name: value if sign else os.environ.get(name, "") for name, sign, value in pairs}


def _watch(
    container: Container,
    following: subprocess.Popen[bytes],
    image: str,
    limits: Limits,
    grace: float,
) -> int:
    stopped = False
    try:
        answer = container.wait_until_ready(following, _READY_WITHIN)
        if answer is not None:
            raise Unreachable(f"{image} did not become ready in {_READY_WITHIN:.0f} s: {answer}")
        if following.poll() is None:
            note(f"fnship: {image} is ready on {container.url}")
        following.wait()
    except KeyboardInterrupt:
        stopped = True
        _stop(container, following, grace)
    ended = container.ended()
    if ended is None:
        complain(f"{image} was removed by something else")
        return 1
    return _verdict(ended, image, limits, stopped=stopped)


def _stop(container: Container, following: subprocess.Popen[bytes], grace: float) -> None:
    try:
        note(f"fnship: stopping, which may take {grace:.0f} s; press Ctrl-C again to stop now")
        container.stop(grace)
    except KeyboardInterrupt:
        container.kill()
    following.wait()


def _verdict(ended: Ended, image: str, limits: Limits, *, stopped: bool) -> int:
    if ended.out_of_memory and ended.status:
        complain(
            f"{image} was killed, as it needed more than {limits.memory} of memory: "
            "allow it more with --memory, or run fewer workers with --env GUNICORN_WORKERS=1"
        )
        return 1
    if stopped and ended.status == _KILLED:
        complain(f"{image} did not finish in time, and was killed")
        return 1
    if ended.status:
        complain(f"{image} ended with status {ended.status}; its log says why")
        return 1
    if not stopped:
        note(f"fnship: {image} ended by itself")
    return 0


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that the container is stopped then too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
