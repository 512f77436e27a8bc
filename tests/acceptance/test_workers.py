"""Workers come, go and share: restarts, full caches, neighbours, other processes."""

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    ActivityInfo,
    ActivityLost,
    Client,
    DefinitionError,
    EverlongError,
    Query,
    QueryFailed,
    Signal,
    StoreOwned,
    Worker,
    activity,
    checkpoint,
    info,
    workflow,
)
from everlong_engine import limits
from tests.support.hosting import described, hosting
from tests.support.other_process import hosted_elsewhere, other_process, release

nudge: Signal[int] = Signal("nudge", int)
total = Query("total", int)


@activity
async def add(a: int, b: int) -> int:
    return a + b


@workflow(name="adder")
async def adder(rounds: int, sum_of: int = 0) -> int:
    @total.handler
    def _() -> int:
        return sum_of

    for done in range(rounds):
        value = await nudge.receive()
        await asyncio.sleep(0.001)
        sum_of = await add(sum_of, value)
        await checkpoint(sum_of=sum_of, rounds=rounds - done - 1)
    return sum_of


async def test_a_flow_goes_on_over_many_restarts(path: Path) -> None:
    async with Client.connect(path) as client:
        handle = await client.start(adder, 6)
        for value in range(1, 7):
            async with Worker(client, workflows=[adder]):
                await handle.signal(nudge, value)
        async with Worker(client, workflows=[adder]):
            assert await handle.result() == 21
        assert list(await client.verify()) == []


async def test_a_flow_goes_on_in_another_process_from_where_it_stood(path: Path) -> None:
    async with other_process(path) as other:
        async with hosting(path, workflows=[hosted_elsewhere]) as client:
            handle = await client.start(hosted_elsewhere, "ann", id="moving")
        async with Client.connect(path) as client:
            handle = client.get_handle("moving", hosted_elsewhere)
            await other.do("serve")
            await handle.signal(release, "and back")
            assert await handle.result() == "ann and back"
            assert await other.do("result", id="moving") == "ann and back"


async def test_stopping_waits_for_activities_and_records_their_outcome(path: Path) -> None:
    began = asyncio.Event()
    ran: list[str] = []

    @activity
    async def work() -> str:
        began.set()
        for _ in range(5):
            await asyncio.sleep(0)
        ran.append("work")
        return "worked"

    @workflow
    async def flow() -> str:
        return await work()

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow)
            await began.wait()
        assert (await handle.describe()).activities == ()
        async with Worker(client):
            assert await handle.result() == "worked"
    assert ran == ["work"]


@pytest.mark.parametrize("cache_size", [0, 1, 2, 1000])
async def test_a_full_cache_changes_nothing_but_speed(path: Path, cache_size: int) -> None:
    async with hosting(path, workflows=[adder], cache_size=cache_size) as client:
        handles = [await client.start(adder, 4, id=f"adder-{n}") for n in range(6)]
        for value in (1, 2, 3, 4):
            await asyncio.gather(*(handle.signal(nudge, value) for handle in handles))
        assert await asyncio.gather(*(handle.result() for handle in handles)) == [10] * 6
        assert await asyncio.gather(*(handle.query(total) for handle in handles)) == [10] * 6
        assert list(await client.verify()) == []


async def test_a_sleeping_flow_costs_no_memory_and_is_woken_by_its_timer(path: Path) -> None:
    @workflow
    async def flow() -> str:
        await asyncio.sleep(0.05)
        return "woke"

    async with hosting(path, cache_size=1) as client:
        handles = [await client.start(flow) for _ in range(5)]
        asleep = await described(handles[0], lambda d: d.owner is None or d.status == "completed")
        assert asleep.status in ("running", "completed")
        assert await asyncio.gather(*(handle.result() for handle in handles)) == ["woke"] * 5


@pytest.mark.once
async def test_two_workers_of_a_process_share_the_work(path: Path) -> None:
    @workflow
    async def left() -> str:
        @total.handler
        def _() -> int:
            return 1

        return f"left {await nudge.receive()}"

    @workflow
    async def right() -> str:
        @total.handler
        def _() -> int:
            return 2

        return f"right {await nudge.receive()}"

    async with (
        Client.connect(path) as client,
        Worker(client, workflows=[left], name="L"),
        Worker(client, workflows=[right], name="R", cache_size=0),
    ):
        one, two = await client.start(left), await client.start(right)
        assert (await one.describe()).owner == "L"
        assert await one.query(total) == 1
        assert await two.query(total) == 2
        for handle in (one, two):
            await handle.signal(nudge, 5)
        assert await one.result() == "left 5"
        assert await two.result() == "right 5"
        assert await one.query(total) == 1
        assert await two.query(total) == 2


