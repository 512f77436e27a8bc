"""Group commit: all writes of a process share transactions.

Whoever writes adds to a queue and goes on. While a transaction is on the store's thread the queue
fills; when it returns, up to 256 writes go at once. Idle, a write goes at the end of the current
turn of the event loop: nothing waits for company.

When a group fails, nothing of it was stored. It is tried once more, then each write alone, so that
a bad one fails nobody else. A full disk is an answer (StoreFull), not a reason to stop. A failed
sync or a damaged file is: nothing is acknowledged any more, and the process must let go of the file.
"""

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from everlong_engine.model.errors import StoreError, StoreFailed, StoreFull
from everlong_engine.model.limits import GROUP_APPENDS_MAX
from everlong_engine.model.writes import Append, AppendResult, Refusal, Write, WriteResult
from everlong_engine.store.interface import Store
from everlong_engine.store.sqlite.connection import is_fatal, store_error
from everlong_engine.store.sqlite.group import ConsumedElsewhere

__all__ = ["GroupCommit", "OnResult"]

logger = logging.getLogger("everlong")

OnResult: TypeAlias = Callable[[WriteResult | StoreError], None]
_Entry: TypeAlias = tuple[Write, OnResult]


class GroupCommit:
    """The queue in front of a store's writer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: deque[_Entry] = deque()
        self._busy = False
        self._scheduled = False
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self.failed: StoreError | None = None
        """Set for good when the store can no longer be trusted."""
        self.on_failed: Callable[[StoreError], None] | None = None

    def add(self, write: Write, on_result: OnResult) -> None:
        """Queue a write. `on_result` is called on the event loop once it is stored or refused."""
        if self.failed is not None:
            asyncio.get_running_loop().call_soon(on_result, self.failed)
            return
        self._queue.append((write, on_result))
        if not self._busy and not self._scheduled:
            self._scheduled = True
            self._idle.clear()
            asyncio.get_running_loop().call_soon(self._flush)

    async def put(self, write: Write) -> WriteResult:
        """Queue a write and wait for its result.

        Raises:
            StoreError: it was not stored.
        """
        future: asyncio.Future[WriteResult] = asyncio.get_running_loop().create_future()

        def settle(result: WriteResult | StoreError) -> None:
            if future.done():
                return  # Whoever waited was cancelled.
            if isinstance(result, StoreError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.add(write, settle)
        return await future

    async def drain(self) -> None:
        """Wait until everything queued has its result."""
        await self._idle.wait()

    # ------------------------------------------------------------------------------- groups

    def _flush(self) -> None:
        self._scheduled = False
        if self._busy:
            return
        queue = self._queue
        if not queue:
            self._idle.set()
            return
        group = [queue.popleft() for _ in range(min(len(queue), GROUP_APPENDS_MAX))]
        self._busy = True
        future = self._store.submit([write for write, _ in group])
        future.add_done_callback(lambda done: self._settle(group, done))

    def _settle(self, group: list[_Entry], done: "asyncio.Future[list[WriteResult]]") -> None:
        self._busy = False
        error = done.exception()
        if error is None:
            # The next group goes before this one's results are handed out: the disk stays busy.
            results = done.result()
            self._flush()
            for (_, on_result), result in zip(group, results, strict=True):
                on_result(result)
        elif is_fatal(error):
            self._stop(group, error)
        else:
            self._busy = True
            task = asyncio.get_running_loop().create_task(self._repeat(group, error))
            self._repeating = task

    async def _repeat(self, group: list[_Entry], error: BaseException) -> None:
        """The whole group again, then each alone."""
        try:
            if not _is_full(error):
                logger.warning("a group commit failed (%s); trying again", error)
                try:
                    results = await self._store.submit([write for write, _ in group])
                except (sqlite3.Error, ConsumedElsewhere) as again:
                    error = again
                else:
                    self._hand_out(group, results)
                    return
            for entry in group:
                await self._alone(entry)
        finally:
            self._busy = False
            self._flush()

    async def _alone(self, entry: _Entry) -> None:
        write, on_result = entry
        if self.failed is not None:
            on_result(self.failed)
            return
        try:
            results = await self._store.submit([write])
        except ConsumedElsewhere:
            assert isinstance(write, Append), "only an append consumes mail"
            on_result(AppendResult(Refusal.CONFLICT))
        except sqlite3.Error as error:
            if is_fatal(error):
                self._stop([entry], error)
            else:
                on_result(self._as_store_error(error))
        else:
            on_result(results[0])

    def _hand_out(self, group: Sequence[_Entry], results: Sequence[WriteResult]) -> None:
        for (_, on_result), result in zip(group, results, strict=True):
            on_result(result)

    def _stop(self, group: Sequence[_Entry], error: BaseException) -> None:
        """Nothing is acknowledged from here on."""
        failed = self.failed = self._as_store_error(error)
        logger.critical("the store failed and is let go: %s", failed)
        waiting = [*group, *self._queue]
        self._queue.clear()
        self._idle.set()
        for _, on_result in waiting:
            on_result(failed)
        if self.on_failed is not None:
            self.on_failed(failed)

    def _as_store_error(self, error: BaseException) -> StoreError:
        if isinstance(error, sqlite3.Error):
            return store_error(error, Path(self._store.path))
        return StoreFailed(path=self._store.path, reason=repr(error))


def _is_full(error: BaseException) -> bool:
    return isinstance(error, StoreFull) or (
        getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    )
