"""A RabbitMQ server of the tests' own: its node, its name server and all ports are its own."""

import shlex
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aio_pika
from aiormq.abc import ChannelFrame
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from tests.support.broker_process import BrokerProcess
from tests.support.hosting import until
from tests.support.tools import missing, unavailable

__all__ = ["Rabbit", "rabbit_process"]

_frame: Final[Any] = ChannelFrame
_SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the one on the path, which becomes another user."""


class Rabbit:
    """Its queues, as others see them."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def declare(self, name: str, kind: str, **arguments: Any) -> None:
        all_of_them = {"x-queue-type": kind, **arguments}
        await self._channel.declare_queue(name, durable=True, arguments=all_of_them)

    async def delete(self, name: str) -> None:
        await self._channel.queue_delete(name)

    async def send(
        self, name: str, values: Sequence[object], *, at: datetime | None = None
    ) -> None:
        """Each is its own id."""
        for value in values:
            message = aio_pika.Message(
                str(value).encode(),
                message_id=f"order {value}",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                headers={"origin": "tests"},
                timestamp=at,
            )
            await self._channel.default_exchange.publish(message, routing_key=name)

    async def send_without_ids(self, name: str, values: Sequence[object]) -> None:
        """As other clients do: this one makes up an id where there is none."""
        below = await self._channel.get_underlay_channel()
        for value in values:
            body = str(value).encode()
            below.delivery_tag += 1
            confirmed = below.confirmations[below.delivery_tag] = below.create_future()
            properties = spec.Basic.Properties(delivery_mode=2)
            frames: list[Any] = [
                spec.Basic.Publish(routing_key=name),
                ContentHeader(properties=properties, body_size=len(body)),
                ContentBody(body),
            ]
            await below.write_queue.put(_frame.marshall(below.number, frames))
            await confirmed

    async def count(self, name: str) -> tuple[int, int]:
        """Messages that wait in a queue, and who reads it."""
        told = (await self._channel.declare_queue(name, passive=True)).declaration_result
        return told.message_count, told.consumer_count

    async def is_left(self, name: str) -> int:
        """Messages that lie there, once nobody reads it any more."""

        async def look() -> bool:
            return (await self.count(name))[1] == 0

        await until(look)
        return (await self.count(name))[0]


class RabbitProcess(BrokerProcess):
    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @asynccontextmanager
    async def talking(self) -> AsyncGenerator[Rabbit, None]:
        connect: Any = aio_pika.connect
        connection = await connect(self.url)
        try:
            yield Rabbit(await connection.channel())
        finally:
            await connection.close()

    async def has(self, name: str) -> None:
        """Wait until it is there again: behind a start a stream is, a little later."""

        async def look() -> bool:
            async with self.talking() as rabbit:
                try:
                    await rabbit.count(name)
                except ChannelNotFoundEntity:
                    return False
                return True

        await until(look)


def rabbit_process(folder: Path) -> RabbitProcess:
    """To be started, which takes some seconds, and killed."""
    if missing("epmd", "setpriv", path=_SERVER.parent) or not _SERVER.exists():
        unavailable("needs rabbitmq-server (see ci/debian.txt)")
    return RabbitProcess(_command, folder)


def _command(port: int, folder: Path) -> list[str]:
    distribution, names = _free_port(), _free_port()
    (folder / "home").mkdir(parents=True)
    (folder / "plugins").write_text("[].\n")
    for empty in ("environment", "rabbit.conf"):
        (folder / empty).touch()
    here = str(folder)
    settings = {
        "HOME": f"{here}/home",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_NODENAME": f"tests{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
        "RABBITMQ_LOG_BASE": f"{here}/log",
        "RABBITMQ_CONFIG_FILE": f"{here}/rabbit.conf",
        "RABBITMQ_CONF_ENV_FILE": f"{here}/environment",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/plugins",
        "RABBITMQ_FEATURE_FLAGS_FILE": f"{here}/features",
        "RABBITMQ_PLUGINS_EXPAND_DIR": f"{here}/expanded",
        "RABBITMQ_PID_FILE": f"{here}/pid",
        # So that it becomes the server, and has no script above it that would outlive a kill.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    environment = [f"{name}={value}" for name, value in settings.items()]
    # Its name server in the same process group; the server would begin one that stays for ever.
    name_server = shlex.join(["setpriv", "--pdeathsig", "KILL", "epmd"])
    return ["env", *environment, "sh", "-c", f"{name_server} & exec {_SERVER}"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
