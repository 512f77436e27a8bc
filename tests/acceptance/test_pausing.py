"""Somebody holds an execution, a type of workflow, or everything; and lets it go on."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    InvalidArguments,
    Query,
    Retry,
    Signal,
    Update,
    Worker,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowHandle,
    WorkflowNotFound,
    WorkflowTerminated,
    activity,
    checkpoint,
    workflow,
)
from everlong.workflow import Workflow
from tests.support.gated_store import LossyStore
from tests.support.hosting import described, hosting, kinds, until
from tests.support.other_process import other_process

word: Signal[str] = Signal("a word for who is paused", str)
heard: Query[list[str]] = Query("heard while paused", list[str])
add: Update[int] = Update("add while paused", int)


class Stage:
    """What a test's activities wait for, and what they did."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.at_work = asyncio.Event()
        self.may_end = asyncio.Event()
        self.fails = 0


stage = Stage()


@pytest.fixture(autouse=True)
def _anew() -> None:
    global stage  # noqa: PLW0603
    stage = Stage()


@activity(retry=Retry(delay=0.01, jitter=0.0))
async def works_at(name: str) -> str:
    stage.began.append(name)
    stage.at_work.set()
    await stage.may_end.wait()
    if stage.fails:
        stage.fails -= 1
        raise ConnectionError("not now")
    return name


@workflow
async def two_steps() -> list[str]:
    return [await works_at("first"), await works_at("second")]


@workflow
async def works_on() -> None:
    while True:
        await works_at("on and on")
        await checkpoint()


@workflow
async def listens_for_words(most: int = 2) -> list[str]:
    words: list[str] = []
    heard.handler(lambda: words)

    @add.handler
    async def added(count: int) -> int:
        words.extend(["added"] * count)
        return len(words)

    while len(words) < most:
        words.append(await word.receive())
    return words


@workflow
async def sleeps_a_little() -> str:
    await asyncio.sleep(0.2)
    return "awake"


@workflow
async def has_a_child() -> str:
    return await sleeps_a_little.options(id="the paused child")()


ALL: list[Workflow[Any, Any]] = [
    two_steps,
    works_on,
    listens_for_words,
    sleeps_a_little,
    has_a_child,
]


async def asleep(handle: WorkflowHandle[Any]) -> None:
    """Let go of by its worker."""
    await described(handle, lambda it: it.status == "paused" and it.owner is None)


