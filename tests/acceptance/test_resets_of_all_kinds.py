"""Resets of runs in every state, and what becomes of all that hangs on a run."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    CannotReset,
    Client,
    InvalidArguments,
    Query,
    Signal,
    Update,
    UpdateUnfinished,
    Worker,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowNotFound,
    WorkflowTerminated,
    WorkflowTimedOut,
    activity,
    approval,
    info,
    workflow,
)
from tests.support.hosting import ONCE, described, hosting, kinds, until

word = Signal("word", str)


async def reset_runs(handle: WorkflowHandle[Any], client: Client) -> list[str]:
    """The statuses of an execution's runs, newest first."""
    return [one.status for one in (await client.list(workflow_id=handle.workflow_id)).items]


async def test_a_reset_keeps_what_was_done_and_does_the_rest_with_other_code(path: Path) -> None:
    done: list[str] = []
    broken = True

    @activity
    async def step(name: str) -> str:
        done.append(name)
        return name

    @workflow
    async def three_steps() -> list[str]:
        names = [await step("one"), await step("two")]
        if broken:
            raise ValueError("the bug")
        return [*names, await step("three")]

    async with hosting(path) as client:
        handle = await client.start(three_steps, id="three")
        with pytest.raises(WorkflowFailed):
            await handle.result()
        before = await kinds(handle)
        broken = False
        again = await handle.reset("last", reason="fixed")
        assert await again.result() == await handle.result() == ["one", "two", "three"]
        assert done == ["one", "two", "three"]
        assert await reset_runs(handle, client) == ["completed", "failed"]
        assert again.run_id != handle.run_id
        earlier = await handle.history(handle.run_id)
        assert [event.kind for event in earlier] == before, "a closed run stays as it was"
        found = await handle.describe()
        assert found.reset is not None
        assert (found.reset.run_id, found.reset.events) == (handle.run_id, 4)
        assert found.reset.reason == "fixed"


async def test_an_idempotency_key_belongs_to_the_scheduling(path: Path) -> None:
    keys: list[str] = []

    @activity(retry=ONCE)
    async def noted() -> None:
        keys.append(info().idempotency_key)
        raise ValueError("no")

    @workflow
    async def notes() -> None:
        await noted()

    async with hosting(path) as client:
        handle = await client.start(notes, id="notes")
        points: tuple[int | str, ...] = (2, "last-activity:noted", 2)
        for point in (None, *points):
            if point is not None:
                await handle.reset(point)
            with pytest.raises(WorkflowFailed):
                await handle.result()
        first, kept, new, kept_again = keys
        assert kept == first, "it was scheduled before the point: the same call"
        assert new != first
        assert kept_again == new
        fork = await handle.fork("fork of notes", 2)
        with pytest.raises(WorkflowFailed):
            await fork.result()
        assert keys[-1] not in keys[:-1]


async def test_a_run_is_reset_while_a_worker_has_it_and_its_owner_is_fenced(path: Path) -> None:
    begun, free = asyncio.Event(), asyncio.Event()
    ends: list[str] = []

    @activity
    async def slow(name: str) -> str:
        begun.set()
        try:
            await free.wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return name

    @workflow
    async def at_work() -> list[str]:
        return [info().run_id, await slow("a"), info().run_id]

    async with hosting(path) as client:
        handle = await client.start(at_work, id="at work")
        waiting = asyncio.ensure_future(handle.result())
        await begun.wait()
        begun.clear()
        again = await handle.reset("start", reason="again")
        await begun.wait()
        free.set()
        assert await waiting == [again.run_id, "a", again.run_id], "waiters follow the new run"
        assert ends == ["cancelled"]
        assert await reset_runs(handle, client) == ["completed", "reset"]
        last = (await handle.history(handle.run_id))[-1]
        assert last.kind == "RunTerminated"
        assert str(again.run_id) in last.fields["reason"]
        assert not await client.verify()


async def test_runs_that_ended_in_any_way_go_on(path: Path) -> None:
    @workflow
    async def waiting_for_words() -> str:
        return await word.receive()

    async def goes_on(handle: WorkflowHandle[str]) -> None:
        await handle.reset("last")
        assert (await handle.describe()).cancel_requested is False
        await handle.signal(word, "well")
        assert await handle.result() == "well"

    async with hosting(path) as client:
        cancelled = await client.start(waiting_for_words, id="cancelled")
        await cancelled.cancel()
        with pytest.raises(WorkflowCancelled):
            await cancelled.result()
        # About the request is decided anew, so it is there still; before it there was none.
        await cancelled.reset(1)
        await cancelled.signal(word, "kept")
        assert await cancelled.result() == "kept"

        terminated = await client.start(waiting_for_words, id="terminated")
        await terminated.terminate()
        with pytest.raises(WorkflowTerminated):
            await terminated.result()
        await goes_on(terminated)

        late = await client.start(waiting_for_words, id="late", run_timeout=0.3)
        with pytest.raises(WorkflowTimedOut):
            await late.result()
        await goes_on(late)

        overdue = await client.start(waiting_for_words, id="overdue", execution_timeout=0.3)
        with pytest.raises(WorkflowTimedOut):
            await overdue.result()
        await goes_on(overdue)
        assert not await client.verify()


