"""A source that forgets: a queue in this process, which gives out again what it did not hear of."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from everlong.streams import Cursor, Reader, Record, Source
from everlong.streams._forgetful import ForgetfulReader

__all__ = ["ForgetfulQueue"]

_PREFETCH = 50


class ForgetfulQueue(Source[Any]):
    forgets = True

    def __init__(self, value: Any = bytes) -> None:
        super().__init__(value)
        self.waits: deque[tuple[str, bytes]] = deque()
        """(id, value) of what was not given out."""
        self.out: dict[int, tuple[str, bytes]] = {}
        """What was given out and not acknowledged, by delivery."""
        self.hears = True
        """Whether acknowledgements arrive."""
        self.deliveries = self.acknowledged = 0
        self.more = asyncio.Event()
        self.reading = asyncio.Lock()

    def put(self, *values: int) -> None:
        self.waits.extend((f"m{value}", str(value).encode()) for value in values)
        self.more.set()

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """One reads it at a time."""
        await self.reading.acquire()
        return _QueueReader(self, after)


class _QueueReader(ForgetfulReader):
    def __init__(self, queue: ForgetfulQueue, after: Cursor | None) -> None:
        super().__init__("queue", after, _PREFETCH, queue)
        self._queue = queue

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        assert wait_s is None, "no tests of this wait"
        queue, found = self._queue, list[Record]()
        while not found:
            while queue.waits and len(found) < max_messages:
                name, value = queue.waits.popleft()
                queue.deliveries += 1
                position = self.position_of(name, queue.deliveries)
                if position is not None:
                    queue.out[queue.deliveries] = name, value
                    found.append(Record("0", position, value))
            if not found:
                queue.more.clear()
                await queue.more.wait()
        return found

    async def acknowledge(self, cursor: Cursor) -> None:
        for delivery in self.to_acknowledge(cursor):
            if self._queue.hears:
                del self._queue.out[delivery]
                self._queue.acknowledged += 1

    async def close(self) -> None:
        """What was not acknowledged comes again, first."""
        queue = self._queue
        queue.waits.extendleft(reversed(queue.out.values()))
        queue.out.clear()
        queue.reading.release()
