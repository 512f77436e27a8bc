import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.arena import Arena, arena


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The whole folder: it stops processes by their pidfd, which Linux has."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and sys.platform != "linux":
            item.add_marker(pytest.mark.skip(reason="chaos needs Linux"))
        if here in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(name="arena")
def opened_arena(tmp_path: Path) -> Iterator[Arena]:
    yield from arena(tmp_path)
