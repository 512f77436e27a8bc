"""A group of writes in one transaction: plain functions on a `sqlite3.Connection`.

Runs on the writer's thread in production and inline in simulation. No user code runs in here, and
nothing waits. What many runs do at once (starts, appends, closings) is done by a few statements with
many rows; what is rare is done one by one.
"""

from collections.abc import Callable, Sequence
from sqlite3 import Connection
from typing import Any, Final, TypeVar

from everlong_engine.model.codec import Blobs, checksum
from everlong_engine.model.events import CODES, RunStarted
from everlong_engine.model.limits import ATTEMPTS_KEPT
from everlong_engine.model.runs import NewRun, RunRow, RunStatus
from everlong_engine.model.writes import (
    Answer,
    Append,
    AppendResult,
    Ask,
    ForgetMail,
    MarkAttempts,
    Message,
    MessageResult,
    Refusal,
    Release,
    Resume,
    StartResult,
    StartRun,
    Target,
    Terminate,
    Write,
    WriteResult,
)
from everlong_engine.store.sqlite.statements import SQL, execute_rows

__all__ = ["apply_group", "run_row", "transaction"]

T = TypeVar("T")

_ACCEPTED: Final = AppendResult()
_FENCED: Final = AppendResult(Refusal.FENCED)
_MAIL: Final = AppendResult(Refusal.MAIL)
_STARTED_CODE: Final = CODES[RunStarted]


class ConsumedElsewhere(Exception):
    """An append consumes mail that is gone: the group is rolled back and its members go alone."""


