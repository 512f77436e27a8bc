"""What a task queue, or a pool of workflows, lets through: how many at once, how many in a period.

A limit is declared in code, and may be replaced by another one while everything runs, by a person.
Both are stored, so that all workers go by the same; what a person has set comes first.
"""

from enum import IntEnum
from typing import Any, Final, cast

from msgspec import Struct

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.payload import pack, unpack

__all__ = [
    "NO_LIMITS",
    "AtLimit",
    "LimitOrigin",
    "LimitRow",
    "QueueLimits",
    "RateLimit",
    "SetLimits",
    "Starts",
    "pool_of",
    "pool_scope",
    "starts_from_wire",
    "starts_to_wire",
]

Starts = tuple[tuple[int, int, int], ...]
"""When calls began within the last period, oldest first: (the first, the last, how many)."""
_MARK_NUMBERS: Final = 3
_POOL: Final = "\x1f"
"""Before the name of a pool, where its limits stand beside those of queues, whose names are
printable."""


def pool_scope(pool: str) -> str:
    """Under which name the limits of a pool are stored."""
    return _POOL + pool


def pool_of(scope: str) -> str | None:
    """The pool whose limits these are; None: a task queue's."""
    return scope.removeprefix(_POOL) if scope.startswith(_POOL) else None


class AtLimit(IntEnum):
    """What becomes of an execution for which its pool has no room. Calls in task queues wait."""

    WAIT = 0
    REFUSE = 1
    CANCEL_NEWEST = 2
    CANCEL_RUNNING = 3
    """It waits, and the oldest of those in its way is cancelled."""


class RateLimit(Struct, frozen=True):
    """At most `count` calls begin in any `period_us`."""

    count: int
    period_us: int


class QueueLimits(Struct, frozen=True, kw_only=True):
    """None: as many as there are slots for. A key's limits count its own calls only."""

    concurrency: int | None = None
    rate: RateLimit | None = None
    key_concurrency: int | None = None
    key_rate: RateLimit | None = None
    at_limit: AtLimit = AtLimit.WAIT

    def to_row(self) -> tuple[int | None, ...]:
        """As seven columns."""
        rates = (*_pair(self.rate), self.key_concurrency, *_pair(self.key_rate))
        return (self.concurrency, *rates, int(self.at_limit))

    @classmethod
    def from_row(cls, values: Any) -> "QueueLimits":
        concurrency, rate, rate_us, key_concurrency, key_rate, key_rate_us, at_limit = values
        return cls(
            concurrency=concurrency,
            rate=None if rate is None or rate_us is None else RateLimit(rate, rate_us),
            key_concurrency=key_concurrency,
            key_rate=None
            if key_rate is None or key_rate_us is None
            else RateLimit(key_rate, key_rate_us),
            at_limit=AtLimit(at_limit),
        )


def _pair(rate: RateLimit | None) -> tuple[int | None, int | None]:
    return (None, None) if rate is None else (rate.count, rate.period_us)


NO_LIMITS: Final = QueueLimits()


class LimitOrigin(IntEnum):
    """The larger one is in force."""

    CODE = 0
    PERSON = 1


class LimitRow(Struct, frozen=True, kw_only=True):
    """One set of limits as it stands in the store."""

    queue: str
    """Or `pool_scope` of a pool."""
    origin: LimitOrigin
    limits: QueueLimits
    set_us: int
    by: str
    """Who, for people."""


class SetLimits(Struct, frozen=True, kw_only=True):
    """Put a queue's limits in the place of what the same origin said before; None takes them away.
    Limits of CODE that say nothing are taken away, too."""

    queue: str
    """Or `pool_scope` of a pool."""
    origin: LimitOrigin
    limits: QueueLimits | None
    now_us: int
    by: str


def starts_to_wire(starts: Starts) -> bytes:
    return pack(starts)


def starts_from_wire(data: bytes) -> Starts:
    """Raises UndecodablePayload."""
    found = unpack(data)
    if not isinstance(found, list | tuple):
        raise UndecodablePayload(reason="marks of starts are a list")
    marks = [_mark(one) for one in cast("list[object]", found)]
    return tuple(marks)


def _mark(value: object) -> tuple[int, int, int]:
    numbers = tuple(cast("list[object]", value)) if isinstance(value, list | tuple) else ()
    if len(numbers) != _MARK_NUMBERS or any(type(one) is not int for one in numbers):
        raise UndecodablePayload(reason=f"{value!r:.80} is no mark of starts")
    return cast("tuple[int, int, int]", numbers)
