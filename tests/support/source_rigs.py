"""One of each source, and how something gets into it: for what all sources have in common."""

import asyncio
import json
import os
import shutil
import sqlite3
import ssl
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import nats as nats_library
from nats.js.api import StreamConfig
from redis import asyncio as redis_library

from everlong.streams import Directory, Lines, Memory, Rows, Source
from everlong.streams.http import HttpPoll
from everlong.streams.kafka import Kafka
from everlong.streams.nats import JetStream
from everlong.streams.postgres import PostgresRows, positions_ddl
from everlong.streams.redis import RedisStream
from tests.support.broker_process import broker_process
from tests.support.http_endpoint import Endpoint, endpoint
from tests.support.kafka_broker import KafkaBroker, kafka_broker
from tests.support.postgres_server import fresh_database
from tests.support.tools import need

__all__ = ["RIGS", "Numbered", "SourceRig"]

POLL: Final = 0.02
TLS: Final = ssl.create_default_context()
"""One for all: to make it takes longer than a test."""
_nats: Final[Any] = nats_library  # Its options carry no types.
_redis: Final[Any] = redis_library


@dataclass
class Numbered:
    """What messages are declared to be."""

    n: int


class SourceRig(ABC):
    """A source that is empty, but there."""

    source: Source[Numbered]
    counts_bytes = True
    """A fetch ends behind max_bytes, and not only a batch."""
    is_asked_quietly = True
    """False where the tests' own server answers at once that it has nothing, and is asked again."""

    @abstractmethod
    async def put(self, *values: int | str) -> None:
        """One message each; a word does not fit."""

    async def make_anew(self) -> bool:
        """The same name, with one message, and nothing of what was there. False: it cannot be."""
        return False


class MemoryRig(SourceRig):
    def __init__(self) -> None:
        self._memory = Memory(Numbered)
        self.source = self._memory

    async def put(self, *values: int | str) -> None:
        self._memory.put(*(json.dumps({"n": one}) for one in values))

    async def make_anew(self) -> bool:
        self.source = self._memory = Memory(Numbered, identity="another")
        await self.put(0)
        return True


class LinesRig(SourceRig):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "lines"
        self._path.write_text('{"n": -1}\n')  # It is there by its first line.
        self.source = Lines(self._path, Numbered, poll=POLL)

    async def put(self, *values: int | str) -> None:
        with self._path.open("a") as file:
            file.writelines(json.dumps({"n": one}) + "\n" for one in values)

    async def make_anew(self) -> bool:
        another = self._path.with_name("another")
        another.write_text('{"n": 0}\n')
        another.replace(self._path)
        return True


class RowsRig(SourceRig):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "rows.db"
        query = "select id, n from t where id > :after order by id"
        self.source = Rows(self._path, query, Numbered, poll=POLL)
        self._execute("create table t (id integer primary key, n)")

    def _execute(self, statement: str, *rows: tuple[Any]) -> None:
        with closing(sqlite3.connect(self._path)) as db:
            db.executemany(statement, rows or [()])
            db.commit()

    async def put(self, *values: int | str) -> None:
        self._execute("insert into t (n) values (?)", *((one,) for one in values))


class DirectoryRig(SourceRig):
    """A file each, whose names go down as they come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "inbox"
        self._folder.mkdir()
        self._count = 0
        self.source = Directory(self._folder, Numbered, settle=0, poll=POLL)

    async def put(self, *values: int | str) -> None:
        for one in values:
            self._write(json.dumps({"n": one}))

    def _write(self, text: str) -> None:
        self._count += 1
        fresh = self._folder / ".fresh"
        fresh.write_text(text)
        os.utime(fresh, (self._count, self._count))
        fresh.rename(self._folder / f"{1_000_000 - self._count}.json")

    async def make_anew(self) -> bool:
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        await self.put(0)
        return True


class DirectoryLinesRig(DirectoryRig):
    """Some lines each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.source = Directory(self._folder, Numbered, lines=True, settle=0, poll=POLL)

    async def put(self, *values: int | str) -> None:
        self._write("\n".join(json.dumps({"n": one}) for one in values))


class HttpRig(SourceRig):
    def __init__(self, served: Endpoint) -> None:
        self._served = served
        self.source = HttpPoll(
            f"{served.url}/since",
            Numbered,
            items="data.list",
            since="after",
            generation="made",
            poll=POLL,
            options={"verify": TLS},
        )

    async def put(self, *values: int | str) -> None:
        self._served.put(*values)

    async def make_anew(self) -> bool:
        self._served.items, self._served.generation = [], 2
        self._served.put(0)
        return True


class HttpPagesRig(HttpRig):
    def __init__(self, served: Endpoint) -> None:
        super().__init__(served)
        self.source = HttpPoll(
            f"{served.url}/pages",
            Numbered,
            items="data",
            next_page="next",
            poll=POLL,
            options={"verify": TLS},
        )


