"""How an execution ends: cancelled with its clean-up, terminated at once, timed out."""

import asyncio
from pathlib import Path

import pytest

from everlong import (
    Client,
    Signal,
    Worker,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowInfo,
    WorkflowNotFound,
    WorkflowTerminated,
    WorkflowTimedOut,
    activity,
    continue_as_new,
    info,
    workflow,
)
from tests.support.hosting import described, hosting, kinds, of_kind, until
from tests.support.other_process import other_process

go_on: Signal[int] = Signal("go on", int)


async def test_cancellation_cleans_up_durably(path: Path) -> None:
    refunded: list[str] = []

    @activity
    async def refund(name: str) -> str:
        refunded.append(name)
        return f"refunded {name}"

    @workflow
    async def flow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await refund("deposit")
            await asyncio.sleep(0.01)
            await refund("fee")

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.cancel("changed my mind")
        with pytest.raises(WorkflowCancelled, match="changed my mind") as caught:
            await handle.result()
        assert caught.value.reason == "changed my mind"
        assert (await handle.describe()).status == "cancelled"
    assert refunded == ["deposit", "fee"]


async def test_clean_up_goes_on_after_a_restart(path: Path) -> None:
    began, finish = asyncio.Event(), asyncio.Event()

    @activity
    async def refund() -> None:
        began.set()
        await finish.wait()

    @workflow
    async def flow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await refund()

    async with Client.connect(path) as client:
        async with Worker(client, stop_timeout=0):
            handle = await client.start(flow)
            await handle.cancel()
            await began.wait()
        finish.set()
        async with Worker(client):
            with pytest.raises(WorkflowCancelled):
                await handle.result()
        assert (await kinds(handle)).count("ActivityScheduled") == 1


@pytest.mark.once
async def test_cancellation_is_delivered_once(path: Path) -> None:
    caught: list[str | None] = []

    @workflow
    async def flow() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            caught.append(info(WorkflowInfo).cancel_reason)
        value = await go_on.receive()
        return f"went on with {value}"

    async with hosting(path) as client:
        handle = await client.start(flow)
        for reason in ("first", "second", "third"):
            await handle.cancel(reason)
        await handle.signal(go_on, 7)
        assert await handle.result() == "went on with 7"
    assert caught == ["first"]


