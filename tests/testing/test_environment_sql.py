"""`env.sql`: the tables that transactional activities write to, in an environment."""

import pytest

from everlong import DefinitionError, Retry, StatementFailed, Transaction, activity, workflow
from everlong.testing import Environment


async def test_rows_of_transactional_activities_are_seen_and_failures_retried() -> None:
    tries: list[int] = []

    @activity(transactional=True, retry=Retry(delay=60, jitter=0))
    async def keep(tx: Transaction, name: str) -> None:
        tries.append(1)
        if len(tries) == 1:
            tx.execute("insert into nowhere values (1)")
        tx.execute("insert into names values (:name)", {"name": name})

    @workflow
    async def env_sql_flow(name: str) -> None:
        await keep(name)

    async with Environment() as env:
        assert env.sql("create table names (name text primary key)") == []
        before = env.now
        await env.client.run(env_sql_flow, "ann")
        assert (env.now - before).total_seconds() == 60
        assert env.sql("select name from names where name = :name", name="ann") == [("ann",)]
        env.sql("insert into names values (:name)", name="bob")
        assert env.sql("select count(*) from names") == [(2,)]


async def test_a_fake_of_one_takes_what_the_workflow_passes() -> None:
    @activity(transactional=True)
    async def keep_faked(tx: Transaction, name: str) -> str:
        raise AssertionError(name)

    @workflow
    async def env_sql_faked(name: str) -> str:
        return await keep_faked(name)

    async with Environment() as env:
        env.fake(keep_faked, lambda name: f"kept {name}")
        assert await env.client.run(env_sql_faked, "ann") == "kept ann"
        with pytest.raises(DefinitionError, match=r"takes what it takes, \(name: str\)"):
            env.fake(keep_faked, lambda tx, name: "?")  # type: ignore[misc, arg-type]


async def test_the_real_one_comes_back_behind_a_fake() -> None:
    @activity(transactional=True)
    async def keep_again(tx: Transaction, name: str) -> str:
        tx.execute("create table if not exists names (name text)")
        tx.execute("insert into names values (:name)", {"name": name})
        return "kept"

    @workflow
    async def env_sql_again() -> str:
        return await keep_again("ann")

    async with Environment() as env:
        env.fake(keep_again, returns="faked")
        assert await env.client.run(env_sql_again) == "faked"
        env.fake(keep_again, keep_again.function)
        assert await env.client.run(env_sql_again) == "kept"
        assert env.sql("select name from names") == [("ann",)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("select * from nowhere", "no such table: nowhere"),
        ("delete from history", "must not use the table 'history'"),
        ("begin", "must not use BEGIN"),
        ("select :a", "did not supply a value"),
    ],
)
async def test_what_cannot_be_asked_is_refused(text: str, why: str) -> None:
    async with Environment(workflows=[], activities=[]) as env:
        with pytest.raises(StatementFailed, match=why):
            env.sql(text)
