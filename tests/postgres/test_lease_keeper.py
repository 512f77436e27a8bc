"""A beat that fails is a beat that was not heard, whatever the reason."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from everlong_engine.clock import SystemClock
from everlong_engine.duties.lease_keeper import LeaseKeeper
from everlong_engine.model.errors import StoreError


class Broken:
    """A store that answers no beat."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def beat(self, workers: Sequence[bytes]) -> set[bytes]:
        raise self.error


class Host:
    worker_id = b"w"
    has_begun = True

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    def lease_lost(self) -> None:
        self.let_go.set()

    def wake(self) -> None:
        raise AssertionError("nothing was taken over")


@pytest.mark.parametrize("error", [StoreError("away"), ValueError("a mistake of ours")])
async def test_a_worker_whose_beats_fail_lets_go_of_what_it_has(error: Exception) -> None:
    host = Host()
    keeper = LeaseKeeper(cast(Any, Broken(error)), [host], SystemClock(), 0.001)
    keeper.start()
    try:
        async with asyncio.timeout(10):
            await host.let_go.wait()
    finally:
        await keeper.stop()
