"""A session of MQTT, at a real broker."""

import asyncio
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from paho.mqtt.client import Client as Publisher, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from everlong import Client, ExecutionDescription, checkpoint, workflow
from everlong.exceptions import InvalidArguments
from everlong.streams import Stream
from everlong.streams.mqtt import Mqtt
from tests.support.broker_process import BrokerProcess, broker_process
from tests.support.command_line import begin, worker_ready
from tests.support.hosting import described, hosting, until
from tests.support.streams import SOON, has_read
from tests.support.tools import need

_publisher: Final[Any] = Publisher  # Some of it carries no types.
_properties: Final[Any] = Properties
FLOW: Final = """
import os, signal
from everlong import Retry, Transaction, activity, checkpoint, workflow
from everlong.streams import Stream, mqtt

orders = Stream("orders", mqtt.Mqtt("{url}", "orders", int, session="flow"))

class Dies(mqtt._MqttReader):
    async def acknowledge(self, cursor):
        if cursor.after["0"] >= {dies_at}:  # It is committed, and the broker does not know.
            os.kill(os.getpid(), signal.SIGKILL)
        await super().acknowledge(cursor)

if "DIES" in os.environ:
    mqtt._MqttReader = Dies

@activity(name="mqtt_store", transactional=True, retry=Retry(delay=0.01))
async def store(tx: Transaction, numbers: list[int]) -> None:
    tx.executemany("insert into sink (number) values (:number)", [{{"number": n}} for n in numbers])

@workflow(name="mqtt_consume")
async def consume(count: int = 0) -> int:
    async for batch in orders.batches(max_messages=7):
        await store(batch.values)
        count += len(batch)
        await checkpoint(count=count)
    return count
"""


def command(port: int, folder: Path) -> list[str]:
    binary = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert binary is not None
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mosquitto.conf"
    settings = (
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {folder}/",
        "user root",  # As whoever runs the tests, should that be root.
        "log_dest stderr",
    )
    file.write_text("\n".join(settings) + "\n")
    return [binary, "-c", str(file)]


def url_of(server: BrokerProcess) -> str:
    return f"mqtt://127.0.0.1:{server.port}"


async def send(server: BrokerProcess, values: Sequence[object], *, ids: bool = True) -> None:
    await asyncio.to_thread(_send, server.port, values, ids)


