"""Turns: who of the executions that share a pool may begin, and who waits.

An execution that belongs to a pool asks for its turn before its code begins, through the worker
that has claimed it. Its row stands from then on. What counts against a limit are the rows of those
that have begun and are still open; a row whose execution has ended counts for nothing, whatever has
ended it, so that nothing leaks.
"""

from enum import Enum, IntEnum

from msgspec import Struct

from everlong_engine.model.queues import AtLimit
from everlong_engine.model.runs import RunRow, RunStatus

__all__ = ["AskTurn", "PoolCount", "Turn", "TurnAnswer", "TurnState", "TurnsDealt"]


class TurnState(IntEnum):
    """Where an execution stands in its pool. Behind WAITS it counts."""

    WAITS = 0
    BEGUN = 1
    ASKED = 2
    """It was cancelled, to make room."""


class AskTurn(Struct, frozen=True, kw_only=True):
    """An execution that has not begun asks for its turn, under the lease of its worker."""

    shard: int
    execution_id: bytes
    """Also the id of its first run, which is the one that asks."""
    namespace: str
    workflow_id: str
    worker_id: bytes
    token: int
    pool: str
    key: str
    """Whose it is, among whom a pool is fair; "" where there are no keys."""
    rank: int
    """The smaller, the sooner."""
    waits_with: int
    """What lies in the inbox up to this position waits with it."""
    until_us: int | None
    """When its time is over, whether it has begun or not."""
    now_us: int
    after: str
    """The key that was served last."""

    def is_as_known(self, row: RunRow) -> bool:
        """Whether the run is the asker's, and has not begun."""
        lease = (row.owner, row.lease_token, row.status, row.next_seq)
        return lease == (self.worker_id, self.token, RunStatus.RUNNING, 1)


class Turn(Enum):
    """What comes of asking."""

    BEGINS = "it may begin"
    WAITS = "it was handed back, and waits"
    NO_ROOM = "it is not to begin at all"
    MAIL = "something has come for it meanwhile: look again"
    GONE = "it is not the worker's any more, or somebody has paused it"


class TurnAnswer(Struct, frozen=True):
    turn: Turn
    at_limit: AtLimit = AtLimit.WAIT
    """What the pool does with those that find no room."""
    others: bool = False
    """Others may begin now, or were cancelled: their owners should look."""
    after: str = ""
    """The key that was served last."""


class TurnsDealt(Struct, frozen=True):
    """What a look at pools has come to."""

    begun: int = 0
    """How many may begin now, or have waited for too long."""
    next_us: int | None = None
    """When it may help to look again, if nothing ends before."""
    waiting: tuple[str, ...] = ()
    """The pools for which somebody waits."""
    after: tuple[tuple[str, str], ...] = ()
    """(pool, key): the keys that were served last."""


class PoolCount(Struct, frozen=True):
    """How many executions of a pool wait, and how many have begun and are open."""

    pool: str
    waiting: int
    begun: int
    oldest_us: int | None
    """Since when the one waits that has waited longest."""
