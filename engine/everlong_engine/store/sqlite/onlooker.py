"""Reads a file without touching it: no writer, no thread, no lock, not even a new schema.

For tools that replay what production has stored while a worker owns the file. Each run is read in a
snapshot of its own, ended at once, since an open reader would hold the log. A file of an earlier
schema is brought forward in memory, where nobody else sees it.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from everlong_engine.model.errors import ForeignFile, StoreError, UndecodablePayload
from everlong_engine.model.runs import LoadedRun, RunRow
from everlong_engine.store.interface import RunFilter
from everlong_engine.store.sqlite import reads
from everlong_engine.store.sqlite.columns import guard, named
from everlong_engine.store.sqlite.connection import connect_reader, store_error
from everlong_engine.store.sqlite.files import (
    SCHEMA_VERSION,
    check_place,
    prepare_schema,
    refuse_foreign,
)
from everlong_engine.store.sqlite.rows import read_run

__all__ = ["Onlooker"]

_PAGE: Final = 1_000


class Onlooker:
    """A read-only look into a store; use it with `with`, on the thread that made it.

    Raises:
        StoreError, ForeignFile, NewerSchema: there is no store that this version reads.
    """

    def __init__(self, path: Path) -> None:
        check_place(path)
        if not path.exists():
            raise StoreError(f"{path} cannot be opened: it does not exist", path=str(path))
        self._path = path
        self._connection = _connect(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def runs(self, wanted: RunFilter) -> Iterator[RunRow]:
        """Those that are wanted, the newest first, read a page at a time."""
        after: bytes | None = None
        while True:
            try:
                rows = reads.list_runs(self._connection, wanted, _PAGE, after)
            except sqlite3.Error as error:
                raise store_error(error, self._path) from error
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1].run_id

    def load(self, row: RunRow) -> LoadedRun | None:
        """A run as it stands now; None when it went meanwhile.

        Raises:
            UndecodablePayload: some of it is damaged.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN")
            try:
                now = read_run(connection, row.shard, row.run_id)
                return None if now is None else reads.load_run(connection, now)
            finally:
                connection.execute("ROLLBACK")
        except UndecodablePayload as error:
            name = f"{row.workflow_id} (run {named(row.run_id)})"
            raise UndecodablePayload(f"{name} cannot be read: {error}") from error
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = connect_reader(path)
        try:
            version = refuse_foreign(connection, path)
            if version == 0:
                raise ForeignFile(f"{path} holds no store yet", path=str(path))
            if version == SCHEMA_VERSION:
                return connection
            return _brought_forward(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise ForeignFile(path=str(path)) from error
        raise store_error(error, path) from error


def _brought_forward(older: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """A copy in memory that has today's schema."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    older.backup(copy)
    older.close()
    guard(copy)
    prepare_schema(copy, path)
    copy.execute("PRAGMA query_only = ON")
    return copy
