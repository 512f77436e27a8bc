"""Attempts that have left the worker and wait for whoever has their token.

They take no slot and keep no run in memory. What answers them comes as mail of their run. Only
their time limits are watched here, and only while the run is; a run that sleeps is woken for them.
"""

import asyncio
from collections.abc import Callable

from everlong._records import Records
from everlong.exceptions import StoreError
from everlong.worker._deadlines import Deadlines
from everlong.worker._owned import OpenAttempt
from everlong_engine import AttemptRow, AttemptState, Engine, elsewhere_limit, latest_attempts

__all__ = ["Elsewhere"]

_AGAIN_US = 500_000


class Elsewhere:
    """One per runner.

    Args:
        timed_out: called with an attempt whose time is over, and which limit it was.
    """

    def __init__(
        self,
        engine: Engine,
        records: Records,
        deadlines: Deadlines,
        timed_out: Callable[[OpenAttempt, str], None],
    ) -> None:
        self._engine = engine
        self._records = records
        self._deadlines = deadlines
        self._timed_out = timed_out
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, attempt: OpenAttempt, heard_us: int) -> None:
        """It is elsewhere from now on; last heard of at that instant."""
        limit = elsewhere_limit(attempt.scheduled.options, attempt.started_us, heard_us)
        attempt.elsewhere = True
        attempt.retry_us = None
        attempt.limit_us = None if limit is None else limit[0]
        if limit is not None:
            number = attempt.attempt
            self._deadlines.add(limit[0], self._look, attempt, number, matters=_is_elsewhere)

    def watch_queued(self, attempt: OpenAttempt) -> None:
        """It is in a task queue, or with a worker that keeps its time limits itself. Should that
        hand it over to whoever has its token, its limits are to be kept here: one looks."""
        options = attempt.scheduled.options
        now_us = self._engine.clock.now_us()
        look = elsewhere_limit(options, now_us, now_us)
        attempt.elsewhere = True
        attempt.retry_us = attempt.limit_us = None
        if look is not None:
            number = attempt.attempt
            self._deadlines.add(look[0], self._look, attempt, number, matters=_is_elsewhere)

    def _look(self, attempt: OpenAttempt, number: int) -> None:
        """Its time is over, unless it was heard of meanwhile: heartbeats go to the store."""
        task = asyncio.get_running_loop().create_task(self._ask(attempt, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, attempt: OpenAttempt, number: int) -> None:
        run, now_us = attempt.run, self._engine.clock.now_us()
        try:
            rows = await self._engine.store.attempts(run.shard, run.run_id)
        except StoreError:
            again_us = now_us + _AGAIN_US
            self._deadlines.add(again_us, self._look, attempt, number, matters=_is_elsewhere)
            return
        if not _is_elsewhere(attempt, number):
            return
        if attempt.queued:
            newest = latest_attempts(rows).get(attempt.scheduled.activity_id)
            if newest is None or newest.state is not AttemptState.ELSEWHERE:
                self.watch_queued(attempt)
                return
            attempt.queued = False
            attempt.attempt, attempt.started_us = newest.attempt, newest.started_us
        row = _row_of(attempt, rows)
        heard_us = attempt.started_us
        if row is not None:
            heard_us = row.ended_us or row.started_us
            if row.details is not None:
                attempt.previous_details = self._records.open_details(run, row).details
        limit = elsewhere_limit(attempt.scheduled.options, attempt.started_us, heard_us)
        if limit is None or limit[0] > now_us:
            self.watch(attempt, heard_us)
            return
        attempt.elsewhere = False
        self._timed_out(attempt, limit[1])

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


def _row_of(attempt: OpenAttempt, rows: list[AttemptRow]) -> AttemptRow | None:
    key = (attempt.scheduled.activity_id, attempt.attempt)
    return next((row for row in rows if (row.activity_id, row.attempt) == key), None)


def _is_elsewhere(attempt: OpenAttempt, number: int) -> bool:
    gone = attempt.abandoned or attempt.run.dropped
    return attempt.elsewhere and attempt.attempt == number and not gone
