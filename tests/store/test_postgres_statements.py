"""Statements of users on a server: stored with their append, or not at all."""

from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import asyncpg
import pytest

from everlong_engine.model.statements import Statement
from everlong_engine.model.writes import Refusal, WriteResult
from everlong_engine.store.postgres import user_sql
from everlong_engine.store.postgres.statements import Connection
from everlong_engine.store.postgres.store import PostgresStore
from tests.store.test_statements import INSERT, committed, many, one, put, said
from tests.support.postgres_server import lent_store
from tests.support.store_rig import Rig, refusal, signal

SCHEMA = "create table orders (id bigint primary key, amount text not null, due date)"


class Orders(Rig):
    """A run, a table of its user's, and a look at it from outside."""

    outside: Connection

    async def seen(self, query: str = "select id, amount from orders order by id") -> list[Any]:
        return [tuple(row) for row in await self.outside.fetch(query)]


@pytest.fixture
async def orders() -> AsyncIterator[Orders]:
    async with lent_store() as url:
        store = await PostgresStore.open(url)
        rig = Orders(store)
        rig.outside = await asyncpg.connect(url)
        await rig.owned()
        assert refusal(await put(rig, one(SCHEMA))) is None
        yield rig
        await rig.outside.execute("drop table if exists orders, counted")
        await rig.outside.close()
        await store.close()


async def test_statements_are_stored_with_their_append(orders: Orders) -> None:
    before = len((await orders.load()).history)
    result = await put(
        orders,
        one(INSERT, id=1, amount="one"),
        many(INSERT, {"id": 2, "amount": "two"}, {"id": 3, "amount": "three"}),
        many(INSERT),
        one(
            "update orders set due = cast(:due as text)::date where id = :id",
            due="2026-11-22",
            id=1,
        ),
    )
    assert refusal(result) is None
    assert await orders.seen() == [(1, "one"), (2, "two"), (3, "three")]
    assert await orders.seen("select due::text from orders where id = 1") == [("2026-11-22",)]
    assert len((await orders.load()).history) == before + 1
    assert await orders.problems() == []


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (one(INSERT, id=1, amount="again"), 'violates unique constraint "orders_pkey"'),
        (one(INSERT, id=9, amount=None), 'null value in column "amount"'),
        (one("insert into nowhere values (1)"), 'relation "nowhere" does not exist'),
        (one("insert into orders valves (1)"), "syntax error"),
        (one(INSERT, id=9), "there is no value for :amount"),
        (one(INSERT, id=9, amount=9), "the value of :amount does not fit what it is for: expected"),
        (one(INSERT, id="9", amount="x"), "the value of :id does not fit what it is for"),
        (one(INSERT, id=9, amount="a\0b"), "invalid byte sequence"),
        (one("select id from orders"), "it returns rows"),
        (one("vacuum orders"), "must not use VACUUM"),
        (one(f"{INSERT} returning id", id=9, amount="x"), "it returns rows"),
        (one("delete from orders; delete from orders"), "cannot insert multiple commands"),
        (one("insert into orders values ($1, 'x')"), "a parameter has a name"),
        (one("-- nothing"), "there is no statement in it"),
    ],
)
async def test_one_that_fails_takes_back_its_append_and_those_before_it(
    orders: Orders, bad: Statement, why: str
) -> None:
    assert refusal(await put(orders, one(INSERT, id=1, amount="one"))) is None
    history = (await orders.load()).history
    text = said(await put(orders, one(INSERT, id=2, amount="two"), bad))
    assert why in text
    assert "(statement 2 of 2: " in text
    assert await orders.seen() == [(1, "one")]
    assert (await orders.load()).history == history
    assert await orders.problems() == []
    assert refusal(await put(orders, one(INSERT, id=2, amount="two"))) is None


async def test_the_values_of_a_statement_are_not_told(orders: Orders) -> None:
    secret = "a secret"
    for bad in (
        one("insert into orders (id, amount) values (cast(:id as text)::bigint, 'x')", id=secret),
        one(INSERT, id=secret, amount="x"),
        one("update orders set due = cast(:due as text)::date", due=secret),
    ):
        before = one(INSERT, id=1, amount=secret)
        assert secret not in said(await put(orders, before, bad))
    assert secret not in said(await put(orders, *[one(INSERT, id=1, amount=secret)] * 2))


async def test_in_a_group_only_the_one_that_fails_is_refused(orders: Orders) -> None:
    for name in ("a", "b", "c"):
        await orders.owned(name)
    first, bad, last, plain = [
        orders.append(await orders.row(name), signal(b"x")) for name in ("w", "a", "b", "c")
    ]
    first.statements = (one(INSERT, id=1, amount="one"),)
    bad.statements = (one(INSERT, id=2, amount="two"), one("insert into nowhere values (1)"))
    last.statements = (one(INSERT, id=3, amount="three"),)
    results = await orders.group(first, bad, last, plain)
    assert [refusal(one) for one in results] == [None, Refusal.STATEMENTS, None, None]
    assert await orders.seen() == [(1, "one"), (3, "three")]
    assert await orders.problems() == []


