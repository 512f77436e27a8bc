"""Task queues: what is put into them, who takes what, and what comes of it."""

from contextlib import suppress
from sqlite3 import Connection
from typing import Any, Final

from msgspec.structs import replace

from everlong_engine.machine.tasks import judge_task, judged_unreadable
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import ActivityScheduled
from everlong_engine.model.runs import AttemptState
from everlong_engine.model.tasks import (
    NewTask,
    QueueCount,
    SettleTask,
    TaskKey,
    TaskRow,
    Withdrawn,
    WithdrawTask,
)
from everlong_engine.model.writes import AppendResult, MarkAttempts, Refusal
from everlong_engine.store.sqlite import reads
from everlong_engine.store.sqlite.appends import ACCEPTED, FENCED
from everlong_engine.store.sqlite.columns import COLUMNS, check, named
from everlong_engine.store.sqlite.leases import mark_attempts, park, put_attempts
from everlong_engine.store.sqlite.pauses import hold
from everlong_engine.store.sqlite.rows import put_mail, read_run
from everlong_engine.store.sqlite.statements import SQL

__all__ = [
    "drop_unreadable",
    "free_tasks",
    "queue_tasks",
    "queues",
    "settle_task",
    "task_row",
    "tasks_of",
    "withdraw_task",
]

CONFLICT: Final = AppendResult(Refusal.CONFLICT)
_COLUMNS: Final = COLUMNS["tasks"]


def queue_tasks(tx: Connection, mark: MarkAttempts) -> AppendResult:
    """Into their queues, each with what is written down of it; unless that was done before, and its
    answer was lost: by now somebody may have taken them."""
    for task in mark.tasks:
        key = (mark.shard, mark.run_id, task.activity_id, task.attempt)
        known = reads.attempt_at(tx, *key)
        if known is not None and known.state is not AttemptState.NOT_BEGUN:
            return mark_attempts(tx, replace(mark, attempts=(), tasks=()))
    result = mark_attempts(tx, mark)
    if result.refusal is None:
        _put_tasks(tx, mark)
    return result


def _put_tasks(tx: Connection, mark: MarkAttempts) -> None:
    row = read_run(tx, mark.shard, mark.run_id)
    assert row is not None, "its lease has just been checked"
    for task in mark.tasks:
        values = (
            mark.shard,
            mark.run_id,
            task.activity_id,
            row.execution_id,
            task.attempt,
            task.queue,
            task.activity,
            task.due_us,
            task.seq,
            task.origin,
            task.behind,
            task.rank,
            task.key,
        )
        tx.execute(SQL["put_task"], values)


def withdraw_task(tx: Connection, withdraw: WithdrawTask) -> Withdrawn:
    lease = (withdraw.shard, withdraw.run_id, withdraw.token)
    if tx.execute(SQL["check_lease"], lease).fetchone() is None:
        return Withdrawn(Refusal.FENCED)
    key = (withdraw.shard, withdraw.run_id, withdraw.activity_id)
    newest = tx.execute(SQL["newest_attempt"], key).fetchone()
    if newest is None or newest[1] != AttemptState.QUEUED or withdraw.attempt not in (0, newest[0]):
        return Withdrawn(Refusal.CONFLICT)
    tx.execute(SQL["drop_task"], key)
    return Withdrawn(attempt=newest[0])


# ------------------------------------------------------------------------------------- for workers


def tasks_of(tx: Connection, worker_id: bytes) -> list[TaskKey]:
    found = tx.execute(SQL["tasks_of_worker"], (worker_id,)).fetchall()
    return [
        TaskKey(run_id, activity_id, attempt, token, bool(asked))
        for run_id, activity_id, attempt, token, asked in found
    ]


