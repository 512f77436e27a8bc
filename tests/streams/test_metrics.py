"""Lag, dead letters and last batches, as Prometheus scrapes them."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from everlong import Client, Signal, Worker, checkpoint, workflow
from everlong.exceptions import InvalidArguments, InvalidFilter
from everlong.prometheus import StreamMetrics
from everlong.streams import Memory, Stream
from tests.support.hosting import hosting, until
from tests.support.streams import has_read

PREFIX = "everlong_stream_"
LABELS = ("stream", "workflow_id", "partition", "status")
go_on: Signal[bool] = Signal("go-on", bool)


class Scraped:
    """What a page says."""

    def __init__(self, page: str) -> None:
        self.samples = {
            (one.name, *(one.labels[name] for name in LABELS if name in one.labels)): one.value
            for family in text_string_to_metric_families(page)
            for one in family.samples
        }

    def __getitem__(self, wanted: str | tuple[str, ...]) -> float:
        name, *labels = (wanted,) if isinstance(wanted, str) else wanted
        return self.samples[PREFIX + name, *labels]

    def of(self, name: str) -> list[list[str]]:
        return sorted([*labels] for full, *labels in self.samples if full == PREFIX + name)


async def scrape(metrics: StreamMetrics) -> Scraped:
    """Over HTTP, as a server of Prometheus does."""
    registry = CollectorRegistry()
    registry.register(metrics)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        return Scraped(await asyncio.to_thread(page_of, server.server_port))
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


def page_of(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text: str = answer.read().decode()
        return text


def reading(name: str, source: Memory[int]) -> tuple[Stream[int], Any]:
    stream = Stream(name, source)

    @workflow(name=f"reads_{name}")
    async def reads(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=2, on_poison="dead_letter"):
            total += sum(batch.values)
            await checkpoint(total=total)
            if total > 10:
                await go_on.receive()
        return total

    return stream, reads


async def test_a_scrape_tells_what_flows_have_not_read(tmp_path: Path) -> None:
    source = Memory(int)
    stream, reads = reading("orders", source)
    idle, reads_idle = reading("idle", Memory(int, identity="idle"))
    before = datetime.now(UTC).timestamp()
    async with hosting(tmp_path / "db", workflows=[reads, reads_idle]) as client:
        handle = await client.start(reads, id="flow")
        await client.start(reads_idle, id="other")
        source.put(1, "x")
        source.put(20, partition="1")
        await has_read(stream.control(handle), {"0": 1, "1": 0})
        written = datetime.now(UTC) - timedelta(hours=1)
        source.put(*range(7), at=written)
        source.put(*range(3), partition="2")
        async with StreamMetrics(client, stream, idle) as metrics:
            page = await scrape(metrics)
            assert page["lag_messages", "orders", "flow", "0"] == 7
            assert page["lag_messages", "orders", "flow", "1"] == 0
            assert page["lag_messages", "orders", "flow", "2"] == 3
            assert 3600 <= page["lag_seconds", "orders", "flow", "0"] < 3700
            assert page["lag_seconds", "orders", "flow", "1"] == 0
            assert len(page.of("lag_seconds")) == 2  # Of partition 2 the source does not say.
            assert page["lag_more", "orders", "flow"] == 0
            assert page["dead_letters_total", "orders", "flow"] == 1
            assert before <= page["last_batch_timestamp_seconds", "orders", "flow"]
            assert (page["up", "orders", "flow"], page["up", "idle", "other"]) == (1, 1)
            assert (page["flows", "running"], page["flows", "paused"]) == (2, 0)
            assert page["flows_left_out"] == 0
            assert page["look_failures_total"] == 0
            assert page["looked_timestamp_seconds"] >= before
            await handle.pause(reason="for a test")
            source.put("y", "z")
            await metrics.look()
            page = await scrape(metrics)
            assert page["lag_messages", "orders", "flow", "0"] == 9
            assert (page["flows", "running"], page["flows", "paused"]) == (1, 1)
            assert page["dead_letters_total", "orders", "flow"] == 1
            await handle.terminate("enough")
            await metrics.look()
            assert (await scrape(metrics)).of("lag_messages") == []


async def test_what_is_told_has_bounds(tmp_path: Path) -> None:
    source = Memory(int)
    stream, reads = reading("bounded", source)
    async with Client.connect(tmp_path / "db") as client:
        async with Worker(client, workflows=[reads]):
            for number in range(4):
                await client.start(reads, id=f"flow-{number}")
            for partition in range(5):
                source.put(0, partition=str(partition))
            for number in range(4):
                positions: Any = {str(one): 0 for one in range(5)}
                await has_read(stream.control(client.get_handle(f"flow-{number}")), positions)
        for partition in range(5):
            source.put(*range(partition), partition=str(partition))
        options: dict[str, Any] = {"flows_max": 3, "partitions_max": 2}
        async with StreamMetrics(client, stream, **options) as metrics:
            page = await scrape(metrics)
            newest = ["flow-1", "flow-2", "flow-3"]
            assert page.of("lag_messages") == [
                ["bounded", flow, partition]
                for flow in newest
                for partition in ("3", "4", "others")
            ]
            assert page["lag_messages", "bounded", "flow-3", "others"] == 0 + 1 + 2
            assert page["flows_left_out"] == 1
        async with StreamMetrics(client, stream, at_most=6, filter="id = 'flow-2'") as metrics:
            page = await scrape(metrics)
            assert page["lag_more", "bounded", "flow-2"] == 1
            assert len(page.of("up")) == 1


async def test_a_source_that_is_away_hides_no_other(tmp_path: Path) -> None:
    gone, here = Memory(int, identity="gone"), Memory(int)
    away, reads_away = reading("away", gone)
    stream, reads = reading("there", here)
    async with hosting(tmp_path / "db", workflows=[reads, reads_away]) as client:
        handles = [await client.start(reads, id="a"), await client.start(reads_away, id="b")]
        here.put(1)
        gone.put(1)
        for one, handle in zip((stream, away), handles, strict=True):
            await has_read(one.control(handle), {"0": 0})
        gone.identity = "another"
        async with StreamMetrics(client, stream, away) as metrics:
            page = await scrape(metrics)
            assert (page["up", "there", "a"], page["up", "away", "b"]) == (1, 0)
            assert page["lag_messages", "there", "a", "0"] == 0
            assert page["look_failures_total"] == 1
            assert page.of("lag_messages") == [["there", "a", "0"]]


async def test_a_scrape_asks_the_store_nothing_and_a_look_reads_only_what_is_new(
    tmp_path: Path,
) -> None:
    source = Memory(int)
    stream, reads = reading("cheap", source)
    async with hosting(tmp_path / "db", workflows=[reads]) as client:
        handle = await client.start(reads, id="flow")
        source.put(1)
        await has_read(stream.control(handle), {"0": 0})
        async with StreamMetrics(client, stream) as metrics:
            asked: list[str] = []
            store: Any = client.engine.store
            load = store.load

            async def counted(*args: Any) -> Any:
                asked.append("load")
                return await load(*args)

            store.load = counted
            for _ in range(3):
                await scrape(metrics)
                await metrics.look()
            assert asked == []  # The flow has not one event more.
            source.put(2)
            await has_read(stream.control(handle), {"0": 1})
            asked.clear()
            await metrics.look()
            assert len(asked) == 2
            del store.load


async def test_it_looks_again_by_itself_and_survives_a_store_that_is_away(tmp_path: Path) -> None:
    source = Memory(int)
    stream, reads = reading("again", source)
    async with hosting(tmp_path / "db", workflows=[reads]) as client:
        handle = await client.start(reads, id="flow")
        source.put(20)
        await has_read(stream.control(handle), {"0": 0})
        metrics = StreamMetrics(client, stream, every=1)
        metrics._every_s = 0.01  # pyright: ignore[reportPrivateUsage]
        async with metrics:
            source.put(1, 2, 3)

            async def is_seen() -> bool:
                return (await scrape(metrics))["lag_messages", "again", "flow", "0"] == 3

            await until(is_seen)
            store: Any = client.engine.store
            listed = store.list_runs

            async def away(*_: Any) -> Any:
                raise OSError("the store is away")

            store.list_runs = away

            async def has_failed() -> bool:
                page = await scrape(metrics)
                assert page["lag_messages", "again", "flow", "0"] == 3
                return page["look_failures_total"] > 0

            await until(has_failed)
            store.list_runs = listed


async def test_nonsense_is_refused(tmp_path: Path) -> None:
    stream, _ = reading("nonsense", Memory(int))
    async with Client.connect(tmp_path / "db") as client:
        with pytest.raises(InvalidArguments, match="needs a stream"):
            StreamMetrics(client)
        wrong: list[dict[str, Any]] = [
            {"every": 0.5},
            {"flows_max": 0},
            {"partitions_max": 0},
            {"at_most": 0},
        ]
        for options in wrong:
            with pytest.raises(InvalidArguments, match=re.escape(next(iter(options)))):
                StreamMetrics(client, stream, **options)
        with pytest.raises(InvalidFilter):
            async with StreamMetrics(client, stream, filter="happy"):
                pass
