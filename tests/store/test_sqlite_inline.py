"""The inline form: nothing to wait for, whole transactions, and processes that can be killed."""

import asyncio
import sqlite3

import pytest

from everlong_engine.model.errors import StoreError, StoreFailed
from everlong_engine.store.interface import Trouble
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.support.store_rig import Rig, signal


class Death(BaseException):
    """What a simulator raises where a process dies."""


async def test_a_group_is_done_when_submit_returns() -> None:
    rig = Rig(InlineDatabase().open())
    future = rig.store.submit([rig.start()])
    assert future.done()
    (result,) = future.result()
    assert result is not None


def test_no_verb_waits() -> None:
    async def verbs() -> int:
        rig = Rig(InlineDatabase().open())
        rig.store.acquire()
        await rig.register()
        await rig.started()
        await rig.die()
        await rig.claim_one()
        await rig.store.info()
        assert await rig.problems() == []
        await rig.store.abandon()
        await rig.store.close()
        return 7

    async def drive() -> int:
        coroutine = verbs()
        try:
            waits_for = coroutine.send(None)
        except StopIteration as end:
            return int(end.value)
        raise AssertionError(f"it waits for {waits_for}")

    assert asyncio.run(drive()) == 7


async def test_a_killed_process_frees_the_store_and_writes_nothing_more() -> None:
    database = InlineDatabase()
    one, two = database.open(), database.open()
    one.acquire()
    row = await Rig(one).owned()
    database.kill(one)
    with pytest.raises(StoreError, match="closed"):
        await one.submit([Rig(one).append(row)])
    two.acquire()
    assert await Rig(two).row() == row


async def test_an_interrupted_group_leaves_nothing() -> None:
    database = InlineDatabase()
    rig = Rig(database.open())
    row = await rig.owned()
    await rig.store.changed()
    database.connection.set_progress_handler(lambda: 1, 200)
    with pytest.raises(sqlite3.OperationalError) as caught:
        await rig.one(rig.append(row, *[signal()] * 500))
    database.connection.set_progress_handler(None, 0)
    trouble, answer = rig.store.classify(caught.value)
    assert (trouble, type(answer)) == (Trouble.REPEAT, StoreFailed)
    assert await rig.row() == row
    assert not await rig.store.changed()
    assert await rig.problems() == []


async def test_a_death_in_a_transaction_passes_through_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = InlineDatabase()
    rig = Rig(database.open())
    row = await rig.owned()

    def die(*_: object) -> None:
        raise Death

    append = rig.append(row)
    with monkeypatch.context() as patch:
        patch.setattr("everlong_engine.store.sqlite.appends.execute_rows", die)
        with pytest.raises(Death):
            rig.store.submit([append])
    assert await rig.row() == row
    assert not database.connection.in_transaction


async def test_verify_leaves_the_connection_as_it_was() -> None:
    database = InlineDatabase()
    rig = Rig(database.open())
    before = database.connection.text_factory
    assert await rig.problems() == []
    assert database.connection.text_factory is before


async def test_databases_are_apart() -> None:
    one, two = Rig(InlineDatabase().open()), Rig(InlineDatabase().open())
    await one.started()
    assert await two.claim() == []
