"""Families of flows: each partition is read by exactly one of them, however many they are."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from everlong import Client, activity, checkpoint, workflow
from everlong.exceptions import EverlongError, InvalidArguments
from everlong.streams import Lines, Memory, Stream
from everlong.streams._spread import Family
from everlong_engine import RunFilter
from tests.support.hosting import hosting, until


class Log:
    """What flows were handed, in order."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []

    async def has(self, wanted: int) -> None:
        async def look() -> bool:
            return len(self.taken) >= wanted

        await until(look)


def family(name: str, source: Memory[int]) -> tuple[Stream[int], Log, Any, Any]:
    """A stream, and a flow that notes what it gets, with what the flow carries."""
    stream, log = Stream(name, source), Log()

    @activity(name=f"note_{name}")
    async def note(rows: list[tuple[str, int]]) -> None:
        log.taken += rows

    @workflow(name=f"reads_{name}")
    async def reads(factor: int = 1, count: int = 0) -> int:
        async for batch in stream.batches(max_messages=3):
            await note([(one.partition, one.value * factor) for one in batch])
            count += len(batch)
            await checkpoint(count=count)
        return count

    return stream, log, reads, note


def source_of(partitions: int, each: int) -> Memory[int]:
    source = Memory(int)
    source.partitions_every_s = 0.01
    for partition in range(partitions):
        source.put(*range(each), partition=str(partition))
    return source


async def test_each_partition_is_read_by_exactly_one_flow(path: Path) -> None:
    source = source_of(5, 4)
    stream, log, reads, note = family("split", source)
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        found = await stream.spread(client, reads, 10, id="split", parts=3)
        assert [one.workflow_id for one in found.handles] == ["split/1/0", "split/1/1", "split/1/2"]
        await log.has(20)
        assert sorted(log.taken) == [(str(p), 10 * n) for p in range(5) for n in range(4)]
        positions = [await stream.control(one).position() for one in found.handles]
        assert [sorted(one.after) for one in positions if one is not None] == [
            ["0", "3"],
            ["1", "4"],
            ["2"],
        ]
        source.put(100, 101, partition="4")
        source.put(7, partition="9")  # One that nobody knew.
        await log.has(23)
        assert sorted(log.taken[20:]) == [("4", 1000), ("4", 1010), ("9", 70)]
        position = await stream.control(found.handles[0]).position()
        assert position is not None
        assert sorted(position.after) == ["0", "3", "9"]
        behind = await stream.control(found.handles[0]).lag(wait=0.01)
        assert (behind.messages, behind.more) == (0, False)


async def test_a_part_without_partitions_waits_for_one(path: Path) -> None:
    source = source_of(1, 2)
    stream, log, reads, note = family("few", source)
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        found = await stream.spread(client, reads, id="few", parts=2)
        await log.has(2)
        behind = await stream.control(found.handles[1]).lag(wait=0.01)
        assert behind.messages == 0
        source.put(5, partition="1")
        await log.has(3)
        assert log.taken[2] == ("1", 5)


async def test_repeating_the_call_changes_nothing(path: Path) -> None:
    stream, log, reads, note = family("again", source_of(4, 3))
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        first = await stream.spread(client, reads, id="again", parts=4)
        await log.has(12)
        runs = [(await one.describe()).run_id for one in first.handles]
        second = await stream.spread(client, reads, id="again", parts=4)
        assert [(await one.describe()).run_id for one in second.handles] == runs
        assert (second.parts, second.generation) == (4, 1)
        many = await asyncio.gather(
            *(stream.spread(client, reads, id="at-once", parts=4) for _ in range(5))
        )
        assert {one.generation for one in many} == {1}
        await log.has(24)
        rows = await client.engine.store.list_runs(
            RunFilter("default", status="running"), 100, None
        )
        assert len(rows) == 8


@pytest.mark.parametrize(("before", "behind"), [(4, 2), (2, 5), (3, 1), (1, 3)])
async def test_another_number_of_parts_neither_loses_nor_doubles(
    path: Path, before: int, behind: int
) -> None:
    source = source_of(6, 10)
    stream, log, reads, note = family("more", source)

    def carry(old: Sequence[Mapping[str, Any]], number: int) -> Mapping[str, Any]:
        return {"count": sum(one["count"] for one in old) if number == 0 else 0}

    async with hosting(path, workflows=[reads], activities=[note]) as client:
        await stream.spread(client, reads, id="more", parts=before)
        await log.has(20)  # They are in the middle of it.
        found = await stream.spread(client, reads, id="more", parts=behind, carry=carry)
        assert (found.parts, found.generation) == (behind, 2)
        for partition in range(6):
            source.put(10, 11, partition=str(partition))
        source.put(*range(3), partition="6")
        await log.has(75)
        wanted = [(str(p), n) for p in range(6) for n in range(12)]
        assert sorted(log.taken) == sorted([*wanted, *(("6", n) for n in range(3))])
        for one in found.handles:
            await stream.control(one).drain()
        assert sum([await one.result() for one in found.handles]) == 75
        assert await client.verify() == []


class Dies(Exception):
    """The caller is gone."""


STEPS: list[tuple[str, int]] = [("_stop", 0), ("_stop_one", 2), ("start", 0), ("start", 2)]


