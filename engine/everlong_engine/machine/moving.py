"""What becomes of an execution on its way from one store to another. Pure: rows in, rows out.

It leaves as it stands, at rest, and arrives as it stood. The store that it has left keeps a copy,
from which it is brought however often that must be tried, until it is known to have arrived.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from everlong_engine.model.errors import ImportRefused
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.moves import MOVER, Move, move_from_wire
from everlong_engine.model.requests import MOVE
from everlong_engine.model.runs import AttemptState, PauseRow, RunRow, RunStatus

__all__ = [
    "Rehearsed",
    "all_or_none",
    "as_it_stood",
    "bringing",
    "departure",
    "held_by",
    "is_called_off",
    "is_elsewhere_by_now",
    "is_stale",
    "is_still_at_rest",
    "left_behind",
    "move_of",
    "outsiders",
    "status_on_return",
    "unfinished",
]


class Rehearsed(Exception):
    """It could be stored, and was not: nobody had asked for more."""


def move_of(execution: ExportedExecution) -> Move:
    """Where an execution was said to be. Raises UndecodablePayload."""
    return move_from_wire(dict(execution.requests).get(MOVE))


def held_by(pauses: Sequence[PauseRow], reason: str) -> tuple[int, str, str] | None:
    """What holds an execution and goes with it; of a whole type, only that it does (`reason`)."""
    for one in pauses:
        if one.execution_id is None:
            return one.since_us, one.by, reason
        if one.by != MOVER:
            return one.since_us, one.by, one.reason
    return None


def outsiders(family: Sequence[ExportedExecution]) -> list[tuple[str, str]]:
    """(who, for whom): who waits for one of the family and would stay behind."""
    own = {one.last.execution_id for one in family}
    return [
        (link.waiter, link.workflow_id)
        for one in family
        for link in one.links
        if link.execution_id == one.last.execution_id and link.waiter_id not in own
    ]


def unfinished(execution: ExportedExecution) -> bool:
    """Whether somebody still has it, or one of its calls, in hand."""
    run = execution.runs[-1]
    if not run.row.status.is_open:
        return False
    taken = any(one.state is AttemptState.TAKEN for one in run.attempts)
    return run.row.owner is not None or run.row.status is RunStatus.RUNNING or taken


def is_still_at_rest(now: Sequence[ExportedExecution], seen: Sequence[ExportedExecution]) -> bool:
    """Whether these are the same executions, and none of them has gone on since. What somebody has
    said to them meanwhile changes nothing: it goes with them."""
    return [_standing(one) for one in now] == [_standing(one) for one in seen] and not any(
        unfinished(one) for one in now
    )


def _standing(one: ExportedExecution) -> tuple[object, ...]:
    row = one.last
    return row.run_id, row.next_seq, row.status, row.owner, set(one.links)


def departure(execution: ExportedExecution, to: str) -> Move:
    """What the store that it leaves remembers."""
    last = execution.last
    return Move(
        turn=move_of(execution).turn + 1,
        to=to,
        status=last.status,
        closed_us=last.closed_us,
        reason=last.reason,
        held=execution.held,
    )


def as_it_stood(execution: ExportedExecution) -> ExportedExecution:
    """One that has left, as it was when it did."""
    move, last = move_of(execution), execution.runs[-1]
    row = replace(last.row, status=move.status, closed_us=move.closed_us, reason=move.reason)
    runs = (*execution.runs[:-1], replace(last, row=row))
    return replace(execution, runs=runs, held=move.held)


def bringing(execution: ExportedExecution, turn: int) -> ExportedExecution:
    """The same as the other store takes it in: what was held only to be moved goes on."""
    requests = {**dict(execution.requests), MOVE: Move(turn=turn).wire()}
    last = execution.runs[-1]
    if last.row.status is RunStatus.PAUSED and execution.held is None:
        row = replace(last.row, status=RunStatus.RUNNING)
        execution = replace(execution, runs=(*execution.runs[:-1], replace(last, row=row)))
    return replace(execution, requests=tuple(sorted(requests.items())))


def status_on_return(move: Move, *, held: bool) -> RunStatus:
    """How a run stands that goes on where it was after all."""
    if move.status in (RunStatus.PAUSED, RunStatus.RUNNING):
        return RunStatus.PAUSED if held else RunStatus.RUNNING
    return move.status


# ------------------------------------------------------------------------ what stands in the way


def left_behind(there: RunRow, execution_id: bytes, known: Move, turn: int) -> bool:
    """Whether what is here of an execution is only what it left when it went away from here."""
    is_it = there.execution_id == execution_id and there.status is RunStatus.MOVED
    return is_it and known.turn < turn


def is_stale(row: RunRow) -> ImportRefused:
    return ImportRefused(
        workflow_id=row.workflow_id,
        reason="it has been here since, and was moved on: look where it is now",
    )


def is_called_off(row: RunRow) -> ImportRefused:
    return ImportRefused(
        workflow_id=row.workflow_id, reason="its move was called off: move it once more"
    )


def is_elsewhere_by_now(row: RunRow) -> ImportRefused:
    return ImportRefused(
        workflow_id=row.workflow_id,
        reason="another execution with its id was moved from here, and nobody has seen it arrive: "
        "let that move end first, with the same command once more",
    )


def all_or_none(known: Iterable[bool], row: RunRow) -> bool:
    """Whether a family has arrived already. Raises ImportRefused where a part of it has."""
    found = list(known)
    if any(found) and not all(found):
        raise is_stale(row)
    return bool(found) and all(found)
