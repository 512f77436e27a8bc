"""One transaction, one shard: how the work on a distributed store is cut up.

Servers that share the shards of a store commit together only at a price: two rounds between them,
and locks that outlast the first. So a group of writes becomes a transaction for each shard, and
what looks for work (claims, sweeps) reads of all shards and takes of one at a time. Several
transactions are on their way at once, over as many connections; nothing of the next piece of work
begins before all of them have ended, so that claims still come behind writes. A group of which some
transactions failed is repeated, and what was stored is known again (decision 0008).

What crosses shards all the same says so (`Spans`), and is one transaction over them: a distributed
server commits it in two phases. The list may only become shorter.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from enum import Enum
from typing import Any, Final, TypeVar

from everlong_engine.model.keys import StartKey
from everlong_engine.model.writes import (
    Answer,
    Append,
    Ask,
    ForgetMail,
    Message,
    Pause,
    PauseMany,
    Pin,
    ResetRun,
    Resume,
    ResumeMany,
    StartRun,
    Terminate,
    Write,
)
from everlong_engine.store.postgres.address import Address
from everlong_engine.store.postgres.connection import Line
from everlong_engine.store.postgres.statements import Tx

__all__ = ["LINES", "Spans", "Spread", "parts_of", "shards_of", "spans"]

T = TypeVar("T")

LINES: Final = 8
"""How many transactions of one process are on their way at once."""


class Spans(Enum):
    """What may write rows of several shards in one transaction, and why."""

    FAMILY = "family"
    """Children, those who wait for an end, signals to others: with the append that says so."""
    TYPES = "types"
    """All executions of a type are held, or none: no start slips through in between."""
    LIMITS = "limits"
    """A claim from queues with limits: its permits are counted, and taken, under one lock."""
    POOLS = "pools"
    """The same for places in a pool."""
    OUTBOXES = "outboxes"
    """Messages of one outbox lie with their executions, and are marked and taken away together."""
    MOVES = "moves"
    """A family leaves for another store as a whole, and arrives as one."""


def parts_of(writes: Sequence[Write]) -> list[list[tuple[int, Write]]]:
    """Those of each shard, with their places in the group; those that do not say where they belong
    each by itself."""
    parts: dict[Hashable, list[tuple[int, Write]]] = {}
    for at, write in enumerate(writes):
        shard = _shard_of(write)
        parts.setdefault(("alone", at) if shard is None else shard, []).append((at, write))
    return list(parts.values())


def _shard_of(write: Write) -> int | None:
    match write:
        case StartRun(key=StartKey()):
            return None  # It may come to an execution that lies elsewhere.
        case StartRun() | ResetRun():
            return write.run.shard
        case Message() | Terminate() | Pause() | Resume() | Pin() | Ask():
            return write.target.shard
        case PauseMany() | ResumeMany() | Answer() | ForgetMail():
            return None
        case _:
            return write.shard


def spans(writes: Iterable[Write]) -> Spans | None:
    """What of this may have to do with other shards, if it is not done at once (`one_trip`)."""
    found: Spans | None = None
    for write in writes:
        match write:
            case PauseMany() | ResumeMany():
                return Spans.TYPES
            case Terminate() | ResetRun():
                found = Spans.FAMILY
            case StartRun(first=Append() as append) | (Append() as append):
                if append.outgoing or (append.closed is not None and append.next_run is None):
                    found = Spans.FAMILY
            case _:
                pass
    return found


def shards_of(rows: Iterable[Any], shard: Callable[[Any], int]) -> dict[int, list[Any]]:
    """Rows of each shard, in their order; the shards in the order of their first rows."""
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(shard(row), []).append(row)
    return found


class Spread:
    """The connections over which the transactions of a process go."""

    def __init__(self, address: Address, shards: int, first: Line) -> None:
        self.turn = asyncio.Lock()
        """Whose piece of work it is; a piece is any number of transactions."""
        self.first = first
        self.looks = Line(address, shards)
        """For what is read of all shards, while others write."""
        self._lines = [first, *(Line(address, shards) for _ in range(LINES - 1))]

    async def each(self, works: Sequence[Callable[[Line], Awaitable[T]]]) -> list[T]:
        """Run them, some at a time, and wait for all; the caller has the turn.

        Raises:
            Exception: the first that failed, when all have ended.
        """
        results: dict[int, T] = {}
        waiting = iter(enumerate(works))

        async def serve(line: Line) -> None:
            for at, work in waiting:
                results[at] = await work(line)

        lines = self._lines[: len(works)]
        ended = await asyncio.gather(*map(serve, lines), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error
        return [results[at] for at in range(len(works))]

    async def write_each(self, works: Sequence[Callable[[Tx], Awaitable[T]]]) -> list[T]:
        """A transaction of each."""

        def alone(work: Callable[[Tx], Awaitable[T]]) -> Callable[[Line], Awaitable[T]]:
            return lambda line: line.write(work)

        return await self.each([alone(work) for work in works])

    async def look(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Statements that need not see the same."""
        return await self.looks.at_once(work)

    async def close(self) -> None:
        """All but the first, which belongs to whoever gave it."""
        for line in (*self._lines[1:], self.looks):
            await line.close()
