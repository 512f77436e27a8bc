"""The four timeouts of an activity, its heartbeats, and its cancellation."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    ActivityInfo,
    ActivityTimeout,
    Client,
    Retry,
    Signal,
    Worker,
    WorkflowCancelled,
    activity,
    heartbeat,
    info,
    workflow,
)
from tests.support.hosting import AT_ONCE, ONCE, described, hosting, kinds, of_kind

give_up: Signal[None] = Signal("give up", None)


async def forever() -> Any:
    await asyncio.Event().wait()


async def test_start_to_close_ends_an_attempt_and_the_policy_goes_on(path: Path) -> None:
    @activity(timeout=0.02, retry=AT_ONCE)
    async def slow() -> int:
        attempt = info(ActivityInfo).attempt
        if attempt == 1:
            await forever()
        return attempt

    @workflow
    async def flow() -> int:
        return await slow()

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == 2
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert scheduled.attempts[0].state == "timed_out"
        assert "start_to_close" in scheduled.attempts[0].error


async def test_the_last_start_to_close_reaches_the_workflow_as_a_timeout(path: Path) -> None:
    @activity(timeout=0.02, retry=ONCE)
    async def slow() -> None:
        await forever()

    @workflow
    async def flow() -> list[object]:
        try:
            await slow()
        except TimeoutError as error:
            return [getattr(error, "kind", None), str(error)]
        return []

    async with hosting(path) as client:
        kind, text = await client.run(flow)
        assert kind == "start_to_close"
        assert "start_to_close" in str(text)


async def test_schedule_to_close_bounds_all_attempts_together(path: Path) -> None:
    @activity(schedule_to_close=0.1, retry=Retry(delay=0.01, backoff=1))
    async def flaky() -> None:
        raise ConnectionError("closed")

    @workflow
    async def flow() -> str:
        try:
            await flaky()
        except ActivityTimeout as error:
            return error.kind
        return ""

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "schedule_to_close"
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert len(scheduled.attempts) >= 2


async def test_schedule_to_close_ends_a_running_attempt(path: Path) -> None:
    ended = asyncio.Event()

    @activity(schedule_to_close=0.03)
    async def slow() -> None:
        try:
            await forever()
        finally:
            ended.set()

    @workflow
    async def flow() -> str:
        try:
            await slow()
        except ActivityTimeout as error:
            return error.kind
        return ""

    async with hosting(path) as client:
        assert await client.run(flow) == "schedule_to_close"
        await ended.wait()


async def test_schedule_to_start_ends_the_wait_for_a_slot(path: Path) -> None:
    began = asyncio.Event()
    free = asyncio.Event()
    runs: list[str] = []

    @activity
    async def hold() -> None:
        began.set()
        await free.wait()

    @activity(schedule_to_start=0.03)
    async def hurry() -> None:
        runs.append("hurried")

    @workflow
    async def holder() -> None:
        await hold()

    @workflow
    async def flow() -> str:
        try:
            await hurry()
        except ActivityTimeout as error:
            return error.kind
        return ""

    async with hosting(path, activity_slots=1) as client:
        holding = await client.start(holder)
        await began.wait()
        assert await client.run(flow) == "schedule_to_start"
        free.set()
        await holding.result()
        # The one that gave up takes no slot later.
        await client.run(holder)
    assert runs == []


async def test_silence_of_a_heartbeat_timeout_ends_an_attempt(path: Path) -> None:
    @activity(heartbeat_timeout=0.03, retry=ONCE)
    async def silent() -> None:
        await forever()

    @workflow
    async def flow() -> str:
        try:
            await silent()
        except ActivityTimeout as error:
            return error.kind
        return ""

    async with hosting(path) as client:
        assert await client.run(flow) == "heartbeat"


async def test_beats_keep_an_attempt_alive(path: Path) -> None:
    @activity(heartbeat_timeout=0.5, retry=ONCE)
    async def steady() -> int:
        for beat in range(12):
            heartbeat(beat)
            await asyncio.sleep(0.05)  # tidy: waits because time must pass between two beats
        return 12

    @workflow
    async def flow() -> int:
        return await steady()

    async with hosting(path) as client:
        assert await client.run(flow) == 12


async def test_a_thread_beats_too(path: Path) -> None:
    @activity(heartbeat_timeout=5, retry=AT_ONCE)
    def steady() -> object:
        attempt = info(ActivityInfo)
        heartbeat({"row": 3})
        if attempt.attempt == 1:
            raise RuntimeError("half way")
        return attempt.heartbeat_details

    @workflow
    async def flow() -> object:
        return await steady()

    async with hosting(path) as client:
        assert await client.run(flow) == {"row": 3}


@pytest.mark.parametrize("how", ["failure", "timeout", "restart"])
async def test_details_reach_the_next_attempt(path: Path, how: str) -> None:
    began = asyncio.Event()

    @activity(heartbeat_timeout=0.2, retry=AT_ONCE)
    async def copy_rows() -> object:
        attempt = info(ActivityInfo)
        if attempt.attempt > 1:
            return attempt.heartbeat_details
        assert attempt.heartbeat_details is None
        heartbeat(1)
        heartbeat(17)
        began.set()
        if how == "failure":
            raise RuntimeError("half way")
        return await forever()

    @workflow
    async def flow() -> object:
        return await copy_rows()

    async with Client.connect(path) as client:
        async with Worker(client, stop_timeout=0):
            handle = await client.start(flow)
            await began.wait()
            if how != "restart":
                assert await handle.result() == 17
        async with Worker(client):
            assert await handle.result() == 17


async def test_cancelling_reaches_an_async_activity_at_once(path: Path) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    @activity
    async def slow() -> None:
        began.set()
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    @workflow
    async def flow() -> str:
        work = asyncio.create_task(asyncio.wait_for(slow(), None))
        await give_up.receive()
        work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            return "gave up"
        return "done"

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.signal(give_up)
        await cancelled.wait()
        assert await handle.result() == "gave up"
        assert "ActivityCancelRequested" in await kinds(handle)
        assert "ActivityCompleted" not in await kinds(handle)


async def test_cancelling_the_workflow_cancels_what_it_awaits(path: Path) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    @activity
    async def slow() -> None:
        began.set()
        try:
            await forever()
        finally:
            cancelled.set()

    @workflow
    async def flow() -> None:
        await slow()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.cancel("enough")
        await cancelled.wait()
        with pytest.raises(WorkflowCancelled, match="enough"):
            await handle.result()


async def test_a_thread_sees_that_it_is_cancelled(path: Path) -> None:
    began = asyncio.Event()
    saw = threading.Event()
    loop = asyncio.get_running_loop()

    @activity
    def slow() -> None:
        loop.call_soon_threadsafe(began.set)
        pause = threading.Event()
        while not info(ActivityInfo).cancelled:
            pause.wait(0.005)
        saw.set()

    @workflow
    async def flow() -> None:
        await slow()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.cancel()
        with pytest.raises(WorkflowCancelled):
            await handle.result()
        assert await asyncio.to_thread(saw.wait, 10)


@pytest.mark.parametrize("why", ["timeout", "cancel"])
async def test_a_thread_that_nobody_waits_for_keeps_its_slot(path: Path, why: str) -> None:
    """It cannot be stopped, and a limit counts what really runs."""
    began = asyncio.Event()
    end = threading.Event()
    loop = asyncio.get_running_loop()
    ran: list[str] = []

    @activity(retry=ONCE)
    def stubborn() -> None:
        loop.call_soon_threadsafe(began.set)
        end.wait(10)
        ran.append("stubborn")

    @activity
    async def following() -> None:
        ran.append("following")

    @workflow
    async def first() -> None:
        await stubborn.options(timeout=0.02 if why == "timeout" else 60)()

    @workflow
    async def second() -> None:
        await following()

    async with hosting(path, activity_slots=1) as client:
        stuck = await client.start(first)
        await began.wait()
        if why == "cancel":
            await stuck.cancel()
        await described(stuck, lambda d: d.status in ("failed", "cancelled"))
        waiting = await client.start(second)
        description = await described(waiting, lambda d: d.activities)
        assert description.activities[0].state == "waiting"
        end.set()
        await waiting.result()
    assert ran == ["stubborn", "following"]


async def test_a_worker_stops_at_once_when_nothing_is_at_work_any_more(path: Path) -> None:
    end = threading.Event()

    @activity(timeout=0.02, retry=ONCE)
    def stubborn() -> None:
        end.wait(10)

    @workflow
    async def flow() -> str:
        try:
            await stubborn()
        except ActivityTimeout as error:
            return error.kind
        return ""

    async with asyncio.timeout(5), hosting(path, stop_timeout=30) as client:
        assert await client.run(flow) == "start_to_close"
        end.set()
