"""Queries: answered from the state, open or closed, and they change nothing."""

import asyncio
from pathlib import Path

import pytest

from everlong import (
    Client,
    NoAnswer,
    Query,
    QueryFailed,
    Signal,
    Worker,
    WorkflowNotFound,
    activity,
    workflow,
)
from tests.support.hosting import described, hosting, kinds
from tests.support.other_process import OtherProcessError, other_process

status = Query("status", str)
times = Query("times", int)
step: Signal[str] = Signal("step", str)


@activity
async def charge() -> None: ...


@workflow(name="steps")
async def steps() -> str:
    state = "begun"

    @status.handler
    def _() -> str:
        return state

    @times.handler
    def _(factor: int, plus: int = 0) -> int:
        return factor * 2 + plus

    while state != "end":
        state = await step.receive()
    return state


async def test_a_query_sees_the_state_behind_what_was_acknowledged(path: Path) -> None:
    async with hosting(path, workflows=[steps]) as client:
        handle = await client.start(steps)
        assert await handle.query(status) == "begun"
        for each in ("one", "two"):
            await handle.signal(step, each)
            assert await handle.query(status) == each
        assert await handle.query("status") == "two"


async def test_arguments_are_checked_by_the_handler(path: Path) -> None:
    async with hosting(path, workflows=[steps]) as client:
        handle = await client.start(steps)
        assert await handle.query(times, 4) == 8
        assert await handle.query(times, "4", plus=1) == 9
        with pytest.raises(QueryFailed, match="factor"):
            await handle.query(times, "four")
        with pytest.raises(QueryFailed, match=r"missing.*factor"):
            await handle.query(times)


async def test_a_closed_run_still_answers_also_after_a_restart(path: Path) -> None:
    async with Client.connect(path) as client:
        async with Worker(client, workflows=[steps]):
            handle = await client.start(steps)
            await handle.signal(step, "end")
            await handle.result()
            assert await handle.query(status) == "end"
        async with Worker(client, workflows=[steps]):
            assert await handle.query(status) == "end"


async def test_a_sleeping_run_is_woken_for_the_answer(path: Path) -> None:
    async with hosting(path, workflows=[steps], cache_size=0) as client:
        handle = await client.start(steps)
        await handle.signal(step, "asleep")
        await described(handle, lambda d: d.owner is None)
        for _ in range(3):
            assert await handle.query(status) == "asleep"


async def test_a_query_leaves_no_trace(path: Path) -> None:
    async with hosting(path, workflows=[steps]) as client:
        handle = await client.start(steps)
        before = await kinds(handle)
        for _ in range(3):
            await handle.query(status)
        assert await kinds(handle) == before


async def test_an_unknown_query_names_those_that_there_are(path: Path) -> None:
    async with hosting(path, workflows=[steps]) as client:
        handle = await client.start(steps, id="walk")
        with pytest.raises(QueryFailed, match="status, times") as caught:
            await handle.query("colour")
        assert caught.value.workflow_id == "walk"
        assert caught.value.query == "colour"


async def test_an_unknown_workflow_is_not_found(path: Path) -> None:
    async with hosting(path, workflows=[steps]) as client:
        with pytest.raises(WorkflowNotFound, match="'nobody'"):
            await client.get_handle("nobody").query(status)


async def test_a_handler_that_raises_fails_the_query_and_not_the_run(path: Path) -> None:
    @workflow
    async def flow() -> str:
        @status.handler
        def _() -> str:
            raise KeyError("no state yet")

        return await step.receive()

    async with hosting(path) as client:
        handle = await client.start(flow)
        with pytest.raises(QueryFailed, match="KeyError: 'no state yet'"):
            await handle.query(status)
        await handle.signal(step, "done")
        assert await handle.result() == "done"


async def test_a_handler_cannot_run_an_activity_or_decide_anything(path: Path) -> None:
    @workflow
    async def flow() -> str:
        @status.handler
        def _() -> str:
            return repr(charge())

        return await step.receive()

    async with hosting(path) as client:
        handle = await client.start(flow)
        with pytest.raises(QueryFailed, match="only looks"):
            await handle.query(status)
        assert await kinds(handle) == ["RunStarted"]
        await handle.signal(step, "done")
        assert await handle.result() == "done"


async def test_a_handler_draws_no_lots_from_the_run(path: Path) -> None:
    """Chance in a handler is not the run's, or a query would change what follows."""
    import random as chance

    lots = Query("lots", float)

    @workflow
    async def flow() -> float:
        @lots.handler
        def _() -> float:
            return chance.random()

        await step.receive()
        return chance.random()

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow)
            for _ in range(3):
                await handle.query(lots)
            await handle.signal(step, "on")
            drawn = await handle.result()
        async with Worker(client):
            await handle.query(lots)  # Replays the run: it would not, had a lot been drawn.
            assert await handle.result() == drawn


async def test_another_process_asks_through_the_file(path: Path) -> None:
    async with hosting(path, workflows=[steps]) as client, other_process(path) as other:
        handle = await client.start(steps, id="walk")
        assert await other.do("query", id="walk", name="status") == "begun"
        with pytest.raises(OtherProcessError, match=r"QueryFailed.*status, times"):
            await other.do("query", id="walk", name="colour")
        with pytest.raises(OtherProcessError, match="WorkflowNotFound"):
            await other.do("query", id="nobody", name="status")
        await handle.signal(step, "end")
        await handle.result()
        assert await other.do("query", id="walk", name="status") == "end"


async def test_without_a_worker_nobody_answers(path: Path) -> None:
    async with Client.connect(path) as client:
        handle = await client.start(steps, id="walk")
        with pytest.raises(NoAnswer, match=r"within 0.02 seconds.*Worker"):
            await handle.query(status, timeout=0.02)


async def test_many_queries_and_signals_at_once(path: Path) -> None:
    async with hosting(path, workflows=[steps], cache_size=1) as client:
        handles = [await client.start(steps, id=f"walk-{n}") for n in range(5)]
        for round_name in ("a", "b", "end"):
            await asyncio.gather(*(handle.signal(step, round_name) for handle in handles))
            answers = await asyncio.gather(*(handle.query(status) for handle in handles))
            assert answers == [round_name] * 5
