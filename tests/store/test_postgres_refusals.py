"""What cannot be opened says why, and what to do."""

import asyncio
from contextlib import suppress

import asyncpg
import pytest

from everlong_engine.model.errors import NewerSchema, StoreError, StoreFailed
from everlong_engine.store.interface import Trouble
from everlong_engine.store.postgres.connection import AWAY
from everlong_engine.store.postgres.migrations import GUARDS, NEWEST
from everlong_engine.store.postgres.store import PostgresStore
from tests.support.postgres_server import fresh_database, fresh_store, shared_server
from tests.support.store_rig import Rig


async def execute(url: str, *texts: str) -> None:
    connection = await asyncpg.connect(url)
    for text in texts:
        await connection.execute(text)
    await connection.close()


async def test_an_empty_database_is_set_up_by_whoever_comes_first() -> None:
    url = await fresh_database()
    store = await PostgresStore.open(url)
    assert store.shards == 1024
    await Rig(store).started()
    await store.close()
    again = await PostgresStore.open(url, create=False)
    assert (await Rig(again).row()).workflow_id == "w"
    await again.close()


async def test_of_those_who_come_at_once_one_sets_it_up() -> None:
    """All have found nothing before the first one may begin."""
    url = await fresh_database()
    first = await asyncpg.connect(url)
    async with first.transaction():
        await first.execute("SELECT pg_advisory_xact_lock(1702258034)")
        opening = [asyncio.ensure_future(PostgresStore.open(url)) for _ in range(3)]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 1702258034"
        while await first.fetchval(waiting) < 3:
            assert not any(one.done() for one in opening)
    for store in await asyncio.gather(*opening):
        assert store.shards == 1024
        await store.close()
    await first.close()


async def test_nothing_is_made_where_only_a_look_is_wanted() -> None:
    with pytest.raises(StoreError, match="everlong migrate"):
        await PostgresStore.open(await fresh_database(), create=False)


async def test_a_newer_schema_is_refused() -> None:
    url = await fresh_store()
    await execute(url, f"UPDATE everlong.store SET version = {NEWEST + 1}")
    with pytest.raises(NewerSchema) as refused:
        await PostgresStore.open(url)
    assert (refused.value.found, refused.value.known) == (NEWEST + 1, NEWEST)


async def test_an_older_schema_is_left_alone_until_somebody_says_migrate() -> None:
    url = await fresh_store()
    await execute(url, f"UPDATE everlong.store SET version = {NEWEST - 1}")
    with pytest.raises(StoreError, match="everlong migrate"):
        await PostgresStore.open(url)


async def test_who_may_not_make_a_schema_is_told_who_must() -> None:
    url = await fresh_database()
    role = url.rpartition("/")[2] + "_guest"
    await execute(url, f"CREATE ROLE {role} LOGIN")
    with pytest.raises(StoreError, match="may create a schema"):
        await PostgresStore.open(url.replace("everlong@", f"{role}@"))


async def test_who_may_not_use_the_store_is_told_what_to_grant() -> None:
    url = await fresh_store()
    role = url.rpartition("/")[2] + "_guest"
    await execute(url, f"CREATE ROLE {role} LOGIN")
    with pytest.raises(StoreError, match="USAGE on the schema"):
        await PostgresStore.open(url.replace("everlong@", f"{role}@"))


async def test_a_database_that_is_not_there() -> None:
    with pytest.raises(StoreError, match="createdb"):
        await PostgresStore.open(shared_server().url("nowhere"))


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreFailed, match=r"127\.0\.0\.1:1/x cannot be reached"):
        await PostgresStore.open("postgresql://me:secret@127.0.0.1:1/x")


@pytest.mark.parametrize(
    "url", ["postgresql://h:port/db", "postgresql://[::1/db", "postgresql://h/db?pooler=maybe"]
)
async def test_what_is_no_url(url: str) -> None:
    with pytest.raises(StoreError):
        await PostgresStore.open(url)


async def test_no_password_is_ever_shown() -> None:
    for url in ("postgresql://me:secret@127.0.0.1:1/x", "postgresql://me:secret@h:port/x"):
        with pytest.raises(StoreError) as refused:
            await PostgresStore.open(url)
        assert "secret" not in str(refused.value)


async def test_who_may_hold_up_others_is_bounded_by_migrate_and_named_by_doctor() -> None:
    url = await fresh_store()
    store = await PostgresStore.open(url)
    warnings = " ".join((await store.info()).warnings)
    await store.close()
    for name in GUARDS:
        assert f"{name} is 0" in warnings
    await execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET lock_timeout = '7s'")
    await PostgresStore.migrate(url)
    store = await PostgresStore.open(url)
    info = await store.info()
    await store.close()
    assert not [one for one in info.warnings if " is 0" in one]
    found = {name: info.settings[name] for name in GUARDS}
    # What somebody has said before stands.
    assert found == {
        "idle_in_transaction_session_timeout": "10000",
        "lock_timeout": "7000",
        "statement_timeout": "60000",
    }


async def test_a_line_that_was_lost_is_made_anew() -> None:
    url = await fresh_store()
    store = await PostgresStore.open(url)
    rig = Rig(store)
    await rig.started()
    await execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    # Each line hears of it with its next piece of work, or before.
    with suppress(StoreFailed):
        await rig.row()
    assert (await rig.row()).workflow_id == "w"
    try:
        await rig.started("next")
    except (*AWAY, asyncpg.PostgresError) as error:
        trouble = store.classify(error)[0]
        await rig.started("next")
    else:
        trouble = Trouble.BUSY
    assert trouble is Trouble.BUSY
    assert (await rig.row("next")).workflow_id == "next"
    await store.close()