def transaction(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run `work` in one immediate transaction; any exception rolls back and goes on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def apply_group(connection: Connection, writes: Sequence[Write]) -> list[WriteResult]:
    """Apply every write, in one transaction; results in the order of the writes."""
    return transaction(connection, lambda tx: _apply(tx, writes))


def _apply(tx: Connection, writes: Sequence[Write]) -> list[WriteResult]:
    results: list[WriteResult] = [None] * len(writes)
    starts: list[tuple[int, StartRun]] = []
    appends: list[tuple[int, Append]] = []
    for at, write in enumerate(writes):
        match write:
            case Append():
                appends.append((at, write))
            case StartRun():
                starts.append((at, write))
            case _:
                pass
    if starts:
        _start_runs(tx, starts, results)
    if appends:
        _append_all(tx, appends, results)
    if len(starts) + len(appends) < len(writes):
        for at, write in enumerate(writes):
            if not isinstance(write, Append | StartRun):
                results[at] = _apply_one(tx, write)
    return results


def _apply_one(tx: Connection, write: Write) -> WriteResult:
    match write:
        case Message():
            return _put_message(tx, write)
        case MarkAttempts():
            return _mark_attempts(tx, write)
        case Release():
            return _release(tx, write)
        case Terminate():
            return _terminate(tx, write)
        case Resume():
            return _resume(tx, write)
        case Ask():
            return _ask(tx, write)
        case Answer():
            return _answer(tx, write)
        case ForgetMail():
            tx.execute(SQL["delete_mail"], (write.position, write.execution_id))
            return None
        case Append() | StartRun():
            raise AssertionError("appends and starts are applied in bulk")


# ---------------------------------------------------------------------------------- starts


def _start_runs(
    tx: Connection, starts: list[tuple[int, StartRun]], results: list[WriteResult]
) -> None:
    """Starts without conditions go in one statement; the others look before they insert."""
    plain: list[tuple[int, StartRun]] = []
    for at, start in starts:
        refused = _refuse_start(tx, start)
        if refused is not None:
            results[at] = refused
        else:
            plain.append((at, start))
    if not plain:
        return
    created = {
        row[0] for row in execute_rows(tx, "insert_runs", [_run_values(s) for _, s in plain])
    }
    history: list[tuple[Any, ...]] = []
    for at, start in plain:
        run = start.run
        if run.run_id not in created:
            results[at] = _existing(tx, start)
            continue
        results[at] = StartResult(True, run.run_id, run.execution_id, RunStatus.RUNNING)
        if start.first is not None:
            _collect_history(start.first, history)
            _put_blobs(tx, run.shard, run.run_id, start.first.blobs)
        else:
            _put_mail(tx, run.shard, run.execution_id, start.kind, start.body, start.blobs)
    if history:
        execute_rows(tx, "insert_history", history)


def _run_values(start: StartRun) -> tuple[Any, ...]:
    first, run = start.first, start.run
    if first is None:
        return _run_insert(run, RunStatus.RUNNING, 1, 0, None, start.wake_us, None)
    status = RunStatus.RUNNING if first.closed is None else first.closed
    owner = start.owner if status.is_open else None
    next_seq = first.base + len(first.rows)
    return _run_insert(run, status, next_seq, first.token, owner, None, first.closed_us)


def _run_insert(
    run: NewRun,
    status: RunStatus,
    next_seq: int,
    token: int,
    owner: bytes | None,
    wake_us: int | None,
    closed_us: int | None,
) -> tuple[Any, ...]:
    return (
        run.shard,
        run.run_id,
        run.execution_id,
        run.namespace,
        run.workflow_id,
        run.type,
        run.queue,
        int(status),
        next_seq,
        token,
        owner,
        wake_us,
        run.started_us,
        closed_us,
        run.request_id,
    )


def _refuse_start(tx: Connection, start: StartRun) -> StartResult | None:
    """The answer to a start whose conditions are not met, after making room if it says so."""
    run = start.run
    if start.if_closed == "allow" and run.request_id is None:
        return None  # The unique index of open runs decides.
    latest = _latest(tx, Target(run.shard, run.namespace, run.workflow_id))
    if latest is None:
        return None
    if run.request_id is not None and latest.request_id == run.request_id:
        return _found(latest, same_request=True)
    if latest.status.is_open:
        return _found(latest, refused=start.if_open == "fail")
    bad_end = latest.status not in (RunStatus.COMPLETED, RunStatus.CONTINUED_AS_NEW)
    if start.if_closed == "fail" or (start.if_closed == "allow_failed" and not bad_end):
        return _found(latest, refused=True)
    return None


def _existing(tx: Connection, start: StartRun) -> StartResult:
    run = start.run
    latest = _latest(tx, Target(run.shard, run.namespace, run.workflow_id))
    assert latest is not None, "the insert met a row that is not there"
    return _found(latest, refused=start.if_open == "fail")


def _found(row: RunRow, *, same_request: bool = False, refused: bool = False) -> StartResult:
    return StartResult(False, row.run_id, row.execution_id, row.status, same_request, refused)


# --------------------------------------------------------------------------------- appends


def _append_all(
    tx: Connection, appends: list[tuple[int, Append]], results: list[WriteResult]
) -> None:
    """Advance every run once, then insert what was accepted."""
    by_run: dict[bytes, list[tuple[int, Append]]] = {}
    inbox_empty: bool | None = None
    for at, append in appends:
        if append.mail_free:
            if inbox_empty is None:
                inbox_empty = tx.execute(SQL["any_mail"]).fetchone() is None
            if not inbox_empty and _has_other_mail(tx, append, by_run):
                results[at] = _MAIL
                continue
        by_run.setdefault(append.run_id, []).append((at, append))

    advancing: list[tuple[Any, ...]] = []
    closing: list[tuple[Any, ...]] = []
    for run_id, group in list(by_run.items()):
        whole = _unbroken(group, results)
        if not whole:
            del by_run[run_id]
            continue
        by_run[run_id] = whole
        (_, first), (_, last) = whole[0], whole[-1]
        after = last.base + len(last.rows)
        if last.closed is None:
            healthy = any(append.healthy for _, append in whole)
            advancing.append((first.shard, run_id, first.token, first.base, after, healthy))
        else:
            closing.append(
                (
                    first.shard,
                    run_id,
                    first.token,
                    first.base,
                    after,
                    int(last.closed),
                    last.closed_us,
                )
            )
    hit: set[bytes] = set()
    if advancing:
        hit.update(row[0] for row in execute_rows(tx, "advance_runs", advancing))
    if closing:
        hit.update(row[0] for row in execute_rows(tx, "close_runs", closing))

    history: list[tuple[Any, ...]] = []
    for run_id, group in by_run.items():
        accepted = run_id in hit
        for at, append in group:
            results[at] = _accept(tx, append, history) if accepted else _FENCED
    if history:
        execute_rows(tx, "insert_history", history)


def _unbroken(
    group: list[tuple[int, Append]], results: list[WriteResult]
) -> list[tuple[int, Append]]:
    """The appends that follow each other without a gap: behind a refused one, all are refused."""
    whole: list[tuple[int, Append]] = []
    expected = group[0][1].base
    token = group[0][1].token
    for at, append in group:
        if append.base != expected or append.token != token or (whole and whole[-1][1].closed):
            results[at] = _FENCED
            continue
        whole.append((at, append))
        expected += len(append.rows)
    return whole


def _has_other_mail(
    tx: Connection, append: Append, by_run: dict[bytes, list[tuple[int, Append]]]
) -> bool:
    waiting = tx.execute(SQL["mail_positions_of"], (append.shard, append.execution_id)).fetchall()
    known = set(append.consumed)
    for _, earlier in by_run.get(append.run_id, ()):
        known.update(earlier.consumed)
    return any(position not in known for (position,) in waiting)


def _collect_history(append: Append, history: list[tuple[Any, ...]]) -> None:
    shard, run_id = append.shard, append.run_id
    rows = append.rows
    for row in rows[:-1]:
        history.append((shard, run_id, *row, None))
    history.append((shard, run_id, *rows[-1], append.append_id))


def _accept(tx: Connection, append: Append, history: list[tuple[Any, ...]]) -> AppendResult:
    _collect_history(append, history)
    for position in append.consumed:
        gone = tx.execute(SQL["delete_mail"], (position, append.execution_id))
        if gone.rowcount != 1:
            raise ConsumedElsewhere
    if append.blobs:
        _put_blobs(tx, append.shard, append.run_id, append.blobs)
    if append.closed is not None and not append.mail_free:
        tx.execute(SQL["forget_mail"], (append.shard, append.execution_id))
    if append.next_run is None:
        return _ACCEPTED
    following = append.next_run
    values = _run_insert(following.run, RunStatus.RUNNING, 1, 1, following.owner, None, None)
    execute_rows(tx, "insert_runs", [values])
    position = _put_mail(
        tx,
        append.shard,
        append.execution_id,
        following.kind,
        following.body,
        following.blobs,
    )
    return AppendResult(next_run_mail=position)


def _put_blobs(tx: Connection, shard: int, owner_id: bytes, blobs: Blobs | None) -> None:
    for digest, data in (blobs or {}).items():
        tx.execute(SQL["put_blob"], (shard, digest, data))
        tx.execute(SQL["use_blob"], (shard, owner_id, digest))


# ------------------------------------------------------------------------------ the others


def _latest(tx: Connection, target: Target) -> RunRow | None:
    found = tx.execute(
        SQL["latest_run"], (target.shard, target.namespace, target.workflow_id)
    ).fetchone()
    if found is None:
        return None
    row = run_row(found)
    if target.execution_id is not None and row.execution_id != target.execution_id:
        return None
    return row


def _put_mail(
    tx: Connection, shard: int, execution_id: bytes, kind: int, body: bytes, blobs: Blobs | None
) -> int:
    _put_blobs(tx, shard, execution_id, blobs)
    values = (shard, execution_id, kind, body, checksum(0, kind, body))
    position: int = tx.execute(SQL["insert_mail"], values).fetchone()[0]
    return position


def _put_message(tx: Connection, message: Message) -> MessageResult:
    row = _latest(tx, message.target)
    if row is None:
        return MessageResult(None)
    if message.request_id is not None:
        key = (row.shard, row.execution_id, message.request_id)
        if tx.execute(SQL["find_request"], key).fetchone() is not None:
            return MessageResult(row.status, row.run_id, row.execution_id, duplicate=True)
    if not row.status.is_open:
        return MessageResult(row.status, row.run_id, row.execution_id)
    position = _put_mail(tx, row.shard, row.execution_id, message.kind, message.body, None)
    if message.request_id is not None:
        tx.execute(
            SQL["insert_request"], (row.shard, row.execution_id, message.request_id, b"accepted")
        )
    tx.execute(SQL["wake_run"], (message.now_us, row.shard, row.run_id))
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner, position)


