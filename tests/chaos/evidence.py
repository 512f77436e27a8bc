"""What must be true of a store, whatever was killed: read from it, the ledger and the log."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from everlong import Client
from everlong_engine.model.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityTimedOut,
)
from everlong_engine.model.ids import id_text
from everlong_engine.model.runs import AttemptState, LoadedRun
from everlong_engine.store.interface import RunFilter
from tests.chaos import flows
from tests.chaos.arena import Arena
from tests.chaos.cast import plan

OUTCOMES = (ActivityCompleted, ActivityFailed, ActivityTimedOut, ActivityLost)
RUNS_MAX = 100_000


async def nothing_is_damaged(db: Path) -> None:
    """Sequences, checksums, orphans; and SQLite's own opinion."""
    async with Client.connect(db, create=False) as client:
        assert [problem.text for problem in await client.verify()] == []
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def all_runs(client: Client) -> list[LoadedRun]:
    store = client.engine.store
    rows = await store.list_runs(RunFilter("default"), RUNS_MAX, None)
    loaded = [await store.load(row.shard, row.run_id) for row in rows]
    return [one for one in loaded if one is not None]


async def unfinished(client: Client) -> set[str]:
    return {one.row.workflow_id for one in await all_runs(client) if one.row.status.is_open}


async def acknowledged_is_there(arena: Arena, seed: int, count: int, results: bool) -> None:
    """Each acknowledged start has its execution, each acknowledged signal is in it once."""
    acknowledged = arena.acknowledged()
    async with Client.connect(arena.db) as client:
        there = {one.row.workflow_id for one in await all_runs(client)}
        for one in plan(seed, count):
            if one.key not in acknowledged:
                continue
            assert one.workflow_id in there, f"{one.key} was acknowledged and is lost"
            if results and one.number is None:
                result = await client.get_handle(one.workflow_id).result()
                right = flows.expected(one.kind, one.first)
                assert result == right or (one.kind == "chaos_careful" and result == 0), (
                    one.workflow_id
                )


async def outcomes_are_recorded_once(client: Client) -> None:
    for run in await all_runs(client):
        outcomes = Counter(
            one.event.activity_id for one in run.history if isinstance(one.event, OUTCOMES)
        )
        assert not outcomes or max(outcomes.values()) == 1, run.row.workflow_id


async def effects_have_attempts(arena: Arena, client: Client) -> None:
    """What the ledger says was begun is an attempt that the store knows, and was begun once."""
    begun = Counter(
        (one["run"], one["activity"], one["attempt"]) for one in arena.noted(what="begin")
    )
    assert max(begun.values()) == 1, [key for key, times in begun.items() if times > 1]
    runs = {id_text(one.row.run_id): one for one in await all_runs(client)}
    for run_id, activity_id, attempt in begun:
        rows = [one for one in runs[run_id].attempts if one.activity_id == activity_id]
        known = {row.attempt for row in rows}
        failed = [row.attempt for row in rows if row.state is not AttemptState.STARTED]
        # The one that succeeded has no row of its own, unless it was marked before it began.
        assert attempt in known or attempt == max(failed, default=0) + 1, (run_id, activity_id)


def at_most_once_is_kept(arena: Arena) -> None:
    careful = Counter(
        (one["run"], one["activity"])
        for one in arena.noted(what="begin")
        if str(one["workflow"]).startswith("careful-")
    )
    assert not careful or max(careful.values()) == 1
