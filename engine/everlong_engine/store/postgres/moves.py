"""Executions that leave for another store, and the room for those that come from one."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from everlong_engine.machine import moving
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.moves import Move, move_from_wire, turn_from_wire, turn_wire
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import MOVE, name_of_gone
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.store.postgres.pauses import is_held
from everlong_engine.store.postgres.rows import latest_run
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.upkeep import forget_execution

__all__ = ["leave", "make_room", "refuse_arrivals", "settle"]


async def leave(
    tx: Tx,
    now: Sequence[ExportedExecution],
    seen: Sequence[ExportedExecution],
    to: str,
) -> bool:
    """Mark a family as moved, if it is still the one that somebody has `seen`, and at rest."""
    if not moving.is_still_at_rest(now, seen):
        return False
    for one in now:
        last, move = one.last, moving.departure(one, to)
        await tx.run("depart_run", (to, last.shard, last.run_id))
        await tx.run("forget_pause", (last.shard, last.execution_id))
        await _note(tx, last, move)
    return True


async def settle(tx: Tx, left: Sequence[tuple[Target, int]], now_us: int, *, arrived: bool) -> bool:
    """End the moves of a family with these turns; False where they are not under way."""
    found: list[tuple[RunRow, Move]] = []
    for target, turn in left:
        row = await latest_run(tx, target)
        move = None if row is None else await _move(tx, row.shard, row.execution_id)
        if row is None or move is None or not (move.is_under_way and move.turn == turn):
            return False
        found.append((row, move))
    for row, move in found:
        key = (row.shard, row.execution_id)
        if arrived:
            closed_us = now_us if move.closed_us is None else move.closed_us
            values = (int(RunStatus.MOVED), closed_us, row.reason, None)
            await tx.run("settle_run", (*values, row.shard, row.run_id))
            for name in ("forget_mail", "forget_links_to", "forget_links_from"):
                await tx.run(name, key)
            for name in ("close_approvals", "drop_tasks"):
                await tx.run(name, (row.shard, row.run_id))
            await _note(tx, row, move.ended())
        else:
            await _stay(tx, row, move, now_us)
    return True


async def _stay(tx: Tx, row: RunRow, move: Move, now_us: int) -> None:
    if move.held is not None:
        names = (row.shard, row.execution_id, row.namespace, row.workflow_id)
        await tx.run("put_pause", (*names, *move.held))
    held = await is_held(tx, row.shard, row.execution_id, row.namespace, row.type)
    status = moving.status_on_return(move, held=held)
    wake_us = now_us if status is RunStatus.RUNNING else None
    values = (int(status), move.closed_us, move.reason, wake_us, row.shard, row.run_id)
    await tx.run("settle_run", values)
    await _note(tx, row, Move(turn=move.turn))


async def refuse_arrivals(tx: Tx, coming: Sequence[tuple[Target, int]], now_us: int) -> bool:
    """Let a family not arrive with these turns any more; False where it has."""
    await _lock(tx, (target.execution_id or b"" for target, _ in coming))
    for target, turn in coming:
        execution_id = target.execution_id
        assert execution_id is not None, "one that is known"
        if (await _move(tx, target.shard, execution_id)).turn >= turn:
            return False
    for target, turn in coming:
        assert target.execution_id is not None, "as above"
        name = name_of_gone(target.execution_id)
        await tx.run("put_gone", (target.namespace, name, now_us, turn_wire(turn)))
    return True


async def make_room(tx: Tx, executions: Sequence[ExportedExecution]) -> bool:
    """Take away what is left of executions that come back; whether they have come already.

    Raises:
        ImportRefused: they must not come, or not yet.
    """
    await _lock(tx, (one.last.execution_id for one in executions))
    here: list[bool] = []
    for one in executions:
        last, turn = one.last, moving.move_of(one).turn
        gone = (last.namespace, name_of_gone(last.execution_id))
        told = await tx.one("find_request_of_types", gone)
        if turn_from_wire(None if told is None else told[0]) >= turn:
            raise moving.is_called_off(last)
        known = await _move(tx, last.shard, last.execution_id)
        if known.turn > turn:
            raise moving.is_stale(last)
        here.append(known.turn == turn)
    if moving.all_or_none(here, executions[0].last):
        return True
    for one in executions:
        await _make_room(tx, one)
    return False


async def _make_room(tx: Tx, one: ExportedExecution) -> None:
    last, turn = one.last, moving.move_of(one).turn
    name = Target(last.shard, last.namespace, last.workflow_id)
    its_own = await latest_run(tx, Target(*_key(name), last.execution_id))
    known = await _move(tx, last.shard, last.execution_id)
    if its_own is not None and moving.left_behind(its_own, last.execution_id, known, turn):
        await forget_execution(tx, last.shard, last.execution_id)
    there = await latest_run(tx, name)
    if last.status.is_open and there is not None and there.status is RunStatus.MOVED:
        if (await _move(tx, there.shard, there.execution_id)).is_under_way:
            raise moving.is_elsewhere_by_now(last)
        await forget_execution(tx, there.shard, there.execution_id)


async def _lock(tx: Tx, executions: Iterable[bytes]) -> None:
    """Who lets executions in waits for who refuses them, although they have no rows yet."""
    digests = (blake2b(b"move" + one, digest_size=8).digest() for one in executions)
    names = sorted(int.from_bytes(one, signed=True) for one in digests)
    await tx.all("lock_names", (names,))


def _key(target: Target) -> tuple[int, str, str]:
    return target.shard, target.namespace, target.workflow_id


async def _move(tx: Tx, shard: int, execution_id: bytes) -> Move:
    found = await tx.one("find_request", (shard, execution_id, MOVE))
    return move_from_wire(None if found is None else found[0])


async def _note(tx: Tx, row: RunRow, move: Move) -> None:
    await tx.run("put_request", (row.shard, row.execution_id, MOVE, move.wire()))
