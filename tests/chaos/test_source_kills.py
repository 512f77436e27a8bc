"""Sources under kill -9: messages come into being while the worker is killed, in the worst order,
and each is one row, by INSERTs that never collide."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import json
import os
import random
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from starlette.responses import Response

from everlong import Client
from everlong.streams.postgres import positions_ddl
from tests.chaos.arena import FULL
from tests.proof.record import record
from tests.support.command_line import begin, worker_ready
from tests.support.http_endpoint import endpoint
from tests.support.postgres_server import fresh_database

KILLS: Final = 50 if FULL else 5
CODE: Final = """
from typing import Any

from everlong import Retry, Transaction, activity, checkpoint, workflow
from everlong.streams import Directory, Stream
from everlong.streams.http import HttpPoll
from everlong.streams.postgres import PostgresRows

numbers = Stream("numbers", {source})

@activity(name="chaos_keep", transactional=True, retry=Retry(delay=0.01))
async def keep(tx: Transaction, numbers: list[int]) -> None:
    tx.executemany(
        "insert into sink (number) values (:number)", [{{"number": one}} for one in numbers]
    )

@workflow(name="chaos_read")
async def read(count: int = 0) -> int:
    async for batch in numbers.batches(max_messages=20):
        await keep([one["n"] for one in batch.values])
        count += len(batch)
        if count >= {messages}:
            break
        await checkpoint(count=count)
    return count
"""


@dataclass
class Feed:
    """A source's declaration, and what puts all its messages there, over a while."""

    source: str
    messages: int
    fill: Callable[[], Awaitable[None]]


@asynccontextmanager
async def postgres(_: Path) -> AsyncGenerator[Feed]:
    """Transactions of several writers, which commit when they like."""
    url, messages, writers = await fresh_database(), 300 * KILLS, 6
    setup = await asyncpg.connect(url)
    await setup.execute("create table numbers (id bigint primary key, n bigint)")
    await setup.execute(positions_ddl("numbers"))
    await setup.close()

    async def write(first: int) -> None:
        chance = random.Random(first)
        connection: Any = await asyncpg.connect(url)
        left = list(range(first, messages, writers))
        while left:
            async with connection.transaction():
                for _ in range(chance.randint(1, 8)):
                    if left:
                        number = left.pop(chance.randrange(len(left)))
                        await connection.execute("insert into numbers values ($1, $1)", number)
                await asyncio.sleep(chance.random() * 0.02)
        await connection.close()

    async def fill() -> None:
        async with asyncio.TaskGroup() as group:
            for first in range(writers):
                group.create_task(write(first))

    yield Feed(f"PostgresRows({url!r}, 'numbers', Any, poll=0.01)", messages, fill)


@asynccontextmanager
async def directory(folder: Path) -> AsyncGenerator[Feed]:
    """Files of several lines, renamed into place, with any names and any times."""
    inbox, files, chance = folder / "inbox", 40 * KILLS, random.Random(1)
    inbox.mkdir()
    names = chance.sample(range(10_000_000), files)

    async def fill() -> None:
        for count, name in enumerate(names):
            fresh = inbox / ".fresh"
            lines = (json.dumps({"n": number}) for number in range(count * 9, count * 9 + 9))
            fresh.write_text("\n".join(lines))
            moment = chance.randrange(1_000_000_000)
            os.utime(fresh, (moment, moment))
            fresh.rename(inbox / f"{name}.jsonl")
            await asyncio.sleep(chance.random() * 0.02)

    options = "pattern='*.jsonl', lines=True, settle=0, poll=0.01"
    yield Feed(f"Directory({str(inbox)!r}, Any, {options})", files * 9, fill)


@asynccontextmanager
async def http(_: Path) -> AsyncGenerator[Feed]:
    """A list that grows, by a server that now and then has no time."""
    messages, chance = 200 * KILLS, random.Random(1)
    refusals: list[tuple[int, dict[str, str]]] = [(502, {}), (429, {"Retry-After": "0"})]
    with endpoint() as served:
        served.page_size = 15

        async def fill() -> None:
            for number in range(0, messages, 10):
                served.put(*range(number, number + 10))
                if not served.answers and chance.random() < 0.05:
                    status, headers = chance.choice(refusals)
                    served.answers.append(Response(status_code=status, headers=headers))
                await asyncio.sleep(chance.random() * 0.02)

        options = "items='data.list', since='after', poll=0.01"
        yield Feed(f"HttpPoll('{served.url}/since', Any, {options})", messages, fill)


FEEDS: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[Feed]]]] = {
    "PostgresRows": postgres,
    "Directory": directory,
    "HttpPoll": http,
}


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute("select count(*) from sink").fetchone()[0]
        return count


@pytest.mark.parametrize("name", FEEDS)
@pytest.mark.timeout(3600 if FULL else 180)
async def test_each_message_is_one_row_whenever_the_worker_is_killed(
    name: str, tmp_path: Path
) -> None:
    began, chance, path = time.monotonic(), random.Random(), tmp_path / "everlong.db"
    in_the_middle = 0
    async with FEEDS[name](tmp_path) as feed, Client.connect(path) as client:
        code = CODE.format(source=feed.source, messages=feed.messages)
        (tmp_path / "flow.py").write_text(code)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("create table sink (number integer primary key)")
        handle = await client.start("chaos_read", id="flow")
        filling = asyncio.ensure_future(feed.fill())
        for kill in range(KILLS):
            worker = begin("worker", "flow.py", "--json", folder=tmp_path)
            await asyncio.to_thread(worker_ready, worker)
            while rows(path) <= feed.messages * kill // (KILLS + 1):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await asyncio.sleep(chance.random() * 0.02)
            worker.kill()
            worker.communicate()
            in_the_middle += 0 < rows(path) < feed.messages
            assert await client.verify() == []
        worker = begin("worker", "flow.py", "--json", folder=tmp_path)
        try:
            await filling
            assert await handle.result() == feed.messages
        finally:
            worker.kill()
            worker.communicate()
        problems = await client.verify()
    with closing(sqlite3.connect(path)) as connection:
        found = [one for (one,) in connection.execute("select number from sink order by 1")]
    record(
        f"{name} read, its worker killed",
        invariants=[2, 3, 4],
        tried="messages that come into being in any order are read into a table by plain INSERTs, "
        "and the worker is killed at random moments: each message is one row",
        times=KILLS,
        broken=len(set(range(feed.messages)) ^ set(found)) + len(problems),
        seconds=time.monotonic() - began,
        figures={"messages": feed.messages, "kills in their midst": in_the_middle},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_source_kills.py",
    )
    assert found == list(range(feed.messages))
    assert problems == []
    assert in_the_middle > 0
