"""Behind a pooler that gives a server process away with each transaction, everything goes on."""

import asyncio

import pytest

from everlong import Client, Signal, Worker, activity, workflow
from everlong_engine.store.postgres.store import PostgresStore
from tests.support.pooler import pooled
from tests.support.postgres_server import fresh_store

said = Signal("pooler-said", int)


@activity
async def pooler_double(number: int) -> int:
    return 2 * number


@workflow
async def pooler_sum(numbers: int) -> int:
    found = await asyncio.gather(*(pooler_double(number) for number in range(numbers)))
    return sum(found) + await said.receive()


@pytest.mark.parametrize("hints", [True, False])
async def test_behind_a_pooler_workers_and_clients_do_all_that_they_do_without(hints: bool) -> None:
    direct = await fresh_store(1024)
    with pooled(direct) as pooler:
        url = f"{pooler}?pooler=transaction" + (f"&listen_url={direct}" if hints else "")
        async with Client.connect(url) as sender, Client.connect(url) as client, Worker(client):
            handles = [await sender.start(pooler_sum, 4, id=f"w{number}") for number in range(8)]
            await asyncio.gather(*(handle.signal(said, 1) for handle in handles))
            assert await asyncio.gather(*(handle.result() for handle in handles)) == [13] * 8
            assert await client.verify() == []


async def test_a_store_can_be_made_and_looked_after_through_a_pooler() -> None:
    direct = await fresh_store()
    with pooled(direct) as pooler:
        url = f"{pooler}?pooler=transaction"
        assert (await PostgresStore.migrate(url))[0] == (await PostgresStore.migrate(url))[1]
        store = await PostgresStore.open(url)
        assert await store.verify() == []
        await store.close()
