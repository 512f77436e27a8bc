"""Holds back what goes to a store's disk, or loses what it answers, when a test says so."""

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any

from everlong import Client, StoreFailed
from everlong_engine.model.writes import Write, WriteResult

__all__ = ["Gate", "LossyStore"]


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


class LossyStore:
    """Loses answers of one process's store behind their commits, as a network may."""

    def __init__(self, client: Client) -> None:
        self._store = client.engine.store
        self.lost: list[str] = []
        """The verbs whose answers were lost."""

    def lose(self, verb: str, times: int = 1) -> None:
        """Lose the next answers of a verb that have something to tell."""
        work = getattr(self._store, verb)
        left = times

        async def lossy(*args: Any) -> Any:
            nonlocal left
            answer = await work(*args)
            if left and answer:
                left -= 1
                self.lost.append(verb)
                if verb == "submit":  # Judged by the store, as one that may be repeated.
                    raise sqlite3.OperationalError("its answer was lost")
                raise StoreFailed(path=self._store.path, reason="its answer was lost")
            return answer

        def submit(*args: Any) -> "asyncio.Future[Any]":
            return asyncio.ensure_future(lossy(*args))

        setattr(self._store, verb, submit if verb == "submit" else lossy)
