"""What stands in task queues and pools, who takes from there, and what they let through."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from everlong._definitions import QUEUE, pool_name, queue_name
from everlong._texts import storable
from everlong.client._connected import Connected
from everlong.client._views import instant
from everlong.exceptions import InvalidArguments
from everlong.pools import AtLimitName, pool_limits
from everlong.queues import Rate, limits_of
from everlong_engine import (
    NO_LIMITS,
    LimitOrigin,
    LimitRow,
    QueueCount,
    QueueLimits,
    RateLimit,
    SetLimits,
    WorkerRow,
    pool_of,
    pool_scope,
)

__all__ = ["LimitSummary", "PoolSummary", "QueueSummary", "Queues"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSummary:
    """The executions of one pool of workflows, in all namespaces."""

    pool: str
    waiting: int
    """Those that have not begun, since there was no room."""
    running: int
    """Those that have begun and are open."""
    oldest_at: datetime | None
    """Since when the one waits that has waited longest; None if none waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSummary:
    """What a task queue, or a pool of workflows, lets through; None: no limit of this kind."""

    queue: str
    """Its name; "" for a pool's."""
    concurrency: int | None
    rate: Rate | None
    key_concurrency: int | None
    key_rate: Rate | None
    set_by_person: bool
    """False: as the code of a worker declares it."""
    by: str
    """Who, or which worker."""
    since: datetime
    pool: str = ""
    """The name of the pool, if it is one's."""
    at_limit: str = "wait"
    """What becomes of an execution for which its pool has no room; see `WorkflowPool`."""


