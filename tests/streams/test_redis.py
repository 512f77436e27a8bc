"""A stream of Redis, from a real server."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import asyncio as redis

from everlong import checkpoint, workflow
from everlong.exceptions import InvalidArguments
from everlong.streams import Cursor, Lag, Stream
from everlong.streams.redis import RedisStream
from tests.support.broker_process import BrokerProcess, broker_process
from tests.support.hosting import described, hosting
from tests.support.streams import SOON, has_read
from tests.support.tools import need


def command(port: int, folder: Path) -> list[str]:
    binary = shutil.which("redis-server")
    assert binary is not None
    durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    place = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    return [binary, *place, *durable]


@asynccontextmanager
async def talking_to(server: BrokerProcess) -> AsyncGenerator[Any]:
    client: Any = redis.Redis(port=server.port)
    try:
        yield client
    finally:
        await client.aclose()


@dataclass
class Order:
    number: int
    item: str


async def test_a_stream_is_read_from_where_the_flow_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("redis-server")
    async with broker_process(command, tmp_path / "broker") as server:
        url = f"redis://127.0.0.1:{server.port}"
        stream = Stream("orders", RedisStream(url, "orders", Order, group="flows"))
        monkeypatch.setattr(stream.definition, "options", SOON)

        @workflow
        async def redis_adds(total: int = 0) -> int:
            async for batch in stream.batches(max_messages=7):
                total += sum(one.number for one in batch.values)
                assert {one.item for one in batch.values} == {"chair"}
                await checkpoint(total=total)
            return total

        async with talking_to(server) as client:
            async with hosting(tmp_path / "db", workflows=[redis_adds]) as host:
                handle = await host.start(redis_adds, id="adds")
                for number in range(1, 21):
                    await client.xadd(
                        "orders", {"number": number, "item": "chair"}, id=f"{number}-0"
                    )
                await has_read(stream.control(handle), {"0": "20-0"})
                assert await stream.control(handle).lag(wait=0.1) == Lag(
                    0, more=False, seconds=None
                )
                server.kill()
                await server.start()  # The flow finds out by itself, and goes on.
                await client.xadd("orders", {"number": 100, "item": "chair"}, id="21-0")
                await has_read(stream.control(handle), {"0": "21-0"})
            await client.xadd("orders", {"number": 1000, "item": "chair"}, id="22-0")
            async with hosting(tmp_path / "db", workflows=[redis_adds]) as host:
                handle, other = (
                    host.get_handle("adds", redis_adds),
                    await host.start(redis_adds, id="b"),
                )
                await has_read(stream.control(handle), {"0": "22-0"})
                await stream.control(handle).drain()
                assert await handle.result() == sum(range(21)) + 1100
                await has_read(stream.control(other), {"0": "22-0"})
            (group,) = await client.xinfo_groups("orders")
            assert group["name"] == b"flows"
            await client.delete("orders")
            await client.xadd("orders", {"number": 7, "item": "chair"}, id="3-0")
            async with hosting(tmp_path / "db", workflows=[redis_adds]) as host:
                handle = host.get_handle("b", redis_adds)
                paused = await described(handle, lambda it: it.paused)
                assert paused.paused is not None
                assert "ends at 3-0, and it was read up to 22-0" in paused.paused.reason
                await stream.control(handle).rewind({0: None})
                await handle.resume()
                await has_read(stream.control(handle), {"0": "3-0"})
                await stream.control(handle).drain()
                assert await handle.result() == sum(range(21)) + 1107


async def test_one_field_may_be_the_message(tmp_path: Path) -> None:
    need("redis-server")
    async with broker_process(command, tmp_path / "broker") as server, talking_to(server) as client:
        url = f"redis://127.0.0.1:{server.port}"
        whole, part = RedisStream(url, "s"), RedisStream(url, "s", field="data")
        await client.xadd("s", {"data": b"\xff\x00", "more": "text"}, id="5-1")
        for source, value in ((whole, b'{"data": "ff00", "more": "text"}'), (part, b"\xff\x00")):
            reader = await source.open(None, None)
            (record,) = await reader.fetch(10, 1000, None)
            assert (record.position, record.value, record.at_us) == ("5-1", value, 5000)
            assert await reader.fetch(10, 1000, 0.01) == []
            await reader.close()
        with pytest.raises(InvalidArguments, match="no position in a stream of Redis"):
            await whole.open(Cursor("redis s", {"0": 7}), None)
        with pytest.raises(InvalidArguments, match="one partition"):
            await whole.open(None, ["1"])


async def test_a_moment_lies_where_the_ids_say(tmp_path: Path) -> None:
    need("redis-server")
    async with broker_process(command, tmp_path / "broker") as server, talking_to(server) as client:
        source = RedisStream(f"redis://127.0.0.1:{server.port}", "s")
        assert (await source.before(5_000, None)).after == {}
        for name in ("5-0", "7-0", "7-1", "7-12", "9-0"):
            await client.xadd("s", {"data": name}, id=name)

        async def names_from(ms: int) -> list[object]:
            cursor = await source.before(ms * 1000, None)
            reader = await source.open(cursor, None)
            found = await reader.fetch(10, 1000, 0.01)
            await reader.close()
            return [one.position for one in found]

        assert await names_from(0) == ["5-0", "7-0", "7-1", "7-12", "9-0"]
        assert await names_from(6) == await names_from(7) == ["7-0", "7-1", "7-12", "9-0"]
        assert await names_from(8) == await names_from(9) == ["9-0"]
        assert await names_from(10) == []
        assert source.is_behind("7-12", "7-2")
        assert not source.is_behind("7-1", "7-1")
