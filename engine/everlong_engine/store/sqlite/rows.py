"""Rows that more than one family of writes makes or reads: runs, mail, spilled payloads."""

from collections.abc import Iterable, Mapping
from sqlite3 import SQLITE_FULL, Connection, OperationalError
from typing import Any, Final

from everlong_engine.model.codec import checksum
from everlong_engine.model.errors import StoreError, UndecodablePayload
from everlong_engine.model.events import CODES, CancelRequested, RunTerminated
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import Sent
from everlong_engine.model.runs import NewRun, Probation, RunRow, RunStatus
from everlong_engine.store.sqlite.columns import COLUMNS, POSITION_MAX, check, fetch_one, named
from everlong_engine.store.sqlite.statements import SQL

__all__ = [
    "forget_notices",
    "latest_run",
    "new_run_values",
    "put_answers",
    "put_blobs",
    "put_mail",
    "read_run",
    "run_row",
    "sent_before",
    "told_by_workflow_id",
    "wake_for",
]


_RUN: Final = COLUMNS["runs"]
_CANCEL_REQUESTED: Final = CODES[CancelRequested]


def run_row(values: tuple[Any, ...]) -> RunRow:
    """A row of `SELECT * FROM runs`.

    Raises:
        UndecodablePayload: a column holds what it must not.
    """
    check("runs", _RUN, values, f"{values[4]!s:.100} (run {named(values[1])})")
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
        probation=Probation(values[16]),
        reason=values[17],
        request_id=values[18],
        version=values[19],
    )


def read_run(tx: Connection, shard: int, run_id: bytes) -> RunRow | None:
    """One run by its id. Raises UndecodablePayload."""
    found = fetch_one(tx, SQL["get_run"], (shard, run_id), f"run {named(run_id)}")
    return None if found is None else run_row(found)


def latest_run(tx: Connection, target: Target) -> RunRow | None:
    """The newest run of a workflow id, or of one of its executions, also of an earlier one."""
    key: tuple[Any, ...] = (target.shard, target.namespace, target.workflow_id)
    found = fetch_one(tx, SQL["latest_run"], key, target.workflow_id)
    if found is None:
        return None
    row = run_row(found)
    if target.execution_id in (None, row.execution_id):
        return row
    key = (*key, target.execution_id)
    found = fetch_one(tx, SQL["latest_of_execution"], key, target.workflow_id)
    return None if found is None else run_row(found)


def sent_before(
    tx: Connection, target: Target, row: RunRow, request_id: str | None, sent: Sent | None
) -> RunRow | None:
    """Who was told this before: `row`, the one that is meant now, or an earlier execution of the
    workflow id. None: nobody."""
    name, least = request_id, b""
    if name is None:
        if sent is None:
            return None
        name, least = sent.name, sent.mark
    found = tx.execute(SQL["find_request"], (row.shard, row.execution_id, name)).fetchone()
    if found is not None:
        return row if found[0] >= least else None
    if target.execution_id is not None:
        return None
    earlier = told_by_workflow_id(tx, target, name)
    return earlier[0] if earlier is not None and earlier[1] >= least else None


def told_by_workflow_id(tx: Connection, target: Target, name: str) -> tuple[RunRow, bytes] | None:
    """The newest execution of a workflow id to which this was said, and the answer to it."""
    key = (target.shard, target.namespace, target.workflow_id, name)
    found = fetch_one(tx, SQL["user_of_request"], key, target.workflow_id)
    if found is None:
        return None
    if not isinstance(found[-1], bytes):
        raise UndecodablePayload(reason="the answer to a request is no bytes")
    return run_row(found[:-1]), found[-1]


def new_run_values(
    run: NewRun,
    status: RunStatus,
    next_seq: int,
    token: int,
    owner: bytes | None,
    wake_us: int | None,
    closed_us: int | None,
) -> tuple[Any, ...]:
    """Parameters of `insert_runs`."""
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
        run.version,
    )


def put_mail(
    tx: Connection,
    shard: int,
    execution_id: bytes,
    kind: int,
    body: bytes,
    blobs: Mapping[bytes, bytes] | None,
) -> int:
    """Leave a message; its position."""
    put_blobs(tx, shard, execution_id, blobs)
    values = (shard, execution_id, kind, body, checksum(0, kind, body))
    try:
        position: int = tx.execute(SQL["insert_mail"], values).fetchone()[0]
    except OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == SQLITE_FULL:
            _require_places(tx, error)
        raise
    return position


def _require_places(tx: Connection, error: OperationalError) -> None:
    """SQLite calls it a full disk, too, when a counter has come to its end."""
    (last,) = tx.execute(SQL["last_position"]).fetchone() or (0,)
    if not isinstance(last, int) or last >= POSITION_MAX:
        raise StoreError(
            "the inbox has no places left: somebody other than Everlong put a row at the end of "
            "its numbers. `everlong verify` names it; put back a copy of the file from before that"
        ) from error


def wake_for(tx: Connection, row: RunRow, kind: int, now_us: int) -> None:
    """Have somebody look at a run for the message that was left for it."""
    query = "rouse_run" if kind == _CANCEL_REQUESTED else "wake_run"
    tx.execute(SQL[query], (now_us, row.shard, row.run_id))


def put_answers(
    tx: Connection, shard: int, execution_id: bytes, answers: Iterable[tuple[str, bytes]]
) -> None:
    """What senders wait for, in place of what they were told before."""
    for name, answer in answers:
        tx.execute(SQL["answer_request"], (answer, shard, execution_id, name))


def put_blobs(
    tx: Connection, shard: int, owner_id: bytes, blobs: Mapping[bytes, bytes] | None
) -> None:
    """Store spilled payloads, once per content, and note who refers to them."""
    for digest, data in (blobs or {}).items():
        tx.execute(SQL["put_blob"], (shard, digest, data))
        tx.execute(SQL["use_blob"], (shard, owner_id, digest))


def forget_notices(tx: Connection) -> None:
    """Drop what tells owners of terminations: those owners are dead."""
    tx.execute(SQL["forget_notices"], (CODES[RunTerminated],))
