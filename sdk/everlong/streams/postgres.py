"""`PostgresRows`: a table or a query of a PostgreSQL server. Extra `everlong[postgres]`.

A number that is taken from a sequence is no position: a transaction may commit long after others
that took greater numbers. So each row bears the transaction that wrote it, and rows are read in the
order of (transaction, id), only those whose transactions lie below every one that is still open.
Behind a row that was read nothing can become visible any more.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, overload

import asyncpg

from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.streams._polled import PARTITION, PolledReader, behind, check_poll
from everlong.streams._source import (
    Cursor,
    Position,
    Reader,
    Record,
    Source,
    require_same,
    timeless,
)

__all__ = ["PostgresRows", "positions_ddl"]

T = TypeVar("T")

_connect: Final[Any] = asyncpg.connect  # Its options are the user's.
_XID: Final = "everlong_xid"
_QUERY: Final = re.compile(r"\s*(select|with|table|values)\b", re.IGNORECASE)
_TABLE: Final = re.compile(r'(?:(?P<schema>\w+|"[^"]+")\.)?(?P<name>\w+|"[^"]+")')
_PLACE: Final = re.compile(r"(\d+)/(\S+)")
_ID_TYPES: Final = {"int2": "smallint", "int4": "integer", "int8": "bigint", "uuid": "uuid"}
"""Whose equal values are written alike, so that a position is one row."""
_ROWS_AT_ONCE: Final = 100
"""That the server sends before it is looked how large they are."""
_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_CLOSE_S: Final = 5.0
_GONE: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


def positions_ddl(table: str, *, id: str = "id", xid: str = _XID, updates: bool = False) -> str:
    """The statements that give a table what `PostgresRows` reads by. For a migration of yours.

        print(positions_ddl("orders"))

    Rows that are there already come first, in the order of their ids. The column is added without
    writing the table anew; on a large one make the index with CREATE INDEX CONCURRENTLY.

    Args:
        table: its name, with its schema if need be, as SQL has it.
        id: a column of whole numbers or UUIDs, of which each row has another.
        xid: the name of the new column.
        updates: a row that is changed is a message again, with what it holds by then. It takes a
            trigger.

    Raises:
        InvalidArguments: the name is none of a table.
    """
    named = _TABLE.fullmatch(table)
    if named is None:
        raise InvalidArguments(f"{table!r} is no name of a table, such as orders or shop.orders")
    column, number = _quoted(xid), _quoted(id)
    lines = [
        f"ALTER TABLE {table} ADD COLUMN {column} xid8 NOT NULL DEFAULT pg_current_xact_id();",
        f"CREATE INDEX ON {table} ({column}, {number});",
    ]
    if updates:
        own = _quoted(f"{named['name'].strip(chr(34))}_{xid}")
        function = f"{named['schema']}.{own}" if named["schema"] else own
        lines += [
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$",
            f"BEGIN NEW.{column} := pg_current_xact_id(); RETURN NEW; END $$;",
            f"CREATE TRIGGER {own} BEFORE INSERT OR UPDATE ON {table}",
            f"    FOR EACH ROW EXECUTE FUNCTION {function}();",
        ]
    return "\n".join(lines)


class PostgresRows(Source[T], Generic[T]):
    """The rows of a table or a query in PostgreSQL (13 or newer), in the order of transactions.

        orders = Stream("orders", PostgresRows("postgresql://localhost/shop", "orders", Order))

    A column says which transaction wrote a row; `positions_ddl` gives the statements that add it.
    The message is a JSON object of all other columns, as `row_to_json` makes it. Nothing but
    SELECTs is sent, in transactions that are READ ONLY.

    What people get wrong: a row is read once nothing older is open, so a transaction that writes
    anywhere on the server and stays open holds the flow up until it ends. And the column is the
    server's: rows that are copied from elsewhere (a dump, logical replication) must get their own.

    Args:
        url: of the database.
        relation: a table, a view, or a query that gives the columns `id` and `xid`.
        value: the type of its messages' values, see `Source`.
        id: a column of whole numbers or UUIDs, of which each row has another.
        xid: the column with its transaction, of the type xid8.
        key: a column that is the message's key.
        at: a column that tells when it was written.
        poll: seconds between two looks when nothing was there.
        options: more for `asyncpg.connect`, such as `ssl`; behind a pooler that gives connections
            away with each transaction `{"statement_cache_size": 0}`.
    """

    @overload
    def __init__(
        self: "PostgresRows[bytes]",
        url: str,
        relation: str,
        *,
        id: str = "id",
        xid: str = _XID,
        key: str | None = None,
        at: str | None = None,
        poll: float = 0.5,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        url: str,
        relation: str,
        value: type[T],
        *,
        id: str = "id",
        xid: str = _XID,
        key: str | None = None,
        at: str | None = None,
        poll: float = 0.5,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "PostgresRows[Any]",
        url: str,
        relation: str,
        value: Any,
        *,
        id: str = "id",
        xid: str = _XID,
        key: str | None = None,
        at: str | None = None,
        poll: float = 0.5,
        options: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        url: str,
        relation: str,
        value: Any = bytes,
        *,
        id: str = "id",
        xid: str = _XID,
        key: str | None = None,
        at: str | None = None,
        poll: float = 0.5,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(value)
        self.is_query = _QUERY.match(relation) is not None
        if not self.is_query and _TABLE.fullmatch(relation) is None:
            raise InvalidArguments(
                f"{relation!r:.200} is neither a table, such as orders or shop.orders, nor a query "
                "that begins with SELECT"
            )
        self.url, self.relation = url, relation.strip().rstrip(";")
        self.id, self.xid, self.key, self.at = id, xid, key, at
        self.poll = check_poll(poll)
        self.options = dict(options or {})

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """A reader behind the cursor, or from the oldest row on."""
        at = behind(after, partitions, self)
        place = None if at is None else _place(at)
        settings = {"TimeZone": "UTC", **self.options.get("server_settings", {})}
        connection = await _connect(
            self.url,
            **{
                "timeout": _CONNECT_S,
                "command_timeout": _ANSWER_S,
                **self.options,
                "server_settings": settings,
            },
        )
        try:
            async with connection.transaction(readonly=True):
                shape = await self._shape(connection)
                identity, last = await self._whose(connection)
                require_same(identity, after, f"{self!r} in PostgreSQL")
                if place is not None:
                    await self._require_place(connection, shape, place, last)
                await self._require_own_numbers(connection)
        except BaseException:
            await _let_go(connection)
            raise
        return _RowsReader(self, connection, identity, shape, place)

    async def before(self, at_us: int, partitions: Sequence[str] | None) -> Cursor:
        """Where a moment lies, if a column tells when rows were written (`at=`)."""
        if self.at is None:
            raise timeless(self)
        return await super().before(at_us, partitions)

    def is_behind(self, position: Position, other: Position) -> bool:
        """By their transactions, and the ids within them."""
        try:
            return _rank(position) > _rank(other)
        except InvalidArguments:  # Of a rewind to what is none: nothing is read from there.
            return False

    @property
    def item(self) -> str:
        """Not for flows: as it stands behind FROM."""
        return f"({self.relation}) AS r" if self.is_query else f"{self.relation} AS r"

    async def _shape(self, connection: Any) -> "_Shape":
        """The columns. Raises InvalidArguments: those that are needed are not there."""
        try:
            asked = await connection.prepare(f"SELECT * FROM {self.item}")
        except asyncpg.PostgresSyntaxError as error:
            raise InvalidArguments(f"{self!r}: {error}") from error
        types = {one.name: one.type.name for one in asked.get_attributes()}
        if types.get(self.xid) != "xid8":
            ddl = "" if self.is_query else f": {positions_ddl(self.relation, id=self.id)}"
            raise InvalidArguments(
                f"{self!r} has no column {self.xid!r} of the type xid8, which says which "
                f"transaction wrote a row. Add one to its table{ddl}"
            )
        if (kind := _ID_TYPES.get(types.get(self.id, ""))) is None:
            raise InvalidArguments(
                f"{self!r} has no column {self.id!r} of whole numbers or UUIDs by which its rows "
                f"are told apart, it has {', '.join(types)}: name one with id=…"
            )
        named = [one for one in (self.key, self.at) if one is not None and one not in types]
        if named:
            raise InvalidArguments(f"{self!r}: no column {named[0]!r} among {', '.join(types)}")
        return _Shape(kind, tuple(name for name in types if name != self.xid))

    async def _whose(self, connection: Any) -> tuple[str, int]:
        """By what it is known again, and the transaction that would be the next one."""
        cluster, database, table, last = await connection.fetchrow(
            "SELECT c.system_identifier::text, d.oid::bigint, to_regclass($1::text)::oid::bigint, "
            "pg_snapshot_xmax(pg_current_snapshot())::text "
            "FROM pg_control_system() AS c, pg_database AS d WHERE d.datname = current_database()",
            None if self.is_query else self.relation,
        )
        return f"postgres {cluster}.{database}.{table or 'query'}", int(last)

    async def _require_place(
        self, connection: Any, shape: "_Shape", place: tuple[str, str], last: int
    ) -> None:
        """Raises StreamRewound: the server has not come so far. InvalidArguments: it is none."""
        try:
            await connection.fetchval(f"SELECT $1::text::{shape.id_type}", place[1])
        except asyncpg.DataError as error:
            raise InvalidArguments(f"{'/'.join(place)!r} is no position: {error}") from error
        if int(place[0]) >= last:
            raise StreamRewound(
                f"{self!r} was read up to transaction {place[0]}, and its server has not come "
                f"further than {last - 1}: it was set back, from a backup or to a standby that did "
                "not have everything. Rewind the flow to where it is to go on"
            )

    async def _require_own_numbers(self, connection: Any) -> None:
        """Raises InvalidArguments: rows that would never be read, or too late."""
        xid = f"r.{_quoted(self.xid)}"
        if await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {self.item} WHERE {xid} IS NULL) OR EXISTS (SELECT FROM "
            f"{self.item} WHERE {xid} >= pg_snapshot_xmax(pg_current_snapshot()))"
        ):
            raise InvalidArguments(
                f"{self!r} has rows whose {self.xid} is none of this server's transactions: they "
                "were copied from elsewhere. Where they are to be read, give them their own: "
                f"UPDATE … SET {_quoted(self.xid)} = DEFAULT"
            )

    def __repr__(self) -> str:
        return f"PostgresRows({self.relation!r:.80})"  # The URL may hold a password.


@dataclass(frozen=True, slots=True)
class _Shape:
    """What there is to be read."""

    id_type: str
    columns: tuple[str, ...]


class _RowsReader(PolledReader):
    def __init__(
        self,
        source: PostgresRows[Any],
        connection: Any,
        identity: str,
        shape: _Shape,
        place: tuple[str, str] | None,
    ) -> None:
        super().__init__(identity, source.poll)
        self._source = source
        self._connection = connection
        self._shape = shape
        self._place = place

    async def look(self, max_messages: int, max_bytes: int) -> list[Record]:
        found: list[Record] = []
        place = self._place
        # One more than is wanted: it shows whether a position is that of two rows.
        arguments = (*(place or ()), max_messages + 1)
        async with self._connection.transaction(readonly=True):
            asked = self._connection.cursor(
                self._query(), *arguments, prefetch=min(_ROWS_AT_ONCE, max_messages + 1)
            )
            async for xid, number, value, key, at_us in asked:
                self._require_further(place, xid, number)
                if len(found) == max_messages or max_bytes <= 0:
                    break
                place = xid, number
                data = value.encode()
                max_bytes -= len(data)
                name = None if key is None else key.encode()
                found.append(Record(PARTITION, f"{xid}/{number}", data, name, at_us))
        self._place = place
        return found

    def _query(self) -> str:
        """Row by row in the order of positions, up to the oldest transaction that is open."""
        source, shape = self._source, self._shape
        xid, number = f"r.{_quoted(source.xid)}", f"r.{_quoted(source.id)}"
        columns = ", ".join(f"r.{_quoted(one)}" for one in shape.columns)
        key = "NULL" if source.key is None else f"r.{_quoted(source.key)}::text"
        at = "NULL::bigint" if source.at is None else _micros(f"r.{_quoted(source.at)}")
        further, limit = "", "$1"
        if self._place is not None:
            further = f"AND ({xid}, {number}) > ($1::text::xid8, $2::text::{shape.id_type}) "
            limit = "$3"
        return (
            f"SELECT {xid}::text, {number}::text, "
            f"(SELECT row_to_json(m) FROM (SELECT {columns}) AS m)::text, {key}, {at} "
            f"FROM {source.item} WHERE {xid} < pg_snapshot_xmin(pg_current_snapshot()) {further}"
            f"ORDER BY {xid}, {number} LIMIT {limit}::bigint"
        )

    def _require_further(self, place: tuple[str, str] | None, xid: str, number: str | None) -> None:
        source = self._source
        if number is None:
            raise InvalidArguments(f"{source!r} gave a row that has no {source.id!r}")
        if place == (xid, number):
            raise InvalidArguments(
                f"{source!r} gave two rows of which {source.id!r} is {number}: rows that are "
                "written by one transaction must have ids of their own"
            )

    async def close(self) -> None:
        await asyncio.shield(_let_go(self._connection))


def _place(position: Position) -> tuple[str, str]:
    """A transaction, and an id within it. Raises InvalidArguments."""
    parts = _PLACE.fullmatch(str(position))
    if parts is None:
        raise InvalidArguments(
            f"{position!r} is no position of rows in PostgreSQL, such as '741/12': a transaction, "
            "and an id"
        )
    return parts[1], parts[2]


def _rank(position: Position) -> tuple[int, int, str]:
    """By which positions are in order: ids are numbers, or UUIDs as texts."""
    xid, number = _place(position)
    is_number = number.removeprefix("-").isdecimal()
    return int(xid), int(number) if is_number else 0, "" if is_number else number


async def _let_go(connection: Any) -> None:
    """In order if the server still listens."""
    try:
        await connection.close(timeout=_CLOSE_S)
    except _GONE:
        connection.terminate()


def _micros(column: str) -> str:
    return f"CASE WHEN isfinite({column}) THEN (extract(epoch FROM {column}) * 1000000)::bigint END"


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
