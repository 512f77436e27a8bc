"""Moments at which something else is on its way: nothing is lost, or waited for for ever."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from everlong import (
    ActivityLost,
    Client,
    Query,
    QueryFailed,
    Signal,
    Worker,
    WorkflowClosed,
    activity,
    workflow,
)
from everlong_engine.model.codec import checksum, encode_event
from everlong_engine.model.runs import MailRow
from tests.support.hosting import described
from tests.support.other_process import other_process

poke = Signal("races-poke", int)
large = Signal("races-large", str)
count = Query("races-count", int)


async def test_a_worker_that_stops_takes_no_timer_with_it(path: Path) -> None:
    @workflow
    async def ticking() -> None:
        for _ in range(1_000_000):
            await asyncio.sleep(0.004)

    async with Client.connect(path, durability="relaxed") as client:
        for round_ in range(8):
            async with Worker(client):
                handles = [await client.start(ticking, id=f"{round_}-{i}") for i in range(5)]
                await asyncio.sleep(0.05)  # tidy: waits because timers are to be under way
            for handle in handles:
                seen = await handle.describe()
                row = await client.engine.store.latest(
                    client.engine.target("default", handle.workflow_id)
                )
                assert seen.status == "running"
                assert row is not None
                assert row.wake_us is not None
                await handle.terminate()


async def test_a_signal_that_meets_a_termination_is_answered(path: Path) -> None:
    @workflow
    async def listening() -> None:
        async for _ in poke:
            pass

    async with Client.connect(path) as client, Worker(client):
        for number in range(20):
            handle = await client.start(listening, id=f"x{number}")
            ending = asyncio.ensure_future(handle.terminate())
            for _ in range(number % 4):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                with suppress(WorkflowClosed):
                    await handle.signal(poke, 1)
                await ending


async def test_a_signal_that_meets_the_end_of_its_worker_is_kept_for_the_next(path: Path) -> None:
    @workflow
    async def counting(until: int) -> int:
        for _ in range(until):
            await poke.receive()
        return until

    async with Client.connect(path) as client:
        handle = await client.start(counting, 30, id="counting")
        for number in range(30):
            # With the cache off each run is on its way out when the next signal comes.
            worker = Worker(client, cache_size=number % 2)
            await worker.start()
            await described(handle, lambda one: one.owner is not None or one.history_events > 0)
            stopping = asyncio.ensure_future(worker.stop())
            for _ in range(number % 7):
                await asyncio.sleep(0)
            await handle.signal(poke, number)
            await stopping
        async with Worker(client):
            assert await handle.result() == 30


async def test_large_mail_from_another_process_makes_no_activity_look_lost(path: Path) -> None:
    ran: list[int] = []

    @activity(at_most_once=True)
    async def once(number: int) -> int:
        ran.append(number)
        return number

    @workflow
    async def working() -> tuple[int, int]:
        async def eat() -> None:
            async for _ in large:
                pass

        eating = asyncio.ensure_future(eat())
        lost = 0
        for number in range(300):
            try:
                await once(number)
            except ActivityLost:
                lost += 1
        eating.cancel()
        return lost, 0

    async with Client.connect(path) as client, Worker(client), other_process(path) as other:
        handle = await client.start(working, id="x")
        for number in range(10):
            try:
                await other.do(
                    "signal", id="x", name="races-large", value="y" * 70_000 + str(number)
                )
            except Exception:  # The flow may be over by then; it is the activities that count.
                break
        assert await handle.result() == (0, 0)
        assert len(ran) == 300


async def test_a_fault_with_an_append_under_way_loses_no_activity(path: Path) -> None:
    faults = ["one"]
    ran: list[int] = []

    @activity(at_most_once=True)
    async def once() -> str:
        ran.append(1)
        return "ran"

    @workflow
    async def flow() -> str:
        async def bad() -> None:
            await poke.receive()
            if faults:
                raise SystemExit("a fault")

        failing = asyncio.ensure_future(bad())
        result = await once()
        failing.cancel()
        return result

    async with Client.connect(path) as client, Worker(client):
        starting = asyncio.ensure_future(client.start(flow, id="x"))
        await asyncio.sleep(0)
        poking = asyncio.ensure_future(client.get_handle("x").signal(poke, 1))
        handle = await starting
        await asyncio.gather(poking, return_exceptions=True)
        faults.clear()
        if (await handle.describe()).status == "blocked":
            await handle.resume()
        assert await handle.result() == "ran"
        assert ran == [1]


async def test_a_query_cannot_end_the_worker(path: Path) -> None:
    @workflow
    async def flow() -> int:
        @count.handler
        def _() -> int:
            raise SystemExit(3)

        return await poke.receive()

    async with Client.connect(path) as client, Worker(client):
        handle = await client.start(flow)
        with pytest.raises(QueryFailed, match="SystemExit"):
            await handle.query(count)
        await handle.signal(poke, 4)
        assert await handle.result() == 4


async def test_a_call_that_is_not_awaited_blocks_the_run_until_it_is(path: Path) -> None:
    careless = ["still"]
    ran: list[int] = []

    @activity
    async def charge(amount: int) -> None:
        ran.append(amount)

    @workflow
    async def flow() -> str:
        if careless:
            charge(1)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
        else:
            await charge(1)
        return "done"

    async with Client.connect(path) as client, Worker(client):
        handle = await client.start(flow)
        seen = await described(handle, lambda d: d.status == "blocked")
        assert seen.reason is not None
        assert "charge(…) at test_races.py:" in seen.reason
        assert "never awaited" in seen.reason
        careless.clear()
        await handle.resume()
        assert await handle.result() == "done"
        assert ran == [1]


@pytest.mark.once
async def test_a_look_that_was_overtaken_by_a_commit_begins_nothing_again(path: Path) -> None:
    """It saw the mail that began a run, and tells of it when it is fed and gone."""

    @workflow
    async def listening() -> int:
        return await poke.receive()

    async with Client.connect(path) as client, Worker(client) as worker:
        handle = await client.start(listening, id="w")
        row = await client.engine.store.latest(client.engine.target("default", "w"))
        assert row is not None
        loaded = await client.engine.store.load(row.shard, row.run_id)
        assert loaded is not None
        kind, body = encode_event(loaded.history[0].event, {})
        assert worker.deliver(MailRow(10**9, row.execution_id, kind, body, checksum(0, kind, body)))
        await handle.signal(poke, 7)
        assert await handle.result() == 7
