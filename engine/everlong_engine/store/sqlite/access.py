"""How a store reaches its database: what is behind a file in production, and inline in simulation.

The store's verbs are plain functions on a `sqlite3.Connection`. Which thread they run on, who may
own the database and how foreign commits are noticed is all that differs, so it comes in from
outside: `SqliteStore.open` brings threads, a lock file and SQLite's own counter, `inline` brings
none of them.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec import Struct

__all__ = ["Access", "Line", "Lock", "Watch"]

T = TypeVar("T")


class Line(Protocol):
    """Runs plain functions on one connection, one at a time, in order."""

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """The future fails with what `work` raises, or with StoreError once this is closed."""
        ...

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`submit`, awaited, with the store's own errors."""
        ...

    async def close(self) -> None: ...


class Lock(Protocol):
    """The sign of life of the one engine process."""

    @property
    def held(self) -> bool: ...

    def holder(self) -> int | None:
        """The process that has it: its id, 0 if that is not known, None if nobody has it."""
        ...

    def acquire(self) -> None:
        """Raises StoreOwned when another process has it."""
        ...

    def release(self) -> None: ...


class Watch(Protocol):
    """A connection on the event loop's own thread, which only looks."""

    @property
    def connection(self) -> sqlite3.Connection: ...

    def version(self) -> int:
        """A number that moves with every commit that changed something."""
        ...

    def close(self) -> None: ...


class Access(Struct, frozen=True, kw_only=True):
    path: Path
    """What errors name."""
    writer: Line
    reader: Line
    watch: Watch
    lock: Lock
    aside: Callable[[], Awaitable[Line]]
    """One more line that only reads, for what takes long; closed after use."""
