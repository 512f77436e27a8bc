"""Activities in task queues: rows that wait for whoever may take them.

A task is the next attempt of one open activity. Its row stands in a queue from the commit that
puts it there until its activity is over; whoever takes it owns it, as an owner has its runs, until
it has settled it or is dead. The newest row of the activity's attempts says the same for people:
QUEUED, or TAKEN. What the attempt is called with stands in the history, once.
"""

from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

from everlong_engine.model.codec import Blobs
from everlong_engine.model.events import Recorded
from everlong_engine.model.refusals import Refusal
from everlong_engine.model.runs import AttemptRow, Halt, RunRow

__all__ = [
    "NewTask",
    "QueueCount",
    "SettleTask",
    "TakenTask",
    "TaskClaim",
    "TaskEnd",
    "TaskKey",
    "TaskRow",
    "TaskWants",
    "WithdrawTask",
    "Withdrawn",
]


class NewTask(Struct, frozen=True, kw_only=True):
    """A task as the owner of its run puts it into a queue."""

    activity_id: int
    attempt: int
    queue: str
    activity: str
    due_us: int
    seq: int
    """Of the event that scheduled it."""
    origin: str
    """What its idempotency key begins with: the run that scheduled it first."""
    behind: int = 0
    """The attempt at which its attempts were exhausted last: its set began behind it."""
    rank: int = 0
    """The smaller, the sooner."""
    key: str = ""
    """Whose it is, among whom a queue is fair; "" where there are no keys."""


class TaskRow(Struct, frozen=True, kw_only=True):
    """A task as it stands in the store."""

    shard: int
    run_id: bytes
    execution_id: bytes
    task: NewTask
    token: int = 0
    """How often it was taken: whoever has it settles it under this."""
    worker_id: bytes | None = None
    """Who has taken it."""
    asked: bool = False
    """Its code has cancelled it and waits for its end: nobody takes it any more."""


class TakenTask(Struct, frozen=True):
    """A task in the hands of the worker that has just taken it."""

    task: NewTask
    run: RunRow
    scheduled: Recorded
    token: int
    details: bytes | None = None
    """The last heartbeat details that there are."""
    details_of: int = 0
    """Of which attempt they are."""


class TaskKey(Struct, frozen=True):
    """One attempt in a worker's hands."""

    run_id: bytes
    activity_id: int
    attempt: int
    token: int
    asked: bool = False


class TaskClaim(NamedTuple):
    """What a claim of tasks has come to."""

    tasks: list[TakenTask]
    next_us: int | None
    """When there is more to take."""
    held_back: bool = False
    """Something waits that its queue lets through when others have ended."""


class TaskWants(Struct, frozen=True):
    """What a worker takes from queues."""

    worker_id: bytes
    worker: str
    """Its name, for people."""
    activities: tuple[str, ...]
    queues: tuple[str, ...] | None = None
    """None: all of them."""
    after: str = ""
    """The key that it has served last."""

    def takes(self, queue: str, activity: str) -> bool:
        return (self.queues is None or queue in self.queues) and activity in self.activities


class TaskEnd(IntEnum):
    """What becomes of the task of an activity that an append ends, or cancels."""

    DROP = 0
    """It goes; whoever has it finds that out, and stops."""
    ASK = 1
    """Its end is waited for: whoever has it is asked to end it, and nobody takes it."""
    LEAVE = 2
    """It goes unless somebody has it, who is left alone."""


class WithdrawTask(Struct, frozen=True):
    """Take a task out of its queue, as the owner of its run; CONFLICT if somebody has taken it."""

    shard: int
    run_id: bytes
    token: int
    activity_id: int
    attempt: int = 0
    """Only if it is this one that waits; 0: whichever."""


class Withdrawn(Struct, frozen=True):
    refusal: Refusal | None = None
    attempt: int = 0
    """Which has waited, and waits no more."""


class SettleTask(Struct, frozen=True, kw_only=True):
    """What has come of a task, from the worker that has it. FENCED if it has it no more: then
    somebody else has it, or nobody wants it. CONFLICT if it is to be tried `again` and its end is
    waited for. Nothing is stored then."""

    shard: int
    run_id: bytes
    execution_id: bytes
    activity_id: int
    token: int
    worker_id: bytes
    now_us: int
    rows: tuple[AttemptRow, ...] = ()
    keeps: bool = False
    """It goes on: only what is known of it is stored."""
    again: tuple[int, int] | None = None
    """(attempt, when it is due): it stands in its queue once more."""
    mail: tuple[int, bytes] | None = None
    """(kind, body) of the outcome, for its run."""
    blobs: Blobs | None = None
    halt: Halt | None = None


class QueueCount(Struct, frozen=True):
    """How many tasks of an activity stand in a queue."""

    queue: str
    activity: str
    waiting: int
    taken: int
    oldest_us: int | None
    """When the oldest of those that wait was due."""
