"""Which of a stream's partitions belong to which flow of a family.

It is arithmetic, and nothing that anybody hands out: a partition belongs to the part that its
number leaves when it is divided by the count of parts. So each has exactly one flow, also one that
comes later; there is nothing to agree upon, and nothing that two could believe differently.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from zlib import crc32

__all__ = ["PARTS_MAX", "Part", "holder_of", "own_of", "part_from"]

PARTS_MAX: Final = 1_000


class Part(NamedTuple):
    """Of a family of flows: the one with this number, of so many."""

    number: int
    parts: int

    def has(self, partition: str) -> bool:
        return holder_of(partition, self.parts) == self.number


def holder_of(partition: str, parts: int) -> int:
    """Whose a partition is. Never to be changed: flows that run for years go by it."""
    if partition.isascii() and partition.isdecimal():
        return int(partition) % parts
    return crc32(partition.encode()) % parts


def part_from(stored: Any) -> Part | None:
    """As a run carries it; None: it reads all.

    Raises:
        ValueError: nobody can tell, and to read all would be to read what others read.
    """
    match stored:
        case None:
            return None
        case [int(number), int(parts)] if 0 <= number < parts:
            return Part(number, parts)
        case _:
            raise ValueError(f"{stored!r:.80} is no part of the partitions")


def own_of(
    part: Part, there: Iterable[str], read: Mapping[str, Any], chosen: Iterable[str] | None
) -> tuple[str, ...]:
    """What a part reads: its own of what is there and of what it has read, which must not vanish in
    silence; or its own of those that are chosen."""
    names = {*there, *read} if chosen is None else {*chosen}
    return tuple(sorted(one for one in names if part.has(one)))
