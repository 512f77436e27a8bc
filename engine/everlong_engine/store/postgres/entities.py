"""States of keyed entities on a server."""

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
from everlong_engine.store.postgres.statements import Tx

__all__ = ["entities", "entities_of", "has_entities", "put_entities"]


async def put_entities(tx: Tx, shard: int, execution_id: bytes, changes: EntityChanges) -> None:
    """With the append that was accepted in this transaction."""
    if changes.put:
        rows = [(shard, execution_id, *row) for row in changes.put]
        await tx.rows("put_entities", rows)
    if changes.gone:
        await tx.rows("drop_entities", [(shard, execution_id, key) for key in changes.gone])


async def entities(tx: Tx, shard: int, execution_id: bytes, look: EntityLook) -> list[EntityRow]:
    """Raises UndecodablePayload: one of them is damaged."""
    whose = (shard, execution_id)
    match look:
        case OfKeys():
            return await _rows(tx, "entities_of_keys", (*whose, list(look.keys)))
        case ByKey():
            rows = await _rows(tx, "entities_by_key", (*whose, look.after, look.limit))
            return within_bytes(rows)
        case ByDue():
            return within_bytes(await _rows(tx, "entities_by_due", (*whose, look.limit)))
    assert_never(look)


async def entities_of(tx: Tx, shard: int, execution_id: bytes) -> list[EntityRow]:
    """All of an execution, in the order of keys. Raises UndecodablePayload."""
    return await _rows(tx, "entities_of", (shard, execution_id))


async def has_entities(tx: Tx, shard: int, execution_id: bytes) -> bool:
    return await tx.one("any_entity", (shard, execution_id)) is not None


async def _rows(tx: Tx, name: str, values: tuple[Any, ...]) -> list[EntityRow]:
    return [checked_entity(row) for row in await tx.all(name, values)]
