"""Task queues and pools, and what they let through: queues, pools, limit, unlimit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from everlong.cli._documents import document
from everlong.cli._durations import ago, now, span
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Db, Json, Namespace, connect
from everlong.cli._pausing import login
from everlong.cli._screen import Cell, Screen, out, write
from everlong.client import Client, LimitSummary, PoolSummary, QueueSummary
from everlong.queues import Rate

__all__ = ["limit", "pools", "queues", "unlimit"]

T = TypeVar("T")


class AtLimitChoice(StrEnum):
    """As `--at-limit` takes it."""

    WAIT = "wait"
    REFUSE = "refuse"
    CANCEL_NEWEST = "cancel_newest"
    CANCEL_RUNNING = "cancel_running"


_AT_LIMIT = {
    "refuse": "refused",
    "cancel_newest": "cancelled",
    "cancel_running": "the oldest is cancelled",
}
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The task queue, or the pool.")]
_IsPool = Annotated[bool, typer.Option("--pool", help="NAME is a pool of workflows.")]


def queues(db: Db = DEFAULT_STORE, namespace: Namespace = "default", as_json: Json = False) -> int:
    """Show what stands in task queues, for how long, which workers take from them, and limits."""

    async def look(client: Client) -> tuple[Sequence[QueueSummary], Sequence[LimitSummary]]:
        limits = await client.limits()
        return await client.queues(), [one for one in limits if one.queue]

    found, limits = _asked(db, namespace, look)
    if as_json:
        write(document({"queues": found, "limits": limits}))
    else:
        _show(found, limits)
    return ExitCode.OK


def pools(db: Db = DEFAULT_STORE, namespace: Namespace = "default", as_json: Json = False) -> int:
    """Show who waits for a turn in a pool of workflows, for how long, who has begun, and limits."""

    async def look(client: Client) -> tuple[Sequence[PoolSummary], Sequence[LimitSummary]]:
        limits = await client.limits()
        return await client.pools(), [one for one in limits if one.pool]

    found, limits = _asked(db, namespace, look)
    if as_json:
        write(document({"pools": found, "limits": limits}))
    else:
        _show_pools(found, limits)
    return ExitCode.OK


def limit(
    name: _Name,
    is_pool: _IsPool = False,
    concurrency: Annotated[
        int | None, typer.Option(min=0, help="Calls at work at once; 0 closes the queue.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/PERIOD", help="Calls that begin, such as 100/min.")
    ] = None,
    key_concurrency: Annotated[
        int | None, typer.Option(min=0, help="Calls of one key at work at once.")
    ] = None,
    key_rate: Annotated[
        str | None, typer.Option(metavar="N/PERIOD", help="Calls of one key that begin.")
    ] = None,
    at_limit: Annotated[
        AtLimitChoice | None,
        typer.Option(help="What becomes of an execution that finds no room in a pool."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who says so; your login unless given.")
    ] = None,
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Limit a task queue or a pool, for all workers, in the place of all limits that it had.

    What has begun goes on, and counts. `everlong unlimit` puts back what the code declares.
    """
    if at_limit is not None and not is_pool:
        raise Mistake("--at-limit is for pools: calls in a task queue always wait. Give --pool too")
    who = login() if by is None else by
    limits: Mapping[str, Any] = {
        "concurrency": concurrency,
        "rate": _rate(rate, "--rate"),
        "key_concurrency": key_concurrency,
        "key_rate": _rate(key_rate, "--key-rate"),
    }
    if all(one is None for one in limits.values()):
        raise Mistake(
            "give a limit: --concurrency, --rate, --key-concurrency or --key-rate; "
            "`everlong unlimit` takes limits away"
        )

    async def act(client: Client) -> Sequence[LimitSummary]:
        if is_pool:
            policy = AtLimitChoice.WAIT if at_limit is None else at_limit
            await client.limit_pool(name, **limits, at_limit=policy.value, by=who)
        else:
            await client.limit_queue(name, **limits, by=who)
        return await _limits_of(client, name, is_pool=is_pool)

    found = _asked(db, namespace, act)
    if as_json:
        write(document({"limits": found}))
    else:
        out().say((name, "bold"), f": {_words(found[0])}")
    return ExitCode.OK