class PostgresRig(SourceRig):
    def __init__(self, url: str, connection: Any) -> None:
        self._connection = connection
        self.source = PostgresRows(url, "t", Numbered, poll=POLL)

    async def create(self) -> None:
        await self._connection.execute(
            "create table t (id bigint primary key generated by default as identity, n text)"
        )
        await self._connection.execute(positions_ddl("t"))

    async def put(self, *values: int | str) -> None:
        for one in values:
            await self._connection.execute("insert into t (n) values ($1)", str(one))

    async def make_anew(self) -> bool:
        await self._connection.execute("drop table t")
        await self.create()
        await self.put(0)
        return True


class KafkaRig(SourceRig):
    counts_bytes = False
    is_asked_quietly = False

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self.source = Kafka(broker.servers, "t", Numbered)

    async def put(self, *values: int | str) -> None:
        await self._broker.send("t", [json.dumps({"n": one}).encode() for one in values])

    async def make_anew(self) -> bool:
        await self._broker.delete("t")
        await self._broker.create("t")
        return True  # With fewer messages than were read.


class NatsRig(SourceRig):
    counts_bytes = False

    def __init__(self, url: str, js: Any) -> None:
        self._js = js
        self.source = JetStream(url, "T", Numbered)

    async def create(self) -> None:
        await self._js.add_stream(StreamConfig(name="T", subjects=["t"]))

    async def put(self, *values: int | str) -> None:
        for one in values:
            await self._js.publish("t", json.dumps({"n": one}).encode())

    async def make_anew(self) -> bool:
        await self._js.delete_stream("T")
        await self.create()
        await self.put(0)
        return True


class RedisRig(SourceRig):
    counts_bytes = False

    def __init__(self, url: str, client: Any) -> None:
        self._client = client
        self.source = RedisStream(url, "t", Numbered, field="v")

    async def put(self, *values: int | str) -> None:
        for one in values:
            await self._client.xadd("t", {"v": json.dumps({"n": one})})

    async def make_anew(self) -> bool:
        await self._client.delete("t")
        await self._client.xadd("t", {"v": '{"n": 0}'}, id="1-1")
        return True


@asynccontextmanager
async def _memory(_: Path) -> AsyncGenerator[SourceRig]:
    yield MemoryRig()


@asynccontextmanager
async def _lines(folder: Path) -> AsyncGenerator[SourceRig]:
    yield LinesRig(folder)


@asynccontextmanager
async def _directory(folder: Path) -> AsyncGenerator[SourceRig]:
    yield DirectoryRig(folder)


@asynccontextmanager
async def _directory_lines(folder: Path) -> AsyncGenerator[SourceRig]:
    yield DirectoryLinesRig(folder)


@asynccontextmanager
async def _rows(folder: Path) -> AsyncGenerator[SourceRig]:
    yield RowsRig(folder)


@asynccontextmanager
async def _http(_: Path) -> AsyncGenerator[SourceRig]:
    with endpoint() as served:
        yield HttpRig(served)


@asynccontextmanager
async def _http_pages(_: Path) -> AsyncGenerator[SourceRig]:
    with endpoint() as served:
        yield HttpPagesRig(served)


@asynccontextmanager
async def _postgres(_: Path) -> AsyncGenerator[SourceRig]:
    url = await fresh_database()
    connection = await asyncpg.connect(url)
    try:
        rig = PostgresRig(url, connection)
        await rig.create()
        yield rig
    finally:
        await connection.close()


@asynccontextmanager
async def _kafka(folder: Path) -> AsyncGenerator[SourceRig]:
    async with kafka_broker(folder / "kafka") as broker:
        await broker.create("t")
        yield KafkaRig(broker)


@asynccontextmanager
async def _jetstream(folder: Path) -> AsyncGenerator[SourceRig]:
    def command(port: int, place: Path) -> list[str]:
        binary = str(Path(sys.executable).with_name("nats-server"))
        return [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(place)]

    async with broker_process(command, folder / "nats") as server:
        url = f"nats://127.0.0.1:{server.port}"
        client = await _nats.connect(url)
        rig = NatsRig(url, client.jetstream())
        await rig.create()
        yield rig
        await client.close()


@asynccontextmanager
async def _redis_stream(folder: Path) -> AsyncGenerator[SourceRig]:
    need("redis-server")

    def command(port: int, place: Path) -> list[str]:
        binary = shutil.which("redis-server")
        assert binary is not None
        return [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(place)]

    async with broker_process(command, folder / "redis") as server:
        client = _redis.Redis(port=server.port)
        yield RedisRig(f"redis://127.0.0.1:{server.port}", client)
        await asyncio.shield(client.aclose())


RIGS: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[SourceRig]]]] = {
    "Memory": _memory,
    "Lines": _lines,
    "Directory": _directory,
    "Directory, lines": _directory_lines,
    "Rows": _rows,
    "PostgresRows": _postgres,
    "HttpPoll": _http,
    "HttpPoll, pages": _http_pages,
    "Kafka": _kafka,
    "JetStream": _jetstream,
    "RedisStream": _redis_stream,
}
