"""A bulk job whose worker is killed again and again: everybody once, and nobody forgotten.

The worker dies when the job has come so far, so that it is found between finding and acting, in the
middle of a page, and between two pages.
"""

import asyncio
import random
import time
from collections import Counter

import pytest

from everlong import BulkJob, Client
from tests.chaos import evidence, flows
from tests.chaos.arena import FULL, Arena
from tests.proof.record import record

EVERYONE = 2_000 if FULL else 300
KILLS = 20 if FULL else 3
WORD = 7
HEARERS = "type = 'chaos_hearer'"


async def done_under_kills(arena: Arena, job: BulkJob) -> None:
    """The worker dies at random points of the job's way, and another one takes over."""
    points = sorted(random.randint(0, EVERYONE - 1) for _ in range(KILLS))
    worker = arena.worker()
    for point in points:
        while (await job.progress()).done < point:
            assert worker.is_alive, arena.told()
        await asyncio.sleep(random.random() * 0.02)  # tidy: waits because a kill comes at any time
        arena.kill(worker)
        worker = arena.worker()
    report = await job.result()
    assert (report.done, report.skipped, report.failed) == (EVERYONE, 0, 0)
    arena.kill(worker)


@pytest.mark.timeout(900 if FULL else 120)
async def test_each_is_acted_upon_once_however_often_the_worker_dies(arena: Arena) -> None:
    begun = time.monotonic()
    async with Client.connect(arena.db) as client:
        for group in range(0, EVERYONE, 100):
            numbers = range(group, group + 100)
            await asyncio.gather(
                *(client.start(flows.hearer, one, id=f"hearer-{one}") for one in numbers)
            )
        rate = EVERYONE / 3
        told = await client.bulk(
            "signal", filter=HEARERS, signal=flows.numbers, value=WORD, rate=rate
        )
        await done_under_kills(arena, told)
        last = await client.bulk("signal", filter=HEARERS, signal=flows.numbers, value=flows.LAST)
        arena.worker()
        assert (await last.result()).done == EVERYONE
        heard: Counter[tuple[int, ...]] = Counter()
        for one in range(EVERYONE):
            heard[tuple(await client.get_handle(f"hearer-{one}", flows.hearer).result())] += 1
        assert heard == {(WORD,): EVERYONE}
    await evidence.nothing_is_damaged(arena.db)
    record(
        "bulk signals while their worker is killed",
        invariants=[3, 8],
        tried="a bulk job whose worker dies at random points of its way: each execution must have "
        "heard its signal once, and the count be right",
        times=EVERYONE,
        broken=0,
        seconds=time.monotonic() - begun,
        figures={"workers killed": KILLS},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_bulk_kills.py -s",
    )


@pytest.mark.timeout(900 if FULL else 120)
async def test_each_begins_anew_once_however_often_the_worker_dies(arena: Arena) -> None:
    async with Client.connect(arena.db) as client:
        first = arena.worker()
        for group in range(0, EVERYONE, 100):
            numbers = range(group, group + 100)
            handles = await asyncio.gather(
                *(client.start(flows.chain, one, id=f"chain-{one}") for one in numbers)
            )
            await asyncio.gather(*(one.result() for one in handles))
        arena.kill(first)
        job = await client.bulk(
            "reset", filter="type = 'chaos_chain'", to="last-activity", rate=EVERYONE / 3
        )
        await done_under_kills(arena, job)
        arena.worker()
        for one in range(EVERYONE):
            handle = client.get_handle(f"chain-{one}", flows.chain)
            assert await handle.result() == 5 * one + 10
            assert len((await client.list(workflow_id=handle.workflow_id)).items) == 2
    await evidence.nothing_is_damaged(arena.db)
