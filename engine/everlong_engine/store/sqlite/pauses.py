"""Holding executions, and letting them go on: one, all of a type, or everything.

A pause is a row beside the runs, and the status of each run that it holds. Appends and claims look
at the status alone, so nobody pays for what is not used, and nothing of a run is recorded behind
the commit of its pause. An owner keeps what it holds until the attempts that it has at work have
ended; a notice in its mail has it look.
"""

from sqlite3 import Connection
from typing import Any, Final

from everlong_engine.machine.pauses import NOTICE, PAUSED_ELSEWHERE, many_result, many_wire
from everlong_engine.model.runs import PauseRow, RunRow, RunStatus
from everlong_engine.model.writes import (
    ManyResult,
    MessageResult,
    Pause,
    PauseMany,
    Resume,
    ResumeMany,
)
from everlong_engine.store.sqlite.columns import COLUMNS, check, fetch_one
from everlong_engine.store.sqlite.rows import latest_run, put_mail, read_run, sent_before
from everlong_engine.store.sqlite.statements import SQL

__all__ = [
    "forget_pause",
    "hold",
    "hold_arrival",
    "is_held",
    "pause_many",
    "pause_of",
    "pause_run",
    "pauses",
    "resume_blocked",
    "resume_many",
    "resume_run",
]


