"""Pools of workflows: how many executions are under way at once, and what becomes of the others."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    DefinitionError,
    InvalidArguments,
    PoolFull,
    PoolSummary,
    Rate,
    Retry,
    Signal,
    Worker,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowPool,
    WorkflowTerminated,
    WorkflowTimedOut,
    activity,
    continue_as_new,
    workflow,
)
from everlong.testing import Environment
from everlong.workflow import Workflow
from tests.support.hosting import described, hosting, kinds, until

leave: Signal[str] = Signal("leave the pool", str)


def by_first(customer: str, *_: object) -> str:
    return customer


def by_length(name: str, *_: object) -> int:
    return len(name)


def waiting_flow(pool: WorkflowPool | None, began: list[str], **options: Any) -> Workflow[Any, Any]:
    """Begins, and is under way until it is told to leave."""

    @workflow(pool=pool, **options)
    async def waits(name: str, number: int = 0) -> str:
        began.append(f"{name}{number or ''}")
        return f"{name} {await leave.receive()}"

    return waits


async def pool_of(client: Client, name: str) -> PoolSummary:
    found = [one for one in await client.pools() if one.pool == name]
    return found[0] if found else PoolSummary(pool=name, waiting=0, running=0, oldest_at=None)


def stands(
    client: Client, name: str, *, waiting: int, running: int
) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        found = await pool_of(client, name)
        return (found.waiting, found.running) == (waiting, running)

    return look


async def test_no_more_are_under_way_than_a_pool_lets_through(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("of three", concurrency=3), began)
    async with hosting(path) as client, Worker(client, name="second"):
        handles = [await client.start(flow, "f", number, id=f"f{number}") for number in range(1, 6)]
        await until(stands(client, "of three", waiting=2, running=3))
        assert len(began) == 3
        found = await handles[-1].describe()
        assert (found.waits_for_turn, found.status, found.owner) == (True, "running", None)
        assert found.begins_at is None
        for number, handle in enumerate(handles):
            await handle.signal(leave, str(number))  # Also those that have not begun.
        results = await asyncio.gather(*(one.result() for one in handles))
        assert results == [f"f {number}" for number in range(5)]
        assert await client.pools() == []
        assert await client.engine.store.verify() == []
    assert sorted(began) == ["f1", "f2", "f3", "f4", "f5"]


async def test_an_execution_that_sleeps_keeps_its_place(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("with a sleeper", concurrency=1), began)
    async with Client.connect(path) as client:
        async with Worker(client):
            first = await client.start(flow, "first")
            await until(stands(client, "with a sleeper", waiting=0, running=1))
        async with Worker(client):
            second = await client.start(flow, "second")
            await until(stands(client, "with a sleeper", waiting=1, running=1))
            await first.signal(leave, "now")
            await until(stands(client, "with a sleeper", waiting=0, running=1))
            await second.signal(leave, "too")
            assert await second.result() == "second too"
    assert set(began) == {"first", "second"}


async def test_a_key_has_a_limit_of_its_own_and_its_turns(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(
        WorkflowPool("by key", concurrency=2, key_concurrency=1), began, key=by_first
    )
    async with hosting(path) as client:
        ann = [await client.start(flow, "ann", number) for number in range(1, 9)]
        bob = await client.start(flow, "bob")
        await until(stands(client, "by key", waiting=7, running=2))
        assert began == ["ann1", "bob"]
        await bob.signal(leave, "now")
        await bob.result()
        assert (await pool_of(client, "by key")).running == 1, "ann is at her limit"
        for one in ann:
            await one.signal(leave, "now")
        await asyncio.gather(*(one.result() for one in ann))
    assert began == ["ann1", "bob", *(f"ann{number}" for number in range(2, 9))]


async def test_keys_that_wait_are_served_in_turn(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("in turn", concurrency=1), began, key=by_first)
    async with hosting(path) as client:
        handles = [await client.start(flow, "ann", number) for number in range(1, 6)]
        await until(stands(client, "in turn", waiting=4, running=1))
        handles.append(await client.start(flow, "bob"))
        await until(stands(client, "in turn", waiting=5, running=1))
        for one in handles:
            await one.signal(leave, "now")
        await asyncio.gather(*(one.result() for one in handles))
    assert began[:3] == ["ann1", "bob", "ann2"]


async def test_the_most_urgent_goes_first(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("urgent", concurrency=1), began, priority=by_length)
    async with hosting(path) as client:
        names = ["a", "bb", "ccc", "dddd"]
        handles = [await client.start(flow, "x")]
        await until(stands(client, "urgent", waiting=0, running=1))
        handles += [await client.start(flow, name) for name in names]
        await until(stands(client, "urgent", waiting=4, running=1))
        for one in handles:
            await one.signal(leave, "now")
        await asyncio.gather(*(one.result() for one in handles))
    assert began == ["x", "dddd", "ccc", "bb", "a"]


async def test_a_pool_that_refuses_fails_what_would_have_to_wait(path: Path) -> None:
    began: list[str] = []
    pool = WorkflowPool("refuses", concurrency=1, at_limit="refuse")
    flow = waiting_flow(pool, began, retry=Retry(max_attempts=5))
    async with hosting(path) as client:
        first = await client.start(flow, "first")
        await until(stands(client, "refuses", waiting=0, running=1))
        second = await client.start(flow, "second")
        with pytest.raises(WorkflowFailed) as caught:
            await second.result()
        assert isinstance(caught.value.__cause__, PoolFull)
        assert "refuses" in str(caught.value.__cause__)
        assert (await second.describe()).status == "failed"
        assert await kinds(second) == ["RunFailed"]
        await first.signal(leave, "now")
        await first.result()
        third = await client.start(flow, "third")
        await third.signal(leave, "now")
        assert await third.result() == "third now"
        assert await client.engine.store.verify() == []
    assert began == ["first", "third"]


async def test_a_pool_may_cancel_the_newest(path: Path) -> None:
    began: list[str] = []
    pool = WorkflowPool("cancels the newest", key_concurrency=1, at_limit="cancel_newest")
    flow = waiting_flow(pool, began, key=by_first)
    async with hosting(path) as client:
        first = await client.start(flow, "ann", 1)
        await until(stands(client, "cancels the newest", waiting=0, running=1))
        with pytest.raises(WorkflowCancelled, match="no room"):
            await client.run(flow, "ann", 2)
        other = await client.start(flow, "bob")
        for one in (first, other):
            await one.signal(leave, "now")
            await one.result()
    assert began == ["ann1", "bob"]


async def test_a_pool_may_cancel_what_is_in_the_way(path: Path) -> None:
    began: list[str] = []
    pool = WorkflowPool("the newest wins", key_concurrency=1, at_limit="cancel_running")

    @workflow(pool=pool, key=by_first)
    async def build(branch: str, commit: int) -> int:
        began.append(f"{branch}{commit}")
        try:
            await leave.receive()
        except asyncio.CancelledError:
            await leave.receive()  # It takes its time to end.
            raise
        return commit

    async with hosting(path) as client:
        first = await client.start(build, "main", 1)
        other = await client.start(build, "side", 1)
        await until(stands(client, "the newest wins", waiting=0, running=2))
        second = await client.start(build, "main", 2)
        await described(first, lambda found: found.cancel_requested)
        third = await client.start(build, "main", 3)
        with pytest.raises(WorkflowCancelled, match="a newer one"):
            await second.result()  # It waited, and never begins.
        assert began == ["main1", "side1"]
        await first.signal(leave, "now")
        with pytest.raises(WorkflowCancelled, match="a newer one"):
            await first.result()
        for one in (third, other):
            await one.signal(leave, "now")
        assert (await third.result(), await other.result()) == (3, 1)
    assert began == ["main1", "side1", "main3"]


async def test_a_rate_holds_back_what_comes_too_soon() -> None:
    pool = WorkflowPool("by rate", rate=Rate(2, per=timedelta(minutes=1)))
    began: list[datetime] = []
    environment: list[Environment] = []

    @activity
    async def note() -> None:
        began.append(environment[0].now)

    @workflow(pool=pool)
    async def flow() -> None:
        await note()

    async with Environment() as env:
        environment.append(env)
        handles = [await env.client.start(flow) for _ in range(5)]
        await asyncio.gather(*(one.result() for one in handles))
    assert [round((at - began[0]).total_seconds()) for at in began] == [0, 0, 60, 60, 120]


async def test_who_waits_may_be_cancelled_or_terminated(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("left early", concurrency=1), began)
    async with hosting(path) as client:
        first, second, third, fourth = [
            await client.start(flow, name) for name in ("first", "second", "third", "fourth")
        ]
        await until(stands(client, "left early", waiting=3, running=1))
        await second.cancel("not now")
        with pytest.raises(WorkflowCancelled, match="not now"):
            await second.result()
        await third.terminate("never")
        with pytest.raises(WorkflowTerminated, match="never"):
            await third.result()
        await first.terminate("its place is free")
        await until(stands(client, "left early", waiting=0, running=1))
        await fourth.signal(leave, "now")
        assert await fourth.result() == "fourth now"
    assert began == ["first", "fourth"]


async def test_who_is_paused_lets_others_pass(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("with a pause", concurrency=1), began)
    async with hosting(path) as client:
        first, second, third = [
            await client.start(flow, name) for name in ("first", "second", "third")
        ]
        await until(stands(client, "with a pause", waiting=2, running=1))
        await second.pause(reason="later")
        await first.signal(leave, "now")
        await third.signal(leave, "now")
        await third.result()
        await second.resume()
        await second.signal(leave, "now")
        assert await second.result() == "second now"
    assert began == ["first", "third", "second"]


async def test_a_person_closes_a_pool_and_opens_it_again(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("closed", concurrency=5), began)
    async with hosting(path) as client:
        await client.limit_pool("closed", concurrency=0, by="ann")
        (found,) = [one for one in await client.limits() if one.pool == "closed"]
        assert (found.concurrency, found.set_by_person, found.by) == (0, True, "ann")
        assert (found.queue, found.at_limit) == ("", "wait")
        handle = await client.start(flow, "one")
        await until(stands(client, "closed", waiting=1, running=0))
        assert await client.unlimit_pool("closed") is True
        await handle.signal(leave, "now")
        assert await handle.result() == "one now"
        assert await client.unlimit_pool("closed") is False
    assert began == ["one"]


async def test_a_place_belongs_to_the_execution_with_all_its_runs(path: Path) -> None:
    began: list[str] = []

    @workflow(pool=WorkflowPool("many runs", concurrency=1), retry=Retry(delay=0.0, max_attempts=2))
    async def flow(name: str, rounds: int = 3) -> str:
        began.append(f"{name}{rounds}")
        if rounds:
            continue_as_new(rounds=rounds - 1)
        if began.count(f"{name}0") == 1:
            raise ValueError("once more")
        return name

    async with hosting(path) as client:
        handles = [await client.start(flow, name) for name in "ab"]
        assert await asyncio.gather(*(one.result() for one in handles)) == ["a", "b"]
    assert [one[0] for one in began] == ["a"] * began.index("b3") + ["b"] * (
        len(began) - began.index("b3")
    )


async def test_children_take_their_turns_too(path: Path) -> None:
    most, now = 0, 0

    @activity
    async def work() -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    @workflow(pool=WorkflowPool("children", concurrency=2))
    async def child(number: int) -> int:
        await work()
        return number

    @workflow
    async def parent() -> list[int]:
        return list(await asyncio.gather(*(child(number) for number in range(7))))

    async with hosting(path) as client:
        assert await client.run(parent) == list(range(7))
    assert most <= 2


async def test_workflows_may_share_a_pool(path: Path) -> None:
    began: list[str] = []
    pool = WorkflowPool("shared", concurrency=1)

    @workflow(pool=pool)
    async def one() -> None:
        began.append("one")
        await leave.receive()

    @workflow(pool=pool)
    async def other() -> None:
        began.append("other")

    async with hosting(path) as client:
        first = await client.start(one)
        await until(stands(client, "shared", waiting=0, running=1))
        second = await client.start(other)
        await until(stands(client, "shared", waiting=1, running=1))
        assert began == ["one"]
        await first.signal(leave, "now")
        await second.result()
    assert began == ["one", "other"]


async def test_an_execution_may_wait_for_longer_than_it_may_last() -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("too slow", concurrency=1), began)
    async with Environment() as env:
        first = await env.client.start(flow, "first")
        await until(stands(env.client, "too slow", waiting=0, running=1))
        second = await env.client.start(flow, "second", execution_timeout=60)
        with pytest.raises(WorkflowTimedOut):
            await second.result()
        await first.signal(leave, "now")
        assert await first.result() == "first now"
    assert began == ["first"]


async def test_who_begins_later_takes_its_turn_then(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("later", concurrency=1), began)
    async with hosting(path) as client:
        late = await client.start(flow, "late", start_delay=3600)
        soon = await client.start(flow, "soon")
        await until(stands(client, "later", waiting=0, running=1))
        assert (await late.describe()).begins_at is not None
        await soon.signal(leave, "now")
        assert await soon.result() == "soon now"
    assert began == ["soon"]


async def test_a_key_that_cannot_be_told_blocks_the_execution(path: Path) -> None:
    mended = False

    def key(name: str) -> Any:
        if not mended:
            raise LookupError(f"no customer {name}")
        return name

    @workflow(pool=WorkflowPool("keyed", key_concurrency=1), key=key)
    async def flow(name: str) -> str:
        return name

    async with hosting(path) as client:
        handle = await client.start(flow, "ann")
        found = await described(handle, lambda found: found.status == "blocked")
        assert "no customer ann" in str(found.reason)
        mended = True
        await handle.resume()
        assert await handle.result() == "ann"


async def test_pools_know_what_is_none() -> None:
    with pytest.raises(DefinitionError, match="give pool="):

        @workflow(priority=1)
        async def urgent() -> None: ...

    with pytest.raises(TypeError, match="give a WorkflowPool"):

        @workflow(pool="imports")  # type: ignore[call-overload,untyped-decorator]
        async def named() -> None: ...

    pool = WorkflowPool("for mistakes", concurrency=1)
    with pytest.raises(TypeError, match="no function"):

        @workflow(pool=pool, key="a")  # type: ignore[call-overload,untyped-decorator]
        async def keyed() -> None: ...

    with pytest.raises(TypeError, match="whole number"):

        @workflow(pool=pool, priority=1.5)  # type: ignore[call-overload,untyped-decorator]
        async def half() -> None: ...


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"concurrency": -1}, "0 to"),
        ({"key_concurrency": 1.5}, "whole number"),
        ({"rate": 5}, "give a Rate"),
        ({"concurrency": 1, "at_limit": "explode"}, "is not one of wait, refuse"),
    ],
)
async def test_limits_that_are_none_are_refused(
    path: Path, limits: dict[str, Any], says: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        WorkflowPool("refused", **limits)
    async with Client.connect(path) as client:
        with pytest.raises((TypeError, ValueError), match=says):
            await client.limit_pool("refused", **limits)


async def test_limits_of_nothing_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="names no pool"):
        WorkflowPool("")
    async with Client.connect(path) as client:
        with pytest.raises(InvalidArguments, match="needs a limit"):
            await client.limit_pool("imports")
        with pytest.raises(InvalidArguments, match="names no pool"):
            await client.limit_pool("\n", concurrency=1)


def test_two_files_cannot_declare_one_pool_with_different_limits() -> None:
    WorkflowPool("of two files", concurrency=1)
    WorkflowPool("of two files", concurrency=2)  # Here it is the same file.
    again = compile('WorkflowPool("of two files", concurrency=3)', "other.py", "exec")
    with pytest.raises(DefinitionError, match="two pools 'of two files'"):
        exec(again, {"WorkflowPool": WorkflowPool})


@pytest.mark.parametrize("renamed", [True, False])
async def test_who_waits_in_a_pool_that_the_code_no_longer_names_begins(
    path: Path, renamed: bool
) -> None:
    began: list[str] = []
    old = waiting_flow(WorkflowPool("its first name", concurrency=1), began, name="moved house")
    async with hosting(path, workflows=[old]) as client:
        handles = [await client.start(old, "one", number) for number in (1, 2, 3)]
        await until(stands(client, "its first name", waiting=2, running=1))
    pool = WorkflowPool("its second name", concurrency=3) if renamed else None
    new = waiting_flow(pool, began, name="moved house")
    async with hosting(path, workflows=[new]) as client:
        for number, handle in enumerate(handles, start=1):
            there = client.get_handle(handle.workflow_id, new)
            await there.signal(leave, str(number))
            assert await asyncio.wait_for(there.result(), 10) == f"one {number}"
        assert await client.pools() == []


async def test_a_pool_without_limits_counts_and_holds_nobody(path: Path) -> None:
    began: list[str] = []
    flow = waiting_flow(WorkflowPool("without limits"), began)
    async with hosting(path) as client:
        handles: list[WorkflowHandle[Any]] = [await client.start(flow, name) for name in "abc"]
        await until(stands(client, "without limits", waiting=0, running=3))
        assert [one for one in await client.limits() if one.pool == "without limits"] == []
        for one in handles:
            await one.signal(leave, "now")
            await one.result()
