"""Tags of runs as rows: written with the start or the append that sets them, read for searching."""

from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.runs import NewRun, RunRow
from everlong_engine.model.tags import TagKind, Tags, TagValue, tag_from_stored, tag_to_stored
from everlong_engine.model.writes import Append
from everlong_engine.store.postgres.statements import Tx

__all__ = ["as_stored", "change_tags", "from_text", "tag_values", "tags_of_runs"]


def tag_values(run: NewRun | RunRow, tags: Tags) -> list[tuple[Any, ...]]:
    """Parameters of `put_tags`, for what a run begins with."""
    return [(run.shard, run.run_id, name, run.namespace, *as_stored(value)) for name, value in tags]


async def change_tags(tx: Tx, append: Append) -> None:
    """Do what an accepted append says, the last word on a name last."""
    last: dict[str, Any] = dict(append.tags)
    gone = [name for name, value in last.items() if value is None]
    if gone:
        await tx.run("drop_tag", (append.shard, append.run_id, gone))
    kept = [(name, value) for name, value in last.items() if value is not None]
    if kept:
        (namespace,) = await tx.one("namespace_of", (append.shard, append.run_id))
        rows = [
            (append.shard, append.run_id, name, namespace, *as_stored(value))
            for name, value in kept
        ]
        await tx.rows("put_tags", rows)


async def tags_of_runs(tx: Tx, runs: Sequence[tuple[int, bytes]]) -> dict[bytes, Tags]:
    """Those of some runs, by name; what is damaged is left to `verify`, which names it."""
    found: dict[bytes, list[tuple[str, Any]]] = {}
    if runs:
        for run_id, name, kind, text in await tx.rows("tags_of", runs):
            with suppress(UndecodablePayload):
                found.setdefault(run_id, []).append((name, from_text(kind, text)))
    return {run_id: tuple(tags) for run_id, tags in found.items()}


def as_stored(value: TagValue) -> tuple[int, str, Decimal | None]:
    """(kind, text, number) as a row has it: a number as Python writes it, and to be compared."""
    kind, stored = tag_to_stored(value)
    if isinstance(stored, str):
        return kind, stored, None
    return kind, repr(stored), Decimal(stored)


def from_text(kind: int, text: str) -> TagValue:
    """Undo `as_stored`.

    Raises:
        UndecodablePayload: nobody of us has written that.
    """
    if kind == TagKind.TEXT:
        return text
    try:
        number: int | float = int(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError as error:
            raise UndecodablePayload(reason=f"a tag holds {text!r:.50}, no number") from error
    return tag_from_stored(kind, number)
