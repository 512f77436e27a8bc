"""States of keyed entities: one row for each key of an execution, changed by its appends.

A row is written over in place, and only with the append that records which messages it is made of.
So it is no event, and nothing of it is replayed: the store has the state as the last of these
appends left it. `due_us` lies beside the payload, in the clear, because timers are found by it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

from msgspec import Struct

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.limits import ENTITIES_READ_BYTES_MAX

__all__ = [
    "ByDue",
    "ByKey",
    "EntityChanges",
    "EntityLook",
    "EntityRow",
    "OfKeys",
    "checked_entity",
    "entity_checksum",
    "within_bytes",
]


class EntityRow(NamedTuple):
    key: str
    due_us: int | None
    """When the first of its timers is due."""
    payload: bytes
    """The state and all timers."""
    checksum: int


class EntityChanges(Struct, frozen=True):
    """What becomes of keys with an append."""

    put: tuple[EntityRow, ...] = ()
    gone: tuple[str, ...] = ()


class OfKeys(Struct, frozen=True):
    """Those of these keys that are there, in the order of keys."""

    keys: tuple[str, ...]


class ByKey(Struct, frozen=True):
    """A page in the order of keys (by their UTF-8 bytes), behind one of them; "" is the first."""

    after: str
    limit: int


class ByDue(Struct, frozen=True):
    """Those with timers, whose first is due first; of the same moment in the order of keys."""

    limit: int


EntityLook: TypeAlias = OfKeys | ByKey | ByDue


def entity_checksum(key: str, due_us: int | None, payload: bytes) -> int:
    """CRC-32 of a state in its place."""
    due = b"" if due_us is None else str(due_us).encode()
    return crc32(payload, crc32(b"%b\0%b\0" % (key.encode(), due)))


def checked_entity(values: Sequence[Any]) -> EntityRow:
    """A row as a table has it.

    Raises:
        UndecodablePayload: it is not what was stored.
    """
    row = EntityRow(*values)
    if entity_checksum(row.key, row.due_us, row.payload) != row.checksum:
        raise UndecodablePayload(f"the state of the key {row.key!r:.220} has a wrong checksum")
    return row


def within_bytes(rows: list[EntityRow]) -> list[EntityRow]:
    """The beginning of a page: as many as are to be read at once, and one at least."""
    size = 0
    for count, row in enumerate(rows):
        size += len(row.payload)
        if count and size > ENTITIES_READ_BYTES_MAX:
            return rows[:count]
    return rows
