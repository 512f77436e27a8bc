"""An execution that is to begin later: it is there at once, and none of its code runs before."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    InvalidFilter,
    Signal,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowNotFound,
    WorkflowTerminated,
    WorkflowTimedOut,
    literal,
    now,
    workflow,
)
from everlong.testing import Environment
from everlong.workflow import Workflow
from tests.support.hosting import described, hosting, kinds

HOUR = timedelta(hours=1)
greeting: Signal[str] = Signal("a greeting before the beginning", str)
began: list[str] = []


@pytest.fixture(autouse=True)
def _anew() -> None:
    began.clear()


@workflow
async def begins_late(name: str = "it") -> str:
    began.append(name)
    return f"{name} at {now():%H:%M}"


@workflow
async def greets_late() -> str:
    began.append("greets")
    return await greeting.receive()


FLOWS: list[Workflow[Any, Any]] = [begins_late, greets_late]


async def test_it_begins_when_it_should_and_not_before(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        before = datetime.now(UTC)
        handle = await client.start(begins_late, id="one", start_delay=0.3)
        found = await handle.describe()
        assert found.begins_at is not None
        assert found.begins_at >= before + timedelta(seconds=0.3)
        assert (found.status, found.history_events, found.owner) == ("running", 0, None)
        assert found.input == {"name": "it"}
        assert await handle.result()
        (started,) = [one for one in await handle.history() if one.kind == "RunStarted"]
        assert started.at >= found.begins_at
        assert (await handle.describe()).begins_at is None
        assert await client.verify() == []


async def test_it_is_listed_with_its_beginning(path: Path) -> None:
    at = datetime.now(UTC) + timedelta(days=3)
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(begins_late, id="one", start_at=at)
        (listed,) = (await client.list()).items
        assert listed.begins_at == (await handle.describe()).begins_at == at
        await client.start(greets_late, id="at once")
        for text, found in (
            ("begins is set", {"one"}),
            ("begins is not set", {"at once"}),
            (f"begins > {literal(at - HOUR)} and status = 'running'", {"one"}),
            (f"begins < {literal(at)}", set[str]()),
        ):
            assert {one.workflow_id for one in (await client.list(filter=text)).items} == found
            assert await client.count(text) == len(found)
        with pytest.raises(InvalidFilter, match="group_by='begins'"):
            await client.count(group_by="begins")
        await handle.pause()
        assert (await handle.describe()).begins_at == at


async def test_messages_wait_and_wake_nobody(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(greets_late, id="one", start_delay=HOUR)
        at = (await handle.describe()).begins_at
        for name in ("a", "b"):
            await client.get_handle("one").signal(greeting, name)
        found = await handle.describe()
        assert (found.begins_at, found.owner, found.history_events) == (at, None, 0)
        assert (await client.list()).items[0].begins_at == at
        assert began == []


async def test_a_signal_that_comes_with_it_waits_too(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(
            greets_late, id="one", start_delay=0.1, signal=(greeting, "hello")
        )
        assert await handle.result() == "hello"


@pytest.mark.parametrize("worker_first", [True, False])
async def test_it_is_cancelled_before_it_begins(path: Path, worker_first: bool) -> None:
    async with Client.connect(path) as client:
        handle = await client.start(greets_late, id="one", start_delay=HOUR)
        if not worker_first:
            await handle.signal(greeting, "never heard")
            await handle.cancel("not needed")
        async with hosting(path, workflows=FLOWS):
            if worker_first:
                await handle.signal(greeting, "never heard")
                await handle.cancel("not needed")
            with pytest.raises(WorkflowCancelled, match="not needed"):
                await handle.result()
        assert began == []
        assert await kinds(handle) == ["RunCancelled"]
        assert (await handle.describe()).begins_at is None
        assert await client.verify() == []


async def test_it_is_terminated_before_it_begins(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(begins_late, id="one", start_delay=HOUR)
        await handle.terminate("not needed")
        with pytest.raises(WorkflowTerminated):
            await handle.result()
        with pytest.raises(WorkflowClosed):
            await handle.signal(greeting, "too late")
        again = await client.start(begins_late, id="one")
        assert await again.result()


@pytest.mark.once
async def test_a_pause_does_not_shorten_the_wait(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(begins_late, id="one", start_delay=HOUR)
        at = (await handle.describe()).begins_at
        await handle.pause()
        await handle.resume()
        await described(handle, lambda it: it.owner is None and it.begins_at == at)
        (listed,) = (await client.list()).items
        assert listed.status == "running"
        await described(handle, lambda it: it.history_events == 0)
        await client.pause(type=begins_late)
        later = await client.start(begins_late, id="two", start_delay=0.05)
        assert (await later.describe()).status == "paused"
        await client.resume(type=begins_late)
        assert await later.result()
        assert began == ["it"]


@pytest.mark.once
async def test_its_time_limits_count_from_its_beginning(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        handle = await client.start(
            greets_late, id="one", start_delay=0.2, run_timeout=0.1, execution_timeout=5.0
        )
        with pytest.raises(WorkflowTimedOut):
            await handle.result()
        assert began == ["greets"]


@pytest.mark.once
async def test_it_outlives_its_worker_and_its_process(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        await client.start(greets_late, id="one", start_delay=HOUR)
        handle = await client.start(begins_late, id="two", start_delay=0.3)
        await handle.signal(greeting, "nobody listens")
    async with hosting(path, workflows=FLOWS, cache_size=0) as client:
        assert await client.get_handle("two").result()
        found = await client.get_handle("one").describe()
        assert found.begins_at is not None
        assert began == ["it"]


@pytest.mark.once
async def test_who_waits_for_the_result_waits_for_the_beginning_too(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        assert await client.run(begins_late, "now", id="x", start_delay=0.05)
        request: dict[str, Any] = {"id": "y", "request_id": "r", "start_delay": 0.05}
        first = await client.start(begins_late, **request)
        second = await client.start(begins_late, **request)
        assert first.run_id == second.run_id
        await second.result()
        assert began == ["now", "it"]


async def test_the_virtual_clock_moves_to_it() -> None:
    async with Environment(workflows=FLOWS) as env:
        asked = env.now
        handle = await env.client.start(begins_late, id="one", start_delay=timedelta(days=30))
        assert await handle.result()
        assert env.now - asked >= timedelta(days=30)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"start_delay": -1}, "start_delay must be between 0 seconds and 100 years"),
        ({"start_at": datetime(2030, 1, 1)}, "give an aware datetime"),  # noqa: DTZ001
        ({"start_at": datetime(4999, 1, 1, tzinfo=UTC)}, "later than anything can begin"),
        ({"start_at": datetime.now(UTC), "start_delay": 1}, "not both"),
    ],
)
async def test_a_beginning_that_makes_no_sense_is_refused(
    path: Path, how: dict[str, Any], text: str
) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        with pytest.raises(ValueError, match=text):
            await client.start(begins_late, id="one", **how)
        with pytest.raises(WorkflowNotFound):
            await client.get_handle("one").describe()


async def test_what_is_past_or_now_begins_at_once(path: Path) -> None:
    async with hosting(path, workflows=FLOWS) as client:
        past = datetime.now(UTC) - HOUR
        for how in ({"start_at": past}, {"start_delay": 0}):
            options: dict[str, Any] = how
            assert await client.run(begins_late, **options)
        await asyncio.sleep(0)
