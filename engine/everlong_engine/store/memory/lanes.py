"""Who takes what from task queues: within their limits, by urgency, fairly between keys."""

from msgspec.structs import replace

from everlong_engine.machine.lanes import Dealer, Lane
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.queues import LimitRow, QueueLimits, SetLimits
from everlong_engine.model.runs import AttemptRow, AttemptState, RunStatus
from everlong_engine.model.tasks import TakenTask, TaskClaim, TaskRow, TaskWants
from everlong_engine.store.memory.data import MemoryData, StoredStarts
from everlong_engine.store.memory.leases import put_attempts
from everlong_engine.store.memory.tasks import drop_unreadable, scheduled_by

__all__ = ["next_task", "queue_limits", "set_limits", "store_starts", "take_tasks"]


def take_tasks(data: MemoryData, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
    """What may begin now, and when there is more. What cannot be read is parked with its run."""
    dealer = _dealer(data, wants, now_us)
    ready: dict[Lane, int] = {}
    for row in _waiting(data, wants):
        if row.task.due_us <= now_us:
            lane = Lane.of(row.task)
            ready[lane] = min(row.task.due_us, ready.get(lane, now_us))
    lanes = {lane: due_us for lane, due_us in ready.items() if dealer.room(lane) > 0}
    held_back = [lane for lane in ready if lane not in lanes]
    taken: list[TakenTask] = []
    while lanes and len(taken) < limit:
        dealt = dealer.deal(lanes, limit - len(taken))
        if not dealt:
            break
        for lane, quota in dealt:
            due = _due(data, wants, lane, now_us)[:quota]
            begun = [one for row in due if (one := _take(data, wants, row, now_us)) is not None]
            taken += begun
            dealer.note(lane, len(begun))
            if len(due) < quota:
                del lanes[lane]
    store_starts(data, dealer, now_us)
    if len(taken) >= limit:
        return TaskClaim(taken, now_us)
    later = (next_task(data, wants, now_us), dealer.next_us([*held_back, *lanes]))
    next_us = min((one for one in later if one is not None), default=None)
    return TaskClaim(taken, next_us, any(dealer.room(lane) <= 0 for lane in (*held_back, *lanes)))


def _take(data: MemoryData, wants: TaskWants, row: TaskRow, now_us: int) -> TakenTask | None:
    """None if it cannot be read."""
    run, key = data.runs.rows[row.run_id], (row.run_id, row.task.activity_id)
    try:
        scheduled = scheduled_by(data, row)
    except UndecodablePayload as error:
        drop_unreadable(data, row, AttemptState.NOT_BEGUN, error)
        return None
    details, details_of = _details(data, row)
    data.tasks.put(key, replace(row, worker_id=wants.worker_id, token=row.token + 1))
    started = AttemptRow(
        activity_id=row.task.activity_id,
        attempt=row.task.attempt,
        state=AttemptState.TAKEN,
        started_us=now_us,
        worker=wants.worker,
    )
    put_attempts(data, row.run_id, (started,))
    return TakenTask(row.task, run, scheduled, row.token + 1, details, details_of)


def _details(data: MemoryData, row: TaskRow) -> tuple[bytes | None, int]:
    """The last heartbeat details that there are, and of which attempt."""
    for attempt in (row.task.attempt, row.task.attempt - 1):
        known = data.attempts.get((row.run_id, row.task.activity_id, attempt))
        if known is not None and known.details is not None:
            return known.details, attempt
    return None, 0


def next_task(data: MemoryData, wants: TaskWants, after_us: int = -1) -> int | None:
    """When the next one is due that the worker may take, limits aside."""
    due = (row.task.due_us for row in _waiting(data, wants) if _may_begin(data, row))
    return min((due_us for due_us in due if due_us > after_us), default=None)


def _waiting(data: MemoryData, wants: TaskWants) -> list[TaskRow]:
    groups = [group for group in data.tasks_waiting.groups() if wants.takes(*group)]  # type: ignore[misc]
    return [data.tasks.rows[key] for group in groups for key in data.tasks_waiting.keys(group)]


def _may_begin(data: MemoryData, row: TaskRow) -> bool:
    return data.runs.rows[row.run_id].status is RunStatus.RUNNING


def _due(data: MemoryData, wants: TaskWants, lane: Lane, now_us: int) -> list[TaskRow]:
    """What may begin of a lane, the longest due first."""
    rows = [
        row
        for row in _waiting(data, wants)
        if Lane.of(row.task) == lane and row.task.due_us <= now_us and _may_begin(data, row)
    ]
    return sorted(rows, key=lambda row: (row.task.due_us, row.run_id, row.task.activity_id))


# ----------------------------------------------------------------------------------------- limits


def _dealer(data: MemoryData, wants: TaskWants, now_us: int) -> Dealer:
    limits: dict[str, QueueLimits] = {}
    for one in queue_limits(data):
        limits[one.queue] = one.limits
    dealer = Dealer(limits, now_us, wants.after)
    for row in data.tasks.rows.values():
        if row.worker_id is not None:
            dealer.count(row.task.queue, row.task.key, 1)
    for key, stored in data.queue_starts.rows.items():
        dealer.know(key, stored.starts)
    return dealer


def queue_limits(data: MemoryData) -> list[LimitRow]:
    """By queue and origin."""
    return [row for _, row in sorted(data.queue_limits.rows.items())]


def set_limits(data: MemoryData, change: SetLimits) -> None:
    key = (change.queue, change.origin)
    if change.limits is None:
        if key in data.queue_limits.rows:
            data.queue_limits.remove(key)
        return
    row = LimitRow(
        queue=change.queue,
        origin=change.origin,
        limits=change.limits,
        set_us=change.now_us,
        by=change.by,
    )
    data.queue_limits.put(key, row)


def store_starts(data: MemoryData, dealer: Dealer, now_us: int) -> None:
    if not dealer.changed:
        return
    for key in [key for key, one in data.queue_starts.rows.items() if one.until_us <= now_us]:
        data.queue_starts.remove(key)
    for key in dealer.changed:
        data.queue_starts.put(key, StoredStarts(dealer.until_us(key), dealer.starts(key)))
