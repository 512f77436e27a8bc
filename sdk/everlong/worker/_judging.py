"""What becomes of an input in the moment in which it is fed for the first time.

Whether it comes too late, whether its value fits, whether what it tells is still wanted: decided
once, here, and recorded. On replay the record answers.
"""

from msgspec.structs import replace

from everlong._replay.run import WorkflowRun
from everlong.exceptions import EverlongError
from everlong_engine import (
    ActivityCancelled,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityTimedOut,
    ApprovalAnswered,
    ChildClosed,
    ChildStarted,
    ChildStartFailed,
    ExternalAnswered,
    Failure,
    Input,
    RunStarted,
    SignalReceived,
    SignalRejected,
    TimerFired,
    id_text,
)

__all__ = ["is_stale", "judged"]


def is_stale(code: WorkflowRun, event: Input) -> bool:
    """An outcome or a timer that lost its race against a cancellation, or an answer for a run
    that has begun anew since."""
    if type(event) is RunStarted:
        return False
    match event:
        case ActivityCompleted(run=bytes(run)) | ActivityFailed(run=bytes(run)):
            return id_text(run) != code.run_id or not code.is_open(event.activity_id)
        case (
            ActivityCompleted()
            | ActivityFailed()
            | ActivityTimedOut()
            | ActivityLost()
            | ActivityCancelled()
        ):
            return not code.is_open(event.activity_id)
        case TimerFired():
            return not code.is_pending(event.timer_id)
        case ChildStarted() | ChildStartFailed() | ChildClosed() | ExternalAnswered():
            return id_text(event.run) != code.run_id or not code.others.is_open(event)
        case ApprovalAnswered():
            # For a run before this one, perhaps, which ended over it.
            here = id_text(event.run) == code.run_id
            return not (here and code.approvals.is_open(event.approval_id))
        case _:
            return False


def judged(code: WorkflowRun, event: Input) -> Input:
    """The input as it is recorded."""
    if type(event) is RunStarted:
        return event
    match event:
        case ActivityCompleted(run=None) if not code.is_cancelling(event.activity_id):
            return event  # By far the most of them.
        case SignalReceived():
            return _judge_signal(code, event)
        case ActivityCompleted() | ActivityFailed() | ActivityTimedOut() | ActivityLost():
            return _ended(event) if code.is_cancelling(event.activity_id) else _fitting(code, event)
        case _:
            return event


def _judge_signal(code: WorkflowRun, event: SignalReceived) -> SignalReceived | SignalRejected:
    """Whether a value fits its type."""
    try:
        code.decode_signal(event.signal, event.payload)
    except EverlongError as error:
        return SignalRejected(event.signal, event.payload, str(error))
    return event


def _fitting(
    code: WorkflowRun,
    event: ActivityCompleted | ActivityFailed | ActivityTimedOut | ActivityLost,
) -> Input:
    """An answer by token came from who may not know the type: one that does not fit is a failure,
    since it could never be fed."""
    match event:
        case ActivityFailed(run=bytes()):
            return replace(event, run=None)
        case ActivityCompleted(run=bytes()):
            definition = code.activity_definition(event.activity_id)
            assert definition is not None, "an outcome of what is not open is stale"
            try:
                definition.result.decode(event.result)
            except EverlongError as error:
                kind = type(error)
                text = f"the answer that was given by token does not fit: {error}"
                failure = Failure(type=f"{kind.__module__}.{kind.__qualname__}", message=text)
                return ActivityFailed(event.activity_id, failure, 1)
            return replace(event, run=None)
        case _:
            return event


def _ended(
    event: ActivityCompleted | ActivityFailed | ActivityTimedOut | ActivityLost,
) -> ActivityCancelled:
    """The code has cancelled it and waits for its end: what came of it is for people."""
    match event:
        case ActivityCompleted():
            return ActivityCancelled(event.activity_id, "completed", 0)
        case ActivityFailed():
            return ActivityCancelled(event.activity_id, "failed", event.attempts)
        case ActivityTimedOut():
            return ActivityCancelled(event.activity_id, "timed_out", event.attempts)
        case ActivityLost():
            return ActivityCancelled(event.activity_id, "lost", event.attempts)
