"""Task queues: what is put into them, who takes what, and what comes of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from everlong_engine.machine.tasks import judge_task, judged_unreadable
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import ActivityScheduled, Recorded
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
from everlong_engine.store.postgres import reads
from everlong_engine.store.postgres.appends import ACCEPTED, FENCED
from everlong_engine.store.postgres.leases import (
    mark_attempts,
    park,
    put_attempts,
)
from everlong_engine.store.postgres.pauses import hold
from everlong_engine.store.postgres.rows import put_mail, read_run
from everlong_engine.store.postgres.statements import Tx

__all__ = [
    "drop_unreadable",
    "free_orphaned",
    "free_tasks",
    "orphaned_tasks",
    "queue_tasks",
    "queues",
    "scheduling",
    "settle_task",
    "task_row",
    "task_values",
    "tasks_of",
    "withdraw_task",
]

CONFLICT: Final = AppendResult(Refusal.CONFLICT)


async def queue_tasks(tx: Tx, mark: MarkAttempts) -> AppendResult:
    """Into their queues, each with what is written down of it; unless that was done before, and its
    answer was lost: by now somebody may have taken them."""
    await tx.rows("lock_runs", [(mark.shard, mark.run_id)])
    for task in mark.tasks:
        key = (mark.shard, mark.run_id, task.activity_id, task.attempt)
        known = await reads.attempt_at(tx, *key)
        if known is not None and known.state is not AttemptState.NOT_BEGUN:
            return await mark_attempts(tx, replace(mark, attempts=(), tasks=()))
    result = await mark_attempts(tx, mark)
    if result.refusal is None:
        await _put_tasks(tx, mark)
    return result


async def _put_tasks(tx: Tx, mark: MarkAttempts) -> None:
    row = await read_run(tx, mark.shard, mark.run_id)
    assert row is not None, "its lease has just been checked"
    await tx.rows("put_tasks", task_values(mark, row.execution_id))


def task_values(mark: MarkAttempts, execution_id: bytes) -> list[tuple[Any, ...]]:
    """Parameters of `put_tasks`."""
    return [
        (
            mark.shard,
            mark.run_id,
            task.activity_id,
            execution_id,
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
        for task in mark.tasks
    ]


async def withdraw_task(tx: Tx, withdraw: WithdrawTask) -> Withdrawn:
    await tx.rows("lock_runs", [(withdraw.shard, withdraw.run_id)])
    lease = (withdraw.shard, withdraw.run_id, withdraw.token)
    if await tx.one("check_lease", lease) is None:
        return Withdrawn(Refusal.FENCED)
    key = (withdraw.shard, withdraw.run_id, withdraw.activity_id)
    newest = await tx.one("newest_attempt", key)
    if newest is None or newest[1] != AttemptState.QUEUED or withdraw.attempt not in (0, newest[0]):
        return Withdrawn(Refusal.CONFLICT)
    await tx.run("drop_task", key)
    return Withdrawn(attempt=newest[0])


# ------------------------------------------------------------------------------------- for workers


async def _scheduled(tx: Tx, row: TaskRow) -> Recorded:
    """What its attempts are called with. Raises UndecodablePayload."""
    return scheduling(row, await reads.event(tx, row.shard, row.run_id, row.task.seq))


def scheduling(row: TaskRow, found: Recorded | None) -> Recorded:
    """Raises UndecodablePayload: it is something else."""
    if found is None or not isinstance(found.event, ActivityScheduled):
        raise UndecodablePayload(f"event {row.task.seq} schedules no activity")
    return found


async def tasks_of(tx: Tx, worker_id: bytes) -> list[TaskKey]:
    return [TaskKey(*values) for values in await tx.all("tasks_of_worker", (worker_id,))]


async def settle_task(tx: Tx, settle: SettleTask) -> AppendResult:
    key = (settle.shard, settle.run_id, settle.activity_id)
    run = await read_run(tx, *key[:2])
    held = await tx.one("task_held", (*key, settle.worker_id, settle.token))
    if held is None or run is None:
        return FENCED
    if settle.again is not None and held[0]:
        return CONFLICT
    await put_attempts(tx, MarkAttempts(*key[:2], 0, settle.rows))
    if settle.keeps:
        return ACCEPTED
    if settle.halt is not None:
        await hold(tx, run, settle.halt.now_us, settle.halt.by, settle.halt.reason)
    if settle.again is not None:
        await tx.run("requeue_task", (*settle.again, *key))
        return ACCEPTED
    await tx.run("drop_task", key)
    if settle.mail is not None:
        await put_mail(tx, settle.shard, settle.execution_id, *settle.mail, settle.blobs)
    await tx.run("wake_run", (settle.now_us, *key[:2]))
    return ACCEPTED


async def free_tasks(tx: Tx, now_us: int, limit: int) -> int:
    """Judge tasks of workers that are dead; how many there were."""
    return await free_orphaned(tx, await orphaned_tasks(tx, limit), now_us)


async def orphaned_tasks(tx: Tx, limit: int) -> list[TaskRow]:
    """Tasks of workers that are dead."""
    return [task_row(values) for values in await tx.all("orphaned_tasks", (limit,))]


async def free_orphaned(tx: Tx, orphans: Sequence[TaskRow], now_us: int) -> int:
    """Judge them; how many."""
    if not orphans:
        return 0
    await tx.rows("lock_runs", sorted({(row.shard, row.run_id) for row in orphans}))
    names = {worker.worker_id: worker.name for worker in await reads.workers(tx)}
    for row in orphans:
        try:
            await _free(tx, row, names, now_us)
        except UndecodablePayload as error:
            await drop_unreadable(tx, row, AttemptState.STARTED, error)
    return len(orphans)


async def drop_unreadable(
    tx: Tx, row: TaskRow, state: AttemptState, error: UndecodablePayload
) -> None:
    """A task that cannot be read: its run is blocked, and says so. Once that goes on, whoever has
    it sees to the activity by what is known of this attempt."""
    key = (row.shard, row.run_id)
    await put_attempts(tx, MarkAttempts(*key, 0, (judged_unreadable(row.task, state),)))
    await tx.run("drop_task", (*key, row.task.activity_id))
    await park(tx, *key, error)


async def _free(tx: Tx, row: TaskRow, names: Mapping[bytes, str], now_us: int) -> None:
    scheduled = await _scheduled(tx, row)
    key = (row.shard, row.run_id, row.task.activity_id, row.task.attempt)
    taken = await reads.attempt_at(tx, *key)
    if taken is None:
        raise UndecodablePayload(f"what is known of attempt {key[3]} of activity {key[2]} is gone")
    name = names.get(row.worker_id or b"", "unknown")
    assert isinstance(scheduled.event, ActivityScheduled)
    await settle_task(tx, judge_task(row, scheduled.event, taken, name, now_us))


def task_row(values: Any) -> TaskRow:
    task = NewTask(
        activity_id=values["activity_id"],
        attempt=values["attempt"],
        queue=values["queue"],
        activity=values["activity"],
        due_us=values["due_us"],
        seq=values["seq"],
        origin=values["origin"],
        behind=values["behind"],
        rank=values["rank"],
        key=values["key"],
    )
    return TaskRow(
        shard=values["shard"],
        run_id=values["run_id"],
        execution_id=values["execution_id"],
        task=task,
        token=values["token"],
        worker_id=values["worker_id"],
        asked=values["asked"],
    )


# ------------------------------------------------------------------------------------- for people


async def queues(tx: Tx) -> list[QueueCount]:
    """What stands in all queues, by queue and activity."""
    return [QueueCount(*values) for values in await tx.all("queues")]
