"""Streams under kill -9: each message of a broker is one row, by INSERTs that never collide."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from everlong import Client
from tests.chaos.arena import FULL
from tests.proof.record import record
from tests.support.command_line import begin, worker_ready
from tests.support.kafka_broker import kafka_broker

KILLS: Final = 100 if FULL else 10
MESSAGES: Final = 100_000 if FULL else 20_000
CODE: Final = """
from everlong import Retry, Transaction, activity, checkpoint, workflow
from everlong.streams import Stream
from everlong.streams.kafka import Kafka

orders = Stream("orders", Kafka("{servers}", "orders", int, group="chaos"))

@activity(name="chaos_store", transactional=True, retry=Retry(delay=0.01))
async def store(tx: Transaction, numbers: list[int]) -> None:
    tx.executemany(
        "insert into sink (number) values (:number)", [{{"number": one}} for one in numbers]
    )

@workflow(name="chaos_consume")
async def consume(count: int = 0) -> int:
    async for batch in orders.batches(max_messages=40):
        await store(batch.values)
        count += len(batch)
        if count == {messages}:
            break
        await checkpoint(count=count)
    return count
"""


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute("select count(*) from sink").fetchone()[0]
        return count


@pytest.mark.timeout(3600 if FULL else 180)
async def test_each_message_is_one_row_whenever_the_worker_is_killed(tmp_path: Path) -> None:
    began = time.monotonic()
    chance = random.Random()
    path = tmp_path / "everlong.db"
    in_the_middle = 0
    async with kafka_broker(tmp_path / "broker") as broker:
        await broker.create("orders", 2)
        for partition in (0, 1):
            await broker.send(
                "orders", [b"%d" % n for n in range(partition, MESSAGES, 2)], partition
            )
        code = CODE.format(servers=broker.servers, messages=MESSAGES)
        (tmp_path / "flow.py").write_text(code)
        async with Client.connect(path) as client:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("create table sink (number integer primary key)")
            handle = await client.start("chaos_consume", id="flow")
            for kill in range(KILLS):
                worker = begin("worker", "flow.py", "--json", folder=tmp_path)
                await asyncio.to_thread(worker_ready, worker)
                while rows(path) <= MESSAGES * kill // (KILLS + 1):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                await asyncio.sleep(chance.random() * 0.02)
                worker.kill()
                worker.communicate()
                in_the_middle += 0 < rows(path) < MESSAGES
                assert await client.verify() == []
            worker = begin("worker", "flow.py", "--json", folder=tmp_path)
            try:
                assert await handle.result() == MESSAGES
            finally:
                worker.kill()
                worker.communicate()
            problems = await client.verify()
    with closing(sqlite3.connect(path)) as connection:
        found = [one for (one,) in connection.execute("select number from sink order by 1")]
    record(
        "streams, their worker killed",
        invariants=[2, 3, 4],
        tried="a Kafka topic read into a table by plain INSERTs, and the worker killed at random "
        "moments: each message is one row",
        times=KILLS,
        broken=len(set(range(MESSAGES)) ^ set(found)) + len(problems),
        seconds=time.monotonic() - began,
        figures={"messages": MESSAGES, "kills in their midst": in_the_middle},
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_stream_kills.py",
    )
    assert found == list(range(MESSAGES))
    assert problems == []
    assert in_the_middle > 0
