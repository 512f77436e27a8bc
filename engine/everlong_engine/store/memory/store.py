"""The memory store: what one process sees of a `MemoryData`.

Every verb is done when it returns, so nothing ever waits, and the order of calls is the order of
transactions.

    data = MemoryData()
    one, two = MemoryStore(data), MemoryStore(data)     # two processes on the same data
    data.kill(one)                                      # as SIGKILL: its lock is free at once

An `Exception` that `data.before_row` raises fails the verb that was at work; `Fault` says as what a
store would fail. Any other `BaseException`, such as a simulator's own for a death in the middle of
a transaction, passes through to the caller. Nothing stays of the transaction in either case.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from msgspec.structs import replace

from everlong_engine.machine.moving import Rehearsed
from everlong_engine.model.entities import EntityLook, EntityRow
from everlong_engine.model.errors import StoreError, StoreFailed, StoreFull, StoreOwned
from everlong_engine.model.events import Recorded
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.filters import AnyField
from everlong_engine.model.letters import KeptLetter, OutboxRow, Refused
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
from everlong_engine.store.memory import (
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
from everlong_engine.store.memory.data import HostingWorker, MemoryData
from everlong_engine.store.memory.group import apply_group

__all__ = ["Fault", "MemoryStore"]

T = TypeVar("T")

_PATH: Final = ":memory:"


class Fault(Exception):
    """A failure of the store itself, as a simulator wants it."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.name)
        self.trouble = trouble


