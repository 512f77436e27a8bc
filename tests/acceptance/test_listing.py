"""Finding executions: lists in pages, filters, descriptions."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from everlong import Client, InvalidFilter, Signal, WorkflowNotFound, activity, workflow
from tests.support.hosting import described, hosting

go_on: Signal[int] = Signal("go on", int)


@workflow(name="quick")
async def quick(number: int) -> int:
    if number % 2:
        raise ValueError("odd")
    return number


@workflow(name="patient")
async def patient() -> int:
    return await go_on.receive()


async def test_pages_show_every_run_once_newest_first(path: Path) -> None:
    async with hosting(path, workflows=[quick]) as client:
        for number in range(25):
            await client.start(quick, number, id=f"q-{number:02}")
        seen: list[str] = []
        page = await client.list(limit=10)
        while True:
            seen += [one.workflow_id for one in page.items]
            if page.next is None:
                break
            page = await client.list(limit=10, after=page.next)
        assert seen == [f"q-{number:02}" for number in reversed(range(25))]


async def test_a_page_that_ends_exactly_has_no_next(path: Path) -> None:
    async with hosting(path, workflows=[quick]) as client:
        for number in range(4):
            await client.start(quick, number)
        assert (await client.list(limit=4)).next is None
        assert (await client.list(limit=3)).next is not None


async def test_filters_narrow_a_list(path: Path) -> None:
    async with hosting(path, workflows=[quick, patient]) as client:
        for number in range(6):
            handle = await client.start(quick, number, id=f"q-{number}")
            await asyncio.wait([asyncio.ensure_future(_ended(handle))])
        await client.start(patient, id="p")

        async def ids(**filters: Any) -> set[str]:
            return {one.workflow_id for one in (await client.list(**filters)).items}

        assert await ids(status="completed") == {"q-0", "q-2", "q-4"}
        assert await ids(status="failed") == {"q-1", "q-3", "q-5"}
        assert await ids(status="running") == {"p"}
        assert await ids(type="patient") == {"p"}
        assert await ids(type="quick", status="running") == set()
        assert await ids(workflow_id="q-3") == {"q-3"}


async def _ended(handle: Any) -> None:
    try:
        await handle.result()
    except Exception:
        return


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"status": "asleep"}, "choose one of running, blocked, paused, moved, completed"),
        ({"limit": 0}, "choose 1 to 1000"),
        ({"limit": 1001}, "choose 1 to 1000"),
        ({"after": "not-a-cursor"}, "pass a page's `next`"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_named(
    path: Path, filters: dict[str, Any], text: str
) -> None:
    async with Client.connect(path) as client:
        with pytest.raises(ValueError, match=text):
            await client.list(**filters)


@pytest.mark.once
async def test_describe_tells_what_a_run_waits_for(path: Path) -> None:
    began = asyncio.Event()

    @activity
    async def hold(item: str) -> None:
        began.set()
        await asyncio.Event().wait()

    @workflow
    async def flow(item: str) -> None:
        await asyncio.gather(hold(item), asyncio.sleep(3600))

    async with hosting(path, name="the worker", stop_timeout=0) as client:
        handle = await client.start(flow, "tea", id="order-1")
        await began.wait()
        await handle.signal(go_on, 1)
        found = await described(handle, lambda d: d.activities and d.timers)
        assert found.workflow_id == "order-1"
        assert found.run_id == handle.run_id
        assert (found.type, found.status, found.owner) == ("flow", "running", "the worker")
        assert found.hosted
        assert found.input == {"item": "tea"}
        (pending,) = found.activities
        assert (pending.name, pending.state, pending.attempt) == ("hold", "running", 1)
        assert pending.last_error is None
        assert pending.where.startswith("test_listing.py:")
        (timer,) = found.timers
        assert timer.where.startswith("test_listing.py:")
        assert (timer.due_at - found.started_at).total_seconds() > 3599
        assert found.signals == ("go on",)
        assert not found.cancel_requested


async def test_nobody_is_found_under_an_unknown_id(path: Path) -> None:
    async with Client.connect(path) as client:
        handle: Any = client.get_handle("nobody")
        for look in (handle.describe, handle.history, handle.result, handle.resume):
            with pytest.raises(WorkflowNotFound, match="'nobody'"):
                await look()
        with pytest.raises(WorkflowNotFound):
            await handle.history("no run id")


async def test_a_filter_finds_by_tags_and_by_what_runs_are(path: Path) -> None:
    async with hosting(path, workflows=[quick, patient]) as client:
        for number in range(6):
            tags = {"n": number, "even": number % 2 == 0}
            handle = await client.start(quick, number, id=f"q-{number}", tags=tags)
            await asyncio.wait([asyncio.ensure_future(_ended(handle))])
        await client.start(patient, id="p", tags={"n": "many"})

        async def ids(filter: str, **more: Any) -> list[str]:
            return [one.workflow_id for one in (await client.list(filter=filter, **more)).items]

        assert await ids("tag.n >= 4") == ["q-5", "q-4"]
        assert await ids("tag.even = true and status = 'completed'") == ["q-4", "q-2", "q-0"]
        assert await ids("tag.n = 'many' or id = 'q-3'") == ["p", "q-3"]
        assert await ids("not tag.n > 0", limit=2) == ["p", "q-0"]
        assert await ids("tag.n > 0", status="failed", limit=2) == ["q-5", "q-3"]
        assert await ids("closed is null and started > '2026-01-01'") == ["p"]
        assert await client.count("tag.n is set") == 7
        assert await client.count() == 7
        assert await client.count(group_by="status") == {"completed": 3, "failed": 3, "running": 1}
        assert await client.count(group_by="tag.even") == {True: 3, False: 3, None: 1}
        with pytest.raises(InvalidFilter, match="at character 10 of the filter"):
            await client.list(filter="status = happy")
        for wrong in ("started", "nonsense", ""):
            with pytest.raises(InvalidFilter):
                await client.count(group_by=wrong)


async def test_pages_of_a_filter_go_on_where_they_stopped(path: Path) -> None:
    async with Client.connect(path) as client:
        for number in range(9):
            await client.start("quick", id=f"q-{number}", tags={"odd": number % 2})
        seen: list[str] = []
        after: str | None = None
        while True:
            page = await client.list(filter="tag.odd = 1", limit=2, after=after)
            seen += [one.workflow_id for one in page.items]
            after = page.next
            if after is None:
                break
        assert seen == ["q-7", "q-5", "q-3", "q-1"]
