"""Group commit: all writes of a process share transactions.

Whoever writes adds to a queue and goes on. While a transaction is on the store's thread the queue
fills; when it returns, up to 256 writes go at once. Idle, a write goes at the end of the current
turn of the event loop: nothing waits for company.

When a group fails, nothing of it was stored, or all of it was and the answer was lost. It is tried
once more, then each write alone, so that a bad one fails nobody else; the store knows again what it
has stored already, whatever kind of write it is. A full disk is an answer (StoreFull), not a reason
to stop. A failed sync or a damaged file is: nothing is acknowledged any more, and the process lets
go of the file.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from everlong_engine.model.errors import StoreError
from everlong_engine.model.limits import GROUP_APPENDS_MAX
from everlong_engine.model.writes import AppendResult, Refusal, Write, WriteResult
from everlong_engine.store.interface import MailGone, StatementsRefused, Store, Trouble

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
        self._repeating: asyncio.Task[None] | None = None
        self.failed: StoreError | None = None
        """Set for good when the store can no longer be trusted."""
        self.on_failed: Callable[[StoreError], None] | None = None
        store.on_fatal = self._stop

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

    @property
    def is_idle(self) -> bool:
        """Everything queued has its result."""
        return self._idle.is_set()

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
        error = done.exception()
        if error is not None:
            # Still busy: what came meanwhile goes behind the repetition.
            self._repeating = asyncio.get_running_loop().create_task(self._repeat(group, error))
            return
        self._busy = False
        # The next group goes before this one's results are handed out: the disk stays busy.
        self._flush()
        if self.failed is None:
            _hand_out(group, done.result())
        else:  # A sync has failed before this one: its success may mean nothing.
            _hand_out(group, [self.failed] * len(group))

    async def _repeat(self, group: list[_Entry], error: BaseException) -> None:
        """The whole group again, then each alone."""
        try:
            trouble, answer = self._judge(error)
            known = isinstance(error, (MailGone, StatementsRefused))  # It would be the same again.
            if trouble in (Trouble.REPEAT, Trouble.BUSY) and not known:
                logger.warning("a group commit failed (%s); trying again", error)
                try:
                    results = await self._store.submit([write for write, _ in group])
                except Exception as again:
                    trouble, answer = self._judge(again)
                else:
                    _hand_out(group, results)
                    return
            if trouble in (Trouble.FATAL, Trouble.BUSY):
                _hand_out(group, [answer] * len(group))
                return
            for write, on_result in group:
                _hand_out([(write, on_result)], [await self._alone(write)])
        finally:
            self._busy = False
            self._flush()

    async def _alone(self, write: Write) -> WriteResult | StoreError:
        if self.failed is not None:
            return self.failed
        try:
            return (await self._store.submit([write]))[0]
        except MailGone:
            return AppendResult(Refusal.CONFLICT)
        except StatementsRefused as refused:
            return AppendResult(Refusal.STATEMENTS, failure=refused.failure)
        except Exception as error:
            trouble, answer = self._judge(error)
            if trouble is Trouble.REPEAT:
                logger.error("a write was not stored: %s", answer, exc_info=error)
            return answer

    def _judge(self, error: BaseException) -> tuple[Trouble, StoreError]:
        """What a failure means; a fatal one ends it all."""
        if self.failed is not None:
            return Trouble.FATAL, self.failed
        trouble, answer = self._store.classify(error)
        if trouble is Trouble.FATAL:
            self._stop(answer)
        return trouble, answer

    def _stop(self, failed: StoreError) -> None:
        """Nothing that is not stored already is acknowledged from here on."""
        if self.failed is not None:
            return
        self.failed = failed
        logger.critical("the store failed and is let go: %s", failed)
        waiting = list(self._queue)
        self._queue.clear()
        _hand_out(waiting, [failed] * len(waiting))
        if self.on_failed is not None:
            self.on_failed(failed)


def _hand_out(group: Sequence[_Entry], results: Iterable[WriteResult | StoreError]) -> None:
    """Each its own result; one receiver that fails keeps nobody else from theirs."""
    for (write, on_result), result in zip(group, results, strict=True):
        try:
            on_result(result)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"the receiver of a {type(write).__name__} failed", "exception": error}
            )
