"""Task queues: what is put into them, who takes what, and what comes of it."""

from collections.abc import Iterable

from msgspec.structs import replace

from everlong_engine.machine.tasks import judge_task, judged_unreadable
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import ActivityScheduled, Recorded
from everlong_engine.model.runs import AttemptState, RunRow
from everlong_engine.model.tasks import (
    NewTask,
    QueueCount,
    SettleTask,
    TaskEnd,
    TaskKey,
    TaskRow,
    Withdrawn,
    WithdrawTask,
)
from everlong_engine.model.writes import AppendResult, MarkAttempts, Refusal
from everlong_engine.store.memory import reads
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.leases import mark_attempts, park, put_attempts
from everlong_engine.store.memory.messages import wake_for_mail
from everlong_engine.store.memory.pauses import hold

__all__ = [
    "drop_unreadable",
    "end_tasks",
    "free_tasks",
    "queue_tasks",
    "queues",
    "scheduled_by",
    "settle_task",
    "tasks_of",
    "withdraw_task",
]


def queue_tasks(data: MemoryData, mark: MarkAttempts) -> AppendResult:
    """Into their queues, each with what is written down of it; unless that was done before, and its
    answer was lost: by now somebody may have taken them."""
    for task in mark.tasks:
        known = data.attempts.get((mark.run_id, task.activity_id, task.attempt))
        if known is not None and known.state is not AttemptState.NOT_BEGUN:
            return mark_attempts(data, replace(mark, attempts=(), tasks=()))
    result = mark_attempts(data, mark)
    if result.refusal is None:
        _put_tasks(data, data.runs.rows[mark.run_id], mark.tasks)
    return result


def _put_tasks(data: MemoryData, run: RunRow, tasks: Iterable[NewTask]) -> None:
    for task in tasks:
        key = (run.run_id, task.activity_id)
        row = TaskRow(shard=run.shard, run_id=run.run_id, execution_id=run.execution_id, task=task)
        known = data.tasks.get(key)
        if known is None:
            data.tasks.put(key, row)
        elif known.task.attempt < task.attempt:
            data.tasks.put(key, replace(row, token=known.token))


def end_tasks(data: MemoryData, run_id: bytes, tasks: Iterable[tuple[int, TaskEnd]]) -> None:
    """Those of activities that are over, or cancelled."""
    for activity_id, end in tasks:
        row = data.tasks.get((run_id, activity_id))
        if row is None:
            continue
        if end is TaskEnd.ASK:
            data.tasks.put((run_id, activity_id), replace(row, asked=True))
        elif end is TaskEnd.DROP or row.worker_id is None:
            data.tasks.remove((run_id, activity_id))


def withdraw_task(data: MemoryData, withdraw: WithdrawTask) -> Withdrawn:
    run = data.runs.get(withdraw.run_id)
    if run is None or not run.status.is_open or run.lease_token != withdraw.token:
        return Withdrawn(Refusal.FENCED)
    key = (withdraw.run_id, withdraw.activity_id)
    row = data.tasks.get(key)
    known = [one for one in data.attempts_of.keys(withdraw.run_id) if one[1] == key[1]]
    newest = max((one[2] for one in known), default=0)
    attempt = data.attempts.get((*key, newest))
    if (
        attempt is None
        or attempt.state is not AttemptState.QUEUED
        or withdraw.attempt not in (0, newest)
    ):
        return Withdrawn(Refusal.CONFLICT)
    if row is not None:
        data.tasks.remove(key)
    return Withdrawn(attempt=newest)


# ------------------------------------------------------------------------------------- for workers


def scheduled_by(data: MemoryData, row: TaskRow) -> Recorded:
    """What its attempts are called with. Raises UndecodablePayload."""
    found = reads.event(data, row.run_id, row.task.seq)
    if found is None or not isinstance(found.event, ActivityScheduled):
        raise UndecodablePayload(f"event {row.task.seq} schedules no activity")
    return found


def drop_unreadable(
    data: MemoryData, row: TaskRow, state: AttemptState, error: UndecodablePayload
) -> None:
    """A task that cannot be read: its run is blocked, and says so. Once that goes on, whoever has
    it sees to the activity by what is known of this attempt."""
    data.tasks.remove((row.run_id, row.task.activity_id))
    put_attempts(data, row.run_id, (judged_unreadable(row.task, state),))
    park(data, data.runs.rows[row.run_id], error)


def tasks_of(data: MemoryData, worker_id: bytes) -> list[TaskKey]:
    rows = [data.tasks.rows[key] for key in sorted(data.tasks_taken.keys(worker_id))]
    return [
        TaskKey(row.run_id, row.task.activity_id, row.task.attempt, row.token, row.asked)
        for row in rows
    ]


def settle_task(data: MemoryData, settle: SettleTask) -> AppendResult:
    key = (settle.run_id, settle.activity_id)
    row = data.tasks.get(key)
    if row is None or row.worker_id != settle.worker_id or row.token != settle.token:
        return AppendResult(Refusal.FENCED)
    if settle.again is not None and row.asked:
        return AppendResult(Refusal.CONFLICT)
    run = data.runs.rows[settle.run_id]
    put_attempts(data, settle.run_id, settle.rows)
    if settle.keeps:
        return AppendResult()
    if settle.halt is not None:
        hold(data, run, settle.halt.now_us, settle.halt.by, settle.halt.reason)
    if settle.again is not None:
        attempt, due_us = settle.again
        again = replace(row.task, attempt=attempt, due_us=due_us)
        data.tasks.put(key, replace(row, task=again, worker_id=None))
        return AppendResult()
    data.tasks.remove(key)
    if settle.mail is not None:
        data.put_mail(settle.execution_id, *settle.mail, settle.blobs)
    wake_for_mail(data, data.runs.rows[settle.run_id], settle.now_us)
    return AppendResult()


def free_tasks(data: MemoryData, now_us: int, limit: int) -> int:
    """Judge tasks of workers that are dead; how many there were."""
    living = {worker_id for worker_id, worker in data.workers.rows.items() if not worker.row.dead}
    orphans = [
        row
        for _, row in sorted(data.tasks.rows.items())
        if row.worker_id is not None and row.worker_id not in living
    ][:limit]
    for row in orphans:
        _free(data, row, now_us)
    return len(orphans)


def _free(data: MemoryData, row: TaskRow, now_us: int) -> None:
    taken = data.attempts.get((row.run_id, row.task.activity_id, row.task.attempt))
    owner = data.workers.rows.get(row.worker_id or b"")
    try:
        scheduled = scheduled_by(data, row)
        if taken is None:
            raise UndecodablePayload(f"what is known of activity {row.task.activity_id} is gone")
    except UndecodablePayload as error:
        drop_unreadable(data, row, AttemptState.STARTED, error)
        return
    name = "unknown" if owner is None else owner.row.name
    assert isinstance(scheduled.event, ActivityScheduled)
    settle_task(data, judge_task(row, scheduled.event, taken, name, now_us))


# ------------------------------------------------------------------------------------- for people


def queues(data: MemoryData) -> list[QueueCount]:
    """What stands in all queues, by queue and activity."""
    found: dict[tuple[str, str], list[TaskRow]] = {}
    for row in data.tasks.rows.values():
        found.setdefault((row.task.queue, row.task.activity), []).append(row)
    return [
        QueueCount(
            queue,
            activity,
            sum(row.worker_id is None for row in rows),
            sum(row.worker_id is not None for row in rows),
            min((row.task.due_us for row in rows if row.worker_id is None), default=None),
        )
        for (queue, activity), rows in sorted(found.items())
    ]
