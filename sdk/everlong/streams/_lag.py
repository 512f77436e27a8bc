"""How far a flow is behind its source: what it has not read is read and counted, as it would be."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from everlong.exceptions import EverlongError, InvalidArguments
from everlong.streams._parts import Part, own_of
from everlong.streams._source import Cursor, Source

__all__ = ["COUNTED_MAX", "Lag", "PartitionLag", "lag_behind"]

COUNTED_MAX: Final = 10_000
_BYTES_AT_ONCE: Final = 1_000_000
_OPEN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class PartitionLag:
    messages: int
    """Of this partition that were counted."""
    seconds: float | None
    """Since the oldest of them was written; None if the source does not say."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a flow is behind its source."""

    messages: int
    """That lie behind what it has read, or as many of them as were counted."""
    more: bool
    """Whether there were more than were counted."""
    seconds: float | None
    """Since the oldest of them was written; None if there is none, or the source does not say."""
    partitions: Mapping[str, PartitionLag] = field(default_factory=dict[str, PartitionLag])
    """The same of each partition in which any was counted. With `more` they are what was met first,
    and not all."""


async def lag_behind(
    source: Source[Any],
    cursor: Cursor | None,
    part: Part | None,
    partitions: Sequence[str] | None,
    *,
    at_most: int,
    wait_s: float,
    now_us: int,
) -> Lag:
    """Count what lies behind a cursor.

    Raises:
        InvalidArguments: the source forgets, so that to count would be to take.
        StreamRewound: what comes next is not there any more.
        EverlongError: the source has not answered for ten seconds.
    """
    if source.forgets:
        raise InvalidArguments(
            f"what is read from {source!r} is taken from it, so nobody but its broker can count "
            "what waits there: ask it, with its own tools"
        )
    try:
        async with asyncio.timeout(_OPEN_S):
            if part is not None:
                there = await source.partitions() if partitions is None else ()
                read: Mapping[str, Any] = {} if cursor is None else cursor.after
                partitions = own_of(part, there, read, partitions)
                if not partitions:
                    return Lag(0, more=False, seconds=None)
            reader = await source.open(cursor, partitions)
    except TimeoutError:
        raise EverlongError(f"{source!r} cannot be read: it is not there") from None
    counts: Counter[str] = Counter()
    oldest_us: dict[str, int] = {}
    try:
        while (left := at_most + 1 - counts.total()) > 0 and (
            found := await reader.fetch(left, _BYTES_AT_ONCE, wait_s)
        ):
            for one in found:
                counts[one.partition] += 1
                if one.at_us is not None:
                    before_us = oldest_us.get(one.partition, one.at_us)
                    oldest_us[one.partition] = min(one.at_us, before_us)
    finally:
        await reader.close()
    ages_s = {name: max(0, now_us - at_us) / 1e6 for name, at_us in oldest_us.items()}
    return Lag(
        min(counts.total(), at_most),
        counts.total() > at_most,
        max(ages_s.values(), default=None),
        {name: PartitionLag(count, ages_s.get(name)) for name, count in sorted(counts.items())},
    )
