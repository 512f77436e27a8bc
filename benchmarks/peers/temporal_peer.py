"""The workloads on Temporal: run by its own Python as `temporal_peer.py BENCHMARK FOLDER SIZE`.

The dev server runs beside it with a database file, on ports of its own; client and worker share
this process. The server leaves SQLite on its rollback journal; WAL with synchronous=FULL makes it
faster and is as durable, so it gets that. The workflow sandbox is off, which also makes it faster.
"""

# The type checkers run without Temporal's SDK installed.
# mypy: disable-error-code="import-not-found, untyped-decorator"
# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownArgumentType=false, reportUntypedClassDecorator=false
# pyright: reportUnknownParameterType=false

import asyncio
import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

IN_FLIGHT = 200
START_TIMEOUT_S = 30.0
QUEUE = "bench"
TIMEOUT = timedelta(seconds=60)


@activity.defn
async def double(n: int) -> int:
    return 2 * n


async def doubling(n: int) -> int:
    return int(await workflow.execute_activity(double, n, start_to_close_timeout=TIMEOUT))


@workflow.defn
class Doubled:
    @workflow.run
    async def run(self, n: int) -> int:
        return await doubling(n)


@workflow.defn
class OneByOne:
    @workflow.run
    async def run(self, activities: int) -> int:
        total = 0
        for n in range(activities):
            total += await doubling(n)
        return total


@workflow.defn
class AllAtOnce:
    @workflow.run
    async def run(self, activities: int) -> int:
        return sum(await asyncio.gather(*(doubling(n) for n in range(activities))))


async def run(client: Client, workflow_class: Any, n: int, id: str) -> int:
    return int(await client.execute_workflow(workflow_class.run, n, id=id, task_queue=QUEUE))


async def throughput(client: Client, size: int) -> dict[str, float]:
    latencies_s: list[float] = []
    numbers = iter(range(size))

    async def lane() -> None:
        for n in numbers:
            began = time.perf_counter()
            assert await run(client, Doubled, n, f"doubled-{n}") == 2 * n
            latencies_s.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
    elapsed_s = time.perf_counter() - began
    latencies_s.sort()
    return {
        "workflows_per_s": size / elapsed_s,
        "p50_ms": latencies_s[size // 2] * 1_000,
        "p99_ms": latencies_s[size * 99 // 100] * 1_000,
    }


async def sequential(client: Client, size: int) -> dict[str, float]:
    began = time.perf_counter()
    assert await run(client, OneByOne, size, "one-by-one") == size * (size - 1)
    return {"ms_per_activity": (time.perf_counter() - began) * 1_000 / size}


async def fanout(client: Client, size: int) -> dict[str, float]:
    began = time.perf_counter()
    assert await run(client, AllAtOnce, size, "all-at-once") == size * (size - 1)
    return {"activities_per_s": size / (time.perf_counter() - began)}


WORKLOADS: dict[str, Callable[[Client, int], Awaitable[dict[str, float]]]] = {
    "throughput": throughput,
    "sequential": sequential,
    "fanout": fanout,
}


@asynccontextmanager
async def dev_server(folder: Path) -> AsyncGenerator[str]:
    """The server, in the process group that the harness ends, and ended here when all goes well."""
    port = free_port()
    server = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("temporal")),
            *("server", "start-dev", "--headless", "--log-level", "error"),
            *("--ip", "127.0.0.1", "--port", str(port)),
            *("--db-filename", str(folder / "temporal.db")),
            *("--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=2"),
        ],
        stdout=sys.stderr,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def connect(address: str) -> Client:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def measure(benchmark: str, folder: Path, size: int) -> dict[str, float]:
    async with dev_server(folder) as address:
        client = await connect(address)
        async with Worker(
            client,
            task_queue=QUEUE,
            workflows=[Doubled, OneByOne, AllAtOnce],
            activities=[double],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            await run(client, Doubled, 1, "warm-up")
            return await WORKLOADS[benchmark](client, size)


if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # As in the process that measures Everlong.
    found = asyncio.run(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
    print(json.dumps(found), flush=True)
