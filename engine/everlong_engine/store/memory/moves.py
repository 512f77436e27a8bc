"""Executions that leave for another store, and the room for those that come from one."""

from collections.abc import Sequence

from msgspec.structs import replace

from everlong_engine.machine import moving
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.moves import Move, move_from_wire, turn_from_wire, turn_wire
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import MOVE, name_of_gone
from everlong_engine.model.runs import PauseRow, Probation, RunRow, RunStatus
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.pauses import is_held
from everlong_engine.store.memory.upkeep import forget_execution

__all__ = ["leave", "make_room", "refuse_arrivals", "settle"]


def leave(
    data: MemoryData,
    now: Sequence[ExportedExecution],
    seen: Sequence[ExportedExecution],
    to: str,
) -> bool:
    """Mark a family as moved, if it is still the one that somebody has `seen`, and at rest."""
    if not moving.is_still_at_rest(now, seen):
        return False
    for one in now:
        last, move = one.last, moving.departure(one, to)
        row = data.runs.rows[last.run_id]
        left = replace(
            row,
            status=RunStatus.MOVED,
            closed_us=None,
            owner=None,
            wake_us=None,
            probation=Probation.NONE,
            lease_token=row.lease_token + 1,
            reason=to,
        )
        data.runs.put(row.run_id, left)
        if last.execution_id in data.pauses.rows:
            data.pauses.remove(last.execution_id)
        _note(data, last, move)
    return True


def settle(
    data: MemoryData, left: Sequence[tuple[Target, int]], now_us: int, *, arrived: bool
) -> bool:
    """End the moves of a family with these turns; False where they are not under way."""
    found: list[tuple[RunRow, Move]] = []
    for target, turn in left:
        row = data.latest(target)
        move = None if row is None else _move(data, row.execution_id)
        if row is None or move is None or not (move.is_under_way and move.turn == turn):
            return False
        found.append((row, move))
    for row, move in found:
        if arrived:
            closed_us = now_us if move.closed_us is None else move.closed_us
            data.runs.put(row.run_id, replace(row, closed_us=closed_us))
            data.forget_mail(row.execution_id)
            key = row.execution_id
            for link in [*data.links_to.keys(key), *data.links_from.keys(key)]:
                if link in data.links.rows:
                    data.links.remove(link)
            data.close_approvals(row.run_id)
            data.drop_tasks(row.run_id)
            _note(data, row, move.ended())
        else:
            _stay(data, row, move, now_us)
    return True


def _stay(data: MemoryData, row: RunRow, move: Move, now_us: int) -> None:
    if move.held is not None:
        since_us, by, reason = move.held
        pause = PauseRow(
            namespace=row.namespace,
            workflow_id=row.workflow_id,
            execution_id=row.execution_id,
            since_us=since_us,
            by=by,
            reason=reason,
        )
        data.pauses.put(row.execution_id, pause)
    held = is_held(data, row.execution_id, row.namespace, row.type)
    status = moving.status_on_return(move, held=held)
    wake_us = now_us if status is RunStatus.RUNNING else None
    back = replace(
        row, status=status, closed_us=move.closed_us, reason=move.reason, wake_us=wake_us
    )
    data.runs.put(row.run_id, back)
    _note(data, row, Move(turn=move.turn))


def refuse_arrivals(data: MemoryData, coming: Sequence[tuple[Target, int]], now_us: int) -> bool:
    """Let a family not arrive with these turns any more; False where it has."""
    for target, turn in coming:
        assert target.execution_id is not None, "one that is known"
        if _move(data, target.execution_id).turn >= turn:
            return False
    for target, turn in coming:
        assert target.execution_id is not None, "as above"
        key = (target.namespace, name_of_gone(target.execution_id))
        data.requests_of_types.put(key, (now_us, turn_wire(turn)))
    return True


def make_room(data: MemoryData, executions: Sequence[ExportedExecution]) -> bool:
    """Take away what is left of executions that come back; whether they have come already."""
    here: list[bool] = []
    for one in executions:
        last, turn = one.last, moving.move_of(one).turn
        gone = (last.namespace, name_of_gone(last.execution_id))
        told = data.requests_of_types.rows.get(gone)
        if turn_from_wire(None if told is None else told[1]) >= turn:
            raise moving.is_called_off(last)
        known = _move(data, last.execution_id)
        if known.turn > turn:
            raise moving.is_stale(last)
        here.append(known.turn == turn)
    if moving.all_or_none(here, executions[0].last):
        return True
    for one in executions:
        _make_room(data, one)
    return False


def _make_room(data: MemoryData, one: ExportedExecution) -> None:
    last, turn = one.last, moving.move_of(one).turn
    its_own = data.latest(Target(0, last.namespace, last.workflow_id, last.execution_id))
    known = _move(data, last.execution_id)
    if its_own is not None and moving.left_behind(its_own, last.execution_id, known, turn):
        forget_execution(data, last.execution_id)
    there = data.latest(Target(0, last.namespace, last.workflow_id))
    if last.status.is_open and there is not None and there.status is RunStatus.MOVED:
        if _move(data, there.execution_id).is_under_way:
            raise moving.is_elsewhere_by_now(last)
        forget_execution(data, there.execution_id)


def _move(data: MemoryData, execution_id: bytes) -> Move:
    return move_from_wire(data.requests.rows.get((execution_id, MOVE)))


def _note(data: MemoryData, row: RunRow, move: Move) -> None:
    data.requests.put((row.execution_id, MOVE), move.wire())
