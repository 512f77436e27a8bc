"""The SQLite store without a file, threads or waiting: for simulation.

The SQL is the production store's own. What is left out is the operating system: `InlineDatabase`
holds one in-memory database, and every `SqliteStore` that it opens is what one process sees of it.
A verb runs where it is called, so its future is resolved when it is returned, and the order of
calls is the order of transactions.

    database = InlineDatabase()
    one, two = database.open(), database.open()     # two processes on one file
    database.kill(one)                              # as SIGKILL: its lock is free at once

An `Exception` that a verb raises fails its future. Any other `BaseException`, such as a simulator's
own for a death in the middle of a transaction, passes through to the caller. Nothing stays of the
transaction in either case.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

from everlong_engine.model.errors import StoreError, StoreOwned
from everlong_engine.store.sqlite.access import Access
from everlong_engine.store.sqlite.columns import COLUMNS, guard
from everlong_engine.store.sqlite.connection import STATEMENTS_CACHED, store_error
from everlong_engine.store.sqlite.files import prepare_schema
from everlong_engine.store.sqlite.store import SqliteStore
from everlong_engine.store.user_sql import UserConnection

__all__ = ["InlineDatabase", "InlineHop"]

T = TypeVar("T")

_PATH: Final = Path(":memory:")


class InlineDatabase:
    """One in-memory database and what its processes share."""

    def __init__(self) -> None:
        self.connection = _connect()
        self.connection.deserialize(_template())
        self.commits = 0
        """Transactions that changed a row."""
        self.owner: object | None = None
        self.on_work: Callable[[], None] | None = None
        """Called before each piece of work, reading or writing."""
        self._views: dict[SqliteStore, tuple[InlineHop, InlineLock]] = {}

    def open(self) -> SqliteStore:
        """The store as one more process sees it."""
        hop, lock = InlineHop(self), InlineLock(self)

        async def aside() -> InlineHop:
            return InlineHop(self)

        store = SqliteStore(
            Access(
                path=_PATH, writer=hop, reader=hop, watch=InlineWatch(self), lock=lock, aside=aside
            )
        )
        self._views[store] = hop, lock
        return store

    def kill(self, store: SqliteStore) -> None:
        """End the process that `store` belongs to, as the system does: its lock is free, and
        no transaction of it begins any more."""
        hop, lock = self._views.pop(store)
        hop.closed = True
        lock.release()

    def close(self) -> None:
        self.connection.close()


class InlineHop:
    """Runs plain functions on the spot."""

    def __init__(self, database: InlineDatabase) -> None:
        self._database = database
        self._raw = database.connection
        self.closed = False

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """Run `work(connection)`; the future is resolved when it is returned."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self.closed:
            future.set_exception(StoreError(f"{_PATH} is closed", path=str(_PATH)))
            return future
        before = self._raw.total_changes
        if self._database.on_work is not None:
            self._database.on_work()
        try:
            result = work(self._raw)
        except Exception as error:
            future.set_exception(error)
        else:
            if self._raw.total_changes != before:
                self._database.commits += 1
            future.set_result(result)
        return future

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`submit`, awaited, with the store's own errors."""
        try:
            return await self.submit(work)
        except sqlite3.Error as error:
            raise store_error(error, _PATH) from error

    async def close(self) -> None:
        self.closed = True


class InlineLock:
    """Stands for the lock file."""

    def __init__(self, database: InlineDatabase) -> None:
        self._database = database

    @property
    def held(self) -> bool:
        return self._database.owner is self

    def holder(self) -> int | None:
        return None if self._database.owner is None else 0

    def acquire(self) -> None:
        if self._database.owner is not None:
            raise StoreOwned(path=str(_PATH))
        self._database.owner = self

    def release(self) -> None:
        if self.held:
            self._database.owner = None


class InlineWatch:
    """Stands for SQLite's counter of commits, which one connection alone does not see."""

    def __init__(self, database: InlineDatabase) -> None:
        self._database = database
        self.connection = database.connection

    def version(self) -> int:
        return self._database.commits

    def close(self) -> None:
        pass  # The connection is the database itself.


def _connect() -> UserConnection:
    connection = UserConnection(
        ":memory:", isolation_level=None, cached_statements=STATEMENTS_CACHED
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    guard(connection)
    connection.reserve(COLUMNS)
    return connection


@cache
def _template() -> bytes:
    """An empty store as bytes: copied in a fraction of the time that its schema takes to run."""
    connection = _connect()
    try:
        prepare_schema(connection, _PATH)
        return connection.serialize()
    finally:
        connection.close()
