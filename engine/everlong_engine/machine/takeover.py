"""What a worker's death means for a run that it owned. Pure: the loaded run in, a verdict out.

An open activity's attempt is lost only if it may have begun on the dead worker: it had a slot at
its commit, or carries a started mark. Others never began and are simply dispatched.

A loss is held against a run only if it was at work: attempts begun, mail or a deadline to be fed.
From the second loss in a row it is a suspect, held back and then driven alone under a durable mark
(`machine.probation`). A death under its own mark is a strike, and enough strikes park it as poison;
a death while all suspects were held back clears them. So a worker that is killed from
outside condemns nobody, and a run that kills its worker condemns only itself.
"""

from typing import Final

from msgspec import Struct

from everlong_engine.machine.elsewhere import elsewhere_limit
from everlong_engine.machine.probation import is_suspect
from everlong_engine.machine.retries import exhausted_at, may_repeat_lost
from everlong_engine.machine.state import RunState, fold
from everlong_engine.model.codec import decode_event
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import (
    CODES,
    ActivityCancelled,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityTimedOut,
)
from everlong_engine.model.limits import LOSSES_TO_PROBATION, STRIKES_TO_POISON
from everlong_engine.model.runs import (
    AttemptRow,
    AttemptState,
    LoadedRun,
    MailRow,
    Probation,
    RunRow,
    RunStatus,
)

__all__ = ["Verdict", "judge", "latest_attempts", "next_deadline_us"]

CLEARED: Final = LOSSES_TO_PROBATION - 1
"""The losses of a run that is suspected no more: driven at once by the next worker, as any other,
and a suspect again if that one dies as well."""


_OUTCOMES: Final = (
    ActivityCompleted,
    ActivityFailed,
    ActivityTimedOut,
    ActivityLost,
    ActivityCancelled,
)
_WITH_OTHERS: Final = (AttemptState.ELSEWHERE, AttemptState.TAKEN)
_OUTCOME_CODES: Final = frozenset(CODES[kind] for kind in _OUTCOMES)


class Verdict(Struct, frozen=True):
    status: RunStatus
    wake_us: int | None
    """When somebody should look at the run; None for a blocked one."""
    losses: int
    strikes: int
    reason: str | None
    lost: tuple[AttemptRow, ...]


def latest_attempts(attempts: list[AttemptRow]) -> dict[int, AttemptRow]:
    """The newest row of each activity."""
    return {row.activity_id: row for row in sorted(attempts, key=lambda row: row.attempt)}


def judge(run: LoadedRun, worker: str, now_us: int, *, explained: bool = False) -> Verdict:
    """What becomes of `run`, whose owner `worker` is dead.

    Args:
        explained: whether any suspect was driven when the worker died.
    """
    state = fold(run.history)
    for mail in run.mail:
        # An outcome that waits to be fed, as that of a paused run does: its attempt has ended.
        if mail.kind in _OUTCOME_CODES:
            state.activities.pop(_activity_of(mail, run), None)
    lost = _lost(state, run.attempts, worker, now_us)
    deadline = next_deadline_us(state, run.attempts)
    at_work = bool(lost) or bool(run.mail) or (deadline is not None and deadline <= now_us)
    row = run.row
    losses, strikes = _guilt(row, at_work=at_work, explained=explained)
    if strikes >= STRIKES_TO_POISON:
        reason = (
            f"poison: worker processes died {strikes} times in a row while this run was on trial, "
            "and never while it was held back. Fix its code, then resume it"
        )
        return Verdict(RunStatus.BLOCKED, None, losses, strikes, reason, lost)
    status = row.status if row.status.is_open else RunStatus.RUNNING
    wake_us: int | None = now_us if at_work or deadline is None else deadline
    if status is not RunStatus.RUNNING:
        wake_us = None  # Until somebody resumes it.
    return Verdict(status, wake_us, losses, strikes, row.reason, lost)


def _activity_of(mail: MailRow, run: LoadedRun) -> int:
    """Whose outcome a message is; -1: none of this run's."""
    try:
        event = decode_event(mail.kind, mail.body, run.blobs)
    except UndecodablePayload:
        return -1  # Whoever loads the run is told.
    if not isinstance(event, _OUTCOMES):
        return -1
    of_another = isinstance(event, ActivityCompleted | ActivityFailed) and event.run not in (
        None,
        run.row.run_id,
    )
    return -1 if of_another else event.activity_id


def _guilt(row: RunRow, *, at_work: bool, explained: bool) -> tuple[int, int]:
    """Losses and strikes after this death."""
    match row.probation:
        case Probation.ON_TRIAL if at_work:
            return row.losses + 1, row.strikes + 1
        case Probation.ON_TRIAL:
            return row.losses, row.strikes
        case Probation.NONE if is_suspect(row.losses):  # It was held back.
            return (row.losses, row.strikes) if explained else (CLEARED, 0)
        case _:
            return row.losses + at_work, 0


def _lost(
    state: RunState, attempts: list[AttemptRow], worker: str, now_us: int
) -> tuple[AttemptRow, ...]:
    newest, sets = latest_attempts(attempts), exhausted_at(attempts)
    lost: list[AttemptRow] = []
    for activity_id, activity in state.activities.items():
        row = newest.get(activity_id)
        if row is None:
            if not activity.scheduled.began:
                continue
            attempt, started_us, details = 1, activity.at_us, None
        elif row.state is AttemptState.STARTED:
            attempt, started_us, details = row.attempt, row.started_us, row.details
        else:
            continue  # In back-off: it is re-armed.
        again = not activity.cancel_requested and may_repeat_lost(
            activity.scheduled.options, attempt - sets.get(activity_id, 0)
        )
        lost.append(
            AttemptRow(
                activity_id=activity_id,
                attempt=attempt,
                state=AttemptState.LOST,
                started_us=started_us,
                ended_us=now_us,
                retry_us=now_us if again else None,
                error_type="lost",
                error=f"worker {worker} died while this attempt may have been running",
                worker=worker,
                details=details,
            )
        )
    return tuple(lost)


def next_deadline_us(state: RunState, attempts: list[AttemptRow]) -> int | None:
    """The earliest instant at which a run at rest must be looked at; None: only mail wakes it.

    An activity that is open and not in back-off is due at once.
    """
    newest = latest_attempts(attempts)
    due = [timer.due_us for timer in state.timers.values()]
    for activity_id, activity in state.activities.items():
        row = newest.get(activity_id)
        if activity.cancel_requested and not (row and row.state in _WITH_OTHERS):
            due.append(0)  # Its end is waited for: there will be no further attempt.
        elif row is not None and row.state.is_in_queue:
            to_start_us = activity.scheduled.options.schedule_to_start_us
            if row.state is AttemptState.QUEUED and row.attempt == 1 and to_start_us is not None:
                due.append(activity.at_us + to_start_us)
        elif row is not None and row.state is AttemptState.ELSEWHERE:
            heard_us = row.ended_us or row.started_us
            limit = elsewhere_limit(activity.scheduled.options, row.started_us, heard_us)
            due += [] if limit is None else [limit[0]]
        elif row is None or row.state is AttemptState.STARTED or row.retry_us is None:
            due.append(0)
        else:
            due.append(row.retry_us)
        to_close_us = activity.scheduled.options.schedule_to_close_us
        if to_close_us is not None:
            due.append(activity.at_us + to_close_us)
    started = state.started
    if started is not None:
        if started.run_timeout_us is not None:
            due.append(state.started_us + started.run_timeout_us)
        if started.execution_deadline_us is not None:
            due.append(started.execution_deadline_us)
    return min(due, default=None)