def _mark_attempts(tx: Connection, mark: MarkAttempts) -> AppendResult:
    key = (mark.shard, mark.run_id, mark.token)
    if tx.execute(SQL["check_lease"], key).fetchone() is None:
        return _FENCED
    if mark.probation is not None:
        tx.execute(SQL["mark_probation"], (mark.probation, *key))
    put_attempts(tx, mark)
    return _ACCEPTED


def put_attempts(tx: Connection, mark: MarkAttempts) -> None:
    """Write attempt rows, and keep the last few of each activity."""
    for row in mark.attempts:
        tx.execute(
            SQL["put_attempt"],
            (
                mark.shard,
                mark.run_id,
                row.activity_id,
                row.attempt,
                int(row.state),
                row.started_us,
                row.ended_us,
                row.retry_us,
                row.error_type,
                row.error,
                row.traceback,
                row.worker,
                row.details,
            ),
        )
        if row.attempt > ATTEMPTS_KEPT:
            oldest = row.attempt - ATTEMPTS_KEPT
            tx.execute(SQL["trim_attempts"], (mark.shard, mark.run_id, row.activity_id, oldest))


def _release(tx: Connection, release: Release) -> AppendResult:
    leaves_asleep = not (release.blocked or release.mail)
    if leaves_asleep and release.wake_us != 0:
        waiting = tx.execute(
            SQL["mail_positions_of"], (release.shard, release.execution_id)
        ).fetchone()
        if waiting is not None:
            return _MAIL
    status = RunStatus.BLOCKED if release.blocked else RunStatus.RUNNING
    hit = tx.execute(
        SQL["release_run"],
        (
            release.wake_us,
            int(status),
            release.reason,
            release.shard,
            release.run_id,
            release.token,
            release.base,
        ),
    ).fetchone()
    if hit is None:
        return _FENCED
    if release.attempts:
        put_attempts(
            tx, MarkAttempts(release.shard, release.run_id, release.token, release.attempts)
        )
    for kind, body in release.mail:
        _put_mail(tx, release.shard, release.execution_id, kind, body, release.blobs)
    return _ACCEPTED


