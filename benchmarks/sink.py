"""An engine's log upload, doing as little as it can, in a process of its own.

It answers 200 to every upload and counts them. fnship's testing engine would do too; this one
belongs to none of those measured and leaves more of the machine to them.
"""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self, cast

__all__ = ["LogSink"]

_STORED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class LogSink:
    """The sink's process, from the caller's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sink"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._port}"

    def uploads(self) -> int:
        """How many uploads with a log line in them have arrived."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", "/")
            return int(connection.getresponse().read())
        finally:
            connection.close()


async def _serve() -> None:
    import httptools

    uploads = 0

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit
            self.parser = httptools.HttpRequestParser(self)
            self.chunks: list[bytes] = []

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, chunk: bytes) -> None:
            self.chunks.append(chunk)

        def on_message_complete(self) -> None:
            nonlocal uploads
            if self.parser.get_method() == b"POST":
                uploads += b" msg=" in b"".join(self.chunks)
                self.chunks.clear()
                self.transport.write(_STORED)
            else:
                count = b"%d" % uploads
                head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(count)
                self.transport.write(head + count)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Should whoever started this be killed, its end of the pipe closes.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
