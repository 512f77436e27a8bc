"""Which message of a batch is poison, found by halves; and what waits behind a parked key.

Plain state and pure steps. The state goes with the run's cursors, so over every roll-over, crash
and savepoint; it is there only while something is looked for or set aside.

A message that has failed alone is a suspect until another one passes: then the fault is its own.
If none does, it may be the database, and the flow is to be paused, with nothing set aside. Whoever
lets it go on has looked: what is tried again then, and fails, is set aside at once.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from everlong_engine import limits, pack, unpack

__all__ = [
    "Isolation",
    "Lot",
    "Part",
    "Suspect",
    "glance",
    "isolation_in",
    "key_of",
    "lot_in",
    "packed",
    "parts_of",
]

_BESIDE_BYTES: Final = 48


class Part(Struct):
    """Messages that are to be handed out together."""

    identity: str
    records: list[Any]
    whole: bool = False
    """It has not failed yet: it is tried as often as a batch."""
    asked: bool = False
    """Somebody has asked for it: what fails again alone is set aside at once."""


class Suspect(Struct):
    """A message that has failed alone, or one that follows it with the same key."""

    identity: str
    record: Any
    error: str = ""
    """Empty for those that follow."""
    attempts: int = 0


def key_of(record: Sequence[Any]) -> bytes | None:
    key: bytes | None = record[3] if len(record) > 3 else None
    return key


class Isolation(Struct):
    """What is looked for in one stream."""

    parts: list[Part] = field(default_factory=list[Part])
    """To be handed out before anything is read."""
    held: list[Suspect] = field(default_factory=list[Suspect])
    """Whose fault it is turns out with the next message that passes."""
    row: int = 0
    """Batches of one message before these that failed, with none passing in between."""
    handed: bool = False
    """Something is in hand. It has passed if the loop comes back, or the run begins anew behind a
    checkpoint."""
    ends: bool = False
    """The loop was drained, and ends when no part is left."""
    pause: str = ""
    """Why nothing more is handed out until somebody says so."""

    def failed(self, part: Part, error: str, attempts: int) -> list[Suspect]:
        """The body has failed with this in hand; what is to be set aside now."""
        self.handed = False
        if len(part.records) > 1:
            middle = (len(part.records) + 1) // 2
            self.parts[:0] = [
                Part(part.identity, half, asked=part.asked)
                for half in (part.records[:middle], part.records[middle:])
            ]
            return []
        suspect = Suspect(part.identity, part.records[0], error, attempts)
        if part.asked:
            return [suspect]
        self.held.append(suspect)
        return self.looked_at()

    def looked_at(self) -> list[Suspect]:
        """Whether it is too many by now, or nobody is left to be compared with; what is to be set
        aside."""
        count = sum(1 for one in self.held if one.error)
        alone = not self.parts
        if self.row + count >= limits.POISON_IN_A_ROW_MAX or (alone and count > 1):
            self._hold(count)
        elif alone and count:
            self.row += count
            return self._judged()
        return []

    def _hold(self, count: int) -> None:
        again = [
            Part(one.identity, [one.record], whole=True, asked=bool(one.error)) for one in self.held
        ]
        self.pause = (
            f"{self.row + count} messages in a row have failed, each alone, and none has passed: "
            f"it may not be the messages ({self.held[-1].error or self.held[0].error}). When it is "
            "resumed they are tried again, and those that fail then are set aside"
        )
        self.parts[:0] = again
        self.held, self.row = [], 0

    def _judged(self) -> list[Suspect]:
        judged, self.held = self.held, []
        return judged

    def passed(self) -> list[Suspect]:
        """The loop has come back. What is to be set aside: it was the messages."""
        if not self.handed:
            return []
        self.handed, self.row = False, 0
        return self._judged()

    def go_elsewhere(self, named: Collection[str] | None) -> None:
        """What lies in these partitions is read again, or not at all; None means in all."""
        if named is None:
            self.parts, self.held = [], []
            return
        for part in self.parts:
            part.records = [one for one in part.records if one[0] not in named]
        self.parts = [part for part in self.parts if part.records]
        self.held = [one for one in self.held if one.record[0] not in named]


class Lot(Struct):
    """What is parked: by key, in the order of their first messages."""

    keys: list[tuple[bytes, list[Suspect]]] = field(default_factory=list[Any])
    shown: int = 0
    """How many items told people of it, when it was as it is."""

    @property
    def messages(self) -> list[Suspect]:
        return [one for _, those in self.keys for one in those]

    @property
    def is_full(self) -> bool:
        found = self.messages
        size = sum(
            _BESIDE_BYTES + len(one.record[2]) + len(key_of(one.record) or b"") for one in found
        )
        return len(found) >= limits.PARKED_MAX or size >= limits.PARKED_BYTES_MAX


def parts_of(messages: Sequence[Suspect], at_most: int) -> list[Part]:
    """In their order, so many at once; somebody has asked for them."""
    parts: list[Part] = []
    for identity, those in groupby(messages, key=attrgetter("identity")):
        records = [one.record for one in those]
        parts += [
            Part(identity, records[at : at + at_most], whole=True, asked=True)
            for at in range(0, len(records), at_most)
        ]
    return parts


def packed(state: Isolation | Lot) -> bytes:
    plain: object = msgspec.to_builtins(state, builtin_types=(bytes,))
    return pack(plain)


def isolation_in(cursors: Mapping[str, bytes], name: str) -> Isolation | None:
    """One's own copy."""
    data = cursors.get(name)
    return None if data is None else msgspec.convert(unpack(data), Isolation)


def lot_in(cursors: Mapping[str, bytes], name: str) -> Lot:
    """One's own copy."""
    data = cursors.get(name)
    return Lot() if data is None else msgspec.convert(unpack(data), Lot)


@lru_cache(maxsize=64)
def glance(data: bytes) -> tuple[frozenset[bytes], int, bool]:
    """Of a lot, what each batch asks: which keys there are, how many items told people of it, and
    whether it is full."""
    lot = msgspec.convert(unpack(data), Lot)
    return frozenset(key for key, _ in lot.keys), lot.shown, lot.is_full
