"""What stands in task queues, and who takes from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from everlong.client._views import instant
from everlong_engine import QueueCount, WorkerRow

__all__ = ["QueueSummary", "queue_summaries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSummary:
    """The calls of one activity that stand in one task queue."""

    queue: str
    activity: str
    waiting: int
    """Those that back off until their next attempt, and those of paused executions, too."""
    running: int
    oldest_at: datetime | None
    """When the one that has waited longest was due; None if none waits."""
    workers: tuple[str, ...]
    """The workers that are there and take from the queue. Whether they host the activity only they
    know."""


def queue_summaries(
    counts: Iterable[QueueCount], workers: Sequence[WorkerRow]
) -> list[QueueSummary]:
    there = [one for one in workers if one.is_there]
    return [
        QueueSummary(
            queue=one.queue,
            activity=one.activity,
            waiting=one.waiting,
            running=one.taken,
            oldest_at=None if one.oldest_us is None else instant(one.oldest_us),
            workers=tuple(worker.name for worker in there if worker.takes_from(one.queue)),
        )
        for one in counts
    ]
