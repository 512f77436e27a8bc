"""Tags of runs as rows: written with the start or the append that sets them, read for searching."""

from collections.abc import Sequence
from contextlib import suppress
from sqlite3 import Connection
from typing import Any

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.runs import NewRun, RunRow
from everlong_engine.model.tags import Tags, tag_from_stored, tag_to_stored
from everlong_engine.model.writes import Append
from everlong_engine.store.sqlite.columns import TAG, named, wrong
from everlong_engine.store.sqlite.statements import SQL, execute_rows

__all__ = ["change_tags", "read_tags", "tag_values", "tags_of_runs"]


def tag_values(run: NewRun | RunRow, tags: Tags) -> list[tuple[Any, ...]]:
    """Parameters of `put_tags`, for what a run begins with."""
    return [
        (run.shard, run.run_id, name, run.namespace, *tag_to_stored(value)) for name, value in tags
    ]


def change_tags(tx: Connection, append: Append) -> None:
    """Do what an accepted append says, the last word on a name last."""
    last: dict[str, Any] = dict(append.tags)
    gone = [name for name, value in last.items() if value is None]
    for name in gone:
        tx.execute(SQL["drop_tag"], (append.shard, append.run_id, name))
    kept = [(name, value) for name, value in last.items() if value is not None]
    if kept:
        (namespace,) = tx.execute(SQL["namespace_of"], (append.shard, append.run_id)).fetchone()
        rows = [
            (append.shard, append.run_id, name, namespace, *tag_to_stored(value))
            for name, value in kept
        ]
        execute_rows(tx, "put_tags", rows)


def read_tags(tx: Connection, shard: int, run_id: bytes) -> Tags:
    """Those of one run, by name.

    Raises:
        UndecodablePayload: one of them is damaged.
    """
    found: list[tuple[str, Any]] = []
    for values in tx.execute(SQL["tags_of"], (shard, run_id)).fetchall():
        fault = wrong(TAG, values)
        if fault is not None:
            raise UndecodablePayload(f"a tag of run {named(run_id)} is damaged: {fault}")
        name, kind, value = values
        try:
            found.append((name, tag_from_stored(kind, value)))
        except UndecodablePayload as error:
            raise UndecodablePayload(f"a tag of run {named(run_id)} is damaged: {error}") from error
    return tuple(found)


def tags_of_runs(tx: Connection, runs: Sequence[tuple[int, bytes]]) -> dict[bytes, Tags]:
    """Those of some runs; what is damaged is left to `verify`, which names it."""
    found: dict[bytes, Tags] = {}
    for shard, run_id in runs:
        with suppress(UndecodablePayload):
            tags = read_tags(tx, shard, run_id)
            if tags:
                found[run_id] = tags
    return found
