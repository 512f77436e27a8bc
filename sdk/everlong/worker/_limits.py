"""What the code that a worker has loaded says of its task queues."""

from collections.abc import Iterable

from everlong.queues import TaskQueue
from everlong_engine import NO_LIMITS, Engine, LimitOrigin, SetLimits

__all__ = ["declare_limits"]


async def declare_limits(engine: Engine, queues: Iterable[TaskQueue], worker: str) -> None:
    """Store the limits of queues, where they are others. What a person has set stays in force.
    Raises StoreError."""
    queues = list(queues)
    if not queues:
        return
    stored = {
        row.queue: row.limits
        for row in await engine.store.queue_limits()
        if row.origin is LimitOrigin.CODE
    }
    for queue in queues:
        limits = None if queue.limits == NO_LIMITS else queue.limits
        if limits != stored.get(queue.name):
            change = SetLimits(
                queue=queue.name,
                origin=LimitOrigin.CODE,
                limits=limits,
                now_us=engine.clock.now_us(),
                by=worker,
            )
            await engine.store.set_limits(change)
