"""Who takes what from task queues: within their limits, by urgency, fairly between keys."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from sqlite3 import Connection
from typing import Any, Final

from everlong_engine.machine.lanes import Dealer, Lane
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import ActivityScheduled
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
from everlong_engine.model.tasks import TakenTask, TaskClaim, TaskWants
from everlong_engine.model.writes import MarkAttempts
from everlong_engine.store.sqlite import reads
from everlong_engine.store.sqlite.columns import COLUMNS, check, named
from everlong_engine.store.sqlite.leases import put_attempts
from everlong_engine.store.sqlite.rows import read_run
from everlong_engine.store.sqlite.statements import SQL
from everlong_engine.store.sqlite.tasks import drop_unreadable, task_row

__all__ = [
    "keys_of",
    "limit_row",
    "next_task",
    "queue_limits",
    "ranks_of",
    "set_limits",
    "starts_of",
    "store_starts",
    "take_tasks",
]

_RANK_MAX: Final = (1 << 63) - 1
_RANK_MIN: Final = -_RANK_MAX - 1


def take_tasks(tx: Connection, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
    """What may begin now, and when there is more. What cannot be read is parked with its run."""
    dealer = Dealer(_limits_in_force(tx, wants), now_us, wants.after)
    lanes, held_back = _lanes(tx, dealer, wants, now_us)
    taken: list[TakenTask] = []
    while lanes and len(taken) < limit:
        dealt = dealer.deal(lanes, limit - len(taken))
        if not dealt:
            break
        for lane, quota in dealt:
            due = tx.execute(SQL["due_tasks"], (*_of(lane), now_us, quota)).fetchall()
            begun = _take_all(tx, wants, due, now_us)
            taken += begun
            dealer.note(lane, len(begun))
            if len(due) < quota:
                del lanes[lane]
    store_starts(tx, dealer, now_us)
    if len(taken) >= limit:
        return TaskClaim(taken, now_us)
    later = (next_task(tx, wants, now_us), dealer.next_us([*held_back, *lanes]))
    next_us = min((one for one in later if one is not None), default=None)
    return TaskClaim(taken, next_us, any(dealer.room(lane) <= 0 for lane in (*held_back, *lanes)))


def _of(lane: Lane) -> tuple[str, str, int, str]:
    return lane.queue, lane.activity, lane.rank, lane.key


def _take_all(
    tx: Connection, wants: TaskWants, due: Iterable[tuple[int, bytes, int]], now_us: int
) -> list[TakenTask]:
    taken: list[TakenTask] = []
    for key in due:
        try:
            taken.append(_take(tx, wants, key, now_us))
        except UndecodablePayload as error:
            drop_unreadable(tx, key, AttemptState.NOT_BEGUN, error)
    return taken


def _take(tx: Connection, wants: TaskWants, key: tuple[int, bytes, int], now_us: int) -> TakenTask:
    row = task_row(tx.execute(SQL["task_at"], key).fetchone())
    run = read_run(tx, *key[:2])
    if run is None:
        raise UndecodablePayload("its run is not there")
    scheduled = reads.event(tx, *key[:2], row.task.seq)
    if scheduled is None or not isinstance(scheduled.event, ActivityScheduled):
        raise UndecodablePayload(f"event {row.task.seq} schedules no activity")
    started = AttemptRow(
        activity_id=row.task.activity_id,
        attempt=row.task.attempt,
        state=AttemptState.TAKEN,
        started_us=now_us,
        worker=wants.worker,
    )
    found = tx.execute(SQL["details_of_task"], (*key, row.task.attempt)).fetchone()
    details, details_of = (None, 0) if found is None else found
    if not isinstance(details, bytes | None) or type(details_of) is not int:
        raise UndecodablePayload(f"what is known of activity {row.task.activity_id} is damaged")
    tx.execute(SQL["take_task"], (wants.worker_id, *key))
    put_attempts(tx, MarkAttempts(*key[:2], 0, (started,)))
    return TakenTask(row.task, run, scheduled, row.token + 1, details, details_of)


def next_task(tx: Connection, wants: TaskWants, after_us: int = -1) -> int | None:
    """When the next one is due that the worker may take, limits aside."""
    pairs = _pairs(tx, wants)
    due = [tx.execute(SQL["next_task"], (*pair, after_us)).fetchone() for pair in pairs]
    return min((one[0] for one in due if one and isinstance(one[0], int)), default=None)


# ------------------------------------------------------------------------------------------ lanes


def _pairs(tx: Connection, wants: TaskWants) -> list[tuple[str, str]]:
    """Queue and activity of what waits, as far as the worker may take it."""
    pairs: list[tuple[str, str]] = []
    pair = tx.execute(SQL["waiting_tasks"], ("", "")).fetchone()
    while pair is not None:
        if wants.takes(*pair):
            pairs.append(pair)
        pair = tx.execute(SQL["waiting_tasks"], pair).fetchone()
    return pairs


def _lanes(
    tx: Connection, dealer: Dealer, wants: TaskWants, now_us: int
) -> tuple[dict[Lane, int], list[Lane]]:
    """Lanes of which something is due, and since when: those with room, up to so many of a shelf;
    and others."""
    open_lanes: dict[Lane, int] = {}
    held_back: list[Lane] = []
    counted: set[str] = set()
    for queue, activity in _pairs(tx, wants):
        if queue not in counted:
            counted.add(queue)
            _count(tx, dealer, queue)
        for rank in ranks_of(tx, "next_rank", (queue, activity)):
            with_room = 0
            for lane, due_us in _of_shelf(tx, (queue, activity, rank), wants.after, now_us):
                if dealer.needs_starts(lane):
                    dealer.know((queue, lane.key), starts_of(tx, queue, lane.key))
                if dealer.room(lane) <= 0:
                    held_back.append(lane)
                    continue
                open_lanes[lane] = due_us
                with_room += 1
                if with_room >= LANES_MAX:
                    break
    return open_lanes, held_back


def ranks_of(tx: Connection, query: str, shelf: tuple[str, ...]) -> Iterator[int]:
    """The ranks of which something waits, the most urgent first."""
    rank = _RANK_MIN
    while True:
        found = tx.execute(SQL[query], (*shelf, rank)).fetchone()
        if found is None:
            return
        rank = found[0]
        if isinstance(rank, int):  # Else it is damaged: `verify` names it.
            yield rank


def keys_of(
    tx: Connection, query: str, shelf: tuple[str | int, ...], after: str
) -> Iterator[tuple[str, Any]]:
    """The keys of which something waits, and since when: those behind that which was served last
    come first."""
    ranges = ((after, None), ("", after)) if after else (("", None),)
    for low, most in ranges:
        key: object = low
        while True:
            found = tx.execute(SQL[query], (*shelf, key)).fetchone()
            if found is None:
                break
            key = found[0]
            if not isinstance(key, str):  # Damaged, as above.
                continue
            if most is not None and key > most:
                break
            yield key, found[1]


def _of_shelf(
    tx: Connection, shelf: tuple[str, str, int], after: str, now_us: int
) -> Iterator[tuple[Lane, int]]:
    """Its lanes with something due."""
    found = tx.execute(SQL["lane_without_key"], shelf).fetchone()
    if found is not None and _is_due(found[0], now_us):
        yield Lane(*shelf, ""), found[0]
    for key, due_us in keys_of(tx, "next_key", shelf, after):
        if _is_due(due_us, now_us):
            yield Lane(*shelf, key), due_us


def _is_due(value: object, now_us: int) -> bool:
    return isinstance(value, int) and value <= now_us


# ----------------------------------------------------------------------------------------- limits


def _limits_in_force(tx: Connection, wants: TaskWants) -> Mapping[str, QueueLimits]:
    rows = queue_limits(tx)
    return {
        row.queue: row.limits
        for row in sorted(rows, key=lambda row: row.origin)
        if wants.queues is None or row.queue in wants.queues
    }


def queue_limits(tx: Connection) -> list[LimitRow]:
    """By queue and origin. Raises UndecodablePayload: a damaged row; without it nobody may say how
    many may begin."""
    return [limit_row(values) for values in tx.execute(SQL["queue_limits"]).fetchall()]


def limit_row(values: Sequence[Any]) -> LimitRow:
    """Raises UndecodablePayload."""
    check("queue_limits", COLUMNS["queue_limits"], values, f"a limit of {named(values[0])}")
    queue, origin, *limits, set_us, by, at_limit = values
    return LimitRow(
        queue=queue,
        origin=LimitOrigin(origin),
        limits=QueueLimits.from_row((*limits, at_limit)),
        set_us=set_us,
        by=by,
    )


def set_limits(tx: Connection, change: SetLimits) -> None:
    if change.limits is None:
        tx.execute(SQL["drop_limits"], (change.queue, change.origin))
        return
    *limits, at_limit = change.limits.to_row()
    values = (change.queue, change.origin, *limits, change.now_us, change.by, at_limit)
    tx.execute(SQL["put_limits"], values)


def _count(tx: Connection, dealer: Dealer, queue: str) -> None:
    for key, count in tx.execute(SQL["tasks_at_work"], (queue,)).fetchall():
        dealer.count(queue, key, count)
    if dealer.rate_of((queue, "")) is not None:
        dealer.know((queue, ""), starts_of(tx, queue, ""))


def starts_of(tx: Connection, queue: str, key: str) -> Starts | None:
    """None: what is stored of them is damaged."""
    found = tx.execute(SQL["starts_of"], (queue, key)).fetchone()
    if found is None:
        return ()
    with suppress(UndecodablePayload):
        if isinstance(found[0], bytes):
            return starts_from_wire(found[0])
    return None


def store_starts(tx: Connection, dealer: Dealer, now_us: int) -> None:
    if not dealer.changed:
        return
    tx.execute(SQL["forget_starts"], (now_us,))
    for key in sorted(dealer.changed):
        tx.execute(
            SQL["put_starts"], (*key, dealer.until_us(key), starts_to_wire(dealer.starts(key)))
        )
