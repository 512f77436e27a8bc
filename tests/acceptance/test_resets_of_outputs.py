"""Resets and forks of executions whose oldest output items are no longer kept."""

from pathlib import Path
from typing import Any

import pytest

from everlong import ItemsGone, Output, Signal, WorkflowHandle, continue_as_new, workflow
from tests.support.hosting import hosting, of_kind

few = Output("reset-few", int, keep=3)
go: Signal[int] = Signal("publish some more", int)


@workflow
async def publishes_more_than_is_kept(base: int = 0) -> int:
    """Ten items, whose values are their numbers; then so many more as it is told."""
    for number in range(10):
        await few.publish(base + number)
    more = await go.receive()
    for number in range(more):
        await few.publish(base + 10 + number)
    if not base:
        continue_as_new(base=10 + more)
    return base


async def numbers_of(handle: WorkflowHandle[Any], start: int = 0) -> list[int]:
    """Of the items that are kept, which must say their numbers themselves."""
    found = [one async for one in handle.subscribe(few, start, numbered=True, live=False)]
    numbers = [one.number for one in found]
    assert numbers == [one.value for one in found]
    return numbers


@pytest.mark.parametrize("as_fork", [False, True])
async def test_numbers_go_on_where_the_oldest_items_are_gone(path: Path, as_fork: bool) -> None:
    async with hosting(path, workflows=[publishes_more_than_is_kept]) as client:
        handle = await client.start(publishes_more_than_is_kept, id="trimmed")
        await handle.signal(go, 5)
        await handle.signal(go, 2)
        assert await handle.result() == 15
        kept = await numbers_of(handle)
        assert (kept[0] > 15, kept[-1]) == (True, 26)
        (received,) = await of_kind(handle, "SignalReceived")
        if as_fork:
            again = await handle.fork("again", received.seq)
        else:
            again = await handle.reset(received.seq)
        assert await again.result() == 15
        # A reset's own items stand behind those that were there; a fork has its own numbers.
        numbers = await numbers_of(again) if as_fork else [one for one, _ in await pairs(again)]
        assert numbers[-1] == (26 if as_fork else 28)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert len(numbers) <= 4
        with pytest.raises(ItemsGone, match=f"the oldest is {numbers[0]}"):
            await numbers_of(again, 1)
        assert list(await client.verify()) == []


async def test_a_fork_from_before_all_that_is_kept_has_none_of_it(path: Path) -> None:
    async with hosting(path, workflows=[publishes_more_than_is_kept]) as client:
        handle = await client.start(publishes_more_than_is_kept, 100, id="early")
        await handle.signal(go, 5)
        assert await handle.result() == 100
        (begun,) = await of_kind(handle, "RunStarted")
        again = await handle.fork("again", begun.seq, reapply=False)
        await again.signal(go, 3)
        assert await again.result() == 100
        assert (await pairs(again))[-1] == (12, 112)
        assert list(await client.verify()) == []


async def pairs(handle: WorkflowHandle[Any]) -> list[tuple[int, int]]:
    """(number, value) of the items that are kept."""
    found = handle.subscribe(few, numbered=True, live=False)
    return [(one.number, one.value) async for one in found]


@workflow
async def publishes_and_begins_anew(again: bool = True) -> bool:
    await few.publish(int(again))
    if again:
        continue_as_new(again=False)
    return again


async def test_a_fork_to_the_start_of_a_later_run_has_the_items_of_the_runs_before(
    path: Path,
) -> None:
    async with hosting(path, workflows=[publishes_and_begins_anew]) as client:
        handle = await client.start(publishes_and_begins_anew, id="two-runs")
        await handle.result()
        fork = await handle.fork("another", "start")
        await fork.result()
        items = [one async for one in fork.subscribe(few, numbered=True, live=False)]
        assert [(one.number, one.value) for one in items] == [(0, 1), (1, 0)]
        assert list(await client.verify()) == []
