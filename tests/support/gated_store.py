"""Holds back what goes to a store's disk, so that a test decides what is committed when."""

import asyncio
from collections.abc import Sequence

from everlong import Client
from everlong_engine.model.writes import Write, WriteResult

__all__ = ["Gate"]


class Gate:
    """Stands before the group commits of one process. Open until it is shut."""

    def __init__(self, client: Client) -> None:
        store = client.engine.store
        self._submit = store.submit
        self._open = asyncio.Event()
        self._open.set()
        self.arrived = asyncio.Event()
        """Something waits before the shut gate."""
        store.submit = self._hold  # type: ignore[method-assign]

    def shut(self) -> None:
        self._open.clear()
        self.arrived.clear()

    def open(self) -> None:
        self._open.set()

    def _hold(self, writes: Sequence[Write]) -> "asyncio.Future[list[WriteResult]]":
        return asyncio.ensure_future(self._pass(writes))

    async def _pass(self, writes: Sequence[Write]) -> list[WriteResult]:
        if not self._open.is_set():
            self.arrived.set()
        await self._open.wait()
        return await self._submit(writes)
