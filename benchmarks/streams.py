"""A topic of 100-byte messages, read by a flow until all of it is stored; a broker of its own.

The broker is a real one that speaks Kafka's protocol (`noida-db`, with the extra `test`). Three
sizes of a batch, and two bodies: a transactional activity, whose rows are committed with the
position, and an ordinary activity that takes the batch. On a file there is an entity besides, which
keeps 10,000 keys, 500 messages a batch. What is timed is from the start of the flow
to its result; a single message is a batch of its own in the first size, so that topic is short.

On a server (`--url`) the topic has eight partitions, each read by a flow of its own, and each of
two processes has four of the flows; what is timed is from the first start to the last result.
"""

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks._catalogue import Figures
from benchmarks._place import store
from benchmarks._process import finish, start_role
from everlong import Client, Transaction, Worker, activity, checkpoint, workflow
from everlong.streams import EntityContext, Message, Stream, entity
from everlong.streams.kafka import Kafka

BATCHES = (1, 100, 1_000)
MESSAGE_BYTES = 100
ENTITY_BATCH, KEYS = 500, 10_000
SPREAD = 7_919
"""Without a factor in common with KEYS."""
SHORTER = 50
"""By which the topic is shorter that is read message by message."""
PATIENCE_S = 30.0
WORKERS = 2
PARTITIONS = 8
"""On a server; a file has one of each."""
_TASK = "task.json"


