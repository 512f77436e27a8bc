"""Who of a pool may begin. Pure: stores bring what is there, and do what is said here.

The lanes are those of task queues (`machine.lanes`), with a pool in the place of a queue.
"""

from collections.abc import Iterable

from everlong_engine.machine.lanes import Dealer, Lane
from everlong_engine.model.codec import encode_event
from everlong_engine.model.events import CancelRequested
from everlong_engine.model.queues import AtLimit, QueueLimits, pool_scope
from everlong_engine.model.turns import TurnsDealt

__all__ = ["PoolDealer", "make_room", "together"]


class PoolDealer(Dealer):
    """Deals the room of one pool.

    Args:
        limits: those in force; none: everybody may begin.
        after: the key that was served last.
    """

    def __init__(self, pool: str, limits: QueueLimits, now_us: int, after: str) -> None:
        self.pool = pool
        self.scope = pool_scope(pool)
        super().__init__({self.scope: limits}, now_us, after)
        self.limits = limits
        self.after = after

    def lane(self, rank: int, key: str) -> Lane:
        return Lane(self.scope, "", rank, key)

    def begin(self, lane: Lane, count: int) -> None:
        """So many of it begin now."""
        self.note(lane, count)
        if count and lane.key:
            self.after = lane.key

    def whom_to_ask(self, lane: Lane) -> str | None:
        """Of which key somebody must end, so that one more of the lane may begin; None: of any.

        Raises:
            LookupError: whoever ends, that makes no room: nothing may begin, or the rate is used
                up.
        """
        limits = self.limits
        at_work = self.at_work(lane)
        if lane.key and limits.key_concurrency is not None and at_work >= limits.key_concurrency:
            if limits.key_concurrency:
                return lane.key
        elif limits.concurrency and self.at_work(None) >= limits.concurrency:
            return None
        raise LookupError

    @property
    def may_wait(self) -> bool:
        """Whether who finds no room stays."""
        return self.limits.at_limit in (AtLimit.WAIT, AtLimit.CANCEL_RUNNING)

    def at_work(self, lane: Lane | None) -> int:
        """How many of a lane's key have begun; None: of the whole pool."""
        if lane is None:
            return self._in_queue.get(self.scope, 0)
        return self._taken.get((self.scope, lane.key), 0)


def make_room(pool: str) -> tuple[int, bytes]:
    """What cancels the one that is in the way: (kind, body) of a message."""
    return encode_event(CancelRequested(f"a newer one takes its place in the pool {pool}"), {})


def together(found: Iterable[TurnsDealt]) -> TurnsDealt:
    """What looks at several pools have come to."""
    all_of_it = list(found)
    return TurnsDealt(
        begun=sum(one.begun for one in all_of_it),
        next_us=min((one.next_us for one in all_of_it if one.next_us is not None), default=None),
        waiting=tuple(pool for one in all_of_it for pool in one.waiting),
        after=tuple(served for one in all_of_it for served in one.after),
    )
