"""Order within a batch: by key, or none; and what a crash makes of it."""

import asyncio
import json
import random
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from everlong import Client, WorkflowFailed, activity, checkpoint, workflow
from everlong.exceptions import InvalidArguments
from everlong.streams import Batch, Memory, Message, Stream
from everlong.streams._lanes import in_lanes
from tests.support.hosting import ONCE, hosting, of_kind, until
from tests.support.lanes_worker import book_all
from tests.support.ready_process import ready


async def test_messages_of_a_key_are_in_order_and_keys_do_not_wait_for_each_other(
    path: Path,
) -> None:
    stream = Stream("orders", source := Memory(int))
    for number in range(30):
        source.put(number, key=b"k%d" % (number % 5))
    order: dict[int, list[int]] = defaultdict(list)
    three_are, may_go_on = asyncio.Event(), asyncio.Event()
    at_work: list[int] = []
    most: list[int] = []

    @activity
    async def note(number: int) -> int:
        at_work.append(number)
        most.append(len(at_work))
        if len(at_work) == 3:
            three_are.set()
        await three_are.wait()
        if number == 0:
            await may_go_on.wait()
        order[number % 5].append(number)
        at_work.remove(number)
        if len(order) == 4 and all(len(one) == 6 for one in order.values()):
            may_go_on.set()  # Key 0 goes on when the others are done: they have not waited.
        return number

    async def one(message: Message[int]) -> int:
        return await note(message.value)

    @workflow
    async def by_key() -> list[int]:
        async for batch in stream.batches():
            return await batch.by_key(one, lanes=3)
        return []

    async with hosting(path, workflows=[by_key], activities=[note]) as client:
        assert await client.run(by_key) == list(range(30))
        assert all(order[key] == list(range(key, 30, 5)) for key in range(5))
        assert max(most) == 3
        assert await client.verify() == []


async def test_without_a_key_a_partition_is_in_order_and_without_order_all_go_at_once(
    path: Path,
) -> None:
    stream = Stream("plain", source := Memory(int))
    for number in range(12):
        source.put(number, partition=str(number % 2))
    order: list[int] = []
    at_work: Counter[str] = Counter()
    most: Counter[str] = Counter()
    as_many = {"key": 2, "none": 7}
    all_are = {how: asyncio.Event() for how in as_many}

    @activity
    async def note(number: int, how: str) -> None:
        at_work[how] += 1
        most[how] = max(most[how], at_work[how])
        if at_work[how] == as_many[how]:
            all_are[how].set()
        await all_are[how].wait()
        order.append(number)
        at_work[how] -= 1

    @workflow
    async def both() -> None:
        async for batch in stream.batches():
            await batch.by_key(lambda message: note(message.value, "key"))
            await batch.in_any_order(lambda message: note(message.value, "none"), lanes=7)
            return

    async with hosting(path, workflows=[both], activities=[note]) as client:
        await client.run(both)
        keyed = order[:12]
        assert [one for one in keyed if one % 2] == list(range(1, 12, 2))
        assert [one for one in keyed if not one % 2] == list(range(0, 12, 2))
        assert sorted(order[12:]) == list(range(12))
        assert most == as_many


async def test_a_key_that_fails_goes_no_further_and_the_others_do(path: Path) -> None:
    stream = Stream("fails", source := Memory(int))
    for number in range(12):
        source.put(number, key=b"k%d" % (number % 4))
    done: list[int] = []

    @activity(retry=ONCE)
    async def note(number: int) -> None:
        if number in (1, 6):
            raise ValueError(f"not {number}")
        done.append(number)

    async def one(message: Message[int]) -> None:
        await note(message.value)

    @workflow
    async def fails() -> None:
        async for batch in stream.batches():
            await batch.by_key(one, lanes=2)

    async with hosting(path, workflows=[fails], activities=[note]) as client:
        with pytest.raises(WorkflowFailed) as failed:
            await client.run(fails)
        group: Any = failed.value.__cause__
        assert isinstance(failed.value.__cause__, ExceptionGroup)
        assert sorted(map(str, group.exceptions)) == ["not 1", "not 6"]
        assert sorted(done) == [0, 2, 3, 4, 7, 8, 11]