async def test_when_one_of_two_workers_leaves_the_other_takes_its_runs(path: Path) -> None:
    async with (
        Client.connect(path) as client,
        Worker(client, workflows=[adder], name="first") as first,
    ):
        handle = await client.start(adder, 1)
        async with Worker(client, workflows=[adder], name="second"):
            await first.stop()
            await handle.signal(nudge, 3)
            assert await handle.result() == 3


@pytest.mark.file
async def test_a_second_process_is_told_who_owns_the_file(path: Path) -> None:
    async with other_process(path) as other:
        await other.do("serve")
        async with Client.connect(path) as client:
            with pytest.raises(StoreOwned, match=rf"in use by process {other.pid}") as caught:
                async with Worker(client, workflows=[hosted_elsewhere]):
                    pass
            assert caught.value.pid == other.pid
            # It is a client all the same.
            handle = await client.start(hosted_elsewhere, "ann")
            await handle.signal(release, "waits")
            assert await handle.result() == "ann waits"


async def test_a_killed_owner_frees_the_file_at_once(path: Path) -> None:
    async with other_process(path) as other, Client.connect(path) as client:
        await other.do("serve")
        handle = await client.start(hosted_elsewhere, "ann")
        await described(handle, lambda d: d.owner is not None)
        other.kill()
        await other.ended()
        async with Worker(client, workflows=[hosted_elsewhere]):
            await handle.signal(release, "came through")
            assert await handle.result() == "ann came through"


async def test_a_client_stays_the_same_while_the_owner_changes(path: Path) -> None:
    """It waits for a result while the run moves from its own process to another."""
    async with other_process(path) as other, Client.connect(path) as client:
        async with Worker(client, workflows=[hosted_elsewhere]):
            handle = await client.start(hosted_elsewhere, "ann")
            waiting = asyncio.create_task(handle.result())
            await asyncio.sleep(0)
        await other.do("serve")
        await handle.signal(release, "moved")
        assert await waiting == "ann moved"


@pytest.mark.file
async def test_an_unknown_type_waits_visible_until_it_is_hosted(path: Path) -> None:
    @workflow
    async def known() -> None: ...

    async with Client.connect(path) as client:
        async with Worker(client, workflows=[known]):
            handle = await client.start("stranger", id="who", word="hello")
            found = await handle.describe()
            assert (found.status, found.hosted, found.owner) == ("running", False, None)
            assert [one.status for one in (await client.list(type="stranger")).items] == ["running"]
            with pytest.raises(QueryFailed, match="hosts stranger"):
                await handle.query(total)
            await handle.signal(nudge, 4)

        @workflow(name="stranger")
        async def stranger(word: str) -> str:
            return f"{word} {await nudge.receive()}"

        async with Worker(client, workflows=[stranger]):
            assert await handle.result() == "hello 4"


async def test_unfit_arguments_by_name_park_the_run_where_it_is_hosted(path: Path) -> None:
    async with Client.connect(path) as client:
        handle = await client.start("typed", number="many")

        @workflow(name="typed")
        async def typed(number: int) -> int:
            return number

        async with Worker(client, workflows=[typed]):
            blocked = await described(handle, lambda d: d.status == "blocked")
            assert blocked.reason is not None
            assert "number" in blocked.reason


async def test_a_worker_is_used_once(path: Path) -> None:
    async with Client.connect(path) as client, Worker(client) as worker:
        with pytest.raises(EverlongError, match="running already"):
            await worker.start()


BAD_WORKERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"activity_slots": 0}, ValueError, r"activity_slots=0\) must be at least 1"),
    ({"threads": 0}, ValueError, r"threads=0\) must be at least 1"),
    ({"cache_size": -1}, ValueError, r"cache_size=-1\) must be at least 0"),
    ({"stop_timeout": -1}, ValueError, "stop_timeout must be between"),
    ({"workflows": [add]}, DefinitionError, "not decorated with @workflow"),
    ({"activities": [adder]}, DefinitionError, "not decorated with @activity"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD_WORKERS)
