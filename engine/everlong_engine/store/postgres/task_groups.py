"""Many tasks at once: what goes into queues, and what has come of tasks, in a few statements with
many rows. What is rare, or says more, goes one by one (`tasks`), with the same answers."""

from collections.abc import Sequence
from typing import Any

from everlong_engine.model.codec import checksum
from everlong_engine.model.limits import ATTEMPTS_KEPT
from everlong_engine.model.runs import AttemptState, RunStatus
from everlong_engine.model.tasks import SettleTask
from everlong_engine.model.writes import MarkAttempts, Write, WriteResult
from everlong_engine.store.postgres.appends import ACCEPTED, FENCED
from everlong_engine.store.postgres.leases import attempt_values
from everlong_engine.store.postgres.rows import put_blobs
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tasks import CONFLICT, task_values

__all__ = ["goes_together", "queue_all", "settle_all"]


def goes_together(writes: Sequence[Write]) -> bool:
    """Whether they are all plain, and each about a task of its own."""
    keys: set[tuple[bytes, int]] = set()
    for write in writes:
        match write:
            case SettleTask(halt=None):
                keys.add((write.run_id, write.activity_id))
            case MarkAttempts(probation=None, halt=None, mail=(), attempts=(_,), tasks=(task,)):
                keys.add((write.run_id, task.activity_id))
            case _:
                return False
    return len(keys) == len(writes) > 1


async def queue_all(
    tx: Tx, marks: Sequence[tuple[int, MarkAttempts]], results: list[WriteResult]
) -> None:
    """Into their queues, as `queue_tasks` does it."""
    runs = await _locked(tx, [mark for _, mark in marks])
    keys = [
        (mark.shard, mark.run_id, mark.tasks[0].activity_id, mark.tasks[0].attempt)
        for _, mark in marks
    ]
    known = {tuple(one[:3]): one[3] for one in await tx.rows("states_of", keys)}
    attempts: list[tuple[Any, ...]] = []
    tasks: list[tuple[Any, ...]] = []
    for (at, mark), key in zip(marks, keys, strict=True):
        status, token, execution_id = runs.get(mark.run_id, (None, None, b""))
        if token != mark.token or (mark.begins and status != RunStatus.RUNNING):
            results[at] = FENCED
            continue
        results[at] = ACCEPTED
        if known.get(key[1:], AttemptState.NOT_BEGUN) == AttemptState.NOT_BEGUN:
            attempts.append(attempt_values(mark.shard, mark.run_id, mark.attempts[0]))
            tasks += task_values(mark, execution_id)
    await _put_attempts(tx, attempts)
    if tasks:
        await tx.rows("put_tasks", tasks)


async def settle_all(
    tx: Tx, settles: Sequence[tuple[int, SettleTask]], results: list[WriteResult]
) -> None:
    """What has come of them, as `settle_task` has it."""
    await _locked(tx, [settle for _, settle in settles])
    held = {
        (run_id, activity_id): asked
        for run_id, activity_id, asked in await tx.rows(
            "tasks_held",
            [(*_key(settle), settle.worker_id, settle.token) for _, settle in settles],
        )
    }
    accepted: list[SettleTask] = []
    for at, settle in settles:
        asked = held.get((settle.run_id, settle.activity_id))
        if asked is None:
            results[at] = FENCED
        elif settle.again is not None and asked:
            results[at] = CONFLICT
        else:
            results[at] = ACCEPTED
            accepted.append(settle)
    rows = [(one, row) for one in accepted for row in one.rows]
    await _put_attempts(tx, [attempt_values(one.shard, one.run_id, row) for one, row in rows])
    over = [one for one in accepted if not one.keeps]
    again = [(*_key(one), *one.again) for one in over if one.again is not None]
    if again:
        await tx.rows("requeue_tasks", again)
    await _end(tx, [one for one in over if one.again is None])


async def _end(tx: Tx, ended: Sequence[SettleTask]) -> None:
    if not ended:
        return
    await tx.rows("drop_tasks_of", [_key(one) for one in ended])
    letters: list[tuple[Any, ...]] = []
    for one in ended:
        if one.mail is not None:
            await put_blobs(tx, one.shard, one.execution_id, one.blobs)
            letters.append((one.shard, one.execution_id, *one.mail, checksum(0, *one.mail)))
    if letters:
        await tx.rows("insert_letters", letters)
    now_us = max(one.now_us for one in ended)
    await tx.rows("wake_runs", sorted({(one.shard, one.run_id, now_us) for one in ended}))


async def _locked(
    tx: Tx, writes: Sequence[MarkAttempts | SettleTask]
) -> dict[bytes, tuple[int, int, bytes]]:
    """(status, token, execution) of the open runs."""
    runs = sorted({(one.shard, one.run_id) for one in writes})
    return {one[0]: (one[1], one[2], one[3]) for one in await tx.rows("lock_leases", runs)}


async def _put_attempts(tx: Tx, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        await tx.rows("put_attempts", rows)
    for shard, run_id, activity_id, attempt, *_ in rows:
        if attempt > ATTEMPTS_KEPT:
            await tx.run("trim_attempts", (shard, run_id, activity_id, attempt - ATTEMPTS_KEPT))


def _key(settle: SettleTask) -> tuple[int, bytes, int]:
    return settle.shard, settle.run_id, settle.activity_id
