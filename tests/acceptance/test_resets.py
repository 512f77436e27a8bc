"""Resets: at each position of a history, of runs in every state, and what is kept of them."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import everlong_engine
from everlong import (
    CannotReset,
    Client,
    InvalidArguments,
    Output,
    Signal,
    Update,
    Worker,
    WorkflowFailed,
    WorkflowHandle,
    activity,
    continue_as_new,
    workflow,
)
from tests.support.hosting import ONCE, described, hosting, until

go = Signal("go", int)
lines = Output("lines", str)


@pytest.mark.parametrize("cache_size", [1000, 0])
@pytest.mark.parametrize("as_fork", [False, True])
async def test_a_run_finishes_right_from_every_position_of_its_history(
    path: Path, cache_size: int, as_fork: bool
) -> None:
    """Exhaustive: each number of an event is a point, or is refused with those that are."""
    add = Update("add", int)

    @activity
    async def double(number: int) -> int:
        return number * 2

    @activity(retry=ONCE)
    async def refuse(number: int) -> int:
        raise ValueError(f"not {number}")

    @workflow
    async def each_position(number: int) -> list[str]:
        seen: list[str] = []
        is_added = asyncio.Event()

        @add.handler
        async def added(value: int) -> int:
            seen.append(f"added {await double(value)}")
            is_added.set()
            return value + 1

        first, second = await asyncio.gather(double(number), double(number + 1))
        await lines.publish(f"{first} and {second}")
        await asyncio.sleep(0.001)
        try:
            await refuse(second)
        except ValueError as error:
            seen.append(str(error))
        async with asyncio.timeout(3600):
            seen.append(f"got {await go.receive()}")
            await is_added.wait()
        await lines.publish("nearly")
        return [str(first), str(second), *sorted(seen)]

    async def finished(client: Client, name: str) -> WorkflowHandle[list[str]]:
        handle = await client.start(each_position, 5, id=name)
        await handle.signal(go, 7)
        assert await handle.update(add, 4, update_id="one") == 5
        assert await handle.result() == right
        return handle

    right = ["10", "12", "added 8", "got 7", "not 12"]
    async with hosting(path, cache_size=cache_size) as client:
        original = await finished(client, "original")
        events = await original.history()
        begun: list[int] = []
        refusals: list[str] = []
        for number in range(1, len(events) + 1):
            source = original if as_fork else await finished(client, f"source-{number}")
            try:
                again = await (
                    source.fork(f"fork-{number}", number) if as_fork else source.reset(number)
                )
            except CannotReset as refused:
                refusals.append(str(refused))
                continue
            begun.append(number)
            assert await again.result() == right
            assert await again.update(add, 4, update_id="one") == 5
            items = [one async for one in again.subscribe(lines, live=False)]
            assert (items[0], items[-1]) == ("10 and 12", "nearly")
        inputs = {one.seq for one in events if one.kind in INPUTS}
        assert inputs <= set(begun) or not as_fork
        assert len(begun) > len(events) / 2
        assert all("Give " in one or "no event" in one for one in refusals)
        assert not await client.verify()


INPUTS = {kind.__name__ for kind in everlong_engine.INPUTS}


async def test_a_retry_begins_where_the_run_failed(path: Path) -> None:
    """Before the activity whose failure ended it; but where the code knew what to do about that, it
    is not undone, and what came last is decided anew."""
    broken = True
    done: list[str] = []

    @activity(retry=ONCE)
    async def retried_step(name: str) -> str:
        done.append(name)
        if broken and name == "fails":
            raise OSError("the bug")
        return name

    @workflow
    async def retried_flow(copes: bool) -> str:
        await retried_step("first")
        try:
            return await retried_step("fails")
        except OSError:
            if not copes:
                raise
        await retried_step("instead")
        if broken:
            raise ValueError("another bug")
        return "coped"

    async with hosting(path) as client:
        for copes in (False, True):
            with pytest.raises(WorkflowFailed):
                await client.run(retried_flow, copes, id=f"copes-{copes}")
        broken = False
        done.clear()
        assert await (await client.get_handle("copes-False").reset("retry")).result() == "fails"
        assert done == ["fails"]
        assert await (await client.get_handle("copes-True").reset("retry")).result() == "coped"
        assert done == ["fails"]
        again = await client.get_handle("copes-True").reset("retry")
        assert await again.result() == "coped", "also of one that has not failed"


async def test_a_termination_that_is_repeated_spares_the_run_that_began_since(path: Path) -> None:
    @workflow
    async def terminated_once() -> int:
        return await go.receive()

    async with hosting(path) as client:
        handle = await client.start(terminated_once, id="once")
        await handle.terminate("enough", request_id="tuesday")
        await handle.terminate("enough", request_id="tuesday")
        again = await handle.reset("last")
        await handle.terminate("enough", request_id="tuesday")
        await handle.signal(go, 7)
        assert await again.result() == 7
        with pytest.raises(InvalidArguments, match="request_id"):
            await handle.terminate(request_id="\n")


async def test_an_earlier_run_is_forked_and_not_reset(path: Path) -> None:
    word = Signal("word-of-a-round", str)

    @activity
    async def note(round_: int) -> int:
        return round_

    @workflow
    async def rounds(round_: int = 1) -> str:
        await note(round_)
        heard = await word.receive()
        if round_ == 1 and heard == "on":
            continue_as_new(round_=2)
        return f"{heard} in round {round_}"

    async with hosting(path, workflows=[rounds], activities=[note]) as client:
        handle = await client.start(rounds, id="one")
        first = handle.run_id
        assert first is not None
        await handle.signal(word, "on")
        await described(handle, lambda it: it.run_id != first)
        with pytest.raises(CannotReset, match="is not the last run of 'one'"):
            await handle.reset("start", run_id=first)
        for wrong in ("nonsense", (await client.start(rounds, id="two")).run_id):
            with pytest.raises(CannotReset, match="'one' has no run"):
                await handle.fork("x", "start", run_id=wrong)
        await handle.pause()
        await handle.signal(word, "end")  # It waits for the second run, and is not the first one's.
        alone = await handle.fork("alone", "last-activity", run_id=first, reapply=False)
        await alone.signal(word, "stop")
        assert await alone.result() == "stop in round 1"
        fork = await handle.fork("fork", 2, run_id=first)
        await fork.signal(word, "stop")
        assert await fork.result() == "stop in round 2"
        await handle.resume()
        assert await handle.result() == "end in round 2"
        last = (await handle.describe()).run_id
        assert await (await handle.reset("last", run_id=last)).result() == "end in round 2"
        assert await client.verify() == []


@pytest.mark.file  # Whose row is changed behind the store's back.
async def test_a_suspect_that_is_reset_while_it_is_held_leaves_its_successor_alone(
    path: Path,
) -> None:
    """It was at work when workers died, so it waits here before it is driven again, alone."""

    @workflow
    async def flow() -> int:
        await asyncio.sleep(0)
        first = await go.receive()
        return first + await go.receive()

    async with Client.connect(path) as client:
        async with Worker(client, workflows=[flow]):
            handle = await client.start(flow, id="suspect")
            await handle.signal(go, 1)
            await described(handle, lambda it: it.history_events >= 2)
        with closing(sqlite3.connect(path)) as db:
            db.execute("update runs set losses = 4, wake_us = 0")
            db.commit()
        worker = Worker(client, workflows=[flow])
        async with worker:
            loading = worker._keeper.loading  # type: ignore[union-attr]

            async def is_held() -> bool:
                return loading.suspected == 1

            await until(is_held)
            await handle.reset(to="start")
            await described(handle, lambda it: it.reset is not None and it.owner)
            assert loading.suspected == 0
            await handle.signal(go, 2)
            assert await handle.result() == 3
