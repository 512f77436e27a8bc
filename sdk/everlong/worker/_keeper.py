"""Keeps the runs that a worker owns: feed, append, act.

The life of an input: it lies in a run's mailbox; it is fed, and the decisions that follow are one
append with it; when the append is committed, and only then, its effects begin. Runs may be ahead of
their commits in memory, within a bound. If an append is refused, the code is discarded with
everything behind it, what was not journaled goes back into the mailbox, and the run is loaded anew.

How runs begin is in `_beginning`, how they come here in `_loading`, how they leave in `_leaving`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, Final

from msgspec.structs import replace

from everlong._interception import Hooks
from everlong._records import Records
from everlong._replay import modes
from everlong._replay.run import WorkflowRun
from everlong.exceptions import (
    EverlongError,
    QueryFailed,
    StoreError,
    WorkflowClosed,
    WorkflowFault,
)
from everlong.worker._activities import ActivityRunner
from everlong.worker._answers import PendingAnswer
from everlong.worker._appends import Appends, is_followed
from everlong.worker._approvals import withdraws
from everlong.worker._beginning import RunBeginner
from everlong.worker._cache import RunCache
from everlong.worker._deadlines import Deadlines
from everlong.worker._judging import is_stale, judged
from everlong.worker._leaving import RunReleaser
from everlong.worker._loading import RunLoader
from everlong.worker._owned import OUTCOMES, Incoming, OwnedRun, Step
from everlong.worker._pausing import RunPauser
from everlong.worker._relay import Relay
from everlong.worker._run_timers import RunTimers
from everlong.worker._turns import TurnDesk
from everlong.worker._updates import UpdateDesk
from everlong.worker._versions import Versions, signals_of
from everlong_engine import (
    CLOSING,
    CODES,
    ActivityCancelRequested,
    ActivityScheduled,
    AppendResult,
    ApprovalAnswered,
    Closing,
    Decision,
    Engine,
    ItemPublished,
    MailRow,
    Refusal,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunTerminated,
    RunTimedOut,
    SignalReceived,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateReceived,
    WriteResult,
    id_text,
    limits,
)

__all__ = ["RunKeeper"]

logger = logging.getLogger("everlong")

_AHEAD_MAX: Final = 256
_OVER_SIZE_MAX: Final = 100
_STARTED: Final = CODES[RunStarted]
_TERMINATED: Final = CODES[RunTerminated]
_GETS_LONG: Final = (
    "%s: the history has %d events and every one is replayed after a crash; use checkpoint()"
)
_TAKES_LONG: Final = "%s: a drive took %.1f s of the worker's time; move the work into an activity"
_TOO_LONG: Final = (
    "the history has {events} events, the most there may be. Use checkpoint() in the loop, so that "
    "it begins anew"
)


def _ignored(run: OwnedRun, fault: EverlongError) -> None:
    """What the log tells is enough."""


class RunKeeper:
    """The owned runs of one worker."""

    def __init__(
        self,
        engine: Engine,
        records: Records,
        worker_id: bytes,
        versions: Versions,
        cache_size: int,
        make_runner: Callable[[Deadlines, Callable[[OwnedRun, Incoming], None]], ActivityRunner],
    ) -> None:
        self.engine = engine
        self.records = records
        self.worker_id = worker_id
        self.cache = RunCache(cache_size)
        self.deadlines = Deadlines(engine.clock, engine.alarms)
        self.activities = make_runner(self.deadlines, self.receive)
        self.loading = RunLoader(self)
        self.leaving = RunReleaser(self)
        self.begin = RunBeginner(self).begin
        self.pausing = RunPauser(self)
        self.updates = UpdateDesk(engine, records, self._not_stored)
        self.timers = RunTimers(engine, self.deadlines, self.receive, self._time_out)
        self.modes = modes.current()
        self.hooks: Hooks | None = None
        self.stopping = False
        self.beginning: set[bytes] = set()
        """Executions that begin here without a place in the cache, should their id be free."""
        self.on_room: Callable[[], None] = lambda: None
        """Called when a run has left."""
        self.on_asleep: Callable[[int], None] = lambda _: None
        """Called with the instant at which a run that fell asleep wants to be woken."""
        self.on_blocked: Callable[[OwnedRun, EverlongError], None] = _ignored
        """Called with a run that is being parked, and its fault."""
        self.versions = versions
        self.turns = TurnDesk(self)
        self.appends = Appends(engine, records, worker_id, versions, self.activities.reserve)
        self.relay = Relay(engine, records, worker_id)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def room(self) -> int:
        """How many more runs may be claimed: free places, and those of runs that may sleep."""
        room = -self.cache.excess - self.loading.suspected
        if room <= 0:
            idle = (1 for run in self.cache if run.is_idle)
            room += sum(islice(idle, limits.CLAIM_RUNS_MAX - room))
        if room <= 0:
            # Full of runs that are at work. Others that are due may be what they wait for.
            room = self.cache.size + _OVER_SIZE_MAX - self.cache.excess
        if not self.cache.size and not len(self.cache):
            return 1  # Cache off: one at a time.
        return room

    @property
    def has_pinned(self) -> bool:
        """Whether a run that is here is pinned to a version."""
        return any(run.version is not None for run in self.cache)

    @property
    def may_begin(self) -> bool:
        """Whether a new run may begin here at once; far over the limit it waits in the store."""
        return not self.stopping and self.cache.excess < self.cache.size + _OVER_SIZE_MAX

    def new_code(self, kind: str, run_id: bytes) -> WorkflowRun:
        """A run's code before its first input."""
        definition = self.versions.workflows[kind]
        signals = signals_of(definition)
        code = self.modes.new_run(definition, id_text(run_id), signals, self.hooks)
        code.loop.conceals = self.records.conceals
        return code

    # ----------------------------------------------------------------------------- the mailbox

    def receive(self, run: OwnedRun, one: Incoming) -> None:
        """Put an input into a run's mailbox, and feed it if nothing stands in the way."""
        if run.dropped:
            if one.on_done is not None:
                self.leaving.leave_as_mail(run, one)
            return
        if run.paused:
            self.pausing.keep(run, one)
            return
        run.mailbox.append(one)
        self.pump(run)

    def deliver(self, mail: MailRow) -> bool:
        """Mail that another process left; False when the run is not here."""
        run = self.cache.get(mail.execution_id)
        if run is None or run.dropped:
            self.loading.keep_stray(mail)
            return False
        if mail.kind == _TERMINATED:
            if run.loading:
                run.late_mail.append(mail)
                return True
            self.engine.forget_mail(mail.position, mail.execution_id)
            self._look(run)
            return True
        if run.paused:
            return True  # It lies there until the run goes on, and is loaded for that.
        if run.releasing:
            return False  # If the release is refused, loading brings it; else a claim does.
        if run.loading:
            run.late_mail.append(mail)  # The load that is under way may not see it.
            return True
        if mail.position in run.positions or mail.kind == _STARTED:
            # What begins a run comes with its claim. A look that was quicker than the commit of its
            # first drive still sees it, and tells of it when it is fed and gone.
            return True
        try:
            one = Incoming(self.records.input(run, mail, {}), mail.position)
        except EverlongError:
            # It spilled, or is damaged: loading decides, with everything at hand.
            run.when_settled(partial(self.loading.reload, run))
            return True
        run.positions.add(mail.position)
        self.receive(run, one)
        return True

    def pump(self, run: OwnedRun) -> None:
        """Feed the mailbox, one input after the other, and send each drive to be committed."""
        if run.pumping:
            return
        run.pumping = True
        try:
            # Once it is as far ahead as it may be, `settle` comes back here.
            while (run.mailbox or run.held_back) and run.may_be_fed():
                if len(run.inflight) >= _AHEAD_MAX or (one := run.next_input()) is None:
                    break
                self._feed(run, one)
        finally:
            run.pumping = False
        self.cache.used(run)
        if self.cache.excess > 0:
            self.leaving.evict()

    def _feed(self, run: OwnedRun, one: Incoming) -> None:
        event = one.event
        if is_stale(run.code, event):
            if type(event) is ApprovalAnswered and run.inflight:
                return  # Accepted: what withdraws it is refused, and the run is driven again.
            if one.position is not None:
                # Left in the inbox, it would keep the run from ever closing.
                run.positions.discard(one.position)
                self.engine.forget_mail(one.position, run.execution_id)
            return
        code = run.code
        if code.history_events >= limits.HISTORY_EVENTS_WARNING and not run.warned_of_size:
            run.warned_of_size = True
            logger.warning(_GETS_LONG, run.workflow_id, code.history_events)
        if (
            code.history_events >= limits.HISTORY_EVENTS_MAX
            or code.history_bytes >= limits.HISTORY_BYTES_MAX
        ):
            run.mailbox.appendleft(one)
            text = _TOO_LONG.format(events=code.history_events)
            self.leaving.block(run, WorkflowFault(text))
            return
        event = judged(code, event)
        if event is not one.event:
            one.came, one.event = one.event, event
        if type(event) is UpdateReceived and self.updates.refuses(run, one, event):
            return
        at_us = max(run.last_us, self.engine.clock.now_us())
        began = monotonic()
        try:
            decisions = code.feed(event, at_us)
        except WorkflowFault as fault:
            run.mailbox.appendleft(one)
            self.leaving.block(run, fault)
            return
        pin = None
        took = monotonic() - began
        if took > limits.DRIVE_REPORT_S:
            logger.warning(_TAKES_LONG, run.workflow_id, took)
        if type(event) is RunStarted:
            self.timers.watch_timeouts(run, event, at_us)
            pin = None if run.version else self.versions.pin(run.type)
            if pin is not None:
                run.version = pin  # What begins with this drive goes with it.
        elif type(event) is TimerFired:
            run.timers.pop(event.timer_id, None)
        elif isinstance(event, OUTCOMES):
            run.suspects.discard(event.activity_id)
            if one.position is not None:
                self.activities.answered(run, event.activity_id)
        step = Step(one, decisions, run.generation)
        append = self.appends.of_step(run, step, at_us)
        if pin is not None:
            append.pin = pin
        step.told = append.answers
        run.inflight.append(step)
        self.engine.commits.add(append, partial(self.settle, run, step))
        self.activities.look_ahead(run, step)

    # ------------------------------------------------------------------------ behind the commit

    def settle(self, run: OwnedRun, step: Step, result: WriteResult | StoreError) -> None:
        """An append is committed, or refused."""
        if run.dropped:
            self._tell(run, step.incoming, result)
            return
        if step.generation != run.generation:
            return  # Discarded meanwhile: its input has gone back to the mailbox.
        if isinstance(result, StoreError):
            self._not_stored(run, result)
            return
        assert isinstance(result, AppendResult)
        if result.refusal is not None:
            logger.debug("%s: %s; driving again", run.workflow_id, result.refusal.value)
            run.answers_first |= result.refusal is Refusal.MAIL and withdraws(step)
            undone = step.incoming.attempt if result.failure is not None else None
            if undone is not None:  # It has not succeeded after all: it does not come again.
                self._void(run.inflight.popleft())
            self.loading.reload(run)
            if undone is not None and result.failure is not None and not run.dropped:
                self.activities.undone(undone, result.failure)
            return
        if result.delivered:
            self.engine.mail_arrived()
        run.inflight.popleft()
        one = step.incoming
        if one.position is not None:
            run.positions.discard(one.position)
        if one.on_done is not None:
            one.on_done(None)
        if one.when_stored is not None:
            one.when_stored()
        for answer in step.answers:
            answer.give()
        for name, told in step.told:
            self.engine.answered(run.execution_id, name, told)
        if step.ends_tasks:
            self.engine.tasks_changed()
        if step.leaves_letters:
            self.engine.letters_stored()
        pumping, run.pumping = run.pumping, True  # What ends at once is fed behind all of them.
        for seq, decision in enumerate(step.decisions, step.base + 1):
            self._act(run, decision, seq)
        run.pumping = pumping
        if run.afterwards is not None and not run.inflight and not run.dropped:
            then, run.afterwards = run.afterwards, None
            then()
            return
        if run.on_trial and not run.suspects:
            self.loading.end_trial(run)
        if run.mailbox and not run.dropped:
            self.pump(run)
        elif self.cache.excess > 0:
            self.leaving.evict()

    def _act(self, run: OwnedRun, decision: Decision, seq: int) -> None:
        """The effect of a committed decision."""
        match decision:
            case ActivityScheduled():
                definition = run.code.activity_definition(decision.activity_id)
                if definition is not None and not run.code.is_cancelling(decision.activity_id):
                    self.activities.dispatch(run, decision, definition, run.last_us, seq)
                elif decision.began:
                    # Cancelled by a drive that is in flight behind this one.
                    self.activities.give_back()
            case TimerStarted():
                if run.code.is_pending(decision.timer_id):
                    run.timers[decision.timer_id] = decision.due_us
                    self.timers.arm(run, decision.timer_id, decision.due_us)
            case ActivityCancelRequested():
                self.activities.cancel(run, decision.activity_id)
            case TimerCancelled():
                run.timers.pop(decision.timer_id, None)
            case ItemPublished():
                self.engine.published(run.execution_id)
            case _ if type(decision) in CLOSING:
                self._closed(run, decision)  # type: ignore[arg-type]
            case _:
                pass  # No effect outside, or one that was part of the commit.

    def _closed(self, run: OwnedRun, event: Closing) -> None:
        leftovers = list(run.mailbox)
        run.mailbox.clear()
        if is_followed(event):
            self.forget(run)
            self.loading.follow(run, leftovers)
            return
        self.engine.closed(run.execution_id, run.run_id, event)
        self.forget(run)
        self.turns.ended(run)
        for one in leftovers:
            if one.on_done is not None:
                one.on_done(WorkflowClosed(workflow_id=run.workflow_id))
        self.on_room()

    def _not_stored(self, run: OwnedRun, error: StoreError) -> None:
        """Nothing is acknowledged: whoever sent something directly is told; the rest waits here."""
        logger.warning("%s: an append was not stored: %s", run.workflow_id, error)
        self.discard_code(run)
        kept: deque[Incoming] = deque()
        for one in run.mailbox:
            if one.on_done is not None:
                one.on_done(error)
            else:
                kept.append(one)
        run.mailbox = kept
        if self.engine.commits.failed is None:
            self.loading.reload_later(run)

    def discard_code(self, run: OwnedRun) -> None:
        """Drop the code with everything in flight; inputs go back to the head of the mailbox."""
        for step in run.inflight:
            self._void(step)
        run.mailbox.extendleft(step.incoming.taken_back() for step in reversed(run.inflight))
        if run.inflight:
            first = run.inflight[0].base
            kept = (one for one in run.mailbox if one.scheduled_at < first)
            run.mailbox = deque(kept)
        run.inflight.clear()
        run.held_back.clear()  # Loading brings them again.
        run.generation += 1
        run.closing = False
        run.afterwards = None
        run.code.discard()

    def _void(self, step: Step) -> None:
        for decision in step.decisions:
            if type(decision) is ActivityScheduled and decision.began:
                self.activities.give_back()
        for answer in step.answers:
            answer.withdraw()

    def forget(self, run: OwnedRun) -> None:
        """Let go of a run here; the store knows already."""
        run.dropped = True
        self.cache.drop(run)
        for step in run.inflight:
            self._void(step)
        run.inflight.clear()
        self.activities.drop(run)
        run.code.discard()
        self.loading.end_trial(run)
        self.engine.departed(run.execution_id)
        if run.departed is not None and not run.departed.done():
            run.departed.set_result(None)

    def _tell(self, run: OwnedRun, one: Incoming, result: WriteResult | StoreError) -> None:
        """The run is gone from here, but whoever sent something is owed the truth about it."""
        if one.on_done is None:
            return
        if isinstance(result, StoreError):
            one.on_done(result)
        elif isinstance(result, AppendResult) and result.refusal is not None:
            self.leaving.leave_as_mail(run, one)
        else:
            one.on_done(None)

    def reject(self, run: OwnedRun) -> None:
        """Nobody here will take what was sent directly: the store keeps it, or says that the
        workflow is closed."""
        for one in run.mailbox:
            if one.on_done is not None:
                self.leaving.leave_as_mail(run, one)
        run.mailbox.clear()

    def terminated(self, execution_id: bytes, run_id: bytes) -> None:
        """Closed from outside: the token has moved on, nothing of the run may go on. One that has
        its place by now, after a reset, goes on."""
        run = self.cache.get(execution_id)
        if run is not None and run.run_id in (run_id, b""):  # A successor has no name yet.
            self.forget(run)
            self.reject(run)
            self.on_room()
        self.turns.ended(run)

    def look_at(self, execution_id: bytes) -> None:
        """Its row was changed from outside: what is so stands there."""
        run = self.cache.get(execution_id)
        if run is not None:
            self._look(run)

    def _look(self, run: OwnedRun) -> None:
        """A notice is a hint: what is so stands in the run's row. What is in flight is told first,
        for what it begins must not look lost."""
        busy = run.dropped or run.loading or run.releasing or run.tentative
        if not busy and run.afterwards is None:
            run.when_settled(partial(self.loading.reload, run))

    def _time_out(self, run: OwnedRun, which: str) -> None:
        """The run's own deadline: closed at once, like a termination."""
        self.end(run, RunTimedOut(which))

    def end_unbegun(self, run: OwnedRun, event: RunCancelled | RunFailed) -> None:
        """It is to begin later, and ends before: none of its code ever runs."""
        run.late_mail = []  # If there is any, this is refused, and the run is loaded with it.
        signals = (one.event for one in run.mailbox if isinstance(one.event, SignalReceived))
        self.end(run, replace(event, unread=tuple(one.signal for one in signals)))

    def end(self, run: OwnedRun, event: RunTimedOut | RunCancelled | RunFailed) -> None:
        """Close it by what the code did not decide."""
        run.code.discard()
        at_us = max(run.last_us, self.engine.clock.now_us())
        append = self.appends.of_end(run, event, at_us)
        # Its input stands for nothing: after a refusal the run is loaded, and times out again.
        step = Step(Incoming(TimerFired(0)), [event], run.generation)
        run.inflight.append(step)
        self.engine.commits.add(append, partial(self.settle, run, step))

    # ----------------------------------------------------------------------------- the end, queries

    async def release_all(self) -> None:
        """Hand everything back: the worker stops."""
        self.stopping = True
        self.loading.stop()
        await self.leaving.release_all()
        await self.relay.stop()
        self.deadlines.stop()
        for task in self._tasks:
            task.cancel()

    def abandon(self) -> None:
        """The store failed: drop everything, acknowledge nothing."""
        self.stopping = True
        self.relay.abandon()
        self.loading.stop()
        for run in list(self.cache):
            self.forget(run)
            self.reject(run)
        self.deadlines.stop()

    def query(self, run: OwnedRun, name: str, arguments: bytes) -> "asyncio.Future[bytes]":
        """Answer now, from the state as it stands; hand out the answer behind its commit.

        The future fails with QueryFailed, or with Superseded when that state was discarded.
        """
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        try:
            answer = PendingAnswer(future, run.code.answer(name, arguments))
        except QueryFailed as error:
            future.set_exception(error)
            return future
        if run.inflight:
            run.inflight[-1].answers.append(answer)
        else:
            answer.give()
        return future

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the keeper's, cancelled when it stops."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
