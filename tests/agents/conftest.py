"""Each test declares its own workflows, as in tests/acceptance."""

from collections.abc import Iterator
from typing import Any

import pytest

from everlong import registry


@pytest.fixture(autouse=True)
def only_this_tests_definitions() -> Iterator[None]:
    tables: tuple[dict[str, Any], ...] = (
        registry.workflows,
        registry.activities,
        registry.signals,
        registry.outputs,
    )
    kept = [dict(table) for table in tables]
    registry.workflows.clear()
    registry.activities.clear()
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)
