"""Who takes what from task queues: within their limits, by urgency, fairly between keys."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from everlong_engine.machine.lanes import Dealer, Lane
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.limits import LANES_MAX
from everlong_engine.model.queues import (
    LimitOrigin,
    LimitRow,
    QueueLimits,
    SetLimits,
    Starts,
    starts_from_wire,
    starts_to_wire,
)
from everlong_engine.model.runs import AttemptRow, AttemptState
from everlong_engine.model.tasks import TakenTask, TaskClaim, TaskRow, TaskWants
from everlong_engine.store.postgres import reads
from everlong_engine.store.postgres.leases import attempt_values
from everlong_engine.store.postgres.rows import run_row
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tasks import drop_unreadable, scheduling, task_row

__all__ = [
    "learn_starts",
    "limit_row",
    "next_task",
    "queue_limits",
    "seen_to",
    "set_limits",
    "store_starts",
    "take_due",
    "take_tasks",
    "take_within",
]


Take: TypeAlias = Callable[
    [Tx, TaskWants, Sequence[Any], int], Awaitable[tuple[list[TakenTask], list[TaskRow]]]
]


async def take_tasks(tx: Tx, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
    """What may begin now, and when there is more. What cannot be read is parked with its run."""
    # Locked until the end of the transaction: nobody else takes from a queue with limits meanwhile.
    limits = {
        row.queue: row.limits
        for row in map(limit_row, await tx.all("lock_limits", (wants.activities, wants.queues)))
    }
    return await take_within(tx, wants, now_us, limit, limits, take_due)


async def take_within(
    tx: Tx,
    wants: TaskWants,
    now_us: int,
    limit: int,
    limits: Mapping[str, QueueLimits],
    take: Take,
) -> TaskClaim:
    """`take` takes rows that were found due."""
    dealer = Dealer(limits, now_us, wants.after)
    lanes, held_back = await _lanes(tx, dealer, wants, now_us, limited=set(limits))
    taken: list[TakenTask] = []
    while lanes and len(taken) < limit:
        dealt = dealer.deal(lanes, limit - len(taken))
        if not dealt:
            break
        due = await tx.rows("due_tasks", [(*_of(lane), quota, now_us) for lane, quota in dealt])
        begun, there = await take(tx, wants, due, now_us)
        taken += begun
        for lane, quota in dealt:
            dealer.note(lane, sum(Lane.of(one.task) == lane for one in begun))
            if sum(Lane.of(row.task) == lane for row in there) < quota:
                del lanes[lane]
    await store_starts(tx, dealer, now_us)
    if len(taken) >= limit:
        return TaskClaim(taken, now_us)
    later = (await next_task(tx, wants, now_us), dealer.next_us([*held_back, *lanes]))
    next_us = min((one for one in later if one is not None), default=None)
    return TaskClaim(taken, next_us, any(dealer.room(lane) <= 0 for lane in (*held_back, *lanes)))


def _of(lane: Lane) -> tuple[str, str, int, str]:
    return lane.queue, lane.activity, lane.rank, lane.key


async def take_due(
    tx: Tx, wants: TaskWants, due: Sequence[Any], now_us: int
) -> tuple[list[TakenTask], list[TaskRow]]:
    """What begins, and what there was; what another worker is taking is neither."""
    if not due:
        return [], []
    places = {tuple(one): at for at, one in enumerate(due)}
    # Shared locks on the runs, so that nothing begins behind a pause that somebody was told of.
    keys = sorted({(shard, run_id) for shard, run_id, _ in due})
    runs = {one["run_id"]: run_row(one) for one in await tx.rows("share_runs", keys)}
    found = await tx.rows("take_tasks", [(*one, wants.worker_id) for one in due])
    rows = [task_row(values) for values in found]
    if not rows:
        return [], []
    rows.sort(key=lambda row: places[row.shard, row.run_id, row.task.activity_id])
    wanted = [(row.shard, row.run_id, row.task.activity_id, row.task.attempt) for row in rows]
    before = {(one[0], one[1]): one[2:] for one in await tx.rows("details_of_tasks", wanted)}
    events = [(row.shard, row.run_id, row.task.seq) for row in rows]
    there = {tuple(one[:2]): one[1:] for one in await tx.rows("events_of", events)}
    taken: list[TakenTask] = []
    for row in rows:
        try:
            event = await reads.recorded(tx, row.shard, there.get((row.run_id, row.task.seq)))
            scheduled = scheduling(row, event)
        except UndecodablePayload as error:
            await drop_unreadable(tx, row, AttemptState.NOT_BEGUN, error)
            continue
        details = before.get((row.run_id, row.task.activity_id), (None, 0))
        taken.append(TakenTask(row.task, runs[row.run_id], scheduled, row.token, *details))
    started = [_started(one, wants, now_us) for one in taken]
    if started:
        await tx.rows("put_attempts", started)
    return taken, rows


def _started(one: TakenTask, wants: TaskWants, now_us: int) -> tuple[Any, ...]:
    row = AttemptRow(
        activity_id=one.task.activity_id,
        attempt=one.task.attempt,
        state=AttemptState.TAKEN,
        started_us=now_us,
        worker=wants.worker,
    )
    return attempt_values(one.run.shard, one.run.run_id, row)


async def next_task(tx: Tx, wants: TaskWants, after_us: int = -1) -> int | None:
    """When the next one is due that the worker may take, limits aside."""
    found = await tx.one("next_task", (wants.activities, wants.queues, after_us))
    due_us: int | None = found[0]
    return due_us


# ------------------------------------------------------------------------------------------ lanes


async def _lanes(
    tx: Tx, dealer: Dealer, wants: TaskWants, now_us: int, *, limited: set[str]
) -> tuple[dict[Lane, int], list[Lane]]:
    """Lanes of which something is due, and since when: those with room; and others. Of many keys
    some at a time, until there are some with room, or all were looked at."""
    held_back: list[Lane] = []
    counted: set[str] = set()
    seen: set[Lane] = set()
    behind, before = wants.after, ""
    while True:
        values = (wants.activities, wants.queues, now_us, behind, LANES_MAX, before, wants.after)
        found = {Lane(*one): due_us for *one, due_us in await tx.all("lanes", values)}
        new = [lane for lane in found if lane not in seen]
        seen.update(new)
        queues = {lane.queue for lane in new if lane.key} | {lane.queue for lane in new} & limited
        await _count(tx, dealer, queues - counted)
        counted |= queues
        await _learn_starts_of(tx, dealer, [lane for lane in new if dealer.needs_starts(lane)])
        open_lanes = {lane: found[lane] for lane in new if dealer.room(lane) > 0}
        held_back += [lane for lane in new if lane not in open_lanes]
        if open_lanes or not new:
            return open_lanes, held_back
        behind = seen_to([lane for lane in found if lane.key > wants.after], behind)
        before = seen_to([lane for lane in found if "" < lane.key <= wants.after], before)


def seen_to(found: Iterable[Lane], key: str) -> str:
    """Up to which key all shelves were looked through: of one that had more than were asked for,
    only to the last of them."""
    shelves: dict[tuple[str, str, int], list[str]] = {}
    for lane in found:
        shelves.setdefault(_of(lane)[:3], []).append(lane.key)
    full = [max(keys) for keys in shelves.values() if len(keys) >= LANES_MAX]
    whole = max((max(keys) for keys in shelves.values()), default=key)
    return min(full, default=whole)


async def _count(tx: Tx, dealer: Dealer, queues: set[str]) -> None:
    if not queues:
        return
    for queue, key, count in await tx.all("tasks_at_work", (sorted(queues),)):
        dealer.count(queue, key, count)
    rated = [(queue, "") for queue in sorted(queues) if dealer.rate_of((queue, "")) is not None]
    await learn_starts(tx, dealer, rated)


async def _learn_starts_of(tx: Tx, dealer: Dealer, lanes: Sequence[Lane]) -> None:
    await learn_starts(tx, dealer, sorted({(lane.queue, lane.key) for lane in lanes}))


async def learn_starts(tx: Tx, dealer: Dealer, keys: Sequence[tuple[str, str]]) -> None:
    if not keys:
        return
    found = {(queue, key): marks for queue, key, marks in await tx.rows("starts_of", keys)}
    for key in keys:
        dealer.know(key, _starts(found.get(key)))


def _starts(marks: bytes | None) -> Starts | None:
    """None: what is stored of them is damaged."""
    if marks is None:
        return ()
    with suppress(UndecodablePayload):
        return starts_from_wire(marks)
    return None


# ----------------------------------------------------------------------------------------- limits


def limit_row(values: Any) -> LimitRow:
    queue, origin, *limits, set_us, by, at_limit = values
    return LimitRow(
        queue=queue,
        origin=LimitOrigin(origin),
        limits=QueueLimits.from_row((*limits, at_limit)),
        set_us=set_us,
        by=by,
    )


async def queue_limits(tx: Tx) -> list[LimitRow]:
    """By queue and origin."""
    return [limit_row(values) for values in await tx.all("queue_limits")]


async def set_limits(tx: Tx, change: SetLimits) -> None:
    if change.limits is None:
        await tx.run("drop_limits", (change.queue, change.origin))
        return
    *limits, at_limit = change.limits.to_row()
    values = (change.queue, change.origin, *limits, change.now_us, change.by, at_limit)
    await tx.run("put_limits", values)


async def store_starts(tx: Tx, dealer: Dealer, now_us: int) -> None:
    if not dealer.changed:
        return
    await tx.run("forget_starts", (now_us,))
    rows = [
        (*key, dealer.until_us(key), starts_to_wire(dealer.starts(key)))
        for key in sorted(dealer.changed)
    ]
    await tx.rows("put_starts", rows)
