"""Transactional activities and streams on a server: rows are stored with the completion, or not at
all, whichever worker is killed when."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from everlong import (
    Client,
    Retry,
    StatementFailed,
    Transaction,
    Worker,
    activity,
    workflow,
)
from tests.support.postgres_server import fresh_database
from tests.support.ready_process import ready

LINES = 4_000
KILLS = 3
INSERT = "insert into orders (id, amount) values (:id, :amount)"


async def asked(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


@activity(transactional=True)
async def make_tables(tx: Transaction) -> None:
    tx.execute("create table orders (id bigint primary key, amount text not null, at timestamptz)")


@activity(transactional=True, retry=Retry(max_attempts=1))
async def place(tx: Transaction, number: int, amount: str) -> str:
    tx.execute(INSERT, {"id": number, "amount": amount})
    tx.execute(
        "update orders set at = cast(:at as text)::timestamptz where id = :id",
        {"at": "2026-11-22T12:00:00Z", "id": number},
    )
    return f"order {number}"


@workflow
async def order(*numbers: int) -> list[str]:
    await make_tables()
    told: list[str] = []
    for number in numbers:
        try:
            told.append(await place(number, "dear"))
        except StatementFailed as error:
            told.append(str(error))
    return told


async def test_rows_are_stored_with_the_completion_or_the_workflow_hears_why_not() -> None:
    url = await fresh_database()
    async with Client.connect(url) as client, Worker(client):
        first, again, last = await client.run(order, 1, 1, 2)
    assert (first, last) == ("order 1", "order 2")
    assert 'violates unique constraint "orders_pkey"' in again
    assert "statement 1 of 2" in again
    assert await asked(url, "select id, amount from orders order by id") == [
        (1, "dear"),
        (2, "dear"),
    ]
    assert await asked(url, "select distinct at at time zone 'utc' from orders") != [(None,)]


PROGRAM = """
import asyncio
from everlong import Client, Transaction, Worker, activity, checkpoint, workflow
from everlong.streams import Stream
from everlong.streams.files import Lines
from tests.support.postgres_worker import shorten_leases

lines = Stream("lines", Lines({path!r}, int, poll=0.01))

@activity(transactional=True)
async def store(tx: Transaction, numbers: list[int]) -> None:
    tx.executemany("insert into sink values (:number)", [{{"number": one}} for one in numbers])

@workflow(name="store_lines")
async def store_lines(count: int = 0) -> int:
    async for batch in lines.batches(max_messages=20):
        await store(batch.values)
        count += len(batch)
        if count == {lines}:
            break
        await checkpoint(count=count)
    return count

async def main() -> None:
    async with Client.connect({url!r}) as client:
        worker = Worker(client, workflows=[store_lines], activities=[store])
        await worker.run(on_ready=lambda: print("ready", flush=True))

shorten_leases(1.0)
asyncio.run(main())
"""


@pytest.mark.timeout(120)
async def test_each_message_is_one_row_whichever_worker_is_killed(tmp_path: Path) -> None:
    """By plain INSERTs, which never meet a row of their own."""
    url = await fresh_database()
    source, program = tmp_path / "numbers.jsonl", tmp_path / "program.py"
    source.write_text("".join(f"{number}\n" for number in range(LINES)))
    program.write_text(PROGRAM.format(path=str(source), lines=LINES, url=url))
    connection = await asyncpg.connect(url)
    await connection.execute("create table sink (number bigint primary key)")

    async def count() -> int:
        found: int = await connection.fetchval("select count(*) from sink")
        return found

    async with Client.connect(url) as client:
        handle = await client.start("store_lines", id="flow")
        for kill in range(KILLS):
            async with ready(program) as one:
                while await count() <= LINES * kill // (KILLS + 1):  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
                await asyncio.sleep(random.random() * 0.02)
                one.kill()
                await one.wait()
            assert 0 < await count() < LINES
            assert await client.verify() == []
        async with ready(program):
            assert await handle.result() == LINES
        assert await client.verify() == []
    assert await asked(url, "select number from sink order by 1") == [(n,) for n in range(LINES)]
    await connection.close()
