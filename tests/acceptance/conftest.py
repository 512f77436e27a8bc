"""Every acceptance test declares its own workflows; a worker hosts those of its test only."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlong import registry
from tests.proof.record import record
from tests.support.harder import MODE, harder, replays
from tests.support.postgres_server import lent_store

STORE = os.environ.get("EVERLONG_STORE", "sqlite")


@pytest.fixture(autouse=True)
def only_this_tests_definitions() -> Iterator[None]:
    """Definitions go by name, and so many tests have no use for so many names."""
    tables: tuple[dict[str, Any], ...] = (
        registry.workflows,
        registry.activities,
        registry.signals,
        registry.outputs,
        registry.outboxes,
    )
    kept = [dict(table) for table in tables]
    registry.workflows.clear()
    registry.activities.clear()
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


@pytest.fixture(autouse=True)
def in_the_chosen_mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """`make harder` runs these tests under conditions that no feature must notice."""
    if MODE and request.node.get_closest_marker("once") is not None:  # pyright: ignore[reportUnknownMemberType]
        pytest.skip("it counts how often its workflow's code runs, or is about the cache")
    with harder(MODE):
        yield


@pytest.fixture(autouse=True)
def on_the_chosen_store(request: pytest.FixtureRequest) -> None:
    """`make postgres` runs these tests on a server, which no feature must notice, and `make
    distributed` on a store where a transaction must not write to two shards."""
    if STORE != "sqlite" and request.node.get_closest_marker("file") is not None:  # pyright: ignore[reportUnknownMemberType]
        pytest.skip("it is about a file, or about its lock")


@pytest.fixture(autouse=True, scope="session")
def recorded(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a whole run in a mode came to."""
    began = time.monotonic()
    yield
    if MODE:
        session = request.session
        figures: dict[str, int | float | str] = {}
        if replays:
            figures = {"prefixes replayed": len(replays), "inputs fed to them": sum(replays)}
        record(
            f"the acceptance tests, {MODE.replace('-', ' ')}",
            invariants=[7],
            tried=_TRIED[MODE],
            times=session.testscollected,
            broken=session.testsfailed,
            seconds=time.monotonic() - began,
            figures=figures,
            reproduce="make harder",
        )


_TRIED = {
    "cache-off": "each test of behaviour with no run kept in memory: every input meets a replay",
    "every-prefix": "each test of behaviour with its history replayed in fresh code at every input",
}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Any]:
    """The store of a test: a file, or with `EVERLONG_STORE=postgres` a database."""
    if STORE in ("postgres", "distributed"):
        async with lent_store(1024) as url:
            yield url
    else:
        yield tmp_path / "everlong.db"
