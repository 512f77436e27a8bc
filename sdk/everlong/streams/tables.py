"""`Rows`: what a query finds in a table that grows, in a SQLite file."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, overload

from everlong.exceptions import InvalidArguments
from everlong.streams._polled import PARTITION, PolledFileReader, check_poll, position_in
from everlong.streams._source import Cursor, Reader, Record, Source, require_same

__all__ = ["Rows"]

T = TypeVar("T")

_BEGINNING: Final = -(1 << 63)
"""Behind no number of SQLite's; the smallest row may have a negative one."""


class Rows(Source[T], Generic[T]):
    """The rows of a SQLite file that a query finds, in the order of a growing number.

        changes = Stream(
            "changes",
            Rows("shop.db", "select id, item from changes where id > :after order by id", Change),
        )

    The first column is the position: an integer that only grows. The others are the message, as a
    JSON object by their names. What people get wrong: a row that becomes visible behind a greater
    number is never read; in SQLite a rowid or AUTOINCREMENT is given within the transaction that
    writes, of which there is one at a time.

    Args:
        path: of the file. It is only read.
        query: with `:after`, the position to go on behind, and in the order of the first column.
        value: the type of its messages' values, see `Source`.
        poll: seconds between two looks at a table that has not grown.
    """

    keyed = False

    @overload
    def __init__(
        self: "Rows[bytes]", path: str | Path, query: str, *, poll: float = 0.2
    ) -> None: ...
    @overload
    def __init__(
        self, path: str | Path, query: str, value: type[T], *, poll: float = 0.2
    ) -> None: ...
    @overload
    def __init__(
        self: "Rows[Any]", path: str | Path, query: str, value: Any, *, poll: float = 0.2
    ) -> None: ...
    def __init__(
        self, path: str | Path, query: str, value: Any = bytes, *, poll: float = 0.2
    ) -> None:
        super().__init__(value)
        if ":after" not in query:
            raise InvalidArguments(
                f"the query of a Rows source goes on behind a position: … where id > :after order "
                f"by id; {query!r:.200} does not"
            )
        self.path, self.query, self.poll = Path(path), query, check_poll(poll)

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor."""
        at = position_in(after, partitions, _BEGINNING, self)
        identity = f"rows of {self.path.name}"
        require_same(identity, after, f"{self.path}")
        return _RowsReader(self, identity, at)

    def __repr__(self) -> str:
        return f"Rows({str(self.path)!r})"


class _RowsReader(PolledFileReader):
    def __init__(self, source: Rows[Any], identity: str, at: int) -> None:
        super().__init__(identity, at, source.poll)
        self._source = source

    def look_now(self, max_messages: int, max_bytes: int) -> list[Record]:
        found: list[Record] = []
        place = f"{self._source.path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(place, uri=True)) as connection:
            rows = connection.execute(self._source.query, {"after": self.at})
            names = [column[0] for column in rows.description[1:]]
            for position, *values in rows:
                if type(position) is not int or position <= self.at:
                    raise InvalidArguments(
                        f"the query of {self._source!r} gave the position {position!r} behind "
                        f"{self.at}: its first column must be an integer that grows, and its rows "
                        "in that order"
                    )
                self.at = position
                value = json.dumps(dict(zip(names, values, strict=True)), default=_plain).encode()
                found.append(Record(PARTITION, position, value))
                max_bytes -= len(value)
                if len(found) == max_messages or max_bytes <= 0:
                    break
        return found


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"a column holds {type(value).__name__}")
