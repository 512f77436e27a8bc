"""Sweeping closed runs away, a bounded batch at a time."""

from collections.abc import Sequence
from typing import Any, Final

from everlong_engine.model.ids import first_id_of
from everlong_engine.model.requests import SENDERS, SENT_BEHIND, mark_of, name_of_start
from everlong_engine.store.postgres.rows import run_row
from everlong_engine.store.postgres.statements import Tx

__all__ = ["candidates", "forget_execution", "prune", "prune_some"]

_OF_RUNS: Final = ("runs", "history", "attempts", "tasks", "approvals", "tags")
_OF_EXECUTIONS: Final = ("requests", "mail", "published", "entity_states", "turns", "start_keys")


async def prune(
    tx: Tx, cursor: tuple[int, bytes], horizon_us: int, limit: int
) -> tuple[tuple[int, bytes] | None, int]:
    """Look at `limit` runs from the cursor on; delete those that closed before the horizon.

    A run that was continued is kept as long as its execution: request ids and children refer to it.
    A sweep from the start also drops what dead workers and askers left behind.
    """
    found, end = await candidates(tx, cursor, horizon_us, limit)
    return end, await prune_some(tx, found, horizon_us)


async def candidates(
    tx: Tx, cursor: tuple[int, bytes], horizon_us: int, limit: int
) -> tuple[list[Any], tuple[int, bytes] | None]:
    """Runs to look at, as (shard, run, execution), and where to go on behind them."""
    if cursor[0] < 0:
        await tx.run("forget_workers", (horizon_us,))
        await tx.run("forget_questions", (horizon_us,))
        await tx.run("forget_requests_of_types", (horizon_us,))
    found = await tx.all("prune_candidates", (cursor[1], first_id_of(horizon_us), limit))
    return found, (found[-1][0], found[-1][1]) if len(found) == limit else None


async def prune_some(tx: Tx, found: Sequence[Any], horizon_us: int) -> int:
    """Those of them that are due, and what hangs on them; how many."""
    if not found:
        return 0
    executions = sorted({(shard, execution_id) for shard, _, execution_id in found})
    senders = [(*key, SENDERS, SENT_BEHIND, mark_of(horizon_us)) for key in executions]
    await tx.rows("forget_senders", senders)
    runs = [(shard, run_id) for shard, run_id, _ in found]
    await tx.rows("lock_runs", sorted(runs))
    return await _prune(tx, runs, horizon_us)


async def _prune(tx: Tx, runs: list[tuple[int, bytes]], horizon_us: int) -> int:
    rows = await tx.rows("prunable", [(*key, horizon_us) for key in runs])
    gone = [run_row(values) for values in rows]
    if not gone:
        return 0
    keys = [(row.shard, row.run_id) for row in gone]
    for table in _OF_RUNS:
        await tx.rows(f"prune_{table}", keys)
    executions = list({(row.shard, row.execution_id) for row in gone})
    over = {row[0] for row in await tx.rows("without_runs", executions)}
    # The start of an execution is known by its request id until the last of its runs goes.
    kept = [
        (row.shard, row.execution_id, name_of_start(row.request_id), row.run_id)
        for row in gone
        if row.request_id is not None and row.execution_id not in over
    ]
    if kept:
        await tx.rows("insert_requests", kept)
    ended = [key for key in executions if key[1] in over]
    if ended:
        for table in _OF_EXECUTIONS:
            await tx.rows(f"prune_{table}", ended)
    await _drop_blobs(tx, list(dict.fromkeys([*keys, *ended])))
    return len(gone)


async def forget_execution(tx: Tx, shard: int, execution_id: bytes) -> None:
    """All that there is of one that has left: it has come back, or another has its id."""
    key = (shard, execution_id)
    rows = [run_row(values) for values in await tx.all("runs_of_execution", key)]
    runs = [(row.shard, row.run_id) for row in rows]
    for table in _OF_RUNS:
        await tx.rows(f"prune_{table}", runs)
    for table in _OF_EXECUTIONS:
        await tx.rows(f"prune_{table}", [key])
    await _drop_blobs(tx, list(dict.fromkeys([*runs, key])))


async def _drop_blobs(tx: Tx, owners: list[tuple[int, bytes]]) -> None:
    """Payloads that nobody refers to any more. Locked first: who takes one into use meanwhile
    waits, or is seen by the statement that deletes."""
    used = list({(row[0], row[1]) for row in await tx.rows("unuse_blobs", owners)})
    if used:
        await tx.rows("lock_blobs", sorted(used))
        await tx.rows("drop_blobs", used)
