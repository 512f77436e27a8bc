"""The workflow that reads a stream of its world for ever, and what it does with each batch."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

from everlong import Retry, Transaction, WorkflowInfo, activity, checkpoint, info, workflow
from everlong.streams import Batch, Cursor, Reader, Source, Stream, Tick, every, merge
from tests.simulation.broker import Broker, LogReader, QueueReader
from tests.simulation.carrying import act
from tests.simulation.flows import FLOWS_MAX, Flow
from tests.simulation.language import letters, stage

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["READS", "SINK", "STREAMS", "read_on", "save"]

READS: Final = "simulation.read_on"
SINK: Final = "CREATE TABLE sink (flow TEXT NOT NULL, id TEXT NOT NULL, value INTEGER NOT NULL)"
"""Without a key: what is stored twice is to be seen."""
_INSERT: Final = "insert into sink (flow, id, value) values (:flow, :id, :value)"
_PERIOD_S: Final = 3.0


class WorldSource(Source[int]):
    """Read from the broker of that name in the world that runs now."""

    def __init__(self, name: str) -> None:
        super().__init__(int)
        self.name = name

    def _broker(self) -> Broker:
        return cast("World", stage[-1]).brokers[self.name]

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader in the process that asks."""
        broker = self._broker()
        return LogReader(broker, await broker.connect(), after, partitions)

    def __repr__(self) -> str:
        return f"WorldSource({self.name!r})"


class Queue(WorldSource):
    forgets = True

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader in the process that asks, beside others."""
        broker = self._broker()
        return QueueReader(broker, await broker.connect(), after)


STREAMS: Final[dict[str, Stream[int]]] = {
    source.name: Stream(source.name, source)
    for number in range(FLOWS_MAX)
    for source in (WorldSource(f"log{number}"), Queue(f"queue{number}"))
}


@activity(name="simulation.save", transactional=True, retry=Retry(delay=0.5, jitter=0.0))
async def save(tx: Transaction, flow: str, rows: list[tuple[str, int]]) -> None:
    tx.executemany(_INSERT, [{"flow": flow, "id": one, "value": value} for one, value in rows])


def _flow(name: str) -> Flow:
    return cast("World", stage[-1]).flows[name]


@workflow(name=READS)
async def read_on(
    name: str,
    seen: list[int] | None = None,
    heard: list[str] | None = None,
    ticks: int = 0,
) -> list[Any]:
    """Everything that it has read and heard is the result, once somebody has asked for the end."""
    flow = _flow(name)
    seen, heard = seen or [], heard or []
    batches = STREAMS[flow.stream].batches(
        max_messages=flow.max_messages, linger=flow.linger_s, on_poison="dead_letter"
    )
    arms: list[Any] = [batches]
    arms += [letters] if flow.hears else []
    arms += [every(_PERIOD_S)] if flow.ticks else []
    try:
        async for found in merge(*arms) if len(arms) > 1 else batches:
            if _is_batch(found):
                await _use(flow, found)
                seen += found.values
            elif isinstance(found, Tick):
                ticks += 1
            else:
                heard.append(str(found))
            if flow.anew:
                await checkpoint(seen=seen, heard=heard, ticks=ticks)
    except asyncio.CancelledError:
        await act("cleanup", 0.2, 0, "plain")
        raise
    return [seen, heard, ticks]


def _is_batch(found: object) -> TypeGuard[Batch[int]]:
    return isinstance(found, Batch)


async def _use(flow: Flow, batch: Batch[int]) -> None:
    if flow.body == "act":
        fails = sum(batch.values) % 5 == 0
        await act(f"use {batch.id}", flow.seconds, int(fails), "plain")
    elif flow.body == "sink":
        await save(info(WorkflowInfo).workflow_id, [(one.id, one.value) for one in batch])