@dataclass
class Total:
    count: int = 0
    bytes: int = 0


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
    sink = _FileSink(folder) if _is_file(folder) else _ServerSink(folder)
    await sink.make()
    for most in BATCHES:
        count = max(most, size // SHORTER if most == 1 else size)
        partitions = 1 if _is_file(folder) else PARTITIONS
        count -= count % partitions
        topic = f"messages-{most}"
        await _fill(servers, topic, count, partitions)
        for body in ("transactional", "activity"):
            if _is_file(folder):
                elapsed_s = await _consume(folder, servers, topic, most, count, body)
            else:
                elapsed_s = await _consume_in_processes(folder, servers, topic, most, count, body)
            assert await sink.empty() == (count if body == "transactional" else 0)
            figures[f"{body}_{most}_per_s"] = count / elapsed_s
    if _is_file(folder):
        count = max(BATCHES[-1], size)
        elapsed_s = await _keep(folder, servers, f"messages-{BATCHES[-1]}", count)
        figures[f"entities_{ENTITY_BATCH}_per_s"] = count / elapsed_s
    return figures


async def _keep(folder: Path, servers: str, topic: str, count: int) -> float:
    """Until the state of the last message's key has it, so all others have theirs."""
    seen, done = 0, asyncio.Event()

    @entity(
        Stream(f"{topic}-entities", Kafka(servers, topic)),
        key=lambda message: str(int(message.value) * SPREAD % KEYS),  # Not one behind the other.
        state=Total,
        name="benchmark-entities",
        max_messages=ENTITY_BATCH,
    )
    async def keep(total: Total, message: Message[bytes], ctx: EntityContext) -> None:
        nonlocal seen
        total.count += 1
        total.bytes += len(message.value)
        seen += 1
        if seen == count:
            done.set()

    async with Client.connect(store(folder)) as client, Worker(client, workflows=[keep]):
        began = time.perf_counter()
        handle = await client.start(keep)
        control = keep.control(handle)
        await done.wait()
        last = str((count - 1) * SPREAD % KEYS)
        of_last = len(range(count - 1, -1, -KEYS))
        while (found := await control.get(last)) is None or found.count < of_last:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        elapsed_s = time.perf_counter() - began
        states = [one.state async for one in control.states()]
        assert sum(one.count for one in states) == count
        assert len(states) == min(count, KEYS)
        await handle.terminate()
    return elapsed_s


async def _consume(
    folder: Path, servers: str, topic: str, most: int, count: int, body: str
) -> float:
    consume = _flow(f"{topic}-{body}", Kafka(servers, topic), most, count, body)
    async with (
        Client.connect(store(folder)) as client,
        Worker(client, workflows=[consume], activities=[store_rows, take_rows]),
    ):
        began = time.perf_counter()
        assert await client.run(consume) == count
        return time.perf_counter() - began


def _flow(
    name: str,
    source: Kafka[bytes],
    most: int,
    count: int,
    body: str,
    partitions: Sequence[int] | None = None,
) -> Any:
    messages = Stream(name, source)
    transactional = body == "transactional"

    @workflow(name=f"benchmark-{name}")
    async def consume(done: int = 0) -> int:
        async for batch in messages.batches(max_messages=most, partitions=partitions):
            if transactional:
                await store_rows(batch.values)
            else:
                await take_rows(batch.values)
            done += len(batch)
            if done == count:
                return done
            await checkpoint(done=done)
        return done

    return consume


# -------------------------------------------------------------------------------- on a server


async def _consume_in_processes(
    folder: Path, servers: str, topic: str, most: int, count: int, body: str
) -> float:
    task = {"servers": servers, "topic": topic, "most": most, "count": count, "body": body}
    (folder / _TASK).write_text(json.dumps(task), "utf-8")
    working = [await start_role("streams.work", folder, index) for index in range(WORKERS)]
    found = await asyncio.gather(*map(finish, working))
    return max(one["done"] for one in found) - min(one["began"] for one in found)


async def work(folder: Path, index: int) -> Figures:
    """One of the processes: its share of the partitions, each in a flow that nobody else hosts."""
    task = json.loads((folder / _TASK).read_text("utf-8"))
    each = task["count"] // PARTITIONS
    flows = [
        _flow(
            f"{task['topic']}-{task['body']}-{one}",
            Kafka(task["servers"], task["topic"]),
            task["most"],
            each,
            task["body"],
            [one],
        )
        for one in range(index, PARTITIONS, WORKERS)
    ]
    async with (
        Client.connect(store(folder)) as client,
        Worker(client, workflows=flows, activities=[store_rows, take_rows]),
    ):
        (folder / f"ready-{index}").touch()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if len(list(folder.glob("ready-*"))) == WORKERS:
                    break
                await asyncio.sleep(0.01)
        began = time.time()
        assert await asyncio.gather(*map(client.run, flows)) == [each] * len(flows)
        done = time.time()
    (folder / f"ready-{index}").unlink()
    return {"began": began, "done": done}


def _is_file(folder: Path) -> bool:
    return "://" not in store(folder)


class _FileSink:
    """The table into which rows go."""

    def __init__(self, folder: Path) -> None:
        self._path = store(folder)

    async def make(self) -> None:
        with sqlite3.connect(self._path) as file:
            file.execute("create table sink (value blob)")

    async def empty(self) -> int:
        """How many rows it had, all of them different."""
        with sqlite3.connect(self._path) as file:
            found = file.execute("select count(*), count(distinct value) from sink").fetchone()
            assert found[0] == found[1]
            file.execute("delete from sink")
        return int(found[0])


class _ServerSink:
    def __init__(self, folder: Path) -> None:
        self._url = store(folder)

    async def make(self) -> None:
        await self._ask("create table sink (value bytea)")

    async def empty(self) -> int:
        found = (await self._ask("select count(*), count(distinct value) from sink"))[0]
        assert found[0] == found[1]
        await self._ask("truncate sink")
        return int(found[0])

    async def _ask(self, text: str) -> list[Any]:
        import asyncpg

        connection = await asyncpg.connect(self._url)
        try:
            return list(await connection.fetch(text))
        finally:
            await connection.close()


# --------------------------------------------------------------------------------- the broker


async def _fill(servers: str, topic: str, count: int, partitions: int) -> None:
    from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]
    from aiokafka.admin import (  # pyright: ignore[reportMissingTypeStubs]
        AIOKafkaAdminClient,
        NewTopic,
    )

    admin = cast("Any", AIOKafkaAdminClient)(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([cast("Any", NewTopic)(topic, partitions, 1)])
    await admin.close()
    producer = cast("Any", AIOKafkaProducer)(bootstrap_servers=servers, linger_ms=5)
    await producer.start()
    try:
        for number in range(count):
            message = b"%0*d" % (MESSAGE_BYTES, number)
            await producer.send(topic, message, partition=number % partitions)
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