def settle_task(tx: Connection, settle: SettleTask) -> AppendResult:
    key = (settle.shard, settle.run_id, settle.activity_id)
    held = tx.execute(SQL["task_held"], (*key, settle.worker_id, settle.token)).fetchone()
    run = read_run(tx, *key[:2])
    if held is None or run is None:
        return FENCED
    if settle.again is not None and held[0]:
        return CONFLICT
    put_attempts(tx, MarkAttempts(*key[:2], 0, settle.rows))
    if settle.keeps:
        return ACCEPTED
    if settle.halt is not None:
        hold(tx, run, settle.halt.now_us, settle.halt.by, settle.halt.reason)
    if settle.again is not None:
        tx.execute(SQL["requeue_task"], (*settle.again, *key))
        return ACCEPTED
    tx.execute(SQL["drop_task"], key)
    if settle.mail is not None:
        put_mail(tx, settle.shard, settle.execution_id, *settle.mail, settle.blobs)
    tx.execute(SQL["wake_run"], (settle.now_us, *key[:2]))
    return ACCEPTED


def free_tasks(tx: Connection, now_us: int, limit: int) -> int:
    """Judge tasks of workers that are dead; how many there were."""
    orphans = tx.execute(SQL["orphaned_tasks"], (limit,)).fetchall()
    if not orphans:
        return 0
    names = {worker.worker_id: worker.name for worker in reads.workers(tx)}
    for shard, run_id, activity_id in orphans:
        key = (shard, run_id, activity_id)
        try:
            _free(tx, key, names, now_us)
        except UndecodablePayload as error:
            drop_unreadable(tx, key, AttemptState.STARTED, error)
    return len(orphans)


def drop_unreadable(
    tx: Connection, key: tuple[int, bytes, int], state: AttemptState, error: UndecodablePayload
) -> None:
    """A task that cannot be read: its run is blocked, and says so. Once that goes on, whoever has
    it sees to the activity by what is known of this attempt."""
    found = tx.execute(SQL["task_at"], key).fetchone()
    with suppress(UndecodablePayload):  # Of a damaged row nothing is known but that it was there.
        left = judged_unreadable(task_row(found).task, state)
        put_attempts(tx, MarkAttempts(*key[:2], 0, (left,)))
    tx.execute(SQL["drop_task"], key)
    park(tx, key[0], key[1], error)


def _free(
    tx: Connection, key: tuple[int, bytes, int], names: dict[bytes, str], now_us: int
) -> None:
    row = task_row(tx.execute(SQL["task_at"], key).fetchone())
    run = read_run(tx, *key[:2])
    scheduled = reads.event(tx, *key[:2], row.task.seq)
    taken = reads.attempt_at(tx, *key, row.task.attempt)
    if run is None or taken is None:
        raise UndecodablePayload(f"what is known of activity {key[2]} is gone")
    if scheduled is None or not isinstance(scheduled.event, ActivityScheduled):
        raise UndecodablePayload(f"event {row.task.seq} schedules no activity")
    name = names.get(row.worker_id or b"", "unknown")
    settle_task(tx, judge_task(row, scheduled.event, taken, name, now_us))


def task_row(values: Any) -> TaskRow:
    """Raises UndecodablePayload."""
    check("tasks", _COLUMNS, values, f"a task of run {named(values[1])}")
    shard, run_id, activity_id, execution_id, attempt, queue, activity, due_us = values[:8]
    seq, origin, behind, token, asked, worker_id, rank, key = values[8:]
    task = NewTask(
        activity_id=activity_id,
        attempt=attempt,
        queue=queue,
        activity=activity,
        due_us=due_us,
        seq=seq,
        origin=origin,
        behind=behind,
        rank=rank,
        key=key,
    )
    return TaskRow(
        shard=shard,
        run_id=run_id,
        execution_id=execution_id,
        task=task,
        token=token,
        worker_id=worker_id,
        asked=bool(asked),
    )


# ------------------------------------------------------------------------------------- for people


def queues(tx: Connection) -> list[QueueCount]:
    """What stands in all queues, by queue and activity."""
    return [QueueCount(*values) for values in tx.execute(SQL["queues"]).fetchall()]
