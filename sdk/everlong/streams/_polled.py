"""Sources of one partition that are looked at now and then, as nobody tells of what is new."""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

import anyio.to_thread

from everlong.exceptions import InvalidArguments
from everlong.streams._source import Cursor, Reader, Record, number_in

__all__ = ["PARTITION", "PolledReader", "check_poll", "position_in"]

PARTITION: Final = "0"


def check_poll(poll_s: float) -> float:
    if not poll_s > 0:
        raise InvalidArguments(f"poll={poll_s}: give seconds, more than 0")
    return poll_s


def position_in(
    after: Cursor | None, partitions: Sequence[str] | None, beginning: int, what: object
) -> int:
    """Behind what to read. Raises InvalidArguments: no number; no partition that there is."""
    if partitions is not None and tuple(partitions) != (PARTITION,):
        raise InvalidArguments(f"{what!r} has one partition, {PARTITION!r}, not {partitions}")
    return number_in(beginning if after is None else after.after.get(PARTITION, beginning), what)


class PolledReader(Reader):
    def __init__(self, identity: str, at: int, poll_s: float) -> None:
        self.identity = identity
        self.at: int = at
        """The position of the last record that was read."""
        self._poll_s = poll_s

    @abstractmethod
    def look(self, max_messages: int, max_bytes: int) -> list[Record]:
        """What is there now, behind `at`, which it moves on. In a thread."""

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        loop = asyncio.get_running_loop()
        until = None if wait_s is None else loop.time() + wait_s
        while not (found := await anyio.to_thread.run_sync(self.look, max_messages, max_bytes)):
            pause = self._poll_s if until is None else min(self._poll_s, until - loop.time())
            if pause <= 0:
                break
            await asyncio.sleep(pause)
        return found
