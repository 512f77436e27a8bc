"""What must be true of a store, whatever was killed: read from it, the ledger and the log."""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from everlong import Client
from everlong_engine.model.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityTimedOut,
    TimerFired,
    TimerStarted,
)
from everlong_engine.model.ids import id_text
from everlong_engine.model.runs import AttemptState, LoadedRun, RunRow, RunStatus
from everlong_engine.store.interface import RunFilter
from tests.chaos import flows
from tests.chaos.arena import Arena
from tests.chaos.customer import Operation, lines, outcome, plan

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


async def nobody_is_parked(client: Client) -> None:
    """Workers die here, but never because of a flow."""
    parked = (await client.list(status="blocked")).items
    assert not parked, [(one.workflow_id, one.reason) for one in parked]


async def acknowledged_is_there(arena: Arena) -> int:
    """Every answer that a client has seen so far stands in the store; how many there are.

    Starts by the run that was named, messages by their request id, terminations and results by how
    the execution ended. (What has no request id is looked for at the end.)
    """
    acknowledged, seen = arena.acknowledgements(), arena.seen()  # First: a client is at work.
    async with Client.connect(arena.db) as client:
        rows = await client.engine.store.list_runs(RunFilter("default"), RUNS_MAX, None)
    runs = {id_text(row.run_id): row for row in rows}
    newest: dict[str, RunRow] = {}
    for row in rows:  # Newest first.
        newest.setdefault(row.workflow_id, row)
    with closing(sqlite3.connect(f"file:{arena.db}?mode=ro", uri=True)) as file:
        requests = {row[0] for row in file.execute("SELECT request_id FROM requests")}
    for line in acknowledged:
        key, answer = line["key"], line["answer"]
        match key.partition("-")[0]:
            case "start" | "use" | "replace":
                assert answer == "refused" or answer in runs, f"{key} is lost"
            case "signal" | "enough" | "cancel":
                assert key in requests, f"{key} is lost"
            case "terminate":
                assert newest[f"endless-{key.split('-')[1]}"].status is RunStatus.TERMINATED, key
            case _:
                pass
    for line in seen:
        assert not newest[line["key"]].status.is_open, f"{line['key']} is open, its end was seen"
    return len(acknowledged)


async def everything_came_out_right(arena: Arena, seed: int, count: int) -> int:
    """The outcome of every flow, and each thing that was asked for once; how many answers had to be
    given again to a request that had been answered, or lost its answer."""
    answers: dict[str, set[Any]] = {}
    for line in arena.acknowledgements():
        answers.setdefault(line["key"], set()).add(line["answer"])
    assert [key for key, given in answers.items() if len(given) > 1] == [], "other answers"
    tried = Counter(line["key"] for line in lines(arena.log) if line["what"] == "tried")
    seen = {line["key"]: line["answer"] for line in arena.seen()}
    async with Client.connect(arena.db) as client:
        executions: dict[str, set[bytes]] = {}
        for run in await all_runs(client):
            executions.setdefault(run.row.workflow_id, set()).add(run.row.execution_id)
        operations = list(plan(seed, count))
        for one in operations:
            if one.verb != "start":
                continue
            result = await outcome(client, one.workflow_id)
            if one.kind == "chaos_hearer":
                _was_heard(one, result, operations, answers, tried)
            elif one.kind == "chaos_careful":
                assert result in (0, one.first)
            else:
                assert result == flows.expected(one.kind, one.first), (one.workflow_id, result)
            assert seen.get(one.workflow_id, result) == result, "a result that was seen changed"
            wanted = 2 if one.kind == "chaos_replaced" else 1
            assert len(executions[one.workflow_id]) == wanted, one.workflow_id
    return sum(times - 1 for times in tried.values())


def _was_heard(
    start: Operation,
    heard: list[int],
    operations: list[Operation],
    answers: dict[str, set[Any]],
    tried: Counter[str],
) -> None:
    """What was sent without a request id: once if it was acknowledged, else at most once."""
    shouts = [one for one in operations if one.verb == "shout" and one.first == start.first]
    assert heard == sorted(set(heard)), f"{start.workflow_id}: twice, or out of order: {heard}"
    assert set(heard) <= {one.number for one in shouts if one.key in tried}
    for one in shouts:
        assert one.key not in answers or one.number in heard, f"{one.key} is lost"


def nothing_begins_behind_a_termination(arena: Arena) -> None:
    """Of what client and worker of one process do: there the answer comes behind the end."""
    ended_ns = {
        f"endless-{line['key'].split('-')[1]}": line["at_ns"]
        for line in reversed(arena.acknowledgements())
        if line["key"].startswith("terminate-")
    }
    for begun in arena.noted(what="begin"):
        assert begun["at_ns"] <= ended_ns.get(begun["workflow"], begun["at_ns"]), begun


async def outcomes_are_recorded_once(client: Client) -> None:
    for run in await all_runs(client):
        outcomes = Counter(
            one.event.activity_id for one in run.history if isinstance(one.event, OUTCOMES)
        )
        assert not outcomes or max(outcomes.values()) == 1, run.row.workflow_id


async def timers_fire_once_and_never_early(client: Client) -> None:
    for run in await all_runs(client):
        due_us = {
            one.event.timer_id: one.event.due_us
            for one in run.history
            if isinstance(one.event, TimerStarted)
        }
        fired = [one for one in run.history if isinstance(one.event, TimerFired)]
        numbers = [one.event.timer_id for one in fired if isinstance(one.event, TimerFired)]
        assert len(numbers) == len(set(numbers)), f"{run.row.workflow_id}: fired twice"
        for number, one in zip(numbers, fired, strict=True):
            assert one.at_us >= due_us[number], f"{run.row.workflow_id}: fired early"


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
