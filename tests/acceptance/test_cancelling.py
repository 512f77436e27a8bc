"""Cancellation: what becomes of activities, of cleanup, and of what it races against."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    ActivityInfo,
    Client,
    Retry,
    Signal,
    Worker,
    WorkflowCancelled,
    activity,
    info,
    workflow,
)
from everlong.worker._activities import ActivityRunner
from everlong.worker._owned import OpenAttempt
from tests.support.hosting import AT_ONCE, described, hosting, kinds, of_kind

go: Signal[bool] = Signal("cancelling-go", bool)


async def forever() -> None:
    await asyncio.Event().wait()


# ---------------------------------------------------------------------------- on_cancel="wait"


async def test_who_waits_goes_on_when_the_attempt_has_ended(path: Path) -> None:
    order: list[str] = []
    began, may_end = asyncio.Event(), asyncio.Event()

    @activity(on_cancel="wait")
    async def careful() -> None:
        began.set()
        try:
            await forever()
        finally:
            order.append("told")
            await may_end.wait()
            order.append("ended")

    @activity
    async def after() -> None:
        order.append("after")

    @workflow
    async def flow() -> None:
        try:
            await careful()
        finally:
            await after()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.cancel("enough")
        seen = await described(handle, lambda d: d.activities)
        assert [one.state for one in seen.activities] == ["cancelling"]
        may_end.set()
        with pytest.raises(WorkflowCancelled, match="enough"):
            await handle.result()
        assert order == ["told", "ended", "after"]
        (ended,) = await of_kind(handle, "ActivityCancelled")
        assert ended.fields["outcome"] == "stopped"
        (careful_, _) = await of_kind(handle, "ActivityScheduled")
        assert [one.state for one in careful_.attempts] == ["cancelled"]


async def test_the_end_is_awaited_without_a_cache_too(path: Path) -> None:
    @activity(on_cancel="wait")
    async def slow() -> None:
        await forever()

    @workflow
    async def flow() -> list[str]:
        ends: list[str] = []
        for number in range(3):
            try:
                async with asyncio.timeout(0.01):
                    await slow()
            except TimeoutError:
                ends.append(f"end {number}")
        return ends

    async with hosting(path, cache_size=0) as client:
        handle = await client.start(flow)
        assert await handle.result() == ["end 0", "end 1", "end 2"]
        assert (await kinds(handle)).count("ActivityCancelled") == 3


@pytest.mark.parametrize(
    ("how", "outcome"), [("return", "completed"), ("raise", "failed"), ("timeout", "timed_out")]
)
async def test_whatever_came_of_it_the_cancellation_stands(
    path: Path, how: str, outcome: str
) -> None:
    began, runs = asyncio.Event(), 0

    @activity(on_cancel="wait", retry=AT_ONCE, timeout=0.05 if how == "timeout" else None)
    async def stubborn() -> str:
        nonlocal runs
        runs += 1
        began.set()
        with suppress(asyncio.CancelledError):
            await forever()
        if how == "raise":
            raise ValueError("while it cleaned up")
        if how == "timeout":
            await forever()
        return "done all the same"

    @workflow
    async def flow() -> str:
        return await stubborn()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.cancel("enough")
        with pytest.raises(WorkflowCancelled, match="enough"):
            await handle.result()
        (ended,) = await of_kind(handle, "ActivityCancelled")
        assert ended.fields["outcome"] == outcome
        assert runs == 1
        if how == "raise":
            (scheduled,) = await of_kind(handle, "ActivityScheduled")
            (attempt,) = scheduled.attempts
            assert (attempt.state, attempt.error) == ("failed", "while it cleaned up")
            assert attempt.next_at is None


async def test_a_thread_is_told_and_waited_for(path: Path) -> None:
    loop = asyncio.get_running_loop()
    began, told = asyncio.Event(), asyncio.Event()
    may_end = threading.Event()

    @activity(on_cancel="wait")
    def in_a_thread() -> None:
        loop.call_soon_threadsafe(began.set)
        pause = threading.Event()
        while not info(ActivityInfo).cancelled:
            pause.wait(0.005)
        loop.call_soon_threadsafe(told.set)
        may_end.wait(20)

    @workflow
    async def flow() -> None:
        await in_a_thread()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.cancel()
        await told.wait()
        assert (await handle.describe()).status == "running"
        may_end.set()
        with pytest.raises(WorkflowCancelled):
            await handle.result()
        (ended,) = await of_kind(handle, "ActivityCancelled")
        assert ended.fields["outcome"] == "completed"


async def test_asyncio_timeout_waits_for_the_end_too(path: Path) -> None:
    ended = asyncio.Event()

    @activity(on_cancel="wait")
    async def slow() -> None:
        try:
            await forever()
        finally:
            ended.set()

    @workflow
    async def flow() -> bool:
        try:
            async with asyncio.timeout(0.01):
                await slow()
        except TimeoutError:
            return True
        return False

    async with hosting(path) as client:
        assert await (await client.start(flow)).result()
        assert ended.is_set()


@pytest.mark.parametrize("on_cancel", ["try", "wait", "abandon"])
async def test_what_waits_for_a_slot_never_begins(path: Path, on_cancel: Any) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    @activity
    async def blocking() -> None:
        began.set()
        await may_end.wait()

    @activity(on_cancel=on_cancel)
    async def waiting() -> None:
        ran.append("waiting")

    @workflow
    async def flow() -> str:
        first = asyncio.ensure_future(blocking())
        await asyncio.sleep(0)
        second = asyncio.ensure_future(waiting())
        await go.receive()
        second.cancel()
        with suppress(asyncio.CancelledError):
            await second
        await go.receive()
        await first
        return "done"

    async with hosting(path, activity_slots=1) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.signal(go, True)
        seen = await described(handle, lambda d: len(d.activities) == 1)
        assert seen.activities[0].name == "blocking"
        may_end.set()
        await handle.signal(go, True)
        assert await handle.result() == "done"
        assert ran == []
        scheduled = await of_kind(handle, "ActivityScheduled")
        assert [one.attempts for one in scheduled] == [(), ()]


async def test_what_is_about_to_begin_when_its_end_is_asked_for_does_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark of its first attempt is committed; the cancellation is on its way behind it."""
    began, may_end = asyncio.Event(), asyncio.Event()
    ran: list[str] = []
    told: list[asyncio.Future[None]] = []

    @activity
    async def blocking() -> None:
        began.set()
        await may_end.wait()

    @activity(on_cancel="wait")
    def waiting() -> None:  # In a thread, which nobody calls back.
        ran.append("waiting")

    @workflow
    async def holds() -> None:
        await blocking()

    @workflow
    async def flow() -> str:
        second = asyncio.ensure_future(waiting())
        await go.receive()
        second.cancel()
        with suppress(asyncio.CancelledError):
            await second
        return "done"

    mark = ActivityRunner.mark

    def marked(self: ActivityRunner, attempt: OpenAttempt, *rest: Any, **more: Any) -> None:
        mark(self, attempt, *rest, **more)
        if attempt.run.type == "flow" and not told:
            told.append(asyncio.ensure_future(handle.signal(go, True)))

    monkeypatch.setattr(ActivityRunner, "mark", marked)
    async with hosting(path, activity_slots=1) as client:
        held = await client.start(holds)
        await began.wait()
        handle = await client.start(flow)
        await described(handle, lambda d: d.activities)
        may_end.set()
        assert await handle.result() == "done"
        await held.result()
        await asyncio.gather(*told)
        (ended,) = await of_kind(handle, "ActivityCancelled")
        assert (ended.fields["outcome"], ran) == ("not_begun", [])


