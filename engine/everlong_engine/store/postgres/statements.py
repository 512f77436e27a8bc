"""Named SQL: `queries.sql`, split at its names, and the few ways in which a statement is run.

A statement over many rows takes one array per column: one text, one plan and one round trip,
however many rows there are.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, TypeAlias

from asyncpg import Connection as AsyncpgConnection, Record

__all__ = ["SQL", "Connection", "Tx"]

Connection: TypeAlias = "AsyncpgConnection[Record]"


def _load() -> Mapping[str, str]:
    text = files("everlong_engine.store.postgres").joinpath("queries.sql").read_text("utf-8")
    found: dict[str, str] = {}
    for block in text.split("-- name: ")[1:]:
        name, _, rest = block.partition("\n")
        lines = [line for line in rest.splitlines() if not line.startswith("--")]
        found[name.strip()] = "\n".join(lines).strip().rstrip(";")
    return found


SQL: Final = _load()


class Tx:
    """A transaction, as the store's verbs see it. One that writes locks the rows of runs that it
    reads (see `queries.sql`)."""

    __slots__ = ("_connection", "shards", "writes")

    def __init__(self, connection: Connection, shards: int, *, writes: bool) -> None:
        self._connection = connection
        self.shards = shards
        self.writes = writes

    async def all(self, name: str, values: Sequence[Any] = ()) -> list[Any]:
        return await self._connection.fetch(SQL[name], *values)

    async def one(self, name: str, values: Sequence[Any] = ()) -> Any:
        """The first row, or None."""
        return await self._connection.fetchrow(SQL[name], *values)

    async def run(self, name: str, values: Sequence[Any] = ()) -> int:
        """How many rows it touched."""
        status = await self._connection.execute(SQL[name], *values)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdecimal() else 0

    async def rows(self, name: str, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run a statement over all rows."""
        return await self.all(name, [list(column) for column in zip(*rows, strict=True)])

    async def plain(self, text: str) -> None:
        """Words of our own without parameters, and without an answer."""
        await self._connection.execute(text)

    async def many(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """One text, once for each row, without waiting in between."""
        await self._connection.executemany(text, rows)

    async def text(self, text: str, values: Sequence[Any]) -> list[Any]:
        """A text that was put together, as filters are, or that a user wrote."""
        return await self._connection.fetch(text, *values)
