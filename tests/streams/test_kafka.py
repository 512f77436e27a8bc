"""A Kafka topic, from a real broker."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from everlong import Client, checkpoint, workflow
from everlong.streams import Cursor, Stream
from everlong.streams.kafka import Kafka
from everlong_engine import instant_us
from tests.support.hosting import described, hosting
from tests.support.kafka_broker import kafka_broker
from tests.support.streams import has_read

NOON: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)


async def test_a_topic_is_read_from_where_the_flow_stands(tmp_path: Path) -> None:
    async with kafka_broker(tmp_path / "broker") as broker:
        await broker.create("numbers", 2)
        stream = Stream("numbers", Kafka(broker.servers, "numbers", int, group="flows"))

        @workflow
        async def adds(total: int = 0) -> int:
            async for batch in stream.batches(max_messages=7):
                total += sum(batch.values)
                await checkpoint(total=total)
            return total

        async with hosting(tmp_path / "db", workflows=[adds]) as client:
            handle = await client.start(adds, id="adds")
            for partition in (0, 1):
                await broker.send("numbers", [b"%d" % n for n in range(20)], partition)
            await has_read(stream.control(handle), {"0": 19, "1": 19})
        await broker.send("numbers", [b"100"], 1)
        async with Client.connect(tmp_path / "db") as client:
            behind = await stream.control(client.get_handle("adds", adds)).lag()
            assert (behind.messages, behind.more) == (1, False)
            assert behind.seconds is not None
            assert 0 <= behind.seconds < 60
        async with hosting(tmp_path / "db", workflows=[adds]) as client:
            handle, other = client.get_handle("adds", adds), await client.start(adds, id="other")
            await has_read(stream.control(handle), {"0": 19, "1": 20})
            await stream.control(handle).drain()
            assert await handle.result() == 2 * sum(range(20)) + 100
            await has_read(stream.control(other), {"0": 19, "1": 20})
        await broker.delete("numbers")
        await broker.create("numbers", 2)
        await broker.send("numbers", [b"7"])
        async with hosting(tmp_path / "db", workflows=[adds]) as client:
            handle = client.get_handle("other", adds)
            paused = await described(handle, lambda it: it.paused)
            assert paused.paused is not None
            assert "the flow goes on at 20" in paused.paused.reason
            await stream.control(handle).rewind({0: None, 1: None})
            await handle.resume()
            await has_read(stream.control(handle), {"0": 0})
            await stream.control(handle).drain()
            assert await handle.result() == 2 * sum(range(20)) + 107


async def test_a_moment_lies_where_the_broker_says(tmp_path: Path) -> None:
    async with kafka_broker(tmp_path / "broker") as broker:
        await broker.create("numbers", 3)
        stream = Stream("numbers", source := Kafka(broker.servers, "numbers", int))

        @workflow
        async def kafka_moments(found: list[int] | None = None) -> list[int]:
            found = found or []
            async for batch in stream.batches():
                found += batch.values
                await checkpoint(found=found)
            return found

        second = int(NOON.timestamp() * 1000)
        for number in range(10):
            await broker.send("numbers", [b"%d" % number], 0, at_ms=second + 1000 * number)
        await broker.send("numbers", [b"100"], 1, at_ms=second)
        at_us = instant_us(NOON + timedelta(seconds=7))
        identity = "kafka numbers"
        assert await source.before(at_us, None) == Cursor(identity, {"0": 6, "1": 0})
        assert await source.before(at_us, ["0"]) == Cursor(identity, {"0": 6})
        assert await source.before(0, None) == Cursor(identity, {})
        later = instant_us(NOON + timedelta(days=1))
        assert await source.before(later, None) == Cursor(identity, {"0": 9, "1": 0})
        async with hosting(tmp_path / "db", workflows=[kafka_moments]) as client:
            handle = await client.start(kafka_moments)
            control = stream.control(handle)
            await has_read(control, {"0": 9, "1": 0})
            await control.rewind(to=NOON + timedelta(seconds=7), keys="fresh")
            await broker.send("numbers", [b"10"], 0, at_ms=second + 10_000)
            await has_read(control, {"0": 10, "1": 0})
            await control.drain()
            assert (await handle.result())[11:] == [7, 8, 9, 10]
