"""What an activity promises: where it runs, what it returns, that it is recorded once."""

import asyncio
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from everlong import (
    ActivityError,
    ActivityInfo,
    ActivityLost,
    ApplicationError,
    Client,
    Worker,
    WorkflowFailed,
    activity,
    info,
    workflow,
)
from tests.support.hosting import AT_ONCE, ONCE, described, hosting, kinds, of_kind
from tests.support.process_activities import (
    counts_in_pool,
    declined_in_pool,
    pid_of_pool,
    unstorable_in_pool,
)


@dataclass
class Order:
    id: int
    items: list[str]


async def test_an_awaited_activity_runs_and_its_result_is_rebuilt_by_its_type(path: Path) -> None:
    @activity
    async def fetch(number: int) -> Order:
        return Order(number, ["tea"])

    @workflow
    async def flow() -> str:
        order = await fetch(7)
        assert type(order) is Order
        return f"{order.id}:{order.items[0]}"

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "7:tea"
        assert await kinds(handle) == [
            "RunStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "RunCompleted",
        ]


async def test_a_plain_function_runs_in_a_thread_with_its_context(path: Path) -> None:
    @activity
    def where() -> tuple[bool, str]:
        on_main = threading.current_thread() is threading.main_thread()
        return on_main, info(ActivityInfo).type

    @workflow
    async def flow() -> list[object]:
        return list(await where())

    async with hosting(path) as client:
        assert await client.run(flow) == [False, "where"]


async def test_process_true_runs_in_another_process(path: Path) -> None:
    @workflow
    async def flow() -> list[object]:
        first, again = await pid_of_pool(), await counts_in_pool.options(retry=AT_ONCE)()
        try:
            await declined_in_pool("no stock")
        except ApplicationError as error:
            return [first, again, str(error), error.details]
        return []

    async with hosting(path, processes=1) as client:
        handle = await client.start(flow)
        pid, counted, text, details = await handle.result()
        assert pid != os.getpid()
        assert isinstance(counted, list)
        assert counted[:2] == [2, "reached 7"]
        assert text == "no stock"
        assert details == {"pid": pid}

        scheduled = (await of_kind(handle, "ActivityScheduled"))[1]
        failed = scheduled.attempts[0]
        assert (failed.number, failed.state, failed.error) == (1, "failed", "first attempt")
        assert "counts_in_pool" in failed.traceback


async def test_an_activity_gets_copies_so_live_sees_what_replay_sees(path: Path) -> None:
    @activity
    async def spoil(items: list[str]) -> list[str]:
        items.append("spoilt")
        return items

    @workflow
    async def flow() -> list[list[str]]:
        mine = ["fresh"]
        theirs = await spoil(mine)
        mine.append("mine")
        return [mine, theirs]

    async with hosting(path) as client:
        assert await client.run(flow) == [["fresh", "mine"], ["fresh", "spoilt"]]


async def test_outside_a_workflow_an_activity_just_runs() -> None:
    @activity
    async def double(x: int) -> int:
        return 2 * x

    @activity
    def triple(x: int) -> int:
        return 3 * x

    assert await double(2) == 4
    assert await triple(2) == 6


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_a_result_that_cannot_be_stored_is_not_tried_again(path: Path, kind: str) -> None:
    @activity
    async def unstorable() -> object:
        return object()

    @activity
    def unstorable_in_thread() -> object:
        return object()

    chosen = {
        "async": unstorable,
        "thread": unstorable_in_thread,
        "process": unstorable_in_pool,
    }[kind]

    @workflow
    async def flow() -> str:
        try:
            await chosen()
        except ActivityError as error:
            return f"{error.type}: {error.message}"
        except TypeError as error:
            return f"{type(error).__name__}: {error}"
        return "stored"

    async with hosting(path, processes=1) as client:
        handle = await client.start(flow)
        text = await handle.result()
        assert "NotSerializable" in text
        assert f"the result of activity {chosen.__name__}" in text
        assert "object" in text
        (failed,) = await of_kind(handle, "ActivityFailed")
        assert failed.fields["attempts"] == 1


