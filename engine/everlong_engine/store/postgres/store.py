"""The PostgreSQL store: any number of processes on one database, which alone coordinates them.

Writes and claims of a process go over one line, reads over another, so that neither waits for the
other. What a worker owns is its own until its lease has run out by the server's clock; a beat that
comes in time renews it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import repeat
from typing import Final, Self, TypeVar

from asyncpg import exceptions as pg

from everlong_engine.machine.moving import Rehearsed
from everlong_engine.model.entities import EntityLook, EntityRow
from everlong_engine.model.errors import StoreError
from everlong_engine.model.events import Recorded
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.filters import AnyField
from everlong_engine.model.letters import KeptLetter, OutboxRow, Refused
from everlong_engine.model.limits import LEASE_US, STRIKES_TO_POISON
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
from everlong_engine.store.postgres import (
    by_shard,
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
from everlong_engine.store.postgres.address import Address
from everlong_engine.store.postgres.bell import Bell
from everlong_engine.store.postgres.connection import AWAY, Line, classify, connect
from everlong_engine.store.postgres.filters import count_runs
from everlong_engine.store.postgres.group import commit_group, commit_spread, is_for_others
from everlong_engine.store.postgres.migrations import Settled, migrate, prepare
from everlong_engine.store.postgres.rows import (
    columns_of,
    latest_run,
    read_run,
    run_row,
    told_by_workflow_id,
)
from everlong_engine.store.postgres.spread import Spans, Spread
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tags import tags_of_runs
from everlong_engine.store.postgres.verify import verify

__all__ = ["PostgresStore"]

T = TypeVar("T")

_BUSY_S: Final = 0.02
_IDLE_S: Final = 1.0
_UNSEEN_S: Final = 0.25
"""For how long a distributed store is believed that nobody has committed: one of its servers counts
its own commits, and need not see those of the others."""


class PostgresStore:
    """Implements `everlong_engine.store.interface.Store` on one database."""

    def __init__(self, address: Address, settled: Settled, lease_us: int) -> None:
        shards = self.shards = settled.shards
        self.distributed = settled.distributed
        """Whether a transaction is of one shard, but for what `Spans` names."""
        self.path = address.shown
        self._address = address
        self._lease_us = lease_us
        self._writer = Line(address, shards)
        self._reader = Line(address, shards)
        self._sweeper = Line(address, shards)
        """For what nobody waits for: claims and writes do not stand behind it."""
        self._spread = Spread(address, shards, self._writer) if settled.distributed else None
        self._bell = Bell(address)
        self._ours: set[bytes] = set()
        """The workers of this process."""
        self._is_engine = False
        self._commits: int | None = None
        self._unseen_until_s = 0.0
        self._fleet_number = 0
        self._heard_since: float | None = None
        """Since when this process's own beats have come through."""
        self.on_fatal: Callable[[StoreError], None] | None = None
        """Never called: a server that comes back is trusted, for it has recovered by itself."""

    @classmethod
    async def open(cls, url: str, *, create: bool = True, lease_us: int = LEASE_US) -> Self:
        """Connect, and set up the store where there is none.

        Raises:
            StoreError: the server cannot be reached, or its database cannot hold a store, or (with
                `create=False`) holds none.
            NewerSchema: it belongs to a later Everlong.
        """
        address = Address.of(url)
        connection = await connect(address)
        try:
            settled = await prepare(connection, address, create=create)
        except BaseException:
            await connection.close()
            raise
        store = cls(address, settled, lease_us)
        store._writer.adopt(connection)
        return store

    @staticmethod
    async def migrate(url: str) -> tuple[int, int]:
        """Bring the schema to the newest version; from which to which. Raises StoreError."""
        address = Address.of(url)
        connection = await connect(address)
        try:
            return await migrate(connection, address)
        finally:
            await connection.close()

    async def close(self) -> None:
        self._is_engine = False
        await self._bell.close()
        await self._reader.close()
        await self._sweeper.close()
        if self._spread is not None:
            await self._spread.close()
        await self._writer.close()

    # ------------------------------------------------------------------------------ writes

    def submit(self, writes: Sequence[Write]) -> "asyncio.Future[list[WriteResult]]":
        return asyncio.get_running_loop().create_task(self._commit(writes))

    def classify(self, error: BaseException) -> tuple[Trouble, StoreError]:
        return classify(error, self._address)

    async def forget_question(self, question_id: bytes) -> None:
        await self._write(lambda tx: tx.run("forget_question", (question_id,)))

    # --------------------------------------------------------------------------- ownership

    @property
    def owned(self) -> bool:
        """Whether workers of this process may be here. Others may be elsewhere."""
        return self._is_engine

    def acquire(self) -> None:
        self._is_engine = True

    async def abandon(self) -> None:
        self._is_engine = False

    @property
    def fleet_number(self) -> int:
        return self._fleet_number

    async def fleet(self) -> Fleet:
        fleet = await self._look(reads.fleet)
        self._fleet_number = fleet.number
        return fleet

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
            self._lease_us,
            worker.slots,
        )
        await self._write(lambda tx: tx.run("put_worker", values))
        self._ours.add(worker.worker_id)

    async def beat(self, workers: Sequence[bytes], busy: Sequence[int] = ()) -> Heard:
        at_work = busy or [0] * len(workers)
        values = (workers, self._lease_us, at_work)
        try:
            beat = self._writer.at_once(lambda tx: tx.all("beat", values))
            found = await self._judged(beat)
        except BaseException:
            self._heard_since = None
            raise
        if self._heard_since is None:
            self._heard_since = asyncio.get_running_loop().time()
        _, ends_us, left = found[0]
        alive = frozenset(row[0] for row in found if row[0] is not None)
        return Heard(alive, self._sweep_s(ends_us, left=left))

    def _sweep_s(self, ends_us: int | None, *, left: bool) -> float | None:
        """When a sweep may find somebody: at the end of the lease that ends first, but not before
        this process may bury."""
        if left or ends_us is None:
            return 0.0 if left else None
        return max(ends_us / 1_000_000, self._unproven_s())

    @property
    def lease_s(self) -> float:
        return self._lease_us / 1_000_000

    @property
    def look_s(self) -> tuple[float, float]:
        return _BUSY_S, _IDLE_S

    async def bury(self, worker_id: bytes) -> None:
        self._ours.discard(worker_id)
        await self._write(lambda tx: tx.run("bury_worker", (worker_id,)))

    async def take_over(self, alive: Sequence[bytes], now_us: int, limit: int) -> int:
        if self._unproven_s() <= 0:
            await self._write(lambda tx: leases.bury(tx, alive))
        if self._spread is not None:
            runs = await self._judged(by_shard.take_over(self._spread, now_us, limit))
            return max(runs, await self._judged(by_shard.free_tasks(self._spread, now_us, limit)))
        runs = await self._write(lambda tx: leases.take_over(tx, now_us, limit))
        return max(runs, await self._write(lambda tx: tasks.free_tasks(tx, now_us, limit)))

    def _unproven_s(self) -> float:
        """How long until this process has been heard of for a whole lease. Nobody is buried before:
        after an outage everybody looks dead."""
        if self._heard_since is None:
            return self.lease_s
        return self.lease_s - (asyncio.get_running_loop().time() - self._heard_since)

    async def resume_blocked(self, wants: Wants, now_us: int) -> None:
        how = (now_us, STRIKES_TO_POISON, wants)
        if self._spread is not None:
            await self._judged(by_shard.resume_blocked(self._spread, *how))
            return

        async def resume(tx: Tx) -> None:
            await pauses.resume_blocked(tx, *how, await pauses.blocked_shards(tx, wants))

        await self._write(resume)

    async def claim(self, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
        if self._spread is not None:
            return await self._judged(by_shard.claim_runs(self._spread, wants, now_us, limit))
        return await self._write(lambda tx: leases.claim_runs(tx, wants, now_us, limit))

    async def take_tasks(self, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
        due_us = await self._look(lambda tx: lanes.next_task(tx, wants))
        if limit <= 0 or due_us is None or due_us > now_us:
            return TaskClaim([], due_us)
        if self._spread is not None:
            return await self._judged(by_shard.take_tasks(self._spread, wants, now_us, limit))
        return await self._write(lambda tx: lanes.take_tasks(tx, wants, now_us, limit))

    async def ask_turns(self, asks: Sequence[AskTurn]) -> list[TurnAnswer]:
        answers = await self._write(lambda tx: turns.ask_turns(tx, asks), Spans.POOLS)
        if any(answer.others for answer in answers):
            self._bell.ring()
        return answers

    async def deal_turns(self, wanted: Sequence[tuple[str, str]], now_us: int) -> TurnsDealt:
        dealt = await self._write(lambda tx: turns.deal_turns(tx, wanted, now_us), Spans.POOLS)
        if dealt.begun:
            self._bell.ring()
        return dealt

    async def tasks_of(self, worker_id: bytes) -> list[TaskKey]:
        return await self._look(lambda tx: tasks.tasks_of(tx, worker_id))

    async def claim_run(self, worker_id: bytes, shard: int, run_id: bytes) -> LoadedRun | None:
        return await self._write(lambda tx: leases.claim_one(tx, worker_id, shard, run_id))

    async def next_wake(self, wants: Wants) -> int | None:
        values = (wants.queue, wants.types, *columns_of(wants.pinned))
        found = await self._look(lambda tx: tx.one("next_wake", values))
        wake_us: int | None = found[0]
        return wake_us

    # ------------------------------------------------------------------------------- reads

    async def load(self, shard: int, run_id: bytes) -> LoadedRun | None:
        async def look(tx: Tx) -> LoadedRun | None:
            row = await read_run(tx, shard, run_id)
            return None if row is None else await reads.load_run(tx, row)

        return await self._read(look)

    async def latest(self, target: Target) -> RunRow | None:
        return await self._look(lambda tx: latest_run(tx, target))

    async def newest_run(self) -> bytes | None:
        found = await self._look(lambda tx: tx.one("newest_run"))
        return None if found is None else found[0]

    async def run_by_id(self, run_id: bytes) -> RunRow | None:
        found = await self._look(lambda tx: tx.one("run_by_id", (run_id,)))
        return None if found is None else run_row(found)

    async def event(self, shard: int, run_id: bytes, seq: int) -> Recorded | None:
        return await self._read(lambda tx: reads.event(tx, shard, run_id, seq))

    async def last_event(self, shard: int, run_id: bytes) -> Recorded | None:
        async def look(tx: Tx) -> Recorded | None:
            row = await read_run(tx, shard, run_id)
            return None if row is None else await reads.last_event(tx, row)

        return await self._read(look)

    async def attempts(self, shard: int, run_id: bytes) -> list[AttemptRow]:
        return await self._look(lambda tx: reads.attempts_of(tx, shard, run_id))

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
        return await self._look(lambda tx: reads.list_runs(tx, wanted, limit, after))

    async def count_runs(self, wanted: RunFilter, by: AnyField | None) -> list[Counted]:
        return await self._look(lambda tx: count_runs(tx, wanted, by))

    async def tags(self, runs: Sequence[tuple[int, bytes]]) -> dict[bytes, Tags]:
        return await self._look(lambda tx: tags_of_runs(tx, runs))

    async def versions(self, namespace: str) -> list[VersionCount]:
        return await self._look(lambda tx: reads.versions(tx, namespace))

    async def pinned_of(self, worker_id: bytes) -> list[tuple[bytes, str]]:
        return await self._look(lambda tx: reads.pinned_of(tx, worker_id))

    async def shares(self, queue: str, types: Sequence[str], now_us: int) -> list[Share]:
        return await self._look(lambda tx: reads.shares(tx, queue, types, now_us))

    async def workers(self) -> list[WorkerRow]:
        return await self._look(reads.workers)

    async def queues(self) -> list[QueueCount]:
        return await self._look(tasks.queues)

    async def pools(self) -> list[PoolCount]:
        return await self._look(turns.pools)

    async def queue_limits(self) -> list[LimitRow]:
        return await self._look(lanes.queue_limits)

    async def set_limits(self, change: SetLimits) -> None:
        await self._write(lambda tx: lanes.set_limits(tx, change))

    async def answer(self, question_id: bytes) -> tuple[bool, bytes] | None:
        found = await self._look(lambda tx: tx.one("get_answer", (question_id,)))
        return None if found is None or found[0] is None else (found[0], found[1])

    async def told(self, target: Target, name: str) -> tuple[RunRow, bytes | None] | None:
        async def look(tx: Tx) -> tuple[RunRow, bytes | None] | None:
            row = await latest_run(tx, target)
            if row is None:
                return None
            found = await tx.one("find_request", (row.shard, row.execution_id, name))
            if found is not None:
                return row, found[0]
            earlier = None
            if target.execution_id is None:
                earlier = await told_by_workflow_id(tx, target, name)
            return earlier or (row, None)

        return await self._read(look)

    async def open_questions(self, limit: int) -> list[Question]:
        return await self._look(lambda tx: reads.open_questions(tx, limit))

    async def export(self, target: Target, *, family: bool) -> list[ExportedExecution]:
        return await self._read(lambda tx: transfers.export(tx, target, family=family))

    def listen(self, heard: Callable[[], None]) -> None:
        self._bell.listen(heard)

    async def changed(self) -> bool:
        commits, self._fleet_number = await self._look(lambda tx: tx.one("commits"))
        now_s = asyncio.get_running_loop().time()
        if commits == self._commits and not (self.distributed and now_s >= self._unseen_until_s):
            return False
        self._commits = commits
        self._unseen_until_s = now_s + _UNSEEN_S
        return True

    async def mail_since(
        self, position: int, limit: int, workers: Sequence[bytes] | None = None
    ) -> list[MailRow]:
        if workers is None:
            return await self._look(lambda tx: reads.mail_since(tx, position, limit))
        return await self._look(lambda tx: reads.mail_of_workers(tx, workers, limit))

    # ---------------------------------------------------------------------------- outboxes

    async def full_outboxes(self, names: Sequence[str]) -> list[str]:
        return await self._look(lambda tx: letters.full_outboxes(tx, names))

    async def take_letters(
        self, outbox: str, worker_id: bytes, limit: int, bytes_max: int
    ) -> list[KeptLetter] | None:
        return await self._write(
            lambda tx: letters.take_letters(tx, outbox, worker_id, limit, bytes_max)
        )

    async def letters_sent(
        self, outbox: str, sent: Sequence[int], refused: Sequence[Refused]
    ) -> None:
        await self._write(
            lambda tx: letters.letters_sent(tx, outbox, sent, refused), Spans.OUTBOXES
        )

    async def outbox_fails(self, outbox: str, worker_id: bytes, fault: str, now_us: int) -> None:
        await self._write(lambda tx: letters.outbox_fails(tx, outbox, worker_id, fault, now_us))

    async def outboxes(self) -> list[OutboxRow]:
        return await self._look(letters.outboxes)

    async def letters(
        self, outbox: str, after: int, limit: int, *, refused: bool
    ) -> list[KeptLetter]:
        return await self._look(
            lambda tx: letters.letters(tx, outbox, after, limit, refused=refused)
        )

    async def send_again(self, outbox: str, positions: Sequence[int] | None) -> int:
        return await self._write(
            lambda tx: letters.send_again(tx, outbox, positions), Spans.OUTBOXES
        )

    async def drop_letters(self, outbox: str, positions: Sequence[int] | None) -> int:
        return await self._write(
            lambda tx: letters.drop_letters(tx, outbox, positions), Spans.OUTBOXES
        )

    async def letters_of(self, execution_ids: Sequence[bytes]) -> int:
        return await self._look(lambda tx: letters.letters_of(tx, execution_ids))

    # ------------------------------------------------------------------------------ upkeep

    async def prune(
        self, cursor: tuple[int, bytes], horizon_us: int, limit: int
    ) -> tuple[tuple[int, bytes] | None, int]:
        if self._spread is not None:
            return await self._judged(by_shard.prune(self._spread, cursor, horizon_us, limit))
        sweep = partial(upkeep.prune, cursor=cursor, horizon_us=horizon_us, limit=limit)
        return await self._judged(self._sweeper.write(sweep))

    async def bring(
        self,
        executions: Sequence[ExportedExecution],
        *,
        moved: bool = False,
        rehearsed: bool = False,
    ) -> None:
        how = {"moved": moved, "rehearsed": rehearsed}
        with suppress(Rehearsed):
            await self._write(lambda tx: transfers.bring(tx, executions, **how), Spans.MOVES)

    async def leave(self, target: Target, seen: Sequence[ExportedExecution], to: str) -> bool:
        return await self._write(lambda tx: transfers.leave(tx, target, seen, to), Spans.MOVES)

    async def settle(
        self, left: Sequence[tuple[Target, int]], now_us: int, *, arrived: bool
    ) -> bool:
        return await self._write(
            lambda tx: moves.settle(tx, left, now_us, arrived=arrived), Spans.MOVES
        )

    async def refuse_arrivals(self, coming: Sequence[tuple[Target, int]], now_us: int) -> bool:
        return await self._write(lambda tx: moves.refuse_arrivals(tx, coming, now_us), Spans.MOVES)

    async def verify(self) -> list[Problem]:
        """Reads everything over a line of its own, so that nobody waits for it."""
        line = Line(self._address, self.shards)
        try:
            return await self._judged(line.read(verify))
        finally:
            await line.close()

    async def info(self) -> StoreInfo:
        return await self._look(partial(reads.info, self.path))

    # ----------------------------------------------------------------------------- private

    async def _commit(self, writes: Sequence[Write]) -> list[WriteResult]:
        if self._spread is None:
            results = await commit_group(self._writer, writes)
        else:
            results = await commit_spread(self._spread, writes)
        if any(map(is_for_others, writes, results, repeat(self._ours))):
            self._bell.ring()
        return results

    async def _write(self, work: Callable[[Tx], Awaitable[T]], spans: Spans | None = None) -> T:
        if self._spread is None:
            return await self._judged(self._writer.write(work))
        async with self._spread.turn:
            return await self._judged(self._writer.write(work, spans.value if spans else ""))

    async def _read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        return await self._judged(self._reader.read(work))

    async def _look(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """What needs no more than one statement, or none that see the same."""
        return await self._judged(self._reader.at_once(work))

    async def _judged(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except (*AWAY, pg.PostgresError) as error:
            raise self.classify(error)[1] from error
