"""Statements of users beside an append: stored with it, or not at all, and nobody else is hurt."""

import asyncio
import sqlite3
from typing import Any
from unittest import mock

import pytest

from everlong_engine.model.statements import SqlValue, Statement
from everlong_engine.model.writes import Append, AppendResult, Refusal, WriteResult
from everlong_engine.operations.group_commit import GroupCommit
from everlong_engine.store import user_sql
from everlong_engine.store.interface import Store
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.sqlite.store import SqliteStore
from tests.store.conftest import ONE_OWNER
from tests.support.store_rig import Rig, refusal, signal

pytestmark = pytest.mark.parametrize("pair", ONE_OWNER, indirect=True)

SCHEMA = "create table orders (id integer primary key, amount text not null)"
INSERT = "insert into orders (id, amount) values (:id, :amount)"


def one(sql: str, **values: SqlValue) -> Statement:
    return Statement(sql, (values,))


def many(sql: str, *rows: dict[str, SqlValue]) -> Statement:
    return Statement(sql, rows, many=True)


async def asked(store: Store, query: str) -> list[Any]:
    """What stands in the tables of users."""

    def look(connection: sqlite3.Connection) -> list[Any]:
        return connection.execute(query).fetchall()

    if isinstance(store, MemoryStore):
        return look(store._data.sql)  # pyright: ignore[reportPrivateUsage]
    assert isinstance(store, SqliteStore)
    return await store._reader.run(look)  # pyright: ignore[reportPrivateUsage]


async def put(rig: Rig, *statements: Statement, name: str = "w") -> WriteResult:
    """One more event of a run, with statements."""
    append = rig.append(await rig.row(name), signal(b"more"))
    append.statements = statements
    return await rig.one(append)


@pytest.fixture
async def orders(rig: Rig) -> Rig:
    """A run, and a table of its user's."""
    await rig.owned()
    assert refusal(await put(rig, one(SCHEMA))) is None
    return rig


async def rows(rig: Rig) -> list[Any]:
    return await asked(rig.store, "select id, amount from orders order by id")


def said(result: WriteResult) -> str:
    """Why statements were refused."""
    assert isinstance(result, AppendResult)
    assert result.refusal is Refusal.STATEMENTS
    assert result.failure is not None
    assert result.failure.type == "everlong.exceptions.StatementFailed"
    return result.failure.message


async def test_statements_are_stored_with_their_append(orders: Rig) -> None:
    before = len((await orders.load()).history)
    result = await put(
        orders,
        one(INSERT, id=1, amount="one"),
        many(INSERT, {"id": 2, "amount": "two"}, {"id": 3, "amount": "three"}),
        many(INSERT),
    )
    assert refusal(result) is None
    assert await rows(orders) == [(1, "one"), (2, "two"), (3, "three")]
    assert len((await orders.load()).history) == before + 1
    assert await orders.problems() == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (one(INSERT, id=1, amount="again"), "UNIQUE constraint failed: orders.id"),
        (one(INSERT, id=9, amount=None), "NOT NULL constraint failed: orders.amount"),
        (one("insert into nowhere values (1)"), "no such table: nowhere"),
        (one("insert into orders valves (1)"), "syntax error"),
        (one(INSERT, id=9), "You did not supply a value for binding"),
        (one("select id from orders"), "it returns rows"),
        (one("vacuum"), "cannot VACUUM from within a transaction"),
        (one(f"{INSERT} returning id", id=9, amount="x"), "it returns rows"),
        (one("delete from orders; delete from orders"), "only execute one statement"),
        (
            many("select id from orders where id = :id", {"id": 1}),
            "executemany() can only execute DML",
        ),
        (one(INSERT, id=1 << 64, amount="x"), "too large"),
    ],
)
async def test_one_that_fails_takes_back_its_append_and_those_before_it(
    orders: Rig, bad: Statement, why: str
) -> None:
    assert refusal(await put(orders, one(INSERT, id=1, amount="one"))) is None
    history = (await orders.load()).history
    text = said(await put(orders, one(INSERT, id=2, amount="two"), bad))
    assert why in text
    assert "(statement 2 of 2: " in text
    assert await rows(orders) == [(1, "one")]
    assert (await orders.load()).history == history
    assert await orders.problems() == []
    assert refusal(await put(orders, one(INSERT, id=2, amount="two"))) is None


async def test_the_values_of_a_statement_are_not_told(orders: Rig) -> None:
    text = said(await put(orders, one(INSERT, id=None, amount=None), one("nonsense")))
    assert "secret" not in text
    text = said(await put(orders, *[one(INSERT, id=1, amount="a secret")] * 2))
    assert "secret" not in text


async def test_in_a_group_only_the_one_that_fails_is_refused(orders: Rig) -> None:
    for name in ("a", "b"):
        await orders.owned(name)
    first = orders.append(await orders.row(), signal(b"1"))
    bad = orders.append(await orders.row("a"), signal(b"2"))
    last = orders.append(await orders.row("b"), signal(b"3"))
    first.statements = (one(INSERT, id=1, amount="one"),)
    bad.statements = (one(INSERT, id=2, amount="two"), one("nonsense"))
    results = await orders.group(first, bad, last)
    assert [refusal(one) for one in results] == [None, Refusal.STATEMENTS, None]
    assert await rows(orders) == [(1, "one")]
    assert await orders.problems() == []