def _terminate(tx: Connection, terminate: Terminate) -> MessageResult:
    row = _latest(tx, terminate.target)
    if row is None:
        return MessageResult(None)
    if not row.status.is_open:
        return MessageResult(row.status, row.run_id, row.execution_id)
    seq: int = tx.execute(
        SQL["terminate_run"],
        (int(terminate.status), terminate.now_us, row.shard, row.run_id),
    ).fetchone()[0]
    kind, body = terminate.row_kind, terminate.row_body
    values = (
        row.shard,
        row.run_id,
        seq,
        kind,
        terminate.now_us,
        body,
        checksum(seq, kind, body),
        None,
    )
    execute_rows(tx, "insert_history", [values])
    tx.execute(SQL["forget_mail"], (row.shard, row.execution_id))
    if row.owner is not None:
        # A notice for the owner, so that it drops the run at once and not at its next append.
        _put_mail(tx, row.shard, row.execution_id, kind, body, None)
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner, position=seq)


def _resume(tx: Connection, resume: Resume) -> MessageResult:
    row = _latest(tx, resume.target)
    if row is None:
        return MessageResult(None)
    tx.execute(SQL["resume_run"], (resume.now_us, row.shard, row.run_id))
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


def _ask(tx: Connection, ask: Ask) -> MessageResult:
    row = _latest(tx, ask.target)
    if row is None:
        return MessageResult(None)
    target = ask.target
    tx.execute(
        SQL["put_question"],
        (
            ask.question_id,
            target.shard,
            target.namespace,
            target.workflow_id,
            ask.query,
            ask.arguments,
            ask.now_us,
        ),
    )
    return MessageResult(row.status, row.run_id, row.execution_id, row.owner)


def _answer(tx: Connection, answer: Answer) -> None:
    tx.execute(SQL["put_answer"], (answer.ok, answer.answer, answer.question_id))


def run_row(values: tuple[Any, ...]) -> RunRow:
    """A row of `SELECT * FROM runs`."""
    return RunRow(
        shard=values[0],
        run_id=values[1],
        execution_id=values[2],
        namespace=values[3],
        workflow_id=values[4],
        type=values[5],
        queue=values[6],
        status=RunStatus(values[7]),
        next_seq=values[8],
        lease_token=values[9],
        owner=values[10],
        wake_us=values[11],
        started_us=values[12],
        closed_us=values[13],
        losses=values[14],
        strikes=values[15],
        probation=bool(values[16]),
        reason=values[17],
        request_id=values[18],
    )
