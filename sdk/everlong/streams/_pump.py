"""A source that is open for one flow in one worker: it reads ahead, by one batch.

It lives between the attempts that read. The cursor that an attempt brings is committed, so what
lies before it is acknowledged; if it is not where the pump stands, another pump is opened there.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from everlong.streams._parts import Part, own_of
from everlong.streams._source import Cursor, Reader, Record, Source

__all__ = ["Fetched", "Pump", "Sizes", "weight"]

_log: Final = logging.getLogger("everlong.streams")

_BESIDE_BYTES: Final = 48
"""Of each record: its partition, its position, its time."""
_NOTHING_S: Final = 0.01
"""Behind a fetch of nothing: a source that does not wait, as it should, must not block the loop."""
_IDLE_S: Final = 300.0
"""A pump that nobody has asked for so long is closed: its flow may have ended, or be elsewhere."""
_IDLE_EXCLUSIVE_S: Final = 30.0
"""Of a source that forgets: as long as it is open, nobody else gets what it has read ahead."""
_IDLE_LEFT_S: Final = 2.0
"""Of the same, where who waited has left with nothing: the flow may have been stopped, for another
to go on."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How a batch is cut: whichever comes first ends it."""

    max_messages: int
    max_bytes: int
    linger_s: float
    partitions: tuple[str, ...] | None
    part: Part | None = None
    """Of all partitions, or of these, only those of a part."""


@dataclass(frozen=True, slots=True)
class Fetched:
    records: Sequence[Record]
    cursor: Cursor
    size: int
    """The weight of its records together, or more."""


