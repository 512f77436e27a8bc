"""A beat that fails is a beat that was not heard, whatever the reason. One that is heard says when
to look for the dead."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from everlong_engine.clock import SystemClock
from everlong_engine.duties.lease_keeper import LeaseKeeper
from everlong_engine.model.errors import StoreError
from everlong_engine.model.limits import CLAIM_RUNS_MAX
from everlong_engine.store.interface import Heard


class Broken:
    """A store that answers no beat."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def beat(self, workers: Sequence[bytes], busy: Sequence[int] = ()) -> Heard:
        raise self.error


class Host:
    worker_id = b"w"
    has_begun = True
    busy = 0

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    def lease_lost(self) -> None:
        self.let_go.set()

    def wake(self) -> None:
        raise AssertionError("nothing was taken over")


@pytest.mark.parametrize("error", [StoreError("away"), ValueError("a mistake of ours")])
async def test_a_worker_whose_beats_fail_lets_go_of_what_it_has(error: Exception) -> None:
    host = Host()
    keeper = LeaseKeeper(cast(Any, Broken(error)), [host], SystemClock(), 0.001)
    keeper.start()
    try:
        async with asyncio.timeout(10):
            await host.let_go.wait()
    finally:
        await keeper.stop()


class Fleet:
    """A store where somebody else's lease is about to end, with so many runs."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.told = [0.01, 0.0]
        self.all_taken = asyncio.Event()

    async def beat(self, workers: Sequence[bytes], busy: Sequence[int] = ()) -> Heard:
        left = 0.0 if self.runs else None
        return Heard(frozenset(workers), self.told.pop(0) if self.told else left)

    async def take_over(self, alive: Sequence[bytes], now_us: int, limit: int) -> int:
        assert not self.told, "before its lease has ended"
        judged = min(limit, self.runs)
        self.runs -= judged
        if not self.runs:
            self.all_taken.set()
        return judged


class Woken(Host):
    def wake(self) -> None:
        pass


async def test_the_dead_are_looked_for_when_their_lease_ends_and_not_with_the_next_beat() -> None:
    """Whose next would come in an hour: and all that they left is taken over, batch by batch."""
    fleet = Fleet(3 * CLAIM_RUNS_MAX + 1)
    keeper = LeaseKeeper(cast(Any, fleet), [Woken()], SystemClock(), 12_000.0)
    keeper.start()
    try:
        async with asyncio.timeout(10):
            await fleet.all_taken.wait()
    finally:
        await keeper.stop()
