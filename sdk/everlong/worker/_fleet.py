"""What a worker knows of others: whether any has a newer version of a workflow, or may help out.

It looks when somebody has come or has stopped in order, and when one that fell silent has been so
for long. A claim says by which look it was judged; the store gives nothing that follows to whoever
has not seen the last one that came.
"""

from collections.abc import Callable

from everlong._definitions import QUEUE
from everlong_engine import Engine, Member, newest_versions

__all__ = ["FleetView"]


class FleetView:
    """One worker's. Where all workers are in one process, it allows everything and asks nobody."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._newest: dict[str, str] = {}
        self._again_us: int | None = None
        self.number: int | None = None
        """Of the fleet that was seen last."""
        self._takers = 0
        self.on_new: Callable[[], None] = lambda: None
        """Called when it was looked at anew."""

    def allows(self, kind: str, version: str) -> bool:
        """Whether nobody has a newer version of a workflow."""
        return self._newest.get(kind, version) == version

    def may_help(self) -> bool:
        """Whether others may take what this worker has no slot for."""
        return (self._takers if self._engine.shared else len(self._engine.hosts)) > 1

    @property
    def again_us(self) -> int | None:
        """When it may be another one without a word of anybody's."""
        return self._again_us

    async def look(self) -> bool:
        """Look, if there may be something new; whether there was. Raises StoreError."""
        engine = self._engine
        if not engine.shared:
            return False
        now_us = engine.clock.now_us()
        is_old = self._again_us is not None and now_us >= self._again_us
        if self.number == engine.store.fleet_number and not is_old:
            return False
        fleet = await engine.store.fleet()
        newest, left_us = newest_versions(fleet)
        is_new = newest != self._newest
        self._takers = sum(_takes_over(one) for one in fleet.members)
        self.number, self._newest = fleet.number, newest
        self._again_us = None if left_us is None else now_us + left_us
        self.on_new()
        return is_new


def _takes_over(one: Member) -> bool:
    """Whether it is there, and takes what stands in the queue of workflows."""
    is_there = one.left_us is not None and one.left_us > 0
    return is_there and (one.queues is None or QUEUE in one.queues)
