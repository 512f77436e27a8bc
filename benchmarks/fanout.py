"""How wide one workflow can go: activities in one gather, from the start to the summed result."""

import asyncio
import time
from pathlib import Path

from benchmarks._catalogue import Figures
from benchmarks._place import store
from everlong import Client, Worker, activity, workflow

WARM_UP = 100


@activity
async def fanout_double(number: int) -> int:
    return 2 * number


@workflow
async def fanout_sum(activities: int) -> int:
    return sum(await asyncio.gather(*(fanout_double(number) for number in range(activities))))


async def measure(folder: Path, size: int) -> Figures:
    async with Client.connect(store(folder)) as client, Worker(client):
        await _elapsed_s(client, WARM_UP)
        return {"activities_per_s": size / await _elapsed_s(client, size)}


async def _elapsed_s(client: Client, activities: int) -> float:
    began = time.perf_counter()
    assert await client.run(fanout_sum, activities) == activities * (activities - 1)
    return time.perf_counter() - began