async def test_what_waits_for_its_next_attempt_has_none(path: Path) -> None:
    runs = 0

    @activity(on_cancel="wait", retry=Retry(delay=3600))
    async def failing() -> None:
        nonlocal runs
        runs += 1
        raise ConnectionError("not now")

    @workflow
    async def flow() -> None:
        await failing()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await described(handle, lambda d: d.activities and d.activities[0].next_at)
        await handle.cancel()
        with pytest.raises(WorkflowCancelled):
            await handle.result()
        (ended,) = await of_kind(handle, "ActivityCancelled")
        assert (ended.fields["outcome"], ended.fields["attempts"], runs) == ("not_begun", 1, 1)


async def test_begun_and_cancelled_in_one_drive_leaves_no_trace(path: Path) -> None:
    @activity(on_cancel="wait")
    async def never() -> None: ...

    @workflow
    async def flow() -> str:
        task = asyncio.ensure_future(never())
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return "done"

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == "done"
        assert await kinds(handle) == ["RunStarted", "RunCompleted"]


@pytest.mark.parametrize("how", ["stopped", "died"])
async def test_a_worker_that_leaves_ends_what_is_waited_for(path: Path, how: str) -> None:
    began, told = asyncio.Event(), asyncio.Event()

    @activity(on_cancel="wait")
    async def careful() -> None:
        began.set()
        while True:
            try:
                await forever()
            except asyncio.CancelledError:
                if told.is_set():
                    raise
                told.set()

    @workflow
    async def flow() -> None:
        await careful()

    async with Client.connect(path) as client:
        worker = Worker(client, stop_timeout=0)
        await worker.start()
        handle = await client.start(flow)
        await began.wait()
        await handle.cancel("enough")
        await told.wait()
        if how == "died":
            # As by a death: it lets go of its runs without a word.
            keeper = worker._keeper  # pyright: ignore[reportPrivateUsage]
            assert keeper is not None
            keeper.abandon()
        await worker.stop()
        async with Worker(client):
            with pytest.raises(WorkflowCancelled, match="enough"):
                await handle.result()
        (ended,) = await of_kind(handle, "ActivityCancelled")
        assert ended.fields["outcome"] == "lost"
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert [(one.number, one.state, one.next_at) for one in scheduled.attempts] == [
            (1, "lost", None)
        ]


