"""A hint reaches other processes, and not its sender. Without one, nothing is missed."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from everlong_engine.store.postgres.store import PostgresStore
from tests.support.postgres_server import lent_store
from tests.support.store_rig import Rig


class Ear:
    """Counts, and says when something is heard."""

    def __init__(self) -> None:
        self.times = 0
        self.heard = asyncio.Event()

    def __call__(self) -> None:
        self.times += 1
        self.heard.set()

    async def hears(self) -> None:
        async with asyncio.timeout(20):
            await self.heard.wait()
        self.heard.clear()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with lent_store() as url:
        yield url


@pytest.fixture
async def pair(url: str) -> AsyncIterator[tuple[Rig, Rig]]:
    stores = [await PostgresStore.open(url) for _ in range(2)]
    yield Rig(stores[0]), Rig(stores[1], seed=8)
    for store in stores:
        await store.close()


async def listening(rig: Rig) -> Ear:
    ear = Ear()
    rig.store.listen(ear)
    await ear.hears()  # Once, as soon as it can.
    return ear


async def test_what_is_left_for_others_is_heard_by_them_and_not_by_its_sender(
    pair: tuple[Rig, Rig],
) -> None:
    one, two = pair
    await one.register("one")
    here, there = await listening(one), await listening(two)
    await one.started()
    await there.hears()
    await one.owned("mine")
    await two.send("mine")
    await here.hears()
    times = there.times
    await one.send("mine")  # For a worker of this very process: nobody else is told,
    await one.send("w")  # and this is the next that they hear.
    await there.hears()
    assert there.times == times + 1
    assert here.times == 2


async def test_a_process_that_leaves_at_once_is_heard(pair: tuple[Rig, Rig]) -> None:
    one, two = pair
    there = await listening(two)
    await one.started()
    await one.store.close()
    await there.hears()


async def test_whoever_hears_is_told_again_after_its_connection_was_lost(
    url: str, pair: tuple[Rig, Rig]
) -> None:
    one, two = pair
    there = await listening(two)
    connection = await asyncpg.connect(url)
    assert await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    await connection.close()
    await there.hears()  # It listens again, and looks for what it may have missed.
    await one.started()
    await there.hears()


async def test_without_hints_everything_is_there(url: str) -> None:
    store = await PostgresStore.open(f"{url}?listen_url=off")
    rig, ear = Rig(store), Ear()
    store.listen(ear)
    await rig.started()
    assert await store.changed()
    assert [run.row.workflow_id for run in await rig.claim()] == ["w"]
    await store.close()
    assert ear.times == 0
