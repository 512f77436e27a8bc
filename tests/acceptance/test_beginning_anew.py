"""Runs that begin anew: at once, over and over, and never one of them lost."""

from pathlib import Path

import pytest

from everlong import activity, checkpoint, continue_as_new, workflow
from tests.support.hosting import hosting


@pytest.mark.parametrize("cache_size", [1000, 0])
async def test_a_run_that_begins_anew_in_its_first_drive_goes_on(
    path: Path, cache_size: int
) -> None:
    @workflow
    async def countdown(rest: int) -> str:
        if rest:
            continue_as_new(rest=rest - 1)
        return "done"

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(countdown, 3, id="countdown")
        assert await handle.result() == "done"
        runs = (await client.list(workflow_id="countdown")).items
        assert [run.status for run in runs] == ["completed", *["continued_as_new"] * 3]
        assert not await client.verify()


async def test_a_checkpoint_past_the_threshold_begins_anew_with_its_parameters(path: Path) -> None:
    @activity
    async def plus_one(number: int) -> int:
        return number + 1

    @workflow
    async def counting(limit: int, number: int = 0) -> int:
        while number < limit:
            number = await plus_one(number)
            await checkpoint(number=number)
        return number

    async with hosting(path) as client:
        assert await client.run(counting, 600, id="counting") == 600
        runs = (await client.list(workflow_id="counting")).items
        assert [run.status for run in runs] == ["completed", "continued_as_new"]