async def test_the_position_never_passes_what_is_not_done(path: Path) -> None:
    """The classic gap: whoever stops while one message is not done, and what is behind it is."""
    stream = Stream("gap", source := Memory(int))
    for number in range(6):
        source.put(number, key=b"k%d" % (number % 3))
    done: Counter[int] = Counter()
    may_go_on, is_stuck = asyncio.Event(), asyncio.Event()

    @activity
    async def note(number: int) -> None:
        if number == 0:
            is_stuck.set()
            await may_go_on.wait()
        done[number] += 1

    async def one(message: Message[int]) -> None:
        await note(message.value)

    @workflow
    async def gap(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=4):
            await batch.by_key(one)
            count += len(batch)
            await checkpoint(count=count)
        return count

    async with hosting(path, workflows=[gap], activities=[note], stop_timeout=0.0) as client:
        handle = await client.start(gap, id="gap")
        await is_stuck.wait()

        async def others_are_done() -> bool:
            return len(await of_kind(handle, "ActivityCompleted")) == 3  # And the batch.

        await until(others_are_done)
        assert set(done) == {1, 2}
        begun = [one.fields["activity"] for one in await of_kind(handle, "ActivityScheduled")]
        assert begun.count("everlong.stream.gap") == 1  # Nobody asks for what is behind.
        position = await stream.control(handle).position()
        assert position is not None
        assert position.after == {"0": 3}  # The batch in work, which is on record; nothing behind.
    may_go_on.set()
    async with hosting(path, workflows=[gap], activities=[note]) as client:
        handle = client.get_handle("gap", gap)

        async def all_are_done() -> bool:
            return len(done) == 6

        await until(all_are_done)
        await stream.control(handle).drain()
        assert await handle.result() == 6
    assert done == dict.fromkeys(range(6), 1)


@pytest.mark.file
async def test_what_is_done_behind_a_message_is_not_done_again_after_a_kill(tmp_path: Path) -> None:
    """A plain insert for each message: once more would collide, and left out would be missing."""
    path, gate = tmp_path / "db", tmp_path / "gate"
    chance = random.Random(7)
    rows = [[chance.choice(["slow", "a", "b", "c"]), str(number)] for number in range(20)]
    (tmp_path / "orders.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = "-m", "tests.support.lanes_worker", path, gate
    async with Client.connect(path) as client:
        with closing(sqlite3.connect(path)) as db:
            db.execute("create table sink (customer text, number text primary key)")
        await client.start(book_all, id="book")

    def found() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(path)) as db:
            return db.execute("select customer, number from sink order by rowid").fetchall()

    async def others_are_done() -> bool:
        first = [row for row in rows[:8] if row[0] != "slow"]
        return len(found()) >= len(first)

    async def all_are_done() -> bool:
        return len(found()) == len(rows)

    async with ready(*script) as worker:
        await until(others_are_done)
        worker.kill()
        await worker.wait()
    assert "slow" not in {row[0] for row in found()}
    gate.touch()
    async with ready(*script):
        await until(all_are_done)
    for customer in ("slow", "a", "b", "c"):
        assert [row for row in found() if row[0] == customer] == [
            (name, number) for name, number in rows if name == customer
        ]
    async with Client.connect(path) as client:
        assert (await client.get_handle("book").describe()).status == "running"


@given(keys=st.lists(st.integers(0, 5), max_size=40), lanes=st.integers(1, 8), seed=st.integers())
@settings(max_examples=60, deadline=None)
def test_any_batch_keeps_the_order_of_each_key(keys: list[int], lanes: int, seed: int) -> None:
    chance = random.Random(seed)
    log: list[tuple[int, int]] = []
    at_work: Counter[int] = Counter()
    most = 0

    async def work(one: tuple[int, int]) -> int:
        nonlocal most
        at_work[one[0]] += 1
        most = max(most, at_work.total())
        assert at_work[one[0]] == 1
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        log.append(one)
        at_work[one[0]] -= 1
        return one[1]

    messages = [(key, at) for at, key in enumerate(keys)]
    found = asyncio.run(in_lanes(messages, lambda one: one[0], work, lanes))
    assert found == list(range(len(keys)))
    assert most <= lanes
    for key in set(keys):
        assert [one for one in log if one[0] == key] == [one for one in messages if one[0] == key]


async def test_lanes_have_bounds() -> None:
    batch: Batch[bytes] = Batch(Memory(), "s", "memory", [])
    for lanes in (0, 1001):
        with pytest.raises(InvalidArguments, match="give 1 to 1,000"):
            await batch.in_any_order(_nothing, lanes=lanes)


async def _nothing(message: Message[bytes]) -> None: ...
