"""Sweeping, checking and describing a SQLite file."""

import sqlite3
from pathlib import Path

from everlong_engine.model.codec import checksum, decode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CLOSING, INPUTS, KINDS
from everlong_engine.model.ids import id_text
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.store.interface import Problem, StoreInfo
from everlong_engine.store.sqlite.group import run_row
from everlong_engine.store.sqlite.reads import blobs_of
from everlong_engine.store.sqlite.statements import SQL

__all__ = ["info", "prune", "verify"]

_FIXED_WAL_BUG = (3, 51, 3)
_PROBLEMS_MAX = 1000


def prune(
    tx: sqlite3.Connection, cursor: tuple[int, bytes], horizon_us: int, limit: int
) -> tuple[tuple[int, bytes] | None, int]:
    """Look at `limit` runs from the cursor on; delete those that closed before the horizon.

    A run that was continued is kept as long as its execution: request ids and children refer to it.
    """
    rows = tx.execute(SQL["prune_candidates"], (*cursor, horizon_us, limit)).fetchall()
    pruned = 0
    for shard, run_id, execution_id, status, closed_us in rows:
        if closed_us is None or closed_us >= horizon_us:
            continue
        row = run_row(tx.execute(SQL["get_run"], (shard, run_id)).fetchone())
        key = (shard, execution_id, row.namespace, row.workflow_id)
        if tx.execute(SQL["execution_is_open"], key).fetchone() is not None:
            continue
        _delete_run(tx, shard, run_id)
        if status != RunStatus.CONTINUED_AS_NEW:
            for table in ("requests", "inbox"):
                tx.execute(
                    f"DELETE FROM {table} WHERE shard = ? AND execution_id = ?",
                    (shard, execution_id),
                )
            _drop_blobs(tx, shard, execution_id)
        pruned += 1
    end = (rows[-1][0], rows[-1][1]) if len(rows) == limit else None
    return end, pruned


def _delete_run(tx: sqlite3.Connection, shard: int, run_id: bytes) -> None:
    for table in ("runs", "history", "attempts"):
        tx.execute(f"DELETE FROM {table} WHERE shard = ? AND run_id = ?", (shard, run_id))
    _drop_blobs(tx, shard, run_id)


def _drop_blobs(tx: sqlite3.Connection, shard: int, owner_id: bytes) -> None:
    used = tx.execute(
        "DELETE FROM blob_uses WHERE shard = ? AND owner_id = ? RETURNING digest", (shard, owner_id)
    ).fetchall()
    for (digest,) in used:
        tx.execute(
            "DELETE FROM blobs WHERE shard = ?1 AND digest = ?2 AND NOT EXISTS"
            " (SELECT 1 FROM blob_uses WHERE shard = ?1 AND digest = ?2)",
            (shard, digest),
        )


def verify(tx: sqlite3.Connection) -> list[Problem]:
    """Check the whole store: gapless sequences, checksums, pairs, orphans, SQLite's own check."""
    found: list[Problem] = [
        Problem(None, f"SQLite: {text}")
        for (text,) in tx.execute("PRAGMA integrity_check").fetchall()
        if text != "ok"
    ]
    if found:
        return found
    rows = tx.execute("SELECT * FROM runs ORDER BY shard, run_id")
    for values in rows:
        found += _verify_run(tx, run_row(values))
        if len(found) >= _PROBLEMS_MAX:
            return found
    for table, key in (("history", "run_id"), ("attempts", "run_id"), ("inbox", "execution_id")):
        orphans = tx.execute(
            f"SELECT DISTINCT {key} FROM {table} WHERE {key} NOT IN"
            f" (SELECT {key} FROM runs) LIMIT 20"
        ).fetchall()
        found += [Problem(run_id, f"rows in {table} without a run") for (run_id,) in orphans]
    missing = tx.execute(
        "SELECT owner_id FROM blob_uses AS u WHERE NOT EXISTS"
        " (SELECT 1 FROM blobs AS b WHERE b.shard = u.shard AND b.digest = u.digest)"
    ).fetchall()
    return found + [Problem(owner, "a spilled payload is missing") for (owner,) in missing]


def _verify_run(tx: sqlite3.Connection, row: RunRow) -> list[Problem]:
    def problem(text: str) -> Problem:
        return Problem(row.run_id, f"{row.workflow_id} ({id_text(row.run_id)}): {text}")

    found: list[Problem] = []
    blobs = blobs_of(tx, row)
    last = 0
    closed = False
    for seq, kind, _, body, stored in tx.execute(
        SQL["history_of"], (row.shard, row.run_id, 1, 1 << 60)
    ):
        if seq != last + 1:
            found.append(problem(f"events {last + 1} to {seq - 1} are missing"))
        last = seq
        if checksum(seq, kind, body) != stored:
            found.append(problem(f"event {seq} has a wrong checksum"))
            continue
        try:
            decode_event(kind, body, blobs)
        except UndecodablePayload as error:
            found.append(problem(f"event {seq} cannot be read: {error}"))
            continue
        if closed:
            found.append(problem(f"event {seq} stands behind the end of the run"))
        if seq == 1 and KINDS[kind] not in INPUTS:
            found.append(problem("the history does not begin with an input"))
        closed = closed or KINDS[kind] in CLOSING
    if last + 1 != row.next_seq:
        found.append(problem(f"the run expects event {row.next_seq}, its history ends at {last}"))
    if closed is row.status.is_open:
        found.append(problem(f"the run is {row.status.text}, its history says otherwise"))
    return found


def info(path: Path, connection: sqlite3.Connection) -> StoreInfo:
    """Settings as they are in force on the writer's connection."""
    names = ("journal_mode", "synchronous", "application_id", "user_version", "page_size")
    settings = {name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}
    settings["synchronous"] = {"0": "OFF", "1": "NORMAL", "2": "FULL"}.get(
        settings["synchronous"], settings["synchronous"]
    )
    settings["file_bytes"] = str(path.stat().st_size)
    log = path.with_name(path.name + "-wal")
    settings["log_bytes"] = str(log.stat().st_size if log.exists() else 0)
    warnings: list[str] = []
    if settings["synchronous"] != "FULL":
        warnings.append("durability is relaxed: a power cut may lose acknowledged work")
    if sqlite3.sqlite_version_info < _FIXED_WAL_BUG:
        warnings.append(
            f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug (fixed in 3.51.3); Everlong "
            "avoids it by checkpointing from one connection only: let no other program write "
            "to this file"
        )
    return StoreInfo(str(path), f"SQLite {sqlite3.sqlite_version}", settings, tuple(warnings))
