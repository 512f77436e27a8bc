"""Claims and sweeps of a distributed store: looks read of all shards, and what they find is taken
shard by shard, in a transaction of each (`spread`).

Between the look and the taking anything may happen, so whoever takes asks anew. What was taken and
then lost on the way (a crash, an answer that did not come) bears its worker's name, and is taken
again as ever.
"""

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

from everlong_engine.model.queues import pool_of
from everlong_engine.model.runs import LoadedRun, Probation, RunRow
from everlong_engine.model.tasks import TakenTask, TaskClaim, TaskRow, TaskWants
from everlong_engine.store.interface import Wants
from everlong_engine.store.postgres import lanes, leases, pauses, reads, tasks, upkeep
from everlong_engine.store.postgres.rows import read_run, run_row
from everlong_engine.store.postgres.spread import Spans, Spread, shards_of
from everlong_engine.store.postgres.statements import Tx

__all__ = ["claim_runs", "free_tasks", "prune", "resume_blocked", "take_over", "take_tasks"]

_DRIVEN: Final = (Probation.ON_TRIAL, Probation.OUTLIVED)


# ------------------------------------------------------------------------------------------ claims


async def claim_runs(spread: Spread, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
    """Take what is due, the longest due first of each type; and what is held and not in hand."""
    async with spread.turn:
        taken = await _take_again(spread, wants)
        due = await spread.look(partial(_due, wants=wants, now_us=now_us, limit=limit))
        found = await spread.write_each(
            [
                partial(_take_due, wants=wants, now_us=now_us, shard=shard, due=some)
                for shard, some in shards_of(due, itemgetter(1)).items()
            ]
        )
        rows = sorted((row for some in found for row in some), key=itemgetter(0))
        taken += [row for _, row in rows]
        return await _load(spread, wants.worker_id, taken)


async def _due(tx: Tx, wants: Wants, now_us: int, limit: int) -> list[Any]:
    """(wake time, shard, run, version) of as many as are wanted."""
    if limit <= 0:
        return []
    found: list[Any] = []
    for kind in wants.types:
        found += await tx.all("due_of_type", (now_us, wants.queue, kind, limit))
    for kind, version in wants.pinned:
        found += await tx.all("due_of_version", (now_us, wants.queue, kind, limit, version))
    found.sort(key=itemgetter(0, 1, 2))
    return found[:limit]


async def _take_due(
    tx: Tx, wants: Wants, now_us: int, shard: int, due: Sequence[Any]
) -> list[tuple[tuple[int, int, bytes], RunRow]]:
    """Those of one shard, each with its place among all."""
    runs, versions = [one[2] for one in due], [one[3] for one in due]
    values = (shard, runs, versions, now_us, wants.worker_id, wants.fleet)
    taken = await tx.all("take_due", values)
    return [((one["due_us"], shard, one["run_id"]), run_row(one)) for one in taken]


async def _take_again(spread: Spread, wants: Wants) -> list[RunRow]:
    """What bears the worker's name and is not in its hands."""
    held = wants.held
    if held is None:
        return []
    own = await spread.look(lambda tx: tx.all("runs_of_owner", (wants.worker_id,)))
    lost = shards_of((one for one in own if one["execution_id"] not in held), itemgetter(0))
    again = partial(_again, worker_id=wants.worker_id)
    found = await spread.write_each([partial(again, lost=some) for some in lost.values()])
    return [row for some in found for row in some]


async def _again(tx: Tx, worker_id: bytes, lost: Sequence[Any]) -> list[RunRow]:
    rows = [await tx.one("claim_again", (one["shard"], one["run_id"], worker_id)) for one in lost]
    return [run_row(row) for row in rows if row is not None]


async def _load(spread: Spread, worker_id: bytes, taken: Sequence[RunRow]) -> list[LoadedRun]:
    """What was taken, all of it as it was at one moment; what cannot be read is parked."""
    if not taken:
        return []

    async def look(tx: Tx) -> list[LoadedRun | reads.Unread]:
        keys = [(row.shard, row.run_id, row.lease_token) for row in taken]
        held = await tx.all("runs_held", (*map(list, zip(*keys, strict=True)), worker_id))
        rows = {row.run_id: row for row in map(run_row, held)}
        return await reads.load_runs(tx, [rows[one] for _, one, _ in keys if one in rows])

    loaded: list[LoadedRun] = []
    for one in await spread.looks.read(look):
        if isinstance(one, LoadedRun):
            loaded.append(one)
        else:
            await spread.first.write(partial(_park, row=one[0], error=one[1]))
    return loaded


async def _park(tx: Tx, row: RunRow, error: Exception) -> None:
    """Unless somebody has ended or taken it since."""
    now = await read_run(tx, row.shard, row.run_id)
    if now is not None and (now.lease_token, now.owner) == (row.lease_token, row.owner):
        await leases.park(tx, row.shard, row.run_id, error)


# ---------------------------------------------------------------------------------------- takeovers


async def take_over(spread: Spread, now_us: int, limit: int) -> int:
    """Judge runs of dead workers; how many. Suspects that were driven come last, behind all others:
    until then they may explain this death."""
    async with spread.turn:
        explained, names = await spread.look(leases.witnesses)
        seen = await spread.look(lambda tx: tx.all("orphans_seen", (limit,)))
        free = partial(_free, names=names, now_us=now_us, explained=explained)
        count = 0
        for suspects in (False, True):
            some = [one for one in seen if (one["probation"] in _DRIVEN) is suspects]
            by_shard = shards_of(some, itemgetter(0))
            count += sum(
                await spread.write_each(
                    [partial(free, shard=shard, seen=rows) for shard, rows in by_shard.items()]
                )
            )
        return count


async def _free(
    tx: Tx,
    names: dict[bytes, str],
    now_us: int,
    shard: int,
    seen: Sequence[Any],
    *,
    explained: bool,
) -> int:
    values = (shard, [one["run_id"] for one in seen])
    orphans = [run_row(row) for row in await tx.all("orphans_of", values)]
    return await leases.free_orphans(tx, orphans, names, now_us, explained=explained)


async def free_tasks(spread: Spread, now_us: int, limit: int) -> int:
    """The same for tasks of dead workers."""
    async with spread.turn:
        seen = await spread.look(partial(tasks.orphaned_tasks, limit=limit))
        free = partial(tasks.free_orphaned, now_us=now_us)
        by_shard = shards_of(seen, lambda row: row.shard)
        return sum(await spread.write_each([partial(free, orphans=s) for s in by_shard.values()]))


async def resume_blocked(spread: Spread, now_us: int, strikes: int, wants: Wants) -> None:
    """Other code has come."""
    async with spread.turn:
        shards = await spread.look(partial(pauses.blocked_shards, wants=wants))
        again = partial(pauses.resume_blocked, now_us=now_us, strikes=strikes, wants=wants)
        await spread.write_each([partial(again, shards=[shard]) for shard in shards])


async def prune(
    spread: Spread, cursor: tuple[int, bytes], horizon_us: int, limit: int
) -> tuple[tuple[int, bytes] | None, int]:
    """Sweep closed runs away, as `upkeep.prune`."""
    async with spread.turn:
        look = partial(upkeep.candidates, cursor=cursor, horizon_us=horizon_us, limit=limit)
        found, end = await spread.look(look)
        some = partial(upkeep.prune_some, horizon_us=horizon_us)
        by_shard = shards_of(found, itemgetter(0))
        pruned = await spread.write_each([partial(some, found=rows) for rows in by_shard.values()])
        return end, sum(pruned)


# -------------------------------------------------------------------------------------------- tasks


async def take_tasks(spread: Spread, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
    """What may begin now. From queues with limits all at once: their permits are counted over all
    shards, under one lock."""
    async with spread.turn:
        limited = await spread.look(lambda tx: tx.all("limited_queues"))
        if any(pool_of(queue) is None for (queue,) in limited):
            every = partial(lanes.take_tasks, wants=wants, now_us=now_us, limit=limit)
            return await spread.first.write(every, Spans.LIMITS.value)

        async def take(
            _: Tx, wants: TaskWants, due: Sequence[Any], now_us: int
        ) -> tuple[list[TakenTask], list[TaskRow]]:
            some = partial(lanes.take_due, wants=wants, now_us=now_us)
            by_shard = shards_of(due, itemgetter(0))
            parts = await spread.write_each([partial(some, due=rows) for rows in by_shard.values()])
            taken = [one for begun, _ in parts for one in begun]
            places = {tuple(one): at for at, one in enumerate(due)}
            taken.sort(key=lambda one: places[one.run.shard, one.run.run_id, one.task.activity_id])
            return taken, [row for _, there in parts for row in there]

        return await spread.look(lambda tx: lanes.take_within(tx, wants, now_us, limit, {}, take))