class Queues(Connected):
    """The part of a client that looks at task queues, and limits them."""

    async def queues(self) -> Sequence[QueueSummary]:
        """What stands in task queues, in all namespaces: how many calls of which activity wait, for
        how long, and which workers take from there.

            for one in await client.queues():
                print(one.queue, one.activity, one.waiting, one.oldest_at)
        """
        counts = await self.engine.store.queues()
        return _summaries(counts, await self.engine.store.workers())

    async def pools(self) -> Sequence[PoolSummary]:
        """Who waits for a turn in a pool of workflows, for how long, and who has begun.

        for one in await client.pools():
            print(one.pool, one.waiting, one.running)
        """
        return [
            PoolSummary(
                pool=one.pool,
                waiting=one.waiting,
                running=one.begun,
                oldest_at=None if one.oldest_us is None else instant(one.oldest_us),
            )
            for one in await self.engine.store.pools()
        ]

    async def limits(self) -> Sequence[LimitSummary]:
        """What task queues and pools let through, as it is in force: queues first, by name.

        for one in await client.limits():
            print(one.queue or one.pool, one.concurrency, one.rate, one.by)
        """
        rows = await self.engine.store.queue_limits()
        found = [_limit(row) for row in {row.queue: row for row in rows}.values()]
        return sorted(found, key=lambda one: (bool(one.pool), one.pool or one.queue))

    async def limit_queue(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        rate: Rate | None = None,
        key_concurrency: int | None = None,
        key_rate: Rate | None = None,
        by: str = "",
    ) -> None:
        """Limit a task queue from now on, for all workers, until `unlimit_queue`.

        It comes in the place of all limits that the queue had, those that code declares included.
        What has begun goes on, and counts.

            await client.limit_queue("stripe", concurrency=5, rate=Rate(100, per=60), by="ann")
            await client.limit_queue("stripe", concurrency=0)          # nothing more begins

        Args:
            queue: its name.
            concurrency, rate, key_concurrency, key_rate: see `TaskQueue`.
            by: who says so, shown with it.

        Raises:
            InvalidArguments: no limit at all, no name, or the queue of workflows.
            ValueError, TypeError: a limit that is none.
        """
        limits = limits_of(concurrency, rate, key_concurrency, key_rate)
        if limits == NO_LIMITS:
            raise InvalidArguments(
                "limit_queue() needs a limit, such as concurrency=5; unlimit_queue() takes them "
                "away"
            )
        if queue == QUEUE:
            raise InvalidArguments(
                f'"{QUEUE}" cannot be limited: there are workflows, and activities that name no '
                "queue, which run beside them. Give those another one: @activity(queue=…)"
            )
        await self._set(_checked(queue_name, queue), limits, by)

    async def unlimit_queue(self, queue: str) -> bool:
        """Take away what `limit_queue` has set: what code declares is in force again.

            await client.unlimit_queue("stripe")

        Returns:
            Whether anything was set.
        """
        return await self._unlimit(_checked(queue_name, queue))

    async def limit_pool(
        self,
        pool: str,
        *,
        concurrency: int | None = None,
        rate: Rate | None = None,
        key_concurrency: int | None = None,
        key_rate: Rate | None = None,
        at_limit: AtLimitName = "wait",
        by: str = "",
    ) -> None:
        """Limit a pool of workflows from now on, for all workers, until `unlimit_pool`.

        It comes in the place of all limits that the pool had, those that code declares included.
        What has begun goes on, and counts. Only workflows with `@workflow(pool=…)` are in one.

            await client.limit_pool("imports", concurrency=2, by="ann")
            await client.limit_pool("imports", concurrency=0)          # nothing more begins

        Args:
            pool: its name.
            concurrency, rate, key_concurrency, key_rate, at_limit: see `WorkflowPool`.
            by: who says so, shown with it.

        Raises:
            InvalidArguments: no limit at all, or no name.
            ValueError, TypeError: a limit that is none.
        """
        limits = pool_limits(concurrency, rate, key_concurrency, key_rate, at_limit)
        if replace(limits, at_limit=NO_LIMITS.at_limit) == NO_LIMITS:
            raise InvalidArguments(
                "limit_pool() needs a limit, such as concurrency=5; unlimit_pool() takes them away"
            )
        await self._set(pool_scope(_checked(pool_name, pool)), limits, by)

    async def unlimit_pool(self, pool: str) -> bool:
        """Take away what `limit_pool` has set: what code declares is in force again.

            await client.unlimit_pool("imports")

        Returns:
            Whether anything was set.
        """
        return await self._unlimit(pool_scope(_checked(pool_name, pool)))

    async def _unlimit(self, scope: str) -> bool:
        rows = await self.engine.store.queue_limits()
        was_set = any(row.queue == scope and row.origin is LimitOrigin.PERSON for row in rows)
        await self._set(scope, None, "")
        return was_set

    async def _set(self, scope: str, limits: QueueLimits | None, by: str) -> None:
        engine = self.engine
        change = SetLimits(
            queue=scope,
            origin=LimitOrigin.PERSON,
            limits=limits,
            now_us=engine.clock.now_us(),
            by=storable(by, "by"),
        )
        await engine.store.set_limits(change)
        engine.tasks_changed()


def _checked(check: Callable[[object], str], name: object) -> str:
    """Raises InvalidArguments: it is no name."""
    try:
        return check(name)
    except ValueError as error:
        raise InvalidArguments(str(error)) from None


def _limit(row: LimitRow) -> LimitSummary:
    pool = pool_of(row.queue)
    return LimitSummary(
        queue=row.queue if pool is None else "",
        pool=pool or "",
        at_limit=row.limits.at_limit.name.lower(),
        concurrency=row.limits.concurrency,
        rate=_rate(row.limits.rate),
        key_concurrency=row.limits.key_concurrency,
        key_rate=_rate(row.limits.key_rate),
        set_by_person=row.origin is LimitOrigin.PERSON,
        by=row.by,
        since=instant(row.set_us),
    )


def _rate(rate: RateLimit | None) -> Rate | None:
    return None if rate is None else Rate(rate.count, rate.period_us / 1e6)


def _summaries(counts: Iterable[QueueCount], workers: Sequence[WorkerRow]) -> list[QueueSummary]:
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
