"""`wait_condition`: true at once, later, in time or not; and what a predicate may not do."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from everlong import (
    EverlongError,
    Query,
    Signal,
    WorkflowFailed,
    activity,
    wait_condition,
    workflow,
)
from tests.support.hosting import described, hosting, of_kind

votes = Signal("conditions-votes", str)
counted = Query("conditions-counted", int)


@pytest.mark.parametrize("cache_size", [1_000, 0])
async def test_it_waits_until_the_variables_say_so(path: Path, cache_size: int) -> None:
    @workflow
    async def election(needed: int) -> list[str]:
        got: list[str] = []

        async def collect() -> None:
            while True:
                got.append(await votes.receive())

        collecting = asyncio.create_task(collect())
        await wait_condition(lambda: len(got) >= needed)
        collecting.cancel()
        return got

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(election, 3)
        for name in ("ann", "bob", "eve"):
            await handle.signal(votes, name)
        assert await handle.result() == ["ann", "bob", "eve"]


async def test_one_that_holds_already_waits_for_nothing(path: Path) -> None:
    @workflow
    async def flow() -> str:
        await wait_condition(lambda: True)
        await wait_condition(lambda: [0], timeout=5)
        return "through"

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "through"
        assert await of_kind(handle, "TimerStarted") == []


@pytest.mark.parametrize("timeout", [0.01, timedelta(milliseconds=10)])
async def test_what_does_not_hold_in_time_is_a_timeout(
    path: Path, timeout: float | timedelta
) -> None:
    @workflow
    async def flow() -> str:
        try:
            await wait_condition(lambda: False, timeout=timeout)
        except TimeoutError:
            return "too late"
        return "held"

    async with hosting(path) as client:
        assert await client.run(flow) == "too late"


async def test_several_that_wait_are_woken_in_the_order_in_which_they_began(path: Path) -> None:
    @workflow
    async def flow() -> list[str]:
        got: list[str] = []
        trace: list[str] = []

        async def wait(name: str, needed: int) -> None:
            await wait_condition(lambda: len(got) >= needed)
            trace.append(name)

        waiting = [
            asyncio.create_task(wait(name, needed))
            for name, needed in (("c", 2), ("a", 2), ("b", 1))
        ]
        got.append(await votes.receive())
        got.append(await votes.receive())
        await asyncio.gather(*waiting)
        return trace

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.signal(votes, "1")
        await handle.signal(votes, "2")
        assert await handle.result() == ["b", "c", "a"]


async def test_one_condition_can_make_another_one_true_in_the_same_drive(path: Path) -> None:
    @workflow
    async def flow() -> str:
        steps: list[str] = []

        async def second() -> None:
            await wait_condition(lambda: "first" in steps)
            steps.append("second")

        task = asyncio.create_task(second())
        await votes.receive()
        steps.append("first")
        await wait_condition(lambda: "second" in steps)
        await task
        return " ".join(steps)

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.signal(votes, "go")
        assert await handle.result() == "first second"


async def test_what_the_predicate_raises_is_raised_where_it_is_waited_for(path: Path) -> None:
    @workflow
    async def flow() -> str:
        shares: dict[str, int] = {}

        async def fill() -> None:
            await votes.receive()
            shares["x"] = 0

        task = asyncio.create_task(fill())
        try:
            await wait_condition(lambda: "x" in shares and 1 / shares["x"])
        except ZeroDivisionError:
            await task
            return "divided by zero"
        return "held"

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.signal(votes, "go")
        assert await handle.result() == "divided by zero"


async def test_an_async_predicate_blocks_the_run_and_says_what_to_do(path: Path) -> None:
    @activity
    async def look() -> bool:
        return True

    @workflow
    async def flow() -> None:
        await wait_condition(look)

    async with hosting(path) as client:
        handle = await client.start(flow)
        found = await described(handle, lambda it: it.status == "blocked")
        assert "must be a plain function" in (found.reason or "")


async def test_a_cancellation_leaves_no_condition_behind(path: Path) -> None:
    @workflow
    async def flow() -> int:
        asked = 0

        def predicate() -> bool:
            nonlocal asked
            asked += 1
            return False

        @counted.handler
        def _() -> int:
            return asked

        task = asyncio.create_task(wait_condition(predicate))
        await votes.receive()
        task.cancel()
        await votes.receive()
        before = asked
        await votes.receive()
        return asked - before

    async with hosting(path) as client:
        handle = await client.start(flow)
        for _ in range(3):
            await handle.signal(votes, "go")
        assert await handle.result() == 0
        assert await handle.query(counted) > 0


async def test_a_signal_against_a_timeout_is_decided_once(path: Path) -> None:
    """Whichever comes first, each replay says the same."""

    @workflow
    async def flow() -> str:
        got: list[str] = []

        async def collect() -> None:
            got.append(await votes.receive())

        task = asyncio.create_task(collect())
        try:
            await wait_condition(lambda: bool(got), timeout=0.02)
        except TimeoutError:
            task.cancel()
            return "timeout"
        return got[0]

    outcomes: list[str] = []
    async with hosting(path) as client:
        for number in range(30):
            handle = await client.start(flow, id=f"race-{number}")
            await asyncio.sleep(0.015 + number % 7 * 0.002)  # tidy: waits because of a timer
            try:
                await handle.signal(votes, "signal")
            except EverlongError:
                assert await handle.result() == "timeout"
            outcomes.append(await handle.result())
    async with hosting(path, cache_size=0) as client:
        for number, outcome in enumerate(outcomes):
            assert await client.get_handle(f"race-{number}", flow).result() == outcome
    assert set(outcomes) <= {"signal", "timeout"}


async def test_outside_a_workflow_it_says_where_it_belongs() -> None:
    with pytest.raises(EverlongError, match="inside a running workflow"):
        await wait_condition(lambda: True)


async def test_a_timeout_that_is_none_is_refused(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await wait_condition(lambda: False, timeout=-1)

    async with hosting(path) as client:
        with pytest.raises(WorkflowFailed) as failed:
            await client.run(flow)
        assert "timeout" in str(failed.value.__cause__)
