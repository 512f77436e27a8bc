"""A batch that was read ahead is recorded with what asks for it, and is nothing without that."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    Retry,
    Signal,
    StatementFailed,
    Transaction,
    Worker,
    activity,
    checkpoint,
    workflow,
)
from everlong.interceptors import ExecuteActivity, Interceptor, Next
from everlong.streams import Memory, Stream
from tests.support.hosting import kinds
from tests.support.other_process import other_process

pytestmark = pytest.mark.file  # Each has a table beside the flow.

COUNT = 60
TROUBLES = 2
odd: Signal[int] = Signal("ahead-odd", int)


def stored(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [number for (number,) in db.execute("select number from sink order by rowid")]


def make_sink(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create table sink (number integer unique check (number % 3 <> 2))")


@activity(transactional=True, retry=Retry(max_attempts=1))
async def save_ahead(tx: Transaction, values: list[int]) -> None:
    tx.executemany("insert into sink (number) values (:n)", [{"n": one} for one in values])


@activity
async def note_ahead(values: list[int]) -> list[int]:
    return values


def groups_of(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many writes each group commit had."""
    store = client.engine.store
    submit, groups = store.submit, list[int]()

    def counted(writes: Any) -> Any:
        groups.append(len(writes))
        return submit(writes)

    monkeypatch.setattr(store, "submit", counted)
    return groups


async def test_a_batch_and_what_is_stored_of_the_one_before_it_share_a_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Memory(int)
    source.put(*(3 * one for one in range(COUNT)))
    stream = Stream("numbers", source)

    @workflow
    async def saves(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            await save_ahead(batch.values)
            count += 1
            if count == COUNT:
                break
            await checkpoint(count=count)
        return count

    async with Client.connect(path) as client, Worker(client):
        make_sink(path)
        groups = groups_of(client, monkeypatch)
        assert await client.run(saves) == COUNT
        assert len(groups) < 1.5 * COUNT  # Two, if the next batch had to wait for its own.
        assert await client.verify() == []
    assert stored(path) == [3 * one for one in range(COUNT)]


async def test_what_was_read_ahead_is_void_with_what_asked_for_it(path: Path) -> None:
    """The code takes another way, and another activity gets the number that the read had."""
    source = Memory(int)
    source.put(*range(COUNT))
    stream = Stream("numbers", source)

    @workflow
    async def saves(refused: tuple[int, ...] = ()) -> list[int]:
        async for batch in stream.batches(max_messages=1):
            try:
                await save_ahead(batch.values)
            except StatementFailed:
                refused += tuple(await note_ahead(batch.values))
            if batch.values == [COUNT - 1]:
                break
            await checkpoint(refused=refused)
        return list(refused)

    async with Client.connect(path) as client, Worker(client):
        make_sink(path)
        assert await client.run(saves) == [one for one in range(COUNT) if one % 3 == 2]
        assert await client.verify() == []
    assert stored(path) == [one for one in range(COUNT) if one % 3 != 2]


async def test_an_input_that_comes_first_the_second_time_takes_its_number(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full again and again: what was to be stored is driven anew, behind a signal of
    which another task of the flow makes an activity."""
    source = Memory(int)
    source.put(*(3 * one for one in range(COUNT)))
    stream = Stream("numbers", source)

    @workflow
    async def saves() -> list[list[int]]:
        notes: list[list[int]] = []

        async def listen() -> None:
            while len(notes) < TROUBLES:
                notes.append(await note_ahead([await odd.receive()]))

        listening = asyncio.create_task(listen())
        count = 0
        async for batch in stream.batches(max_messages=1):
            await save_ahead(batch.values)
            count += 1
            if count == COUNT:
                break
        await listening
        return notes

    async with Client.connect(path) as client, Worker(client), other_process(path) as other:
        make_sink(path)
        handle = await client.start(saves, id="saves")
        store, sent, alone = client.engine.store, 0, 0
        submit = store.submit

        async def full(number: int) -> Any:
            if number:
                await other.do("signal", id="saves", name=odd.name, value=number)
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        def submitted(writes: Any) -> Any:
            nonlocal sent, alone
            if len(writes) == 2 and writes[0].statements and sent < TROUBLES:
                sent, alone = sent + 1, 2
                return asyncio.ensure_future(full(sent))
            if not alone:
                return submit(writes)
            alone -= 1
            return asyncio.ensure_future(full(0))

        monkeypatch.setattr(store, "submit", submitted)
        assert await handle.result() == [[one + 1] for one in range(TROUBLES)]
        assert await client.verify() == []
    assert stored(path) == [3 * one for one in range(COUNT)]


async def test_interceptors_see_every_read(path: Path) -> None:
    source = Memory(int)
    source.put(*range(COUNT))
    stream = Stream("numbers", source)
    seen: list[str] = []

    class Sees(Interceptor):
        async def execute_activity(self, call: ExecuteActivity, next: Next[ExecuteActivity]) -> Any:
            seen.append(call.activity)
            return await next(call)

    @workflow
    async def reads(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            count += len(batch)
            if count == COUNT:
                break
            await checkpoint(count=count)
        return count

    async with Client.connect(path, interceptors=[Sees()]) as client, Worker(client):
        handle = await client.start(reads)
        assert await handle.result() == COUNT
        assert seen == ["everlong.stream.numbers"] * COUNT
        assert (await kinds(handle)).count("ActivityCompleted") == COUNT
