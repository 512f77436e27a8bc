"""Who has the file: a stopped owner keeps it, a dead one frees it at once."""

# tidy: this file sleeps because it waits for processes that must not come to an end
import os
import signal
import sqlite3
import time
from contextlib import closing

import pytest

from everlong import Client, StoreOwned, Worker, Workflow
from tests.chaos import evidence, flows
from tests.chaos.arena import Arena, assert_nobody_is_left

FREED_WITHIN_S = 2.0


async def test_a_second_owner_is_refused_and_told_who_the_first_is(arena: Arena) -> None:
    owner = arena.worker()
    second = arena.start("work")
    assert second.wait(20)
    assert f"process {owner.pid}" in arena.told()
    assert "StoreOwned" in arena.told()
    async with Client.connect(arena.db) as client:
        with pytest.raises(StoreOwned) as caught:
            await Worker(client).start()
        assert caught.value.pid == owner.pid
        # Refused as an owner, it is served as a client all the same.
        handle = await client.start(flows.chain, 1, id="chain")
        assert await handle.result() == 15
    assert owner.is_alive


async def test_a_killed_worker_is_not_said_to_host_anything(arena: Arena) -> None:
    """Nobody has buried it yet, so that its row stands as if it lived."""
    async with Client.connect(arena.db) as client:
        handle = await client.start(flows.stuck, id="stuck")

        async def seen() -> tuple[bool, bool, list[tuple[int, bool]]]:
            found = await handle.describe()
            workers = [(one.pid, one.is_there) for one in await client.workers() if not one.dead]
            return found.hosted, found.owner is not None, workers

        assert await seen() == (False, False, [])
        first = arena.worker()
        arena.until(lambda: arena.noted(what="begin"), "an attempt")
        assert await seen() == (True, True, [(first.pid, True)])
        _stop_outside_of_a_transaction(arena, first.pid)
        assert await seen() == (True, True, [(first.pid, True)]), "a stopped one keeps the file"
        first.kill()
        assert await seen() == (False, False, [(first.pid, False)])
        # To look does not take the lock from a worker that starts, nor from this process.
        for _ in range(20):
            second = arena.worker(ready=False)
            while not arena.noted(what="ready", pid=second.pid):
                await seen()
                assert second.is_alive, arena.told()
            hosted, _, workers = await seen()
            assert (hosted, workers) == (True, [(second.pid, True)])
            second.kill()
        async with Worker(client):
            hosted, _, workers = await seen()
            assert (hosted, workers) == (True, [(os.getpid(), True)])
            third = arena.start("work")
            assert third.wait(20)
            assert "StoreOwned" in arena.told()
        assert await seen() == (False, False, [])


async def test_a_stopped_owner_keeps_the_file(arena: Arena) -> None:
    owner = arena.worker()
    async with Client.connect(arena.db) as client:
        handle = await client.start(flows.steady, id="steady")
        arena.until(lambda: arena.noted(what="end"), "some progress")
        _stop_outside_of_a_transaction(arena, owner.pid)
        before = len(arena.noted(what="end"))
        second = arena.start("work")
        assert second.wait(20)
        assert f"process {owner.pid}" in arena.told()
        assert len(arena.noted(what="end")) == before, "nobody took its runs over"
        # Clients are served by the file itself: what they send waits for the owner.
        await handle.signal(flows.enough, True)
        owner.signal(signal.SIGCONT)
        assert await handle.result() >= before
        await evidence.effects_have_attempts(arena, client)
    await evidence.nothing_is_damaged(arena.db)


def _stop_outside_of_a_transaction(arena: Arena, pid: int) -> None:
    """A process that is stopped with SQLite's write lock keeps everybody from writing; that is so
    with any database in a file. Here it is about the owner's lock."""
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.02)
        if _can_write(arena):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)
    pytest.fail("always stopped within a transaction")


