"""What becomes of an exported execution where it arrives. Pure: rows in, rows out.

An open run that a worker had in its hands arrives as if that worker had died: an attempt that may
have begun there is lost, and its retry policy says what follows. Everything else goes on as it
stood. Under another id an execution is another one: its runs get new ids, and what other
executions and senders knew of the old one stays behind.
"""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from everlong_engine.machine.state import fold
from everlong_engine.machine.tagging import tags_in
from everlong_engine.machine.takeover import judge
from everlong_engine.model.codec import checksum, decode_event, encode_event
from everlong_engine.model.errors import ImportRefused, WorkflowAlreadyStarted
from everlong_engine.model.events import (
    CODES,
    ActivityCompleted,
    ActivityFailed,
    ApprovalAnswered,
    ChildClosed,
    ChildStarted,
    ChildStartFailed,
    Event,
    ExternalAnswered,
    RunStarted,
    RunTerminated,
)
from everlong_engine.model.exported import ExportedExecution, ExportedMail, ExportedRun
from everlong_engine.model.ids import id_text
from everlong_engine.model.runs import AttemptRow, AttemptState, Link, RunRow, RunStatus
from everlong_engine.model.tags import Tags

__all__ = [
    "arriving",
    "closed_on_arrival",
    "is_here",
    "is_open_here",
    "is_requested_here",
    "renamed",
    "tags_on_arrival",
    "waits_elsewhere",
    "waits_for_others",
]

_THERE: Final = "of the store that it was exported from"


def arriving(execution: ExportedExecution, shard: int, now_us: int) -> ExportedExecution:
    """The rows that the store keeps: nobody's, and due if they are open."""
    left = [replace(run, attempts=_out_of_queues(run.attempts)) for run in execution.runs]
    execution = replace(execution, runs=tuple(left))
    runs = [
        replace(run, row=replace(run.row, shard=shard, owner=None, wake_us=None))
        for run in execution.runs
    ]
    last = execution.runs[-1]
    status = last.row.status
    if status.is_open:
        attempts = last.attempts
        if last.row.owner is not None:
            verdict = judge(execution.load(last), _THERE, now_us)
            attempts = _with(attempts, verdict.lost)
        wake_us = None if status is RunStatus.BLOCKED else now_us
        runs[-1] = replace(runs[-1], row=replace(runs[-1].row, wake_us=wake_us), attempts=attempts)
    links = tuple(replace(link, shard=shard) for link in execution.links)
    return replace(execution, runs=tuple(runs), links=links)


def _out_of_queues(attempts: tuple[AttemptRow, ...]) -> tuple[AttemptRow, ...]:
    """Task queues stay behind: what waited there has not begun, what somebody had may have."""
    becomes = {
        AttemptState.QUEUED: AttemptState.NOT_BEGUN,
        AttemptState.TAKEN: AttemptState.STARTED,
    }
    return tuple(replace(row, state=becomes.get(row.state, row.state)) for row in attempts)


def _with(attempts: tuple[AttemptRow, ...], lost: tuple[AttemptRow, ...]) -> tuple[AttemptRow, ...]:
    rows = {(row.activity_id, row.attempt): row for row in (*attempts, *lost)}
    return tuple(row for _, row in sorted(rows.items()))


def tags_on_arrival(execution: ExportedExecution, run: ExportedRun) -> Tags:
    """What a run is found by. It follows from its events, so it does not travel.

    Raises:
        UndecodablePayload: one of them cannot be read.
    """
    stored = [(kind, body) for _, kind, _, body, _ in run.history]
    if not stored and run is execution.runs[-1]:
        stored = [(one.kind, one.body) for one in execution.mail]
    return tags_in(stored, execution.blobs)


def closed_on_arrival(execution: ExportedExecution, now_us: int, reason: str) -> ExportedExecution:
    """The same, terminated: to be looked at, and not to go on."""
    last = execution.runs[-1]
    if not last.row.status.is_open:
        return execution
    kind, body = encode_event(RunTerminated(reason), {})
    seq = last.row.next_seq
    at_us = max([now_us, *(row[2] for row in last.history[-1:])])
    row = replace(
        last.row,
        status=RunStatus.TERMINATED,
        next_seq=seq + 1,
        closed_us=at_us,
        owner=None,
        reason=None,
    )
    history = (*last.history, (seq, kind, at_us, body, checksum(seq, kind, body)))
    approvals = tuple(one for one in last.approvals if one.answer is not None)
    run = replace(last, row=row, history=history, approvals=approvals)
    own = {run.row.run_id for run in execution.runs}
    return replace(
        execution,
        runs=(*execution.runs[:-1], run),
        mail=(),
        links=(),
        # What only its mail referred to is nobody's now, unless a run bears the execution's id.
        blob_uses=tuple(use for use in execution.blob_uses if use[0] in own),
    )


