"""What executions have published: a book of its own, written from accepted appends."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from everlong_engine.model.events import Event, ItemPublished
from everlong_engine.model.runs import ItemRow
from everlong_engine.model.writes import Append

if TYPE_CHECKING:
    from tests.simulation.journal import Journal, RunBook

__all__ = ["Streams"]


class Streams:
    """The output channels of all executions."""

    def __init__(self, journal: "Journal", reached: Callable[[str], None]) -> None:
        self._must = journal.must
        self._reached = reached
        self._items: dict[tuple[bytes, str], list[tuple[int, bytes]]] = {}
        """(accepted_us, payload), by execution and channel."""
        self.now_us = 0

    def appended(self, book: "RunBook", append: Append, events: list[Event]) -> None:
        """Each item stands beside its event, and has the next number of its channel."""
        rows = list(append.items)
        for event in events:
            if not isinstance(event, ItemPublished):
                continue
            items = self._items.setdefault((book.execution_id, event.channel), [])
            name = f"{book.workflow_id}: item {event.number} of {event.channel}"
            self._must(event.number == len(items), f"{name} was published behind {len(items)}")
            row = rows.pop(0) if rows else None
            told = (event.channel, event.number, event.payload)
            stored = None if row is None else (row.channel, row.number, row.payload)
            self._must(told == stored, f"{name}: beside it stands {stored}")
            items.append((self.now_us, event.payload))
            self._reached("item published")
        self._must(not rows, f"{book.workflow_id}: items without an event: {rows}")

    def numbers_of(self, execution_id: bytes) -> tuple[tuple[str, int], ...]:
        """How far its channels have come."""
        channels = sorted(self.channels_of(execution_id))
        return tuple((one, len(self.items_of(execution_id, one))) for one in channels)

    def forked(self, other: "RunBook", book: "RunBook", items: Sequence[ItemRow]) -> None:
        """A fork takes along what was published up to its point, and nothing else."""
        published = [event for _, event in book.events if isinstance(event, ItemPublished)]
        for channel in self.channels_of(other.execution_id):
            theirs = self._items[other.execution_id, channel]
            mine = [(one.number, one.payload) for one in items if one.channel == channel]
            name = f"{book.workflow_id}: a fork with {len(mine)} items of {channel}"
            first = [(n, payload) for n, (_, payload) in enumerate(theirs[: len(mine)])]
            self._must(mine == first, f"{name}, which are others")
            last = max((one.number for one in published if one.channel == channel), default=-1)
            self._must(len(mine) > last, f"{name}, and it repeats the publishing of {last}")
            if mine:
                self._items[book.execution_id, channel] = theirs[: len(mine)]

    def channels_of(self, execution_id: bytes) -> list[str]:
        return [channel for one, channel in self._items if one == execution_id]

    def items_of(self, execution_id: bytes, channel: str) -> list[bytes]:
        return [payload for _, payload in self._items.get((execution_id, channel), ())]

    def accepted_us(self, execution_id: bytes, channel: str, number: int) -> int | None:
        """When an item was accepted; None if it is not there."""
        items = self._items.get((execution_id, channel), [])
        return items[number][0] if number < len(items) else None

    def compare(self, book: "RunBook", channel: str, stored: list[ItemRow]) -> None:
        """A channel as the store has it."""
        found = [(row.number, row.payload) for row in stored]
        wanted = list(enumerate(self.items_of(book.execution_id, channel)))
        self._must(
            found == wanted,
            f"{book.workflow_id}: {channel} has {len(found)} items, {len(wanted)} were published",
        )
