"""One of each sink, at a real broker, and the source that reads what has arrived there."""

import asyncio
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import nats as nats_library
from nats.js.api import StreamConfig

from everlong.streams import MemorySink, OutboxMessage, Reader, Record, Sink, Source
from everlong.streams.kafka import Kafka, KafkaSink
from everlong.streams.mqtt import Mqtt, MqttSink
from everlong.streams.nats import JetStream, JetStreamSink
from everlong.streams.rabbitmq import RabbitQueue, RabbitSink
from everlong.streams.redis import RedisStream, RedisStreamSink
from tests.support.broker_process import BrokerProcess, broker_process
from tests.support.kafka_broker import kafka_broker
from tests.support.tools import need

__all__ = [
    "RIGS",
    "RabbitRig",
    "SinkRig",
    "add_stream",
    "fetched",
    "keeps_order_and_ids",
    "message",
    "mosquitto",
    "nats_command",
    "written",
]

_nats: Final[Any] = nats_library  # Its options carry no types.
NOON: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)


class SinkRig(ABC):
    """A sink, and a way to see what has arrived."""

    sink: Sink
    repetitions = 2
    """How often a message is there that was written twice."""

    @abstractmethod
    async def arrived(self, count: int) -> list[tuple[str, bytes]]:
        """(id, value) of what is there, at least so many."""


async def fetched(source: Source[Any], count: int) -> list[Record]:
    reader = await source.open(None, None)
    try:
        return await read(reader, count)
    finally:
        await reader.close()


async def read(reader: Reader, count: int) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await reader.fetch(1000, 1_000_000, None)
    return [*found, *await reader.fetch(1000, 1_000_000, 0.2)]


def message(n: int, value: bytes | None = None, key: bytes | None = b"k") -> OutboxMessage:
    text = b"%d" % n if value is None else value
    return OutboxMessage(id=f"id-{n}", value=text, key=key, headers={"kind": "test"}, at=NOON)


async def written(sink: Sink, *messages: OutboxMessage) -> Mapping[str, str]:
    writer = await sink.open()
    try:
        return await writer.write(messages)
    finally:
        await writer.close()


class MemoryRig(SinkRig):
    def __init__(self) -> None:
        self.sink = self._memory = MemorySink()

    async def arrived(self, count: int) -> list[tuple[str, bytes]]:
        return [(one.id, one.value) for one in self._memory.messages]


class KafkaRig(SinkRig):
    def __init__(self, servers: str) -> None:
        self.sink = KafkaSink(servers, "t", options={"max_request_size": 5_000})
        self._source = Kafka(servers, "t")

    async def arrived(self, count: int) -> list[tuple[str, bytes]]:
        found = await fetched(self._source, count)
        assert all(one.key == b"k" and one.headers["kind"] == b"test" for one in found)
        assert all(one.at_us == int(NOON.timestamp()) * 1_000_000 for one in found)
        return [(one.headers["everlong-id"].decode(), one.value) for one in found]


class NatsRig(SinkRig):
    repetitions = 1

    def __init__(self, url: str) -> None:
        self.sink = JetStreamSink(url, "t")
        self._source = JetStream(url, "T")

    async def arrived(self, count: int) -> list[tuple[str, bytes]]:
        found = await fetched(self._source, count)
        assert all(one.headers["everlong-key"] == b"k" for one in found)
        return [(one.headers["Nats-Msg-Id"].decode(), one.value) for one in found]


class RedisRig(SinkRig):
    def __init__(self, url: str) -> None:
        self.sink = RedisStreamSink(url, "t", max_entries=10_000)
        self._url = url

    async def arrived(self, count: int) -> list[tuple[str, bytes]]:
        ids = await fetched(RedisStream(self._url, "t", field="everlong-id"), count)
        values = await fetched(RedisStream(self._url, "t", field="value"), count)
        return [(one.value.decode(), two.value) for one, two in zip(ids, values, strict=True)]


