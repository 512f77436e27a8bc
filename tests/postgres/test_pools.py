"""Pools of workflows between processes: what is killed gives its place back, and nobody else's."""

import asyncio
from asyncio.subprocess import Process
from contextlib import AbstractAsyncContextManager

import asyncpg

from everlong import Client
from tests.support.hosting import until
from tests.support.postgres_server import fresh_database
from tests.support.postgres_worker import AT_ONCE, count_in_turn
from tests.support.ready_process import ready

EXECUTIONS = 20
STEPS = 40
_WATCH = f"""
    CREATE TABLE exceeded (under_way INT);
    CREATE FUNCTION count_under_way() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE under_way INT;
    BEGIN
        SELECT count(*) INTO under_way FROM everlong.runs
        WHERE type = 'count_in_turn' AND status < 10 AND next_seq > 1;
        IF under_way > {AT_ONCE} THEN INSERT INTO exceeded VALUES (under_way); END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER count_under_way AFTER UPDATE ON everlong.runs
        FOR EACH STATEMENT EXECUTE FUNCTION count_under_way();
"""
"""What has begun and is open is told from the runs, and not from the rows that count."""


def worker(url: str) -> AbstractAsyncContextManager[Process]:
    """Its lease ends soon."""
    return ready("-m", "tests.support.postgres_worker", url, "2")


async def test_a_pool_holds_and_leaks_nothing_while_workers_are_killed() -> None:
    url = await fresh_database()
    async with Client.connect(url) as client, worker(url):
        watch = await asyncpg.connect(url)
        await watch.execute(_WATCH)

        async def all_places_are_taken() -> bool:
            return sum(one.running for one in await client.pools()) == AT_ONCE

        handles = [await client.start(count_in_turn, STEPS) for _ in range(EXECUTIONS)]
        for _ in range(3):
            async with worker(url) as one:
                await until(all_places_are_taken)
                one.kill()
                await one.wait()
        await until(all_places_are_taken)
        results = await asyncio.gather(*(one.result() for one in handles))
        assert results == [STEPS] * EXECUTIONS
        assert await watch.fetch("SELECT * FROM exceeded") == []
        await watch.close()
        assert await client.pools() == []
        assert await client.verify() == []