async def test_behind_one_that_fails_its_run_stands_still(orders: Rig) -> None:
    row = await orders.row()
    bad = orders.append(row, signal(b"1"))
    bad.statements = (one("nonsense"),)
    behind = orders.append(row, signal(b"2"), base=row.next_seq + 1)
    behind.statements = (one(INSERT, id=1, amount="one"),)
    results = await orders.group(bad, behind)
    assert [refusal(one) for one in results] == [Refusal.STATEMENTS, Refusal.FENCED]
    assert await rows(orders) == []


async def test_a_chain_with_statements_in_its_middle_goes_in_one_group(orders: Rig) -> None:
    row = await orders.row()
    chain = [orders.append(row, signal(b"x"), base=row.next_seq + at) for at in range(3)]
    chain[1].statements = (one(INSERT, id=1, amount="one"),)
    results = await orders.group(*chain)
    assert [refusal(one) for one in results] == [None] * 3
    assert await rows(orders) == [(1, "one")]


async def test_an_append_whose_answer_was_lost_does_not_run_them_again(orders: Rig) -> None:
    append = orders.append(await orders.row(), signal(b"x"))
    append.statements = (one("insert into orders (amount) values ('once')"),)
    for _ in range(3):
        assert refusal(await orders.one(append)) is None
    assert refusal((await orders.group(append, append))[1]) is None
    assert await asked(orders.store, "select amount from orders") == [("once",)]


@pytest.mark.parametrize("how", [{"token": 7}, {"base": 1}])
async def test_a_refused_append_runs_none(orders: Rig, how: dict[str, int]) -> None:
    append = orders.append(await orders.row(), signal(b"x"), **how)
    append.statements = (one(INSERT, id=1, amount="one"),)
    assert refusal(await orders.one(append)) is Refusal.FENCED
    assert await rows(orders) == []


@pytest.mark.parametrize(
    "sql",
    [
        "begin",
        "commit",
        "rollback",
        "end",
        "savepoint mine",
        "release one",
        "rollback to one",
        "attach ':memory:' as other",
        "detach main",
        "pragma user_version = 7",
        "pragma journal_mode = delete",
        "create temp table mine (id)",
        "create temp trigger mine after insert on orders begin select 1; end",
        "select load_extension('x')",
        "create table everlong_mine (id)",
    ],
)
async def test_what_reaches_beyond_the_append_is_denied(orders: Rig, sql: str) -> None:
    result = await put(orders, one(INSERT, id=1, amount="one"), one(sql))
    assert "must not use" in said(result)
    assert isinstance(result, AppendResult)
    assert result.failure is not None
    assert not result.failure.retryable
    assert await rows(orders) == []
    assert refusal(await put(orders, one(INSERT, id=1, amount="one"))) is None
    assert await orders.problems() == []


async def committed(rig: Rig, *appends: Append) -> list[WriteResult]:
    """Several at once, through the queue that knows what to do when a group fails."""
    commits = GroupCommit(rig.store)
    return list(await asyncio.gather(*(commits.put(one) for one in appends)))


async def test_one_that_ends_the_transaction_is_refused_alone(orders: Rig) -> None:
    """ON CONFLICT ROLLBACK: SQLite takes back what the others have done, too."""
    for name in ("a", "b"):
        await orders.owned(name)
    sql = "create table rash (id integer primary key on conflict rollback)"
    assert refusal(await put(orders, one(sql), one("insert into rash values (1)"))) is None
    first = orders.append(await orders.row(), signal(b"1"))
    bad = orders.append(await orders.row("a"), signal(b"2"))
    bad.statements = (one(INSERT, id=1, amount="one"), one("insert into rash values (1)"))
    last = orders.append(await orders.row("b"), signal(b"3"))
    last.statements = (one(INSERT, id=2, amount="two"),)
    found = await committed(orders, first, bad, last)
    assert [refusal(found[0]), refusal(found[2])] == [None, None]
    assert "UNIQUE constraint failed: rash.id" in said(found[1])
    assert await rows(orders) == [(2, "two")]
    assert await orders.problems() == []


async def test_one_that_never_ends_is_stopped_and_refused_alone(orders: Rig) -> None:
    await orders.owned("a")
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) "
    sql = f"insert into orders (id, amount) {endless} select i, 'x' from n where i < 0"
    bad = orders.append(await orders.row(), signal(b"1"))
    bad.statements = (one(INSERT, id=1, amount="one"), one(sql))
    other = orders.append(await orders.row("a"), signal(b"2"))
    with mock.patch.object(user_sql, "STATEMENTS_S_MAX", 0.05):
        found = await committed(orders, bad, other)
    assert "it took longer than" in said(found[0])
    assert refusal(found[1]) is None
    assert await rows(orders) == []
    assert refusal(await put(orders, one(INSERT, id=1, amount="one"))) is None
