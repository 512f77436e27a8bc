"""kill -9 at random moments: what was acknowledged is there, and everything comes to its end."""

# tidy: this file sleeps because a random moment of real time is what it tests
import random
import time

import pytest

from everlong import Client
from tests.chaos import evidence
from tests.chaos.arena import FULL, Arena

KILLS = 200 if FULL else 20
FLOWS = 60 * KILLS // 10
LIFE_S = 0.6


@pytest.mark.timeout(1800 if FULL else 120)
async def test_nothing_acknowledged_is_lost_when_workers_are_killed(arena: Arena) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    pause_s = KILLS * LIFE_S / FLOWS / 2
    client = arena.client(seed, FLOWS, pause_s)
    clients_killed = 0
    while arena.kills < KILLS:
        # From the moment of the fork on: some die before they have opened the file.
        worker = arena.worker(ready=False)
        time.sleep(chance.random() * LIFE_S)
        if chance.random() < 0.25 and client.is_alive:
            client.kill()
            clients_killed += 1
            client = arena.client(seed, FLOWS, pause_s)
        arena.kill(worker)
        await evidence.nothing_is_damaged(arena.db)
        if arena.kills % 20 == 0:
            await evidence.acknowledged_is_there(arena, seed, FLOWS, results=False)

    arena.worker()
    arena.until(lambda: not client.is_alive, "the client's end")
    assert len(arena.acknowledged()) >= FLOWS
    async with Client.connect(arena.db) as watcher:
        end = time.monotonic() + 60
        while left := await evidence.unfinished(watcher):
            assert time.monotonic() < end, f"never finished: {sorted(left)}\n{arena.told()}"
            time.sleep(0.05)
        await evidence.outcomes_are_recorded_once(watcher)
        await evidence.effects_have_attempts(arena, watcher)
    evidence.at_most_once_is_kept(arena)
    await evidence.acknowledged_is_there(arena, seed, FLOWS, results=True)
    await evidence.nothing_is_damaged(arena.db)
    begun, ended = len(arena.noted(what="begin")), len(arena.noted(what="end"))
    print(
        f"{arena.kills} workers and {clients_killed} clients killed, "
        f"{len(arena.acknowledged())} acknowledgements, none lost; "
        f"{begun} attempts begun, {begun - ended} of them cut off or failed"
    )