def pause_run(tx: Connection, pause: Pause) -> MessageResult:
    row = latest_run(tx, pause.target)
    if row is None:
        return MessageResult(None)
    known = sent_before(tx, pause.target, row, pause.request_id, pause.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not row.status.is_open:
        return MessageResult(row.status, row.run_id, row.execution_id)
    _will_be_known(tx, row, pause)
    hold(tx, row, pause.now_us, pause.by, pause.reason)
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


def hold(tx: Connection, row: RunRow, now_us: int, by: str, reason: str) -> None:
    """Hold an open execution for its own sake; who was first has given the reason."""
    values = (row.shard, row.execution_id, row.namespace, row.workflow_id, now_us, by, reason)
    tx.execute(SQL["put_pause"], values)
    if tx.execute(SQL["pause_run"], (row.shard, row.run_id)).rowcount and row.owner is not None:
        _notify(tx, row.shard, row.execution_id)


def resume_run(tx: Connection, resume: Resume) -> MessageResult:
    row = latest_run(tx, resume.target)
    if row is None:
        return MessageResult(None)
    known = sent_before(tx, resume.target, row, resume.request_id, resume.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not row.status.is_open:
        return MessageResult(row.status, row.run_id, row.execution_id)
    _will_be_known(tx, row, resume)
    key = (row.shard, row.execution_id)
    if resume.by is None:
        tx.execute(SQL["forget_pause"], key)
    elif not tx.execute(SQL["forget_pause_of"], (*key, resume.by)).rowcount:
        return MessageResult(row.status, row.run_id, row.execution_id, row.owner)
    if resume.by is None or row.status is RunStatus.PAUSED:
        _go_on(tx, row, resume.now_us)
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


def _will_be_known(tx: Connection, row: RunRow, asked: Pause | Resume) -> None:
    key = (row.shard, row.execution_id)
    if asked.request_id is not None:
        tx.execute(SQL["insert_request"], (*key, asked.request_id, b"accepted"))
    elif asked.sent is not None:
        tx.execute(SQL["count_sent"], (*key, asked.sent.name, asked.sent.mark))


def _go_on(tx: Connection, row: RunRow, now_us: int) -> None:
    """Let an open run be driven again, unless somebody still holds it."""
    held = is_held(tx, row.shard, row.execution_id, row.namespace, row.type)
    key = (row.shard, row.run_id)
    if row.status is RunStatus.BLOCKED:
        status = RunStatus.PAUSED if held else RunStatus.RUNNING
        tx.execute(SQL["resume_run"], (int(status), now_us, *key))
    elif not held:
        freed = tx.execute(SQL["unpause_run"], (now_us, *key)).rowcount
        if freed and row.owner is not None:
            _notify(tx, row.shard, row.execution_id)


def is_held(tx: Connection, shard: int, execution_id: bytes, namespace: str, kind: str) -> bool:
    """Whether somebody has paused an execution, or its type."""
    key = (shard, execution_id, namespace, kind)
    return bool(tx.execute(SQL["is_held"], key).fetchone()[0])


def forget_pause(tx: Connection, row: RunRow) -> None:
    """An execution ends."""
    if row.status in (RunStatus.PAUSED, RunStatus.BLOCKED):
        tx.execute(SQL["forget_pause"], (row.shard, row.execution_id))


def hold_arrival(tx: Connection, row: RunRow, held: tuple[int, str, str] | None = None) -> None:
    """An execution has come from another store: what held it there holds it here, and so does what
    holds its type here."""
    is_paused = row.status is RunStatus.PAUSED
    if is_paused or (held is not None and row.status is RunStatus.BLOCKED):
        pause = held or (row.wake_us or row.started_us, "", PAUSED_ELSEWHERE)
        values = (row.shard, row.execution_id, row.namespace, row.workflow_id, *pause)
        tx.execute(SQL["put_pause"], values)
    if is_paused:
        tx.execute(SQL["wake_at"], (None, row.shard, row.run_id))
    elif row.status is RunStatus.RUNNING and is_held(
        tx, row.shard, row.execution_id, row.namespace, row.type
    ):
        tx.execute(SQL["pause_run"], (row.shard, row.run_id))


def resume_blocked(tx: Connection, now_us: int, strikes: int, types: str, pinned: str) -> None:
    """Other code has come. What is held as well is held from now on."""
    for status in (RunStatus.PAUSED, RunStatus.RUNNING):
        tx.execute(SQL["resume_blocked"], (int(status), now_us, strikes, types, pinned))


# ------------------------------------------------------------------------------------------- many


def pause_many(tx: Connection, pause: PauseMany) -> ManyResult:
    before = _answer_before(tx, pause)
    if before is not None:
        return before
    values = (pause.namespace, pause.type, pause.now_us, pause.by, pause.reason)
    tx.execute(SQL["put_pause_of_types"], values)
    held = tx.execute(SQL["pause_runs"], (pause.namespace, pause.type)).fetchall()
    return _remember(tx, pause, held, found=True)


def resume_many(tx: Connection, resume: ResumeMany) -> ManyResult:
    before = _answer_before(tx, resume)
    if before is not None:
        return before
    key = (resume.namespace, resume.type)
    found = tx.execute(SQL["forget_pause_of_types"], key).rowcount > 0
    freed: list[tuple[Any, ...]] = []
    if found:
        freed = tx.execute(SQL["unpause_runs"], (*key, resume.now_us)).fetchall()
    if resume.blocked:
        for shard, run_id in tx.execute(SQL["blocked_runs"], key).fetchall():
            row = read_run(tx, shard, run_id)
            if row is not None:
                _go_on(tx, row, resume.now_us)
                freed.append((shard, row.execution_id, None))
    return _remember(tx, resume, freed, found=found)


def _answer_before(tx: Connection, asked: PauseMany | ResumeMany) -> ManyResult | None:
    if asked.request_id is None:
        return None
    key = (asked.namespace, asked.request_id)
    told = tx.execute(SQL["find_request_of_types"], key).fetchone()
    return None if told is None else many_result(told[0])


def _remember(
    tx: Connection,
    asked: PauseMany | ResumeMany,
    touched: list[tuple[Any, ...]],
    *,
    found: bool,
) -> ManyResult:
    owned: list[bytes] = []
    for shard, execution_id, owner in touched:
        if owner is not None:
            _notify(tx, shard, execution_id)
            owned.append(execution_id)
    result = ManyResult(len(touched), tuple(owned), found)
    if asked.request_id is not None:
        values = (asked.namespace, asked.request_id, asked.now_us, many_wire(result))
        tx.execute(SQL["put_request_of_types"], values)
    return result


def _notify(tx: Connection, shard: int, execution_id: bytes) -> None:
    """Whoever has it in hand looks at its row, which tells the rest."""
    put_mail(tx, shard, execution_id, *NOTICE, None)


# ------------------------------------------------------------------------------------------ looks

_ONE: Final = "pauses"
_TYPE: Final = "pauses_of_types"


def pause_of(
    tx: Connection, shard: int, execution_id: bytes, namespace: str, kind: str
) -> list[PauseRow]:
    """All that holds an execution."""
    found = fetch_one(tx, SQL["pause_at"], (shard, execution_id), "a pause")
    own = [] if found is None else [_of_one(found)]
    types = tx.execute(SQL["pauses_of_types"], (namespace, -1)).fetchall()
    return [*own, *(row for row in map(_of_type, types) if row.type in (None, kind))]


def pauses(tx: Connection, namespace: str, limit: int) -> list[PauseRow]:
    """Types first, then single executions, the oldest first."""
    types = tx.execute(SQL["pauses_of_types"], (namespace, limit)).fetchall()
    single = tx.execute(SQL["pauses_of"], (namespace, limit - len(types))).fetchall()
    return [*map(_of_type, types), *map(_of_one, single)]


def _of_one(values: tuple[Any, ...]) -> PauseRow:
    namespace, workflow_id, execution_id, since_us, by, reason = values
    whole = (0, execution_id, namespace, workflow_id, since_us, by, reason)
    check(_ONE, COLUMNS[_ONE], whole, f"the pause of {workflow_id!s:.100}")
    return PauseRow(
        namespace=namespace,
        workflow_id=workflow_id,
        execution_id=execution_id,
        since_us=since_us,
        by=by,
        reason=reason,
    )


def _of_type(values: tuple[Any, ...]) -> PauseRow:
    check(_TYPE, COLUMNS[_TYPE], values, f"the pause of the type {values[1]!s:.100}")
    namespace, kind, since_us, by, reason = values
    return PauseRow(namespace=namespace, type=kind or None, since_us=since_us, by=by, reason=reason)
