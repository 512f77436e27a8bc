"""What becomes of tasks: of those whose workers are dead, and in groups of writes. Pure."""

from collections.abc import Sequence
from typing import Final

from everlong_engine.machine.retries import may_repeat_lost
from everlong_engine.model.codec import encode_event
from everlong_engine.model.events import ActivityLost, ActivityScheduled
from everlong_engine.model.runs import AttemptRow, AttemptState, Halt
from everlong_engine.model.tasks import NewTask, SettleTask, TaskRow
from everlong_engine.model.writes import Append, MarkAttempts, Write

__all__ = ["judge_task", "judged_unreadable", "marks_ahead"]

ENGINE: Final = "everlong"
"""Who pauses what is lost for good."""


def judged_unreadable(task: NewTask, state: AttemptState) -> AttemptRow:
    """What is written down of an attempt whose activity cannot be read."""
    return AttemptRow(
        activity_id=task.activity_id,
        attempt=task.attempt,
        state=state,
        started_us=task.due_us,
    )


def _queued_again(task: TaskRow, attempt: int, now_us: int) -> AttemptRow:
    """What is written down of the next attempt while it waits."""
    return AttemptRow(
        activity_id=task.task.activity_id,
        attempt=attempt,
        state=AttemptState.QUEUED,
        started_us=now_us,
    )


def marks_ahead(writes: Sequence[Write]) -> frozenset[int]:
    """Which writes of a group put tasks into queues ahead of all appends of their run: what those
    end must be there."""
    if not any(type(write) is MarkAttempts and write.tasks for write in writes):
        return frozenset()
    appended: set[bytes] = set()
    ahead: set[int] = set()
    for at, write in enumerate(writes):
        if type(write) is Append:
            appended.add(write.run_id)
        elif type(write) is MarkAttempts and write.tasks and write.run_id not in appended:
            ahead.add(at)
    return frozenset(ahead)


def judge_task(
    task: TaskRow, scheduled: ActivityScheduled, taken: AttemptRow, worker: str, now_us: int
) -> SettleTask:
    """The attempt is lost; it is tried again at once, or that was the last one (decision 0003).

    Args:
        taken: what is written down of the attempt.
        worker: the name of who had it.
    """
    number = task.task.attempt
    again = not task.asked and may_repeat_lost(scheduled.options, number - task.task.behind)
    pauses = not (again or task.asked) and scheduled.options.on_exhausted == "pause"
    lost = AttemptRow(
        activity_id=task.task.activity_id,
        attempt=number,
        state=AttemptState.EXHAUSTED if pauses else AttemptState.LOST,
        started_us=taken.started_us,
        ended_us=now_us,
        retry_us=now_us if again or pauses else None,
        error_type="lost",
        error=f"worker {worker} died while this attempt may have been running",
        worker=worker,
        details=taken.details,
    )
    rows = (lost, _queued_again(task, number + 1, now_us)) if again else (lost,)
    reason = (
        f"activity {scheduled.activity} was tried {number} times, and its last attempt was lost "
        f"with worker {worker}"
    )
    outcome = encode_event(ActivityLost(task.task.activity_id, number), {})
    return SettleTask(
        shard=task.shard,
        run_id=task.run_id,
        execution_id=task.execution_id,
        activity_id=task.task.activity_id,
        token=task.token,
        worker_id=task.worker_id or b"",
        now_us=now_us,
        rows=rows,
        again=(number + 1, now_us) if again else None,
        mail=None if again or pauses else outcome,
        halt=Halt(now_us, ENGINE, reason) if pauses else None,
    )