async def test_a_chain_with_statements_in_its_middle_goes_in_one_group(orders: Orders) -> None:
    row = await orders.row()
    chain = [orders.append(row, signal(b"x"), base=row.next_seq + at) for at in range(3)]
    chain[1].statements = (one(INSERT, id=1, amount="one"),)
    assert [refusal(one) for one in await orders.group(*chain)] == [None] * 3
    row = await orders.row()
    chain = [orders.append(row, signal(b"x"), base=row.next_seq + at) for at in range(3)]
    chain[1].statements = (one(INSERT, id=1, amount="again"),)
    assert [refusal(one) for one in await orders.group(*chain)] == [
        None,
        Refusal.STATEMENTS,
        Refusal.FENCED,
    ]
    assert await orders.seen() == [(1, "one")]


async def test_an_append_whose_answer_was_lost_does_not_run_them_again(orders: Orders) -> None:
    assert refusal(await put(orders, one("create table counted (word text)"))) is None
    append = orders.append(await orders.row(), signal(b"x"))
    append.statements = (one("insert into counted values ('once')"),)
    for _ in range(3):
        assert refusal(await orders.one(append)) is None
    assert refusal((await orders.group(append, append))[1]) is None
    assert await orders.seen("select word from counted") == [("once",)]


@pytest.mark.parametrize("how", [{"token": 7}, {"base": 1}])
async def test_a_refused_append_runs_none(orders: Orders, how: dict[str, int]) -> None:
    append = orders.append(await orders.row(), signal(b"x"), **how)
    append.statements = (one(INSERT, id=1, amount="one"),)
    assert refusal(await orders.one(append)) is Refusal.FENCED
    assert await orders.seen() == []


@pytest.mark.parametrize(
    "sql",
    [
        "begin",
        "commit",
        "/* quick */ rollback",
        "savepoint mine",
        "release one",
        "rollback to one",
        "set search_path = everlong",
        "lock table orders",
        "listen news",
        "do $$ begin perform 1; end $$",
        "call something()",
        "copy orders from stdin",
        "create temp table mine (id int)",
        "create -- quick\n temporary table mine (id int)",
        "delete from everlong.runs",
        'update "everlong" . history set seq = 1',
        "with gone as (delete from everlong.mail returning 1) insert into orders select 1, 'x'",
        "drop schema everlong cascade",
        "drop schema public, everlong",
        "alter table everlong.runs add column mine int",
    ],
)
async def test_what_reaches_beyond_the_append_is_denied(orders: Orders, sql: str) -> None:
    result: Any = await put(orders, one(INSERT, id=1, amount="one"), one(sql))
    assert "must not use" in said(result)
    assert not result.failure.retryable
    assert await orders.seen() == []
    assert refusal(await put(orders, one(INSERT, id=1, amount="one"))) is None
    assert await orders.problems() == []


@pytest.mark.parametrize(
    ("sql", "values", "amount"),
    [
        ("insert into orders (id, amount) values (:id, ':id')", {"id": 1}, ":id"),
        ("insert into orders (id, amount) values (:id, 'it''s :id')", {"id": 1}, "it's :id"),
        (r"insert into orders (id, amount) values (:id, E'\':id')", {"id": 1}, "':id"),
        ("insert into orders (id, amount) values (:id, $$:id$$)", {"id": 1}, ":id"),
        ("insert into orders (id, amount) values (:id, $x$ $$ :id$x$)", {"id": 1}, " $$ :id"),
        ("insert into orders (id, amount) /* :no */ values (:id, 'x') -- :no", {"id": 1}, "x"),
        ('insert into orders ("id", amount) values (:id::bigint, :id::bigint)', {"id": 1}, "1"),
        ("insert into orders (id, amount) values (1, (array['a', 'b'])[1:1]::text)", {}, "{a}"),
        (
            "insert into orders (id, amount) values (:id, 'everlong.runs')",
            {"id": 1},
            "everlong.runs",
        ),
        (
            "with a as (select cast(:id as bigint) b) insert into orders select b, 'w' from a",
            {"id": 1},
            "w",
        ),
    ],
)
async def test_names_are_found_where_sql_has_them(
    orders: Orders, sql: str, values: dict[str, Any], amount: str
) -> None:
    assert refusal(await put(orders, one(sql, **values))) is None
    assert await orders.seen() == [(1, amount)]


async def test_one_that_never_ends_is_stopped_and_refused_alone(orders: Orders) -> None:
    await orders.owned("a")
    bad = orders.append(await orders.row(), signal(b"1"))
    bad.statements = (
        one(INSERT, id=1, amount="one"),
        one("insert into orders select 7, 'x' from pg_sleep(60)"),
    )
    other = orders.append(await orders.row("a"), signal(b"2"))
    with mock.patch.object(user_sql, "STATEMENTS_S_MAX", 0.05):
        found: list[WriteResult] = await committed(orders, bad, other)
    assert "it took longer than" in said(found[0])
    assert refusal(found[1]) is None
    assert await orders.seen() == []
    assert refusal(await put(orders, one(INSERT, id=1, amount="one"))) is None
    (setting,) = (await orders.seen("show statement_timeout"))[0]
    assert setting == "0"