def unlimit(
    name: _Name,
    is_pool: _IsPool = False,
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Take away what `everlong limit` has set: what the code declares is in force again."""

    async def act(client: Client) -> tuple[bool, Sequence[LimitSummary]]:
        take_away = client.unlimit_pool if is_pool else client.unlimit_queue
        return await take_away(name), await _limits_of(client, name, is_pool=is_pool)

    was_set, found = _asked(db, namespace, act)
    if as_json:
        write(document({"was_set": was_set, "limits": found}))
        return ExitCode.OK
    if not was_set:
        what = "pool" if is_pool else "queue"
        out().say((f"no limit of this {what} was set by hand", "dim"))
    words = _words(found[0]) if found else "no limits"
    out().say((name, "bold"), f": {words}")
    return ExitCode.OK


async def _limits_of(client: Client, name: str, *, is_pool: bool) -> list[LimitSummary]:
    found = await client.limits()
    return [one for one in found if (one.pool if is_pool else one.queue) == name]


def _asked(db: str, namespace: str, act: Callable[[Client], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with connect(db, namespace, None) as client:
            return await act(client)

    return asyncio.run(ask())


def _rate(text: str | None, option: str) -> Rate | None:
    """Of `100/min`, `5/10s`. Raises Mistake."""
    if text is None:
        return None
    count, _, period = text.replace(" ", "").partition("/")
    number = period.rstrip("abcdefghijklmnopqrstuvwxyz")
    try:
        unit_s = _UNITS[period[len(number) :]]
        return Rate(int(count), float(number or 1) * unit_s)
    except (KeyError, ValueError):
        raise Mistake(
            f"{option}={text!r} is no rate: give a number of calls and a period, such as 100/min, "
            "5/s or 3/10s (ms, s, min, h, d)"
        ) from None


# ----------------------------------------------------------------------------------------- shown


def _show(found: Sequence[QueueSummary], limits: Sequence[LimitSummary]) -> None:
    screen = out()
    if found:
        header = ("QUEUE", "ACTIVITY", "WAITING", "LONGEST", "RUNNING", "WORKERS")
        screen.table([_row(one) for one in found], header=header)
    else:
        screen.say(("nothing stands in a task queue", "dim"))
    if limits:
        screen.say()
        _show_limits(screen, limits)


def _show_pools(found: Sequence[PoolSummary], limits: Sequence[LimitSummary]) -> None:
    screen = out()
    if found:
        rows = [
            [
                (one.pool, "bold"),
                (str(one.waiting), "" if one.waiting else "dim"),
                _late(one.oldest_at),
                (str(one.running), "" if one.running else "dim"),
            ]
            for one in found
        ]
        screen.table(rows, header=("POOL", "WAITING", "LONGEST", "RUNNING"))
    else:
        screen.say(("nobody is in a pool", "dim"))
    if limits:
        screen.say()
        _show_limits(screen, limits)


def _show_limits(screen: Screen, limits: Sequence[LimitSummary]) -> None:
    rows: list[list[Cell]] = [
        [
            (one.pool or one.queue, "bold"),
            _words(one),
            f"{'set by' if one.set_by_person else 'declared by'} {one.by or 'somebody'}",
            (ago(one.since, now()), "dim"),
        ]
        for one in limits
    ]
    what = "POOL" if limits[0].pool else "QUEUE"
    screen.table(rows, header=(what, "LIMITS", "WHO", "SINCE"))


def _words(one: LimitSummary) -> str:
    parts = [
        None if one.concurrency is None else _at_once(one.concurrency, ""),
        None if one.rate is None else _in_period(one.rate),
        None if one.key_concurrency is None else _at_once(one.key_concurrency, " per key"),
        None if one.key_rate is None else f"{_in_period(one.key_rate)} per key",
        None if one.at_limit == "wait" else f"then {_AT_LIMIT[one.at_limit]}",
    ]
    return ", ".join(part for part in parts if part is not None) or "no limits"


def _at_once(count: int, of: str) -> str:
    return f"{count} at once{of}" if count else f"closed{of}"


def _in_period(rate: Rate) -> str:
    assert isinstance(rate.per, float | int), "as stores have it"
    return f"{rate.count} in {span(rate.per).replace('.0 ', ' ')}"


def _row(one: QueueSummary) -> list[Cell]:
    workers: Cell = ", ".join(one.workers) or ("none takes from it", "yellow")
    return [
        (one.queue, "bold"),
        one.activity,
        (str(one.waiting), "" if one.waiting else "dim"),
        _late(one.oldest_at),
        (str(one.running), "" if one.running else "dim"),
        workers,
    ]


def _late(since: datetime | None) -> Cell:
    late_s = 0.0 if since is None else (now() - since).total_seconds()
    return (span(late_s) if late_s > 0 else "", "yellow" if late_s >= 1 else "dim")