class MemoryStore:
    """Implements `everlong_engine.store.interface.Store` on dictionaries."""

    def __init__(self, data: MemoryData) -> None:
        self.shards = 1
        self.path = _PATH
        self.closed = False
        self.on_fatal: Callable[[StoreError], None] | None = None
        self._data = data
        self._seen = -1

    async def close(self) -> None:
        self._data.kill(self)

    # ------------------------------------------------------------------------------ writes

    def submit(self, writes: Sequence[Write]) -> "asyncio.Future[list[WriteResult]]":
        future: asyncio.Future[list[WriteResult]] = asyncio.get_running_loop().create_future()
        try:
            data = self._open_data()
            future.set_result(data.transaction(lambda: apply_group(data, writes)))
        except Exception as error:
            future.set_exception(error)
        return future

    def classify(self, error: BaseException) -> tuple[Trouble, StoreError]:
        if isinstance(error, StoreError):
            return Trouble.REPEAT, error
        trouble = error.trouble if isinstance(error, Fault) else Trouble.REPEAT
        if trouble is Trouble.FULL:
            return trouble, StoreFull(path=_PATH)
        return trouble, StoreFailed(path=_PATH, reason=f"{type(error).__name__}: {error}")

    async def forget_question(self, question_id: bytes) -> None:
        def forget(data: MemoryData) -> None:
            if question_id in data.questions.rows:
                data.questions.remove(question_id)

        self._write(forget)

    # --------------------------------------------------------------------------- ownership

    @property
    def owned(self) -> bool:
        return self._data.owner is self

    def acquire(self) -> None:
        data = self._open_data()
        if data.owner not in (None, self):
            raise StoreOwned(path=_PATH)
        data.owner = self

    async def abandon(self) -> None:
        if self.owned:
            self._data.owner = None

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
        def put(data: MemoryData) -> None:
            if worker.worker_id in data.workers.rows:
                raise StoreFailed(path=_PATH, reason="a worker with this id was registered before")
            alive = replace(worker, dead=False)
            data.workers.put(worker.worker_id, HostingWorker(alive))

        self._write(put)

    async def bury(self, worker_id: bytes) -> None:
        self._write(lambda data: leases.bury(data, worker_id))

    async def take_over(self, alive: Sequence[bytes], now_us: int, limit: int) -> int:
        runs = self._write(lambda data: leases.take_over(data, alive, now_us, limit))
        return max(runs, self._write(lambda data: tasks.free_tasks(data, now_us, limit)))

    async def resume_blocked(self, wants: Wants, now_us: int) -> None:
        self._write(lambda data: leases.resume_blocked(data, wants, now_us))

    async def claim(self, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
        return self._write(lambda data: leases.claim_runs(data, wants, now_us, limit))

    async def take_tasks(self, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
        due_us = lanes.next_task(self._open_data(), wants)
        if limit <= 0 or due_us is None or due_us > now_us:
            return TaskClaim([], due_us)
        return self._write(lambda data: lanes.take_tasks(data, wants, now_us, limit))

    async def ask_turns(self, asks: Sequence[AskTurn]) -> list[TurnAnswer]:
        return self._write(lambda data: turns.ask_turns(data, asks))

    async def deal_turns(self, wanted: Sequence[tuple[str, str]], now_us: int) -> TurnsDealt:
        return self._write(lambda data: turns.deal_turns(data, wanted, now_us))

    async def tasks_of(self, worker_id: bytes) -> list[TaskKey]:
        return tasks.tasks_of(self._open_data(), worker_id)

    async def claim_run(self, worker_id: bytes, shard: int, run_id: bytes) -> LoadedRun | None:
        return self._write(lambda data: leases.claim_one(data, worker_id, run_id))

    async def next_wake(self, wants: Wants) -> int | None:
        return next((wake_us for wake_us, _ in reads.due(self._open_data(), wants)), None)

    # ------------------------------------------------------------------------------- reads

    async def load(self, shard: int, run_id: bytes) -> LoadedRun | None:
        data = self._open_data()
        run = data.runs.get(run_id)
        return None if run is None else reads.load_run(data, run)

    async def latest(self, target: Target) -> RunRow | None:
        return self._open_data().latest(target)

    async def newest_run(self) -> bytes | None:
        return max(self._open_data().runs.rows, default=None)

    async def run_by_id(self, run_id: bytes) -> RunRow | None:
        return self._open_data().runs.get(run_id)

    async def event(self, shard: int, run_id: bytes, seq: int) -> Recorded | None:
        return reads.event(self._open_data(), run_id, seq)

    async def last_event(self, shard: int, run_id: bytes) -> Recorded | None:
        data = self._open_data()
        run = data.runs.get(run_id)
        return None if run is None else reads.last_event(data, run)

    async def attempts(self, shard: int, run_id: bytes) -> list[AttemptRow]:
        return reads.attempts_of(self._open_data(), run_id)

    async def approval(self, shard: int, run_id: bytes, number: int) -> ApprovalRow | None:
        return reads.approval(self._open_data(), run_id, number)

    async def approvals(
        self, namespace: str, workflow_id: str | None, after: tuple[bytes, int], limit: int
    ) -> list[ApprovalRow]:
        return reads.approvals(self._open_data(), namespace, workflow_id, after, limit)

    async def pause_of(self, row: RunRow) -> list[PauseRow]:
        return pauses.pause_of(self._open_data(), row)

    async def pauses(self, namespace: str, limit: int) -> list[PauseRow]:
        return pauses.pauses(self._open_data(), namespace, limit)

    async def published(
        self, shard: int, execution_id: bytes, channel: str, number: int, limit: int
    ) -> list[ItemRow]:
        return reads.published(self._open_data(), execution_id, channel, number, limit)

    async def entities(self, shard: int, execution_id: bytes, look: EntityLook) -> list[EntityRow]:
        return entities.entities(self._open_data(), execution_id, look)

    async def list_runs(self, wanted: RunFilter, limit: int, after: bytes | None) -> list[RunRow]:
        return reads.list_runs(self._open_data(), wanted, limit, after)

    async def count_runs(self, wanted: RunFilter, by: AnyField | None) -> list[Counted]:
        return reads.count_runs(self._open_data(), wanted, by)

    async def tags(self, runs: Sequence[tuple[int, bytes]]) -> dict[bytes, Tags]:
        data = self._open_data()
        found = {run_id: reads.tags_of(data, run_id) for _, run_id in runs}
        return {run_id: tags for run_id, tags in found.items() if tags}

    async def versions(self, namespace: str) -> list[VersionCount]:
        return reads.versions(self._open_data(), namespace)

    async def pinned_of(self, worker_id: bytes) -> list[tuple[bytes, str]]:
        data = self._open_data()
        runs = [data.runs.rows[run_id] for run_id in sorted(data.of_owner.keys(worker_id))]
        return [(run.run_id, run.version) for run in runs if run.version is not None]

    async def shares(self, queue: str, types: Sequence[str], now_us: int) -> list[Share]:
        return reads.shares(self._open_data(), queue, types, now_us)

    async def workers(self) -> list[WorkerRow]:
        data = self._open_data()
        rows = [worker.row for _, worker in sorted(data.workers.rows.items())]
        if data.owner is not None:
            return rows
        return [replace(row, gone=not row.dead) for row in rows]

    async def queues(self) -> list[QueueCount]:
        return tasks.queues(self._open_data())

    async def pools(self) -> list[PoolCount]:
        return turns.pools(self._open_data())

    async def queue_limits(self) -> list[LimitRow]:
        return lanes.queue_limits(self._open_data())

    async def set_limits(self, change: SetLimits) -> None:
        self._write(lambda data: lanes.set_limits(data, change))

    async def answer(self, question_id: bytes) -> tuple[bool, bytes] | None:
        asked = self._open_data().questions.get(question_id)
        return None if asked is None else asked.answer

    async def told(self, target: Target, name: str) -> tuple[RunRow, bytes | None] | None:
        data = self._open_data()
        run = data.latest(target)
        return None if run is None else data.told(target, run, name) or (run, None)

    async def open_questions(self, limit: int) -> list[Question]:
        return reads.open_questions(self._open_data(), limit)

    async def export(self, target: Target, *, family: bool) -> list[ExportedExecution]:
        return transfers.export(self._open_data(), target, family=family)

    def listen(self, heard: Callable[[], None]) -> None:
        """A look costs next to nothing here: nobody needs a hint."""

    async def changed(self) -> bool:
        seen, self._seen = self._seen, self._open_data().commits
        return seen != self._seen

    async def mail_since(
        self, position: int, limit: int, workers: Sequence[bytes] | None = None
    ) -> list[MailRow]:
        return reads.mail_since(self._open_data(), position, limit)

    # ---------------------------------------------------------------------------- outboxes

    async def full_outboxes(self, names: Sequence[str]) -> list[str]:
        return letters.full_outboxes(self._open_data(), names)

    async def take_letters(
        self, outbox: str, worker_id: bytes, limit: int, bytes_max: int
    ) -> list[KeptLetter] | None:
        return self._write(
            lambda data: letters.take_letters(data, outbox, worker_id, limit, bytes_max)
        )

    async def letters_sent(
        self, outbox: str, sent: Sequence[int], refused: Sequence[Refused]
    ) -> None:
        self._write(lambda data: letters.letters_sent(data, outbox, sent, refused))

    async def outbox_fails(self, outbox: str, worker_id: bytes, fault: str, now_us: int) -> None:
        self._write(lambda data: letters.outbox_fails(data, outbox, worker_id, fault, now_us))

    async def outboxes(self) -> list[OutboxRow]:
        return letters.outboxes(self._open_data())

    async def letters(
        self, outbox: str, after: int, limit: int, *, refused: bool
    ) -> list[KeptLetter]:
        return letters.letters(self._open_data(), outbox, after, limit, refused=refused)

    async def send_again(self, outbox: str, positions: Sequence[int] | None) -> int:
        return self._write(lambda data: letters.send_again(data, outbox, positions))

    async def drop_letters(self, outbox: str, positions: Sequence[int] | None) -> int:
        return self._write(lambda data: letters.drop_letters(data, outbox, positions))

    async def letters_of(self, execution_ids: Sequence[bytes]) -> int:
        return letters.letters_of(self._open_data(), execution_ids)

    # ------------------------------------------------------------------------------ upkeep

    async def prune(
        self, cursor: tuple[int, bytes], horizon_us: int, limit: int
    ) -> tuple[tuple[int, bytes] | None, int]:
        return self._write(lambda data: upkeep.prune(data, cursor, horizon_us, limit))

    async def bring(
        self,
        executions: Sequence[ExportedExecution],
        *,
        moved: bool = False,
        rehearsed: bool = False,
    ) -> None:
        how = {"moved": moved, "rehearsed": rehearsed}
        with suppress(Rehearsed):
            self._write(lambda data: transfers.bring(data, executions, **how))

    async def leave(self, target: Target, seen: Sequence[ExportedExecution], to: str) -> bool:
        return self._write(lambda data: transfers.leave(data, target, seen, to))

    async def settle(
        self, left: Sequence[tuple[Target, int]], now_us: int, *, arrived: bool
    ) -> bool:
        return self._write(lambda data: moves.settle(data, left, now_us, arrived=arrived))

    async def refuse_arrivals(self, coming: Sequence[tuple[Target, int]], now_us: int) -> bool:
        return self._write(lambda data: moves.refuse_arrivals(data, coming, now_us))

    async def verify(self) -> list[Problem]:
        return upkeep.verify(self._open_data())

    async def info(self) -> StoreInfo:
        data = self._open_data()
        settings = {"runs": str(len(data.runs.rows)), "events": str(len(data.history.rows))}
        return StoreInfo(_PATH, "memory", settings, ("nothing outlives this process",))

    # ----------------------------------------------------------------------------- private

    def _open_data(self) -> MemoryData:
        if self.closed:
            raise StoreError(f"{_PATH} is closed", path=_PATH)
        return self._data

    def _write(self, work: Callable[[MemoryData], T]) -> T:
        data = self._open_data()
        try:
            return data.transaction(lambda: work(data))
        except Fault as error:
            trouble, answer = self.classify(error)
            if trouble is Trouble.FATAL and self.on_fatal is not None:
                self.on_fatal(answer)
            raise answer from error
