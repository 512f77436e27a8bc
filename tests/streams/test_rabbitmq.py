"""Queues and streams of RabbitMQ, from a real server."""

import asyncio
import signal
import sqlite3
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from aiormq.exceptions import ChannelNotFoundEntity, PublishError

from everlong import Client, ExecutionDescription, Worker, checkpoint, workflow
from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.streams import Cursor, Lag, Stream, StreamControl, _pump
from everlong.streams._names import control_of
from everlong.streams.rabbitmq import RabbitQueue, RabbitSink, RabbitStream
from tests.support.command_line import begin, worker_ready
from tests.support.hosting import described, hosting, until
from tests.support.rabbit_broker import RabbitProcess, rabbit_process
from tests.support.sink_rigs import RabbitRig, keeps_order_and_ids, message, written
from tests.support.streams import SOON, has_read

NOON: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)
KINDS: Final = ("classic", "quorum")
FLOW: Final = """
import os, signal
from everlong import Retry, Transaction, activity, checkpoint, workflow
from everlong.streams import Stream, rabbitmq

orders = Stream("orders", rabbitmq.RabbitQueue("{url}", "{queue}", int, prefetch=50))

class Dies(rabbitmq._QueueReader):
    async def acknowledge(self, cursor):
        if cursor.after["0"] >= {dies_at}:  # It is committed, and the broker does not know.
            os.kill(os.getpid(), signal.SIGKILL)
        await super().acknowledge(cursor)

if "DIES" in os.environ:
    rabbitmq._QueueReader = Dies

@activity(name="rabbit_store", transactional=True, retry=Retry(delay=0.01))
async def store(tx: Transaction, numbers: list[int]) -> None:
    tx.executemany("insert into sink (number) values (:number)", [{{"number": n}} for n in numbers])

@workflow(name="rabbit_consume")
async def consume(count: int = 0) -> int:
    async for batch in orders.batches(max_messages=7):
        await store(batch.values)
        count += len(batch)
        await checkpoint(count=count)
    return count
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RabbitProcess]:
    process = rabbit_process(tmp_path_factory.mktemp("rabbit"))
    try:
        asyncio.run(process.start())
        yield process
    finally:
        process.kill()


def soon(monkeypatch: pytest.MonkeyPatch, stream: Stream[Any]) -> Stream[Any]:
    monkeypatch.setattr(stream.definition, "options", SOON)
    return stream


def errors_of(it: ExecutionDescription) -> str:
    return str([one.last_error for one in it.activities])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_queue_is_read_once_whoever_goes_away(
    kind: str, tmp_path: Path, server: RabbitProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = f"{kind} numbers"
    stream = soon(monkeypatch, Stream("numbers", RabbitQueue(server.url, queue, int)))

    @workflow
    async def rabbit_adds(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=7):
            total += sum(batch.values)
            for one in batch:
                assert one.key == queue.encode()
                assert one.headers["origin"] == b"tests"
                assert one.id == f"numbers/rabbitmq queue {queue}/0/id:order {one.value}"
            await checkpoint(total=total)
        return total

    async with hosting(tmp_path / "db", workflows=[rabbit_adds]) as client:
        handle = await client.start(rabbit_adds, id="adds")  # It waits until there is a queue.
        await described(handle, lambda it: "no queue" in errors_of(it))
        async with server.talking() as rabbit:
            await rabbit.declare(queue, kind)
            await rabbit.send(queue, range(20))
            await has_read(stream.control(handle), {"0": 20})
        # A server that is killed forgets quorum queues that it made a moment ago.
        server.kill() if kind == "classic" else await asyncio.to_thread(server.end)
        await server.start()  # The flow finds out by itself, and goes on.
        async with server.talking() as rabbit:
            await rabbit.send(queue, [100])
            await has_read(stream.control(handle), {"0": 21})
    async with server.talking() as rabbit:
        assert await rabbit.is_left(queue) == 0  # All of it was acknowledged.
        await rabbit.send(queue, [1000])
        async with hosting(tmp_path / "db", workflows=[rabbit_adds]) as client:
            handle = client.get_handle("adds", rabbit_adds)
            await has_read(stream.control(handle), {"0": 22})
            await rabbit.delete(queue)
            # The next attempt may have come before anybody looked.
            gone = ("ended the reading", "no queue")
            await described(handle, lambda it: any(one in errors_of(it) for one in gone))
            await rabbit.declare(queue, kind)  # No positions could mean other messages now.
            await rabbit.send(queue, [10_000])
            await has_read(stream.control(handle), {"0": 23})
            await stream.control(handle).drain()
            assert await handle.result() == sum(range(20)) + 11_100
        assert await rabbit.is_left(queue) == 0  # The last batch was told, too.


async def all_there(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("select count(distinct number) from sink").fetchone()
    return bool(found == (60,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", [True, False], ids=["with ids", "without"])
async def test_what_is_stored_and_not_acknowledged_comes_again_and_is_dropped(
    kind: str, ids: bool, tmp_path: Path, server: RabbitProcess
) -> None:
    """A worker is killed between the commit and the acknowledgement, again and again: each message
    is one row. Without ids nobody can tell, and just those come twice that were in between."""
    queue, path = f"{kind} killed {ids}", tmp_path / "everlong.db"
    async with server.talking() as rabbit, Client.connect(path) as client:
        await rabbit.declare(queue, kind)
        with closing(sqlite3.connect(path)) as connection:
            key = "primary key" if ids else ""
            connection.execute(f"create table sink (number integer {key})")
        handle = await client.start("rabbit_consume", id="flow")
        for number in range(3):
            send = rabbit.send if ids else rabbit.send_without_ids
            await send(queue, range(number * 20, number * 20 + 20))
            flow = FLOW.format(url=server.url, queue=queue, dies_at=number * 20 + 10)
            (tmp_path / "flow.py").write_text(flow)
            dies = begin("worker", "flow.py", "--json", folder=tmp_path, DIES="yes")
            await asyncio.to_thread(dies.communicate, timeout=60)
            assert dies.returncode == -signal.SIGKILL
            assert await rabbit.is_left(queue) > 0
        lives = begin("worker", "flow.py", "--json", folder=tmp_path)
        try:
            await asyncio.to_thread(worker_ready, lives)
            await until(partial(all_there, path))
            await client.get_handle("flow").signal(
                "everlong.stream.orders", {"do": "drain"}, request_id="end"
            )
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


async def test_one_flow_reads_a_queue_at_a_time(
    tmp_path: Path, server: RabbitProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = soon(monkeypatch, Stream("shared", RabbitQueue(server.url, "shared", int, prefetch=2)))

    @workflow
    async def rabbit_shares(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
        return total

    async with server.talking() as rabbit:
        await rabbit.declare("shared", "classic")
        async with hosting(tmp_path / "db", workflows=[rabbit_shares]) as client:
            one = await client.start(rabbit_shares, id="one")
            await rabbit.send("shared", [1, 2, 3])
            await has_read(stream.control(one), {"0": 3})
            two = await client.start(rabbit_shares, id="two")
            await described(two, lambda it: "read by somebody else" in errors_of(it))
            await rabbit.send("shared", [4])
            await has_read(stream.control(one), {"0": 4})
            await one.cancel()
            monkeypatch.setattr(_pump, "_IDLE_EXCLUSIVE_S", 0.0)
        async with hosting(tmp_path / "db", workflows=[rabbit_shares]) as client:
            await rabbit.send("shared", [5])
            two = client.get_handle("two", rabbit_shares)
            await has_read(stream.control(two), {"0": 1})
            await stream.control(two).drain()
            assert await two.result() == 5


async def test_another_flow_goes_on_where_one_was_stopped(
    tmp_path: Path, server: RabbitProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has not heard of the last ones, gives them out again, and they are dropped."""
    stream = soon(monkeypatch, Stream("handed", RabbitQueue(server.url, "handed", int)))

    async def lost(reader: object, cursor: Cursor) -> None:
        pass

    @workflow
    async def rabbit_hands_on(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with server.talking() as rabbit:
        await rabbit.declare("handed", "quorum")
        await rabbit.send("handed", [1, 2, 3])
        async with hosting(tmp_path / "db", workflows=[rabbit_hands_on]) as client:
            with monkeypatch.context() as deaf:
                deaf.setattr("everlong.streams.rabbitmq._QueueReader.acknowledge", lost)
                one = await client.start(rabbit_hands_on)
                await has_read(stream.control(one), {"0": 3})
                point = await stream.control(one).savepoint("s", stop=True)
            two = await client.start(rabbit_hands_on, from_savepoint=point)
            await rabbit.send("handed", [10])
            await has_read(stream.control(two), {"0": 4})
            await stream.control(two).drain()
            assert await two.result() == 16
        assert await rabbit.is_left("handed") == 0


async def test_a_moment_lies_in_a_stream_where_publishers_say_so(
    server: RabbitProcess,
) -> None:
    """In whole seconds: what was written within the same one lies behind it."""
    source = RabbitStream(server.url, "dated")
    async with server.talking() as rabbit:
        await rabbit.declare("dated", "stream")
        for second in range(3):
            await rabbit.send("dated", [second], at=NOON + timedelta(seconds=second))
        for after_s, behind_ in ((0.0, None), (1.0, 0), (1.5, 0), (60.0, 2)):
            at_us = round((NOON + timedelta(seconds=after_s)).timestamp() * 1_000_000)
            cursor = await source.before(at_us, None)
            assert cursor.after.get("0") == behind_
        await rabbit.send("dated", [3])
        with pytest.raises(InvalidArguments, match="does not say when its messages were written"):
            await source.before(0, None)


async def test_what_a_queue_cannot_do_is_refused(tmp_path: Path, server: RabbitProcess) -> None:
    queue, log = RabbitQueue(server.url, "plain"), RabbitStream(server.url, "logged")
    async with server.talking() as rabbit:
        await rabbit.declare("plain", "classic")
        await rabbit.declare("logged", "stream")
    with pytest.raises(InvalidArguments, match="read it with RabbitQueue"):
        await RabbitStream(server.url, "plain").open(None, None)
    with pytest.raises(InvalidArguments, match="read it with RabbitStream"):
        await RabbitQueue(server.url, "logged").open(None, None)
    for source in (queue, log):
        with pytest.raises(InvalidArguments, match="one partition"):
            await source.open(None, ["1"])
        assert "guest" not in repr(source)
    with pytest.raises(InvalidArguments, match="prefetch=0: give 1 to"):
        RabbitQueue(server.url, "plain", prefetch=0)
    stream = Stream("plain", queue)

    @workflow
    async def rabbit_reads() -> None:
        async for _ in stream.batches():
            pass

    async with server.talking() as rabbit, hosting(tmp_path / "db", workflows=[rabbit_reads]) as it:
        handle = await it.start(rabbit_reads)
        control = stream.control(handle)
        await rabbit.send("plain", [1])
        await has_read(control, {"0": 1})
        with pytest.raises(InvalidArguments, match="cannot be rewound"):
            await control.rewind({0: None})
        with pytest.raises(InvalidArguments, match="nobody but its broker"):
            await control.lag()
        at = await control.position()
        await handle.signal(control_of("plain"), {"do": "rewind", "cursor": ["elsewhere", {}]})
        await rabbit.send("plain", [2])
        await has_read(control, {"0": 2})  # Whoever asks for it all the same moves nothing.
        assert at is not None
        assert at.taken is not None
    lax = Client.connect(tmp_path / "lax", durability="relaxed")
    async with lax, Worker(lax, workflows=[rabbit_reads]):
        handle = await lax.start(rabbit_reads)
        paused = await described(handle, lambda it: it.paused)
        assert paused.paused is not None
        assert 'durability="full"' in paused.paused.reason


async def test_poison_in_a_queue_stops_the_flow_or_is_kept_aside(
    tmp_path: Path, server: RabbitProcess
) -> None:
    stream = Stream("poison", RabbitQueue(server.url, "poison", int))

    @workflow
    async def rabbit_strict(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
        return total

    @workflow
    async def rabbit_lenient(total: int = 0) -> int:
        async for batch in stream.batches(on_poison="dead_letter"):
            total += sum(batch.values)
        return total

    async with server.talking() as rabbit:
        await rabbit.declare("poison", "quorum")
        await rabbit.send("poison", [1, "two", 3])
        async with hosting(tmp_path / "db", workflows=[rabbit_strict]) as client:
            handle = await client.start(rabbit_strict)
            paused = await described(handle, lambda it: it.paused)
            assert paused.paused is not None
            assert "the message id:order two of partition 0" in paused.paused.reason
            assert await rabbit.is_left("poison") == 3
        async with hosting(tmp_path / "db", workflows=[rabbit_lenient]) as client:
            other = await client.start(rabbit_lenient)
            await has_read(stream.control(other), {"0": 3})
            (letter,) = await stream.control(other).dead_letters()
            assert (letter.position, letter.value) == ("id:order two", b"two")
            await stream.control(other).drain()
            assert await other.result() == 4
        assert await rabbit.is_left("poison") == 0


async def behind(control: StreamControl, offset: int) -> int | None:
    """How far the flow has read, once that is beyond an offset."""
    cursor = await control.position()
    at = None if cursor is None else int(cursor.after["0"])
    return None if at is None or at <= offset else at


async def test_a_stream_is_read_from_where_the_flow_stands(
    tmp_path: Path, server: RabbitProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = soon(monkeypatch, Stream("log", RabbitStream(server.url, "log", int)))

    @workflow
    async def rabbit_logs(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=7):
            total += sum(batch.values)
            assert all(one.key == b"log" and one.headers == {"origin": b"tests"} for one in batch)
            await checkpoint(total=total)
        return total

    async with server.talking() as rabbit:
        await rabbit.declare("log", "stream")
        async with hosting(tmp_path / "db", workflows=[rabbit_logs]) as client:
            handle = await client.start(rabbit_logs, id="adds")
            await rabbit.send("log", range(20))
            await has_read(stream.control(handle), {"0": 19})
            assert await stream.control(handle).lag() == Lag(0, more=False, seconds=None)
    await asyncio.to_thread(server.end)
    async with hosting(tmp_path / "db", workflows=[rabbit_logs]) as client:
        handle = client.get_handle("adds", rabbit_logs)
        await described(handle, lambda it: "connect" in errors_of(it).lower())
        await server.start()  # The flow finds out by itself, and goes on.
        await server.has("log")
        async with server.talking() as rabbit:
            await rabbit.send("log", [100])
            end = await until(partial(behind, stream.control(handle), 19))  # Or a gap behind it.
            other = await client.start(rabbit_logs, id="other")
            await has_read(stream.control(other), {"0": end})
            await stream.control(other).drain()
            assert await other.result() == sum(range(20)) + 100
    async with server.talking() as rabbit:
        await rabbit.delete("log")
        await rabbit.declare("log", "stream")
        await rabbit.send("log", [7])
        async with hosting(tmp_path / "db", workflows=[rabbit_logs]) as client:
            handle = client.get_handle("adds", rabbit_logs)
            paused = await described(handle, lambda it: it.paused)
            assert paused.paused is not None
            assert f"ends at 0, and it was read up to {end}" in paused.paused.reason
            await stream.control(handle).rewind({0: None})
            await handle.resume()
            await has_read(stream.control(handle), {"0": 0})
            await stream.control(handle).drain()
            assert await handle.result() == sum(range(20)) + 107


async def offsets(source: RabbitStream[Any], after: int | None) -> list[int]:
    cursor = None if after is None else Cursor(f"rabbitmq stream {source.stream}", {"0": after})
    reader = await source.open(cursor, None)
    found = [int(one.position) for one in await reader.fetch(1000, 100_000, 2)]
    await reader.close()
    return found


async def settled(source: RabbitStream[Any]) -> list[int] | None:
    """What is kept, once nothing is thrown away any more: that is done beside what is sent."""
    kept = await offsets(source, None)
    return kept if kept == await offsets(source, None) else None


async def test_what_a_stream_keeps_no_more_stops_the_flow(
    tmp_path: Path, server: RabbitProcess
) -> None:
    """Its offsets have gaps, which stop nobody."""
    source = RabbitStream(server.url, "short")
    async with server.talking() as rabbit:
        bounds = {"x-max-length-bytes": 3_000, "x-stream-max-segment-size-bytes": 1_000}
        await rabbit.declare("short", "stream", **bounds)
        await rabbit.send("short", [f"{number:0240}" for number in range(120)])
    kept = await until(partial(settled, source))
    assert kept[0] > 10
    gaps = set(range(kept[0], kept[-1])) - set(kept)  # If there are any this time.
    for at in (kept[0] - 1, kept[0], *gaps, kept[-1]):
        assert await offsets(source, at) == [one for one in kept if one > at]
    reader = await source.open(Cursor("rabbitmq stream short", {"0": 5}), None)
    with pytest.raises(StreamRewound, match=f"begins at {kept[0]}, and the flow goes on at 6"):
        await reader.fetch(100, 100_000, None)
    await reader.close()


async def test_a_sink_waits_for_a_queue_and_for_each_confirmation(server: RabbitProcess) -> None:
    sink = RabbitSink(server.url, "t")
    with pytest.raises(PublishError, match="NO_ROUTE"):
        await written(sink, message(0))
    async with server.talking() as rabbit:
        await rabbit.declare("t", "quorum")
    await keeps_order_and_ids(RabbitRig(server.url))
    with pytest.raises(ChannelNotFoundEntity, match="no exchange 'none'"):
        await RabbitSink(server.url, "t", exchange="none").open()
