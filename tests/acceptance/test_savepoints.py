"""Savepoints: how far a flow has read and what it carried, at one moment, to go on from there."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from everlong import (
    Client,
    Signal,
    Update,
    Worker,
    WorkflowHandle,
    activity,
    all_handlers_finished,
    checkpoint,
    wait_condition,
    workflow,
)
from everlong.codec import Encrypt
from everlong.exceptions import (
    EverlongError,
    InvalidArguments,
    UndecodablePayload,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowNotFound,
)
from everlong.interceptors import CallActivity, Interceptor, Next
from everlong.streams import Batch, Memory, Savepoint, Stream, StreamControl, Tick, every, merge
from everlong.testing import Environment, amnesia
from everlong_engine import limits
from tests.support.hosting import described, hosting, kinds, of_kind, until


async def reached(control: StreamControl, position: int) -> None:
    async def look() -> bool:
        found = await control.position()
        return found is not None and found.after == {"0": position}

    await until(look)


async def stopped(handle: WorkflowHandle[Any]) -> str:
    with pytest.raises(WorkflowCancelled) as ended:
        await handle.result()
    return ended.value.reason


# ------------------------------------------------------------------------------- going on from one


async def test_another_flow_goes_on_exactly_where_one_was_stopped(path: Path) -> None:
    """With other code, whose new parameter has a default, and under the same workflow id."""
    stream = Stream("numbers", source := Memory(int))
    source.put(*range(10))

    @workflow
    async def sp_one(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=4):
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    @workflow
    async def sp_two(total: int = 0, factor: int = 1, seen: int = 0) -> list[int]:
        async for batch in stream.batches(max_messages=3):
            total, seen = total + factor * sum(batch.values), seen + len(batch)
            await checkpoint(total=total, seen=seen)
        return [total, seen]

    async with hosting(path, workflows=[sp_one, sp_two]) as client:
        old = await client.start(sp_one, id="flow")
        await reached(stream.control(old), 9)
        point = await stream.control(old).savepoint("before-two", stop=True)
        assert (point.name, point.workflow, point.workflow_id) == ("before-two", "sp_one", "flow")
        assert (point.parameters, point.positions) == ({"total": 45}, {"numbers": {"0": 9}})
        assert await stopped(old) == "stopped with savepoint 'before-two'"
        source.put(100, 200)
        new = await client.start(sp_two, id="flow", from_savepoint=point, factor=2)
        await reached(stream.control(new), 11)
        await stream.control(new).drain()
        assert await new.result() == [645, 2]
        assert await client.verify() == []


async def test_a_flow_that_has_read_nothing_and_one_that_waits_have_savepoints(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def sp_waits(total: int = 7) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with hosting(path, workflows=[sp_waits]) as client:
        handle = await client.start(sp_waits)
        control = stream.control(handle)
        first = await control.savepoint("first")
        source.put(1, 2)
        await reached(control, 1)
        second = await control.savepoint("second")
        assert (first.parameters, first.positions) == ({"total": 7}, {})
        assert (second.parameters, second.positions) == ({"total": 10}, {"numbers": {"0": 1}})
        assert await control.savepoints() == [first, second]
        results: list[int] = []
        for point in (first, second):
            again = await client.start("sp_waits", from_savepoint=point, total=0)
            await reached(stream.control(again), 1)
            await stream.control(again).drain()
            results.append(await again.result())
        assert results == [3, 0]


async def test_one_is_taken_at_the_next_checkpoint_where_none_was_behind_each_batch(
    path: Path,
) -> None:
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def sp_third(total: int = 0) -> int:
        count = 0
        async for batch in stream.batches(max_messages=1):
            total, count = total + sum(batch.values), count + 1
            if count % 3 == 0:
                await checkpoint(total=total)
        return total

    source.put(1, 2, 3, 4)
    async with hosting(path, workflows=[sp_third]) as client:
        handle = await client.start(sp_third)
        control = stream.control(handle)
        await reached(control, 3)
        with pytest.raises(EverlongError, match=r"came to no checkpoint within 0\.05 s"):
            await control.savepoint("later", wait=0.05, request_id="once")
        assert await control.savepoints() == []
        source.put(5, 6)
        point = await control.savepoint("later", request_id="once")
        assert (point.parameters, point.positions) == ({"total": 21}, {"numbers": {"0": 5}})
        assert await control.savepoint("later", request_id="once") == point
        assert await control.savepoints() == [point]


async def test_what_is_asked_for_waits_over_roll_overs_until_nothing_is_in_flight(
    path: Path,
) -> None:
    stream = Stream("numbers", source := Memory(int))
    go = Signal("sp-go", bool)

    @workflow
    async def sp_busy(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            total += sum(batch.values)
            task = asyncio.create_task(go.receive()) if total == 3 else None
            await checkpoint(total=total)
            if task is not None:
                await task
        return total

    source.put(1, 2)
    with amnesia():
        async with hosting(path, workflows=[sp_busy]) as client:
            handle = await client.start(sp_busy)
            control = stream.control(handle)
            await reached(control, 1)
            asked = asyncio.ensure_future(control.savepoint("quiet"))
            await described(handle, lambda it: it.history_events > 3)
            await handle.signal(go, True)
            source.put(4)
            point = await asked
            assert (point.parameters, point.positions) == ({"total": 7}, {"numbers": {"0": 2}})


async def test_a_checkpoint_with_something_in_flight_takes_none(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    go = Signal("sp-go-on", bool)

    @workflow
    async def sp_flies(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            total += sum(batch.values)
            task = asyncio.create_task(go.receive())
            if total == 4:
                await task
            await checkpoint(total=total)
            await task
        return total

    source.put(1)
    async with hosting(path, workflows=[sp_flies]) as client:
        handle = await client.start(sp_flies)
        control = stream.control(handle)
        await handle.signal(go, True)
        await reached(control, 0)
        asked = asyncio.ensure_future(control.savepoint("quiet"))
        await until(lambda: heard(handle, 2))
        source.put(2)
        await reached(control, 1)
        await handle.signal(go, True)
        source.put(1)
        await handle.signal(go, True)
        point = await asked
        assert (point.parameters, point.positions) == ({"total": 4}, {"numbers": {"0": 2}})


async def heard(handle: WorkflowHandle[Any], signals: int) -> bool:
    return (await kinds(handle)).count("SignalReceived") == signals


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_tick_that_is_due_right_behind_a_checkpoint_is_in_the_next_one(
    forgets: bool,
) -> None:
    """In the drive of that checkpoint, or in the first one of the run that begins anew there."""
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def sp_ticks(ticks: int = 0) -> int:
        async for found in merge(every(60), stream.batches()):
            if isinstance(found, Tick):
                ticks += 1
                continue
            await asyncio.sleep(61)
            await checkpoint(ticks=ticks)
        return ticks

    with amnesia() if forgets else nullcontext():
        async with Environment() as env:
            handle = await env.client.start(sp_ticks)
            control = stream.control(handle)
            source.put(1)
            await reached(control, 0)
            with pytest.raises(EverlongError, match="came to no checkpoint"):
                await control.savepoint("s", wait=0.2, request_id="s")
            source.put(2)
            assert (await control.savepoint("s", request_id="s")).parameters["ticks"] > 0


async def test_signals_that_nobody_has_received_go_with_it(path: Path) -> None:
    stream = Stream("numbers", Memory(int))
    told = Signal("sp-told", str)

    @workflow
    async def sp_hears(after: int = 0) -> str:
        async for _ in stream.batches():
            raise AssertionError("nothing is there")
        return await told.receive()

    async with hosting(path, workflows=[sp_hears]) as client:
        handle = await client.start(sp_hears)
        await handle.signal(told, "early")
        point = await stream.control(handle).savepoint("told", stop=True)
        assert await stopped(handle) == "stopped with savepoint 'told'"
        again = await client.start(sp_hears, from_savepoint=point)
        await stream.control(again).drain()
        assert await again.result() == "early"


async def test_a_signal_that_comes_behind_the_end_is_named_as_unread(path: Path) -> None:
    stream = Stream("numbers", Memory(int))
    told = Signal("sp-late", str)

    @workflow
    async def sp_late() -> None:
        async for _ in stream.batches():
            raise AssertionError("nothing is there")

    async with Client.connect(path) as client:
        handle = await client.start(sp_late, id="late")
        await handle.signal(told, "early")
        with pytest.raises(EverlongError, match="came to no checkpoint"):
            await stream.control(handle).savepoint("s", stop=True, wait=0.01, request_id="s")
        await handle.signal(told, "late")
    async with hosting(path, workflows=[sp_late]) as client:
        handle = client.get_handle("late")
        await stopped(handle)
        point = await stream.control(handle).savepoint("s", stop=True, request_id="s")
        assert [name for name, _ in point.carried] == ["sp-late"]
        (closed,) = await of_kind(handle, "RunCancelled")
        assert closed.fields["unread"] == ("sp-late", "sp-late")


async def test_a_reset_takes_no_savepoint_away(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def sp_reset(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with hosting(path, workflows=[sp_reset]) as client:
        handle = await client.start(sp_reset, id="reset")
        control = stream.control(handle)
        for number in range(3):
            source.put(10**number)
            await reached(control, number)
            await control.savepoint(f"s{number}")
        orders = await of_kind(handle, "SignalReceived")
        for point in (orders[1].seq, orders[0].seq):  # It hears of those behind it once more.
            await handle.reset(point, reason="again")
            await reached(control, 2)
            found = await control.savepoints()
            assert [(one.name, one.parameters["total"]) for one in found] == [
                ("s0", 1),
                ("s1", 11),
                ("s2", 111),
            ]
        forked = await client.get_handle("reset").fork("forked", 2)
        await reached(stream.control(forked), 2)
        assert await client.verify() == []


async def test_what_an_update_has_changed_is_in_the_next_checkpoint(path: Path) -> None:
    """Behind the last one it was not: the loop does not wait right behind a checkpoint any more."""
    stream = Stream("numbers", source := Memory(int))
    add = Update("sp-add", int)

    @workflow
    async def sp_updated(total: int = 0) -> int:
        @add.handler
        def _(more: int) -> int:
            nonlocal total
            total += more
            return total

        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        await wait_condition(all_handlers_finished)
        return total

    async with hosting(path, workflows=[sp_updated]) as client:
        handle = await client.start(sp_updated)
        control = stream.control(handle)
        assert (await control.savepoint("before")).parameters == {"total": 0}
        assert await handle.update(add, 5) == 5
        with pytest.raises(EverlongError, match="came to no checkpoint"):
            await control.savepoint("behind", wait=0.05, request_id="behind")
        source.put(1)
        point = await control.savepoint("behind", request_id="behind")
        assert point.parameters == {"total": 6}


async def test_a_signal_that_was_received_behind_a_checkpoint_is_not_lost(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    more = Signal("sp-more", int)

    @workflow
    async def sp_receives(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
            total += await more.receive()
        return total

    async with hosting(path, workflows=[sp_receives]) as client:
        handle = await client.start(sp_receives)
        await handle.signal(more, 10)
        control = stream.control(handle)
        source.put(1)
        await reached(control, 0)
        with pytest.raises(EverlongError, match="came to no checkpoint"):
            await control.savepoint("s", wait=0.05, request_id="s")
        source.put(2)
        point = await control.savepoint("s", request_id="s")
        assert (point.parameters, point.positions) == ({"total": 13}, {"numbers": {"0": 1}})


async def test_merged_loops_have_all_their_positions_in_it(path: Path) -> None:
    left, right = Stream("left", one := Memory(int)), Stream("right", two := Memory(int))
    limit = Signal("sp-limit", int)

    @workflow
    async def sp_merged(total: int = 0, most: int = 100) -> list[int]:
        async for found in merge(left.batches(), right.batches(), limit, every(3600)):
            match found:
                case Batch():
                    total += sum(found.values)
                case Tick():
                    pass
                case most:
                    pass
            await checkpoint(total=total, most=most)
        return [total, most]

    async with hosting(path, workflows=[sp_merged]) as client:
        handle = await client.start(sp_merged)
        one.put(1, 2)
        await reached(left.control(handle), 1)
        two.put(10)
        await reached(right.control(handle), 0)
        await handle.signal(limit, 50)
        await until(lambda: heard(handle, 1))
        point = await right.control(handle).savepoint("both", stop=True)
        assert point.positions == {"left": {"0": 1}, "right": {"0": 0}}
        assert point.parameters == {"total": 13, "most": 50}
        one.put(3)
        again = await client.start(sp_merged, from_savepoint=point)
        await reached(left.control(again), 2)
        await left.control(again).drain()
        await right.control(again).drain()
        assert await again.result() == [16, 50]


class Around(Interceptor):
    """Looks at each activity, in steps of its own."""

    async def call_activity(self, call: CallActivity, next: Next[CallActivity]) -> Any:
        try:
            return await next(call)
        finally:
            await asyncio.sleep(0)


async def test_interceptors_around_a_read_do_not_stand_in_its_way(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    other = Stream("others", Memory(int))

    @workflow
    async def sp_intercepted(total: int = 0) -> int:
        async for batch in merge(stream.batches(), other.batches()):
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with (
        Client.connect(path, interceptors=[Around()]) as client,
        Worker(client, workflows=[sp_intercepted]),
    ):
        handle = await client.start(sp_intercepted)
        source.put(1)
        await reached(stream.control(handle), 0)
        point = await stream.control(handle).savepoint("s")
        assert point.parameters == {"total": 1}
        again = await client.start(sp_intercepted, from_savepoint=point)
        assert (await stream.control(again).savepoint("s")).parameters == {"total": 1}


# ----------------------------------------------------------------------------------- going back


async def test_a_flow_goes_back_to_a_savepoint_with_all_that_it_carried(path: Path) -> None:
    left, right = Stream("left", one := Memory(int)), Stream("right", two := Memory(int))
    done: list[str] = []

    @activity
    async def sp_effect(key: str) -> None:
        if key not in done:
            done.append(key)

    @workflow
    async def sp_back(total: int = 0) -> int:
        async for batch in merge(left.batches(), right.batches()):
            for message in batch:
                await sp_effect(message.id)
                total += message.value
            await checkpoint(total=total)
        return total

    async with hosting(path, workflows=[sp_back], activities=[sp_effect]) as client:
        handle = await client.start(sp_back, id="back")
        control = left.control(handle)
        one.put(1)
        await reached(control, 0)
        point = await control.savepoint("early")
        one.put(2)
        await reached(control, 1)
        two.put(100)
        await reached(right.control(handle), 0)
        assert (await control.savepoint("late")).parameters == {"total": 103}
        before = list(done)

        await control.rewind(to=point)
        assert (await settled(control, 103)).parameters == {"total": 103}
        assert done == before

        await control.rewind(to=await control.find_savepoint("early"), keys="fresh")
        assert (await settled(control, 103)).parameters == {"total": 103}
        assert {key.partition("#")[0] for key in done[len(before) :]} == {
            "left/memory/0/1",
            "right/memory/0/0",
        }
        assert await client.verify() == []


async def settled(control: StreamControl, total: int) -> Savepoint:
    """A savepoint with this total, once the flow has come to it."""

    async def look() -> Savepoint | None:
        name = f"look-{len(await control.savepoints())}"
        point = await control.savepoint(name)
        return point if point.parameters["total"] == total else None

    return await until(look)


async def test_a_savepoint_of_another_workflow_is_no_place_to_go_back_to(path: Path) -> None:
    stream = Stream("numbers", Memory(int))

    @workflow
    async def sp_mine(total: int = 0) -> int:
        async for batch in stream.batches():
            await checkpoint(total=total + len(batch))
        return total

    @workflow
    async def sp_other(count: int = 0) -> int:
        async for batch in stream.batches():
            await checkpoint(count=count + len(batch))
        return count

    async with hosting(path, workflows=[sp_mine, sp_other]) as client:
        mine, other = await client.start(sp_mine), await client.start(sp_other, id="other")
        point = await stream.control(mine).savepoint("mine")
        with pytest.raises(InvalidArguments, match="is of workflow 'sp_mine'"):
            await stream.control(other).rewind(to=point)
        with pytest.raises(InvalidArguments, match="does not fit workflow 'sp_other'"):
            await client.start(sp_other, from_savepoint=point)
        with pytest.raises(InvalidArguments, match="give those that change by name"):
            await client.start(sp_mine, 5, from_savepoint=point)
        with pytest.raises(InvalidArguments, match="no parameter 'color'"):
            await client.start(sp_mine, id=None, from_savepoint=point, color="red")
        with pytest.raises(WorkflowAlreadyStarted):
            await client.start(sp_mine, id="other", from_savepoint=point)
        with pytest.raises(InvalidArguments, match="give positions"):
            await stream.control(mine).rewind({0: 1}, to=point)
        with pytest.raises(InvalidArguments, match="give positions"):
            await stream.control(mine).rewind()


# --------------------------------------------------------------------------- listed and forgotten


async def test_savepoints_are_found_by_name_also_those_of_earlier_executions(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def sp_named(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with hosting(path, workflows=[sp_named]) as client:
        by_id = stream.control(client.get_handle("named"))
        with pytest.raises(WorkflowNotFound):
            await by_id.savepoints()
        first = stream.control(await client.start(sp_named, id="named"))
        for name in ("a", "b"):
            await first.savepoint(name)
        with pytest.raises(InvalidArguments, match="has a savepoint 'a' already"):
            await first.savepoint("a")
        for wrong in ("", "two\nlines"):
            with pytest.raises(InvalidArguments, match="a savepoint needs a name"):
                await first.savepoint(wrong)
        await first.delete_savepoint("a", request_id="gone")
        await first.delete_savepoint("a", request_id="gone")
        assert [one.name for one in await first.savepoints()] == ["b"]
        with pytest.raises(InvalidArguments, match="no savepoint 'a'; there are: 'b'"):
            await first.find_savepoint("a")
        with pytest.raises(InvalidArguments, match="no savepoint 'a'; there are: 'b'"):
            await first.delete_savepoint("a")
        source.put(5)
        await reached(first, 0)
        again = await first.savepoint("a", stop=True)
        assert again.parameters == {"total": 5}
        with pytest.raises(WorkflowClosed):
            await first.savepoint("c")
        with pytest.raises(InvalidArguments, match="that has ended"):
            await first.delete_savepoint("a")
        second = stream.control(
            await client.start(sp_named, id="named", from_savepoint=await by_id.find_savepoint("a"))
        )
        await second.savepoint("b")
        assert [one.name for one in await by_id.savepoints()] == ["b", "a", "b"]
        assert (await by_id.find_savepoint("b")).parameters == {"total": 5}
        assert [one.name for one in await second.savepoints()] == ["b"]
        with pytest.raises(InvalidArguments, match="that has ended"):
            await by_id.delete_savepoint("a")


async def test_what_is_too_large_is_refused_with_the_reason(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def sp_large(text: str = "") -> int:
        async for _ in stream.batches():
            text = "x" * 1_999_900
            await checkpoint(text=text)
        return len(text)

    async with hosting(path, workflows=[sp_large]) as client:
        handle = await client.start(sp_large)
        control = stream.control(handle)
        source.put(1)
        await reached(control, 0)
        with pytest.raises(EverlongError, match="there is no savepoint 's': it has 2,000,"):
            await control.savepoint("s", stop=True)
        await control.drain()
        assert await handle.result() == 1_999_900


async def test_a_loop_that_can_take_none_remembers_only_so_many(path: Path) -> None:
    stream = Stream("numbers", Memory(int))

    @workflow
    async def sp_never() -> None:
        async def read() -> None:
            async for _ in stream.batches():
                pass

        await asyncio.create_task(read())

    async with hosting(path, workflows=[sp_never]) as client:
        control = stream.control(await client.start(sp_never))
        with mock.patch.object(limits, "SAVEPOINTS_WAITING_MAX", 1):
            with pytest.raises(EverlongError, match="came to no checkpoint"):
                await control.savepoint("one", wait=0.05)
            with pytest.raises(EverlongError, match="1 others wait already"):
                await control.savepoint("two")


NONSENSE: Sequence[Any] = [
    {"do": "savepoint"},
    {"do": "savepoint", "order": None},
    {"do": "savepoint", "order": {"name": "s"}},
    {"do": "savepoint", "order": {"name": 1, "request": "r", "stop": True}},
    {"do": "forget", "name": "s"},
    {"do": "return", "arguments": b"", "cursors": [1]},
    {"do": "return", "arguments": "text", "cursors": []},
    {"do": "rewind", "cursor": ["memory", {}], "named": {"0": 1.5}},
]


@pytest.mark.parametrize("told", NONSENSE)
async def test_nonsense_that_a_loop_is_told_takes_no_savepoint(path: Path, told: Any) -> None:
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def sp_deaf(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    source.put(1)
    async with hosting(path, workflows=[sp_deaf]) as client:
        handle = await client.start(sp_deaf)
        control = stream.control(handle)
        await reached(control, 0)
        await handle.signal("everlong.stream.numbers", told)
        await control.drain()
        assert await handle.result() == 1
        assert await control.savepoints() == []


# ------------------------------------------------------------------------- how they are kept


@pytest.mark.file  # Whose bytes are looked at.
async def test_they_are_sealed_and_need_the_key(path: Path) -> None:
    stream = Stream("numbers", source := Memory(str))
    source.put("the canary")

    @workflow
    async def sp_sealed(words: str = "") -> str:
        async for batch in stream.batches():
            words += batch.values[0]
            await checkpoint(words=words)
        return words

    secret = Encrypt({"k": b"k" * 32})
    async with (
        Client.connect(path, codecs=[secret]) as client,
        Worker(client, workflows=[sp_sealed]),
    ):
        handle = await client.start(sp_sealed, id="sealed")
        await reached(stream.control(handle), 0)
        point = await stream.control(handle).savepoint("s")
        assert point.parameters == {"words": "the canary"}
        async with Client.connect(path) as keyless:
            with pytest.raises(UndecodablePayload):
                await stream.control(keyless.get_handle("sealed")).savepoints()
        again = await client.start(sp_sealed, from_savepoint=point)
        await stream.control(again).drain()
        assert await again.result() == "the canary"
    assert all(b"the canary" not in one.read_bytes() for one in path.parent.iterdir())


async def test_they_are_exported_with_their_flow(tmp_path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(1, 2, 3)

    @workflow
    async def sp_moves(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with hosting(tmp_path / "there.db", workflows=[sp_moves]) as there:
        control = stream.control(await there.start(sp_moves, id="moves"))
        await reached(control, 2)
        point = await control.savepoint("s", stop=True)
        text = await there.export("moves")
    async with hosting(tmp_path / "here.db", workflows=[sp_moves]) as here:
        await here.import_(text)
        found = await stream.control(here.get_handle("moves")).find_savepoint("s")
        assert found == point
        again = await here.start(sp_moves, id="moves", from_savepoint=found)
        await stream.control(again).drain()
        assert await again.result() == 6


async def test_a_history_with_savepoints_is_replayed_by_code_that_has_grown(path: Path) -> None:
    """A parameter more, with a default, is no change of mind."""
    stream = Stream("numbers", source := Memory(int))

    async def body(total: int) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    @workflow(name="sp_grows")
    async def before(total: int = 0) -> int:
        return await body(total)

    source.put(1)
    async with hosting(path, workflows=[before]) as client:
        control = stream.control(await client.start(before, id="grows"))
        await reached(control, 0)
        await control.savepoint("s")

    with mock.patch.dict("everlong.registry.workflows"):
        from everlong import registry

        registry.workflows.clear()

        @workflow(name="sp_grows")
        async def behind(total: int = 0, factor: int = 1) -> int:
            return factor * await body(total)

        async with hosting(path, workflows=[behind]) as client:
            handle = client.get_handle("grows")
            control = stream.control(handle)
            point = await control.savepoint("t")
            assert point.parameters == {"total": 1}
            again = await client.start(behind, from_savepoint=point)
            assert (await stream.control(again).savepoint("u")).parameters["factor"] == 1
            await control.drain()
            assert await handle.result() == 1


async def test_only_the_newest_are_kept(path: Path) -> None:
    stream = Stream("numbers", Memory(int))

    @workflow
    async def sp_many(total: int = 0) -> int:
        async for batch in stream.batches():
            await checkpoint(total=total + len(batch))
        return total

    with mock.patch("everlong._replay.savepoints.SAVEPOINTS_KEPT", 3):
        async with hosting(path, workflows=[sp_many]) as client:
            control = stream.control(await client.start(sp_many))
            for number in range(6):
                await control.savepoint(f"s{number}")
            assert [one.name for one in await control.savepoints()] == ["s3", "s4", "s5"]
