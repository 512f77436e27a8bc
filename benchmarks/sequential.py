"""What one step costs: activities one after the other in one workflow, nothing else going on.

No batching can help here: each completion is committed before the next activity begins.
"""

import time
from pathlib import Path
from statistics import median

from benchmarks._catalogue import Figures
from benchmarks._place import store
from everlong import Client, Worker, activity, workflow

WORKFLOWS = 5


@activity
async def sequential_double(number: int) -> int:
    return 2 * number


@workflow
async def sequential_sum(activities: int) -> int:
    total = 0
    for number in range(activities):
        total += await sequential_double(number)
    return total


async def measure(folder: Path, size: int) -> Figures:
    async with Client.connect(store(folder)) as client, Worker(client):
        await _elapsed_s(client, size)  # warm-up
        return {
            "ms_per_activity": median([await _elapsed_s(client, size) for _ in range(WORKFLOWS)])
            * 1_000
            / size
        }


async def _elapsed_s(client: Client, activities: int) -> float:
    began = time.perf_counter()
    assert await client.run(sequential_sum, activities) == activities * (activities - 1)
    return time.perf_counter() - began
