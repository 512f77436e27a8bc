"""Where attempts are at work: slots, time limits, and how many are under way.

A worker has one bench. Attempts of its own runs sit there beside those that it has taken from task
queues; whose an attempt is says its `Master`, who hears what became of it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Protocol

from everlong._context import activity_context
from everlong.worker._attempt_rules import when_over
from everlong.worker._attempts import Attempt, AttemptContext, Launch, Pools, launch
from everlong.worker._intercepting import Around
from everlong_engine import Engine

__all__ = ["Bench", "Master"]

logger = logging.getLogger("everlong")


class Master(Protocol):
    """Whose an attempt is."""

    def has_ended(self, attempt: Any, outcome: Any) -> None:
        """What came of it; None if it was cancelled."""
        ...

    def store_details(self, attempt: Any) -> None:
        """It has said how far it is."""
        ...


class Bench:
    """The slots of one worker, and what sits in them."""

    def __init__(self, engine: Engine, slots: int, pools: Pools, around: Around | None) -> None:
        self._engine = engine
        self._free = slots
        self._line: deque[Callable[[], bool]] = deque()
        self.pools = pools
        self.launch: Launch = launch if around is None else around.launch
        self.at_work: set[Any] = set()
        """Attempts whose code is running."""
        self.stopping = False
        self.handing_back = False
        """Nothing begins any more: it goes with its run."""
        self._working = 0
        """Of those at work, how many do not only wait."""
        self._quiet = asyncio.Event()
        self._quiet.set()

    # ---------------------------------------------------------------------------------- slots

    @property
    def free(self) -> int:
        """Slots that nobody stands in line for."""
        return 0 if self._line or self.stopping else self._free

    def reserve(self) -> bool:
        """Take a slot, if one is free."""
        if self.free <= 0:
            return False
        self._free -= 1
        return True

    def stand_in_line(self, take: Callable[[], bool]) -> None:
        """Have it called once a slot is there; False leaves the slot to the next in line."""
        self._line.append(take)
        self._serve()

    def give_back(self) -> None:
        """A slot is free: whoever is next in line gets it."""
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        while self._free > 0 and self._line and not self.stopping:
            self._free -= 1
            if not self._line.popleft()():
                self._free += 1

    # ---------------------------------------------------------------------------- one attempt

    def begin(self, attempt: Attempt, master: Master) -> None:
        """It has a slot, and what says that it begins is committed."""
        context = copy_context()
        activity = AttemptContext(self, master.store_details, attempt)
        context.run(activity_context.set, activity)
        task = attempt.task = self.launch(attempt, activity, context, self.pools)
        self.at_work.add(attempt)
        if not attempt.definition.waits:
            self._working += 1
            self._quiet.clear()
        options = attempt.scheduled.options
        if options.start_to_close_us is not None:
            attempt.limit = self._engine.alarms.after(
                options.start_to_close_us / 1e6, self._time_out, attempt, "start_to_close"
            )
        if options.heartbeat_us is not None:
            self.expect_heartbeat(attempt)
        task.add_done_callback(lambda done: self._done(attempt, activity, master, done))

    def expect_heartbeat(self, attempt: Attempt) -> None:
        """Silence of one heartbeat timeout from now on ends the attempt."""
        if attempt.beat is not None:
            attempt.beat.cancel()
        wait_us = attempt.scheduled.options.heartbeat_us
        if wait_us is not None and attempt.task is not None:
            attempt.beat = self._engine.alarms.after(
                wait_us / 1e6, self._time_out, attempt, "heartbeat"
            )

    def _time_out(self, attempt: Attempt, which: str) -> None:
        task = attempt.task
        if task is None or task.done() or (attempt.abandoned and not attempt.left_alone):
            return
        attempt.timed_out = which
        task.cancel()

    def _done(
        self,
        attempt: Attempt,
        activity: AttemptContext,
        master: Master,
        done: "asyncio.Future[Any]",
    ) -> None:
        activity.over = True
        attempt.task = attempt.interrupt = None
        self.at_work.discard(attempt)
        self._working -= not attempt.definition.waits
        if not self._working:
            self._quiet.set()
        if attempt.limit is not None:
            attempt.limit.cancel()
        if attempt.beat is not None:
            attempt.beat.cancel()
        master.has_ended(attempt, None if done.cancelled() else done.result())
        # A thread or a process cannot be stopped: its slot stays taken until it ends by itself.
        when_over(activity.work, self.give_back)

    # ----------------------------------------------------------------------------------- ends

    async def finish_or_time_out(self, timeout_s: float) -> None:
        """Let what is at work end by itself, up to a limit; also what a commit is about to begin,
        since an attempt that never began must not count."""
        self.stopping = True
        commits = self._engine.commits
        try:
            async with asyncio.timeout(timeout_s):
                await commits.drain()
                while self._working:
                    await self._quiet.wait()
                    await commits.drain()
        except TimeoutError:
            logger.warning("%d activities did not end in time; handed back", self._working)
        self.handing_back = True

    def close(self) -> None:
        """What still runs was handed back: threads end by themselves, processes are ended."""
        for attempt in self.at_work:
            if attempt.task is not None:
                attempt.task.cancel()
        self.pools.close()
