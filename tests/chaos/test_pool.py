"""Activities in processes: whoever is killed, the work comes to its end and nobody stays behind."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from functools import partial

import pytest

from everlong import Client
from tests.chaos import evidence, flows
from tests.chaos.arena import FULL, Arena, Child, assert_nobody_is_left, left_of
from tests.proof.record import record

WORKERS = 40 if FULL else 1
CHILDREN_OF_A_WORKER = 2
FLOWS_OF_A_WORKER = 3
LOST_WITHIN_S = 5.0
DIED = "the process that ran this attempt died"


def children(owner: Child) -> list[int]:
    return [pid for pid in left_of(owner) if pid != owner.pid]


def _more_than(arena: Arena, seen: int) -> bool:
    return len(arena.noted(what="begin")) > seen


def kill_alone(owner: Child) -> None:
    """Only the worker: what it has started is not in the way of this."""
    owner.signal(signal.SIGKILL)
    assert owner.wait(10)


@pytest.mark.timeout(900 if FULL else 120)
async def test_killed_pools_and_killed_workers_leave_no_process_and_no_flow_behind(
    arena: Arena,
) -> None:
    begun = time.monotonic()
    killed, waited_s, count = 0, 0.0, 0
    async with Client.connect(arena.db) as client:
        for _ in range(WORKERS):
            for _ in range(FLOWS_OF_A_WORKER):
                await client.start(flows.in_processes, count, id=f"flow-{count}")
                count += 1
            owner = arena.worker(processes=2)
            for _ in range(CHILDREN_OF_A_WORKER):
                seen = len(arena.noted(what="begin"))
                await client.start(flows.in_processes, count, id=f"flow-{count}")
                count += 1
                arena.until(partial(_more_than, arena, seen), "work")
                time.sleep(random.random() * 0.05)
                at_work = {line["pid"] for line in arena.noted(what="begin")}
                for pid in [pid for pid in children(owner) if pid in at_work][:1]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                assert owner.is_alive
            kill_alone(owner)
            died = time.monotonic()
            assert_nobody_is_left(arena, owner, LOST_WITHIN_S)
            waited_s = max(waited_s, time.monotonic() - died)
            await evidence.nothing_is_damaged(arena.db)
        arena.worker(processes=2)
        end = time.monotonic() + 60
        while left := await evidence.unfinished(client):
            assert time.monotonic() < end, f"never finished: {sorted(left)}\n{arena.told()}"
            await evidence.nobody_is_parked(client)
            await asyncio.sleep(0.1)
        for number in range(count):
            assert await client.get_handle(f"flow-{number}").result() == 4 * number + 6
        died = sum(
            DIED in row.error for run in await evidence.all_runs(client) for row in run.attempts
        )
        # One process is one attempt: those of its neighbours are not concerned.
        assert died <= killed
        await evidence.outcomes_are_recorded_once(client)
        await evidence.effects_have_attempts(arena, client)
    assert killed > 0
    print(f"{WORKERS} workers, {killed} pool processes killed; gone within {waited_s:.2f} s")
    record(
        "kill -9 of pool processes and their workers",
        invariants=[4, 13, 14],
        tried="processes of a worker's pool killed at work, then the worker alone; no process may "
        "stay behind, and every flow ends right",
        times=WORKERS + killed,
        broken=0,
        seconds=time.monotonic() - begun,
        figures={
            "workers": WORKERS,
            "pool processes": killed,
            "attempts lost with them": died,
            "gone within s": round(waited_s, 2),
        },
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_pool.py -s",
    )


async def test_a_pool_process_at_work_dies_with_its_worker(arena: Arena) -> None:
    """It would go on for ever, and the next worker has begun the same work."""
    async with Client.connect(arena.db) as client:
        await client.start(flows.stuck_in_process, id="stuck")
        owner = arena.worker(processes=1)
        arena.until(lambda: arena.noted(what="begin"), "an activity that does not end")
        kill_alone(owner)
        assert_nobody_is_left(arena, owner, LOST_WITHIN_S)
