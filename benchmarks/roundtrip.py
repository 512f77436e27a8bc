"""How fast one can talk to a workflow: a signal in, and its effect seen by a query.

First from the worker's own process, then from another one that reaches the run through the file. A
query is answered from committed state only, so a round trip holds at least one commit.
"""

import time
from pathlib import Path

from benchmarks._catalogue import Figures
from benchmarks._lanes import percentile
from benchmarks._place import store
from benchmarks._process import finish, start_role
from everlong import Client, Query, Signal, Worker, workflow

WARM_UP = 10
HANG_UP = -1

ping = Signal("roundtrip_ping", int)
pong = Query("roundtrip_pong", int)


@workflow
async def roundtrip_echo() -> None:
    heard = HANG_UP

    @pong.handler
    def _() -> int:
        return heard

    while (number := await ping.receive()) != HANG_UP:
        heard = number


async def measure(folder: Path, size: int) -> Figures:
    async with Client.connect(store(folder)) as client, Worker(client):
        here = await _talk(client, "here", size)
        there = await finish(await start_role("roundtrip.talk_from_outside", folder, size))
    return {**here, **{f"other_process_{name}": value for name, value in there.items()}}


async def talk_from_outside(folder: Path, size: int) -> Figures:
    """The other process: a client without a worker."""
    async with Client.connect(store(folder)) as client:
        return await _talk(client, "there", size)


async def _talk(client: Client, workflow_id: str, trips: int) -> Figures:
    handle = await client.start(roundtrip_echo, id=workflow_id)

    async def trip(number: int) -> float:
        began = time.perf_counter()
        await handle.signal(ping, number)
        while await handle.query(pong) != number:
            pass
        return time.perf_counter() - began

    for number in range(WARM_UP):
        await trip(number)
    took_s = [await trip(WARM_UP + number) for number in range(trips)]
    await handle.signal(ping, HANG_UP)
    await handle.result()
    return {"round_trips_per_s": trips / sum(took_s), "p50_ms": percentile(took_s, 50) * 1_000}
