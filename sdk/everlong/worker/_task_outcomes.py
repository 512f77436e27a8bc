"""What comes of a task that has ended: the next attempt in its queue, or an outcome for its run."""

import logging
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from everlong.worker._attempts import Died, Later, Raised, Succeeded
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
    from everlong.worker._tasks import TaskAttempt

__all__ = ["Settled", "TaskJudge"]

logger = logging.getLogger("everlong")

ENGINE: Final = "everlong"
"""Who pauses what has failed for good."""
_REASON_CHARS_MAX: Final = 2_000


class Settled(Struct, frozen=True, kw_only=True):
    """What is stored of a task: rows of its attempts, and what follows."""

    rows: tuple[AttemptRow, ...] = ()
    again: tuple[int, int] | None = None
    """(attempt, when it is due)."""
    outcome: Input | None = None
    halt: Halt | None = None


class TaskJudge:
    """Decides, and touches nothing."""

    def __init__(self, engine: Engine, worker: str) -> None:
        self._engine = engine
        self._worker = worker

    def judge(self, attempt: "TaskAttempt", outcome: Any) -> Settled | None:
        """None: it was cancelled because its worker stops, which hands it back."""
        number = attempt.scheduled.activity_id
        if isinstance(outcome, Later):
            now_us = self._engine.clock.now_us()
            left = self._row(
                attempt, AttemptState.ELSEWHERE, ended_us=now_us, details=attempt.details
            )
            return Settled(rows=(left,))
        if attempt.cancel_asked:
            return self._ended(attempt, outcome)
        match outcome:
            case Succeeded():
                run_id = attempt.taken.run.run_id
                return Settled(outcome=ActivityCompleted(number, outcome.result, run_id))
            case Raised():
                return self._failed(attempt, outcome.failure, AttemptState.FAILED, "")
            case Died():
                return self._lost(attempt, outcome.text)
            case _ if attempt.timed_out is not None:
                which = attempt.timed_out
                failure = Failure(
                    type="everlong.exceptions.ActivityTimeout",
                    message=f"the attempt exceeded its {which} timeout",
                )
                return self._failed(attempt, failure, AttemptState.TIMED_OUT, which)
            case _:
                return None

    def _ended(self, attempt: "TaskAttempt", outcome: Any) -> Settled:
        """Somebody waits for its end, whatever came of it; there is no further attempt."""
        match outcome:
            case Succeeded():
                return self._cancelled(attempt, "completed")
            case Raised():
                row = self._ended_row(attempt, AttemptState.FAILED, outcome.failure, None)
                return self._cancelled(attempt, "failed", row)
            case Died():
                return self._cancelled(attempt, "lost")
            case _:
                return self._cancelled(attempt, "timed_out" if attempt.timed_out else "stopped")

    def _cancelled(self, attempt: "TaskAttempt", how: str, *rows: AttemptRow) -> Settled:
        number = attempt.scheduled.activity_id
        return Settled(rows=rows, outcome=ActivityCancelled(number, how, attempt.attempt))

    def end_of(self, attempt: "TaskAttempt", rows: tuple[AttemptRow, ...]) -> Settled:
        """It had failed, and was to be tried again; it is not."""
        kept = tuple(row for row in rows if row.attempt == attempt.attempt)
        return self._cancelled(attempt, "failed", *kept)

    def handed_back(self, attempt: "TaskAttempt") -> Settled:
        """Its worker stops before it has ended."""
        failure = Failure(type="handed back", message="the worker stopped before the attempt ended")
        return self._again(attempt, AttemptState.LOST, failure, self._delay_of_lost(attempt, 0), "")

    # ------------------------------------------------------------------------------- private

    def _failed(
        self, attempt: "TaskAttempt", failure: Failure, state: AttemptState, timeout: str
    ) -> Settled:
        chance = self._engine.random.random()
        delay_us = retry_failed(attempt.scheduled.options, failure, attempt.number_in_set, chance)
        return self._again(attempt, state, failure, delay_us, timeout)

    def _lost(self, attempt: "TaskAttempt", text: str) -> Settled:
        """Its process died, mostly by its own doing."""
        options, chance = attempt.scheduled.options, self._engine.random.random()
        delay_us = next_delay_us(options, attempt.number_in_set, chance)
        failure = Failure(type="lost", message=text)
        delay = self._delay_of_lost(attempt, delay_us)
        return self._again(attempt, AttemptState.LOST, failure, delay, "")

    def _delay_of_lost(self, attempt: "TaskAttempt", delay_us: int) -> int | None:
        again = may_repeat_lost(attempt.scheduled.options, attempt.number_in_set)
        return delay_us if again else None

    def _again(
        self,
        attempt: "TaskAttempt",
        state: AttemptState,
        failure: Failure,
        delay_us: int | None,
        timeout: str,
    ) -> Settled:
        """Its next attempt, or its outcome, or a pause until somebody has mended the cause."""
        now_us = self._engine.clock.now_us()
        number, tried = attempt.scheduled.activity_id, attempt.attempt
        if delay_us is not None:
            due_us = now_us + delay_us
            row = self._ended_row(attempt, state, failure, due_us)
            waits = AttemptRow(
                activity_id=number,
                attempt=tried + 1,
                state=AttemptState.QUEUED,
                started_us=now_us,
            )
            return Settled(rows=(row, waits), again=(tried + 1, due_us))
        if attempt.scheduled.options.on_exhausted == "pause":
            times = "once" if tried == 1 else f"{tried} times"
            name, workflow_id = attempt.definition.name, attempt.taken.run.workflow_id
            logger.warning(
                "%s is paused: activity %s was tried %s, and then failed for good (%s)",
                *(workflow_id, name, times, failure.type),
            )
            reason = (
                f"activity {name} was tried {times}, and then failed for good: "
                f"{failure.type}: {failure.message}"
            )[:_REASON_CHARS_MAX]
            row = self._ended_row(attempt, AttemptState.EXHAUSTED, failure, now_us)
            return Settled(rows=(row,), halt=Halt(now_us, ENGINE, reason))
        outcome: Input = ActivityFailed(number, failure, tried, attempt.taken.run.run_id)
        rows: tuple[AttemptRow, ...] = ()
        if timeout:
            outcome = ActivityTimedOut(number, timeout, tried)
        elif state is AttemptState.LOST:
            outcome = ActivityLost(number, tried)
            rows = (self._ended_row(attempt, state, failure, None),)
        return Settled(rows=rows, outcome=outcome)

    def _ended_row(
        self,
        attempt: "TaskAttempt",
        state: AttemptState,
        failure: Failure,
        retry_us: int | None,
    ) -> AttemptRow:
        return self._row(
            attempt,
            state,
            ended_us=self._engine.clock.now_us(),
            retry_us=retry_us,
            error_type=failure.type,
            error=failure.message,
            traceback=failure.traceback,
            details=attempt.details,
        )

    def _row(self, attempt: "TaskAttempt", state: AttemptState, **more: Any) -> AttemptRow:
        return AttemptRow(
            activity_id=attempt.scheduled.activity_id,
            attempt=attempt.attempt,
            state=state,
            started_us=attempt.started_us,
            worker=self._worker,
            **more,
        )