def _can_write(arena: Arena) -> bool:
    with closing(sqlite3.connect(arena.db, timeout=0, isolation_level=None)) as file:
        try:
            file.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        file.execute("ROLLBACK")
        return True


async def test_a_dead_owner_frees_the_file_at_once(arena: Arena) -> None:
    async with Client.connect(arena.db) as client:
        handle = await client.start(flows.steady, id="steady")
        first = arena.worker()
        arena.until(lambda: arena.noted(what="end"), "some progress")
        arena.kill(first)
        died = time.monotonic()
        second = arena.worker()
        arena.until(lambda: arena.noted(what="end", pid=second.pid), "progress elsewhere")
        took_s = time.monotonic() - died
        assert took_s < FREED_WITHIN_S
        await handle.signal(flows.enough, True)
        await handle.result()
    print(f"{took_s * 1000:.0f} ms from the death to the first effect elsewhere")


async def test_an_owner_that_stops_in_order_leaves_nothing_lost(arena: Arena) -> None:
    async with Client.connect(arena.db) as client:
        handle = await client.start(flows.steady, id="steady")
        first = arena.start("work_until_told")
        arena.until(lambda: arena.noted(what="end"), "some progress")
        first.signal(signal.SIGTERM)
        assert first.wait(20)
        description = await handle.describe()
        assert (description.status, description.lost_in_a_row) == ("running", 0)
        assert [one.attempts for one in await handle.history() if one.attempts] == []
        begun, ended = arena.noted(what="begin"), arena.noted(what="end")
        assert len(begun) == len(ended), "what was running came to its end"
        arena.worker()
        await handle.signal(flows.enough, True)
        await handle.result()
        await evidence.effects_have_attempts(arena, client)


async def test_a_second_sigterm_ends_an_owner_at_once(arena: Arena) -> None:
    async with Client.connect(arena.db) as client:
        handle = await client.start(flows.stuck, id="stuck")
        owner = arena.start("work_until_told", stop_timeout=600)
        arena.until(lambda: arena.noted(what="begin"), "an activity that does not end")
        owner.signal(signal.SIGTERM)
        assert not owner.wait(0.3), "it waits for the activity"
        owner.signal(signal.SIGTERM)
        assert owner.wait(5)
        assert (await handle.describe()).status == "running"


@pytest.mark.parametrize("flow", [flows.stuck_in_thread, flows.stuck_in_process])
async def test_an_owner_leaves_when_an_activity_does_not_end_in_time(
    arena: Arena, flow: Workflow[[], None]
) -> None:
    """A thread cannot be stopped, yet the process must leave once `stop_timeout` has passed."""
    async with Client.connect(arena.db) as client:
        handle = await client.start(flow, id="stuck")
        owner = arena.start("work_until_told", stop_timeout=0.2)
        arena.until(lambda: arena.noted(what="begin"), "an activity that does not end")
        owner.signal(signal.SIGTERM)
        assert owner.wait(10), "the activity keeps the process alive"
        assert_nobody_is_left(arena, owner)
        description = await handle.describe()
        assert (description.status, description.lost_in_a_row) == ("running", 0)
        lost = [one.error for step in await handle.history() for one in step.attempts]
        assert any("the worker stopped" in error for error in lost), "it was handed back"


async def test_a_second_sigterm_ends_an_owner_whose_loop_is_kept_busy(arena: Arena) -> None:
    async with Client.connect(arena.db) as client:
        handle = await client.start(flows.busy, id="busy")
        owner = arena.start("work_until_told", stop_timeout=0.2)
        arena.until(lambda: arena.noted(what="end"), "the step before the endless loop")
        owner.signal(signal.SIGTERM)
        assert not owner.wait(0.5), "nothing in order can happen any more"
        owner.signal(signal.SIGTERM)
        assert owner.wait(5)
        assert "leaving at once" in arena.told()
        assert (await handle.describe()).status == "running"
    await evidence.nothing_is_damaged(arena.db)
