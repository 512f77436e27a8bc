"""`map_all`: bounded, in order, and with a policy for what fails."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from everlong import (
    ApplicationError,
    TooManyFailures,
    WorkflowFailed,
    activity,
    map_all,
    workflow,
)
from tests.support.hosting import ONCE, hosting, kinds


@pytest.mark.parametrize("cache_size", [1_000, 0])
async def test_results_stand_in_the_order_of_the_items(path: Path, cache_size: int) -> None:
    @activity
    async def double(number: int) -> int:
        return 2 * number

    @workflow
    async def flow(count: int) -> list[int]:
        return (await map_all(double, range(count), limit=7)).results

    async with hosting(path, cache_size=cache_size) as client:
        assert await client.run(flow, 40) == list(range(0, 80, 2))


async def test_no_more_than_the_limit_are_on_the_way(path: Path) -> None:
    running = most = 0

    @activity
    async def work(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    @workflow
    async def flow() -> int:
        return len((await map_all(work, range(30), limit=4)).results)

    async with hosting(path) as client:
        assert await client.run(flow) == 30
    assert most == 4


async def test_some_may_fail_and_are_told(path: Path) -> None:
    @activity(retry=ONCE)
    async def picky(word: str) -> str:
        if word.startswith("b"):
            raise ApplicationError(f"no {word}")
        return word.upper()

    @workflow
    async def flow(words: list[str], tolerate: int) -> list[Any]:
        done = await map_all(picky, words, tolerate=tolerate)
        failures = [(one.index, one.item, str(one.error)) for one in done.failures]
        return [done.results, failures]

    words = ["a", "b1", "c", "b2", "d"]
    async with hosting(path) as client:
        assert await client.run(flow, words, 2) == [
            ["A", "C", "D"],
            [[1, "b1", "no b1"], [3, "b2", "no b2"]],
        ]
        with pytest.raises(WorkflowFailed) as failed:
            await client.run(flow, words, 1)
        assert isinstance(failed.value.__cause__, TooManyFailures)
        assert "2 of 5 items failed, and 1 may" in str(failed.value.__cause__)


async def test_when_too_many_fail_the_rest_is_cancelled_or_not_begun(path: Path) -> None:
    begun: list[int] = []

    @activity(retry=ONCE)
    async def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise ApplicationError("broken")
        await asyncio.Event().wait()

    @workflow
    async def flow() -> str:
        try:
            await map_all(work, range(100), limit=3)
        except TooManyFailures as error:
            return f"{error.failed} {error.items} {error.tolerated} {error.__cause__}"
        return "through"

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "1 100 0 broken"
        assert (await kinds(handle)).count("ActivityCancelRequested") == 2
    assert sorted(begun) == [0, 1, 2]


async def test_a_thousand_items_are_small_steps(path: Path) -> None:
    @activity
    async def nothing(_: int) -> None:
        pass

    @workflow
    async def flow() -> int:
        return len((await map_all(nothing, range(1_000))).results)

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == 1_000
        history = await handle.history()
    assert len(history) == 2_002


async def _half(number: int) -> int:
    if number % 2:
        raise ApplicationError("odd")
    return number


@given(
    count=st.integers(0, 30),
    limit=st.integers(1, 40),
    tolerate=st.one_of(st.integers(0, 30), st.floats(0, 1)),
)
async def test_the_policy_decides_by_number_or_by_share(
    count: int, limit: int, tolerate: float | int
) -> None:
    """Without an engine: it is plain asyncio."""
    odd = count // 2
    allowed = int(count * tolerate) if isinstance(tolerate, float) else tolerate
    if odd <= allowed:
        done = await map_all(_half, range(count), limit=limit, tolerate=tolerate)
        assert done.results == list(range(0, count, 2))
        assert [one.index for one in done.failures] == list(range(1, count, 2))
    else:
        with pytest.raises(TooManyFailures) as failed:
            await map_all(_half, range(count), limit=limit, tolerate=tolerate)
        assert failed.value.failed > allowed


async def test_a_least_number_of_successes() -> None:
    assert len((await map_all(_half, range(10), min_success=5)).results) == 5
    with pytest.raises(TooManyFailures):
        await map_all(_half, range(10), min_success=6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"limit": 0}, "at least one item"),
        ({"tolerate": -1}, "not below 0"),
        ({"tolerate": 1.5}, "a float is a share"),
        ({"min_success": 4}, "there are 3 items"),
        ({"min_success": 1, "tolerate": 1}, "not both"),
    ],
)
async def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        await map_all(_half, range(3), **options)
