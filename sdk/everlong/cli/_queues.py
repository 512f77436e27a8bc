"""What stands in task queues, and what they let through: queues, limit, unlimit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

from everlong.cli._documents import document
from everlong.cli._durations import ago, now, span
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Db, Json, Namespace, connect
from everlong.cli._pausing import login
from everlong.cli._screen import Cell, Screen, out, write
from everlong.client import Client, LimitSummary, QueueSummary
from everlong.queues import Rate

__all__ = ["limit", "queues", "unlimit"]

T = TypeVar("T")

_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

_Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="The task queue.")]


def queues(db: Db = DEFAULT_STORE, namespace: Namespace = "default", as_json: Json = False) -> int:
    """Show what stands in task queues, for how long, which workers take from them, and limits."""

    async def look(client: Client) -> tuple[Sequence[QueueSummary], Sequence[LimitSummary]]:
        return await client.queues(), await client.limits()

    found, limits = _asked(db, namespace, look)
    if as_json:
        write(document({"queues": found, "limits": limits}))
    else:
        _show(found, limits)
    return ExitCode.OK


def limit(
    queue: _Queue,
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
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who says so; your login unless given.")
    ] = None,
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Limit a task queue, for all workers, in the place of all limits that it had.

    What has begun goes on, and counts. `everlong unlimit` puts back what the code declares.
    """
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
        await client.limit_queue(queue, **limits, by=who)
        return [one for one in await client.limits() if one.queue == queue]

    found = _asked(db, namespace, act)
    if as_json:
        write(document({"limits": found}))
    else:
        out().say((queue, "bold"), f": {_words(found[0])}")
    return ExitCode.OK


def unlimit(
    queue: _Queue,
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Take away what `everlong limit` has set: what the code declares is in force again."""

    async def act(client: Client) -> tuple[bool, Sequence[LimitSummary]]:
        was_set = await client.unlimit_queue(queue)
        return was_set, [one for one in await client.limits() if one.queue == queue]

    was_set, found = _asked(db, namespace, act)
    if as_json:
        write(document({"was_set": was_set, "limits": found}))
        return ExitCode.OK
    if not was_set:
        out().say(("no limit of this queue was set by hand", "dim"))
    words = _words(found[0]) if found else "no limits"
    out().say((queue, "bold"), f": {words}")
    return ExitCode.OK


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


def _show_limits(screen: Screen, limits: Sequence[LimitSummary]) -> None:
    rows: list[list[Cell]] = [
        [
            (one.queue, "bold"),
            _words(one),
            f"{'set by' if one.set_by_person else 'declared by'} {one.by or 'somebody'}",
            (ago(one.since, now()), "dim"),
        ]
        for one in limits
    ]
    screen.table(rows, header=("QUEUE", "LIMITS", "WHO", "SINCE"))


def _words(one: LimitSummary) -> str:
    parts = [
        None if one.concurrency is None else _at_once(one.concurrency, ""),
        None if one.rate is None else _in_period(one.rate),
        None if one.key_concurrency is None else _at_once(one.key_concurrency, " per key"),
        None if one.key_rate is None else f"{_in_period(one.key_rate)} per key",
    ]
    return ", ".join(part for part in parts if part is not None) or "no limits"


def _at_once(count: int, of: str) -> str:
    return f"{count} at once{of}" if count else f"closed{of}"


def _in_period(rate: Rate) -> str:
    assert isinstance(rate.per, float | int), "as stores have it"
    return f"{rate.count} in {span(rate.per).replace('.0 ', ' ')}"


def _row(one: QueueSummary) -> list[Cell]:
    late_s = 0.0 if one.oldest_at is None else (now() - one.oldest_at).total_seconds()
    workers: Cell = ", ".join(one.workers) or ("none takes from it", "yellow")
    return [
        (one.queue, "bold"),
        one.activity,
        (str(one.waiting), "" if one.waiting else "dim"),
        (span(late_s) if late_s > 0 else "", "yellow" if late_s >= 1 else "dim"),
        (str(one.running), "" if one.running else "dim"),
        workers,
    ]
