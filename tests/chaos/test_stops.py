"""SIGSTOP and SIGCONT: an owner that stands still is still the owner.

It is stopped at random moments, also within a transaction; a laptop's lid or a debugger does that.
Meanwhile nobody else becomes the owner, what clients send is not lost, and nothing takes place
twice once it goes on.
"""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from everlong import Client, StoreError, StoreOwned, Worker, WorkflowHandle
from everlong_engine.store.sqlite import connection
from tests.chaos import evidence, flows
from tests.chaos.arena import FULL, Arena, Child
from tests.proof.record import record

TRIALS: Final = 500 if FULL else 15
STOPPED_S: Final = 0.08
"""At most; the timers of the flows are shorter, so that some come due meanwhile."""

ENDS_WITHIN_S: Final = 30.0
AT_WORK: Final = 3
"""Flows that are open at any time, so that it is stopped in the middle of something."""


def stop(owner: Child) -> None:
    owner.signal(signal.SIGSTOP)
    stat = Path(f"/proc/{owner.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.0005)


def can_write(db: Path) -> bool:
    """Whether nobody stands still with the write lock of the file."""
    with closing(sqlite3.connect(db, timeout=0, isolation_level=None)) as file:
        try:
            file.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        file.execute("ROLLBACK")
        return True


class Trials:
    """One client against an owner that is stopped again and again."""

    def __init__(self, arena: Arena, client: Client) -> None:
        self._arena = arena
        self._client = client
        self._owner = arena.worker()
        self._chance = random.Random()
        self._open: list[tuple[int, str, WorkflowHandle[object]]] = []
        self.counts: Counter[str] = Counter()

    async def trial(self, number: int) -> None:
        while len(self._open) < AT_WORK:
            await self._start(number)
        listener = await self._start(number, "chaos_listener")
        await asyncio.sleep(self._chance.random() * 0.03)
        stop(self._owner)
        free = can_write(self._arena.db)
        until = time.monotonic() + self._chance.random() * STOPPED_S
        sent = asyncio.create_task(self._send_to(listener, number))
        if free:
            with pytest.raises(StoreOwned) as refused:
                await Worker(self._client).start()
            assert refused.value.pid == self._owner.pid
            assert f"process {self._owner.pid}" in str(refused.value)
            # Clients are served by the file itself: all is stored while the owner stands still.
            await sent
            self.counts["outside of a transaction"] += 1
        else:
            self.counts["within a transaction"] += 1
        await asyncio.sleep(max(until - time.monotonic(), 0))
        if not free:
            assert not sent.done(), "somebody wrote although the owner has the lock"
        self._owner.signal(signal.SIGCONT)
        await sent  # What waited for the lock is stored now.
        await self._settle()

    async def _start(self, number: int, kind: str | None = None) -> WorkflowHandle[object]:
        kind = kind or self._chance.choice(("chaos_patient", "chaos_fan", "chaos_chain"))
        name = f"{kind}-{number}-{self.counts['flows']}"
        handle = await self._client.start(kind, id=name, request_id=name, first=number)
        self._open.append((number, kind, handle))
        self.counts["flows"] += 1
        return handle

    async def _send_to(self, listener: WorkflowHandle[object], number: int) -> None:
        for step in range(flows.LISTENED):
            await listener.signal(flows.numbers, number + step)
        await self._start(number)

    async def _settle(self, left: int = AT_WORK) -> None:
        """The oldest must come to their right ends before there are too many."""
        while len(self._open) > left:
            first, kind, handle = self._open.pop(0)
            async with asyncio.timeout(ENDS_WITHIN_S):
                assert await handle.result() == flows.expected(kind, first)

    async def end(self) -> None:
        await self._settle(0)
        await evidence.outcomes_are_recorded_once(self._client)
        await evidence.timers_fire_once_and_never_early(self._client)
        await evidence.effects_have_attempts(self._arena, self._client)
        for run in await evidence.all_runs(self._client):
            assert run.row.lease_token == 1, "somebody else had it meanwhile"
        assert self._owner.is_alive


@pytest.mark.timeout(1800 if FULL else 120)
async def test_an_owner_that_is_stopped_at_any_moment_goes_on_as_if_nothing_was(
    arena: Arena,
) -> None:
    begun = time.monotonic()
    async with Client.connect(arena.db) as client:
        trials = Trials(arena, client)
        for number in range(TRIALS):
            await trials.trial(number)
        await trials.end()
    await evidence.nothing_is_damaged(arena.db)
    print(f"stopped {TRIALS} times: {dict(trials.counts)}")
    assert trials.counts["outside of a transaction"] > 0
    record(
        "SIGSTOP and SIGCONT of the owner",
        invariants=[2, 4, 5, 6, 8, 14],
        tried="the owner stopped at a random moment and continued; a second owner refused, a "
        "client of another process served meanwhile",
        times=TRIALS,
        broken=0,
        seconds=time.monotonic() - begun,
        figures=dict(trials.counts),
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_stops.py -s",
    )


async def test_a_client_is_told_when_a_stopped_process_keeps_the_lock(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not hang: it gets an error that says what is so, and its next try succeeds."""
    if not FULL:
        monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.3)
    holder = arena.start("hold_the_lock")
    async with Client.connect(arena.db) as client:
        arena.until(lambda: arena.noted(what="locked"), "a process with the write lock")
        stop(holder)
        began = time.monotonic()
        with pytest.raises(StoreError, match="another process has been in the middle of a write"):
            await client.start(flows.chain, 1, id="chain", request_id="r-1")
        assert time.monotonic() - began < 45
        holder.signal(signal.SIGCONT)
        arena.kill(holder)
        handle = await client.start(flows.chain, 1, id="chain", request_id="r-1")
        arena.worker()
        assert await handle.result() == 15
        assert len((await client.list()).items) == 1
