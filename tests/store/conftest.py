"""Every implementation of `Store` passes this folder: a test asks for `rig`, and gets one of each.

What is peculiar to one of them (its files, its damage) is in a file with its name.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everlong_engine.store.interface import Store
from everlong_engine.store.sqlite.store import SqliteStore
from tests.support.store_rig import Rig

STORES = ("sqlite",)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    assert request.param == "sqlite"
    opened = await SqliteStore.open(tmp_path / "everlong.db")
    yield opened
    await opened.close()


@pytest.fixture
async def rig(store: Store) -> Rig:
    return Rig(store)
