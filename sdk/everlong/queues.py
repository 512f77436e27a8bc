"""Task queues with limits: how many calls at once, how many in a period, for whom.

A limit holds over all workers of a store. What counts is what workers have taken and not yet given
back, in the store itself, so a worker that dies leaks nothing.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from everlong import registry
from everlong._context import calling_frame
from everlong._definitions import QUEUE, queue_name
from everlong.exceptions import DefinitionError
from everlong_engine import (
    AtLimit,
    QueueLimits,
    RateLimit,
    is_queue_name,
    limits,
    seconds_us,
)

__all__ = ["Rate", "TaskQueue", "checked_key", "checked_priority", "limits_of", "rate_of"]

_COUNT_MAX: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many in any period of this length.

    What people get wrong: it is a sliding period, so after a burst of `count` the next one begins
    when the first of them is a whole period ago. (A period is remembered as at most 32 marks, so
    one that is long, and full, may last up to 1/32 longer, and is never shorter.)

        Rate(100, per=60)                       # a hundred a minute

    Args:
        count: how many may begin.
        per: seconds, or a timedelta.

    Raises:
        ValueError, TypeError: a count below 1, or no duration.
    """

    count: int
    per: float | timedelta

    def __post_init__(self) -> None:
        _check_count(self.count, "Rate(count)", least=1)
        if seconds_us(self.per, "Rate(per)") == 0:
            raise ValueError("Rate(per) must be more than 0 seconds")

    @property
    def limit(self) -> RateLimit:
        """Not for flows: as stores have it."""
        return RateLimit(self.count, seconds_us(self.per, "per"))


@dataclass(frozen=True, slots=True)
class TaskQueue:
    """A task queue with limits, for `@activity(queue=…)`. Declare it once, at module level.

    A call that has no room waits in its queue; `everlong queues` shows it. Workers declare the
    limits when they start, the last one wins, and a limit that a person sets while everything runs
    (`everlong limit`, `Client.limit_queue`) comes before them.

        stripe = TaskQueue("stripe", concurrency=20, rate=Rate(100, per=1), key_concurrency=1)

        @activity(queue=stripe, key=lambda order: order.customer)
        async def charge(order: Order) -> str: ...

    Args:
        name: of the queue, the same on all machines.
        concurrency: how many calls may be at work at once, over all workers; 0 closes the queue.
        rate: how many may begin in a period.
        key_concurrency: how many of one key may be at work at once.
        key_rate: how many of one key may begin in a period.

    Raises:
        DefinitionError: another queue of this name has other limits.
        ValueError, TypeError: a limit that is none.
    """

    name: str
    concurrency: int | None = None
    rate: Rate | None = None
    key_concurrency: int | None = None
    key_rate: Rate | None = None

    def __post_init__(self) -> None:
        queue_name(self.name)
        if self.name == QUEUE:
            raise DefinitionError(
                f'TaskQueue("{QUEUE}"): this is where workflows are, and activities that name no '
                "queue, which run beside them; give the queue a name of its own"
            )
        limits_of(self.concurrency, self.rate, self.key_concurrency, self.key_rate)
        # A cell of a notebook, or another version, may declare it anew; two files that differ are
        # a mistake.
        file = calling_frame(2).f_code.co_filename
        known, of_file = registry.queues.get(self.name, (self, file))
        if known != self and of_file != file and not registry.is_apart():
            raise DefinitionError(
                f"there are two task queues {self.name!r} with different limits: {known} in "
                f"{of_file} and {self} in {file}. Declare it once, and import it"
            )
        registry.queues[self.name] = (self, file)

    @property
    def scope(self) -> str:
        """Not for flows: under which name a store keeps the limits."""
        return self.name

    @property
    def limits(self) -> QueueLimits:
        """Not for flows: as stores have them."""
        return limits_of(self.concurrency, self.rate, self.key_concurrency, self.key_rate)


def rate_of(rate: object, name: str) -> RateLimit | None:
    """Raises TypeError: it is none."""
    if rate is not None and not isinstance(rate, Rate):
        raise TypeError(f"{name}={rate!r}: give a Rate, such as Rate(100, per=60)")
    return None if rate is None else rate.limit


def limits_of(
    concurrency: int | None,
    rate: Rate | None,
    key_concurrency: int | None,
    key_rate: Rate | None,
    at_limit: AtLimit = AtLimit.WAIT,
) -> QueueLimits:
    """Not for flows: checked limits. Raises ValueError or TypeError."""
    if concurrency is not None:
        _check_count(concurrency, "concurrency", least=0)
    if key_concurrency is not None:
        _check_count(key_concurrency, "key_concurrency", least=0)
    return QueueLimits(
        concurrency=concurrency,
        rate=rate_of(rate, "rate"),
        key_concurrency=key_concurrency,
        key_rate=rate_of(key_rate, "key_rate"),
        at_limit=at_limit,
    )


def checked_key(owner: str, key: object) -> str:
    """Not for flows: as it is recorded. Raises TypeError or ValueError."""
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"{owner}: its key= gave {key!r:.80}; a key is a text or a number")
    if not is_queue_name(str(key)):
        raise ValueError(
            f"{owner}: its key= gave {key!r:.80}; give 1 to {limits.QUEUE_CHARS_MAX} printable "
            "characters"
        )
    return str(key)


def checked_priority(priority: object) -> int:
    """Not for flows. Raises TypeError or ValueError."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority={priority!r}: give a whole number; the larger goes first")
    if abs(priority) > limits.PRIORITY_MAX:
        raise ValueError(
            f"priority={priority}: give {-limits.PRIORITY_MAX:,} to {limits.PRIORITY_MAX:,}"
        )
    return priority


def _check_count(count: object, name: str, *, least: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name} must be a whole number, not {count!r}")
    if not least <= count <= _COUNT_MAX:
        raise ValueError(f"{name} must be {least} to {_COUNT_MAX:,}, not {count}")
