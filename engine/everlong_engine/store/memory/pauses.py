"""Holding executions, and letting them go on: one, all of a type, or everything."""

from collections.abc import Iterable

from msgspec.structs import replace

from everlong_engine.machine.pauses import NOTICE, PAUSED_ELSEWHERE, many_result, many_wire
from everlong_engine.model.moves import MOVER
from everlong_engine.model.runs import PauseRow, Probation, RunRow, RunStatus
from everlong_engine.model.writes import (
    ManyResult,
    MessageResult,
    Pause,
    PauseMany,
    Resume,
    ResumeMany,
)
from everlong_engine.store.memory.data import MemoryData

__all__ = [
    "hold",
    "hold_arrival",
    "is_held",
    "pause_many",
    "pause_of",
    "pause_run",
    "pauses",
    "resume_many",
    "resume_run",
]


def pause_run(data: MemoryData, pause: Pause) -> MessageResult:
    """Hold an open execution; who was first has given the reason."""
    run = data.latest(pause.target)
    if run is None:
        return MessageResult(None)
    known = data.sent_before(pause.target, run, pause.request_id, pause.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not run.status.is_open:
        return MessageResult(run.status, run.run_id, run.execution_id)
    _will_be_known(data, run, pause)
    hold(data, run, pause.now_us, pause.by, pause.reason)
    return MessageResult(run.status, run.run_id, run.execution_id, run.owner)


def hold(data: MemoryData, run: RunRow, now_us: int, by: str, reason: str) -> None:
    """Hold an open execution for its own sake; who was first has given the reason."""
    before = data.pauses.rows.get(run.execution_id)
    if before is None or before.by == MOVER:  # Any other reason is the better one.
        row = PauseRow(
            namespace=run.namespace,
            workflow_id=run.workflow_id,
            execution_id=run.execution_id,
            since_us=now_us,
            by=by,
            reason=reason,
        )
        data.pauses.put(run.execution_id, row)
    if run.status is RunStatus.RUNNING:
        _hold(data, run)


def resume_run(data: MemoryData, resume: Resume) -> MessageResult:
    """Take its own pause away, and let it be tried again if it is blocked."""
    run = data.latest(resume.target)
    if run is None:
        return MessageResult(None)
    known = data.sent_before(resume.target, run, resume.request_id, resume.sent)
    if known is not None:
        return MessageResult(known.status, known.run_id, known.execution_id, duplicate=True)
    if not run.status.is_open:
        return MessageResult(run.status, run.run_id, run.execution_id)
    _will_be_known(data, run, resume)
    held = data.pauses.rows.get(run.execution_id)
    if resume.by is not None and (held is None or held.by != resume.by):
        return MessageResult(run.status, run.run_id, run.execution_id, run.owner)
    if held is not None:
        data.pauses.remove(run.execution_id)
    if resume.by is None or run.status is RunStatus.PAUSED:
        _go_on(data, run, resume.now_us)
    return MessageResult(run.status, run.run_id, run.execution_id, run.owner)


def _will_be_known(data: MemoryData, run: RunRow, asked: Pause | Resume) -> None:
    if asked.request_id is not None:
        data.requests.put((run.execution_id, asked.request_id), b"accepted")
    elif asked.sent is not None:
        data.requests.put((run.execution_id, asked.sent.name), asked.sent.mark)


def _hold(data: MemoryData, run: RunRow) -> None:
    data.runs.put(run.run_id, replace(run, status=RunStatus.PAUSED, wake_us=None))
    if run.owner is not None:
        data.put_mail(run.execution_id, *NOTICE, None)


def _go_on(data: MemoryData, run: RunRow, now_us: int) -> None:
    """Let an open run be driven again, unless somebody still holds it."""
    held = is_held(data, run.execution_id, run.namespace, run.type)
    if run.status is RunStatus.BLOCKED:
        awake = replace(
            run,
            status=RunStatus.PAUSED if held else RunStatus.RUNNING,
            wake_us=None if held else now_us,
            losses=0,
            strikes=0,
            probation=Probation.NONE,
            reason=None,
        )
        data.runs.put(run.run_id, awake)
    elif run.status is RunStatus.PAUSED and not held:
        wake_us = now_us if run.owner is None else None
        awake = replace(run, status=RunStatus.RUNNING, wake_us=wake_us, reason=None)
        data.runs.put(run.run_id, awake)
        if run.owner is not None:
            data.put_mail(run.execution_id, *NOTICE, None)


def is_held(data: MemoryData, execution_id: bytes, namespace: str, kind: str) -> bool:
    """Whether somebody has paused an execution, or its type."""
    types = data.pauses_of_types.rows
    return (
        execution_id in data.pauses.rows or (namespace, "") in types or (namespace, kind) in types
    )


def hold_arrival(data: MemoryData, run: RunRow, held: tuple[int, str, str] | None = None) -> None:
    """An execution has come from another store."""
    is_paused = run.status is RunStatus.PAUSED
    if is_paused or (held is not None and run.status is RunStatus.BLOCKED):
        since_us, by, reason = held or (run.wake_us or run.started_us, "", PAUSED_ELSEWHERE)
        row = PauseRow(
            namespace=run.namespace,
            workflow_id=run.workflow_id,
            execution_id=run.execution_id,
            since_us=since_us,
            by=by,
            reason=reason,
        )
        data.pauses.put(run.execution_id, row)
    if is_paused:
        data.runs.put(run.run_id, replace(run, wake_us=None))
    elif run.status is RunStatus.RUNNING and is_held(
        data, run.execution_id, run.namespace, run.type
    ):
        _hold(data, run)


# ------------------------------------------------------------------------------------------- many


def pause_many(data: MemoryData, pause: PauseMany) -> ManyResult:
    """Hold all open executions of a type, and those to come."""
    before = _answer_before(data, pause)
    if before is not None:
        return before
    key = (pause.namespace, pause.type)
    if key not in data.pauses_of_types.rows:
        row = PauseRow(
            namespace=pause.namespace,
            type=pause.type or None,
            since_us=pause.now_us,
            by=pause.by,
            reason=pause.reason,
        )
        data.pauses_of_types.put(key, row)
    held = _of_type(data, pause.namespace, pause.type, RunStatus.RUNNING)
    for run in held:
        _hold(data, run)
    return _remember(data, pause, held, found=True)


def resume_many(data: MemoryData, resume: ResumeMany) -> ManyResult:
    """Take such a pause away; what something else holds stays held."""
    before = _answer_before(data, resume)
    if before is not None:
        return before
    namespace, kind = resume.namespace, resume.type
    found = (namespace, kind) in data.pauses_of_types.rows
    freed: list[RunRow] = []
    if found:
        data.pauses_of_types.remove((namespace, kind))
        freed = [
            run
            for run in _of_type(data, namespace, kind, RunStatus.PAUSED)
            if not is_held(data, run.execution_id, namespace, run.type)
        ]
    if resume.blocked:
        freed += _of_type(data, namespace, kind, RunStatus.BLOCKED)
    for run in freed:
        _go_on(data, run, resume.now_us)
    return _remember(data, resume, freed, found=found)


def _of_type(data: MemoryData, namespace: str, kind: str, status: RunStatus) -> list[RunRow]:
    return [
        run
        for _, run in sorted(data.runs.rows.items())
        if run.status is status and run.namespace == namespace and kind in ("", run.type)
    ]


def _answer_before(data: MemoryData, asked: PauseMany | ResumeMany) -> ManyResult | None:
    if asked.request_id is None:
        return None
    told = data.requests_of_types.get((asked.namespace, asked.request_id))
    return None if told is None else many_result(told[1])


def _remember(
    data: MemoryData, asked: PauseMany | ResumeMany, touched: Iterable[RunRow], *, found: bool
) -> ManyResult:
    runs = list(touched)
    owned = tuple(run.execution_id for run in runs if run.owner is not None)
    result = ManyResult(len(runs), owned, found)
    if asked.request_id is not None:
        key = (asked.namespace, asked.request_id)
        data.requests_of_types.put(key, (asked.now_us, many_wire(result)))
    return result


# ------------------------------------------------------------------------------------------ looks


def pause_of(data: MemoryData, row: RunRow) -> list[PauseRow]:
    """All that holds an execution."""
    own = data.pauses.get(row.execution_id)
    types = _types(data, row.namespace)
    held = [one for one in types if one.type in (None, row.type)]
    return held if own is None else [own, *held]


def pauses(data: MemoryData, namespace: str, limit: int) -> list[PauseRow]:
    """Types first, then single executions, the oldest first."""
    single = [one for one in data.pauses.rows.values() if one.namespace == namespace]
    single.sort(key=lambda one: (one.since_us, one.execution_id or b""))
    return [*_types(data, namespace), *single][:limit]


def _types(data: MemoryData, namespace: str) -> list[PauseRow]:
    types = [one for one in data.pauses_of_types.rows.values() if one.namespace == namespace]
    return sorted(types, key=lambda one: (one.since_us, one.type or ""))
