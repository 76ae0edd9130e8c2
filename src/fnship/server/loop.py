"""Runs a server's event loop to its end, whatever the tasks of handlers do to it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ["run_loop"]

_THREADS_GRACE: Final = 3.0  # seconds for threads of asyncio.to_thread that are still at work


def run_loop(
    main: Coroutine[Any, Any, None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    say: Callable[[str], None],
    status: Callable[[], int] = lambda: 0,
) -> None:
    """Run `main`, and come back when it is done.

    A ``sys.exit()`` in a task that a handler started would end the loop, and every other request
    with it; here it ends that task alone. Threads that a handler left behind do not hold up the
    end of the process.

    Args:
        main: The server.
        loop_factory: Makes the event loop; asyncio's own where None.
        say: Told of what is passed over.
        status: What the process ends with where it must end from here.
    """
    loop = (loop_factory or asyncio.new_event_loop)()
    asyncio.set_event_loop(loop)
    try:
        task = loop.create_task(main)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as exc:
                if task.done():
                    raise
                say(f"{type(exc).__name__} in a task that a handler started; it ends that task")
        task.result()
        loop.run_until_complete(loop.shutdown_asyncgens())
        closing = loop.create_task(loop.shutdown_default_executor())
        loop.run_until_complete(asyncio.wait((closing,), timeout=_THREADS_GRACE))
        if not closing.done():
            say("a thread that a handler started does not end; the process ends without it")
            sys.stdout.flush()
            os._exit(status())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