# ------------------------------------------------------------------------- on_cancel="abandon"


async def test_an_abandoned_attempt_goes_on_and_nobody_waits(path: Path) -> None:
    began, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    seen: list[bool] = []

    @activity(on_cancel="abandon")
    async def independent() -> None:
        began.set()
        await may_end.wait()
        seen.append(info(ActivityInfo).cancelled)
        ended.set()

    @workflow
    async def flow() -> None:
        await independent()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.cancel()
        with pytest.raises(WorkflowCancelled):
            await handle.result()
        may_end.set()
        await ended.wait()
        assert seen == [False]
        assert "ActivityCompleted" not in await kinds(handle)


async def test_an_abandoned_attempt_keeps_its_time_limit(path: Path) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    @activity(on_cancel="abandon", timeout=0.05)
    async def independent() -> None:
        began.set()
        try:
            await forever()
        finally:
            ended.set()

    @workflow
    async def flow() -> None:
        await independent()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await began.wait()
        await handle.cancel()
        await ended.wait()


# --------------------------------------------------------------------------------- in general


async def test_what_a_call_says_beats_what_the_decorator_says(path: Path) -> None:
    @activity(on_cancel="abandon")
    async def work() -> None:
        await forever()

    @workflow
    async def flow() -> None:
        await work.options(on_cancel="wait")()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.cancel()
        with pytest.raises(WorkflowCancelled):
            await handle.result()
        (scheduled,) = await of_kind(handle, "ActivityScheduled")
        assert scheduled.fields["options"] == {"on_cancel": "wait"}


def test_another_word_is_refused() -> None:
    unknown: Any = "perhaps"
    with pytest.raises(ValueError, match="give 'try', 'wait' or 'abandon'"):

        @activity(on_cancel=unknown)
        async def work() -> None: ...
