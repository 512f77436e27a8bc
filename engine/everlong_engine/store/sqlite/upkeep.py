"""Sweeping and describing a SQLite file."""

import sqlite3
from pathlib import Path

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.ids import first_id_of
from everlong_engine.model.requests import SENDERS, SENT_BEHIND, mark_of, name_of_start
from everlong_engine.model.runs import RunRow
from everlong_engine.store.interface import StoreInfo
from everlong_engine.store.sqlite.connection import BUSY_TIMEOUT_S
from everlong_engine.store.sqlite.rows import read_run
from everlong_engine.store.sqlite.statements import SQL

__all__ = ["empty_log", "forget_execution", "info", "prune"]

_FIXED_WAL_BUG = (3, 51, 3)
_PROBLEMS_MAX = 1000
_SHARD = 0  # Of every row in a file.
_EMPTYING_MS_MAX = 1000
"""A reader that stays longer only delays it: the log begins anew once it has gone."""


def empty_log(connection: sqlite3.Connection) -> None:
    """Move the whole log into the file, so that the next commit begins it anew.

    After a sync that failed the kernel takes the pages for clean: a process that comes later reads
    the commit in the log, although it never reached the disk. What is acknowledged behind such a
    hole would go with it in a power cut; moved into the file, it is written and synced once more.
    """
    connection.execute(f"PRAGMA busy_timeout = {_EMPTYING_MS_MAX}")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")


def prune(
    tx: sqlite3.Connection, cursor: tuple[int, bytes], horizon_us: int, limit: int
) -> tuple[tuple[int, bytes] | None, int]:
    """Look at `limit` runs from the cursor on; delete those that closed before the horizon.

    A run that was continued is kept as long as its execution: request ids and children refer to it.
    A sweep from the start also drops what dead workers and askers left behind.
    """
    if cursor[0] < 0:
        tx.execute(SQL["forget_workers"], (horizon_us,))
        tx.execute(SQL["forget_questions"], (horizon_us,))
        tx.execute(SQL["forget_requests_of_types"], (horizon_us,))
    behind = (_SHARD, first_id_of(horizon_us))
    rows = tx.execute(SQL["prune_candidates"], (*cursor, *behind, limit)).fetchall()
    pruned = 0
    for shard, run_id, execution_id, closed_us in rows:
        _forget_senders(tx, shard, execution_id, horizon_us)
        if type(closed_us) is not int or closed_us >= horizon_us:
            continue
        try:
            row = read_run(tx, shard, run_id)
        except UndecodablePayload:
            continue  # `verify` names it; whoever looks after the file must decide.
        assert row is not None, "it was found in this transaction"
        key = (shard, execution_id, row.namespace, row.workflow_id)
        if tx.execute(SQL["execution_is_open"], key).fetchone() is not None:
            continue
        _delete_run(tx, shard, run_id)
        key = (shard, row.namespace, row.workflow_id, execution_id)
        if tx.execute(SQL["latest_of_execution"], key).fetchone() is not None:
            _keep_request(tx, row)
        else:  # It was the last one.
            _forget_rest(tx, shard, execution_id)
        pruned += 1
    end = (rows[-1][0], rows[-1][1]) if len(rows) == limit else None
    return end, pruned


def forget_execution(tx: sqlite3.Connection, shard: int, execution_id: bytes) -> None:
    """All that there is of one that has left: it has come back, or another has its id."""
    for values in tx.execute(SQL["runs_of_execution"], (shard, execution_id)).fetchall():
        _delete_run(tx, shard, values[1])
    _forget_rest(tx, shard, execution_id)


def _forget_rest(tx: sqlite3.Connection, shard: int, execution_id: bytes) -> None:
    """What is an execution's, and no run's."""
    for table in ("requests", "inbox", "published", "entity_states", "turns", "start_keys"):
        key = (shard, execution_id)
        tx.execute(f"DELETE FROM {table} WHERE shard = ? AND execution_id = ?", key)
    _drop_blobs(tx, shard, execution_id)


def _forget_senders(tx: sqlite3.Connection, shard: int, execution_id: bytes, old_us: int) -> None:
    """An execution may have more senders than anybody wants to know, and need not end."""
    values = (shard, execution_id, SENDERS, SENT_BEHIND, mark_of(old_us))
    tx.execute(SQL["forget_senders"], values)


def _keep_request(tx: sqlite3.Connection, gone: RunRow) -> None:
    """The start of an execution is known by its request id until the last of its runs goes."""
    if gone.request_id is not None:
        name = name_of_start(gone.request_id)
        values = (gone.shard, gone.execution_id, name, gone.run_id)
        tx.execute(SQL["insert_request"], values)


def _delete_run(tx: sqlite3.Connection, shard: int, run_id: bytes) -> None:
    for table in ("runs", "history", "attempts", "tasks", "approvals", "tags"):
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


def info(path: Path, connection: sqlite3.Connection) -> StoreInfo:
    """Settings as they are in force on the writer's connection."""
    names = ("journal_mode", "synchronous", "application_id", "user_version", "page_size")
    settings = {name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}
    settings["synchronous"] = {"0": "OFF", "1": "NORMAL", "2": "FULL"}.get(
        settings["synchronous"], settings["synchronous"]
    )
    settings["file_bytes"] = str(_size(path))
    settings["log_bytes"] = str(_size(path.with_name(path.name + "-wal")))
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


def _size(path: Path) -> int:
    """There need not be such a file: no log yet, or a store in memory."""
    return path.stat().st_size if path.exists() else 0
