"""The SQLite store: one file, one writer connection on its own thread, one that only reads.

WAL with `synchronous=FULL`, so what was acknowledged survives a power cut. A third connection lives
on the event loop's thread and only looks whether somebody else has committed (`PRAGMA
data_version`, about a microsecond): that is how an owner notices mail from other processes.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from everlong_engine.machine.takeover import judge
from everlong_engine.model.errors import ForeignFile, StoreError, UndecodablePayload
from everlong_engine.model.events import Recorded
from everlong_engine.model.runs import (
    AttemptRow,
    LoadedRun,
    MailRow,
    RunRow,
    RunStatus,
    WorkerRow,
)
from everlong_engine.model.writes import MarkAttempts, Target, Write, WriteResult
from everlong_engine.store.interface import Problem, Question, RunFilter, StoreInfo, Wants
from everlong_engine.store.sqlite import reads, upkeep
from everlong_engine.store.sqlite.connection import (
    Durability,
    Hop,
    connect_reader,
    connect_writer,
    store_error,
)
from everlong_engine.store.sqlite.files import OwnerLock, check_place, prepare_schema
from everlong_engine.store.sqlite.group import apply_group, put_attempts, run_row, transaction
from everlong_engine.store.sqlite.statements import SQL

__all__ = ["SqliteStore"]

T = TypeVar("T")


class SqliteStore:
    """Implements `everlong_engine.store.interface.Store` on one file."""

    shards: Final = 1

    def __init__(self, path: Path, durability: Durability, writer: Hop, reader: Hop) -> None:
        self.path = str(path)
        self._file = path
        self._durability = durability
        self._writer = writer
        self._reader = reader
        self._lock = OwnerLock(path)
        self._watch = connect_reader(path)
        self._version = -1

    @classmethod
    async def open(
        cls, path: Path, *, durability: Durability = "full", create: bool = True
    ) -> Self:
        """Open or create a store.

        Raises:
            StoreError: the path cannot hold a store, or (with `create=False`) holds none.
            ForeignFile, NewerSchema, NetworkFileSystem, StoreFailed: see there.
        """
        check_place(path)

        def connect() -> sqlite3.Connection:
            # Not the owner yet: `acquire` switches checkpoints on.
            connection = connect_writer(path, durability, owner=False, may_create=create)
            try:
                prepare_schema(connection, path)
            except BaseException:
                connection.close()
                raise
            return connection

        writer = await _open(connect, path)
        try:
            reader = await _open(partial(connect_reader, path), path)
        except BaseException:
            await writer.close()
            raise
        return cls(path, durability, writer, reader)

    async def close(self) -> None:
        self._watch.close()
        await self._reader.close()
        await self._writer.close()
        self._lock.release()

    # ------------------------------------------------------------------------------ writes

    def submit(self, writes: Sequence[Write]) -> "asyncio.Future[list[WriteResult]]":
        return self._writer.submit(lambda connection: apply_group(connection, writes))

    # --------------------------------------------------------------------------- ownership

    def acquire(self) -> None:
        if not self._lock.held:
            self._lock.acquire()
            self._writer.submit(lambda tx: tx.execute("PRAGMA wal_autocheckpoint = 1000").close())

    @property
    def owned(self) -> bool:
        """Whether this process is the file's engine."""
        return self._lock.held

    def abandon(self) -> None:
        """Stop being the file's engine: the last worker has left."""
        self._lock.release()

    async def register(self, worker: WorkerRow, queue: str) -> None:
        values = (
            worker.worker_id,
            worker.name,
            worker.pid,
            worker.host,
            worker.started_us,
            worker.beat_us,
            queue,
            reads.many(worker.types),
        )
        await self._write(lambda tx: tx.execute(SQL["put_worker"], values).close())

    async def bury(self, worker_id: bytes) -> None:
        await self._write(lambda tx: tx.execute(SQL["bury_worker"], (worker_id,)).close())

    async def take_over(self, alive: Sequence[bytes], now_us: int, limit: int) -> int:
        return await self._write(lambda tx: _take_over(tx, alive, now_us, limit))

    async def resume_blocked(self, types: Sequence[str], now_us: int) -> None:
        await self._write(
            lambda tx: tx.execute(SQL["resume_blocked"], (now_us, 1, reads.many(types))).close()
        )

    async def claim(self, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
        values = (wants.worker_id, now_us, wants.queue, reads.many(wants.types), limit)
        return await self._write(lambda tx: _claim(tx, "claim_runs", values))

    async def claim_run(self, worker_id: bytes, shard: int, run_id: bytes) -> LoadedRun | None:
        values = (worker_id, shard, run_id)
        found = await self._write(lambda tx: _claim(tx, "claim_run", values))
        return found[0] if found else None

    async def next_wake(self, wants: Wants) -> int | None:
        def look(tx: sqlite3.Connection) -> int | None:
            found = [
                tx.execute(SQL["next_wake"], (wants.queue, kind)).fetchone()[0]
                for kind in wants.types
            ]
            return min((wake for wake in found if wake is not None), default=None)

        return await self._reader.run(look)

    # ------------------------------------------------------------------------------- reads

    async def load(self, shard: int, run_id: bytes) -> LoadedRun | None:
        def look(tx: sqlite3.Connection) -> LoadedRun | None:
            found = tx.execute(SQL["get_run"], (shard, run_id)).fetchone()
            return None if found is None else reads.load_run(tx, run_row(found))

        return await self._read(look)

    async def latest(self, target: Target) -> RunRow | None:
        return await self._read(lambda tx: reads.latest_run(tx, target))

    async def run_by_id(self, run_id: bytes) -> RunRow | None:
        def look(tx: sqlite3.Connection) -> RunRow | None:
            found = tx.execute(SQL["run_by_id"], (run_id,)).fetchone()
            return None if found is None else run_row(found)

        return await self._read(look)

    async def last_event(self, shard: int, run_id: bytes) -> Recorded | None:
        def look(tx: sqlite3.Connection) -> Recorded | None:
            found = tx.execute(SQL["get_run"], (shard, run_id)).fetchone()
            return None if found is None else reads.last_event(tx, run_row(found))

        return await self._read(look)

    async def attempts(self, shard: int, run_id: bytes) -> list[AttemptRow]:
        return await self._read(lambda tx: reads.attempts_of(tx, shard, run_id))

    async def list_runs(self, wanted: RunFilter, limit: int, after: bytes | None) -> list[RunRow]:
        return await self._read(lambda tx: reads.list_runs(tx, wanted, limit, after))

    async def workers(self) -> list[WorkerRow]:
        return await self._read(reads.workers)

    async def answer(self, question_id: bytes) -> tuple[bool, bytes] | None:
        def look(tx: sqlite3.Connection) -> tuple[bool, bytes] | None:
            found = tx.execute(SQL["get_answer"], (question_id,)).fetchone()
            return None if found is None or found[0] is None else (bool(found[0]), found[1])

        return await self._read(look)

    async def forget_question(self, question_id: bytes) -> None:
        await self._write(lambda tx: tx.execute(SQL["forget_question"], (question_id,)).close())

    async def open_questions(self, limit: int) -> list[Question]:
        return await self._read(lambda tx: reads.open_questions(tx, limit))

    def changed(self) -> bool:
        version = int(self._watch.execute("PRAGMA data_version").fetchone()[0])
        if version == self._version:
            return False
        self._version = version
        return True

    def mail_since(self, position: int, limit: int) -> list[MailRow]:
        return reads.mail_since(self._watch, position, limit)

    # ------------------------------------------------------------------------------ upkeep

    async def prune(
        self, cursor: tuple[int, bytes], horizon_us: int, limit: int
    ) -> tuple[tuple[int, bytes] | None, int]:
        return await self._write(lambda tx: upkeep.prune(tx, cursor, horizon_us, limit))

    async def verify(self) -> list[Problem]:
        """Reads everything on a connection of its own, so that nobody waits for it."""
        hop = await _open(partial(connect_reader, self._file), self._file)
        try:
            return await hop.run(upkeep.verify)
        finally:
            await hop.close()

    async def info(self) -> StoreInfo:
        return await self._writer.run(partial(upkeep.info, self._file))

    # ----------------------------------------------------------------------------- private

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._writer.run(lambda connection: transaction(connection, work))

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._reader.run(lambda connection: _snapshot(connection, work))


async def _open(connect: Callable[[], sqlite3.Connection], path: Path) -> Hop:
    try:
        return await Hop.open(connect, path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise ForeignFile(path=str(path)) from error
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CANTOPEN:
            raise StoreError(
                f"{path} cannot be opened: it does not exist, or may not be read and written",
                path=str(path),
            ) from error
        raise store_error(error, path) from error


def _snapshot(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Several reads that see one state. Ended at once: an open reader would hold the log."""
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        connection.execute("ROLLBACK")


def _claim(tx: sqlite3.Connection, query: str, values: tuple[object, ...]) -> list[LoadedRun]:
    claimed: list[LoadedRun] = []
    for shard, run_id in tx.execute(SQL[query], values).fetchall():
        row = run_row(tx.execute(SQL["get_run"], (shard, run_id)).fetchone())
        try:
            claimed.append(reads.load_run(tx, row))
        except UndecodablePayload as error:
            _park(tx, row, f"its history cannot be read: {error}")
    return claimed


def _park(tx: sqlite3.Connection, row: RunRow, reason: str) -> None:
    values = (None, int(RunStatus.BLOCKED), reason, row.shard, row.run_id)
    tx.execute(SQL["release_run"], (*values, row.lease_token, row.next_seq)).close()


def _take_over(tx: sqlite3.Connection, alive: Sequence[bytes], now_us: int, limit: int) -> int:
    """First the dead are marked dead, then their runs are judged and freed for claims."""
    tx.execute(SQL["bury_workers"], (reads.many(alive),))
    names = {worker.worker_id: worker.name for worker in reads.workers(tx)}
    orphans = [run_row(values) for values in tx.execute(SQL["orphans"], (limit,)).fetchall()]
    for row in orphans:
        try:
            loaded = reads.load_run(tx, row)
        except UndecodablePayload as error:
            _park(tx, row, f"its history cannot be read: {error}")
            continue
        verdict = judge(loaded, names.get(row.owner or b"", "unknown"), now_us)
        put_attempts(tx, MarkAttempts(row.shard, row.run_id, row.lease_token, verdict.lost))
        tx.execute(
            SQL["take_orphan"],
            (
                verdict.wake_us,
                int(verdict.status),
                verdict.losses,
                verdict.strikes,
                verdict.reason,
                row.shard,
                row.run_id,
                row.lease_token,
            ),
        )
    return len(orphans)
