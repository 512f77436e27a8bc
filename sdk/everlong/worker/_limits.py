"""What the code that a worker has loaded says of its task queues and pools."""

from collections.abc import Iterable

from everlong.pools import WorkflowPool
from everlong.queues import TaskQueue
from everlong_engine import NO_LIMITS, Engine, LimitOrigin, SetLimits

__all__ = ["declare_limits"]


async def declare_limits(
    engine: Engine, declared: Iterable[TaskQueue | WorkflowPool], worker: str
) -> None:
    """Store the limits, where they are others. What a person has set stays in force. Raises
    StoreError."""
    declared = list(declared)
    if not declared:
        return
    stored = {
        row.queue: row.limits
        for row in await engine.store.queue_limits()
        if row.origin is LimitOrigin.CODE
    }
    for one in declared:
        limits = None if one.limits == NO_LIMITS else one.limits
        if limits != stored.get(one.scope):
            change = SetLimits(
                queue=one.scope,
                origin=LimitOrigin.CODE,
                limits=limits,
                now_us=engine.clock.now_us(),
                by=worker,
            )
            await engine.store.set_limits(change)
