"""What statements of users may touch on a connection of the engine's, and what not."""

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from everlong_engine.store import user_sql
from everlong_engine.store.interface import StatementsRefused
from everlong_engine.store.sqlite.columns import COLUMNS
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.store.test_statements import SCHEMA, one, put, said
from tests.support.store_rig import Rig

TOUCHED = [
    "insert into orders select 1, body from history",
    "delete from {}",
    "update {} set shard = 7",
    "drop table {}",
    "alter table {} rename to mine",
    "alter table {} add column mine",
    "create index mine on {} (shard)",
    "create trigger mine after insert on {} begin delete from orders; end",
    "create trigger mine after insert on orders begin delete from {}; end",
    "insert into {} default values",
]


@pytest.mark.parametrize("sql", TOUCHED)
def test_the_engines_tables_are_denied_whichever_it_is(sql: str) -> None:
    connection = InlineDatabase().connection
    assert isinstance(connection, user_sql.UserConnection)
    connection.execute(SCHEMA)
    for table in COLUMNS:
        connection.execute("BEGIN")
        statements = [
            one(sql.format(table)),
            one("insert into orders (id, amount) values (1, 'x')"),
        ]
        failure = user_sql.run_statements(connection, statements)
        assert failure is not None, table
        assert "must not use" in failure.message or "no such column" in failure.message
        connection.execute("ROLLBACK")


def test_every_table_of_the_engine_is_known_to_be_one() -> None:
    connection = InlineDatabase().connection
    found = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
    ours = {name for (name,) in found if not name.startswith("sqlite_")}
    assert ours == set(COLUMNS)


WORDS = st.sampled_from(
    [
        "select",
        "insert",
        "update",
        "delete",
        "replace",
        "into",
        "values",
        "from",
        "set",
        "or",
        "rollback",
        "abort",
        "fail",
        "ignore",
        "orders",
        "runs",
        "history",
        ":id",
        ":amount",
        "1",
        "'x'",
        "(",
        ")",
        ",",
        ";",
        "--",
        "/*",
        "*/",
        "savepoint",
        "begin",
        "commit",
        "pragma",
        "attach",
        "create",
        "table",
        "trigger",
        "drop",
        "alter",
        "on",
        "conflict",
        "do",
        "nothing",
        "where",
        "with",
        "recursive",
        "as",
    ]
)


@settings(max_examples=150)
@given(texts=st.lists(st.lists(WORDS, min_size=1, max_size=9).map(" ".join), max_size=3))
def test_no_text_harms_the_engines_tables(texts: list[str]) -> None:
    connection = InlineDatabase().connection
    assert isinstance(connection, user_sql.UserConnection)
    connection.execute(SCHEMA)

    def watched() -> list[Any]:
        counts = [f"select count(*) from {table}" for table in COLUMNS]
        return [connection.execute(one).fetchone() for one in counts]

    before = watched()
    connection.execute("BEGIN")
    connection.execute("SAVEPOINT one")
    statements = [one(text, id=1, amount="x") for text in texts]
    try:
        user_sql.run_statements(connection, statements)
    except StatementsRefused:
        assert not connection.in_transaction
        return
    assert connection.in_transaction
    connection.execute("ROLLBACK TO one")
    connection.execute("COMMIT")
    assert watched() == before
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_text_that_the_engine_has_prepared_is_denied_all_the_same() -> None:
    """SQLite asks the authorizer when it prepares, and Python keeps what is prepared."""
    database = InlineDatabase()
    rig = Rig(database.open())
    await rig.owned()
    connection = database.connection
    for text in ("delete from runs", "DELETE FROM history"):
        connection.execute(f"{text} where 1 = 0")
        assert "must not use" in said(await put(rig, one(f"{text} where 1 = 0")))
    assert await rig.problems() == []
