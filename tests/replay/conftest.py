"""Nothing that a test drove by hand outlives it: the collector would speak up in another test."""

from collections.abc import Iterator

import pytest

from tests.support.run_by_hand import discard_all


@pytest.fixture(autouse=True)
def discarded_at_last() -> Iterator[None]:
    yield
    discard_all()