async def test_a_blocked_run_begins_anew_with_code_that_fits(path: Path) -> None:
    order = ["a", "b"]

    @activity
    async def named(name: str) -> str:
        return name

    @workflow
    async def reordered() -> list[str]:
        found = [await named(order[0]), await named(order[1])]
        return [*found, await word.receive()]

    async with hosting(path) as client:
        handle = await client.start(reordered, id="reordered")
        await described(handle, lambda found: found.history_events == 5)
    order.reverse()
    async with hosting(path) as client:
        handle = client.get_handle("reordered", reordered)
        await handle.signal(word, "kept")
        await described(handle, lambda found: found.status == "blocked")
        await handle.reset("start")
        assert await handle.result() == ["b", "a", "kept"], "its mail is not lost"
        assert not await client.verify()


async def test_messages_behind_the_point_are_fed_once_more_in_their_order(path: Path) -> None:
    note = Update("note", str)
    said = Query("said", list[str])

    @workflow
    async def listening() -> list[str]:
        heard: list[str] = []

        @said.handler
        def tell() -> list[str]:
            return heard

        @note.handler
        async def noted(text: str) -> str:
            heard.append(text)
            return f"noted {text} as {len(heard)}"

        while True:
            heard.append(await word.receive())
            if heard[-1] == "end":
                return heard

    async def heard_by(handle: WorkflowHandle[list[str]], *words: str) -> None:
        async def look() -> bool:
            return await handle.query(said) == list(words)

        await until(look)

    async with hosting(path) as client:
        handle = await client.start(listening, id="listening")
        await handle.signal(word, "a")
        assert await handle.update(note, "b", update_id="b") == "noted b as 2"
        await handle.signal(word, "c")
        await heard_by(handle, "a", "b", "c")

        await handle.reset(1)
        await heard_by(handle, "a", "b", "c")
        assert await handle.update(note, "b", update_id="b") == "noted b as 2"

        await handle.reset(1, reapply="signals")
        await heard_by(handle, "a", "c")
        # Left out, it keeps the result that it had.
        assert await handle.update(note, "b", update_id="b") == "noted b as 2"

        await handle.reset(1, reapply=False)
        await heard_by(handle)
        await handle.signal(word, "end")
        assert await handle.result() == ["end"]
        await handle.reset(2)
        assert await handle.result() == ["end"], "the kept input is fed whatever is reapplied"


async def test_mail_that_nobody_has_fed_stays_behind_what_was_fed_before(path: Path) -> None:
    @workflow
    async def two_words() -> list[str]:
        first = await word.receive()
        return [first, await word.receive(), await word.receive()]

    async with hosting(path) as client:
        handle = await client.start(two_words, id="two")
        await handle.signal(word, "1")
        await described(handle, lambda found: found.history_events == 2)
    async with Client.connect(path) as client:
        handle = client.get_handle("two", two_words)
        await handle.signal(word, "2")
        await handle.reset(1)
        await handle.signal(word, "3")
        async with Worker(client):
            assert await handle.result() == ["1", "2", "3"]
            fork = await handle.fork("two again", 1)
            assert await fork.result() == ["1", "2", "3"]
    async with Client.connect(path) as client:
        left_out = await client.get_handle("two", two_words).reset(1, reapply=False)
        for text in "abc":
            await left_out.signal(word, text)
        async with Worker(client):
            assert await left_out.result() == ["a", "b", "c"]


async def test_an_update_that_is_left_out_is_unfinished(path: Path) -> None:
    stall = Update("stall", str)
    begun = asyncio.Event()

    @workflow
    async def stalling() -> str:
        @stall.handler
        async def stalled() -> str:
            begun.set()
            await asyncio.sleep(3600)
            return "never"

        return await word.receive()

    async with hosting(path) as client:
        handle = await client.start(stalling, id="stalling")
        sent = await handle.start_update(stall, update_id="one")
        await begun.wait()
        await handle.reset(1, reapply=False)
        with pytest.raises(UpdateUnfinished):
            await sent.result()


async def test_other_arguments_need_the_start(path: Path) -> None:
    @activity
    async def plus_one(number: int) -> int:
        return number + 1

    @workflow
    async def counted(number: int, times: int = 2) -> int:
        for _ in range(times):
            number = await plus_one(number)
        return number

    async with hosting(path) as client:
        handle = await client.start(counted, 1, id="counted")
        assert await handle.result() == 3
        with pytest.raises(CannotReset, match="need a reset to the start"):
            await handle.reset("last", arguments={"number": 5})
        with pytest.raises(InvalidArguments):
            await handle.reset("start", arguments={"number": "five"})
        with pytest.raises(InvalidArguments, match="no parameter"):
            await handle.reset("start", arguments={"nonsense": 5})
        assert await reset_runs(handle, client) == ["completed"], "nothing half done"
        again = await handle.reset("start", arguments={"number": 10})
        assert await again.result() == 12
        assert (await handle.describe()).input == {"number": 10, "times": 2}


