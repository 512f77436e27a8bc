"""What is read from a SQLite store: plain functions on a `sqlite3.Connection`."""

import json
from collections.abc import Sequence
from hashlib import sha256
from sqlite3 import Connection, OperationalError
from typing import Any, Final

from everlong_engine.model.codec import checksum, decode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import Recorded
from everlong_engine.model.runs import (
    AttemptRow,
    AttemptState,
    LoadedRun,
    MailRow,
    RunRow,
    RunStatus,
    WorkerRow,
)
from everlong_engine.store.interface import Question, RunFilter
from everlong_engine.store.sqlite.rows import run_row
from everlong_engine.store.sqlite.statements import SQL

__all__ = [
    "ALL_ROWS",
    "attempts_of",
    "blobs_of",
    "last_event",
    "list_runs",
    "load_history",
    "load_run",
    "mail_since",
    "many",
    "open_questions",
    "workers",
]

ALL_ROWS: Final = 1 << 60


def load_run(tx: Connection, row: RunRow) -> LoadedRun:
    """A run with everything that hangs on it.

    Raises:
        UndecodablePayload: some of it is damaged; who else is there is not concerned.
    """
    try:
        blobs = blobs_of(tx, row)
        history, size = load_history(tx, row, blobs)
        mail = [
            MailRow(*values)
            for values in tx.execute(SQL["mail_of"], (row.shard, row.execution_id)).fetchall()
        ]
        attempts = attempts_of(tx, row.shard, row.run_id)
    except (TypeError, ValueError, OperationalError) as error:
        # A column of another type than it was written with. Python's own complaint about text that
        # is no UTF-8 is an OperationalError too, told from SQLite's by its want of a code.
        if getattr(error, "sqlite_errorcode", None) is not None:
            raise
        raise UndecodablePayload(reason=str(error)) from error
    return LoadedRun(row, history, mail, attempts, size, blobs)


def blobs_of(tx: Connection, row: RunRow) -> dict[bytes, bytes]:
    """Spilled payloads, each checked against the digest that it goes by."""
    blobs: dict[bytes, bytes] = {}
    for digest, data in tx.execute(SQL["blobs_of"], (row.shard, row.run_id, row.execution_id)):
        if sha256(data).digest() != digest:
            raise UndecodablePayload(f"the spilled payload {digest.hex()} is damaged")
        blobs[digest] = data
    return blobs


def load_history(
    tx: Connection, row: RunRow, blobs: dict[bytes, bytes]
) -> tuple[list[Recorded], int]:
    """A run's events, checked: gapless, each with its checksum; and their size in bytes."""
    rows = tx.execute(SQL["history_of"], (row.shard, row.run_id, 1, ALL_ROWS)).fetchall()
    history: list[Recorded] = []
    size = 0
    for expected, (seq, kind, at_us, body, stored) in enumerate(rows, 1):
        if seq != expected:
            raise UndecodablePayload(f"event {expected} of the history is missing")
        if checksum(seq, kind, body) != stored:
            raise UndecodablePayload(f"event {seq} of the history has a wrong checksum")
        history.append(Recorded(seq, at_us, decode_event(kind, body, blobs)))
        size += len(body)
    return history, size


def last_event(tx: Connection, row: RunRow) -> Recorded | None:
    found = tx.execute(SQL["last_event"], (row.shard, row.run_id)).fetchone()
    if found is None:
        return None
    seq, kind, at_us, body, stored = found
    if checksum(seq, kind, body) != stored:
        raise UndecodablePayload(f"event {seq} of the history has a wrong checksum")
    return Recorded(seq, at_us, decode_event(kind, body, blobs_of(tx, row)))


def attempts_of(tx: Connection, shard: int, run_id: bytes) -> list[AttemptRow]:
    return [
        AttemptRow(
            activity_id=values[0],
            attempt=values[1],
            state=AttemptState(values[2]),
            started_us=values[3],
            ended_us=values[4],
            retry_us=values[5],
            error_type=values[6],
            error=values[7],
            traceback=values[8],
            worker=values[9],
            details=values[10],
        )
        for values in tx.execute(SQL["attempts_of"], (shard, run_id)).fetchall()
    ]


def list_runs(tx: Connection, wanted: RunFilter, limit: int, after: bytes | None) -> list[RunRow]:
    """Newest first, from behind `after`. Run ids are time-ordered, so they are the order."""
    conditions, values = ["namespace = ?"], [wanted.namespace]
    parameters: list[Any] = list(values)
    if wanted.status is not None:
        conditions.append("status = ?")
        parameters.append(int(RunStatus[wanted.status.upper()]))
    if wanted.type is not None:
        conditions.append("type = ?")
        parameters.append(wanted.type)
    if wanted.workflow_id is not None:
        conditions.append("workflow_id = ?")
        parameters.append(wanted.workflow_id)
    if after is not None:
        conditions.append("run_id < ?")
        parameters.append(after)
    # Conditions are our own texts; every value is a parameter.
    text = f"SELECT * FROM runs WHERE {' AND '.join(conditions)} ORDER BY run_id DESC LIMIT ?"
    found = tx.execute(text, (*parameters, limit)).fetchall()
    return [run_row(values) for values in found]


def mail_since(tx: Connection, position: int, limit: int) -> list[MailRow]:
    return [MailRow(*values) for values in tx.execute(SQL["mail_since"], (position, limit))]


def open_questions(tx: Connection, limit: int) -> list[Question]:
    return [Question(*values) for values in tx.execute(SQL["open_questions"], (limit,))]


def workers(tx: Connection) -> list[WorkerRow]:
    return [
        WorkerRow(
            worker_id=values[0],
            name=values[1],
            pid=values[2],
            host=values[3],
            started_us=values[4],
            beat_us=values[5],
            dead=bool(values[6]),
            types=tuple(json.loads(values[8])),
        )
        for values in tx.execute(SQL["list_workers"]).fetchall()
    ]


def many(values: Sequence[str] | Sequence[bytes]) -> str:
    """A list as a parameter for `json_each`; bytes are not JSON, so ids are compared as hex."""
    return json.dumps([v.hex() if isinstance(v, bytes) else v for v in values])
