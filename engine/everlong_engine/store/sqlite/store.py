"""The SQLite store: one file, one writer connection on its own thread, one that only reads.

WAL with `synchronous=FULL`, so what was acknowledged survives a power cut. A third connection lives
on the event loop's thread and only looks whether somebody else has committed (`PRAGMA
data_version`, about a microsecond): that is how an owner notices mail from other processes.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from msgspec.structs import replace

from everlong_engine.machine.moving import Rehearsed
from everlong_engine.model.entities import EntityLook, EntityRow
from everlong_engine.model.errors import ForeignFile, StoreError, StoreFailed, UndecodablePayload
from everlong_engine.model.events import Recorded
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.filters import AnyField
from everlong_engine.model.letters import KeptLetter, OutboxRow, Refused
from everlong_engine.model.limits import STRIKES_TO_POISON
from everlong_engine.model.outgoing import Target
from everlong_engine.model.queues import LimitRow, SetLimits
from everlong_engine.model.runs import (
    ApprovalRow,
    AttemptRow,
    Fleet,
    ItemRow,
    LoadedRun,
    MailRow,
    PauseRow,
    RunRow,
    Share,
    VersionCount,
    WorkerRow,
)
from everlong_engine.model.tags import Tags
from everlong_engine.model.tasks import QueueCount, TaskClaim, TaskKey, TaskWants
from everlong_engine.model.turns import AskTurn, PoolCount, TurnAnswer, TurnsDealt
from everlong_engine.model.writes import Write, WriteResult
from everlong_engine.store.interface import (
    Counted,
    Heard,
    Problem,
    Question,
    RunFilter,
    StoreInfo,
    Trouble,
    Wants,
)
from everlong_engine.store.sqlite import (
    entities,
    lanes,
    leases,
    letters,
    moves,
    pauses,
    reads,
    tasks,
    transfers,
    turns,
    upkeep,
)
from everlong_engine.store.sqlite.access import Access
from everlong_engine.store.sqlite.columns import as_id, fetch_one, named
from everlong_engine.store.sqlite.connection import (
    Durability,
    FileWatch,
    Hop,
    WriterHop,
    classify,
    connect_reader,
    connect_writer,
    store_error,
)
from everlong_engine.store.sqlite.files import OwnerLock, check_place, prepare_schema
from everlong_engine.store.sqlite.filters import count_runs
from everlong_engine.store.sqlite.group import apply_group, transaction
from everlong_engine.store.sqlite.rows import latest_run, read_run, run_row, told_by_workflow_id
from everlong_engine.store.sqlite.statements import SQL
from everlong_engine.store.sqlite.tags import tags_of_runs
from everlong_engine.store.sqlite.verify import verify

__all__ = ["SqliteStore"]

T = TypeVar("T")


class SqliteStore:
    """Implements `everlong_engine.store.interface.Store` on one file, or inline (`inline.py`)."""

    def __init__(self, access: Access) -> None:
        self.shards = 1
        """Not a setting (decision 0001)."""
        self.path = str(access.path)
        self._file = access.path
        self._writer = access.writer
        self._reader = access.reader
        self._lock = access.lock
        self._watch = access.watch
        self._aside = access.aside
        self._version = -1
        self._is_engine = False
        self.on_fatal: Callable[[StoreError], None] | None = None

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

        open_reader = partial(_open, partial(connect_reader, path), path)
        writer = await _open(connect, path, WriterHop)
        try:
            reader = await open_reader()
        except BaseException:
            await writer.close()
            raise
        return cls(
            Access(
                path=path,
                writer=writer,
                reader=reader,
                watch=FileWatch(path),
                lock=OwnerLock(path),
                aside=open_reader,
            )
        )

    async def close(self) -> None:
        self._watch.close()
        await self._reader.close()
        await self._writer.close()
        self._lock.release()

    # ------------------------------------------------------------------------------ writes

    def submit(self, writes: Sequence[Write]) -> "asyncio.Future[list[WriteResult]]":
        return self._writer.submit(lambda connection: apply_group(connection, writes))

    def classify(self, error: BaseException) -> tuple[Trouble, StoreError]:
        return classify(error, self._file)

    async def forget_question(self, question_id: bytes) -> None:
        await self._write(lambda tx: tx.execute(SQL["forget_question"], (question_id,)).close())

    # --------------------------------------------------------------------------- ownership

    def acquire(self) -> None:
        if not self._lock.held:
            self._lock.acquire()
            emptied = self._writer.submit(upkeep.empty_log)
            emptied.add_done_callback(self._log_emptied)
        self._is_engine = True
        self._checkpoint_every(1000)

    def _log_emptied(self, done: "asyncio.Future[None]") -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            self._judge(error)  # A full disk, say, only puts it off.

    @property
    def owned(self) -> bool:
        """Whether this process is the file's engine."""
        return self._lock.held

    async def abandon(self) -> None:
        self._is_engine = False
        await self._checkpoint_every(0)
        if not self._is_engine:  # Nobody has taken it again meanwhile.
            self._lock.release()

    def _checkpoint_every(self, pages: int) -> "asyncio.Future[None]":
        """Only the owner's connection moves the log into the file."""
        text = f"PRAGMA wal_autocheckpoint = {pages}"
        return self._writer.submit(lambda tx: tx.execute(text).close())

    @property
    def lease_s(self) -> None:
        return None

    async def beat(self, workers: Sequence[bytes], busy: Sequence[int] = ()) -> Heard:
        del busy  # Nobody beats here, so nobody would be told.
        return Heard(frozenset(workers))

    @property
    def look_s(self) -> tuple[float, float]:
        return 0.002, 0.05

    @property
    def fleet_number(self) -> int:
        return 0

    async def fleet(self) -> Fleet:
        return Fleet()

    async def register(self, worker: WorkerRow) -> None:
        values = (
            worker.worker_id,
            worker.name,
            worker.pid,
            worker.host,
            worker.started_us,
            worker.beat_us,
            worker.queues_text,
            reads.many(worker.types),
            reads.many(worker.versions),
            worker.slots,
        )
        await self._write(lambda tx: tx.execute(SQL["put_worker"], values).close())

    async def bury(self, worker_id: bytes) -> None:
        await self._write(lambda tx: tx.execute(SQL["bury_worker"], (worker_id,)).close())

    async def take_over(self, alive: Sequence[bytes], now_us: int, limit: int) -> int:
        def judge(tx: sqlite3.Connection) -> int:
            runs = leases.take_over(tx, alive, now_us, limit)
            return max(runs, tasks.free_tasks(tx, now_us, limit))

        return await self._write(judge)

    async def resume_blocked(self, wants: Wants, now_us: int) -> None:
        types, pinned = reads.many(wants.types), json.dumps(wants.pinned)
        await self._write(
            lambda tx: pauses.resume_blocked(tx, now_us, STRIKES_TO_POISON, types, pinned)
        )

    async def claim(self, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
        return await self._write(lambda tx: leases.claim_runs(tx, wants, now_us, limit))

    async def take_tasks(self, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
        due_us = await self._read(lambda tx: lanes.next_task(tx, wants))
        if limit <= 0 or due_us is None or due_us > now_us:
            return TaskClaim([], due_us)
        return await self._write(lambda tx: lanes.take_tasks(tx, wants, now_us, limit))

    async def ask_turns(self, asks: Sequence[AskTurn]) -> list[TurnAnswer]:
        return await self._write(lambda tx: turns.ask_turns(tx, asks))

    async def deal_turns(self, wanted: Sequence[tuple[str, str]], now_us: int) -> TurnsDealt:
        return await self._write(lambda tx: turns.deal_turns(tx, wanted, now_us))

    async def tasks_of(self, worker_id: bytes) -> list[TaskKey]:
        return await self._read(lambda tx: tasks.tasks_of(tx, worker_id))

    async def claim_run(self, worker_id: bytes, shard: int, run_id: bytes) -> LoadedRun | None:
        return await self._write(lambda tx: leases.claim_one(tx, worker_id, shard, run_id))

    async def next_wake(self, wants: Wants) -> int | None:
        def look(tx: sqlite3.Connection) -> int | None:
            found = [
                tx.execute(SQL["next_wake"], (wants.queue, kind)).fetchone()[0]
                for kind in wants.types
            ]
            if wants.pinned and tx.execute(SQL["any_pinned"]).fetchone() is not None:
                found += [
                    tx.execute(SQL["next_wake_of_pinned"], (wants.queue, *one)).fetchone()[0]
                    for one in wants.pinned
                ]
            return min((wake for wake in found if isinstance(wake, int)), default=None)

        return await self._reader.run(look)

    # ------------------------------------------------------------------------------- reads

    async def load(self, shard: int, run_id: bytes) -> LoadedRun | None:
        def look(tx: sqlite3.Connection) -> LoadedRun | None:
            row = read_run(tx, shard, run_id)
            if row is None:
                return None
            try:
                return reads.load_run(tx, row)
            except UndecodablePayload as error:
                name = f"{row.workflow_id} (run {named(run_id)})"
                raise UndecodablePayload(f"{name} cannot be read: {error}") from error

        return await self._read(look)

    async def latest(self, target: Target) -> RunRow | None:
        return await self._read(lambda tx: latest_run(tx, target))

    async def newest_run(self) -> bytes | None:
        def look(tx: sqlite3.Connection) -> bytes | None:
            return as_id(tx.execute(SQL["newest_run"]).fetchone()[0])

        return await self._read(look)

    async def run_by_id(self, run_id: bytes) -> RunRow | None:
        def look(tx: sqlite3.Connection) -> RunRow | None:
            found = fetch_one(tx, SQL["run_by_id"], (run_id,), f"run {named(run_id)}")
            return None if found is None else run_row(found)

        return await self._read(look)

    async def event(self, shard: int, run_id: bytes, seq: int) -> Recorded | None:
        return await self._read(lambda tx: reads.event(tx, shard, run_id, seq))

    async def last_event(self, shard: int, run_id: bytes) -> Recorded | None:
        def look(tx: sqlite3.Connection) -> Recorded | None:
            row = read_run(tx, shard, run_id)
            return None if row is None else reads.last_event(tx, row)

        return await self._read(look)

    async def attempts(self, shard: int, run_id: bytes) -> list[AttemptRow]:
        return await self._read(lambda tx: reads.attempts_of(tx, shard, run_id))

    async def approval(self, shard: int, run_id: bytes, number: int) -> ApprovalRow | None:
        return await self._read(lambda tx: reads.approval(tx, shard, run_id, number))

    async def approvals(
        self, namespace: str, workflow_id: str | None, after: tuple[bytes, int], limit: int
    ) -> list[ApprovalRow]:
        return await self._read(
            lambda tx: reads.approvals(tx, namespace, workflow_id, after, limit)
        )

    async def pause_of(self, row: RunRow) -> list[PauseRow]:
        key = (row.shard, row.execution_id, row.namespace, row.type)
        return await self._read(lambda tx: pauses.pause_of(tx, *key))

    async def pauses(self, namespace: str, limit: int) -> list[PauseRow]:
        return await self._read(lambda tx: pauses.pauses(tx, namespace, limit))

    async def published(
        self, shard: int, execution_id: bytes, channel: str, number: int, limit: int
    ) -> list[ItemRow]:
        return await self._read(
            lambda tx: reads.published(tx, shard, execution_id, channel, number, limit)
        )

    async def entities(self, shard: int, execution_id: bytes, look: EntityLook) -> list[EntityRow]:
        return await self._read(lambda tx: entities.entities(tx, shard, execution_id, look))

    async def list_runs(self, wanted: RunFilter, limit: int, after: bytes | None) -> list[RunRow]:
        return await self._read(lambda tx: reads.list_runs(tx, wanted, limit, after))

    async def count_runs(self, wanted: RunFilter, by: AnyField | None) -> list[Counted]:
        return await self._read(lambda tx: count_runs(tx, wanted, by))

    async def tags(self, runs: Sequence[tuple[int, bytes]]) -> dict[bytes, Tags]:
        return await self._read(lambda tx: tags_of_runs(tx, runs))

    async def versions(self, namespace: str) -> list[VersionCount]:
        return await self._read(lambda tx: reads.versions(tx, namespace))

    async def pinned_of(self, worker_id: bytes) -> list[tuple[bytes, str]]:
        return await self._read(lambda tx: reads.pinned_of(tx, worker_id))

    async def shares(self, queue: str, types: Sequence[str], now_us: int) -> list[Share]:
        return await self._read(lambda tx: reads.shares(tx, queue, types, now_us))

    async def workers(self) -> list[WorkerRow]:
        rows = await self._read(reads.workers)
        holder = self._lock.holder()
        if holder == 0:
            return rows
        return [replace(row, gone=not row.dead and row.pid != holder) for row in rows]

    async def queues(self) -> list[QueueCount]:
        return await self._read(tasks.queues)

    async def pools(self) -> list[PoolCount]:
        return await self._read(turns.pools)

    async def queue_limits(self) -> list[LimitRow]:
        return await self._read(lanes.queue_limits)

    async def set_limits(self, change: SetLimits) -> None:
        await self._write(lambda tx: lanes.set_limits(tx, change))

    async def answer(self, question_id: bytes) -> tuple[bool, bytes] | None:
        def look(tx: sqlite3.Connection) -> tuple[bool, bytes] | None:
            found = fetch_one(tx, SQL["get_answer"], (question_id,), "the answer to a query")
            if found is None or found[0] is None:
                return None
            if not isinstance(found[1], bytes):
                raise UndecodablePayload(reason="the answer to a query is no bytes")
            return bool(found[0]), found[1]

        return await self._read(look)

    async def told(self, target: Target, name: str) -> tuple[RunRow, bytes | None] | None:
        def look(tx: sqlite3.Connection) -> tuple[RunRow, bytes | None] | None:
            row = latest_run(tx, target)  # First: an answer is stored with the end, or before it.
            if row is None:
                return None
            key = (row.shard, row.execution_id, name)
            found = fetch_one(tx, SQL["find_request"], key, row.workflow_id)
            if found is None:
                earlier = None
                if target.execution_id is None:
                    earlier = told_by_workflow_id(tx, target, name)
                return earlier or (row, None)
            if not isinstance(found[0], bytes):
                raise UndecodablePayload(reason="the answer to a request is no bytes")
            return row, found[0]

        return await self._read(look)

    async def open_questions(self, limit: int) -> list[Question]:
        return await self._read(lambda tx: reads.open_questions(tx, limit))

    async def export(self, target: Target, *, family: bool) -> list[ExportedExecution]:
        return await self._read(lambda tx: transfers.export(tx, target, family=family))

    def listen(self, heard: Callable[[], None]) -> None:
        """A look costs next to nothing here: nobody needs a hint."""

    async def changed(self) -> bool:
        try:
            version = self._watch.version()
        except StoreFailed as gone:
            raise self._judge(gone) from None
        except sqlite3.Error as error:
            raise store_error(error, self._file) from error
        if version == self._version:
            return False
        self._version = version
        return True

    async def mail_since(
        self, position: int, limit: int, workers: Sequence[bytes] | None = None
    ) -> list[MailRow]:
        try:
            return reads.mail_since(self._watch.connection, position, limit)
        except sqlite3.Error as error:
            raise store_error(error, self._file) from error

    # ---------------------------------------------------------------------------- outboxes

    async def full_outboxes(self, names: Sequence[str]) -> list[str]:
        return await self._read(lambda tx: letters.full_outboxes(tx, names))

    async def take_letters(
        self, outbox: str, worker_id: bytes, limit: int, bytes_max: int
    ) -> list[KeptLetter] | None:
        return await self._write(
            lambda tx: letters.take_letters(tx, outbox, worker_id, limit, bytes_max)
        )

    async def letters_sent(
        self, outbox: str, sent: Sequence[int], refused: Sequence[Refused]
    ) -> None:
        await self._write(lambda tx: letters.letters_sent(tx, outbox, sent, refused))

    async def outbox_fails(self, outbox: str, worker_id: bytes, fault: str, now_us: int) -> None:
        await self._write(lambda tx: letters.outbox_fails(tx, outbox, worker_id, fault, now_us))

    async def outboxes(self) -> list[OutboxRow]:
        return await self._read(letters.outboxes)

    async def letters(
        self, outbox: str, after: int, limit: int, *, refused: bool
    ) -> list[KeptLetter]:
        return await self._read(
            lambda tx: letters.letters(tx, outbox, after, limit, refused=refused)
        )

    async def send_again(self, outbox: str, positions: Sequence[int] | None) -> int:
        return await self._write(lambda tx: letters.send_again(tx, outbox, positions))

    async def drop_letters(self, outbox: str, positions: Sequence[int] | None) -> int:
        return await self._write(lambda tx: letters.drop_letters(tx, outbox, positions))

    async def letters_of(self, execution_ids: Sequence[bytes]) -> int:
        return await self._read(lambda tx: letters.letters_of(tx, execution_ids))

    # ------------------------------------------------------------------------------ upkeep

    async def prune(
        self, cursor: tuple[int, bytes], horizon_us: int, limit: int
    ) -> tuple[tuple[int, bytes] | None, int]:
        return await self._write(lambda tx: upkeep.prune(tx, cursor, horizon_us, limit))

    async def bring(
        self,
        executions: Sequence[ExportedExecution],
        *,
        moved: bool = False,
        rehearsed: bool = False,
    ) -> None:
        how = {"moved": moved, "rehearsed": rehearsed}
        with suppress(Rehearsed):
            await self._write(lambda tx: transfers.bring(tx, executions, **how))

    async def leave(self, target: Target, seen: Sequence[ExportedExecution], to: str) -> bool:
        return await self._write(lambda tx: transfers.leave(tx, target, seen, to))

    async def settle(
        self, left: Sequence[tuple[Target, int]], now_us: int, *, arrived: bool
    ) -> bool:
        return await self._write(lambda tx: moves.settle(tx, left, now_us, arrived=arrived))

    async def refuse_arrivals(self, coming: Sequence[tuple[Target, int]], now_us: int) -> bool:
        return await self._write(lambda tx: moves.refuse_arrivals(tx, coming, now_us))

    async def verify(self) -> list[Problem]:
        """Reads everything on a connection of its own, so that nobody waits for it."""
        line = await self._aside()
        try:
            return await line.run(lambda connection: _snapshot(connection, verify))
        finally:
            await line.close()

    async def info(self) -> StoreInfo:
        return await self._writer.run(partial(upkeep.info, self._file))

    # ----------------------------------------------------------------------------- private

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._writer.submit(lambda connection: transaction(connection, work))
        except (sqlite3.Error, StoreFailed) as error:
            raise self._judge(error) from error

    def _judge(self, error: BaseException) -> StoreError:
        """What an error of the writer means; a fatal one is told."""
        trouble, answer = self.classify(error)
        if trouble is Trouble.FATAL and self.on_fatal is not None:
            self.on_fatal(answer)
        return answer

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._reader.run(lambda connection: _snapshot(connection, work))


async def _open(
    connect: Callable[[], sqlite3.Connection], path: Path, kind: type[Hop] = Hop
) -> Hop:
    try:
        return await kind.open(connect, path)
    except UnicodeDecodeError as error:
        # SQLite names what it cannot read, and Python cannot read the name.
        raise StoreFailed(path=str(path), reason="the schema in it is damaged") from error
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
