"""Brings runs into a worker's hands: claimed ones, successors, and those whose code was discarded.

A run that was at work at two deaths in a row is a suspect: it is held back for a while, and then
driven alone, under a mark in the store that outlives this process, until it has come through
(`everlong_engine.machine.probation` says why).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from everlong._replay.history import replay
from everlong.exceptions import EverlongError, StoreError, UndecodablePayload, WorkflowFault
from everlong.worker._approvals import answers_first
from everlong.worker._judging import is_stale
from everlong.worker._owned import OUTCOMES, Incoming, OpenAttempt, OwnedRun
from everlong_engine import (
    CODES,
    AttemptRow,
    AttemptState,
    CancelRequested,
    LoadedRun,
    MailRow,
    MarkAttempts,
    Probation,
    Release,
    RunCancelled,
    RunRow,
    RunStarted,
    RunState,
    RunStatus,
    RunTerminated,
    WriteResult,
    exhausted_at,
    fold,
    hold_us,
    is_suspect,
    latest_attempts,
    limits,
    trial_us,
    watch_us,
)

if TYPE_CHECKING:
    from everlong.worker._keeper import RunKeeper

__all__ = ["RunLoader"]

logger = logging.getLogger("everlong")

_AGAIN_US: Final = 500_000
_TURN_US: Final = 50_000
_TERMINATED: Final = CODES[RunTerminated]


class RunLoader:
    """Loads and replays. One per keeper."""

    def __init__(self, keeper: "RunKeeper") -> None:
        self._keeper = keeper
        self._engine = keeper.engine
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[bytes, RunRow] = {}
        """Suspects, until they may be tried."""
        self._to_try: deque[RunRow] = deque()
        """Suspects that wait for their turn."""
        self._asks = False
        self._claims = 0
        self.in_doubt = False
        """A claim, or a start, ended without an answer: what it took may bear this worker's name
        while nobody here knows of it."""
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
        except BaseException:  # Also who is cancelled while the claim is on its way.
            self.in_doubt = True
            raise
        finally:
            self._claims -= 1
            if self._claims == 0:
                self._strays.clear()

    def in_hand(self) -> frozenset[bytes] | None:
        """The executions in this worker's hands, to find out what else bears its name; None while
        that needs no look, or while other claims are on their way."""
        if not self.in_doubt or self._claims:
            return None
        suspects = (row.execution_id for row in (*self._held.values(), *self._to_try))
        here = (run.execution_id for run in self._keeper.cache)
        return frozenset([*here, *suspects, *self._keeper.beginning])

    def keep_stray(self, mail: MailRow) -> None:
        """Mail for a run that nobody here has: perhaps of one that is being claimed."""
        if self._claims:
            self._strays.setdefault(mail.execution_id, []).append(mail)

    def adopt(self, loaded: LoadedRun) -> None:
        """A claimed run: replay it, arm what it waits for, feed what lies in its inbox."""
        before = self._keeper.cache.get(loaded.row.execution_id)
        if before is not None:
            # Reset from outside, or taken from us and free again: nobody has told us yet, and what
            # it has at work here is in vain.
            self._keeper.forget(before)
            self._keeper.reject(before)
        self._forget_suspects(loaded.row.execution_id)
        if is_suspect(loaded.row.losses):
            self._hold(loaded.row)
            return
        run = self._fresh(loaded.row)
        run.late_mail = self._strays.pop(run.execution_id, [])
        if run.version is not None and not self._keeper.versions.may_drive(run):
            run.next_seq = loaded.row.next_seq  # It was pinned elsewhere while it was claimed.
            self._keeper.leaving.release(run, 0)
        elif self._load(run, loaded):
            self._keeper.pump(run)

    def _fresh(self, row: RunRow) -> OwnedRun:
        code = self._keeper.new_code(row.type, row.run_id)
        run = OwnedRun.of(row, row.lease_token, code)
        self._keeper.cache.hold(run)
        return run

    def _load(self, run: OwnedRun, loaded: LoadedRun) -> bool:
        """Bring fresh code to where the history ends. False: it met a fault and is parked, or
        somebody has paused it."""
        run.next_seq = loaded.row.next_seq
        run.paused = loaded.row.status is RunStatus.PAUSED
        run.version = loaded.row.version
        run.code.history_bytes = loaded.history_bytes
        records = self._keeper.records
        try:
            loaded = records.opened(loaded)
            replay(run.code, loaded.history)
            run.code.moves_on = self._keeper.versions.may_move(run)  # Of the past, it knew nothing.
            mail = [
                Incoming(records.input(run, row, loaded.blobs), row.position)
                for row in loaded.mail
                if not self._is_notice(row)
            ]
            if run.answers_first:
                run.answers_first = False
                answers_first(mail)
            # Of a run that began anew: what came before its start waits for it.
            mail.sort(key=lambda one: not isinstance(one.event, RunStarted))
            _require_one_start(run, mail)
        except EverlongError as fault:
            self._keeper.leaving.block(run, fault)
            return False
        state = fold(loaded.history)
        run.last_us = state.last_us
        run.timers = {timer.timer_id: timer.due_us for timer in state.timers.values()}
        newest = latest_attempts(loaded.attempts)
        sets = exhausted_at(loaded.attempts)
        run.suspects = {
            number
            for number, row in newest.items()
            if row.state is AttemptState.LOST and number in state.activities
        }
        run.handed_out |= newest.keys() & state.activities.keys()
        run.positions = {row.position for row in loaded.mail}
        local = [one for one in run.mailbox if one.position is None]
        run.mailbox = deque([*mail, *local])
        if run.paused:
            run.late_mail = []
            self._keeper.pausing.hold(run)
            return False
        if self._is_put_off(run) or self._keeper.turns.asks(run):
            return False
        self._arm(run, state.started, state.started_us)
        run.pumping = True  # A lost attempt may be an outcome at once: it waits until all is here.
        try:
            self._restore_activities(run, state, newest, sets)
            late, run.late_mail = run.late_mail, []
            for row in late:
                self._keeper.deliver(row)
        finally:
            run.pumping = False
        return True

    def _is_put_off(self, run: OwnedRun) -> bool:
        """Whether it is to begin later: it goes back to the store, with what waits for that. Once
        it is asked to cancel it never begins."""
        if run.code.started is not None:
            return False
        waiting = [one.event for one in run.mailbox]
        begins_us = next((one.begins_us for one in waiting if isinstance(one, RunStarted)), None)
        if begins_us is None or begins_us <= self._engine.clock.now_us():
            return False
        for event in waiting:
            if isinstance(event, CancelRequested):
                self._keeper.end_unbegun(run, RunCancelled(event.reason))
                return True
        run.late_mail = []
        self._keeper.leaving.release(run, begins_us, waits_with=max(run.positions, default=0))
        return True

    def begin(self, run: OwnedRun) -> None:
        """The turn of a run has come that was loaded and has not begun."""
        run.loading = False
        late, run.late_mail = run.late_mail, []
        for row in late:
            self._keeper.deliver(row)
        self._keeper.pump(run)

    def _restore_activities(
        self,
        run: OwnedRun,
        state: RunState,
        newest: dict[int, AttemptRow],
        sets: dict[int, int],
    ) -> None:
        activities = self._keeper.activities
        for number in sorted(run.attempts.keys() - state.activities.keys()):
            # Closed by an append that was stored, though this worker was told otherwise.
            activities.cancel(run, number)
        for number, attempt in list(run.attempts.items()):
            if attempt.queued and attempt.elsewhere:
                # Of these nothing is here: their rows tell, also when somebody has paused the run
                # for one of them, and it goes on by now.
                attempt.abandoned = True
                del run.attempts[number]
        answered = {
            one.event.activity_id
            for one in run.mailbox
            if isinstance(one.event, OUTCOMES) and not is_stale(run.code, one.event)
        }
        for number, activity in state.activities.items():
            # Those still at work here lost only their code; of some the outcome waits to be fed.
            if number in run.attempts:
                if activity.cancel_requested:
                    activities.cancel(run, number)  # Stored, though this worker was not told.
            elif number not in answered:
                definition = run.code.activity_definition(number)
                assert definition is not None, "the replayed code has this activity open"
                attempt = OpenAttempt(
                    run, activity.scheduled, definition, activity.at_us, activity.seq
                )
                attempt.cancel_asked = activity.cancel_requested
                attempt.set_began_behind = sets.get(number, 0)
                activities.restore(attempt, newest.get(number))

    def _is_notice(self, row: MailRow) -> bool:
        """A run that can be loaded as ours was not terminated, whatever lies in its inbox."""
        if row.kind != _TERMINATED:
            return False
        self._engine.forget_mail(row.position, row.execution_id)
        return True

    def _arm(self, run: OwnedRun, started: RunStarted | None, started_us: int) -> None:
        keeper = self._keeper
        for timer_id, due_us in sorted(run.timers.items(), key=lambda item: (item[1], item[0])):
            keeper.timers.arm(run, timer_id, due_us)
        if started is not None:
            keeper.timers.watch_timeouts(run, started, started_us)

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
        row: RunRow | None = None
        try:
            row = await store.latest(target)
            loaded = await store.load(row.shard, row.run_id) if row is not None else None
        except UndecodablePayload as fault:
            self._block_successor(placeholder, row, fault)
            return
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
            if keeper.versions.may_drive(run):
                keeper.pump(run)
            else:  # It begins anew, with a newer version.
                keeper.leaving.release(run, 0)

    def _block_successor(
        self, placeholder: OwnedRun, row: RunRow | None, fault: UndecodablePayload
    ) -> None:
        keeper = self._keeper
        if placeholder.dropped:
            return
        keeper.forget(placeholder)
        keeper.reject(placeholder)
        if row is not None and row.owner == keeper.worker_id:
            run = self._fresh(row)
            run.next_seq = row.next_seq
            keeper.leaving.block(run, fault)

    # --------------------------------------------------------------------------------- again

    def reload(self, run: OwnedRun) -> None:
        """Discard the code, and bring new code to where the store says the run stands."""
        if run.dropped:
            return
        self._keeper.discard_code(run)
        run.loading = True
        if self._keeper.stopping:
            self._keeper.leaving.release_unloaded(run)
            return
        self._spawn(self._reload(run, run.generation))

    def reload_later(self, run: OwnedRun) -> None:
        """The store takes nothing now; until it does, the run stays here without its code."""
        run.loading = True
        again_us = self._engine.clock.now_us() + _AGAIN_US
        self._keeper.deadlines.add(again_us, self.reload, run, matters=_is_here)

    async def _reload(self, run: OwnedRun, generation: int) -> None:
        try:
            loaded = await self._engine.store.load(run.shard, run.run_id)
        except UndecodablePayload as fault:
            # Trying again would find the same.
            if not run.dropped and run.generation == generation:
                run.loading = False
                self._keeper.leaving.block(run, fault)
            return
        except EverlongError as error:
            logger.warning("%s: cannot be loaded now: %s", run.workflow_id, error)
            self.reload_later(run)
            return
        if run.dropped or run.generation != generation:
            return
        keeper = self._keeper
        if loaded is None or not self.is_ours(run, loaded.row):
            keeper.forget(run)
            keeper.reject(run)
            return
        run.code = keeper.new_code(run.type, run.run_id)
        run.loading = False
        if not self._load(run, loaded):
            return
        keeper.pump(run)
        if run.on_trial and self._rests(run):
            self.end_trial(run)

    def _rests(self, run: OwnedRun) -> bool:
        """Nothing is going on, nor about to: a lost attempt is tried again at once."""
        if not run.is_idle:
            return False
        wake_us = run.wake_us()
        return wake_us is None or wake_us > self._engine.clock.now_us()

    def is_ours(self, run: OwnedRun, row: RunRow) -> bool:
        """Whether a row bears this worker's lease: that of a successor has not been seen yet."""
        return (
            row.status in (RunStatus.RUNNING, RunStatus.PAUSED)
            and (row.lease_token == run.token or not run.run_id)
            and row.owner == self._keeper.worker_id
        )

    # ------------------------------------------------------------------------------ probation

    @property
    def suspected(self) -> int:
        """How many suspects are here and not yet driven."""
        return len(self._held) + len(self._to_try)

    def _hold(self, row: RunRow) -> None:
        """Claimed and left alone: should this worker die meanwhile, this run was not the reason."""
        hold = hold_us(row.losses, self._engine.random.random())
        logger.info(
            "%s: at work when workers died, %d times in a row; it is driven in %.1f s, alone",
            row.workflow_id,
            row.losses,
            hold / limits.SECOND_US,
        )
        self._held[row.run_id] = row
        due_us = self._engine.clock.now_us() + hold
        self._keeper.deadlines.add(due_us, self._may_be_tried, row, matters=self._is_held)

    def _forget_suspects(self, execution_id: bytes) -> None:
        """Another run of theirs is here now: they were reset, or claimed anew."""
        for row in list(self._held.values()):
            if row.execution_id == execution_id:
                del self._held[row.run_id]
        self._to_try = deque(row for row in self._to_try if row.execution_id != execution_id)

    def _is_held(self, row: RunRow) -> bool:
        return self._held.get(row.run_id) is row

    def _may_be_tried(self, row: RunRow) -> None:
        del self._held[row.run_id]
        self._to_try.append(row)
        self._next_trial()

    def _next_trial(self) -> None:
        """Drive the next suspect, alone, under a mark that outlives this process."""
        if not self._to_try or self._keeper.stopping:
            return
        if self._engine.on_trial is not None:
            self._ask_again()
            return
        row = self._to_try.popleft()
        run = self._fresh(row)
        run.on_trial = run.loading = True
        self._engine.on_trial = run
        self._mark(run, trial_us(row.losses, row.strikes))

    def _ask_again(self) -> None:
        """The trial that is under way may be another worker's, which does not know of us."""
        if not self._asks:
            self._asks = True
            again_us = self._engine.clock.now_us() + _TURN_US
            self._keeper.deadlines.add(again_us, self._asked_again, matters=lambda: True)

    def _asked_again(self) -> None:
        self._asks = False
        self._next_trial()

    def _mark(self, run: OwnedRun, trial: int) -> None:
        def marked(result: WriteResult | StoreError) -> None:
            if run.dropped:
                return
            now_us = self._engine.clock.now_us()
            if isinstance(result, StoreError):
                again_us = now_us + _AGAIN_US
                matters = _is_to_be_marked
                self._keeper.deadlines.add(again_us, self._mark, run, trial, matters=matters)
                return
            watch = watch_us(trial, self.suspected + 1)
            self._keeper.deadlines.add(now_us + trial, self._outlive, run, matters=_is_on_trial)
            self._keeper.deadlines.add(now_us + watch, self._go_on, run, matters=_is_on_trial)
            self.reload(run)  # What came meanwhile is in the store.

        self._put_mark(run, Probation.ON_TRIAL, marked)

    def _outlive(self, run: OwnedRun) -> None:
        """Its trial is over: from here on it is watched."""
        # Should this not be stored, a death counts as a strike: one of several.
        self._put_mark(run, Probation.OUTLIVED, lambda _: None)

    def end_trial(self, run: OwnedRun) -> None:
        """It came through: what it did is committed, it rests, or it is not here any more."""
        if not run.on_trial:
            return
        if not run.dropped:
            self._put_mark(run, Probation.OVER, lambda _: None)
        self._go_on(run)

    def _go_on(self, run: OwnedRun) -> None:
        """It has been watched for long enough: the next one."""
        run.on_trial = False
        assert self._engine.on_trial is run
        self._engine.on_trial = None
        self._next_trial()

    def _put_mark(
        self,
        run: OwnedRun,
        probation: Probation,
        done: Callable[[WriteResult | StoreError], None],
    ) -> None:
        mark = MarkAttempts(run.shard, run.run_id, run.token, (), probation)
        self._engine.commits.add(mark, done)

    def hand_back(self) -> None:
        """The worker stops: suspects that were not driven are free for the next one."""
        for row in (*self._held.values(), *self._to_try):
            free = Release(
                row.shard, row.run_id, row.execution_id, row.lease_token, row.next_seq, wake_us=0
            )
            self._engine.commits.add(free, lambda _: None)
        self._held.clear()
        self._to_try.clear()

    # -------------------------------------------------------------------------------- private

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


def _require_one_start(run: OwnedRun, mail: list[Incoming]) -> None:
    """Exactly one start, in the history or in the inbox: nothing else would ever begin the code,
    and a second one would begin it twice."""
    starts = sum(isinstance(one.event, RunStarted) for one in mail)
    if starts + (run.code.started is not None) != 1:
        what = "more than one start" if starts else "no start"
        raise WorkflowFault(f"there is {what} of this run in the store; `everlong verify` tells")


def _is_here(run: OwnedRun) -> bool:
    return not run.dropped


def _is_to_be_marked(run: OwnedRun, trial: int) -> bool:
    return not run.dropped


def _is_on_trial(run: OwnedRun) -> bool:
    return run.on_trial and not run.dropped
