"""New executions, and the policies for a workflow id that is taken."""

from hashlib import blake2b
from typing import Any

from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import name_of_start
from everlong_engine.model.runs import NewRun, RunRow, RunStatus
from everlong_engine.model.writes import Append, StartResult, StartRun, WriteResult
from everlong_engine.store.postgres.appends import history_values, item_values, put_approvals, trim
from everlong_engine.store.postgres.keys import start_by_key
from everlong_engine.store.postgres.letters import letter_values
from everlong_engine.store.postgres.messages import put_attached
from everlong_engine.store.postgres.pauses import is_held
from everlong_engine.store.postgres.rows import (
    latest_run,
    new_run_values,
    put_blobs,
    put_mail,
    read_run,
    run_row,
)
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tags import change_tags, tag_values

__all__ = ["has_conditions", "name_lock", "same_request", "start_runs", "start_values"]


async def start_runs(
    tx: Tx, starts: list[tuple[int, StartRun]], results: list[WriteResult]
) -> None:
    """Starts without conditions go in one statement, while no type is paused. The others look
    before they insert, one by one: what they must see may stand in the same group."""
    plain = [entry for entry in starts if not has_conditions(entry[1])]
    if plain:
        await _insert(tx, plain, results)
    conditional = [one for one in starts if has_conditions(one[1])]
    if conditional:
        # What they find does not change until they are stored: they come one after the other.
        names = {name for _, start in conditional for name in _locks(start)}
        await tx.all("lock_names", (sorted(names),))
    for at, start in conditional:
        if start.key is not None:
            results[at] = await start_by_key(tx, start, start.key, _start_alone)
        else:
            results[at] = await _start_alone(tx, start)


async def _start_alone(tx: Tx, start: StartRun) -> StartResult:
    refused = await _refuse(tx, start)
    if refused is not None:
        return refused
    results: list[WriteResult] = [None]
    await _insert(tx, [(0, start)], results)
    assert isinstance(results[0], StartResult)
    return results[0]


def _locks(start: StartRun) -> list[int]:
    """What it looks for under its workflow id, and under its key."""
    run, key = start.run, start.key
    return [name_lock(run), *([] if key is None else [key.lock_name(run.namespace, run.type)])]


def has_conditions(start: StartRun) -> bool:
    """Whether the unique index of open runs does not decide alone. It holds open runs only, so that
    it says nothing of one that is over with its first drive."""
    over_at_once = start.first is not None and start.first.closed is not None
    conditions = start.if_closed != "allow" or start.run.request_id is not None
    beside = start.attached is not None or start.key is not None
    return over_at_once or conditions or beside


def name_lock(run: NewRun) -> int:
    """A workflow id as an advisory lock knows it."""
    name = f"{run.namespace}\0{run.workflow_id}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), signed=True)


async def _insert(tx: Tx, starts: list[tuple[int, StartRun]], results: list[WriteResult]) -> None:
    values = [start_values(start, RunStatus.RUNNING) for _, start in starts]
    created = {row[0] for row in await tx.rows("begin_runs", values)}
    history: list[tuple[Any, ...]] = []
    items: list[tuple[Any, ...]] = []
    letters: list[tuple[Any, ...]] = []
    tags: list[tuple[Any, ...]] = []
    changing: list[Append] = []
    for at, start in starts:
        run = start.run
        result = StartResult(True, run.run_id, run.execution_id, RunStatus.RUNNING)
        if run.run_id not in created:
            result = await _refuse(tx, start) or await _begin_alone(tx, start)
        results[at] = result
        if not result.created or result.repeated:
            continue
        if run.tags:
            tags += tag_values(run, run.tags)
        if start.first is not None:
            history += history_values(start.first)
            items += item_values(start.first)
            letters += letter_values(start.first)
            if start.first.tags:
                changing.append(start.first)
            await put_approvals(tx, start.first)
            await put_blobs(tx, run.shard, run.run_id, start.first.blobs)
        else:
            await put_mail(tx, run.shard, run.execution_id, start.kind, start.body, start.blobs)
            if start.attached is not None:
                await put_attached(tx, run.shard, run.execution_id, start.attached)
    if history:
        await tx.rows("insert_history", history)
    if items:
        await tx.rows("insert_published", items)
        await trim(tx, (start.first for _, start in starts if start.first is not None))
    if letters:
        await tx.rows("put_letters", letters)
    if tags:
        await tx.rows("put_tags", tags)
    for first in changing:  # Behind what they began with.
        await change_tags(tx, first)