class RabbitRig(SinkRig):
    """Its own source drops what comes twice."""

    repetitions = 1

    def __init__(self, url: str) -> None:
        self.sink = RabbitSink(url, "t")
        self._source = RabbitQueue(url, "t")

    async def arrived(self, count: int) -> list[tuple[str, bytes]]:
        found = await fetched(self._source, count)
        assert all(one.headers["everlong-key"] == b"k" for one in found)
        return [(str(one.position).removeprefix("id:"), one.value) for one in found]


class MqttRig(SinkRig):
    """Likewise, from a session that was there before."""

    repetitions = 1

    def __init__(self, url: str, reader: Reader) -> None:
        self.sink = MqttSink(url, "t/1")
        self._reader = reader

    async def arrived(self, count: int) -> list[tuple[str, bytes]]:
        found = await read(self._reader, count)
        assert all(one.headers["everlong-key"] == b"k" for one in found)
        return [(str(one.position).removeprefix("id:"), one.value) for one in found]


@asynccontextmanager
async def _memory(_: Path) -> AsyncGenerator[SinkRig]:
    yield MemoryRig()


@asynccontextmanager
async def _kafka(folder: Path) -> AsyncGenerator[SinkRig]:
    async with kafka_broker(folder / "kafka") as broker:
        await broker.create("t")
        yield KafkaRig(broker.servers)


def nats_command(port: int, place: Path) -> list[str]:
    binary = str(Path(sys.executable).with_name("nats-server"))
    return [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(place)]


async def add_stream(url: str, **options: Any) -> None:
    client = await _nats.connect(url)
    await client.jetstream().add_stream(StreamConfig(name="T", subjects=["t"], **options))
    await client.close()


@asynccontextmanager
async def _jetstream(folder: Path) -> AsyncGenerator[SinkRig]:
    async with broker_process(nats_command, folder / "nats") as server:
        url = f"nats://127.0.0.1:{server.port}"
        await add_stream(url, max_msg_size=5_000)
        yield NatsRig(url)


@asynccontextmanager
async def _redis_stream(folder: Path) -> AsyncGenerator[SinkRig]:
    need("redis-server")

    def command(port: int, place: Path) -> list[str]:
        binary = shutil.which("redis-server")
        assert binary is not None
        return [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(place)]

    async with broker_process(command, folder / "redis") as server:
        yield RedisRig(f"redis://127.0.0.1:{server.port}")


@asynccontextmanager
async def _mqtt(folder: Path) -> AsyncGenerator[SinkRig]:
    async with mosquitto(folder) as server:
        url = f"mqtt://127.0.0.1:{server.port}"
        reader = await Mqtt(url, "t/#", session="reads").open(None, None)
        yield MqttRig(url, reader)
        await reader.close()


@asynccontextmanager
async def mosquitto(folder: Path, *more: str) -> AsyncGenerator[BrokerProcess]:
    need("mosquitto")

    def command(port: int, place: Path) -> list[str]:
        place.mkdir(parents=True, exist_ok=True)
        config = place / "mosquitto.conf"
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "user root", *more]
        config.write_text("\n".join(lines) + "\n")
        binary = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert binary is not None
        return [binary, "-c", str(config)]

    async with broker_process(command, folder / "mqtt") as server:
        yield server


RIGS: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[SinkRig]]]] = {
    "Memory": _memory,
    "Kafka": _kafka,
    "JetStream": _jetstream,
    "RedisStream": _redis_stream,
    "Mqtt": _mqtt,
}


async def keeps_order_and_ids(rig: SinkRig) -> None:
    """Some batches, and the end of the last one once more."""
    batch = [message(n) for n in range(60)]
    writer = await rig.sink.open()
    assert await writer.write(batch[:40]) == {}
    assert await writer.write(batch[40:]) == {}
    await writer.close()
    assert await written(rig.sink, *batch[50:]) == {}  # Its acknowledgement was lost.
    found = await rig.arrived(60 + 10 * (rig.repetitions - 1))
    once = [(one.id, one.value) for one in batch]
    assert found == once + once[50:] * (rig.repetitions - 1)
    assert "127.0.0.1" not in repr(rig.sink) or isinstance(rig.sink, KafkaSink)
