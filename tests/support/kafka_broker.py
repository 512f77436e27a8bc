"""A broker of the tests' own that speaks Kafka's protocol."""

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # pyright: ignore[reportMissingTypeStubs]

from tests.support.broker_process import broker_process

__all__ = ["KafkaBroker", "kafka_broker"]

_admin: Final[Any] = AIOKafkaAdminClient
_producer: Final[Any] = AIOKafkaProducer
_topic: Final[Any] = NewTopic


class KafkaBroker:
    def __init__(self, port: int) -> None:
        self.servers = f"127.0.0.1:{port}"

    async def create(self, topic: str, partitions: int = 1) -> None:
        await self._administer("create_topics", [_topic(topic, partitions, 1)])

    async def delete(self, topic: str) -> None:
        await self._administer("delete_topics", [topic])

    async def send(
        self,
        topic: str,
        values: Sequence[bytes],
        partition: int = 0,
        *,
        at_ms: int | None = None,
    ) -> None:
        producer = _producer(bootstrap_servers=self.servers)
        await producer.start()
        try:
            for value in values:
                await producer.send(topic, value, partition=partition, timestamp_ms=at_ms)
            await producer.flush()
        finally:
            await producer.stop()

    async def _administer(self, what: str, *arguments: Any) -> None:
        admin = _admin(bootstrap_servers=self.servers)
        await admin.start()
        try:
            await getattr(admin, what)(*arguments)
        finally:
            await admin.close()


@asynccontextmanager
async def kafka_broker(folder: Path) -> AsyncGenerator[KafkaBroker, None]:
    async with broker_process(_command, folder) as process:
        yield KafkaBroker(process.port)


def _command(port: int, folder: Path) -> list[str]:
    binary = str(Path(sys.executable).with_name("noida-db"))
    only = ["--only", "kafka", "--kafka-port", str(port), "--host", "127.0.0.1"]
    return [binary, "start", *only, "--data-dir", str(folder)]
