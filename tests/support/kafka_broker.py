"""A broker of the tests' own that speaks Kafka's protocol: a folder, a port, a process group."""

# tidy: this file sleeps because it waits for another process, which offers nothing but a port
import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # pyright: ignore[reportMissingTypeStubs]

from tests.support.orphans import die_with_parent

__all__ = ["KafkaBroker", "kafka_broker"]

_PATIENCE_S: Final = 30.0
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

    async def send(self, topic: str, values: Sequence[bytes], partition: int = 0) -> None:
        producer = _producer(bootstrap_servers=self.servers)
        await producer.start()
        try:
            for value in values:
                await producer.send(topic, value, partition=partition)
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

    async def answers(self) -> None:
        """Wait until it does."""
        host, _, port = self.servers.partition(":")
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return


@asynccontextmanager
async def kafka_broker(folder: Path) -> AsyncGenerator[KafkaBroker, None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    binary = Path(sys.executable).with_name("noida-db")
    options = ["--only", "kafka", "--kafka-port", str(port), "--host", "127.0.0.1"]
    with (folder / "broker.log").open("ab") as log:
        process = subprocess.Popen(
            [str(binary), "start", *options, "--data-dir", str(folder)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - in the child: one call into the kernel
        )
    try:
        broker = KafkaBroker(port)
        await broker.answers()
        yield broker
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # The script leaves the broker behind.
        process.wait()
