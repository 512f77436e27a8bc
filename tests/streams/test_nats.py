"""A stream of NATS, from a real server."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import nats as library
import pytest
from nats.js.api import RetentionPolicy, StreamConfig

from everlong import checkpoint, workflow
from everlong.exceptions import InvalidArguments
from everlong.streams import Cursor, Lag, Stream
from everlong.streams.nats import JetStream
from tests.support.broker_process import BrokerProcess, broker_process
from tests.support.hosting import described, hosting
from tests.support.streams import SOON, has_read

nats: Final[Any] = library  # Its options carry no types.


def command(port: int, folder: Path) -> list[str]:
    binary = str(Path(sys.executable).with_name("nats-server"))
    return [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]


@asynccontextmanager
async def talking_to(server: BrokerProcess) -> AsyncGenerator[Any]:
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def test_a_stream_is_read_from_where_the_flow_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker_process(command, tmp_path / "broker") as server:
        url = f"nats://127.0.0.1:{server.port}"
        stream = Stream("numbers", JetStream(url, "NUMBERS", int))
        monkeypatch.setattr(stream.definition, "options", SOON)

        @workflow
        async def nats_adds(total: int = 0) -> int:
            async for batch in stream.batches(max_messages=7):
                assert all(one.key == b"numbers.a" for one in batch)
                total += sum(batch.values)
                await checkpoint(total=total)
            return total

        async with talking_to(server) as js:
            await js.add_stream(StreamConfig(name="NUMBERS", subjects=["numbers.>"]))
            async with hosting(tmp_path / "db", workflows=[nats_adds]) as client:
                handle = await client.start(nats_adds, id="adds")
                for number in range(20):
                    await js.publish("numbers.a", b"%d" % number)
                await has_read(stream.control(handle), {"0": 20})
                assert await stream.control(handle).lag(wait=0.2) == Lag(
                    0, more=False, seconds=None
                )
                server.kill()
                await server.start()  # The flow finds out by itself, and goes on.
                await js.publish("numbers.a", b"100")
                await has_read(stream.control(handle), {"0": 21})
            await js.publish("numbers.a", b"1000")
            async with hosting(tmp_path / "db", workflows=[nats_adds]) as client:
                handle, other = (
                    client.get_handle("adds", nats_adds),
                    await client.start(nats_adds, id="b"),
                )
                await has_read(stream.control(handle), {"0": 22})
                await stream.control(handle).drain()
                assert await handle.result() == sum(range(20)) + 1100
                await has_read(stream.control(other), {"0": 22})
            await js.delete_stream("NUMBERS")
            await js.add_stream(StreamConfig(name="NUMBERS", subjects=["numbers.>"]))
            await js.publish("numbers.a", b"7")
            async with hosting(tmp_path / "db", workflows=[nats_adds]) as client:
                handle = client.get_handle("b", nats_adds)
                paused = await described(handle, lambda it: it.paused)
                assert paused.paused is not None
                assert "it was made anew" in paused.paused.reason
                made = (await js.stream_info("NUMBERS")).created.isoformat()
                await stream.control(handle).rewind({0: None}, identity=f"nats NUMBERS {made}")
                await handle.resume()
                await has_read(stream.control(handle), {"0": 1})
                await stream.control(handle).drain()
                assert await handle.result() == sum(range(20)) + 1107


async def test_what_was_purged_unread_stops_the_flow(tmp_path: Path) -> None:
    async with broker_process(command, tmp_path / "broker") as server, talking_to(server) as js:
        stream = Stream("numbers", JetStream(f"nats://127.0.0.1:{server.port}", "NUMBERS", int))

        @workflow
        async def nats_purged(total: int = 0) -> int:
            async for batch in stream.batches():
                total += sum(batch.values)
            return total

        await js.add_stream(StreamConfig(name="NUMBERS", subjects=["numbers.>"]))
        await js.publish("numbers.a", b"1")
        async with hosting(tmp_path / "db", workflows=[nats_purged]) as client:
            await has_read(stream.control(await client.start(nats_purged, id="adds")), {"0": 1})
        for number in range(5):
            await js.publish("numbers.a", b"%d" % number)
        await js.purge_stream("NUMBERS", keep=2)
        async with hosting(tmp_path / "db", workflows=[nats_purged]) as client:
            paused = await described(client.get_handle("adds"), lambda it: it.paused)
            assert paused.paused is not None
            assert "begins at 5, and the flow goes on at 2" in paused.paused.reason


async def test_only_one_subject_is_read_and_a_queue_is_refused(tmp_path: Path) -> None:
    async with broker_process(command, tmp_path / "broker") as server, talking_to(server) as js:
        url = f"nats://127.0.0.1:{server.port}"
        await js.add_stream(StreamConfig(name="NUMBERS", subjects=["numbers.>"]))
        for number in range(6):
            await js.publish(f"numbers.{number % 2}", b"%d" % number, headers={"odd": "yes"})
        reader = await JetStream(url, "NUMBERS", int, subject="numbers.1").open(None, None)
        found = await reader.fetch(10, 1000, None)
        assert [(one.position, one.value) for one in found] == [(2, b"1"), (4, b"3"), (6, b"5")]
        assert (found[0].key, found[0].headers) == (b"numbers.1", {"odd": b"yes"})
        assert await reader.fetch(10, 1000, 0.01) == []
        await reader.close()
        queue = StreamConfig(name="Q", subjects=["q"], retention=RetentionPolicy.WORK_QUEUE)
        await js.add_stream(queue)
        with pytest.raises(InvalidArguments, match="forgets what is acknowledged"):
            await JetStream(url, "Q").open(None, None)


async def test_a_moment_lies_where_the_server_says(tmp_path: Path) -> None:
    async with broker_process(command, tmp_path / "broker") as server, talking_to(server) as js:
        source = JetStream(f"nats://127.0.0.1:{server.port}", "NUMBERS", int)
        odd = JetStream(f"nats://127.0.0.1:{server.port}", "NUMBERS", int, subject="numbers.1")
        await js.add_stream(StreamConfig(name="NUMBERS", subjects=["numbers.>"]))
        assert (await source.before(0, None)).after == {}
        for number in range(6):
            await js.publish(f"numbers.{number % 2}", b"%d" % number)
        reader = await source.open(None, None)
        times = [one.at_us or 0 for one in await reader.fetch(6, 1000, None)]
        await reader.close()
        assert (await source.before(times[3], None)) == Cursor(reader.identity, {"0": 3})
        assert (await source.before(times[3] + 10, None)).after == {"0": 4}
        assert (await odd.before(times[2], None)).after == {"0": 3}
        assert (await odd.before(times[2] + 10, None)).after == {"0": 3}
        assert (await source.before(0, None)).after == {}
        assert (await source.before(times[5] + 1_000_000, None)).after == {"0": 6}
        with pytest.raises(InvalidArguments, match="has one partition"):
            await source.before(0, ["1"])
