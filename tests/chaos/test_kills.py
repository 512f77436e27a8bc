"""kill -9 at random moments: what was acknowledged is there, and everything comes to its end.

Several stores in sequence, each new, so that looking at all of one after each kill stays quick.
"""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from everlong import Client
from tests.chaos import evidence
from tests.chaos.arena import FULL, Arena, Child, arena
from tests.proof.record import record

KILLS: Final = 1_000 if FULL else 12
EMBEDDED_KILLS: Final = 300 if FULL else 10
KILLS_OF_A_STORE: Final = 50
FLOWS_OF_A_KILL: Final = 3
LIFE_S: Final = 0.5
CLIENT_DIES: Final = 0.3
"""How often the client dies as well, shortly before a worker."""

PATIENCE_S: Final = 60.0

opened = contextmanager(arena)


class Siege:
    """One store, and the deaths of those who use it."""

    def __init__(self, arena: Arena, kills: int) -> None:
        self.arena = arena
        self.kills = kills
        self.flows = kills * FLOWS_OF_A_KILL
        self.counts: Counter[str] = Counter()
        self.seed = random.randrange(1 << 30)
        self._chance = random.Random(self.seed)
        # The client is done when about two thirds of the kills are.
        self._pause_s = kills * LIFE_S / 2 / self.flows / 2 / 1.5

    async def of_workers_and_clients(self) -> None:
        client = self._client()
        while self.arena.kills < self.kills:
            # From the moment of the fork on: some die before they have opened the file.
            worker = self.arena.worker(ready=False)
            time.sleep(self._chance.random() * LIFE_S)
            if client.is_alive and self._client_dies():
                client.kill()
                self.counts["clients"] += 1
                client = self._client()
            await self._kill(worker, "workers")
        self.arena.worker()
        await self._is_over()

    def _client_dies(self) -> bool:
        """Never by chance alone: a short siege has seen no client die once in twenty."""
        return not self.counts["clients"] or self._chance.random() < CLIENT_DIES

    async def of_programs_that_are_both(self) -> None:
        while self.arena.kills < self.kills:
            program = self._client("host_and_send")
            time.sleep(self._chance.random() * LIFE_S)
            await self._kill(program, "programs")
        self._client("host_and_send")
        await self._is_over()
        evidence.nothing_begins_behind_a_termination(self.arena)

    def _client(self, role: str = "send") -> Child:
        return self.arena.client(self.seed, self.flows, self._pause_s, role=role)

    async def _kill(self, child: Child, what: str) -> None:
        self.arena.kill(child)
        self.counts[what] += 1
        if self.arena.db.exists():
            await evidence.nothing_is_damaged(self.arena.db)
            await evidence.acknowledged_is_there(self.arena)

    async def _is_over(self) -> None:
        """The last ones live on: everything is sent, and ends as it must."""
        arena = self.arena
        arena.until(arena.has_finished, "the client's end")
        async with Client.connect(arena.db) as watcher:
            end = time.monotonic() + PATIENCE_S
            while left := await evidence.unfinished(watcher):
                await evidence.nobody_is_parked(watcher)
                assert time.monotonic() < end, f"never finished: {sorted(left)}\n{arena.told()}"
                await asyncio.sleep(0.05)
            await evidence.outcomes_are_recorded_once(watcher)
            await evidence.timers_fire_once_and_never_early(watcher)
            await evidence.effects_have_attempts(arena, watcher)
        evidence.at_most_once_is_kept(arena)
        await evidence.nothing_is_damaged(arena.db)
        begun, ended = len(arena.noted(what="begin")), len(arena.noted(what="end"))
        self.counts["attempts begun"] += begun
        self.counts["attempts cut off or failed"] += begun - ended
        self.counts["acknowledgements"] += await evidence.acknowledged_is_there(arena)
        self.counts["results seen"] += len(arena.seen())
        self.counts["requests repeated"] += await evidence.everything_came_out_right(
            arena, self.seed, self.flows
        )


async def _besiege(
    folder: Path, kills: int, how: Callable[[Siege], Awaitable[None]]
) -> Counter[str]:
    counts: Counter[str] = Counter()
    while kills > 0:
        place = folder / f"store-{kills}"
        place.mkdir()
        with opened(place) as arena:
            siege = Siege(arena, min(kills, KILLS_OF_A_STORE))
            try:
                await how(siege)
            except BaseException as error:
                error.add_note(f"seed {siege.seed}; the store is {arena.db}\n{arena.told()}")
                raise
            counts += siege.counts
            kills -= siege.kills
    print(dict(counts))
    return counts


@pytest.mark.timeout(3600 if FULL else 120)
async def test_nothing_acknowledged_is_lost_when_workers_are_killed(tmp_path: Path) -> None:
    begun = time.monotonic()
    counts = await _besiege(tmp_path, KILLS, Siege.of_workers_and_clients)
    assert counts["workers"] == KILLS
    assert counts["clients"] > 0
    assert counts["acknowledgements"] > KILLS * FLOWS_OF_A_KILL
    record(
        "kill -9 of workers and of clients",
        invariants=[1, 2, 3, 4, 6, 8, 9],
        tried="a worker, and often the client too, killed at a random moment; integrity, verify "
        "and every acknowledgement looked at after each kill",
        times=counts["workers"] + counts["clients"],
        broken=0,
        seconds=time.monotonic() - begun,
        figures=dict(counts),
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_kills.py -s",
    )


@pytest.mark.timeout(3600 if FULL else 120)
async def test_nothing_acknowledged_is_lost_when_client_and_worker_die_together(
    tmp_path: Path,
) -> None:
    begun = time.monotonic()
    counts = await _besiege(tmp_path, EMBEDDED_KILLS, Siege.of_programs_that_are_both)
    assert counts["programs"] == EMBEDDED_KILLS
    assert counts["acknowledgements"] > EMBEDDED_KILLS * FLOWS_OF_A_KILL
    record(
        "kill -9 of programs that are client and worker",
        invariants=[1, 2, 3, 4, 6, 8, 9],
        tried="a program that starts flows and hosts them, killed at a random moment; integrity, "
        "verify and every acknowledgement looked at after each kill",
        times=counts["programs"],
        broken=0,
        seconds=time.monotonic() - begun,
        figures=dict(counts),
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_kills.py -s",
    )
