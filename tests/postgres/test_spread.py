"""Flows that read a stream spread over the workers of a server, in processes of their own."""

import asyncio
import signal
from asyncio.subprocess import Process
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import asyncpg

from everlong import Client
from everlong.streams import Stream
from everlong_engine import RunFilter
from tests.support.hosting import until
from tests.support.postgres_server import fresh_database
from tests.support.ready_process import ready
from tests.support.spread_worker import Parts, consume

PARTS: Final = 8
_PATIENCE_S: Final = 60.0
"""Processes start, and die for as long as a lease, beside all other tests."""


def worker(url: str, folder: Path) -> AbstractAsyncContextManager[Process]:
    return ready("-m", "tests.support.spread_worker", url, "3", folder)


async def owners(client: Client) -> list[int]:
    """How many flows each worker has, the most first; fewer in all while some change hands."""
    rows = await client.engine.store.list_runs(RunFilter("default", status="running"), 100, None)
    return sorted(Counter(row.owner for row in rows if row.owner).values(), reverse=True)


async def owned(client: Client, wanted: list[int]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while await owners(client) != wanted:  # noqa: ASYNC110 - others change it, in processes
            await asyncio.sleep(0.02)  # tidy: waits because the store offers no signal for this


class Producer:
    """Adds lines to all partitions in turn, each number once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = Counter[str]()

    def add(self, count: int) -> None:
        for part in range(PARTS):
            with (self.folder / str(part)).open("a") as file:
                for _ in range(count):
                    file.write(f"{self.lines[str(part)]}\n")
                    self.lines[str(part)] += 1

    async def run(self) -> None:
        while True:
            self.add(1)
            await asyncio.sleep(0.05)  # tidy: waits because messages come all the time


async def test_flows_spread_over_workers_that_come_stop_and_die(tmp_path: Path) -> None:
    """Lines come all the time, so flows are at work whenever they change hands."""
    url = await fresh_database()
    (folder := tmp_path / "parts").mkdir()
    producer = Producer(folder)
    producer.add(20)
    stream = Stream("lines", Parts(folder))
    async with Client.connect(url) as client:
        db = await asyncpg.connect(url)
        await db.execute("create table sink (part text, number bigint, primary key (part, number))")
        async with worker(url, folder):
            producing = asyncio.ensure_future(producer.run())
            family = await stream.spread(client, consume, id="lines", parts=PARTS)
            await owned(client, [8])
            async with worker(url, folder) as killed:
                await owned(client, [4, 4])
                killed.kill()
                await owned(client, [8])
            async with worker(url, folder) as stopped, worker(url, folder):
                await owned(client, [3, 3, 2])
                stopped.send_signal(signal.SIGTERM)
                assert await stopped.wait() == 0
                await owned(client, [4, 4])
            producing.cancel()

            async def all_is_there() -> bool:
                count: int = await db.fetchval("select count(*) from sink")
                return count == sum(producer.lines.values())

            await until(all_is_there)
            found = await db.fetch("select part, count(*), max(number) from sink group by part")
            assert {row[0]: (row[1], row[2] + 1) for row in found} == {
                part: (count, count) for part, count in producer.lines.items()
            }
            for handle in family.handles:
                assert (await handle.describe()).status == "running"
            assert await client.verify() == []
        await db.close()
