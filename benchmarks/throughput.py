"""How many small workflows a second: start, one activity, result; 200 in flight.

Client and worker share the process, as in the embedded default. A workflow's latency is taken from
before its start is asked for until its result is here, and is mostly waiting for the other 199.
"""

import time
from pathlib import Path

from benchmarks._catalogue import Figures
from benchmarks._lanes import IN_FLIGHT, in_lanes, percentile
from benchmarks._place import store
from everlong import Client, Worker, activity, workflow


@activity
async def throughput_double(number: int) -> int:
    return 2 * number


@workflow
async def throughput_doubled(number: int) -> int:
    return await throughput_double(number)


async def measure(folder: Path, size: int) -> Figures:
    async with Client.connect(store(folder)) as client, Worker(client):
        await _latencies_s(client, IN_FLIGHT)  # warm-up
        began = time.perf_counter()
        latencies_s = await _latencies_s(client, size)
        elapsed_s = time.perf_counter() - began
    return {
        "workflows_per_s": size / elapsed_s,
        "p50_ms": percentile(latencies_s, 50) * 1_000,
        "p99_ms": percentile(latencies_s, 99) * 1_000,
    }


async def _latencies_s(client: Client, count: int) -> list[float]:
    latencies_s: list[float] = []

    async def one(number: int) -> None:
        began = time.perf_counter()
        handle = await client.start(throughput_doubled, number)
        assert await handle.result() == 2 * number
        latencies_s.append(time.perf_counter() - began)

    await in_lanes(count, one)
    return latencies_s
