"""One guarded adapter over aiosqlite's thread: a whole transaction is one hop.

aiosqlite runs every call of a connection on a thread of its own, but offers no public way to run a
plain function of ours there, and one hop per statement costs 30 µs each. `Hop.submit` puts such a
function into the queue that its thread reads. This is the only place that knows that queue.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self, TypeVar

import aiosqlite

from everlong_engine.model.errors import StoreError, StoreFailed, StoreFull, UndecodablePayload
from everlong_engine.store.interface import Trouble
from everlong_engine.store.sqlite.columns import COLUMNS, guard
from everlong_engine.store.sqlite.files import Place, refuse_foreign
from everlong_engine.store.user_sql import UserConnection

__all__ = [
    "BUSY_TIMEOUT_S",
    "STATEMENTS_CACHED",
    "Durability",
    "FileWatch",
    "Hop",
    "WriterHop",
    "classify",
    "connect_reader",
    "connect_writer",
    "store_error",
]

T = TypeVar("T")

Durability = str
"""full: every commit is synced before it is acknowledged. relaxed: not; a power cut loses some."""

BUSY_TIMEOUT_S: Final = 10.0
_AGAIN_S: Final = 0.005
_WAL_BYTES_KEPT: Final = 64 * 1024 * 1024
STATEMENTS_CACHED: Final = 256
_FATAL: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_CORRUPTFS,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)
_KEPT_LOCKED: Final = (
    "{} is locked: another process has been in the middle of a write for many seconds; perhaps it "
    "was stopped. Nothing was stored. Let it go on or end it (`fuser` tells who has the file "
    "open), and try again"
)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Hop:
    """A SQLite connection on a thread of its own that runs plain functions."""

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._raw: sqlite3.Connection = connection._conn  # pyright: ignore[reportPrivateUsage]
        queue: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], object]]]
        queue = connection._tx  # type: ignore[assignment]  # pyright: ignore[reportPrivateUsage, reportAssignmentType]
        self._queue = queue
        self._closed = False

    @classmethod
    async def open(cls, connect: Callable[[], sqlite3.Connection], path: Path) -> Self:
        """Open on the thread. Raises what `connect` raises."""
        connection = aiosqlite.Connection(connect, iter_chunk_size=64)
        if not hasattr(connection, "_tx") or not hasattr(type(connection), "_conn"):
            raise StoreError(
                "this version of aiosqlite is not known to Everlong (its inner queue has moved): "
                "install aiosqlite 0.20 to 0.22, or upgrade Everlong"
            )
        try:
            await connection
        except Exception:
            # aiosqlite lets its thread end without waiting, and the thread would report that to a
            # loop that a short program has closed by then. It has nothing more to do: a moment.
            connection._thread.join()  # pyright: ignore[reportPrivateUsage]
            raise
        return cls(connection, path)

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """Run `work(connection)` on the thread; functions run one at a time, in order."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._closed:  # Its thread has ended: nobody would ever answer.
            future.set_exception(StoreError(f"{self._path} is closed", path=str(self._path)))
            return future
        self._queue.put_nowait((future, partial(work, self._raw)))
        return future

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`submit`, awaited, with the store's own errors."""
        try:
            return await self.submit(work)
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error

    async def close(self) -> None:
        """After everything submitted before."""
        self._closed = True
        await self._connection.close()


class WriterHop(Hop):
    """Looks after each piece of work, before anybody hears of it, whether the file is in place."""

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        super().__init__(connection, path)
        self._place = Place(path)

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """As `Hop.submit`; fails with StoreFailed where the file is gone."""

        def checked(connection: sqlite3.Connection) -> T:
            result = work(connection)
            self._place.check()
            return result

        return super().submit(checked)

    async def close(self) -> None:
        await super().close()
        self._place.close()


class FileWatch:
    """Looks whether somebody has committed, on the thread of whoever asks."""

    def __init__(self, path: Path) -> None:
        self.connection = connect_reader(path)
        self._place = Place(path)
        self._version = 0

    def version(self) -> int:
        """Moves with every commit of another connection, this process's own writer included.

        Raises:
            StoreFailed: the file is gone, and nobody else's commit will ever be seen.
        """
        version = int(self.connection.execute("PRAGMA data_version").fetchone()[0])
        if version == self._version:  # While commits are seen, the file is there.
            self._place.check()
        self._version = version
        return version

    def close(self) -> None:
        self.connection.close()
        self._place.close()


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """What a SQLite error is to the engine."""
    return classify(error, path)[1]


def classify(error: BaseException, path: Path) -> tuple[Trouble, StoreError]:
    """What a SQLite error means, by its extended code or the primary one in its lowest byte.

    After a failed sync the kernel has dropped the pages, and a second sync would report a success
    that never was: fatal, like a damaged file.
    """
    if isinstance(error, StoreFailed):  # Found by the store itself: its file is gone.
        return Trouble.FATAL, error
    if isinstance(error, StoreError):
        return Trouble.REPEAT, error
    if isinstance(error, UndecodablePayload):  # A damaged row: whoever needs it is concerned.
        return Trouble.REPEAT, StoreError(str(error), path=str(path))
    code: int = getattr(error, "sqlite_errorcode", -1)
    primary = code & 0xFF
    # The second: the file that processes share beside the log could not grow.
    if primary == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return Trouble.FULL, StoreFull(path=str(path))
    name: str = getattr(error, "sqlite_errorname", type(error).__name__)
    reason = f"{name}: {error}"
    failed = StoreFailed(path=str(path), reason=reason)
    if code in _FATAL or primary in _FATAL:
        return Trouble.FATAL, failed
    if primary in _BUSY:
        return Trouble.BUSY, StoreFailed(_KEPT_LOCKED.format(path), path=str(path), reason=reason)
    return Trouble.REPEAT, failed


def connect_writer(
    path: Path, durability: Durability, *, owner: bool, may_create: bool
) -> sqlite3.Connection:
    """The one connection of a process that writes. Only the owner's checkpoints the log."""
    mode = "rwc" if may_create else "rw"
    # A log that a killed process left goes into the file when its last connection closes, and that
    # is a write, too. So a connection that cannot write looks first.
    if path.with_name(f"{path.name}-wal").exists():
        with closing(_connect(path, "ro")) as onlooker:
            refuse_foreign(onlooker, path)
    connection = _connect(path, mode)
    synchronous = "FULL" if durability == "full" else "NORMAL"
    # Another's file is refused before anything is written: the journal's mode stays in the file.
    try:
        refuse_foreign(connection, path)
    except BaseException:
        connection.close()
        raise
    _keep_a_log(connection)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: a plain fsync does not reach the disk.
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {1000 if owner else 0}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.reserve(COLUMNS)
    return connection


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """SQLite does not wait where two turn a new file to this mode in the same moment: one of them
    hears at once that it is locked."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > until:
                raise
            time.sleep(_AGAIN_S)
        else:
            return


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    connection = _connect(path, "ro")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _connect(path: Path, mode: str) -> UserConnection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    options: dict[str, Any] = {
        "uri": True,
        "isolation_level": None,
        "timeout": BUSY_TIMEOUT_S,
        "cached_statements": STATEMENTS_CACHED,
        "check_same_thread": False,
    }
    connection = UserConnection(uri, **options)
    guard(connection)
    return connection
