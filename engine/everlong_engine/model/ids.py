"""Time-ordered identifiers, made by us: 16 bytes, the layout of UUID version 7.

The first 48 bits are milliseconds, so ids made one after the other stand next to each other in a
B-tree and a group commit touches few pages. No database sequence is involved: any process mints
ids at any time. The clock and the source of randomness come in through the door.

Source of the layout: RFC 9562, section 5.7; the 12 bits after the version are a counter, so ids of
one process are strictly increasing even when the clock stands still or steps back (section 6.2).
"""

from typing import Protocol
from uuid import UUID
from zlib import crc32

from everlong_engine.model.limits import INSTANT_US_MAX

__all__ = ["ID_BYTES", "IdSource", "first_id_of", "id_from_text", "id_text", "shard_of"]

ID_BYTES = 16
_VERSION = 7 << 76
_VARIANT = 2 << 62
_COUNTER_MAX = 0xFFF
_MILLIS_MAX = INSTANT_US_MAX // 1000


class Bits(Protocol):
    """A source of chance, `random.Random` for one."""

    def getrandbits(self, k: int, /) -> int: ...


class IdSource:
    """Mints strictly increasing 16-byte ids."""

    __slots__ = ("_counter", "_millis", "_random")

    def __init__(self, random: Bits) -> None:
        self._random = random
        self._millis = 0
        self._counter = 0

    def next(self, now_us: int) -> bytes:
        """The next id; `now_us` is microseconds since the epoch."""
        millis = now_us // 1000
        if millis > self._millis:
            self._millis, self._counter = millis, 0
        elif self._counter == _COUNTER_MAX:
            self._millis, self._counter = self._millis + 1, 0
        else:
            self._counter += 1
        tail = self._random.getrandbits(62)
        value = (self._millis << 80) | _VERSION | (self._counter << 64) | _VARIANT | tail
        return value.to_bytes(16, "big")

    def follow(self, identifier: bytes) -> None:
        """Mint only greater ones from here on, also if the clock was set back since it was minted:
        the greatest id is the newest run, and a run's successor is greater than the run."""
        millis = int.from_bytes(identifier[:6], "big")
        if millis > _MILLIS_MAX:
            return  # No clock made it, and counting on from there would come to an end.
        if millis >= self._millis:
            self._millis, self._counter = millis, _COUNTER_MAX


def first_id_of(instant_us: int) -> bytes:
    """No id that was minted at or after this instant is smaller, and none before it is greater."""
    return (max(instant_us // 1000, 0) << 80).to_bytes(16, "big")


def id_text(identifier: bytes) -> str:
    """The form that people see and type: a UUID's. Raises ValueError unless it has 16 bytes."""
    if len(identifier) != ID_BYTES:
        raise ValueError(f"an id has {ID_BYTES} bytes, not {len(identifier)}")
    text = identifier.hex()  # A UUID object would take four times as long; each run needs one.
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def id_from_text(text: str) -> bytes:
    """Undo `id_text`. Raises ValueError for anything that is not an id."""
    return UUID(text).bytes


def shard_of(namespace: str, workflow_id: str, shards: int) -> int:
    """Where an execution lives. The same on every machine, so not Python's salted `hash`."""
    return crc32(f"{namespace}\0{workflow_id}".encode()) % shards
