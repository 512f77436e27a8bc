"""Sinks, at real brokers: what is written arrives in order with its id, and what comes twice can be
told from two. What is read here is read by the sources of the same brokers."""

from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from redis import asyncio as redis_library

from everlong import Outbox, OutboxSummary, workflow
from everlong.exceptions import InvalidArguments
from everlong.streams.mqtt import Mqtt, MqttSink
from everlong.streams.nats import JetStream, JetStreamSink
from everlong.streams.redis import RedisStreamSink
from everlong.worker import _relay
from tests.support.broker_process import broker_process
from tests.support.hosting import hosting, until
from tests.support.sink_rigs import (
    RIGS,
    add_stream,
    fetched,
    keeps_order_and_ids,
    message,
    mosquitto,
    nats_command,
    written,
)

_redis: Final[Any] = redis_library


@pytest.mark.parametrize("kind", RIGS)
async def test_messages_arrive_in_order_and_a_repetition_bears_its_id(
    kind: str, tmp_path: Path
) -> None:
    async with RIGS[kind](tmp_path) as rig:
        await keeps_order_and_ids(rig)


@pytest.mark.parametrize("kind", ["Kafka", "JetStream"])
async def test_what_is_too_large_is_named_and_the_others_arrive(kind: str, tmp_path: Path) -> None:
    async with RIGS[kind](tmp_path) as rig:
        batch = [message(0), message(1, b"x" * 6_000), message(2), message(3, b"x" * 1_200_000)]
        refused = await written(rig.sink, *batch)
        assert refused.keys() == {"id-1", "id-3"}
        assert all(reason for reason in refused.values())
        assert [one for one, _ in await rig.arrived(2)] == ["id-0", "id-2"]


async def test_mqtt_names_what_is_too_large(tmp_path: Path) -> None:
    async with mosquitto(tmp_path, "max_packet_size 5000") as server:
        url = f"mqtt://127.0.0.1:{server.port}"
        reader = await Mqtt(url, "t", session="reads").open(None, None)
        sink = MqttSink(url, "t", id_property="message_id")
        told: list[int] = []
        for size in range(4_860, 5_001, 4):  # The broker cuts the connection for one too large.
            refused = await written(sink, message(0, b"x" * size), message(size, b"y"))
            told.append(len(refused))
            assert refused.keys() <= {"id-0"}
        assert told == sorted(told)
        assert (told[0], told[-1]) == (0, 1)
        await reader.close()


def test_mqtt_publishes_to_one_topic() -> None:
    with pytest.raises(InvalidArguments, match="give one topic"):
        MqttSink("mqtt://localhost", "all/#")
    with pytest.raises(InvalidArguments, match="mqtt://host:port"):
        MqttSink("http://localhost", "t")


async def test_jetstream_stores_nothing_without_a_stream(tmp_path: Path) -> None:
    async with broker_process(nats_command, tmp_path / "nats") as server:
        url = f"nats://127.0.0.1:{server.port}"
        sink = JetStreamSink(url, "t")
        with pytest.raises(Exception, match="no response from stream"):
            await written(sink, message(0))
        await add_stream(url)
        assert await written(sink, message(0)) == {}


async def test_redis_trims_and_refuses_what_is_no_stream(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments, match="max_entries=0"):
        RedisStreamSink("redis://localhost", "t", max_entries=0)
    async with RIGS["RedisStream"](tmp_path) as rig:
        assert isinstance(rig.sink, RedisStreamSink)
        client = _redis.from_url(rig.sink.url)
        await client.set("taken", "a text")
        with pytest.raises(Exception, match="WRONGTYPE"):
            await written(RedisStreamSink(rig.sink.url, "taken"), message(0))
        few = RedisStreamSink(rig.sink.url, "few", max_entries=10)
        await written(few, *(message(n) for n in range(1_000)))
        assert await client.xlen("few") < 300
        await client.aclose()


async def test_a_server_that_goes_away_gets_everything_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_relay, "_DELAY_S", 0.01)
    monkeypatch.setattr(_relay, "_DELAY_MAX_S", 0.05)
    async with broker_process(nats_command, tmp_path / "nats") as server:
        url = f"nats://127.0.0.1:{server.port}"
        await add_stream(url)
        paid = Outbox("sinks_paid", JetStreamSink(url, "t", options={"connect_timeout": 1}), int)

        @workflow
        async def pays(first: int) -> None:
            for n in range(first, first + 20):
                await paid.publish(n)

        async with hosting(tmp_path / "db", workflows=[pays]) as client:

            async def settled(*, failing: bool) -> OutboxSummary | bool:
                found = await client.outboxes()
                return (found[0].failures > 0 and found[0]) if found and failing else not found

            await client.run(pays, 0)
            await until(partial(settled, failing=False))
            server.kill()
            await client.run(pays, 20)
            seen = await until(partial(settled, failing=True))
            assert isinstance(seen, OutboxSummary)
            assert seen.waiting > 0
            assert seen.fault
            await server.start()
            await until(partial(settled, failing=False))
        found = await fetched(JetStream(url, "T", int), 40)
        assert [int(one.value) for one in found] == list(range(40))