def _send(port: int, values: Sequence[object], ids: bool) -> None:
    publisher = _publisher(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    publisher.connect("127.0.0.1", port)
    publisher.loop_start()
    try:
        for value in values:
            properties = _properties(PacketTypes.PUBLISH)
            if ids:
                properties.UserProperty = ("message_id", f"order {value}")
            told = publisher.publish("orders", str(value), qos=1, properties=properties)
            told.wait_for_publish(10)
            assert told.is_published()
    finally:
        publisher.disconnect()
        publisher.loop_stop()


def errors_of(it: ExecutionDescription) -> str:
    return str([one.last_error for one in it.activities])


async def test_a_session_is_read_once_whoever_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("mosquitto")
    async with broker_process(command, tmp_path / "broker") as server:
        source = Mqtt(url_of(server), "orders", int, session="adds")
        stream = Stream("orders", source)
        monkeypatch.setattr(stream.definition, "options", SOON)

        @workflow
        async def mqtt_adds(total: int = 0) -> int:
            async for batch in stream.batches(max_messages=7):
                total += sum(batch.values)
                for one in batch:
                    assert one.key == b"orders"
                    assert one.id == f"orders/mqtt adds orders/0/id:order {one.value}"
                await checkpoint(total=total)
            return total

        await send(server, [-1])  # Before anybody had subscribed.
        await (await source.open(None, None)).close()
        async with hosting(tmp_path / "db", workflows=[mqtt_adds]) as client:
            handle = await client.start(mqtt_adds, id="adds")
            control = stream.control(handle)
            await send(server, range(20))
            await has_read(control, {"0": 20})
            await asyncio.to_thread(server.end)
            await described(handle, lambda it: "refused" in errors_of(it))
            await server.start()  # The flow finds out by itself, and goes on.
            await send(server, [100])
            await has_read(control, {"0": 21})
        await send(server, [1000])  # The broker keeps it while nobody is there.
        async with hosting(tmp_path / "db", workflows=[mqtt_adds]) as client:
            control = stream.control(client.get_handle("adds", mqtt_adds))
            await has_read(control, {"0": 22})
        await asyncio.to_thread(server.end)
        (tmp_path / "broker" / "mosquitto.db").unlink()  # It forgets all sessions.
        await server.start()
        await send(server, [-7])
        async with hosting(tmp_path / "db", workflows=[mqtt_adds]) as client:
            handle = client.get_handle("adds", mqtt_adds)
            paused = await described(handle, lambda it: it.paused)
            assert paused.paused is not None
            assert "the broker knows the session no more" in paused.paused.reason
            await send(server, [10_000])  # From that moment on it is kept again.
            await handle.resume()
            await has_read(stream.control(handle), {"0": 23})
            await stream.control(handle).drain()
            assert await handle.result() == sum(range(20)) + 11_100


async def all_there(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("select count(distinct number) from sink").fetchone()
    return bool(found == (60,))


@pytest.mark.parametrize("ids", [True, False], ids=["with ids", "without"])
async def test_what_is_stored_and_not_acknowledged_comes_again_and_is_dropped(
    ids: bool, tmp_path: Path
) -> None:
    """A worker is killed between the commit and the acknowledgement, again and again: each message
    is one row. Without ids nobody can tell, and just those come twice that were in between."""
    need("mosquitto")
    path = tmp_path / "everlong.db"
    async with (
        broker_process(command, tmp_path / "broker") as server,
        Client.connect(path) as client,
    ):
        source = Mqtt(url_of(server), "orders", session="flow")
        await (await source.open(None, None)).close()  # From now on the broker keeps what comes.
        with closing(sqlite3.connect(path)) as connection:
            key = "primary key" if ids else ""
            connection.execute(f"create table sink (number integer {key})")
        handle = await client.start("mqtt_consume", id="flow")
        for number in range(3):
            await send(server, range(number * 20, number * 20 + 20), ids=ids)
            flow = FLOW.format(url=url_of(server), dies_at=number * 20 + 10)
            (tmp_path / "flow.py").write_text(flow)
            dies = begin("worker", "flow.py", "--json", folder=tmp_path, DIES="yes")
            await asyncio.to_thread(dies.communicate, timeout=60)
            assert dies.returncode == -signal.SIGKILL
        lives = begin("worker", "flow.py", "--json", folder=tmp_path)
        try:
            await asyncio.to_thread(worker_ready, lives)
            await until(partial(all_there, path))
            await Stream("orders", source).control(handle).drain()
            count = await handle.result()
        finally:
            lives.kill()
            lives.communicate()
        assert await client.verify() == []
    with closing(sqlite3.connect(path)) as connection:
        rows = Counter(number for (number,) in connection.execute("select number from sink"))
    assert set(rows) == set(range(60))
    assert sum(rows.values()) == count
    if ids:
        assert count == 60
    else:
        assert 60 < count <= 60 + 3 * 7  # A batch for each kill.


async def test_poison_in_a_session_is_kept_aside(tmp_path: Path) -> None:
    need("mosquitto")
    async with broker_process(command, tmp_path / "broker") as server:
        source = Mqtt(url_of(server), "orders", int, session="poison")
        stream = Stream("orders", source)
        await (await source.open(None, None)).close()
        await send(server, [1, "two", 3])

        @workflow
        async def mqtt_lenient(total: int = 0) -> int:
            async for batch in stream.batches(on_poison="dead_letter"):
                total += sum(batch.values)
            return total

        async with hosting(tmp_path / "db", workflows=[mqtt_lenient]) as client:
            handle = await client.start(mqtt_lenient)
            await has_read(stream.control(handle), {"0": 3})
            (letter,) = await stream.control(handle).dead_letters()
            assert (letter.position, letter.value) == ("id:order two", b"two")
            await stream.control(handle).drain()
            assert await handle.result() == 4
        reader = await source.open(None, None)
        assert await reader.fetch(10, 1000, 0.2) == []  # All of it was acknowledged.
        await reader.close()


async def test_the_last_to_come_takes_a_session_over(tmp_path: Path) -> None:
    need("mosquitto")
    async with broker_process(command, tmp_path / "broker") as server:
        source = Mqtt(url_of(server), "orders", session="one")
        first = await source.open(None, None)
        second = await source.open(None, None)
        with pytest.raises(ConnectionError, match="the connection has ended"):
            await first.fetch(10, 1000, None)
        await send(server, [5])
        (record,) = await second.fetch(10, 1000, None)
        assert (record.value, record.headers) == (b"5", {"message_id": b"order 5"})
        await first.close()
        await second.close()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"url": "localhost:1883"}, "mqtt://host:port"),
        ({"session": ""}, "who has no name"),
        ({"expiry": 0}, "give seconds"),
        ({"prefetch": 0}, "give 1 to"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], told: str) -> None:
    right: dict[str, Any] = {"url": "mqtt://u:secret@host", "topic": "t", "session": "s"}
    assert "secret" not in repr(Mqtt(**right))
    with pytest.raises(InvalidArguments, match=told):
        Mqtt(**{**right, **wrong})
