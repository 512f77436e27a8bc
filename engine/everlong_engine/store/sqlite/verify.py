"""Checks a whole file: gapless sequences, checksums, complete ends, orphans, SQLite's own check.

Reads in one snapshot, so that what is written meanwhile is no problem, and reports instead of
raising: a damaged row must not hide the others.
"""

from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from itertools import islice
from pathlib import Path
from sqlite3 import Connection, DatabaseError
from typing import Any, Final

from everlong_engine.model.codec import checksum, decode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CLOSING, INPUTS, KINDS
from everlong_engine.model.ids import id_text
from everlong_engine.model.runs import RunRow
from everlong_engine.store.interface import Problem, Trouble
from everlong_engine.store.sqlite.connection import classify
from everlong_engine.store.sqlite.reads import ALL_ROWS
from everlong_engine.store.sqlite.rows import run_row
from everlong_engine.store.sqlite.statements import SQL

__all__ = ["verify"]

_PROBLEMS_MAX: Final = 1000

# What hangs on a run or an execution, and by which column.
_HANGING: Final = (
    ("history", "run_id"),
    ("attempts", "run_id"),
    ("inbox", "execution_id"),
    ("requests", "execution_id"),
)


def verify(tx: Connection) -> list[Problem]:
    """What is wrong, up to a thousand problems. Empty: all is well.

    It reads bytes that were turned into text, too.
    """
    factory, tx.text_factory = tx.text_factory, _text
    found: list[Problem] = []
    try:
        found += [
            Problem(None, f"SQLite: {text}")
            for (text,) in tx.execute("PRAGMA integrity_check").fetchall()
            if text != "ok"
        ]
        if not found:
            found += islice(_problems(tx), _PROBLEMS_MAX)
    except DatabaseError as error:
        if classify(error, Path())[0] is not Trouble.FATAL:
            raise
        found.append(Problem(None, f"SQLite: {error}; what lies behind that cannot be checked"))
    finally:
        tx.text_factory = factory
    return found


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _problems(tx: Connection) -> Iterator[Problem]:
    yield from _of_blobs(tx)
    yield from _of_mail(tx)
    yield from _of_orphans(tx)
    with closing(tx.execute("SELECT * FROM runs ORDER BY shard, run_id")) as rows:
        for values in rows:
            yield from _of_run(tx, values)


def _of_run(tx: Connection, values: tuple[Any, ...]) -> Iterator[Problem]:
    run_id: bytes = values[1]
    name = f"{values[4]} ({id_text(run_id)})"
    try:
        row = run_row(values)
    except ValueError as error:
        yield Problem(run_id, f"{name}: its row cannot be read: {error}")
        return
    for text in _of_history(tx, row):
        yield Problem(run_id, f"{name}: {text}")
    if row.next_seq == 1 and row.status.is_open:
        key = (row.shard, row.execution_id)
        if tx.execute(SQL["mail_positions_of"], key).fetchone() is None:
            yield Problem(run_id, f"{name}: it has not begun, and its start is missing")


def _of_history(tx: Connection, row: RunRow) -> Iterator[str]:
    # Digests are checked once for the whole file, not with every run that uses a payload.
    blobs = dict(tx.execute(SQL["blobs_of"], (row.shard, row.run_id, row.execution_id)).fetchall())
    last, closed = 0, False
    with closing(tx.execute(SQL["history_of"], (row.shard, row.run_id, 0, ALL_ROWS))) as events:
        for seq, kind, _, body, stored in events:
            if seq != last + 1:
                yield f"events {last + 1} to {seq - 1} are missing"
            last = seq
            if not isinstance(body, bytes) or checksum(seq, kind, body) != stored:
                yield f"event {seq} has a wrong checksum"
                continue
            try:
                decode_event(kind, body, blobs)
            except UndecodablePayload as error:
                yield f"event {seq} cannot be read: {error}"
                continue
            if closed:
                yield f"event {seq} stands behind the end of the run"
            if seq == 1 and KINDS[kind] not in INPUTS and KINDS[kind] not in CLOSING:
                yield "the history does not begin with an input"
            closed = closed or KINDS[kind] in CLOSING
    if last + 1 != row.next_seq:
        yield f"the run expects event {row.next_seq}, its history ends at {last}"
    if closed is row.status.is_open:
        yield f"the run is {row.status.text}, its history says otherwise"


def _of_mail(tx: Connection) -> Iterator[Problem]:
    with closing(tx.execute(SQL["mail_since"], (-1, ALL_ROWS))) as mail:
        for position, execution_id, kind, body, stored in mail:
            if not isinstance(body, bytes) or checksum(0, kind, body) != stored:
                yield Problem(execution_id, f"message {position} has a wrong checksum")


def _of_orphans(tx: Connection) -> Iterator[Problem]:
    # Table and column names are our own; there are no values.
    for table, key in _HANGING:
        text = f"SELECT DISTINCT {key} FROM {table} WHERE {key} NOT IN (SELECT {key} FROM runs)"
        for (owner,) in tx.execute(text).fetchall():
            yield Problem(owner, f"rows in {table} without a run")
    for (owner,) in tx.execute(SQL["unowned_blob_uses"]).fetchall():
        yield Problem(owner, "a spilled payload is noted for a run that is not there")


def _of_blobs(tx: Connection) -> Iterator[Problem]:
    for (owner,) in tx.execute(SQL["missing_blobs"]).fetchall():
        yield Problem(owner, "a spilled payload is missing")
    for (digest,) in tx.execute(SQL["unused_blobs"]).fetchall():
        yield Problem(None, f"the spilled payload {digest.hex()} belongs to nobody")
    with closing(tx.execute("SELECT digest, data FROM blobs")) as blobs:
        for digest, data in blobs:
            if not isinstance(data, bytes) or sha256(data).digest() != digest:
                yield Problem(None, f"the spilled payload {digest.hex()} is damaged")
