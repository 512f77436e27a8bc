"""A distributed store: a transaction is of one shard, and what crosses shards says why.

The database itself watches (`tests/support/shard_guard.py`): a transaction that writes rows of two
shards without a reason fails. `make distributed` runs the acceptance tests and those of the stores
in this way too.
"""

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from everlong import Client, Signal, Worker, activity, workflow
from everlong.exceptions import StoreError
from everlong_engine import RunFilter
from everlong_engine.model.writes import Write
from everlong_engine.store.postgres import group
from everlong_engine.store.postgres.spread import Spans, parts_of
from everlong_engine.store.postgres.statements import Connection
from everlong_engine.store.postgres.store import PostgresStore
from tests.support.command_line import everlong
from tests.support.hosting import until
from tests.support.postgres_server import fresh_database, fresh_store
from tests.support.postgres_worker import count_apart, count_slowly
from tests.support.ready_process import ready
from tests.support.shard_guard import spanned
from tests.support.store_rig import Rig

go = Signal("go", int)
AT_ONCE = 40


@activity
async def double_spread(number: int) -> int:
    return 2 * number


@workflow
async def waits_for_a_word(number: int) -> int:
    await asyncio.sleep(0.01)
    return await double_spread(number) + await go.receive()


@workflow
async def child(number: int) -> int:
    return await double_spread(number)


@workflow
async def parent(number: int) -> int:
    return sum(await asyncio.gather(*(child(one) for one in range(number))))


@pytest.fixture
async def url() -> str:
    return await fresh_store(1024, distributed=True)


@pytest.fixture
async def outside(url: str) -> AsyncIterator[Connection]:
    connection: Connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def test_what_is_of_one_execution_is_a_transaction_of_its_shard(
    url: str, outside: Connection
) -> None:
    """Starts, activities, timers, signals, claims and ends, of many executions at once."""
    async with Client.connect(url) as client:
        async with Worker(client, workflows=[waits_for_a_word], activities=[double_spread]):
            handles = [await client.start(waits_for_a_word, one) for one in range(AT_ONCE)]
            await asyncio.gather(*(handle.signal(go, 1) for handle in handles))
            results = await asyncio.gather(*(handle.result() for handle in handles))
        assert results == [2 * one + 1 for one in range(AT_ONCE)]
        assert await client.verify() == []
    shards = await outside.fetchval("SELECT count(DISTINCT shard) FROM everlong.runs")
    assert shards > AT_ONCE // 2
    assert await spanned(outside) == {}


async def test_children_span_shards_and_say_so(url: str, outside: Connection) -> None:
    async with (
        Client.connect(url) as client,
        Worker(client, workflows=[parent, child], activities=[double_spread]),
    ):
        assert await client.run(parent, 20) == 380
        assert await client.verify() == []
    assert (await spanned(outside)).keys() == {Spans.FAMILY.value}


async def test_tasks_are_taken_shard_by_shard(url: str, outside: Connection) -> None:
    """By a worker in another process, which is killed with some in its hands; so is their owner."""
    async with Client.connect(url) as client, AsyncExitStack() as stack:
        owner = await stack.enter_async_context(_worker(url, "2"))
        apart = await stack.enter_async_context(_worker(url, "2", "apart"))
        handles = [await client.start(count_apart, 20, id=f"a{one}") for one in range(5)]
        handles += [await client.start(count_slowly, 40, id=f"w{one}") for one in range(10)]

        async def some_are_under_way() -> bool:
            rows = await client.engine.store.list_runs(RunFilter("default"), 100, None)
            return sum(row.owner is not None and row.next_seq > 5 for row in rows) >= 5

        await until(some_are_under_way)
        apart.kill()
        owner.kill()
        await stack.enter_async_context(_worker(url, "2"))
        await stack.enter_async_context(_worker(url, "2", "apart"))
        results = await asyncio.gather(*(handle.result() for handle in handles))
        assert results == [210] * 5 + [40] * 10
        assert await client.verify() == []
    assert await spanned(outside) == {}


def _worker(url: str, *options: str) -> AbstractAsyncContextManager[Process]:
    return ready("-m", "tests.support.postgres_worker", url, *options)


async def test_closed_runs_are_pruned_shard_by_shard(url: str, outside: Connection) -> None:
    async with (
        Client.connect(url) as client,
        Worker(client, workflows=[child], activities=[double_spread]),
    ):
        await asyncio.gather(*(client.run(child, one) for one in range(AT_ONCE)))
        later = client.engine.clock.now_us() + 1_000_000
        end, pruned = await client.engine.store.prune((-1, b""), later, AT_ONCE)
        assert pruned == AT_ONCE
        assert end is not None
        assert await client.engine.store.prune(end, later, AT_ONCE) == (None, 0)
        assert await client.verify() == []
    assert await outside.fetchval("SELECT count(*) FROM everlong.history") == 0
    assert await spanned(outside) == {}


async def test_a_group_of_which_one_shard_fails_is_stored_by_its_repetition(
    url: str, outside: Connection
) -> None:
    """What the other shards have stored by then is known again, and not done twice."""
    await outside.execute("""
        CREATE SEQUENCE guard.tried;
        CREATE FUNCTION guard.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.workflow_id = 'w7' AND nextval('guard.tried') <= 2 THEN
                RAISE EXCEPTION 'not now';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON everlong.runs
            FOR EACH ROW EXECUTE FUNCTION guard.fail();
    """)
    async with Client.connect(url) as client:
        async with Worker(client, workflows=[child], activities=[double_spread]):
            results = await asyncio.gather(
                *(client.run(child, one, id=f"w{one}") for one in range(AT_ONCE))
            )
        assert results == [2 * one for one in range(AT_ONCE)]
        assert await client.verify() == []
    assert await outside.fetchval("SELECT last_value FROM guard.tried") >= 2
    assert await outside.fetchval("SELECT count(*) FROM everlong.runs") == AT_ONCE


async def test_a_transaction_that_mixes_shards_is_caught(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard itself: without the cut by shards nothing of a mixed group is stored."""

    def whole(writes: Sequence[Write]) -> list[list[tuple[int, Write]]]:
        return [list(enumerate(writes))]

    store = await PostgresStore.open(url)
    rig = Rig(store)
    starts = [rig.start(name) for name in ("a", "b")]
    writes = [replace(one, run=replace(one.run, shard=at)) for at, one in enumerate(starts)]
    monkeypatch.setattr(group, "parts_of", whole)
    with pytest.raises(asyncpg.RaiseError, match="one transaction writes to shards"):
        await store.submit(writes)
    monkeypatch.setattr(group, "parts_of", parts_of)
    assert len(await store.submit(writes)) == 2
    await store.close()


# ------------------------------------------------------------------------------------ what it is


async def test_the_store_says_which_it_is(tmp_path: Path) -> None:
    """Whoever connects follows; whoever insists on the other is told."""
    url = await fresh_database()
    spread_url = f"{url}?distributed=true"
    store = await PostgresStore.open(spread_url)
    await store.close()
    for said in (url, spread_url):
        store = await PostgresStore.open(said)
        assert store.distributed
        await store.close()
    with pytest.raises(StoreError, match=r"says distributed=false, and .* is distributed"):
        await PostgresStore.open(f"{url}?distributed=false")
    done = everlong("migrate", "--db", f"{url}?distributed=false", folder=tmp_path)
    assert done.code == 0, done.err
    with pytest.raises(StoreError, match=r"says distributed=true, and .* is not distributed"):
        await PostgresStore.open(spread_url)
    with pytest.raises(StoreError, match="must be true or false"):
        await PostgresStore.open(f"{url}?distributed=perhaps")
