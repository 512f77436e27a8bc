"""Brings runs into a worker's hands: claimed ones, successors, and those whose code was discarded.

A run that was in its worker's hands at two deaths in a row is on probation: it is driven alone,
under a mark in the store that outlives this process, until it has come through.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from everlong._replay.run import replay
from everlong.exceptions import EverlongError, StoreError
from everlong.worker._owned import OUTCOMES, Incoming, OpenAttempt, OwnedRun
from everlong_engine import (
    AppendResult,
    AttemptState,
    LoadedRun,
    MailRow,
    MarkAttempts,
    RunRow,
    RunStarted,
    RunStatus,
    WriteResult,
    fold,
    latest_attempts,
    limits,
)

if TYPE_CHECKING:
    from everlong.worker._keeper import RunKeeper

__all__ = ["RunLoader"]

logger = logging.getLogger("everlong")

_AGAIN_US: Final = 500_000


class RunLoader:
    """Loads and replays. One per keeper."""

    def __init__(self, keeper: "RunKeeper") -> None:
        self._keeper = keeper
        self._engine = keeper.engine
        self._tasks: set[asyncio.Task[None]] = set()
        self.suspected: deque[LoadedRun] = deque()
        """On probation, waiting for their turn."""
        self._on_trial: OwnedRun | None = None
        self._claims = 0
        self._strays: dict[bytes, list[MailRow]] = {}

    # -------------------------------------------------------------------------------- claimed

    @contextmanager
    def claiming(self) -> Generator[None, None, None]:
        """From before a claim until what it brought is adopted.

        Mail that is committed in between was not read by the claim, and would find nobody: it would
        lie there until the run is loaded again, while later mail overtakes it.
        """
        self._claims += 1
        try:
            yield
        finally:
            self._claims -= 1
            if self._claims == 0:
                self._strays.clear()

    def keep_stray(self, mail: MailRow) -> None:
        """Mail for a run that nobody here has: perhaps of one that is being claimed."""
        if self._claims:
            self._strays.setdefault(mail.execution_id, []).append(mail)

    def adopt(self, loaded: LoadedRun) -> None:
        """A claimed run: replay it, arm what it waits for, feed what lies in its inbox."""
        if loaded.row.losses >= limits.LOSSES_TO_PROBATION:
            self.suspected.append(loaded)
            self._next_trial()
            return
        run = self._fresh(loaded.row)
        run.late_mail = self._strays.pop(run.execution_id, [])
        if self._load(run, loaded):
            self._keeper.pump(run)

    def _fresh(self, row: RunRow) -> OwnedRun:
        code = self._keeper.new_code(row.type, row.run_id)
        run = OwnedRun.of(row, row.lease_token, code)
        self._keeper.cache.hold(run)
        return run

    def _load(self, run: OwnedRun, loaded: LoadedRun) -> bool:
        """Bring fresh code to where the history ends. False: it met a fault and is parked."""
        run.next_seq = loaded.row.next_seq
        run.code.history_bytes = loaded.history_bytes
        records = self._keeper.records
        try:
            loaded = records.opened(loaded)
            replay(run.code, loaded.history)
            mail = [
                Incoming(records.input(run, row, loaded.blobs), row.position) for row in loaded.mail
            ]
            # Of a run that began anew: what came before its start waits for it.
            mail.sort(key=lambda one: not isinstance(one.event, RunStarted))
        except EverlongError as fault:
            self._keeper.leaving.block(run, fault)
            return False
        state = fold(loaded.history)
        run.last_us = state.last_us
        run.timers = {timer.timer_id: timer.due_us for timer in state.timers.values()}
        newest = latest_attempts(loaded.attempts)
        run.suspects = {
            number
            for number, row in newest.items()
            if row.state is AttemptState.LOST and number in state.activities
        }
        run.positions = {row.position for row in loaded.mail}
        local = [one for one in run.mailbox if one.position is None]
        run.mailbox = deque([*mail, *local])
        self._arm(run, state.started, state.started_us)
        for number in sorted(run.attempts.keys() - state.activities.keys()):
            # Closed by an append that was stored, though this worker was told otherwise.
            self._keeper.activities.cancel(run, number)
        answered = {one.event.activity_id for one in run.mailbox if isinstance(one.event, OUTCOMES)}
        for number, activity in state.activities.items():
            # Those still at work here lost only their code; of some the outcome waits to be fed.
            if number not in run.attempts and number not in answered:
                definition = run.code.activity_definition(number)
                assert definition is not None, "the replayed code has this activity open"
                attempt = OpenAttempt(run, activity.scheduled, definition, activity.at_us)
                self._keeper.activities.restore(attempt, newest.get(number))
        late, run.late_mail = run.late_mail, []
        for row in late:
            self._keeper.deliver(row)
        return True

    def _arm(self, run: OwnedRun, started: RunStarted | None, started_us: int) -> None:
        keeper = self._keeper
        for timer_id, due_us in sorted(run.timers.items(), key=lambda item: (item[1], item[0])):
            keeper.arm_timer(run, timer_id, due_us)
        if started is not None:
            keeper.watch_timeouts(run, started, started_us)

    # ---------------------------------------------------------------------------- successors

    def follow(self, run: OwnedRun, leftovers: list[Incoming]) -> None:
        """A run has begun anew: its successor lies in the store, as ours; load it like any."""
        placeholder = OwnedRun(
            run.shard,
            b"",
            run.execution_id,
            run.namespace,
            run.workflow_id,
            run.type,
            run.queue,
            0,
            run.code,
            loading=True,
        )
        # What came through the inbox is there still; what came directly is only here.
        placeholder.mailbox.extend(one for one in leftovers if one.on_done is not None)
        self._keeper.cache.hold(placeholder)
        self._spawn(self._follow(placeholder))

    async def _follow(self, placeholder: OwnedRun) -> None:
        store, keeper = self._engine.store, self._keeper
        target = self._engine.target(
            placeholder.namespace, placeholder.workflow_id, placeholder.execution_id
        )
        try:
            row = await store.latest(target)
            loaded = await store.load(row.shard, row.run_id) if row is not None else None
        except EverlongError as error:
            logger.warning("%s: its successor cannot be loaded now: %s", placeholder.type, error)
            await asyncio.sleep(_AGAIN_US / 1e6)
            self._spawn(self._follow(placeholder))
            return
        if placeholder.dropped:
            return
        if loaded is None or loaded.row.owner != keeper.worker_id:
            keeper.forget(placeholder)  # Terminated at once.
            keeper.reject(placeholder)
            return
        placeholder.dropped = True
        run = self._fresh(loaded.row)
        run.mailbox, run.late_mail = placeholder.mailbox, placeholder.late_mail
        if self._load(run, loaded):
            keeper.pump(run)

    # --------------------------------------------------------------------------------- again

    def reload(self, run: OwnedRun) -> None:
        """Discard the code, and bring new code to where the store says the run stands."""
        if run.dropped:
            return
        if self._keeper.stopping:
            self._keeper.forget(run)
            self._keeper.reject(run)
            return
        self._keeper.discard_code(run)
        run.loading = True
        self._spawn(self._reload(run, run.generation))

    def reload_later(self, run: OwnedRun) -> None:
        """The store takes nothing now; until it does, the run stays here without its code."""
        run.loading = True
        again_us = self._engine.clock.now_us() + _AGAIN_US
        self._keeper.deadlines.add(again_us, self.reload, run, matters=_is_here)

    async def _reload(self, run: OwnedRun, generation: int) -> None:
        try:
            loaded = await self._engine.store.load(run.shard, run.run_id)
        except EverlongError as error:
            logger.warning("%s: cannot be loaded now: %s", run.workflow_id, error)
            self.reload_later(run)
            return
        if run.dropped or run.generation != generation:
            return
        keeper = self._keeper
        if loaded is None or not self._is_ours(run, loaded.row):
            keeper.forget(run)
            keeper.reject(run)
            return
        run.code = keeper.new_code(run.type, run.run_id)
        run.loading = False
        if not self._load(run, loaded):
            return
        keeper.pump(run)
        if run.probation and self._rests(run):
            self.end_trial(run)

    def _rests(self, run: OwnedRun) -> bool:
        """Nothing is going on, nor about to: a lost attempt is tried again at once."""
        if not run.is_idle:
            return False
        wake_us = run.wake_us()
        return wake_us is None or wake_us > self._engine.clock.now_us()

    def _is_ours(self, run: OwnedRun, row: RunRow) -> bool:
        return (
            row.status is RunStatus.RUNNING
            and row.lease_token == run.token
            and row.owner == self._keeper.worker_id
        )

    # ------------------------------------------------------------------------------ probation

    def _next_trial(self) -> None:
        """Drive the next suspect, alone, under a mark that outlives this process."""
        if self._on_trial is not None or not self.suspected or self._keeper.stopping:
            return
        run = self._fresh(self.suspected.popleft().row)
        run.probation = run.loading = True
        self._on_trial = run

        def marked(result: WriteResult | StoreError) -> None:
            if run.dropped:
                return
            if isinstance(result, StoreError):
                self.reload_later(run)
                return
            assert isinstance(result, AppendResult)
            due_us = self._engine.clock.now_us() + limits.PROBATION_US
            self._keeper.deadlines.add(due_us, self.end_trial, run, matters=_is_here)
            self.reload(run)  # What came meanwhile is in the store.

        mark = MarkAttempts(run.shard, run.run_id, run.token, (), probation=True)
        self._engine.commits.add(mark, marked)

    def end_trial(self, run: OwnedRun) -> None:
        """It came through: what it did is committed, or it has outlived its probation."""
        if not run.probation:
            return
        run.probation = False
        if not run.dropped:
            mark = MarkAttempts(run.shard, run.run_id, run.token, (), probation=False)
            # Should this not be stored, the run stays suspected: too careful, not wrong.
            self._engine.commits.add(mark, lambda _: None)
        if self._on_trial is run:
            self._on_trial = None
            self._next_trial()

    # -------------------------------------------------------------------------------- private

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


def _is_here(run: OwnedRun) -> bool:
    return not run.dropped
