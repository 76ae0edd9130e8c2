"""Workflows with one activity each, on Temporal's development server with a file as its store."""

import asyncio
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker


@activity.defn
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@workflow.defn
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(
            greet, name, start_to_close_timeout=timedelta(seconds=30)
        )


async def measure(address: str, count: int, clients: int) -> float:
    client = None
    for _ in range(300):
        try:
            client = await Client.connect(address)
            break
        except Exception:
            await asyncio.sleep(0.1)
    assert client is not None, "the server does not start"
    async with Worker(client, task_queue="bench", workflows=[Greeting], activities=[greet]):
        gate = asyncio.Semaphore(clients)

        async def one(number: int, prefix: str) -> None:
            async with gate:
                name = f"{prefix}-{number}"
                handle = await client.start_workflow(
                    Greeting.run, "Ada", id=name, task_queue="bench"
                )
            await handle.result()

        await asyncio.gather(*(one(number, "warm-up") for number in range(10)))
        began = time.perf_counter()
        await asyncio.gather(*(one(number, "run") for number in range(count)))
        return count / (time.perf_counter() - began)


def main() -> None:
    data, count, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("temporal")),
            *("server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "never"),
            *("--port", str(port), "--db-filename", data),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        print(asyncio.run(measure(f"127.0.0.1:{port}", count, clients)))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