class Pump:
    """Made on a running loop, which it does not outlive."""

    def __init__(
        self,
        source: Source[Any],
        after: Cursor | None,
        sizes: Sizes,
        forget: Callable[[], object],
    ) -> None:
        self.sizes = sizes
        self.cursor = after
        """Where the flow stands if the last batch that was handed out is committed."""
        self.asked = False
        """Somebody waits for a batch."""
        self._source = source
        self._forget = forget
        self._ahead: Fetched | None = None
        self._given: tuple[Cursor | None, Fetched] | None = None
        self._may_take, self._may_put = asyncio.Event(), asyncio.Event()
        self._may_put.set()
        self._reader: Reader | None = None
        self._left: list[Record] = []
        self._ask_again = 0.0
        self._idle_s = _IDLE_EXCLUSIVE_S if source.forgets else _IDLE_S
        self._idle_left_s = _IDLE_LEFT_S if source.forgets else _IDLE_S
        self._told: Cursor | None = None
        self._telling: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._read(after))
        self._task.add_done_callback(lambda _: self._may_take.set())
        self._idle = loop.call_later(self._idle_s, self.close)

    def continues(self, after: Cursor | None, sizes: Sizes) -> bool:
        """Whether it can give what follows this cursor: what comes next, or what it gave last."""
        broken = self._task.done() and self._ahead is None
        stands = self.cursor == after or self._gave_behind(after)
        return stands and self.sizes == sizes and not (self.asked or broken)

    def _gave_behind(self, after: Cursor | None) -> bool:
        return self._given is not None and self._given[0] == after

    async def next(self, after: Cursor | None) -> Fetched:
        """The next batch, or the last one again if something else came before it was taken; raises
        what the source has raised."""
        if self._given is not None and self.cursor != after:
            return self._given[1]
        self._idle.cancel()
        self.asked = True
        idle_s = self._idle_left_s
        try:
            fetched = await self._take()
            idle_s = self._idle_s
        finally:
            self.asked = False
            self._idle = asyncio.get_running_loop().call_later(idle_s, self.close)
        return self._give(after, fetched)

    def here(self, after: Cursor | None) -> Fetched | None:
        """What `next` would give without waiting; it is not taken yet."""
        if self._given is not None and self.cursor != after:
            return self._given[1]
        return self._ahead

    def take_here(self, after: Cursor | None) -> None:
        """What was `here` is taken."""
        if self._ahead is None or (self._given is not None and self.cursor != after):
            return  # It was given before.
        self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._idle_s, self.close)
        self._give(after, self._taken(self._ahead))

    def _give(self, after: Cursor | None, fetched: Fetched) -> Fetched:
        self._given = after, fetched
        self.cursor = fetched.cursor
        return fetched

    async def _take(self) -> Fetched:
        """Taken in one step: who is cancelled while it waits has taken nothing."""
        await self._may_take.wait()
        if self._ahead is None:
            await self._task  # Raises: it never ends by itself.
            raise AssertionError("a source is read for ever")
        return self._taken(self._ahead)

    def _taken(self, fetched: Fetched) -> Fetched:
        self._ahead = None
        if not self._task.done():
            self._may_take.clear()
        self._may_put.set()
        return fetched

    def stored(self, cursor: Cursor) -> None:
        """What was given up to here is committed: the broker hears it now, and not when the loop
        asks for more, which it may never do."""
        telling = asyncio.get_running_loop().create_task(self.acknowledge(cursor))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def acknowledge(self, cursor: Cursor) -> None:
        """The journal is the truth, so a broker that does not listen stops nobody."""
        if self._reader is None or self._told == cursor:
            return
        try:
            await self._reader.acknowledge(cursor)
            self._told = cursor
        except Exception as error:
            _log.warning(
                "%r was not told how far it was read, and is told with the next batch: %s: %s",
                self._source,
                type(error).__name__,
                error,
            )

    def close(self) -> None:
        """The source is closed soon after."""
        self._forget()
        self._idle.cancel()
        self._task.cancel()

    async def _read(self, cursor: Cursor | None) -> None:
        while True:
            partitions = await self._partitions(cursor)
            if partitions is None or partitions:
                cursor = await self._read_from(cursor, partitions)
            else:  # This part has none yet.
                await asyncio.sleep(self._source.partitions_every_s)

    async def _read_from(
        self, cursor: Cursor | None, partitions: tuple[str, ...] | None
    ) -> Cursor | None:
        """Until there are others: how far it has read then."""
        reader = await self._source.open(cursor, partitions)
        try:
            self._reader = reader
            while not await self._has_others(cursor, partitions):
                records, size = await self._batch(reader)
                if records:
                    behind = reader.cursor_behind(cursor, records)
                    await self._may_put.wait()
                    self._may_put.clear()
                    self._ahead = Fetched(records, behind, size)
                    cursor = behind
                    self._may_take.set()
                else:
                    await asyncio.sleep(_NOTHING_S)
            self._left = []  # They lie behind the cursor, and are read again.
            return cursor
        finally:
            self._reader = None
            await reader.close()

    async def _partitions(self, cursor: Cursor | None) -> tuple[str, ...] | None:
        """What is to be read now; None for all."""
        part, chosen = self.sizes.part, self.sizes.partitions
        if part is None:
            return chosen
        there = await self._source.partitions() if chosen is None else ()
        every_s = self._source.partitions_every_s
        self._ask_again = asyncio.get_running_loop().time() + every_s
        return own_of(part, there, {} if cursor is None else cursor.after, chosen)

    async def _has_others(self, cursor: Cursor | None, known: tuple[str, ...] | None) -> bool:
        """Whether there are other partitions than those that are being read."""
        if self.sizes.part is None or self.sizes.partitions is not None:
            return False
        if asyncio.get_running_loop().time() < self._ask_again:
            return False
        return await self._partitions(cursor) != known

    async def _batch(self, reader: Reader) -> tuple[list[Record], int]:
        """Records that fit into one batch, and their weight; what a source gave beyond them begins
        the next one. None only where it is to be asked for partitions in between."""
        sizes, loop = self.sizes, asyncio.get_running_loop()
        asks = sizes.part is not None and sizes.partitions is None
        wait_s = self._source.partitions_every_s if asks else None
        found = self._left or list(await reader.fetch(sizes.max_messages, sizes.max_bytes, wait_s))
        if not found:
            return [], 0
        until = loop.time() + sizes.linger_s
        size = sum(map(weight, found))
        while (
            len(found) < sizes.max_messages
            and size < sizes.max_bytes
            and (wait_s := until - loop.time()) > 0
        ):
            wanted = sizes.max_messages - len(found), sizes.max_bytes - size
            more = await reader.fetch(*wanted, wait_s)
            size += sum(map(weight, more))
            found += more
        if len(found) <= sizes.max_messages and size <= sizes.max_bytes:
            self._left = []
            return found, size
        count, size = 0, 0
        for record in found[: sizes.max_messages]:
            size += weight(record)
            if count and size > sizes.max_bytes:
                break
            count += 1
        self._left = found[count:]
        return found[:count], size


def weight(record: Record) -> int:
    """Bytes that a record takes in a history, roughly."""
    size = _BESIDE_BYTES + len(record.value)
    if record.key is not None:
        size += len(record.key)
    if record.headers:
        size += sum(len(name) + len(value) for name, value in record.headers.items())
    return size