@pytest.mark.parametrize(("where", "number"), STEPS)
async def test_a_call_that_dies_on_its_way_is_taken_up_by_the_next(
    path: Path, where: str, number: int
) -> None:
    """Even by one that wants the number of before: the flows were stopped, so they begin anew."""
    source = source_of(6, 5)
    stream, log, reads, note = family("dies", source)
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        await stream.spread(client, reads, id="dies", parts=4)
        await log.has(30)
        with dying(client, where, number), pytest.raises(Dies):
            await stream.spread(client, reads, id="dies", parts=3, carry="forget")
        again = await stream.spread(client, reads, id="dies", parts=4, carry="forget")
        assert again.parts == 4
        for partition in range(6):
            source.put(5, partition=str(partition))
        await log.has(36)
        assert sorted(log.taken) == [(str(p), n) for p in range(6) for n in range(6)]
        open_now = await client.list(status="running")
        assert {one.workflow_id for one in open_now.items} == {
            one.workflow_id for one in again.handles
        }


def dying(client: Client, where: str, number: int) -> Any:
    """The caller ends at a step, before it does it so many times."""
    owner: Any = client if where == "start" else Family
    real: Callable[..., Any] = getattr(owner, where)
    done: list[object] = []

    async def step(*args: Any, **options: Any) -> Any:
        if len(done) >= number:
            raise Dies
        done.append(args)
        return await real(*args, **options)

    return mock.patch.object(owner, where, step)


async def test_a_caller_who_looked_long_ago_begins_nothing_again(path: Path) -> None:
    """He has seen that a flow is missing; by now it was begun, stopped, and followed."""
    stream, log, reads, note = family("late", source_of(3, 1))
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        await stream.spread(client, reads, id="late", parts=2)
        await log.has(3)
        await stream.spread(client, reads, id="late", parts=3, carry="forget")
        arguments = reads.definition.parameters.encode((), {})
        late = Family(client, "late", stream.source, "late", reads, arguments, None, 30.0)
        with mock.patch.object(Family, "_status", mock.AsyncMock(return_value=None)):
            await late._begin(1, 2)  # pyright: ignore[reportPrivateUsage]
            with pytest.raises(EverlongError, match="over 3 parts by another call"):
                await late._begin(2, 2)  # pyright: ignore[reportPrivateUsage]
        names = {one.workflow_id for one in (await client.list(status="running")).items}
        assert names == {"late/2/0", "late/2/1", "late/2/2"}


async def test_state_is_not_dropped_unasked(path: Path) -> None:
    stream, log, reads, note = family("state", source_of(2, 1))
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        await stream.spread(client, reads, id="state", parts=2)
        await log.has(2)
        with pytest.raises(InvalidArguments, match=r"what each .* carries \(factor, count\)"):
            await stream.spread(client, reads, id="state", parts=1)
        assert len((await client.list(status="running")).items) == 2


async def test_a_flow_that_has_ended_is_told_of(path: Path) -> None:
    stream, log, reads, note = family("ended", source_of(2, 1))
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        found = await stream.spread(client, reads, id="ended", parts=2)
        await log.has(2)
        await found.handles[1].terminate("enough")
        for parts in (2, 3):
            with pytest.raises(EverlongError, match=r"ended/1/1 \(terminated\)"):
                await stream.spread(client, reads, id="ended", parts=parts, carry="forget")
        assert (await found.handles[0].describe()).status == "running"


async def test_what_cannot_be_shared_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("1\n")
    one = Stream("one", Lines(tmp_path / "lines", int))
    stream, log, reads, note = family("kept", source_of(2, 1))
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        with pytest.raises(InvalidArguments, match="no partitions that several flows"):
            await one.spread(client, reads, id="one", parts=2)
        for parts in (0, 1001):
            with pytest.raises(InvalidArguments, match="give 1 to 1,000"):
                await stream.spread(client, reads, id="kept", parts=parts)
        found = await stream.spread(client, reads, id="kept", parts=2)
        await log.has(2)
        await stream.control(found.handles[1]).rewind({1: None}, keys="fresh")
        await log.has(3)
        with pytest.raises(InvalidArguments, match="kept/1/1 was rewound with fresh keys"):
            await stream.spread(client, reads, id="kept", parts=1, carry="forget")
        assert len((await client.list(status="running")).items) == 2


async def test_a_flow_returns_to_no_savepoint_of_another_part(path: Path) -> None:
    stream, log, reads, note = family("points", source_of(2, 1))
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        found = await stream.spread(client, reads, id="points", parts=2)
        await log.has(2)
        point = await stream.control(found.handles[0]).savepoint("here")
        with pytest.raises(InvalidArguments, match="part 0 of 2, and points/1/1 reads part 1"):
            await stream.control(found.handles[1]).rewind(to=point)
        await stream.control(found.handles[0]).rewind(to=point)


async def test_a_part_stays_what_it_is_over_resets_and_new_code(path: Path) -> None:
    source = source_of(4, 2)
    stream, log, reads, note = family("stays", source)
    async with hosting(path, workflows=[reads], activities=[note]) as client:
        found = await stream.spread(client, reads, id="stays", parts=2)
        await log.has(8)
        point = await stream.control(found.handles[1]).savepoint("new-code", stop=True)
        new = await client.start(reads, id="stays/1/1", from_savepoint=point)
        for partition in range(4):
            source.put(2, partition=str(partition))
        await log.has(12)
        assert sorted(log.taken[8:]) == [(str(p), 2) for p in range(4)]
        await new.reset(to=1)
        await log.has(14)  # What it had read as this execution, again, and nothing of others.
        assert sorted(log.taken[12:]) == [("1", 2), ("3", 2)]
