"""Pools of workflows: how many executions may be under way at once, and what becomes of the others.

A limit holds over all workers of a store. What counts are executions that have begun and are open,
in the store itself, however they end, so a crash leaks nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from everlong import registry
from everlong._context import calling_frame
from everlong._definitions import pool_name
from everlong.exceptions import DefinitionError
from everlong.queues import Rate, checked_key, checked_priority, limits_of
from everlong_engine import AtLimit, QueueLimits, pool_scope

__all__ = ["AtLimitName", "TurnRule", "WorkflowPool", "at_limit_of", "pool_limits"]

AtLimitName: TypeAlias = Literal["wait", "refuse", "cancel_newest", "cancel_running"]
_AT_LIMIT: Final[dict[str, AtLimit]] = {
    name: AtLimit[name.upper()] for name in get_args(AtLimitName)
}


@dataclass(frozen=True, slots=True)
class WorkflowPool:
    """A limit on executions that are under way, for `@workflow(pool=…)`. Declare it once, at module
    level; a pool may be shared by several workflows.

    An execution takes its place when it begins, and gives it back when it ends, also while it only
    waits for a timer or a signal. One that finds no room waits (`everlong pools` shows it), or
    what `at_limit` says. Workers declare the limits when they start, the last one wins, and a limit
    that a person sets while everything runs (`everlong limit --pool`, `Client.limit_pool`) comes
    before them.

    What people get wrong: a child that is in the same pool as its parent waits for room that its
    parent may never give back. Give children another pool, or none.

        imports = WorkflowPool("imports", concurrency=10, key_concurrency=1)

        @workflow(pool=imports, key=lambda customer, file: customer)
        async def import_file(customer: str, file: str) -> int: ...

    Args:
        name: of the pool, the same on all machines.
        concurrency: how many executions may be under way at once; 0 closes the pool.
        rate: how many may begin in a period.
        key_concurrency: how many of one key may be under way at once.
        key_rate: how many of one key may begin in a period.
        at_limit: what becomes of an execution for which there is no room. "wait": it begins when
            there is, the most urgent first, among them each key in turn. "refuse": it fails with
            `PoolFull`, and none of its code runs. "cancel_newest": it is cancelled, likewise.
            "cancel_running": it waits, and the oldest of those in its way (of its key, if that is
            what is at its limit) is cancelled; so the newest wins.

    Raises:
        DefinitionError: another pool of this name has other limits.
        ValueError, TypeError: a limit that is none.
    """

    name: str
    concurrency: int | None = None
    rate: Rate | None = None
    key_concurrency: int | None = None
    key_rate: Rate | None = None
    at_limit: AtLimitName = "wait"

    def __post_init__(self) -> None:
        pool_name(self.name)
        pool_limits(self.concurrency, self.rate, self.key_concurrency, self.key_rate, self.at_limit)
        # A cell of a notebook, or another version, may declare it anew; two files that differ are
        # a mistake.
        file = calling_frame(2).f_code.co_filename
        known, of_file = registry.pools.get(self.name, (self, file))
        if known != self and of_file != file and not registry.is_apart():
            raise DefinitionError(
                f"there are two pools {self.name!r} with different limits: {known} in {of_file} "
                f"and {self} in {file}. Declare it once, and import it"
            )
        registry.pools[self.name] = (self, file)

    @property
    def scope(self) -> str:
        """Not for flows: under which name a store keeps the limits."""
        return pool_scope(self.name)

    @property
    def limits(self) -> QueueLimits:
        """Not for flows: as stores have them."""
        return pool_limits(
            self.concurrency, self.rate, self.key_concurrency, self.key_rate, self.at_limit
        )


def pool_limits(
    concurrency: int | None,
    rate: Rate | None,
    key_concurrency: int | None,
    key_rate: Rate | None,
    at_limit: AtLimitName,
) -> QueueLimits:
    """Not for flows: checked limits. Raises ValueError or TypeError."""
    return limits_of(concurrency, rate, key_concurrency, key_rate, at_limit_of(at_limit))


def at_limit_of(name: object) -> AtLimit:
    """Raises ValueError: there is no such policy."""
    found = _AT_LIMIT.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"at_limit={name!r} is not one of {', '.join(_AT_LIMIT)}")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class TurnRule:
    """Not for flows: how the executions of one workflow take their turns in a pool."""

    workflow: str
    pool: str
    key: Callable[..., object] | None
    priority: int | Callable[..., object]

    @classmethod
    def of(cls, workflow: str, pool: object, key: object, priority: object) -> "TurnRule | None":
        """None: it is in no pool. Raises DefinitionError, TypeError or ValueError."""
        if pool is None:
            if key is not None or priority != 0:
                raise DefinitionError(
                    f"workflow {workflow}: key= and priority= order what waits in a pool, and this "
                    "is in none; give pool=… too"
                )
            return None
        if not isinstance(pool, WorkflowPool):
            raise TypeError(
                f"workflow {workflow}: pool={pool!r:.80}: give a WorkflowPool, such as "
                'WorkflowPool("imports", concurrency=10)'
            )
        if key is not None and not callable(key):
            raise TypeError(
                f"workflow {workflow}: key={key!r:.80} is no function of the workflow's arguments"
            )
        given = priority if callable(priority) else checked_priority(priority)
        return cls(workflow, pool.name, key, given)

    def place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, int]:
        """(key, rank) of an execution with these arguments. Raises whatever is wrong with them."""
        owner = f"workflow {self.workflow}"
        key = "" if self.key is None else checked_key(owner, self.key(*args, **kwargs))
        priority = self.priority
        if callable(priority):
            priority = checked_priority(priority(*args, **kwargs))
        return key, -priority