async def _begin_alone(tx: Tx, start: StartRun) -> StartResult:
    """While some type is paused. What is held waits in the store, and is not driven."""
    run = start.run
    held = await is_held(tx, run.shard, run.execution_id, run.namespace, run.type)
    status = RunStatus.PAUSED if held else RunStatus.RUNNING
    if held and start.first is not None:
        return StartResult(False, run.run_id, run.execution_id, status, held=True)
    while not await tx.rows("insert_runs", [start_values(start, status)]):
        refused = await _refuse(tx, start)  # Another start, which was committed meanwhile.
        if refused is not None:
            return refused
    return StartResult(True, run.run_id, run.execution_id, status)


def start_values(start: StartRun, status: RunStatus) -> tuple[Any, ...]:
    first, run = start.first, start.run
    if first is None:
        wake_us = start.wake_us if status is RunStatus.RUNNING else None
        return new_run_values(run, status, 1, 0, None, wake_us, None)
    status = status if first.closed is None else first.closed
    owner = start.owner if status.is_open else None
    next_seq = first.base + len(first.rows)
    return new_run_values(run, status, next_seq, first.token, owner, None, first.closed_us)


async def _refuse(tx: Tx, start: StartRun) -> StartResult | None:
    """The answer to a start whose conditions are not met; None when it may begin."""
    run = start.run
    if run.request_id is not None:
        same = await same_request(tx, run, run.request_id)
        if same is not None:
            return same
    latest = await latest_run(tx, Target(run.shard, run.namespace, run.workflow_id))
    if latest is None:
        return None
    own = await read_run(tx, run.shard, run.run_id)
    if own is not None:  # This very start was done before, and its answer lost.
        return _found(own, created=True, repeated=True)
    if latest.status.is_open:
        if start.if_open == "use" and run.request_id is not None:
            name = name_of_start(run.request_id)
            values = (latest.shard, latest.execution_id, name, latest.run_id)
            await tx.run("insert_request", values)
        if start.if_open == "use" and start.attached is not None:
            await put_attached(tx, latest.shard, latest.execution_id, start.attached)
            await tx.run("wake_run", (start.wake_us, latest.shard, latest.run_id))
        return _found(latest, refused=start.if_open == "fail")
    if latest.status.keeps_id:
        return _found(latest, refused=True)
    bad_end = latest.status is not RunStatus.COMPLETED
    if start.if_closed == "fail" or (start.if_closed == "allow_failed" and not bad_end):
        return _found(latest, refused=True)
    return None


async def same_request(tx: Tx, run: NewRun, request_id: str) -> StartResult | None:
    """What a start with this request id was answered before."""
    key = (run.shard, run.namespace, run.workflow_id)
    began = await tx.one("run_of_request", (*key, request_id))
    if began is not None:
        row = run_row(began)
        its_own = row.run_id == run.run_id  # Done before, as below.
        return _found(row, created=its_own, same_request=not its_own, repeated=its_own)
    by_name = (*key, name_of_start(request_id))
    used = await tx.one("user_of_request", by_name)
    if used is None:
        return None
    row = run_row(used)
    return StartResult(False, used["result"], row.execution_id, row.status, same_request=True)


def _found(
    row: RunRow,
    *,
    same_request: bool = False,
    refused: bool = False,
    created: bool = False,
    repeated: bool = False,
) -> StartResult:
    return StartResult(
        created,
        row.run_id,
        row.execution_id,
        row.status,
        same_request,
        refused,
        repeated=repeated,
    )