async def test_an_option_that_makes_no_sense_is_named(
    path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    make: Callable[..., Worker] = Worker
    async with Client.connect(path) as client:
        with pytest.raises(error, match=text):
            async with make(client, **options):
                pass
        async with Worker(client, workflows=[adder]):
            pass  # What was refused keeps nothing.


async def test_clients_need_no_worker_and_close_clean(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client.connect(path) as client:
        handle = await client.start("anything")
        await handle.cancel()
    with pytest.raises(EverlongError, match="not open"):
        await client.start("anything")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_what_a_lost_activity_sets_off_keeps_no_other_from_going_on(path: Path) -> None:
    """Its outcome is known as soon as the run is loaded, before the others are at work again."""
    at_work: asyncio.Queue[str] = asyncio.Queue()
    may_end = asyncio.Event()

    @activity(at_most_once=True)
    async def once() -> None:
        at_work.put_nowait("once")
        await may_end.wait()

    @activity
    async def works(name: str) -> str:
        at_work.put_nowait(name)
        await may_end.wait()
        return name

    @workflow
    async def three() -> str:
        first = asyncio.ensure_future(once())
        second = asyncio.ensure_future(works("second"))
        third = asyncio.ensure_future(works("third"))
        try:
            await first
        except ActivityLost:
            second.cancel()
        return await third

    async with Client.connect(path) as client:
        async with Worker(client) as dies:
            handle = await client.start(three, id="three")
            assert {await at_work.get() for _ in range(3)} == {"once", "second", "third"}
            # As by a death: it lets go of its runs without a word.
            keeper = dies._keeper  # pyright: ignore[reportPrivateUsage]
            assert keeper is not None
            keeper.abandon()
        async with Worker(client), asyncio.timeout(10):
            while await at_work.get() != "third":
                pass
            may_end.set()
            assert await handle.result() == "third"


@pytest.mark.once
async def test_a_run_that_has_ended_leaves_nothing_to_the_garbage_collector(path: Path) -> None:
    """A circle of references in each run would cost a tenth of all time, spent on finding it."""

    @activity
    async def double(number: int) -> int:
        return 2 * number

    @workflow
    async def doubled(number: int) -> int:
        return await double(number)

    async with hosting(path) as client:

        async def many(count: int) -> None:
            for number in range(count):
                assert await client.run(doubled, number) == 2 * number

        await many(5)
        gc.collect()
        gc.disable()
        try:
            await many(50)
            assert gc.collect() < 50
        finally:
            gc.enable()


@pytest.mark.file
async def test_what_a_dead_process_left_is_at_work_before_the_last_of_it_is_judged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CLAIM_RUNS_MAX", 2)
    names = [f"left-{number}" for number in range(5)]
    async with Client.connect(path) as client:
        async with other_process(path) as other:
            await other.do("serve")
            for name in names:
                await other.do("start", workflow="hosted_elsewhere", id=name, name=name)
            other.kill()
            await other.ended()
        handles = [client.get_handle(name, hosted_elsewhere) for name in names]
        for handle in handles:
            await handle.signal(release, "released")

        judged, go_on = client.engine.store.take_over, asyncio.Event()
        batches: list[int] = []

        async def held_behind_the_first(alive: Sequence[bytes], now_us: int, limit: int) -> int:
            if batches:
                await go_on.wait()
            batches.append(await judged(alive, now_us, limit))
            return batches[-1]

        monkeypatch.setattr(client.engine.store, "take_over", held_behind_the_first)
        async with Worker(client, workflows=[hosted_elsewhere]):
            results = [asyncio.create_task(handle.result()) for handle in handles]
            done, _ = await asyncio.wait(results, return_when=asyncio.FIRST_COMPLETED)
            assert 1 <= len(done) <= batches[0] == 2
            go_on.set()
            assert await asyncio.gather(*results) == [f"{name} released" for name in names]
        assert sum(batches) == 5


async def test_what_is_claimed_back_tells_what_it_had_at_work_to_end(path: Path) -> None:
    """A worker that stood still was given up, and its runs are free by the time it goes on: it may
    be quicker to claim its own than to hear of that. Nothing is to be appended meanwhile, so no
    refusal tells it either."""
    order: list[str] = []
    began, may_end = asyncio.Event(), asyncio.Event()

    @activity
    async def long() -> int:
        number = info(ActivityInfo).attempt
        order.append(f"{number} begins")
        began.set()
        try:
            await may_end.wait()
        except asyncio.CancelledError:
            order.append(f"{number} is told")
            raise
        return number

    @workflow
    async def flow() -> int:
        return await long()

    async with Client.connect(path) as client, Worker(client, stop_timeout=0) as worker:
        handle = await client.start(flow)
        await began.wait()
        began.clear()
        store = client.engine.store
        # As another process does with a worker of which nobody has heard for a whole lease.
        await store.bury(worker.worker_id)
        assert await store.take_over([], client.engine.clock.now_us(), 10) == 1
        worker.wake()
        await began.wait()
        assert order == ["1 begins", "1 is told", "2 begins"]
        may_end.set()
        assert await handle.result() == 2
        assert await client.verify() == []
