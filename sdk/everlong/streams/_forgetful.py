"""What is read from brokers that forget what is acknowledged, and may send again what is not.

They know no positions. So a position is the id that a message bears, or a name made up for it, and
the cursor is a count, with marks of the messages that were stored last. Whatever was not
acknowledged comes again when it is read anew: what bears an id that is marked was stored before,
and is dropped. There are more marks than the broker may have messages on their way to one reader,
so it never sends again what is not marked, unless it has lost acknowledgements itself.
"""

import secrets
from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from everlong.exceptions import InvalidArguments
from everlong.streams._polled import PARTITION
from everlong.streams._source import Cursor, Reader, Record, number_in

__all__ = ["ForgetfulReader", "check_prefetch", "require_whole"]

_MARK_BYTES: Final = 8
_PREFETCH_MAX: Final = 10_000


def check_prefetch(prefetch: int) -> int:
    if not 1 <= prefetch <= _PREFETCH_MAX:
        raise InvalidArguments(f"prefetch={prefetch}: give 1 to {_PREFETCH_MAX:,}")
    return prefetch


def require_whole(partitions: Sequence[str] | None, what: object) -> None:
    """Raises InvalidArguments: a partition is asked for that there is not."""
    if partitions is not None and tuple(partitions) != (PARTITION,):
        raise InvalidArguments(f"{what!r} has one partition, {PARTITION!r}, not {partitions}")


class ForgetfulReader(Reader):
    """What one reader was given, in order. Deliveries are acknowledged by their numbers."""

    def __init__(self, identity: str, after: Cursor | None, prefetch: int, what: object) -> None:
        self.identity = identity
        self._marks_max = 2 * prefetch
        self._count = 0 if after is None else number_in(after.after.get(PARTITION, 0), what)
        stored = b"" if after is None or after.taken is None else after.taken
        marks = (stored[at : at + _MARK_BYTES] for at in range(0, len(stored), _MARK_BYTES))
        self._stored = dict.fromkeys(marks)
        """Marks up to the last cursor, the newest last."""
        self._seen = dict(self._stored)
        """The same, up to the last delivery."""
        self._ahead: deque[tuple[int, bytes]] = deque()
        """Marks that belong to cursors to come: behind how many messages."""
        self._open: deque[tuple[int, int]] = deque()
        """(count, delivery) of what is not acknowledged."""
        self._prefix = secrets.token_hex(8)

    def position_of(self, name: str | None, delivery: int) -> str | None:
        """Where a message lies that was delivered; None if it was stored before, and is to be
        acknowledged at once.

        Args:
            name: an id that no other message bears; None if it has none, and may come twice.
            delivery: by which it is acknowledged.
        """
        mark = None if name is None else sha256(name.encode()).digest()[:_MARK_BYTES]
        known = mark is not None and mark in self._seen
        self._count += not known
        if mark is not None:
            # Also of what comes again: its acknowledgement may be lost once more.
            self._ahead.append((self._count, mark))
            _move_to_end(self._seen, mark, self._marks_max)
        if known:
            return None
        self._open.append((self._count, delivery))
        # Not a mere count: behind a reset the same one would name another message.
        return f"{self._prefix}-{self._count}" if name is None else f"id:{name}"

    def cursor_behind(self, before: Cursor | None, records: Sequence[Record]) -> Cursor:
        read = 0 if before is None else number_in(before.after.get(PARTITION, 0), self)
        count = read + len(records)
        while self._ahead and self._ahead[0][0] <= count:
            _move_to_end(self._stored, self._ahead.popleft()[1], self._marks_max)
        return Cursor(self.identity, {PARTITION: count}, b"".join(self._stored))

    def to_acknowledge(self, cursor: Cursor) -> list[int]:
        """Deliveries that this cursor stands behind, and that were not asked for before."""
        count = number_in(cursor.after.get(PARTITION, 0), self)
        found: list[int] = []
        while self._open and self._open[0][0] <= count:
            found.append(self._open.popleft()[1])
        return found


def _move_to_end(marks: dict[bytes, None], mark: bytes, most: int) -> None:
    marks.pop(mark, None)
    marks[mark] = None
    if len(marks) > most:
        del marks[next(iter(marks))]
