"""A topic of 100-byte messages, read by one flow until all of it is stored; a broker of its own.

The broker is a real one that speaks Kafka's protocol (`noida-db`, with the extra `test`). Three
sizes of a batch, and two bodies: a transactional activity, whose rows are committed with the
position, and an ordinary activity that takes the batch. What is timed is from the start of the flow
to its result; a single message is a batch of its own in the first size, so that topic is short.
"""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from benchmarks._catalogue import Figures
from benchmarks._place import store
from everlong import Client, Transaction, Worker, activity, checkpoint, workflow
from everlong.streams import Stream
from everlong.streams.kafka import Kafka

BATCHES = (1, 100, 1_000)
MESSAGE_BYTES = 100
SHORTER = 50
"""By which the topic is shorter that is read message by message."""
PATIENCE_S = 30.0


@activity(transactional=True)
async def store_rows(tx: Transaction, values: list[bytes]) -> None:
    tx.executemany("insert into sink (value) values (:value)", [{"value": one} for one in values])


@activity
async def take_rows(values: list[bytes]) -> int:
    return len(values)


async def measure(folder: Path, size: int) -> Figures:
    servers = await _broker(folder)
    figures: Figures = {}
    async with Client.connect(store(folder)):
        pass
    with sqlite3.connect(store(folder)) as file:
        file.execute("create table sink (value blob)")
    for most in BATCHES:
        count = max(most, size // SHORTER if most == 1 else size)
        topic = f"messages-{most}"
        await _fill(servers, topic, count)
        for body in ("transactional", "activity"):
            elapsed_s = await _consume(folder, servers, topic, most, count, body)
            figures[f"{body}_{most}_per_s"] = count / elapsed_s
    return figures


async def _consume(
    folder: Path, servers: str, topic: str, most: int, count: int, body: str
) -> float:
    messages = Stream(f"{topic}-{body}", Kafka(servers, topic))
    transactional = body == "transactional"

    @workflow(name=f"benchmark-{topic}-{body}")
    async def consume(done: int = 0) -> int:
        async for batch in messages.batches(max_messages=most):
            if transactional:
                await store_rows(batch.values)
            else:
                await take_rows(batch.values)
            done += len(batch)
            if done == count:
                return done
            await checkpoint(done=done)
        return done

    async with (
        Client.connect(store(folder)) as client,
        Worker(client, workflows=[consume], activities=[store_rows, take_rows]),
    ):
        began = time.perf_counter()
        assert await client.run(consume) == count
        elapsed_s = time.perf_counter() - began
    with sqlite3.connect(store(folder)) as file:
        found = file.execute("select count(*), count(distinct value) from sink").fetchone()
        assert found == ((count, count) if transactional else (0, 0))
        file.execute("delete from sink")
    return elapsed_s


async def _fill(servers: str, topic: str, count: int) -> None:
    from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]
    from aiokafka.admin import (  # pyright: ignore[reportMissingTypeStubs]
        AIOKafkaAdminClient,
        NewTopic,
    )

    admin = cast("Any", AIOKafkaAdminClient)(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([cast("Any", NewTopic)(topic, 1, 1)])
    await admin.close()
    producer = cast("Any", AIOKafkaProducer)(bootstrap_servers=servers, linger_ms=5)
    await producer.start()
    try:
        for number in range(count):
            await producer.send(topic, b"%0*d" % (MESSAGE_BYTES, number), partition=0)
        await producer.flush()
    finally:
        await producer.stop()


async def _broker(folder: Path) -> str:
    """Its address. It belongs to the measurement's process group, and ends with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    binary = Path(sys.executable).with_name("noida-db")
    if not binary.exists():
        sys.exit("the benchmark `streams` needs a broker: pip install 'everlong[kafka,test]'")
    only = ["--only", "kafka", "--kafka-port", str(port), "--host", "127.0.0.1"]
    data = folder / "broker"
    with (folder / "broker.log").open("wb") as log:
        subprocess.Popen(
            [os.fspath(binary), "start", *only, "--data-dir", os.fspath(data)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return f"127.0.0.1:{port}"
