"""States of keyed entities in a SQLite file."""

import json
from sqlite3 import Connection
from typing import Any, assert_never

from everlong_engine.model.entities import (
    ByDue,
    ByKey,
    EntityChanges,
    EntityLook,
    EntityRow,
    OfKeys,
    checked_entity,
    within_bytes,
)
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.store.sqlite.columns import ENTITY, wrong
from everlong_engine.store.sqlite.statements import SQL, execute_rows

__all__ = ["entities", "entities_of", "has_entities", "put_entities"]


def put_entities(tx: Connection, shard: int, execution_id: bytes, changes: EntityChanges) -> None:
    """With the append that was accepted in this transaction."""
    if changes.put:
        rows = [(shard, execution_id, *row) for row in changes.put]
        execute_rows(tx, "put_entities", rows)
    for key in changes.gone:
        tx.execute(SQL["drop_entity"], (shard, execution_id, key))


def entities(tx: Connection, shard: int, execution_id: bytes, look: EntityLook) -> list[EntityRow]:
    """Raises UndecodablePayload: one of them is damaged."""
    whose = (shard, execution_id)
    match look:
        case OfKeys():
            return _rows(tx, "entities_of_keys", (*whose, json.dumps(look.keys)))
        case ByKey():
            rows = _rows(tx, "entities_by_key", (*whose, look.after, look.limit))
            return within_bytes(rows)
        case ByDue():
            return within_bytes(_rows(tx, "entities_by_due", (*whose, look.limit)))
    assert_never(look)


def entities_of(tx: Connection, shard: int, execution_id: bytes) -> list[EntityRow]:
    """All of an execution, in the order of keys. Raises UndecodablePayload."""
    return _rows(tx, "entities_of", (shard, execution_id))


def has_entities(tx: Connection, shard: int, execution_id: bytes) -> bool:
    return tx.execute(SQL["any_entity"], (shard, execution_id)).fetchone() is not None


def _rows(tx: Connection, name: str, values: tuple[Any, ...]) -> list[EntityRow]:
    return [_checked(row) for row in tx.execute(SQL[name], values)]


def _checked(values: tuple[Any, ...]) -> EntityRow:
    fault = wrong(ENTITY, values)
    if fault is not None:
        raise UndecodablePayload(f"the state of the key {values[0]!r:.220} is damaged: {fault}")
    return checked_entity(values)
