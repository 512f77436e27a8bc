"""Rows of a PostgreSQL table, from a real server, whose transactions commit in any order."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from everlong import checkpoint, workflow
from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.streams import Cursor, Lag, Record, Stream
from everlong.streams.postgres import PostgresRows, positions_ddl
from tests.docs.test_docs_run import ROOT, blocks
from tests.support.hosting import described, hosting, until
from tests.support.pooler import pooled
from tests.support.postgres_server import Server, fresh_database
from tests.support.streams import SOON

GUIDE = ROOT / "docs" / "guides" / "streams.md"
TABLE = "create table orders (id bigint primary key, item text, at timestamptz)"


@dataclass
class Order:
    id: int
    item: str


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Any]:
    connection: Any = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def shop(**options: Any) -> AsyncGenerator[tuple[str, Any]]:
    url = await fresh_database()
    async with connected(url) as connection:
        await connection.execute(TABLE)
        await connection.execute(positions_ddl("orders", **options))
        yield url, connection


async def put(connection: Any, *numbers: int) -> None:
    for number in numbers:
        await connection.execute(
            "insert into orders (id, item, at) values ($1, 'chair', '2026-11-22T12:00:00Z')", number
        )


async def read(source: PostgresRows[Any], after: Cursor | None = None) -> list[Record]:
    reader = await source.open(after, None)
    try:
        return list(await reader.fetch(1000, 1_000_000, 0.0))
    finally:
        await reader.close()


def ids(records: list[Record]) -> list[int]:
    return [int(str(one.position).partition("/")[2]) for one in records]


# ----------------------------------------------------------------------------------- what is lost


async def test_what_commits_later_than_a_greater_number_is_lost_by_numbers_and_read_by_this() -> (
    None
):
    async with shop() as (url, slow), connected(url) as fast:
        source, naive = PostgresRows(url, "orders"), "select id from orders where id > $1"
        begun = slow.transaction()
        await begun.start()
        await put(slow, 1)
        await put(fast, 2)
        assert [one["id"] for one in await fast.fetch(naive, 0)] == [2]
        assert await read(source) == []  # The other one is still open.
        await begun.commit()
        assert await fast.fetch(naive, 2) == []  # So number 1 is never read.
        assert ids(await read(source)) == [1, 2]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "savepoint", "commit", "commit", "rollback", "read", "reopen"]),
        st.integers(0, 2),
        st.integers(1, 3),
    ),
    min_size=10,
    max_size=40,
)


class Sessions:
    """Some transactions at a time, and a reader beside them."""

    def __init__(self, url: str, connections: list[Any], ids: list[int]) -> None:
        self.source = PostgresRows(url, "orders")
        self.connections = connections
        self.open: dict[int, tuple[Any, list[int]]] = {}
        self.free = ids
        self.committed: set[int] = set()
        self.read: list[int] = []
        self.reader: Any = None
        self.cursor: Cursor | None = None

    async def step(self, what: str, session: int, count: int) -> None:
        match what:
            case "insert" | "savepoint":
                await self._insert(session, count, within=what == "savepoint")
            case "commit" | "rollback" if session in self.open:
                transaction, written = self.open.pop(session)
                if what == "commit":
                    await transaction.commit()
                    self.committed |= set(written)
                else:
                    await transaction.rollback()
            case "read":
                await self.look(count)
            case "reopen":
                await self.close()
            case _:
                pass

    async def _insert(self, session: int, count: int, *, within: bool) -> None:
        connection = self.connections[session]
        if session not in self.open:
            transaction = connection.transaction()
            await transaction.start()
            self.open[session] = transaction, []
        numbers = [self.free.pop() for _ in range(count)]
        self.open[session][1].extend(numbers)
        if within:
            async with connection.transaction():
                await put(connection, *numbers)
        else:
            await put(connection, *numbers)

    async def look(self, count: int) -> bool:
        if self.reader is None:
            self.reader = await self.source.open(self.cursor, None)
        found = await self.reader.fetch(count, 1_000_000, 0.0)
        self.read += ids(list(found))
        if found:
            self.cursor = Cursor(self.reader.identity, {"0": found[-1].position})
        return bool(found)

    async def close(self) -> None:
        if self.reader is not None:
            await self.reader.close()
        self.reader = None


@given(steps=STEPS, chance=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_order_they_commit_in_each_row_is_read_once(
    steps: list[tuple[str, int, int]], chance: Any
) -> None:
    numbers = list(range(200))
    chance.shuffle(numbers)  # The order of ids says nothing.

    async def play() -> None:
        async with (
            shop() as (url, one),
            connected(url) as two,
            connected(url) as three,
        ):
            sessions = Sessions(url, [one, two, three], numbers)
            for step in steps:
                await sessions.step(*step)
            for session in list(sessions.open):
                await sessions.step("commit", session, 1)
            while await sessions.look(2):
                pass
            await sessions.close()
            assert sorted(sessions.read) == sorted(sessions.committed)

    asyncio.run(play())


# --------------------------------------------------------------------------------------- in a flow


async def test_a_table_is_read_from_where_the_flow_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="everlong-shop-"))  # Not root's: it runs as nobody.
    server = Server(folder, durable=True)
    server.make()
    server.start()
    try:
        url = server.url()
        stream = Stream("orders", PostgresRows(url, "orders", Order, at="at", poll=0.01))
        monkeypatch.setattr(stream.definition, "options", SOON)

        @workflow
        async def postgres_adds(total: int = 0) -> int:
            async for batch in stream.batches(max_messages=7):
                total += sum(one.id for one in batch.values)
                await checkpoint(total=total)
            return total

        async def reached(number: int) -> None:
            async def look() -> bool:
                cursor = await stream.control(handle).position()
                return cursor is not None and str(cursor.after.get("0")).endswith(f"/{number}")

            await until(look)

        async with hosting(tmp_path / "db", workflows=[postgres_adds]) as client:
            handle = await client.start(postgres_adds, id="adds")
            async with connected(url) as connection:
                await connection.execute(TABLE)
                await put(connection, *range(10))
                paused = await described(handle, lambda it: it.paused)
                assert paused.paused is not None
                assert "ALTER TABLE orders ADD COLUMN" in paused.paused.reason
                await connection.execute(positions_ddl("orders"))
                await put(connection, *range(10, 20))
            await handle.resume()
            await reached(19)
            assert await stream.control(handle).lag(wait=0.1) == Lag(0, more=False, seconds=None)
            server.kill()
            server.start()  # The flow finds out by itself, and goes on.
            async with connected(url) as connection:
                await put(connection, 100)
            await reached(100)
        async with connected(url) as connection:
            await connection.execute("delete from orders")  # All of it was read.
            await put(connection, 1000)
        async with hosting(tmp_path / "db", workflows=[postgres_adds]) as client:
            handle = client.get_handle("adds", postgres_adds)
            await reached(1000)
            async with connected(url) as connection:
                await connection.execute("drop table orders")
                await connection.execute(TABLE)
                await connection.execute(positions_ddl("orders"))
                await put(connection, 7)
        async with hosting(tmp_path / "db", workflows=[postgres_adds]) as client:
            handle = client.get_handle("adds", postgres_adds)
            paused = await described(handle, lambda it: it.paused)
            assert paused.paused is not None
            assert "it was made anew" in paused.paused.reason
            reader = await stream.source.open(None, None)
            await reader.close()
            await stream.control(handle).rewind({}, identity=reader.identity)
            await handle.resume()
            await reached(7)
            await stream.control(handle).drain()
            assert await handle.result() == sum(range(20)) + 1107
    finally:
        server.stop()
        shutil.rmtree(folder)


async def test_the_code_of_the_guide_reads_a_real_server(tmp_path: Path) -> None:
    url = await fresh_database()
    (code,) = [one.text for one in blocks(GUIDE) if "PostgresRows(url" in one.text]
    place = tmp_path / "guide_of_streams.py"
    place.write_text(code.replace("postgresql://localhost/shop", url))
    spec = spec_from_file_location(place.stem, place)
    assert spec is not None
    assert spec.loader is not None
    guide: Any = module_from_spec(spec)
    sys.modules[place.stem] = guide  # Where its annotations are looked up.
    try:
        spec.loader.exec_module(guide)
        async with connected(url) as connection:
            await connection.execute(
                "create table orders (id bigint, item text, placed_at timestamptz)"
            )
            await connection.execute(positions_ddl("orders"))
            await connection.execute("insert into orders values (1, 'chair', now())")
        async with hosting(tmp_path / "db", workflows=[guide.fulfil]) as client:
            control = guide.new_orders.control(handle := await client.start(guide.fulfil))
            await until(control.position)
            await control.drain()
            assert await handle.result() is None
            assert await control.dead_letters() == []
    finally:
        del sys.modules[place.stem]


# ---------------------------------------------------------------------------------- what is read


async def test_a_query_gives_messages_with_keys_and_times() -> None:
    async with shop() as (url, connection):
        await connection.execute("create table customers (item text, name text, seal bytea)")
        await connection.execute("insert into customers values ('chair', 'Ada', '\\x00ff')")
        await put(connection, 1)
        query = (
            "SELECT o.*, c.name, c.seal, 1.10 AS sum FROM orders o JOIN customers c USING (item);"
        )
        (found,) = await read(PostgresRows(url, query, key="name", at="at"))
        assert found.value == (
            b'{"id":1,"item":"chair","at":"2026-11-22T12:00:00+00:00","name":"Ada",'
            b'"seal":"\\\\x00ff","sum":1.10}'
        )
        assert (found.key, found.at_us) == (b"Ada", 1_795_348_800_000_000)


async def test_a_row_that_is_changed_is_read_again_if_the_table_says_so() -> None:
    async with shop(updates=True) as (url, connection):
        await put(connection, 1, 2)
        source = PostgresRows(url, "orders", Order)
        first = await read(source)
        await connection.execute("update orders set item = 'table' where id = 1")
        reader = await source.open(None, None)
        await reader.close()
        cursor = Cursor(reader.identity, {"0": first[-1].position})
        (again,) = await read(source, cursor)
        assert source.decode(again.value) == Order(1, "table")
        assert again.position != first[0].position
    async with shop() as (url, connection):
        await put(connection, 1)
        first = await read(PostgresRows(url, "orders"))
        await connection.execute("update orders set item = 'table'")
        assert [one.position for one in await read(PostgresRows(url, "orders"))] == [
            one.position for one in first
        ]


async def test_rows_may_be_told_apart_by_uuids() -> None:
    url = await fresh_database()
    async with connected(url) as connection:
        await connection.execute('create schema s; create table s."Events" (number uuid, n int)')
        await connection.execute(positions_ddl('s."Events"', id="number", updates=True))
        await connection.execute(
            'insert into s."Events" select gen_random_uuid(), n from generate_series(1, 9) n'
        )
        source = PostgresRows(url, 's."Events"', dict[str, Any], id="number")
        reader = await source.open(None, None)
        found: list[Record] = []
        while more := await reader.fetch(2, 1000, 0.0):
            found += more
            await reader.close()
            reader = await source.open(Cursor(reader.identity, {"0": more[-1].position}), None)
        await reader.close()
        assert sorted(source.decode(one.value)["n"] for one in found) == list(range(1, 10))


async def test_only_as_much_is_asked_for_as_is_wanted() -> None:
    async with shop() as (url, connection):
        await connection.execute(
            "insert into orders select n, repeat('x', 10000) from generate_series(1, 1000) n"
        )
        reader = await PostgresRows(url, "orders").open(None, None)
        assert ids(list(await reader.fetch(1000, 25_000, 0.0))) == [1, 2, 3]
        assert ids(list(await reader.fetch(2, 1_000_000, 0.0))) == [4, 5]
        await reader.close()


async def test_nothing_is_written_and_reading_is_all_that_it_needs() -> None:
    async with shop() as (url, connection):
        await put(connection, 1)
        await connection.execute("create role looks login; grant select on orders to looks")
        try:
            assert ids(await read(PostgresRows(url.replace("everlong@", "looks@"), "orders"))) == [
                1
            ]
            await connection.execute(
                "create function steals() returns int language sql as "
                "'delete from orders returning 1'"
            )
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await read(PostgresRows(url, "select *, steals() from orders"))
        finally:
            await connection.execute("drop owned by looks; drop role looks")


async def test_behind_a_pooler_it_reads_as_it_does_without() -> None:
    async with shop() as (url, connection):
        with pooled(url) as pooler:
            source = PostgresRows(pooler, "orders", options={"statement_cache_size": 0})
            reader = await source.open(None, None)
            assert await reader.fetch(10, 1000, 0.0) == []
            await put(connection, 1, 2, 3)
            assert ids(list(await reader.fetch(2, 1000, 0.0))) == [1, 2]
            assert ids(list(await reader.fetch(2, 1000, 0.0))) == [3]
            await reader.close()


# ---------------------------------------------------------------------------------- what is refused


async def test_a_table_without_its_column_is_refused_with_the_statements_that_add_it() -> None:
    url = await fresh_database()
    async with connected(url) as connection:
        await connection.execute(TABLE)
        with pytest.raises(InvalidArguments) as refused:
            await read(PostgresRows(url, "orders"))
        statements = str(refused.value).partition(": ALTER")[2]
        await connection.execute(f"ALTER{statements}")
        assert await read(PostgresRows(url, "orders")) == []
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"id": "item"}, "whole numbers or UUIDs"),
            ({"id": "number"}, "whole numbers or UUIDs"),
            ({"key": "name"}, "no column 'name' among"),
            ({"xid": "id"}, "no column 'id' of the type xid8"),
        ]
        for options, words in wrong:
            with pytest.raises(InvalidArguments, match=words):
                await read(PostgresRows(url, "orders", **options))
        with pytest.raises(InvalidArguments, match="syntax error"):
            await read(PostgresRows(url, "select from where"))


@pytest.mark.parametrize("number", ["'9000000000000000000'", "null"])
async def test_rows_with_the_numbers_of_another_server_are_refused(number: str) -> None:
    async with shop() as (url, connection):
        await put(connection, 1)
        await connection.execute(
            "alter table orders alter everlong_xid drop not null;"
            f"update orders set everlong_xid = {number}"
        )
        with pytest.raises(InvalidArguments, match="copied from elsewhere") as refused:
            await read(PostgresRows(url, "orders"))
        assert 'SET "everlong_xid" = DEFAULT' in str(refused.value)
        await connection.execute('update orders set "everlong_xid" = default')
        assert ids(await read(PostgresRows(url, "orders"))) == [1]


async def test_rows_that_cannot_be_told_apart_are_refused_wherever_a_batch_ends() -> None:
    async with shop() as (url, connection):
        await connection.execute("insert into orders select n from generate_series(1, 3) n")
        twice = "select o.* from orders o, (values (1), (2)) as v"
        for wanted in (1, 2, 1000):
            reader = await PostgresRows(url, twice).open(None, None)
            with pytest.raises(InvalidArguments, match="two rows of which 'id' is 1"):
                await reader.fetch(wanted, 1_000_000, 0.0)
            await reader.close()
        some = "select nullif(id, 2) as id, everlong_xid from orders"
        reader = await PostgresRows(url, some).open(None, None)
        with pytest.raises(InvalidArguments, match="has no 'id'"):
            await reader.fetch(2, 1_000_000, 0.0)
        await reader.close()


async def test_a_server_that_was_set_back_stops_the_flow() -> None:
    async with shop() as (url, connection):
        await put(connection, 1)
        source = PostgresRows(url, "orders")
        reader = await source.open(None, None)
        await reader.close()
        with pytest.raises(StreamRewound, match="it was set back"):
            await read(source, Cursor(reader.identity, {"0": "4000000000000/1"}))
        with pytest.raises(StreamRewound, match="it was made anew"):
            await read(source, Cursor("postgres 1.2.3", {"0": "1/1"}))
        for position, words in (
            ("1/x", "no position"),
            (7, "'741/12'"),
            ("1/99999999999999999999", "no position"),
        ):
            with pytest.raises(InvalidArguments, match=words):
                await read(source, Cursor(reader.identity, {"0": position}))


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidArguments, match="no name of a table"):
        positions_ddl("orders; drop table orders")
    with pytest.raises(InvalidArguments, match="neither a table"):
        PostgresRows("postgresql://localhost/shop", "orders; drop table orders")
    with pytest.raises(InvalidArguments, match="more than 0"):
        PostgresRows("postgresql://localhost/shop", "orders", poll=0)
    assert "secret" not in repr(PostgresRows("postgresql://me:secret@localhost/shop", "orders"))


async def test_a_moment_lies_where_a_column_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlong.streams._source._SCAN_WAIT_S", 0.05)
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    async with shop() as (url, connection):
        for number, minute in enumerate((0, 2, 1, 3)):  # A clock that was set back, too.
            await connection.execute(
                "insert into orders (id, item, at) values ($1, 'chair', $2)",
                number,
                noon + timedelta(minutes=minute),
            )
        source = PostgresRows(url, "orders", at="at", poll=0.01)
        for minute, first in ((0, 0), (1, 1), (2, 1), (3, 3), (4, 4)):
            at_us = int((noon + timedelta(minutes=minute)).timestamp()) * 1_000_000
            cursor = await source.before(at_us, None)
            assert ids(await read(source, cursor)) == list(range(first, 4))
