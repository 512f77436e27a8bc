"""Follows an output channel: reads what is there, then waits for more, until the execution is over.

What is read is the store alone, so a subscriber may live in any process, come late, and outlive the
workers. Everything else is a hint to look again: in the process that has the execution in hand its
commits, elsewhere any commit to the store.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from everlong._values import Value
from everlong.client._connected import require_here
from everlong.client._views import instant
from everlong.exceptions import ItemsGone, UndecodablePayload, WorkflowNotFound
from everlong_engine import Engine, ItemRow, RunRow, Target, limits, unpack

if TYPE_CHECKING:
    from everlong.client._client import Client

__all__ = ["PublishedItem", "follow"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PublishedItem(Generic[T]):
    """An item of an output channel, with its place in it.

    async for item in handle.subscribe(progress, numbered=True):
        remember(item.number + 1)            # where to go on after a restart
        print(item.at, item.value)
    """

    number: int
    """Counted from 0 through all runs of the execution."""
    at: datetime
    """The workflow's `now()` when it published it."""
    value: T


async def follow(
    client: "Client",
    target: Target,
    channel: str,
    decoder: Value | None,
    number: int,
    *,
    live: bool,
) -> AsyncIterator[PublishedItem[Any]]:
    """The items from `number` on, or for 0 from the oldest that is kept. With `live` it waits for
    those to come, else it ends behind the last one that is there."""
    anywhere = number == 0
    while True:
        # Looked up each time: the client may have been closed meanwhile.
        row, items = await _next(client, target, channel, number, live=live)
        # One execution is followed, whoever has its workflow id by now.
        target = Target(target.shard, target.namespace, target.workflow_id, row.execution_id)
        if not items:
            return
        if items[0].number != number and not anywhere:
            raise ItemsGone(
                workflow_id=row.workflow_id,
                channel=channel,
                number=number,
                oldest=items[0].number,
            )
        anywhere = False
        for item in items:
            yield PublishedItem(
                item.number, instant(item.at_us), _value(client, row, item, decoder)
            )
        number = items[-1].number + 1


async def _next(
    client: "Client", target: Target, channel: str, number: int, *, live: bool
) -> tuple[RunRow, list[ItemRow]]:
    """Items to hand out, waiting for some; none when nothing will come any more."""
    while True:
        execution_id = target.execution_id or (await _look(client.engine, target)).execution_id
        # Listen first, then look: what is committed in between is not missed. The client may have
        # been closed.
        engine = client.engine
        closing = engine.closing(execution_id)
        hints: list[asyncio.Future[Any]] = [closing, engine.publishing(execution_id)]
        if client.owner_of(target) is None:
            hints.append(engine.changed())
        try:
            row = await _look(engine, target)
            items = await engine.store.published(
                row.shard, row.execution_id, channel, number, limits.PUBLISHED_READ_MAX
            )
            # Its end was seen before the items were: none can come behind them.
            if live and not items:
                require_here(row)
            if items or not live or not _is_open(row):
                return row, items
            await asyncio.wait(hints, return_when=asyncio.FIRST_COMPLETED)
            if closing.done() and not closing.cancelled():
                closing.result()  # It fails when the store has.
        finally:
            for hint in hints:
                hint.cancel()


async def _look(engine: Engine, target: Target) -> RunRow:
    if engine.commits.failed is not None:
        raise engine.commits.failed
    row = await engine.store.latest(target)
    if row is None:
        raise WorkflowNotFound(workflow_id=target.workflow_id)
    return row


def _is_open(row: RunRow) -> bool:
    return row.status.is_open or row.status.is_followed


def _value(client: "Client", row: RunRow, item: ItemRow, decoder: Value | None) -> Any:
    try:
        payload = client.records.published(row.execution_id, row, item)
        return unpack(payload) if decoder is None else decoder.decode(payload)
    except UndecodablePayload as error:
        error.add_note(f"It is item {item.number} of {row.workflow_id}'s output {item.channel!r}.")
        raise
