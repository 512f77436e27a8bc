"""Runs attempts of activities: slots, marks, time limits, cancellation.

An attempt begins only behind a commit that says so: the one that scheduled its activity, if a slot
was free then, or else one with a started mark. A failed attempt is written down with the time of
the next one; the outcome that counts goes into the run's mailbox and is recorded once.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from everlong._definitions import QUEUE, ActivityDefinition
from everlong._failures import encode_exception
from everlong._records import Records
from everlong.exceptions import StatementFailed, StoreError
from everlong.transactions import Effect
from everlong.worker._attempt_rules import (
    always_matters,
    end_of,
    handed_back,
    limit_matters,
    retry_matters,
)
from everlong.worker._attempts import Raised
from everlong.worker._bench import Bench
from everlong.worker._deadlines import Deadlines
from everlong.worker._elsewhere import Elsewhere
from everlong.worker._intercepting import Around
from everlong.worker._outcomes import OutcomeJudge
from everlong.worker._owned import Incoming, OpenAttempt, OwnedRun, Step
from everlong.worker._queues import QueueDesk
from everlong_engine import (
    ActivityCancelled,
    ActivityCompleted,
    ActivityOptions,
    ActivityScheduled,
    ActivityTimedOut,
    AppendResult,
    AttemptRow,
    AttemptState,
    Engine,
    Failure,
    Halt,
    Input,
    MarkAttempts,
    NewTask,
    WriteResult,
    may_repeat_lost,
)

__all__ = ["ActivityRunner"]

_DETAILS_EVERY_US: Final = 1_000_000
_MARK_AGAIN_US: Final = 500_000
_LOOK_AGAIN_US: Final = 10_000


def _is_here(queue: str) -> bool:
    """Whether what goes there is for whoever has the run, and stands in no queue."""
    return queue in ("", QUEUE)


class ActivityRunner:
    """The activities of one worker."""

    def __init__(
        self,
        engine: Engine,
        records: Records,
        worker_name: str,
        deadlines: Deadlines,
        deliver: Callable[[OwnedRun, Incoming], None],
        bench: Bench,
        may_help: Callable[[], bool],
        *,
        around: Around | None = None,
    ) -> None:
        self._engine = engine
        self._records = records
        self._worker = worker_name
        self.deadlines = deadlines
        self._deliver = deliver
        self.bench = bench
        self.around = around
        self.outcomes = OutcomeJudge(self, engine, records)
        self.elsewhere = Elsewhere(engine, records, deadlines, self.outcomes.time_out_elsewhere)
        self.queues = QueueDesk(self, engine, records, may_help)
        self.on_rest: Callable[[OwnedRun], None] = lambda _: None
        """Called when an attempt of a paused run has ended, or one could not begin."""
        self.on_read: Callable[[OwnedRun], None] = lambda _: None
        """Called when an attempt that only waits is about to begin."""

    def reserve(self, options: ActivityOptions) -> bool:
        """Take a slot for an activity that is about to be scheduled, if it can begin here."""
        return _is_here(options.queue) and self.bench.reserve()

    def give_back(self) -> None:
        self.bench.give_back()

    # ------------------------------------------------------------------------------- life

    def dispatch(
        self,
        run: OwnedRun,
        scheduled: ActivityScheduled,
        definition: ActivityDefinition,
        at_us: int,
        seq: int,
    ) -> None:
        """An activity is committed: begin its first attempt, or let it wait for a slot."""
        attempt = OpenAttempt(run, scheduled, definition, at_us, seq)
        run.attempts[scheduled.activity_id] = attempt
        self._watch_limits(attempt)
        if scheduled.began:
            attempt.has_slot = True
            attempt.started_us = at_us
            self._begin(attempt)
        else:
            self.queue(attempt)

    def look_ahead(self, run: OwnedRun, step: Step) -> None:
        """Activities that only wait, and whose result is there already: their outcomes are fed at
        once, and mostly committed with what schedules them. Their slots are given back then."""
        if run.on_offer:
            return  # Its next read begins, so that it goes to another worker there.
        for seq, decision in enumerate(step.decisions, step.base + 1):
            if type(decision) is not ActivityScheduled or not decision.began:
                continue
            definition = run.code.activity_definition(decision.activity_id)
            if definition is None or definition.at_once is None or self.around is not None:
                continue
            found = definition.at_once(self.bench.pools.shelf, run.execution_id, decision.arguments)
            if found is not None:
                run.reads = True
                result, when_stored = found
                completed = ActivityCompleted(decision.activity_id, result)
                one = Incoming(completed, when_stored=when_stored, scheduled_at=seq)
                run.mailbox.append(one)

    def restore(self, attempt: OpenAttempt, newest: AttemptRow | None) -> None:
        """An open activity of a run that was taken over or woken."""
        run = attempt.run
        run.attempts[attempt.scheduled.activity_id] = attempt
        self._watch_limits(attempt)
        if newest is None and not attempt.scheduled.began:
            if attempt.cancel_asked:
                self.outcomes.ended(attempt, "not_begun")
            else:
                self.queue(attempt)
            return
        attempt.attempt = 1 if newest is None else newest.attempt
        if newest is not None and newest.state.is_in_queue:
            self.queues.restore(attempt, newest)
            return
        if newest is not None and newest.state is AttemptState.ELSEWHERE:
            attempt.started_us = newest.started_us
            attempt.previous_details = newest.details
            self.elsewhere.watch(attempt, newest.ended_us or newest.started_us)
            return
        if attempt.cancel_asked:
            if newest is not None and newest.state is not AttemptState.NOT_BEGUN:
                attempt.retry_us = newest.retry_us or 0
            self.outcomes.ended(attempt, end_of(newest))
            return
        attempt.previous_details = None if newest is None else newest.details
        if newest is not None and newest.state is AttemptState.NOT_BEGUN:
            self.queue(attempt)
            return
        if newest is not None and newest.state is not AttemptState.STARTED:
            self.outcomes.after_row(attempt, newest.retry_us, newest.error)
        elif may_repeat_lost(attempt.scheduled.options, attempt.number_in_set):
            self.outcomes.after_row(attempt, 0)
        else:
            self.outcomes.after_row(attempt, None)

    def retry_at(self, due_us: int, attempt: OpenAttempt) -> None:
        number = attempt.attempt
        self.deadlines.add(due_us, self._retry, attempt, number, matters=retry_matters)

    def _retry(self, attempt: OpenAttempt, _behind: int) -> None:
        """Back-off is over."""
        if self.bench.stopping:
            return
        attempt.retry_us = None
        attempt.attempt += 1
        self.queue(attempt)

    def queue(self, attempt: OpenAttempt) -> None:
        """Its next attempt is due: here, as soon as a slot is free, or wherever its queue leads."""
        if not _is_here(attempt.scheduled.options.queue):
            self.queues.put(attempt)
        elif self.bench.reserve():
            attempt.has_slot = True
            self._mark_started(attempt)
        else:
            attempt.in_line = True
            self.bench.stand_in_line(lambda: self._take_slot(attempt))
            self.queues.stand_by(attempt)

    def _take_slot(self, attempt: OpenAttempt) -> bool:
        if attempt.abandoned or attempt.run.dropped or not attempt.in_line:
            return False
        attempt.in_line, attempt.has_slot = False, True
        self._mark_started(attempt)
        return True

    def _mark_started(self, attempt: OpenAttempt) -> None:
        """Durable before it begins: after a crash it counts as an attempt that may have run."""
        attempt.started_us = self._engine.clock.now_us()
        row = self.row(attempt, AttemptState.STARTED)
        self.mark(attempt, row, lambda: self._begin(attempt), begins=True)

    def mark(
        self,
        attempt: OpenAttempt,
        row: AttemptRow,
        then: Callable[[], None] | None,
        *,
        begins: bool = False,
        halt: Halt | None = None,
        tasks: tuple[NewTask, ...] = (),
    ) -> None:
        run = attempt.run

        def settled(result: WriteResult | StoreError) -> None:
            if isinstance(result, StoreError):
                # Full, for example. The run is not hurt: try again until it is taken from us.
                if not (run.dropped or attempt.abandoned or self._engine.commits.failed):
                    again_us = self._engine.clock.now_us() + _MARK_AGAIN_US
                    again = partial(
                        self.mark, attempt, row, then, begins=begins, halt=halt, tasks=tasks
                    )
                    self.deadlines.add(again_us, again, matters=always_matters)
                elif then is not None:
                    self._free_slot(attempt)
                return
            assert isinstance(result, AppendResult)
            if then is None:
                return
            if result.refusal is not None:
                self._free_slot(attempt)
                self.look_again(attempt)
            else:
                self._go_on(attempt, then, begins=begins)

        mark = MarkAttempts(
            run.shard, run.run_id, run.token, (row,), begins=begins, halt=halt, tasks=tasks
        )
        self._engine.commits.add(mark, settled)

    def look_again(self, attempt: OpenAttempt) -> None:
        """What becomes of it stands in the store: its run is paused, or was and goes on again."""
        run = attempt.run
        if run.loading:  # What is being read may be older.
            again_us = self._engine.clock.now_us() + _LOOK_AGAIN_US
            self.deadlines.add(again_us, self.look_again, attempt, matters=always_matters)
        elif not (run.dropped or attempt.abandoned):
            attempt.abandoned = True
            run.attempts.pop(attempt.scheduled.activity_id, None)
            self.on_rest(run)

    def _go_on(self, attempt: OpenAttempt, then: Callable[[], None], *, begins: bool) -> None:
        """Behind a mark: unless nobody wants the attempt any more."""
        run, number = attempt.run, attempt.scheduled.activity_id
        if run.dropped or attempt.abandoned:
            self._free_slot(attempt)
            if attempt.queued and not (run.dropped or run.releasing):
                self.queues.withdraw(attempt, lambda: None)  # Cancelled meanwhile.
        elif (
            run.loading
            or not run.code.is_open(number)
            or (begins and run.code.is_cancelling(number))
        ):
            # An append whose answer was lost may have closed it: loading finds that out. One that
            # is on its way does, or asks for its end: its commit takes the attempt back.
            again_us = self._engine.clock.now_us() + _LOOK_AGAIN_US
            again = partial(self._go_on, attempt, then, begins=begins)
            self.deadlines.add(again_us, again, matters=always_matters)
        else:
            then()

    def row(self, attempt: OpenAttempt, state: AttemptState, **more: Any) -> AttemptRow:
        row = AttemptRow(
            activity_id=attempt.scheduled.activity_id,
            attempt=attempt.attempt,
            state=state,
            started_us=attempt.started_us,
            worker=self._worker,
            **more,
        )
        return self._records.attempt(attempt.run, row)

    # ---------------------------------------------------------------------------- one attempt

    def _begin(self, attempt: OpenAttempt) -> None:
        if self.bench.handing_back:
            return  # It goes with its run; `hand_back` writes it down.
        if attempt.run.paused:
            self._leave_unbegun(attempt)
            return
        if attempt.definition.waits:
            attempt.run.reads = True
            # It is heard before the attempt has done its first step.
            asyncio.get_running_loop().call_soon(self.on_read, attempt.run)
        self.bench.begin(attempt, self)

    def _leave_unbegun(self, attempt: OpenAttempt) -> None:
        """What is committed says that it may have begun; here one knows better."""
        row = self.row(attempt, AttemptState.NOT_BEGUN, details=attempt.previous_details)
        self.mark(attempt, row, None)
        self._free_slot(attempt)
        self.on_rest(attempt.run)

    def has_ended(self, attempt: OpenAttempt, outcome: Any) -> None:
        """Part of the bench's protocol."""
        attempt.has_slot = False
        if not (attempt.abandoned or attempt.run.dropped):
            self.outcomes.judge(attempt, outcome)
            if attempt.run.paused:
                self.on_rest(attempt.run)

    def finish(
        self, attempt: OpenAttempt, outcome: Input, effects: tuple[Effect, ...] = ()
    ) -> None:
        attempt.abandoned = True
        run = attempt.run
        run.attempts.pop(attempt.scheduled.activity_id, None)
        one = Incoming(outcome)
        if type(outcome) is ActivityCompleted:
            one.when_stored = attempt.when_stored
            one.effects, one.entities = effects, attempt.entities
            one.attempt = attempt if one.is_tied else None
        self._deliver(run, one)

    def undone(self, attempt: OpenAttempt, failure: Failure) -> None:
        """It had succeeded, but what was to be stored with that was refused: it has failed."""
        attempt.abandoned = False
        attempt.run.attempts[attempt.scheduled.activity_id] = attempt
        error = StatementFailed(failure.message)
        raised = encode_exception(error, attempt.definition.exceptions)
        self.outcomes.judge(attempt, Raised(replace(raised, retryable=failure.retryable)))

    def not_stored(self, run: OwnedRun) -> tuple[AttemptRow, ...]:
        """Rows for those that succeeded and whose effects go no further with this worker:
        nothing of them is stored, so they have not begun."""
        return tuple(
            self.row(one.attempt, AttemptState.NOT_BEGUN, details=one.attempt.previous_details)
            for one in run.mailbox
            if one.attempt is not None
        )

    # ------------------------------------------------------------------------------- ends

    def cancel(self, run: OwnedRun, activity_id: int) -> None:
        """The code does not want it any more. It reaches an async activity at once."""
        attempt = run.attempts.get(activity_id)
        if run.code.is_cancelling(activity_id):
            if attempt is not None:
                self._ask_to_end(attempt)
            else:  # It was never dispatched; or how it ended is ahead of this in the mailbox.
                self._deliver(run, Incoming(ActivityCancelled(activity_id, "not_begun", 0)))
        elif attempt is not None:
            del run.attempts[activity_id]
            if attempt.scheduled.options.on_cancel == "abandon" and attempt.is_at_work:
                attempt.abandoned = attempt.left_alone = True
            else:
                self._abandon(attempt)

    def _ask_to_end(self, attempt: OpenAttempt) -> None:
        if attempt.cancel_asked:
            return
        attempt.cancel_asked = True
        if attempt.queued:
            self.queues.withdraw(attempt, partial(self.outcomes.ended, attempt, "not_begun"))
            return
        if attempt.elsewhere:
            return  # Whoever has its token is told by its next heartbeat.
        if attempt.interrupt is None or attempt.task is None:
            # It waits for a slot, for its mark, or for its next attempt.
            self.outcomes.ended(attempt, "not_begun")
        else:
            attempt.interrupt()

    def answered(self, run: OwnedRun, activity_id: int) -> None:
        """Its outcome came from elsewhere: what is at work for it here is in vain."""
        attempt = run.attempts.pop(activity_id, None)
        if attempt is not None:
            self._abandon(attempt)

    def hold(self, run: OwnedRun) -> None:
        """Its run is paused: what is not at work here does not begin. It is taken up again from
        what is written down of it."""
        for number, attempt in list(run.attempts.items()):
            if not (attempt.is_at_work or attempt.has_slot):
                attempt.abandoned = True
                del run.attempts[number]

    def drop(self, run: OwnedRun) -> None:
        """The run is gone: nothing of it may go on."""
        for attempt in list(run.attempts.values()):
            self._abandon(attempt)
        run.attempts.clear()

    def _abandon(self, attempt: OpenAttempt) -> None:
        attempt.abandoned = True
        if attempt.task is not None:
            attempt.task.cancel()

    def _free_slot(self, attempt: OpenAttempt) -> None:
        if attempt.has_slot:
            attempt.has_slot = False
            self.give_back()

    def hand_back(self, run: OwnedRun) -> tuple[AttemptRow, ...]:
        """Stop what is at work for a run that leaves this worker; rows that say so."""
        now_us = self._engine.clock.now_us()
        rows: list[AttemptRow] = []
        for attempt in run.attempts.values():
            left = handed_back(attempt, now_us)
            if left is not None:
                rows.append(self.row(attempt, left[0], **left[1]))
        self.drop(run)
        return tuple(rows)

    def close(self) -> None:
        """What still runs was handed back."""
        self.elsewhere.stop()
        self.bench.close()

    # ----------------------------------------------------------------------------- private

    def _watch_limits(self, attempt: OpenAttempt) -> None:
        options = attempt.scheduled.options
        if options.schedule_to_close_us is not None:
            due_us = attempt.scheduled_us + options.schedule_to_close_us
            self.deadlines.add(due_us, self._too_late, attempt, "", matters=limit_matters)
        if options.schedule_to_start_us is not None and attempt.attempt == 1:
            due_us = attempt.scheduled_us + options.schedule_to_start_us
            self.deadlines.add(due_us, self._too_late, attempt, "start", matters=limit_matters)

    def _too_late(self, attempt: OpenAttempt, start: str) -> None:
        activity_id, number = attempt.scheduled.activity_id, attempt.attempt
        if start and attempt.queued:
            self.queues.withdraw(attempt, partial(self._too_late_to_start, attempt), 1)
            return
        which = "schedule_to_start" if start else "schedule_to_close"
        task = attempt.task
        self.finish(attempt, ActivityTimedOut(activity_id, which, 0 if start else number))
        if task is not None:
            task.cancel()

    def _too_late_to_start(self, attempt: OpenAttempt) -> None:
        late = ActivityTimedOut(attempt.scheduled.activity_id, "schedule_to_start", 0)
        self.finish(attempt, late)

    def store_details(self, attempt: OpenAttempt) -> None:
        """Heartbeat details, about once a second: they help the next attempt after a crash."""
        now_us = self._engine.clock.now_us()
        if attempt.task is None or now_us - attempt.details_stored_us < _DETAILS_EVERY_US:
            return
        attempt.details_stored_us = now_us
        row = self.row(attempt, AttemptState.STARTED, details=attempt.details)
        self.mark(attempt, row, None)
