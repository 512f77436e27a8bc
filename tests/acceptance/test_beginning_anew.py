"""Runs that begin anew: at once, over and over, and never one of them lost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    WorkflowCancelled,
    WorkflowInfo,
    activity,
    checkpoint,
    continue_as_new,
    info,
    workflow,
)
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


async def test_the_reason_of_a_cancellation_outlives_the_run_that_was_asked(path: Path) -> None:
    @workflow
    async def stubborn(runs: int = 0) -> str:
        if runs == 0:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue_as_new(runs=1)
        if runs == 1:
            continue_as_new(runs=2)
        reason = info(WorkflowInfo).cancel_reason
        assert reason == "enough for today"
        raise asyncio.CancelledError

    async with hosting(path, cache_size=0) as client:
        handle = await client.start(stubborn)
        await handle.cancel("enough for today")
        with pytest.raises(WorkflowCancelled, match="was cancelled: enough for today"):
            await handle.result()
        assert len((await client.list(workflow_id=handle.workflow_id)).items) == 3


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


async def test_who_waits_for_a_flow_of_this_process_reads_nothing_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many appends it has, and whatever it begins anew."""
    monkeypatch.setattr("everlong_engine.model.limits.CHECKPOINT_EVENTS", 60)

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
        store = client.engine.store
        latest, reads = store.latest, 0

        async def counted(target: Any) -> Any:
            nonlocal reads
            reads += 1
            return await latest(target)

        monkeypatch.setattr(store, "latest", counted)
        assert await client.run(counting, 300) == 300
        assert reads < 60  # Two each time that it begins anew, and a few before it is claimed.