async def test_nothing_of_a_paused_run_is_recorded_until_it_is_resumed(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(listens_for_words, id="one")
        await handle.signal(word, "before")
        await described(handle, lambda it: it.history_events == 2)
        await handle.pause(reason="asked by the customer", by="ann")
        recorded = await kinds(handle)
        await handle.signal(word, "meanwhile")
        await asleep(handle)
        assert await kinds(handle) == recorded
        assert await handle.query(heard) == ["before"]
        await handle.resume()
        assert await handle.result() == ["before", "meanwhile"]
        assert await client.verify() == []


async def test_who_holds_it_and_why_is_shown_wherever_it_is_shown(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(listens_for_words, id="one")
        await handle.pause(reason="asked by the customer", by="ann")
        await handle.pause(reason="another reason", by="bob")
        description = await handle.describe()
        listed = (await client.list(status="paused")).items
        (shown,) = await client.paused()
        assert description.paused == listed[0].paused == shown
        assert (shown.workflow_id, shown.by, shown.reason) == (
            "one",
            "ann",
            "asked by the customer",
        )
        await handle.resume()
        assert await client.paused() == []
        assert (await handle.describe()).paused is None


async def test_an_attempt_that_runs_ends_and_its_outcome_is_fed_afterwards(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(two_steps, id="one")
        await stage.at_work.wait()
        await handle.pause()
        assert (await handle.describe()).owner is not None
        stage.may_end.set()
        await asleep(handle)
        assert stage.began == ["first"]
        await handle.resume()
        assert await handle.result() == ["first", "second"]
        assert stage.began == ["first", "second"]


async def test_a_run_is_resumed_while_its_attempt_still_runs(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(two_steps, id="one")
        await stage.at_work.wait()
        await handle.pause()
        await handle.resume()
        stage.may_end.set()
        assert await handle.result() == ["first", "second"]
        assert stage.began == ["first", "second"]
        assert await client.verify() == []


async def test_no_attempt_begins_while_its_run_is_paused(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(two_steps, id="one")
        await stage.at_work.wait()
        stage.fails = 1
        await handle.pause()
        stage.may_end.set()
        await asleep(handle)
        (pending,) = (await handle.describe()).activities
        assert pending.last_error == "builtins.ConnectionError: not now"
        assert stage.began == ["first"]
        await handle.resume()
        assert await handle.result() == ["first", "second"]
        assert stage.began == ["first", "first", "second"]


async def test_an_outcome_outlives_the_process_in_which_it_waits(path: Path) -> None:
    """One of two attempts has ended when the worker loses its memory of both."""
    async with Client.connect(path) as client:
        async with Worker(client, workflows=ALL, stop_timeout=0):
            handle = await client.start(two_steps, id="one")
            await stage.at_work.wait()
            await handle.pause()
        await asleep(handle)
        stage.may_end.set()
        async with Worker(client, workflows=ALL):
            await handle.resume()
            assert await handle.result() == ["first", "second"]
        assert await client.verify() == []


@pytest.mark.file
async def test_timers_that_come_due_fire_when_it_goes_on(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(sleeps_a_little, id="one")
        await described(handle, lambda it: it.timers)
        await handle.pause()
        other = await client.start(sleeps_a_little, id="two")
        assert await other.result() == "awake"
        assert (await handle.describe()).status == "paused"
        await handle.resume()
        assert await handle.result() == "awake"


async def test_an_update_waits_until_it_goes_on_and_a_cancellation_too(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(listens_for_words, most=9, id="one")
        await handle.pause()
        updating = asyncio.ensure_future(handle.update(add, 2))
        await described(handle, lambda it: it.signals)
        await handle.cancel("enough")
        assert not updating.done()
        await handle.resume()
        assert await updating == 2
        with pytest.raises(WorkflowCancelled, match="enough"):
            await handle.result()


async def test_a_paused_run_is_terminated_at_once_and_paused_no_more(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(two_steps, id="one")
        await stage.at_work.wait()
        await handle.pause(reason="first look")
        await handle.terminate("over")
        with pytest.raises(WorkflowTerminated):
            await handle.result()
        assert await client.paused() == []
        for act in (handle.pause, handle.resume):
            with pytest.raises(WorkflowClosed):
                await act()
        assert await client.verify() == []


async def test_a_paused_type_holds_what_runs_and_what_is_started(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        runs = await client.start(listens_for_words, id="runs")
        other = await client.start(sleeps_a_little, id="other")
        assert await client.pause(type=listens_for_words, reason="a bug", by="ann") == 1
        late = await client.start(listens_for_words, id="late")
        described_late = await late.describe()
        assert (described_late.status, described_late.history_events) == ("paused", 0)
        assert described_late.paused is not None
        assert described_late.paused.type == "listens_for_words"
        for handle in (runs, late):
            await handle.signal(word, "a")
            await handle.signal(word, "b")
        assert await other.result() == "awake"
        assert (await runs.describe()).status == "paused"
        assert await client.resume(type="listens_for_words") == 2
        for handle in (runs, late):
            assert await handle.result() == ["a", "b"]
        assert await client.verify() == []


async def test_a_pause_of_everything_holds_children_too(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        assert await client.pause(type="sleeps_a_little") == 0
        parent = await client.start(has_a_child, id="parent")
        child = client.get_handle("the paused child")

        async def begun() -> bool:
            return bool((await client.list(workflow_id="the paused child")).items)

        await until(begun)
        assert (await child.describe()).status == "paused"
        assert await client.pause(reason="the database moves") == 1
        assert await client.resume(type=sleeps_a_little) == 0
        assert {one.status for one in (await client.list()).items} == {"paused"}
        assert await client.resume() == 2
        assert await parent.result() == "awake"


async def test_each_pause_is_lifted_by_itself(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(listens_for_words, id="one")
        await handle.signal(word, "a")
        await handle.signal(word, "b")
        done = await handle.result()
        handle = await client.start(listens_for_words, id="one")
        await handle.pause(reason="its own")
        await client.pause(type=listens_for_words, reason="of its type")
        await client.pause(reason="of all")
        reasons = [one.reason for one in await client.paused()]
        assert reasons == ["of its type", "of all", "its own"]
        assert await client.resume() == 0
        await handle.resume()
        still = (await handle.describe()).paused
        assert still is not None
        assert still.reason == "of its type"
        assert await client.resume(type=listens_for_words) == 1
        await handle.signal(word, "a")
        await handle.signal(word, "b")
        assert await handle.result() == done


async def test_a_pause_outlives_its_worker_and_its_process(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(listens_for_words, id="one")
        await handle.pause(reason="overnight", by="ann")
        await client.pause(type=sleeps_a_little)
    async with hosting(path, workflows=ALL) as client:
        late = await client.start(sleeps_a_little, id="late")
        handle = client.get_handle("one", listens_for_words)
        await handle.signal(word, "a")
        await handle.signal(word, "b")
        assert {one.status for one in (await client.list()).items} == {"paused"}
        await handle.resume()
        assert await handle.result() == ["a", "b"]
        await client.resume(type=sleeps_a_little)
        assert await late.result() == "awake"


async def test_another_process_pauses_what_this_one_drives(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client, other_process(path) as other:
        handle = await client.start(two_steps, id="one")
        await stage.at_work.wait()
        await other.do("pause", id="one", reason="from afar")
        recorded = await kinds(handle)
        stage.may_end.set()
        await asleep(handle)
        assert await kinds(handle) == recorded
        await other.do("resume", id="one")
        assert await handle.result() == ["first", "second"]
        assert stage.began == ["first", "second"]


async def test_nothing_of_a_busy_run_is_recorded_once_another_process_has_paused_it(
    path: Path,
) -> None:
    """The owner hears of it a moment later; the store does not wait for that."""
    async with hosting(path, workflows=ALL) as client, other_process(path) as other:
        stage.may_end.set()
        handles = [await client.start(works_on, id=f"busy {number}") for number in range(5)]
        await described(handles[-1], lambda it: it.history_events > 20)
        assert await other.do("pause_type", type="works_on") == 5
        recorded = [await kinds(handle) for handle in handles]
        began = len(stage.began)
        for handle in handles:
            await asleep(handle)
        assert [await kinds(handle) for handle in handles] == recorded
        # What was committed as begun when the pause came may still have begun; nothing else has.
        assert len(stage.began) <= began + 5
        await client.resume(type=works_on)
        await described(handles[0], lambda it: it.history_events > len(recorded[0]) + 20)
        for handle in handles:
            await handle.terminate()
        assert await client.verify() == []


async def test_what_was_asked_once_is_done_once(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(listens_for_words, id="one")
        await handle.pause(request_id="p1")
        await handle.resume(request_id="r1")
        await handle.pause(request_id="p1")
        assert (await handle.describe()).status == "running"
        await handle.pause(request_id="p2")
        await handle.resume(request_id="r1")
        assert (await handle.describe()).status == "paused"
        await handle.resume()
        assert await client.pause(request_id="all") == 1
        assert await client.resume(request_id="on") == 1
        assert await client.pause(request_id="all") == 1
        assert await client.paused() == []
        assert await client.pause(request_id="again") == 1
        assert await client.resume(request_id="on") == 1
        assert (await handle.describe()).status == "paused"
        await client.resume()


async def test_an_answer_that_is_lost_pauses_and_resumes_once(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(listens_for_words, id="one")
        lossy = LossyStore(client)
        lossy.lose("submit")
        await handle.pause(reason="in spite of a loss")
        lossy.lose("submit")
        await handle.resume()
        lossy.lose("submit")
        assert await client.pause(type=listens_for_words, request_id="p") == 1
        lossy.lose("submit")
        assert await client.resume(type=listens_for_words, request_id="r") == 1
        assert lossy.lost == ["submit"] * 4
        await handle.signal(word, "a")
        await handle.signal(word, "b")
        assert await handle.result() == ["a", "b"]


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"reason": "x" * 4001}, "reason is a text of up to 4000 characters"),
        ({"by": 7}, "by is a text of up to 200 characters"),
        ({"reason": "\ud800"}, "half a surrogate pair"),
        ({"request_id": ""}, "request_id='': give a text"),
    ],
)
async def test_a_pause_that_makes_no_sense_is_refused(
    path: Path, how: dict[str, Any], text: str
) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(listens_for_words, id="one")
        for pause in (handle.pause, client.pause):
            with pytest.raises(InvalidArguments, match=text):
                await pause(**how)
        assert await client.paused() == []


async def test_what_is_not_there_cannot_be_paused_or_resumed(path: Path) -> None:
    async with hosting(path, workflows=ALL) as client:
        for act in (client.get_handle("nobody").pause, client.get_handle("nobody").resume):
            with pytest.raises(WorkflowNotFound):
                await act()
        with pytest.raises(InvalidArguments, match="there is no pause of everything"):
            await client.resume()
        with pytest.raises(InvalidArguments, match="there is no pause of the workflow 'x'"):
            await client.resume(type="x")
        with pytest.raises(InvalidArguments, match="type=7: give a function"):
            await client.pause(type=7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="limit=0"):
            await client.paused(limit=0)


async def test_a_paused_run_that_is_past_its_deadline_times_out_when_it_goes_on(
    path: Path,
) -> None:
    async with hosting(path, workflows=ALL) as client:
        handle = await client.start(
            listens_for_words, id="one", run_timeout=timedelta(seconds=0.05)
        )
        await handle.pause()
        await asyncio.sleep(0.1)  # tidy: waits because a deadline is to pass unheeded
        assert (await handle.describe()).status == "paused"
        await handle.resume()
        await described(handle, lambda it: it.status == "timed_out")
