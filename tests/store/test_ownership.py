"""One engine process owns a store that is a file; the others send, look, and notice what was
committed. A server has many (`test_postgres_workers.py`)."""

import pytest

from everlong_engine.model.errors import StoreError, StoreOwned
from everlong_engine.store.interface import Store
from tests.store.conftest import ONE_OWNER
from tests.support.store_rig import Rig

Pair = tuple[Store, Store]

one_owner = pytest.mark.parametrize("pair", ONE_OWNER, indirect=True)


@one_owner
async def test_a_second_owner_is_refused_until_the_first_lets_go(pair: Pair) -> None:
    one, two = pair
    one.acquire()
    one.acquire()
    with pytest.raises(StoreOwned):
        two.acquire()
    assert (one.owned, two.owned) == (True, False)
    await one.abandon()
    two.acquire()
    assert (one.owned, two.owned) == (False, True)


@one_owner
async def test_a_closed_store_lets_go(pair: Pair) -> None:
    one, two = pair
    one.acquire()
    await one.close()
    two.acquire()
    assert two.owned


async def test_a_closed_store_answers_instead_of_hanging(rig: Rig) -> None:
    await rig.store.close()
    with pytest.raises(StoreError, match="closed"):
        await rig.one(rig.start())
    with pytest.raises(StoreError, match="closed"):
        await rig.claim()


async def test_what_one_process_stores_the_other_notices_and_sees(pair: Pair) -> None:
    one, two = pair
    await two.changed()
    row = await Rig(one).started()
    assert await two.changed()
    assert await one.changed()
    assert await Rig(two).row() == row
    assert len(await two.mail_since(0, 10)) == 1


@one_owner
async def test_nothing_is_noticed_where_nothing_was_stored(pair: Pair) -> None:
    one, two = pair
    rig = Rig(one)
    row = await rig.owned()
    await two.changed()
    await rig.one(rig.append(row, base=9))
    await rig.send("nobody")
    assert not await two.changed()


async def test_two_processes_may_write_side_by_side(pair: Pair) -> None:
    """As a client and an owner do: each transaction is short and waits for the other's end."""
    one, two = pair
    first, second = Rig(one), Rig(two, seed=8)
    for number in range(50):
        starts = first.one(first.start(f"a{number}")), second.one(second.start(f"b{number}"))
        for each in starts:
            await each
    assert len(await first.claim(limit=1000)) == 100
    assert await second.claim(limit=1000) == []
    assert await first.problems() == []