async def test_what_cannot_be_is_refused_and_says_why(path: Path) -> None:
    @activity
    async def fine() -> None: ...

    @workflow
    async def plain_one() -> None:
        await asyncio.gather(fine(), fine())

    async with Client.connect(path) as client:
        waits = await client.start(plain_one, id="waits")
        with pytest.raises(CannotReset, match="not begun"):
            await waits.reset("start")
        with pytest.raises(WorkflowNotFound):
            await client.get_handle("nobody").reset("start")
        async with Worker(client):
            await waits.result()
            refused: dict[int | str, str] = {
                0: "events 1 to",
                99: "events 1 to",
                2: "Give 1, to decide that anew, or 3",
                "last-activity:coarse": "It has scheduled fine",
                "last-failure": "no activity of the run has failed",
                "whenever": "names no point",
                "start:now": "names no point",
                "last-activity:": "names no point",
            }
            for point, says in refused.items():
                with pytest.raises(CannotReset, match=says):
                    await waits.reset(point)
            wrong: Any
            for wrong in (True, None, 1.5, [1]):
                with pytest.raises(CannotReset, match="give the number"):
                    await waits.reset(wrong)
            with pytest.raises(InvalidArguments, match="reapply"):
                await waits.reset(1, reapply="some")  # type: ignore[arg-type]
            with pytest.raises(InvalidArguments, match="request_id"):
                await waits.reset(1, request_id="\x00")
            with pytest.raises(CannotReset, match="workflow id of its own"):
                await waits.fork("waits", "start")
            last = len(await waits.history())
            with pytest.raises(CannotReset, match="closed the run"):
                await waits.reset(last)
            assert await reset_runs(waits, client) == ["completed"]


async def test_a_reset_that_is_repeated_with_its_request_id_begins_one_run(path: Path) -> None:
    @workflow
    async def listens() -> str:
        return await word.receive()

    async with hosting(path) as client:
        handle = await client.start(listens, id="listens")
        first = await handle.reset("start", request_id="r")
        second = await handle.reset("start", request_id="r")
        assert first.run_id == second.run_id
        await described(handle, lambda found: found.history_events == 1)
        one = await handle.fork("a fork", "start", request_id="f")
        two = await handle.fork("a fork", "start", request_id="f")
        assert one.run_id == two.run_id
        with pytest.raises(WorkflowAlreadyStarted):
            await handle.fork("a fork", "start")
        assert len((await client.list()).items) == 3


async def test_an_execution_whose_id_is_taken_can_only_be_forked(path: Path) -> None:
    @workflow
    async def hears() -> str:
        return await word.receive()

    async with hosting(path) as client:
        old = await client.start(hears, id="taken")
        await old.signal(word, "old")
        assert await old.result() == "old"
        await client.start(hears, id="taken")
        with pytest.raises(WorkflowAlreadyStarted):
            await old.reset("start")
        fork = await old.fork("free", "last")
        assert await fork.result() == "old"


async def test_resets_of_resets_replay_what_each_part_was_told(path: Path) -> None:
    """The code uses its own ids in what it decides; each part must see those of its time."""

    @activity
    async def label(text: str) -> str:
        return text

    @workflow
    async def labelled() -> list[str]:
        found: list[str] = []
        for _ in range(3):
            await word.receive()
            found.append(await label(f"{info().workflow_id} {info().run_id}"))
        return found

    async with hosting(path, cache_size=0) as client:
        handle = await client.start(labelled, id="labelled")
        await handle.signal(word, "x")
        await described(handle, lambda found: found.history_events == 4)
        second = await handle.reset(4)
        await handle.signal(word, "y")
        await described(handle, lambda found: found.history_events == 7)
        third = await handle.fork("other", 7)
        await third.signal(word, "z")
        expected = [f"labelled {handle.run_id}", f"labelled {second.run_id}"]
        assert await third.result() == [*expected, f"other {third.run_id}"]
        last = await third.reset(10)
        assert (await last.result())[:2] == expected
        early = await last.reset(3, reapply=False)
        for text in "ab":
            await early.signal(word, text)
        assert await early.result() == [f"labelled {handle.run_id}"] + [f"other {early.run_id}"] * 2
        assert not await client.verify()


async def test_an_approval_that_is_open_at_the_point_is_asked_anew(path: Path) -> None:
    @workflow
    async def asks() -> bool:
        return (await approval("May I?")).approved

    async with hosting(path) as client:
        handle = await client.start(asks, id="asks")

        async def open_one() -> str | None:
            found = (await client.approvals()).items
            return found[0].id if found else None

        first = await until(open_one)
        await client.reject(first, by="Ada")
        assert await handle.result() is False
        await handle.reset(2)
        second = await until(open_one)
        assert second != first
        await client.approve(second, by="Ada")
        assert await handle.result() is True
        await handle.reset("last")
        assert await handle.result() is True, "the answer is the input that is kept"
        assert not (await client.approvals()).items
        assert not await client.verify()
