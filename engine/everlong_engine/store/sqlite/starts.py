"""New executions, and the policies for a workflow id that is taken."""

from sqlite3 import Connection
from typing import Any

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import name_of_start
from everlong_engine.model.runs import NewRun, RunRow, RunStatus
from everlong_engine.model.writes import Append, StartResult, StartRun, WriteResult
from everlong_engine.store.sqlite.appends import history_values, item_values, put_approvals, trim
from everlong_engine.store.sqlite.columns import as_id, fetch_one
from everlong_engine.store.sqlite.keys import start_by_key
from everlong_engine.store.sqlite.letters import letter_values
from everlong_engine.store.sqlite.messages import put_attached
from everlong_engine.store.sqlite.pauses import is_held
from everlong_engine.store.sqlite.rows import (
    latest_run,
    new_run_values,
    put_blobs,
    put_mail,
    read_run,
    run_row,
)
from everlong_engine.store.sqlite.statements import SQL, execute_rows
from everlong_engine.store.sqlite.tags import change_tags, tag_values

__all__ = ["same_request", "start_runs"]


def start_runs(
    tx: Connection, starts: list[tuple[int, StartRun]], results: list[WriteResult]
) -> None:
    """Starts without conditions go in one statement, while no type is paused. The others look
    before they insert, one by one: what they must see may stand in the same group."""
    plain = [entry for entry in starts if not _has_conditions(entry[1])]
    if plain:
        _insert(tx, plain, results)
    for at, start in starts:
        if start.key is not None:
            results[at] = start_by_key(tx, start, start.key, _start_alone)
        elif _has_conditions(start):
            results[at] = _start_alone(tx, start)


def _start_alone(tx: Connection, start: StartRun) -> StartResult:
    refused = _refuse(tx, start)
    if refused is not None:
        return refused
    results: list[WriteResult] = [None]
    _insert(tx, [(0, start)], results)
    assert isinstance(results[0], StartResult)
    return results[0]


def _has_conditions(start: StartRun) -> bool:
    """Whether the unique index of open runs does not decide alone. It holds open runs only, so that
    it says nothing of one that is over with its first drive."""
    over_at_once = start.first is not None and start.first.closed is not None
    conditions = start.if_closed != "allow" or start.run.request_id is not None
    beside = start.attached is not None or start.key is not None
    return over_at_once or conditions or beside


def _insert(tx: Connection, starts: list[tuple[int, StartRun]], results: list[WriteResult]) -> None:
    values = [_values(start, RunStatus.RUNNING) for _, start in starts]
    created = {row[0] for row in execute_rows(tx, "begin_runs", values)}
    history: list[tuple[Any, ...]] = []
    items: list[tuple[Any, ...]] = []
    letters: list[tuple[Any, ...]] = []
    tags: list[tuple[Any, ...]] = []
    changing: list[Append] = []
    for at, start in starts:
        run = start.run
        result = StartResult(True, run.run_id, run.execution_id, RunStatus.RUNNING)
        if run.run_id not in created:
            result = _refuse(tx, start) or _begin_alone(tx, start)
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
            put_approvals(tx, start.first)
            put_blobs(tx, run.shard, run.run_id, start.first.blobs)
        else:
            put_mail(tx, run.shard, run.execution_id, start.kind, start.body, start.blobs)
            if start.attached is not None:
                put_attached(tx, run.shard, run.execution_id, start.attached)
    if history:
        execute_rows(tx, "insert_history", history)
    if items:
        execute_rows(tx, "insert_published", items)
        trim(tx, (start.first for _, start in starts if start.first is not None))
    if letters:
        execute_rows(tx, "put_letters", letters)
    if tags:
        execute_rows(tx, "put_tags", tags)
    for first in changing:  # Behind what they began with.
        change_tags(tx, first)


def _begin_alone(tx: Connection, start: StartRun) -> StartResult:
    """While some type is paused. What is held waits in the store, and is not driven."""
    run = start.run
    held = is_held(tx, run.shard, run.execution_id, run.namespace, run.type)
    status = RunStatus.PAUSED if held else RunStatus.RUNNING
    if held and start.first is not None:
        return StartResult(False, run.run_id, run.execution_id, status, held=True)
    created = execute_rows(tx, "insert_runs", [_values(start, status)])
    assert created, "the insert met a row that is not there"
    return StartResult(True, run.run_id, run.execution_id, status)


def _values(start: StartRun, status: RunStatus) -> tuple[Any, ...]:
    first, run = start.first, start.run
    if first is None:
        wake_us = start.wake_us if status is RunStatus.RUNNING else None
        return new_run_values(run, status, 1, 0, None, wake_us, None)
    status = status if first.closed is None else first.closed
    owner = start.owner if status.is_open else None
    next_seq = first.base + len(first.rows)
    return new_run_values(run, status, next_seq, first.token, owner, None, first.closed_us)


def _refuse(tx: Connection, start: StartRun) -> StartResult | None:
    """The answer to a start whose conditions are not met; None when it may begin."""
    run = start.run
    if run.request_id is not None:
        same = same_request(tx, run, run.request_id)
        if same is not None:
            return same
    latest = latest_run(tx, Target(run.shard, run.namespace, run.workflow_id))
    if latest is None:
        return None
    own = read_run(tx, run.shard, run.run_id)
    if own is not None:  # This very start was done before, and its answer lost.
        return _found(own, created=True, repeated=True)
    if latest.status.is_open:
        if start.if_open == "use" and run.request_id is not None:
            name = name_of_start(run.request_id)
            values = (latest.shard, latest.execution_id, name, latest.run_id)
            tx.execute(SQL["insert_request"], values)
        if start.if_open == "use" and start.attached is not None:
            put_attached(tx, latest.shard, latest.execution_id, start.attached)
            tx.execute(SQL["wake_run"], (start.wake_us, latest.shard, latest.run_id))
        return _found(latest, refused=start.if_open == "fail")
    if latest.status.keeps_id:
        return _found(latest, refused=True)
    bad_end = latest.status is not RunStatus.COMPLETED
    if start.if_closed == "fail" or (start.if_closed == "allow_failed" and not bad_end):
        return _found(latest, refused=True)
    return None


def same_request(tx: Connection, run: NewRun, request_id: str) -> StartResult | None:
    """What a start with this request id was answered before."""
    key = (run.shard, run.namespace, run.workflow_id)
    began = fetch_one(tx, SQL["run_of_request"], (*key, request_id), run.workflow_id)
    if began is not None:
        row = run_row(began)
        its_own = row.run_id == run.run_id  # Done before, as below.
        return _found(row, created=its_own, same_request=not its_own, repeated=its_own)
    by_name = (*key, name_of_start(request_id))
    used = fetch_one(tx, SQL["user_of_request"], by_name, run.workflow_id)
    if used is None:
        return None
    row, told = run_row(used[:-1]), as_id(used[-1])
    if told is None:
        raise UndecodablePayload(reason=f"the answer to the request {request_id!r:.80} is no id")
    return StartResult(False, told, row.execution_id, row.status, same_request=True)


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