async def test_a_result_over_the_limit_is_not_tried_again(path: Path) -> None:
    @activity
    async def huge() -> bytes:
        return b"x" * 2_000_001

    @workflow
    async def flow() -> None:
        await huge()

    async with hosting(path) as client:
        handle = await client.start(flow)
        with pytest.raises(WorkflowFailed, match=r"the result of activity huge holds 2\d+ bytes"):
            await handle.result()


async def test_a_lost_attempt_is_repeated_and_counts(path: Path) -> None:
    began = asyncio.Event()
    go_on = asyncio.Event()

    @activity
    async def slow() -> int:
        began.set()
        await go_on.wait()
        return info(ActivityInfo).attempt

    @workflow
    async def flow() -> int:
        return await slow()

    async with Client.connect(path) as client:
        async with Worker(client, stop_timeout=0):
            handle = await client.start(flow)
            await began.wait()
        description = await handle.describe()
        assert description.activities[0].last_error is not None
        assert "the worker stopped" in description.activities[0].last_error
        go_on.set()
        async with Worker(client):
            assert await handle.result() == 2


@pytest.mark.parametrize("how", ["at_most_once", "max_attempts=1"])
async def test_at_most_once_a_lost_attempt_is_final(path: Path, how: str) -> None:
    began = asyncio.Event()
    runs: list[int] = []

    @activity
    async def slow() -> None:
        runs.append(info(ActivityInfo).attempt)
        began.set()
        await asyncio.Event().wait()

    chosen = slow.options(at_most_once=True) if how == "at_most_once" else slow.options(retry=ONCE)

    @workflow
    async def flow() -> str:
        try:
            await chosen()
        except ActivityLost:
            return "lost"
        return "done"

    async with Client.connect(path) as client:
        async with Worker(client, stop_timeout=0):
            handle = await client.start(flow)
            await began.wait()
        async with Worker(client):
            assert await handle.result() == "lost"
    assert runs == [1]


async def test_an_attempt_that_never_began_is_not_counted(path: Path) -> None:
    began = asyncio.Event()
    free = asyncio.Event()

    @activity(at_most_once=True)
    async def hold() -> None:
        began.set()
        await free.wait()

    @activity(at_most_once=True)
    async def attempt() -> int:
        return info(ActivityInfo).attempt

    @workflow
    async def holder() -> None:
        await hold()

    @workflow
    async def waiter() -> int:
        return await attempt()

    async with Client.connect(path) as client:
        async with Worker(client, activity_slots=1, stop_timeout=0):
            first = await client.start(holder)
            await began.wait()
            second = await client.start(waiter)
            waiting = await described(second, lambda d: d.activities)
            assert waiting.activities[0].state == "waiting"
        async with Worker(client):
            assert await second.result() == 1
            with pytest.raises(WorkflowFailed):
                await first.result()


async def test_slots_limit_what_runs_at_once_and_serve_in_order(path: Path) -> None:
    order: list[int] = []
    running = 0
    peak = 0

    @activity
    async def work(number: int) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        order.append(number)
        await asyncio.sleep(0)
        running -= 1

    @workflow
    async def flow() -> None:
        await asyncio.gather(*(work(number) for number in range(20)))

    async with hosting(path, activity_slots=3) as client:
        await client.run(flow)
    assert peak == 3
    assert order == list(range(20))


async def test_options_hold_for_one_call_and_are_recorded_with_it(path: Path) -> None:
    @activity(timeout=60)
    async def work() -> None: ...

    @workflow
    async def flow() -> None:
        await work()
        await work.options(timeout=5, at_most_once=True)()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.result()
        plain, changed = await of_kind(handle, "ActivityScheduled")
        assert plain.fields["options"] == {"start_to_close_us": 60_000_000}
        assert changed.fields["options"] == {
            "start_to_close_us": 5_000_000,
            "at_most_once": True,
        }
