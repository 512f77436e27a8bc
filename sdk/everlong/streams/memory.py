"""`Memory` and `MemorySink`: in this process, for tests and for trying things out."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from everlong.outboxes import OutboxMessage, Sink, Writer
from everlong.streams._source import (
    Cursor,
    Position,
    Reader,
    Record,
    Source,
    number_in,
    require_same,
)
from everlong_engine import instant_us

__all__ = ["Memory", "MemorySink"]

T = TypeVar("T")


class Memory(Source[T], Generic[T]):
    """Messages in the memory of this process, in one partition or several.

        orders = Memory(value=Order)
        orders.put(Order(id=1))

    What people get wrong: it ends with the process, and the flow that has read from it does not.
    The next process has another `Memory`, and the flow is paused with `StreamRewound`.

    Args:
        value: the type of its messages' values, see `Source`.
        identity: what it is called in cursors; two of one name are taken for the same.
    """

    @overload
    def __init__(self: "Memory[bytes]", *, identity: str = "memory") -> None: ...
    @overload
    def __init__(self, value: type[T], *, identity: str = "memory") -> None: ...
    @overload
    def __init__(self: "Memory[Any]", value: Any, *, identity: str = "memory") -> None: ...
    def __init__(self, value: Any = bytes, *, identity: str = "memory") -> None:
        super().__init__(value)
        self.identity = identity
        self.acknowledged: Cursor | None = None
        """How far flows have told that they have stored it."""
        self._partitions: dict[str, list[Record]] = {}
        self._more = asyncio.Event()

    def put(
        self,
        *values: Any,
        partition: str = "0",
        key: bytes | None = None,
        at: datetime | None = None,
    ) -> None:
        """Add messages: bytes and str as they are, anything else as JSON.

        Args:
            values: of the messages.
            partition: into which they are put.
            key: of each of them.
            at: when they were written, an aware datetime; nobody knows unless it is given.
        """
        lies = self._partitions.setdefault(partition, [])
        at_us = None if at is None else instant_us(at)
        for value in values:
            lies.append(Record(partition, len(lies), self._encode(value), key, at_us))
        self._more.set()

    def _encode(self, value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode()
        if self._adapter is not None:
            dumped: bytes = self._adapter.dump_json(value)
            return dumped
        return json.dumps(value).encode()

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor."""
        require_same(self.identity, after, "this memory source")
        return _MemoryReader(self, after, partitions)

    async def partitions(self) -> Sequence[str]:
        """Those into which something was put."""
        return list(self._partitions)

    def behind(
        self, at: dict[str, int], partitions: Sequence[str] | None, limit: int
    ) -> list[Record]:
        """Not for flows: what is there behind these positions."""
        chosen = self._partitions if partitions is None else partitions
        found: list[Record] = []
        for name in chosen:
            begin = at.get(name, -1) + 1
            found += self._partitions.get(name, [])[begin : begin + limit - len(found)]
        return found

    async def more(self) -> None:
        """Not for flows: wait until something is put."""
        self._more.clear()
        await self._more.wait()

    def __repr__(self) -> str:
        return f"Memory({self.identity!r})"


class _MemoryReader(Reader):
    def __init__(
        self, source: Memory[Any], after: Cursor | None, partitions: Sequence[str] | None
    ) -> None:
        self.identity = source.identity
        self._source = source
        self._partitions = partitions
        read: Mapping[str, Position] = {} if after is None else after.after
        self._at = {name: number_in(at, source) for name, at in read.items()}

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        try:
            async with asyncio.timeout(wait_s):
                while not (found := self._source.behind(self._at, self._partitions, max_messages)):
                    await self._source.more()
        except TimeoutError:
            return []
        taken: list[Record] = []
        for record in found:
            taken.append(record)
            max_bytes -= len(record.value)
            self._at[record.partition] = int(record.position)
            if max_bytes <= 0:
                break
        return taken

    async def acknowledge(self, cursor: Cursor) -> None:
        self._source.acknowledged = cursor


class MemorySink(Sink):
    """Keeps in the memory of this process what is published.

    sink = MemorySink()
    paid = Outbox("paid", sink)
    """

    def __init__(self) -> None:
        self.messages: list[OutboxMessage] = []
        """In the order in which they came; the same one twice, where that happens."""

    async def open(self) -> Writer:
        """A writer that cannot fail."""
        return _MemoryWriter(self)

    def __repr__(self) -> str:
        return "MemorySink()"


class _MemoryWriter(Writer):
    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink

    async def write(self, messages: Sequence[OutboxMessage]) -> Mapping[str, str]:
        self._sink.messages += messages
        return {}