def waits_for_others(execution: ExportedExecution) -> bool:
    """Whether other executions are bound up with it: then it has no second name."""
    last = execution.runs[-1]
    return last.row.status.is_open and bool(
        execution.links or fold(execution.load(last).history).children
    )


def renamed(
    execution: ExportedExecution, namespace: str, workflow_id: str, new_id: Callable[[], bytes]
) -> ExportedExecution:
    """The same story of another execution. Its ids are made in the order of its runs."""
    ids: dict[bytes, bytes] = {}
    execution_id = execution.last.execution_id
    for known in dict.fromkeys([execution_id, *(run.row.run_id for run in execution.runs)]):
        ids[known] = new_id()
    blobs = dict(execution.blobs)

    def moved(seq: int, kind: int, body: bytes) -> tuple[int, bytes, int]:
        event = decode_event(kind, body, execution.blobs)
        other = _renamed_event(event, ids, workflow_id)
        if other != event:
            kind, body = encode_event(other, blobs)
        return kind, body, checksum(seq, kind, body)

    runs = tuple(_renamed_run(run, ids, namespace, workflow_id, moved) for run in execution.runs)
    return replace(
        execution,
        runs=runs,
        blobs=blobs,
        blob_uses=tuple((ids[owner], digest) for owner, digest in execution.blob_uses),
        mail=tuple(ExportedMail(*moved(0, one.kind, one.body)) for one in execution.mail),
        requests=(),
        links=(),
    )


def _renamed_run(
    run: ExportedRun,
    ids: Mapping[bytes, bytes],
    namespace: str,
    workflow_id: str,
    moved: Callable[[int, int, bytes], tuple[int, bytes, int]],
) -> ExportedRun:
    history: list[tuple[int, int, int, bytes, int]] = []
    for seq, kind, at_us, body, _ in run.history:
        code, content, stored = moved(seq, kind, body)
        history.append((seq, code, at_us, content, stored))
    approvals = [
        one if one.answer is None else one._replace(answer=_answer(one.answer, moved))
        for one in run.approvals
    ]
    row = replace(
        run.row,
        run_id=ids[run.row.run_id],
        execution_id=ids[run.row.execution_id],
        namespace=namespace,
        workflow_id=workflow_id,
        request_id=None,
    )
    return replace(run, row=row, history=tuple(history), approvals=tuple(approvals))


def _answer(body: bytes, moved: Callable[[int, int, bytes], tuple[int, bytes, int]]) -> bytes:
    """What lies in the row of an approval is the body of the message to its run."""
    return moved(0, _ANSWERED, body)[1]


_ANSWERED: Final = CODES[ApprovalAnswered]


def _renamed_event(event: Event, ids: Mapping[bytes, bytes], workflow_id: str) -> Event:
    if isinstance(event, RunStarted):
        previous = event.previous_run
        if previous is not None:
            previous = ids.get(previous, previous)
        return replace(event, workflow_id=workflow_id, previous_run=previous)
    if isinstance(event, _FOR_A_RUN) and event.run is not None:
        return replace(event, run=ids.get(event.run, event.run))
    return event


_FOR_A_RUN: Final = (
    ActivityCompleted,
    ActivityFailed,
    ChildStarted,
    ChildStartFailed,
    ChildClosed,
    ExternalAnswered,
    ApprovalAnswered,
)
"""What names the run that asked."""


# ------------------------------------------------------------------------ what stands in the way


def is_here(row: RunRow) -> ImportRefused:
    return ImportRefused(
        workflow_id=row.workflow_id,
        reason=f"its run {id_text(row.run_id)} is in this store already. Under another id it can "
        "stand beside it",
    )


def is_requested_here(row: RunRow) -> ImportRefused:
    return ImportRefused(
        workflow_id=row.workflow_id,
        reason=f"another one was started here with the same request id {row.request_id!r:.80}",
    )


def is_open_here(there: RunRow) -> WorkflowAlreadyStarted:
    return WorkflowAlreadyStarted(
        f"{there.workflow_id!r} cannot be imported: an execution with this id is open here "
        f"({there.status.text}), and is never written over. End it first, or import this one under "
        "another id. Nothing was stored",
        workflow_id=there.workflow_id,
        status=there.status.text,
    )


def waits_elsewhere(row: RunRow, link: Link) -> ImportRefused:
    return ImportRefused(
        workflow_id=row.workflow_id,
        reason=f"it waits for {link.workflow_id!r}, which is not open here. Export both at the "
        "same time (with its children), and import both together",
    )
