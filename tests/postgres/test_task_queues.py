"""Task queues between processes: what is killed, what is frozen, and what comes back too late."""

import asyncio
import signal
from asyncio.subprocess import Process
from contextlib import AbstractAsyncContextManager

import asyncpg

from everlong import Client
from tests.support.hosting import of_kind, until
from tests.support.postgres_server import fresh_database
from tests.support.postgres_worker import count_apart
from tests.support.ready_process import ready

TIMES = 800


def worker(url: str, *queues: str) -> AbstractAsyncContextManager[Process]:
    """Its lease ends soon."""
    return ready("-m", "tests.support.postgres_worker", url, "2", *queues)


async def some_are_taken(client: Client) -> bool:
    counts = await client.engine.store.queues()
    return any(one.taken >= 10 for one in counts)


async def test_who_takes_from_a_queue_is_killed_again_and_again() -> None:
    """And all is done, each recorded once; what was lost is written down."""
    url = await fresh_database()
    async with Client.connect(url) as client, worker(url, "default"):
        handle = await client.start(count_apart, TIMES)
        for _ in range(3):
            async with worker(url, "apart") as one:
                await until(lambda: some_are_taken(client))
                one.kill()
                await one.wait()
        async with worker(url, "apart"), worker(url, "apart"):
            assert await handle.result() == sum(range(1, TIMES + 1))
        assert len(await of_kind(handle, "ActivityCompleted")) == TIMES
        scheduled = await of_kind(handle, "ActivityScheduled")
        lost = [one for event in scheduled for one in event.attempts if one.state == "lost"]
        assert len(lost) >= 3
        assert await client.engine.store.queues() == []
        assert await client.verify() == []


async def test_the_owner_is_killed_and_its_tasks_go_on() -> None:
    url = await fresh_database()
    async with Client.connect(url) as client, worker(url, "apart"):
        async with worker(url, "default") as owner:
            handle = await client.start(count_apart, TIMES)
            await until(lambda: some_are_taken(client))
            owner.kill()
            await owner.wait()
        async with worker(url, "default"):
            assert await handle.result() == sum(range(1, TIMES + 1))
        scheduled = await of_kind(handle, "ActivityScheduled")
        assert not any(event.attempts for event in scheduled)  # Of those none was lost.
        assert await client.verify() == []


async def test_one_that_was_frozen_comes_back_too_late() -> None:
    """What it had is another's: it is refused, and goes on with what is its own."""
    url = await fresh_database()
    async with Client.connect(url) as client, worker(url, "default"), worker(url, "apart") as one:
        handle = await client.start(count_apart, TIMES)
        await until(lambda: some_are_taken(client))
        one.send_signal(signal.SIGSTOP)

        async def is_buried() -> bool:
            return not all(row.is_there for row in await client.engine.store.workers())

        await until(is_buried)
        async with worker(url, "apart"):
            one.send_signal(signal.SIGCONT)
            assert await handle.result() == sum(range(1, TIMES + 1))
        assert len(await of_kind(handle, "ActivityCompleted")) == TIMES
        assert await client.verify() == []
        handles = [await client.start(count_apart, 5) for _ in range(3)]
        assert await asyncio.gather(*(one.result() for one in handles)) == [15] * 3


LIMIT = 3
_WATCH = f"""
    CREATE TABLE exceeded (taken INT);
    CREATE FUNCTION count_taken() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE taken INT;
    BEGIN
        SELECT count(*) INTO taken FROM everlong.tasks WHERE worker_id IS NOT NULL;
        IF taken > {LIMIT} THEN INSERT INTO exceeded VALUES (taken); END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER count_taken AFTER UPDATE ON everlong.tasks
        FOR EACH STATEMENT EXECUTE FUNCTION count_taken();
"""


async def test_a_limit_holds_and_leaks_nothing_while_workers_are_killed() -> None:
    url = await fresh_database()
    async with Client.connect(url) as client, worker(url, "default"), worker(url, "apart"):
        await client.limit_queue("apart", concurrency=LIMIT)
        watch = await asyncpg.connect(url)
        await watch.execute(_WATCH)

        async def all_are_taken() -> bool:
            return sum(one.running for one in await client.queues()) == LIMIT

        handle = await client.start(count_apart, TIMES)
        for _ in range(4):
            async with worker(url, "apart") as one:
                await until(all_are_taken)
                one.kill()
                await one.wait()
        await until(all_are_taken)  # What the dead had is free again, all of it.
        assert await handle.result() == sum(range(1, TIMES + 1))
        assert await watch.fetch("SELECT * FROM exceeded") == []
        await watch.close()
        assert len(await of_kind(handle, "ActivityCompleted")) == TIMES
        assert await client.verify() == []
