"""Holding executions, and letting them go on: one, all of a type, or everything.

A pause is a row beside the runs, and the status of each run that it holds. Appends and claims look
at the status alone, so nobody pays for what is not used, and nothing of a run is recorded behind
the commit of its pause. An owner keeps what it holds until the attempts that it has at work have
ended; a notice in its mail has it look.
"""

from collections.abc import Sequence
from typing import Any

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
from everlong_engine.store.interface import Wants
from everlong_engine.store.postgres.rows import (
    columns_of,
    latest_run,
    put_mail,
    read_run,
    sent_before,
)
from everlong_engine.store.postgres.statements import Tx

__all__ = [
    "blocked_shards",
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


async def pause_run(tx: Tx, pause: Pause) -> MessageResult:
    row = await latest_run(tx, pause.target)
    if row is None:
        return MessageResult(None)
    known = await sent_before(tx, pause.target, row, pause.request_id, pause.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not row.status.is_open:
        return MessageResult(row.status, row.run_id, row.execution_id)
    await _will_be_known(tx, row, pause)
    await hold(tx, row, pause.now_us, pause.by, pause.reason)
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


async def hold(tx: Tx, row: RunRow, now_us: int, by: str, reason: str) -> None:
    """Hold an open execution for its own sake; who was first has given the reason."""
    values = (row.shard, row.execution_id, row.namespace, row.workflow_id, now_us, by, reason)
    await tx.run("put_pause", values)
    if await tx.run("pause_run", (row.shard, row.run_id)) and row.owner is not None:
        await _notify(tx, row.shard, row.execution_id)


async def resume_run(tx: Tx, resume: Resume) -> MessageResult:
    row = await latest_run(tx, resume.target)
    if row is None:
        return MessageResult(None)
    known = await sent_before(tx, resume.target, row, resume.request_id, resume.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not row.status.is_open:
        return MessageResult(row.status, row.run_id, row.execution_id)
    await _will_be_known(tx, row, resume)
    key = (row.shard, row.execution_id)
    if resume.by is None:
        await tx.run("forget_pause", key)
    elif not await tx.run("forget_pause_of", (*key, resume.by)):
        return MessageResult(row.status, row.run_id, row.execution_id, row.owner)
    if resume.by is None or row.status is RunStatus.PAUSED:
        await _go_on(tx, row, resume.now_us)
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


async def _will_be_known(tx: Tx, row: RunRow, asked: Pause | Resume) -> None:
    key = (row.shard, row.execution_id)
    if asked.request_id is not None:
        await tx.run("insert_request", (*key, asked.request_id, b"accepted"))
    elif asked.sent is not None:
        await tx.run("count_sent", (*key, asked.sent.name, asked.sent.mark))


async def _go_on(tx: Tx, row: RunRow, now_us: int) -> None:
    """Let an open run be driven again, unless somebody still holds it."""
    held = await is_held(tx, row.shard, row.execution_id, row.namespace, row.type)
    key = (row.shard, row.run_id)
    if row.status is RunStatus.BLOCKED:
        status = RunStatus.PAUSED if held else RunStatus.RUNNING
        await tx.run("resume_run", (int(status), now_us, *key))
    elif not held:
        freed = await tx.run("unpause_run", (now_us, *key))
        if freed and row.owner is not None:
            await _notify(tx, row.shard, row.execution_id)


async def is_held(tx: Tx, shard: int, execution_id: bytes, namespace: str, kind: str) -> bool:
    """Whether somebody has paused an execution, or its type."""
    key = (shard, execution_id, namespace, kind)
    return bool((await tx.one("is_held", key))[0])


async def forget_pause(tx: Tx, row: RunRow) -> None:
    """An execution ends."""
    if row.status in (RunStatus.PAUSED, RunStatus.BLOCKED):
        await tx.run("forget_pause", (row.shard, row.execution_id))


async def hold_arrival(tx: Tx, row: RunRow, held: tuple[int, str, str] | None = None) -> None:
    """An execution has come from another store: what held it there holds it here, and so does what
    holds its type here."""
    is_paused = row.status is RunStatus.PAUSED
    if is_paused or (held is not None and row.status is RunStatus.BLOCKED):
        pause = held or (row.wake_us or row.started_us, "", PAUSED_ELSEWHERE)
        values = (row.shard, row.execution_id, row.namespace, row.workflow_id, *pause)
        await tx.run("put_pause", values)
    if is_paused:
        await tx.run("wake_at", (None, row.shard, row.run_id))
    elif row.status is RunStatus.RUNNING and await is_held(
        tx, row.shard, row.execution_id, row.namespace, row.type
    ):
        await tx.run("pause_run", (row.shard, row.run_id))


async def resume_blocked(
    tx: Tx, now_us: int, strikes: int, wants: Wants, shards: Sequence[int]
) -> None:
    """Other code has come. What is held as well is held from now on."""
    for status in (RunStatus.PAUSED, RunStatus.RUNNING):
        values = (int(status), now_us, strikes, wants.types, *columns_of(wants.pinned), shards)
        await tx.run("resume_blocked", values)


async def blocked_shards(tx: Tx, wants: Wants) -> list[int]:
    """Where there is anything that other code might drive."""
    types = [*wants.types, *(kind for kind, _ in wants.pinned)]
    return [shard for (shard,) in await tx.all("blocked_shards", (types,))]


# ------------------------------------------------------------------------------------------- many


async def pause_many(tx: Tx, pause: PauseMany) -> ManyResult:
    await tx.run("hold_types")
    before = await _answer_before(tx, pause)
    if before is not None:
        return before
    values = (pause.namespace, pause.type, pause.now_us, pause.by, pause.reason)
    await tx.run("put_pause_of_types", values)
    held = await tx.all("pause_runs", (pause.namespace, pause.type))
    return await _remember(tx, pause, held, found=True)


async def resume_many(tx: Tx, resume: ResumeMany) -> ManyResult:
    await tx.run("hold_types")
    before = await _answer_before(tx, resume)
    if before is not None:
        return before
    key = (resume.namespace, resume.type)
    found = await tx.run("forget_pause_of_types", key) > 0
    freed: list[tuple[Any, ...]] = []
    if found:
        freed = await tx.all("unpause_runs", (*key, resume.now_us))
    if resume.blocked:
        for shard, run_id in await tx.all("blocked_runs", key):
            row = await read_run(tx, shard, run_id)
            if row is not None:
                await _go_on(tx, row, resume.now_us)
                freed.append((shard, row.execution_id, None))
    return await _remember(tx, resume, freed, found=found)


async def _answer_before(tx: Tx, asked: PauseMany | ResumeMany) -> ManyResult | None:
    if asked.request_id is None:
        return None
    key = (asked.namespace, asked.request_id)
    told = await tx.one("find_request_of_types", key)
    return None if told is None else many_result(told[0])


async def _remember(
    tx: Tx,
    asked: PauseMany | ResumeMany,
    touched: list[tuple[Any, ...]],
    *,
    found: bool,
) -> ManyResult:
    owned: list[bytes] = []
    for shard, execution_id, owner in touched:
        if owner is not None:
            await _notify(tx, shard, execution_id)
            owned.append(execution_id)
    result = ManyResult(len(touched), tuple(owned), found)
    if asked.request_id is not None:
        values = (asked.namespace, asked.request_id, asked.now_us, many_wire(result))
        await tx.run("put_request_of_types", values)
    return result


async def _notify(tx: Tx, shard: int, execution_id: bytes) -> None:
    """Whoever has it in hand looks at its row, which tells the rest."""
    await put_mail(tx, shard, execution_id, *NOTICE, None)


# ------------------------------------------------------------------------------------------ looks


async def pause_of(
    tx: Tx, shard: int, execution_id: bytes, namespace: str, kind: str
) -> list[PauseRow]:
    """All that holds an execution."""
    found = await tx.one("pause_at", (shard, execution_id))
    own = [] if found is None else [_of_one(found)]
    types = await tx.all("pauses_of_types", (namespace, None))
    return [*own, *(row for row in map(_of_type, types) if row.type in (None, kind))]


async def pauses(tx: Tx, namespace: str, limit: int) -> list[PauseRow]:
    """Types first, then single executions, the oldest first."""
    types = await tx.all("pauses_of_types", (namespace, limit))
    single = await tx.all("pauses_of", (namespace, limit - len(types)))
    return [*map(_of_type, types), *map(_of_one, single)]


def _of_one(values: tuple[Any, ...]) -> PauseRow:
    namespace, workflow_id, execution_id, since_us, by, reason = values
    return PauseRow(
        namespace=namespace,
        workflow_id=workflow_id,
        execution_id=execution_id,
        since_us=since_us,
        by=by,
        reason=reason,
    )


def _of_type(values: tuple[Any, ...]) -> PauseRow:
    namespace, kind, since_us, by, reason = values
    return PauseRow(namespace=namespace, type=kind or None, since_us=since_us, by=by, reason=reason)
