"""Tables of immutable rows, and the journal that takes a failed transaction back.

Everything that is stored is a row in a table, by its primary key, and is changed in two ways only:
`put` and `remove`. Each notes the row that stood there before, so a rollback puts the old rows back
in the opposite order. Indexes are part of their table and follow both ways.

The order of a dictionary is never an answer: whoever reads many rows sorts them.
"""

from collections.abc import Callable, Collection, Hashable
from typing import Any, Generic, TypeVar

__all__ = ["Index", "Journal", "Table"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Journal:
    """What the transaction at work has changed."""

    __slots__ = ("_changes", "before_row")

    def __init__(self) -> None:
        self._changes: list[tuple[Table[Any, Any], Any, Any]] = []
        self.before_row: Callable[[], None] | None = None

    def __bool__(self) -> bool:
        return bool(self._changes)

    def note(self, table: "Table[Any, Any]", key: Hashable, old: object) -> None:
        if self.before_row is not None:
            self.before_row()
        self._changes.append((table, key, old))

    def forget(self) -> None:
        """The transaction has ended well."""
        self._changes.clear()

    def undo(self) -> None:
        """It has not."""
        while self._changes:
            table, key, old = self._changes.pop()
            table.restore(key, old)


class Index(Generic[K, R]):
    """The keys of a table's rows by something that those rows have in common.

    `of` names a row's group; a row without one (None) is left out.
    """

    __slots__ = ("_groups", "_of")

    def __init__(self, of: Callable[[K, R], Hashable | None]) -> None:
        self._of = of
        self._groups: dict[Hashable, dict[K, None]] = {}

    def follow(self, key: K, old: R | None, new: R | None) -> None:
        before = None if old is None else self._of(key, old)
        after = None if new is None else self._of(key, new)
        if before == after:
            return
        if before is not None:
            group = self._groups[before]
            del group[key]
            if not group:
                del self._groups[before]
        if after is not None:
            self._groups.setdefault(after, {})[key] = None

    def keys(self, group: Hashable) -> Collection[K]:
        return self._groups.get(group, ())

    def groups(self) -> Collection[Hashable]:
        return self._groups.keys()


class Table(Generic[K, R]):
    __slots__ = ("_indexes", "_journal", "rows")

    def __init__(self, journal: Journal, *indexes: Index[K, R]) -> None:
        self._journal = journal
        self._indexes = indexes
        self.rows: dict[K, R] = {}
        """Read it; write through `put` and `remove`."""

    def get(self, key: K) -> R | None:
        return self.rows.get(key)

    def put(self, key: K, row: R) -> None:
        """Insert a row, or write over the one with this key."""
        self._journal.note(self, key, self.rows.get(key))
        self.restore(key, row)

    def remove(self, key: K) -> None:
        self._journal.note(self, key, self.rows[key])
        self.restore(key, None)

    def restore(self, key: K, row: R | None) -> None:
        """Let this row stand under this key, or none, without a note."""
        old = self.rows.get(key)
        for index in self._indexes:
            index.follow(key, old, row)
        if row is None:
            del self.rows[key]
        else:
            self.rows[key] = row
