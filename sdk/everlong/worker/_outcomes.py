"""What comes of an attempt that has ended: the next one, or an outcome for the code.

A failed attempt is written down with the time of the next; the outcome that counts goes into the
run's mailbox. Nothing here begins anything.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from everlong._records import Records
from everlong.worker._attempts import Died, Later, Raised, Succeeded
from everlong.worker._owned import OpenAttempt
from everlong_engine import (
    ActivityCancelled,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityTimedOut,
    AttemptRow,
    AttemptState,
    Engine,
    Failure,
    Halt,
    Input,
    may_repeat_lost,
    next_delay_us,
    retry_failed,
)

if TYPE_CHECKING:
    from everlong.worker._activities import ActivityRunner

__all__ = ["OutcomeJudge"]

logger = logging.getLogger("everlong")

ENGINE: Final = "everlong"
"""Who pauses what has failed for good."""
_REASON_CHARS_MAX: Final = 2_000


class OutcomeJudge:
    """The outcomes of one runner."""

    def __init__(self, runner: "ActivityRunner", engine: Engine, records: Records) -> None:
        self._runner = runner
        self._engine = engine
        self._records = records

    def after_row(
        self, attempt: OpenAttempt, retry_us: int | None, error: str = "its worker has gone"
    ) -> None:
        """What is written down of its last attempt says when the next one is due, if ever."""
        if retry_us is None:
            lost = ActivityLost(attempt.scheduled.activity_id, attempt.attempt)
            self._give_up(attempt, lost, Failure(type="lost", message=error))
            return
        attempt.retry_us = retry_us
        self._runner.retry_at(retry_us, attempt)

    def _give_up(self, attempt: OpenAttempt, outcome: Input, failure: Failure) -> None:
        """It was the last attempt of its set: the code is told, or else somebody who can help."""
        if attempt.scheduled.options.on_exhausted == "pause":
            self._halt(attempt, failure)
        else:
            self._runner.finish(attempt, outcome)

    def _halt(self, attempt: OpenAttempt, failure: Failure) -> None:
        """Pause its execution. It stands in the store then: what becomes of the attempt is found
        there when the run is looked at, or loaded, whoever has resumed it until then."""
        run, now_us = attempt.run, self._engine.clock.now_us()
        times = "once" if attempt.attempt == 1 else f"{attempt.attempt} times"
        reason = (
            f"activity {attempt.definition.name} was tried {times}, and then failed for good: "
            f"{failure.type}: {failure.message}"
        )[:_REASON_CHARS_MAX]
        stored = self._records.pause_reason(run.namespace, run.execution_id, reason)
        logger.warning(
            "%s is paused: activity %s was tried %s, and then failed for good (%s)",
            run.workflow_id,
            attempt.definition.name,
            times,
            failure.type,
        )
        row = self._ended_row(attempt, AttemptState.EXHAUSTED, failure, now_us, now_us)
        again = partial(self._runner.look_again, attempt)
        self._runner.mark(attempt, row, again, halt=Halt(now_us, ENGINE, stored))

    def judge(self, attempt: OpenAttempt, outcome: Any) -> None:
        activity_id = attempt.scheduled.activity_id
        if isinstance(outcome, Later):
            self._hand_over(attempt)
            return
        if attempt.cancel_asked:
            self._judge_end(attempt, outcome)
            return
        match outcome:
            case Succeeded():
                completed = ActivityCompleted(activity_id, outcome.result)
                self._runner.finish(attempt, completed, outcome.effects)
            case Raised():
                self._failed(attempt, outcome.failure)
            case Died():
                self._lost(attempt, outcome.text)
            case _:
                self._judge_timeout(attempt)

    def _judge_end(self, attempt: OpenAttempt, outcome: Any) -> None:
        """Somebody waits for its end, whatever came of it; there is no further attempt."""
        match outcome:
            case Succeeded():
                self.ended(attempt, "completed")
            case Raised():
                # The event does not bear the failure, so it is written down first.
                failed = partial(self.ended, attempt, "failed")
                self._write_down(attempt, AttemptState.FAILED, outcome.failure, None, then=failed)
            case Died():
                self.ended(attempt, "lost")
            case _:
                self.ended(attempt, "stopped" if attempt.timed_out is None else "timed_out")

    def ended(self, attempt: OpenAttempt, outcome: str) -> None:
        number = attempt.attempt
        if outcome == "not_begun" and attempt.retry_us is None:
            number -= 1
        self._runner.finish(
            attempt, ActivityCancelled(attempt.scheduled.activity_id, outcome, number)
        )

    def _hand_over(self, attempt: OpenAttempt) -> None:
        """It waits for whoever has its token: no slot, no task, and no row of the run's to load."""
        now_us = self._engine.clock.now_us()
        row = self._runner.row(
            attempt, AttemptState.ELSEWHERE, ended_us=now_us, details=attempt.details
        )
        self._runner.mark(attempt, row, None)
        self._runner.elsewhere.watch(attempt, now_us)

    def time_out_elsewhere(self, attempt: OpenAttempt, which: str) -> None:
        if attempt.cancel_asked:
            self.ended(attempt, "timed_out")
        else:
            self._failed_in_time(attempt, which)

    def _judge_timeout(self, attempt: OpenAttempt) -> None:
        which = attempt.timed_out
        if which is None:
            return  # Cancelled because its worker stops: it is handed back with its run.
        attempt.timed_out = None
        self._failed_in_time(attempt, which)

    def _failed_in_time(self, attempt: OpenAttempt, which: str) -> None:
        failure = Failure(
            type="everlong.exceptions.ActivityTimeout",
            message=f"the attempt exceeded its {which} timeout",
        )
        self._failed(attempt, failure, AttemptState.TIMED_OUT, which)

    def _failed(
        self,
        attempt: OpenAttempt,
        failure: Failure,
        state: AttemptState = AttemptState.FAILED,
        timeout: str = "",
    ) -> None:
        """Write the attempt down with the time of the next, or hand the failure to the code."""
        options, number = attempt.scheduled.options, attempt.attempt
        chance = self._engine.random.random()
        delay_us = retry_failed(options, failure, attempt.number_in_set, chance)
        if delay_us is None:
            activity_id = attempt.scheduled.activity_id
            outcome: Input = ActivityFailed(activity_id, failure, number)
            if timeout:
                outcome = ActivityTimedOut(activity_id, timeout, number)
            self._give_up(attempt, outcome, failure)
            return
        logger.info(
            "attempt %d of %s in %s failed (%s: %s); the next in %.1f s",
            number,
            attempt.definition.name,
            attempt.run.workflow_id,
            failure.type,
            "its message is encrypted" if self._records.conceals else failure.message,
            delay_us / 1e6,
        )
        self._again(attempt, state, failure, delay_us)

    def _lost(self, attempt: OpenAttempt, text: str) -> None:
        """Its process died. Mostly that is its own doing, so the next one waits as after a failure;
        but what it has done nobody knows, so that with `at_most_once` it was the last."""
        options, number = attempt.scheduled.options, attempt.attempt
        name, workflow_id = attempt.definition.name, attempt.run.workflow_id
        failure = Failure(type="lost", message=text)
        delay_us = None
        if may_repeat_lost(options, attempt.number_in_set):
            chance = self._engine.random.random()
            delay_us = next_delay_us(options, attempt.number_in_set, chance)
        logger.warning("attempt %d of %s in %s is lost: %s", number, name, workflow_id, text)
        self._again(attempt, AttemptState.LOST, failure, delay_us)

    def _again(
        self, attempt: OpenAttempt, state: AttemptState, failure: Failure, delay_us: int | None
    ) -> None:
        """Write down how it ended, and when the next one is due."""
        retry_us = self._write_down(attempt, state, failure, delay_us)
        self.after_row(attempt, retry_us, failure.message)

    def _write_down(
        self,
        attempt: OpenAttempt,
        state: AttemptState,
        failure: Failure,
        delay_us: int | None,
        then: Callable[[], None] | None = None,
    ) -> int | None:
        now_us = self._engine.clock.now_us()
        retry_us = None if delay_us is None else now_us + delay_us
        self._runner.mark(attempt, self._ended_row(attempt, state, failure, now_us, retry_us), then)
        return retry_us

    def _ended_row(
        self,
        attempt: OpenAttempt,
        state: AttemptState,
        failure: Failure,
        now_us: int,
        retry_us: int | None,
    ) -> AttemptRow:
        row = self._runner.row(
            attempt,
            state,
            ended_us=now_us,
            retry_us=retry_us,
            error_type=failure.type,
            error=failure.message,
            traceback=failure.traceback,
            details=attempt.details,
        )
        if attempt.details is not None:
            attempt.previous_details = attempt.details
        attempt.details = None
        return row
