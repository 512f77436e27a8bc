"""Every implementation of `Store` passes this folder: a test asks for `rig`, and gets one of each.

What is peculiar to one of them (its files, its damage) is in a file with its name. A test of two
processes over the same data asks for `pair`.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from everlong_engine.store.interface import Store
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.postgres.store import PostgresStore
from everlong_engine.store.sqlite.inline import InlineDatabase
from everlong_engine.store.sqlite.store import SqliteStore
from tests.support.postgres_server import lent_store
from tests.support.store_rig import Rig

ONE_OWNER = ("memory", "sqlite", "inline sqlite")
STORES = (*ONE_OWNER, "postgres")

Pair: TypeAlias = tuple[Store, Store]


@pytest.fixture(params=STORES)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """The same data as two processes see it."""
    lent = AsyncExitStack()
    match request.param:
        case "sqlite":
            path = tmp_path / "everlong.db"
            opened: Pair = await SqliteStore.open(path), await SqliteStore.open(path)
        case "inline sqlite":
            database = InlineDatabase()
            opened = database.open(), database.open()
        case "postgres":
            url = await lent.enter_async_context(lent_store())
            # Without a lease: whoever has no worker here is dead, as on a file.
            opened = (
                await PostgresStore.open(url, lease_us=0),
                await PostgresStore.open(url, lease_us=0),
            )
        case _:
            data = MemoryData()
            opened = MemoryStore(data), MemoryStore(data)
    yield opened
    for store in opened:
        await store.close()
    await lent.aclose()


@pytest.fixture
async def store(pair: Pair) -> Store:
    return pair[0]


@pytest.fixture
async def rig(store: Store) -> Rig:
    return Rig(store)