async def test_cancellation_before_the_first_step(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await asyncio.sleep(3600)

    async with Client.connect(path) as client:
        handle = await client.start(flow)
        await handle.cancel("at once")
        async with Worker(client):
            with pytest.raises(WorkflowCancelled, match="at once"):
                await handle.result()


async def test_a_cancelled_execution_is_not_cancelled_again_in_its_next_run(path: Path) -> None:
    @workflow
    async def flow(cancelled: bool = False) -> str:
        if cancelled:
            await asyncio.sleep(0.01)
            return f"cleaned up, {info(WorkflowInfo).cancel_reason is not None}"
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue_as_new(cancelled=True)
        return "not cancelled"

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.cancel("once")
        assert await handle.result() == "cleaned up, True"


async def test_another_process_cancels_through_the_file(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await asyncio.sleep(3600)

    async with hosting(path) as client, other_process(path) as other:
        handle = await client.start(flow, id="far")
        await other.do("cancel", id="far", reason="from afar")
        with pytest.raises(WorkflowCancelled, match="from afar"):
            await handle.result()


async def test_terminate_closes_at_once_without_clean_up(path: Path) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    @activity
    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @activity
    async def clean_up() -> None:
        ran.append("clean-up")

    @workflow
    async def flow() -> None:
        try:
            await work()
        finally:
            await clean_up()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.terminate("out of control")
        await stopped.wait()
        with pytest.raises(WorkflowTerminated, match="out of control"):
            await handle.result()
        assert (await kinds(handle))[-1] == "RunTerminated"
        with pytest.raises(WorkflowClosed):
            await handle.terminate()
        with pytest.raises(WorkflowClosed, match="terminated"):
            await handle.cancel()
        with pytest.raises(WorkflowNotFound):
            await client.get_handle("nobody").terminate()
        assert list(await client.verify()) == []
    assert ran == []


async def test_a_termination_leaves_nothing_in_the_inbox(path: Path) -> None:
    """Where anything lies there, each append that must not overtake it looks twice."""

    @workflow
    async def flow() -> None:
        await go_on.receive()

    async with hosting(path) as client, other_process(path) as other:
        # Many, since now and then the owner happens to look before it is told.
        for handle in [await client.start(flow) for _ in range(20)]:
            await handle.terminate()
        far = await client.start(flow, id="far")
        await other.do("terminate", id="far", reason="from afar")
        with pytest.raises(WorkflowTerminated):
            await far.result()

        async def nothing_is_left() -> bool:
            return await client.engine.store.mail_since(0, 10) == []

        await until(nothing_is_left)


async def test_terminate_needs_no_worker(path: Path) -> None:
    @workflow
    async def flow() -> None: ...

    async with Client.connect(path) as client:
        handle = await client.start(flow)
        await handle.terminate()
        with pytest.raises(WorkflowTerminated):
            await handle.result()
        async with Worker(client):
            assert (await handle.describe()).status == "terminated"


async def test_whoever_waits_here_hears_of_a_termination_elsewhere(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await asyncio.sleep(3600)

    async with hosting(path) as client, other_process(path) as other:
        handle = await client.start(flow, id="far")
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
        await other.do("terminate", id="far", reason="from afar")
        with pytest.raises(WorkflowTerminated, match="from afar"):
            await waiting


@pytest.mark.parametrize("cache_size", [1000, 0])
async def test_run_timeout_closes_the_run(path: Path, cache_size: int) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    @activity
    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @workflow
    async def flow() -> None:
        await work()

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(flow, run_timeout=0.05)
        with pytest.raises(WorkflowTimedOut) as caught:
            await handle.result()
        assert caught.value.kind == "run"
        await stopped.wait()
        assert (await handle.describe()).status == "timed_out"
        assert (await of_kind(handle, "RunTimedOut"))[0].fields["timeout"] == "run"


async def test_a_sleeping_run_times_out_also_after_a_restart(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await go_on.receive()

    async with Client.connect(path) as client:
        async with Worker(client):
            handle = await client.start(flow, run_timeout=0.05)
        async with Worker(client):
            with pytest.raises(WorkflowTimedOut):
                await handle.result()


@pytest.mark.parametrize("timeout", ["run_timeout", "execution_timeout"])
async def test_a_run_that_was_started_without_a_worker_times_out(path: Path, timeout: str) -> None:
    @workflow
    async def flow() -> None:
        await go_on.receive()

    async with Client.connect(path) as client:
        handle = await client.start(flow, **{timeout: 0.05})
        async with Worker(client):
            with pytest.raises(WorkflowTimedOut):
                await handle.result()


async def test_execution_timeout_counts_over_all_runs(path: Path) -> None:
    @workflow
    async def flow(rounds: int = 0) -> None:
        await asyncio.sleep(0.02)
        continue_as_new(rounds=rounds + 1)

    async with hosting(path) as client:
        handle = await client.start(flow, run_timeout=10, execution_timeout=0.1)
        with pytest.raises(WorkflowTimedOut) as caught:
            await handle.result()
        assert caught.value.kind == "execution"
        assert len((await client.list(workflow_id=handle.workflow_id)).items) > 1


async def test_what_is_in_time_is_not_timed_out(path: Path) -> None:
    @workflow
    async def flow() -> str:
        await asyncio.sleep(0.01)
        return "in time"

    async with hosting(path) as client:
        handle = await client.start(flow, run_timeout=20, execution_timeout=30)
        assert await handle.result() == "in time"


async def test_a_blocked_run_can_be_cancelled_and_terminated(path: Path) -> None:
    @workflow
    async def flow() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async with hosting(path) as client:
        handle = await client.start(flow)
        await described(handle, lambda d: d.status == "blocked")
        await handle.cancel("it is stuck")
        await handle.terminate("it is stuck")
        with pytest.raises(WorkflowTerminated):
            await handle.result()
