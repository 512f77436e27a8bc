"""Sources of one partition that are looked at now and then, as nobody tells of what is new."""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

import anyio.to_thread

from everlong.exceptions import InvalidArguments
from everlong.streams._source import Cursor, Position, Reader, Record, number_in

__all__ = [
    "PARTITION",
    "PolledFileReader",
    "PolledReader",
    "behind",
    "check_poll",
    "position_in",
]

PARTITION: Final = "0"


def check_poll(poll_s: float) -> float:
    if not poll_s > 0:
        raise InvalidArguments(f"poll={poll_s}: give seconds, more than 0")
    return poll_s


def behind(after: Cursor | None, partitions: Sequence[str] | None, what: object) -> Position | None:
    """Behind what to read; None from the beginning. Raises InvalidArguments: no such partition."""
    if partitions is not None and tuple(partitions) != (PARTITION,):
        raise InvalidArguments(f"{what!r} has one partition, {PARTITION!r}, not {partitions}")
    return None if after is None else after.after.get(PARTITION)


def position_in(
    after: Cursor | None, partitions: Sequence[str] | None, beginning: int, what: object
) -> int:
    """Behind what to read. Raises InvalidArguments: no number; no partition that there is."""
    at = behind(after, partitions, what)
    return number_in(beginning if at is None else at, what)


class PolledReader(Reader):
    def __init__(self, identity: str, poll_s: float) -> None:
        self.identity = identity
        self._poll_s = poll_s

    @abstractmethod
    async def look(self, max_messages: int, max_bytes: int) -> list[Record]:
        """What is there now, behind what was read, which it moves on."""

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        loop = asyncio.get_running_loop()
        until = None if wait_s is None else loop.time() + wait_s
        while not (found := await self.look(max_messages, max_bytes)):
            pause = self._poll_s if until is None else min(self._poll_s, until - loop.time())
            if pause <= 0:
                break
            await asyncio.sleep(pause)
        return found


class PolledFileReader(PolledReader):
    """Looks in a thread."""

    def __init__(self, identity: str, at: int, poll_s: float) -> None:
        super().__init__(identity, poll_s)
        self.at: int = at
        """The position of the last record that was read."""

    @abstractmethod
    def look_now(self, max_messages: int, max_bytes: int) -> list[Record]:
        """As `look`, which waits for it."""

    async def look(self, max_messages: int, max_bytes: int) -> list[Record]:
        return await anyio.to_thread.run_sync(self.look_now, max_messages, max_bytes)
