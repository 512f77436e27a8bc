"""States of keyed entities in memory."""

from typing import assert_never

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
from everlong_engine.store.memory.data import MemoryData

__all__ = ["entities", "entities_of", "put_entities"]


def put_entities(data: MemoryData, execution_id: bytes, changes: EntityChanges) -> None:
    """With the append that was accepted."""
    for row in changes.put:
        data.entities.put((execution_id, row.key), row)
    for key in changes.gone:
        if (execution_id, key) in data.entities.rows:
            data.entities.remove((execution_id, key))


def entities(data: MemoryData, execution_id: bytes, look: EntityLook) -> list[EntityRow]:
    """Raises UndecodablePayload: one of them is damaged."""
    match look:
        case OfKeys():
            wanted = set(look.keys)
            return [row for row in entities_of(data, execution_id) if row.key in wanted]
        case ByKey():
            after = look.after.encode()
            found = [row for row in entities_of(data, execution_id) if row.key.encode() > after]
            return within_bytes(found[: look.limit])
        case ByDue():
            timed = [
                (row.due_us, row.key.encode(), row)
                for row in entities_of(data, execution_id)
                if row.due_us is not None
            ]
            timed.sort(key=lambda one: one[:2])
            return within_bytes([row for _, _, row in timed[: look.limit]])
    assert_never(look)


def entities_of(data: MemoryData, execution_id: bytes) -> list[EntityRow]:
    """All of an execution, in the order of keys. Raises UndecodablePayload."""
    keys = sorted(data.entities_of.keys(execution_id), key=lambda one: one[1].encode())
    return [checked_entity(data.entities.rows[key]) for key in keys]
