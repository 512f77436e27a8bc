"""How flows that read streams are doing, for Prometheus. Extra `everlong[prometheus]`.

A collector that looks from time to time, in the loop of its client, and answers each scrape with
what it has seen last: whoever scrapes costs the store nothing. What one look costs is bounded, as
is what it tells: by the number of flows, of partitions of each, and of messages that are counted.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from everlong.client import Client, ExecutionSummary, WorkflowHandle
from everlong.exceptions import InvalidArguments, WorkflowNotFound
from everlong.streams import Lag, PartitionLag, Stream
from everlong.streams._lag import lag_behind
from everlong.streams._names import dead_letters_of, part_of
from everlong.streams._parts import part_from
from everlong.streams._progress import Progress, progress_in
from everlong.streams._source import Cursor

__all__ = ["StreamMetrics"]

_log: Final = logging.getLogger("everlong.prometheus")

_STATUSES: Final = ("running", "paused", "blocked")
_AT_ONCE: Final = 4
_WAIT_S: Final = 0.5
_OTHERS: Final = "others"
_FLOW: Final = ["stream", "workflow_id"]
_NO_LAG: Final = PartitionLag(0, None)


@dataclass(slots=True)
class _Read:
    """A stream of a flow, as it was seen last."""

    lag: Lag | None = None
    """None: it cannot be told, see `up`."""
    up: bool = True
    partitions: tuple[str, ...] = ()
    """Those that it has read."""
    last_batch: float | None = None
    dead_letters: int = 0


@dataclass(slots=True)
class _Flow:
    """An execution, as it was seen last."""

    run_id: str
    events: int
    progress: Progress
    reads: dict[str, _Read] = field(default_factory=dict[str, _Read])


class StreamMetrics(Collector):
    """What open executions have not read of streams, and what did not fit, for Prometheus.

        async with Client.connect("orders.db") as client, StreamMetrics(client, orders) as metrics:
            REGISTRY.register(metrics)
            start_http_server(9464)

    What people get wrong: a scrape shows the last look, up to `every` seconds old. And lag is
    counted by reading, so a look reads up to `at_most` messages for each flow; nothing is told to
    the broker.

    Args:
        client: of the store; it stays open as long as this.
        streams: their declarations.
        filter: which executions are looked at, as for `client.list`, such as
            `type = 'consume'`; all open ones unless given.
        every: seconds between two looks, at least 1.
        flows_max: how many executions are looked at, the newest first.
        partitions_max: of each stream of a flow that are told one by one; the rest is told
            together, as partition "others".
        at_most: stop counting a flow's lag there.

    Raises:
        InvalidArguments: no stream, or a number out of its range.
    """

    def __init__(
        self,
        client: Client,
        *streams: Stream[Any],
        filter: str | None = None,
        every: float = 30.0,
        flows_max: int = 100,
        partitions_max: int = 100,
        at_most: int = 10_000,
    ) -> None:
        if not streams:
            raise InvalidArguments("StreamMetrics needs a stream: StreamMetrics(client, orders)")
        if every < 1:
            raise InvalidArguments(f"every={every}: give 1 second or more")
        for name, value in (
            ("flows_max", flows_max),
            ("partitions_max", partitions_max),
            ("at_most", at_most),
        ):
            if value < 1:
                raise InvalidArguments(f"{name}={value}: give 1 or more")
        self._client = client
        self._streams = {one.name: one for one in streams}
        self._filter = filter
        self._every_s = every
        self._flows_max, self._partitions_max = flows_max, partitions_max
        self._at_most = at_most
        self._flows: dict[str, _Flow] = {}
        self._counts: dict[str, int] = {}
        self._left_out = False
        self._looked: float | None = None
        self._failed = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.look()
        self._task = asyncio.get_running_loop().create_task(self._look_for_ever())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._look()

    async def _look(self) -> None:
        try:
            await self.look()
        except Exception as error:
            # Whatever it was: what was seen last is told, and that this has failed.
            self._failed += 1
            _log.warning("cannot look at the flows: %s", error)

    # --------------------------------------------------------------------------------- looking

    async def look(self) -> None:
        """Look once, now. Raises EverlongError: the store does not answer, or it is no filter."""
        found, self._left_out = await self._open_ones()
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(summary: ExecutionSummary) -> _Flow | None:
            async with gate:
                try:
                    return await self._seen(summary)
                except WorkflowNotFound:
                    return None  # It has gone meanwhile.

        seen = zip(found, await asyncio.gather(*map(one, found)), strict=True)
        flows = [(summary, flow) for summary, flow in seen if flow is not None]
        self._flows = {summary.workflow_id: flow for summary, flow in flows}
        read = Counter(summary.status for summary, flow in flows if flow.reads)
        self._counts = {status: read[status] for status in _STATUSES}
        self._looked = self._now_s()

    def _now_s(self) -> float:
        return self._client.engine.clock.now_us() / 1e6

    async def _open_ones(self) -> tuple[list[ExecutionSummary], bool]:
        """And whether there are more."""
        found: list[ExecutionSummary] = []
        for status in _STATUSES:
            left = self._flows_max - len(found)
            after: str | None = None
            while left >= 0:
                limit = min(1_000, left + 1)
                page = await self._client.list(
                    status=status, filter=self._filter, limit=limit, after=after
                )
                found += page.items
                left, after = left - len(page.items), page.next
                if after is None:
                    break
        return found[: self._flows_max], len(found) > self._flows_max

    async def _seen(self, summary: ExecutionSummary) -> _Flow:
        handle: WorkflowHandle[Any] = self._client.get_handle(summary.workflow_id)
        before = self._flows.get(summary.workflow_id)
        stamp = summary.run_id, summary.history_events
        if before is None or (before.run_id, before.events) != stamp:
            progress = await progress_in(handle)
        else:
            progress = before.progress  # Not one event more.
        flow = _Flow(*stamp, progress)
        for name, stream in self._streams.items():
            if name in progress.reads or name in progress.carried:
                known = None if before is None else before.reads.get(name)
                flow.reads[name] = await self._read(handle, stream, progress, known or _Read())
        return flow

    async def _read(
        self,
        handle: WorkflowHandle[Any],
        stream: Stream[Any],
        progress: Progress,
        before: _Read,
    ) -> _Read:
        name = stream.name
        at = progress.read_at.get(name)
        seen = _Read(last_batch=before.last_batch if at is None else at.timestamp())
        try:
            seen.dead_letters = await _items_behind(handle, name, before.dead_letters)
            wire = progress.carried.get(name)
            cursor = None if wire is None else Cursor.from_wire(wire)
            seen.partitions = () if cursor is None else tuple(sorted(cursor.after))
            if not stream.source.forgets:
                seen.lag = await lag_behind(
                    stream.source,
                    cursor,
                    part_from(progress.carried.get(part_of(name))),
                    None,
                    at_most=self._at_most,
                    wait_s=_WAIT_S,
                    now_us=self._client.engine.clock.now_us(),
                )
        except Exception as error:
            # A broker that is away, or a cursor that is sealed: the other flows are told of.
            _log.warning("cannot tell how far %s is behind: %s", handle.workflow_id, error)
            self._failed += 1
            seen.up = False
        return seen

    # --------------------------------------------------------------------------------- telling

    def collect(self) -> Iterator[Metric]:
        """What was seen last. For the registry; in any thread."""
        prefix = "everlong_stream_"
        messages = GaugeMetricFamily(
            f"{prefix}lag_messages", "Messages not read yet.", labels=[*_FLOW, "partition"]
        )
        seconds = GaugeMetricFamily(
            f"{prefix}lag_seconds",
            "Seconds since the oldest message that was not read was written; 0 without one.",
            labels=[*_FLOW, "partition"],
        )
        more = GaugeMetricFamily(
            f"{prefix}lag_more", "Whether there are more than were counted.", labels=_FLOW
        )
        up = GaugeMetricFamily(f"{prefix}up", "Whether the last look succeeded.", labels=_FLOW)
        batch = GaugeMetricFamily(
            f"{prefix}last_batch_timestamp_seconds", "When the last batch came.", labels=_FLOW
        )
        letters = CounterMetricFamily(
            f"{prefix}dead_letters", "Messages that did not fit.", labels=_FLOW
        )
        for workflow_id, flow in self._flows.items():
            for name, read in flow.reads.items():
                labels = [name, workflow_id]
                up.add_metric(labels, read.up)
                letters.add_metric(labels, read.dead_letters)
                if read.last_batch is not None:
                    batch.add_metric(labels, read.last_batch)
                if read.lag is not None:
                    more.add_metric(labels, read.lag.more)
                    for partition, one in self._partitions(read, read.lag):
                        messages.add_metric([*labels, partition], one.messages)
                        if one.seconds is not None or not one.messages:
                            seconds.add_metric([*labels, partition], one.seconds or 0.0)
        yield from (messages, seconds, more, up, batch, letters)
        yield from self._about()

    def _partitions(self, read: _Read, lag: Lag) -> Iterator[tuple[str, PartitionLag]]:
        """Those with a lag first, so that what is bounded tells what matters."""
        each = {**dict.fromkeys(read.partitions, _NO_LAG), **lag.partitions}
        ranked = sorted(each.items(), key=lambda one: -one[1].messages)
        yield from ranked[: self._partitions_max]
        if rest := [one for _, one in ranked[self._partitions_max :]]:
            ages = [one.seconds for one in rest if one.seconds is not None]
            total = sum(one.messages for one in rest)
            yield _OTHERS, PartitionLag(total, max(ages, default=None))

    def _about(self) -> Iterator[Metric]:
        """Of what the numbers tell, and what they leave out."""
        flows = GaugeMetricFamily(
            "everlong_stream_flows", "Open executions that read a stream.", labels=["status"]
        )
        for status, count in self._counts.items():
            flows.add_metric([status], count)
        left_out = GaugeMetricFamily(
            "everlong_stream_flows_left_out", "Whether there are more executions than are told of."
        )
        left_out.add_metric([], self._left_out)
        failures = CounterMetricFamily(
            "everlong_stream_look_failures", "Looks that have failed, in whole or for one flow."
        )
        failures.add_metric([], self._failed)
        yield from (flows, left_out, failures)
        if self._looked is not None:
            looked = GaugeMetricFamily(
                "everlong_stream_looked_timestamp_seconds", "When all this was seen."
            )
            looked.add_metric([], self._looked)
            yield looked


async def _items_behind(handle: WorkflowHandle[Any], stream: str, known: int) -> int:
    """How many dead letters there are; those that are known are not read again."""
    items = handle.subscribe(dead_letters_of(stream), known, numbered=True, live=False)
    async for item in items:
        known = item.number + 1
    return known
