"""Whole executions out of a file, and into one."""

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any, Final

from everlong_engine.machine import arrivals, moving
from everlong_engine.machine.pauses import PAUSED_ELSEWHERE
from everlong_engine.model.codec import checksum
from everlong_engine.model.entities import EntityChanges
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import CODES, RunTerminated
from everlong_engine.model.exported import (
    ExportedApproval,
    ExportedExecution,
    ExportedMail,
    ExportedRun,
)
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import ItemRow, Link, RunRow
from everlong_engine.model.writes import HistoryRow
from everlong_engine.store.sqlite import reads
from everlong_engine.store.sqlite.columns import APPROVAL, COLUMNS, ITEM, MAIL, check, named
from everlong_engine.store.sqlite.entities import entities_of, put_entities
from everlong_engine.store.sqlite.links import links_of, put_link
from everlong_engine.store.sqlite.moves import leave as leave_as_seen, make_room
from everlong_engine.store.sqlite.pauses import hold_arrival, pause_of
from everlong_engine.store.sqlite.rows import latest_run, put_mail, read_run, run_row
from everlong_engine.store.sqlite.statements import SQL, execute_rows
from everlong_engine.store.sqlite.tags import tag_values

__all__ = ["bring", "export", "leave"]

_TERMINATED: Final = CODES[RunTerminated]
_EVENT: Final = COLUMNS["history"][2:7]
_REQUEST: Final = COLUMNS["requests"][2:]
_USE: Final = COLUMNS["blob_uses"][1:]


# ------------------------------------------------------------------------------------------ out


def export(tx: Connection, target: Target, *, family: bool) -> list[ExportedExecution]:
    """An execution, and with `family` all that it waits for, and what those wait for.

    Raises:
        UndecodablePayload: some of it is damaged.
    """
    found: dict[bytes, ExportedExecution] = {}
    to_do = [target]
    while to_do:
        row = latest_run(tx, to_do.pop())
        if row is None or row.execution_id in found:
            continue
        found[row.execution_id] = one = _execution(tx, row)
        if family:
            to_do += [
                Target(link.shard, link.namespace, link.workflow_id, link.execution_id)
                for link in one.links
                if link.waiter_id == row.execution_id
            ]
    return list(found.values())


def _execution(tx: Connection, last: RunRow) -> ExportedExecution:
    key = (last.shard, last.execution_id)
    rows = [run_row(values) for values in tx.execute(SQL["runs_of_execution"], key).fetchall()]
    blobs: dict[bytes, bytes] = {}
    for row in rows:
        blobs.update(reads.blobs_of(tx, row))
    owners = dict.fromkeys([last.execution_id, *(row.run_id for row in rows)])
    mail = [] if not last.status.keeps_id else tx.execute(SQL["mail_of"], key).fetchall()
    pauses = pause_of(tx, *key, last.namespace, last.type) if last.status.is_open else []
    name = f"{last.workflow_id} (execution {named(last.execution_id)})"
    return ExportedExecution(
        runs=tuple(_run(tx, row) for row in rows),
        blobs=blobs,
        blob_uses=tuple((owner, digest) for owner in owners for digest in _uses(tx, last, owner)),
        mail=tuple(
            ExportedMail(*row[2:])
            for row in _checked("inbox", MAIL, mail, name)
            if row[2] != _TERMINATED
        ),
        requests=tuple(_checked("requests", _REQUEST, tx.execute(SQL["requests_of"], key), name)),
        items=tuple(
            ItemRow(*row)
            for row in _checked("published", ITEM, tx.execute(SQL["items_of"], key), name)
        ),
        entities=tuple(entities_of(tx, *key)),
        links=tuple(links_of(tx, last.shard, last.execution_id)),
        held=moving.held_by(pauses, PAUSED_ELSEWHERE),
    )


def _run(tx: Connection, row: RunRow) -> ExportedRun:
    key = (row.shard, row.run_id)
    name = f"{row.workflow_id} (run {named(row.run_id)})"
    events = tx.execute(SQL["history_of"], (*key, 1, reads.ALL_ROWS)).fetchall()
    history: list[HistoryRow] = []
    for seq, kind, at_us, body, stored in _checked("history", _EVENT, events, name):
        if seq != len(history) + 1 or checksum(seq, kind, body) != stored:
            raise UndecodablePayload(f"{name}: event {len(history) + 1} is missing or damaged")
        history.append((seq, kind, at_us, body, stored))
    approvals = tx.execute(SQL["approvals_of"], key).fetchall()
    return ExportedRun(
        row=row,
        history=tuple(history),
        attempts=tuple(reads.attempts_of(tx, *key)),
        approvals=tuple(
            ExportedApproval(*one) for one in _checked("approvals", APPROVAL, approvals, name)
        ),
    )


def _uses(tx: Connection, row: RunRow, owner: bytes) -> list[bytes]:
    key = (row.shard, owner)
    found = _checked("blob_uses", _USE, tx.execute(SQL["blob_uses_of"], key), row.workflow_id)
    return [digest for _, digest in found]


def _checked(table: str, columns: Any, rows: Any, name: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = list(rows)
    for values in found:
        check(table, columns, values, name)
    return found


def leave(tx: Connection, target: Target, seen: Sequence[ExportedExecution], to: str) -> bool:
    """Mark a family as moved, if nothing has gone on in it since it was `seen`."""
    now = export(tx, target, family=True)
    return leave_as_seen(tx, now, seen, to)


# ------------------------------------------------------------------------------------------- in


def bring(
    tx: Connection,
    executions: Sequence[ExportedExecution],
    *,
    moved: bool = False,
    rehearsed: bool = False,
) -> None:
    """Store executions that were exported elsewhere: all of them, or none.

    Raises:
        WorkflowAlreadyStarted: an open execution has the id.
        ImportRefused: something else of this store is in the way, or something is missing.
        Rehearsed: nothing is in the way, and nothing was to be stored.
    """
    if moved and make_room(tx, executions):
        return
    for execution in executions:
        _make_way(tx, execution)
        _put(tx, execution)
        last, states = execution.last, EntityChanges(execution.entities)
        put_entities(tx, last.shard, last.execution_id, states)
    for execution in executions:
        _put_links(tx, execution)
    if rehearsed:
        raise moving.Rehearsed


def _make_way(tx: Connection, execution: ExportedExecution) -> None:
    last = execution.last
    name = last.workflow_id
    for run in execution.runs:
        if read_run(tx, last.shard, run.row.run_id) is not None:
            raise arrivals.is_here(run.row)
        request_id = run.row.request_id
        key = (last.shard, last.namespace, name, request_id)
        if request_id is not None and tx.execute(SQL["run_of_request"], key).fetchone():
            raise arrivals.is_requested_here(run.row)
    there = latest_run(tx, Target(last.shard, last.namespace, name))
    if there is not None and there.status.keeps_id and last.status.is_open:
        raise arrivals.is_open_here(there)


def _put(tx: Connection, execution: ExportedExecution) -> None:
    last = execution.last
    shard = last.shard
    for run in execution.runs:
        row = run.row
        values: tuple[Any, ...] = (
            row.shard,
            row.run_id,
            row.execution_id,
            row.namespace,
            row.workflow_id,
            row.type,
            row.queue,
            int(row.status),
            row.next_seq,
            row.wake_us,
            row.started_us,
            row.closed_us,
            row.reason,
            row.request_id,
            row.version,
        )
        tx.execute(SQL["import_run"], values)
        tags = arrivals.tags_on_arrival(execution, run)
        if tags:
            execute_rows(tx, "put_tags", tag_values(row, tags))
        if run.history:
            rows = [(shard, row.run_id, *event, None) for event in run.history]
            execute_rows(tx, "insert_history", rows)
        for one in run.attempts:
            attempt = (
                shard,
                row.run_id,
                one.activity_id,
                one.attempt,
                int(one.state),
                one.started_us,
                one.ended_us,
                one.retry_us,
                one.error_type,
                one.error,
                one.traceback,
                one.worker,
                one.details,
            )
            tx.execute(SQL["put_attempt"], attempt)
        for asked in run.approvals:
            tx.execute(SQL["import_approval"], (shard, row.run_id, *asked))
    for digest in dict.fromkeys(digest for _, digest in execution.blob_uses):
        tx.execute(SQL["put_blob"], (shard, digest, execution.blobs[digest]))
    for owner, digest in execution.blob_uses:
        tx.execute(SQL["use_blob"], (shard, owner, digest))
    for mail in execution.mail:
        put_mail(tx, shard, last.execution_id, mail.kind, mail.body, None)
    for request_id, result in execution.requests:
        tx.execute(SQL["insert_request"], (shard, last.execution_id, request_id, result))
    if execution.items:
        items = [(shard, last.execution_id, *item) for item in execution.items]
        execute_rows(tx, "insert_published", items)
    hold_arrival(tx, last, execution.held)


def _put_links(tx: Connection, execution: ExportedExecution) -> None:
    """Who waits here for whom. Whoever waits elsewhere is not told from here."""
    for link in execution.links:
        waits = link.waiter_id == execution.last.execution_id
        if waits and not _is_open(tx, link, link.workflow_id, link.execution_id):
            raise arrivals.waits_elsewhere(execution.last, link)
        if waits or _is_open(tx, link, link.waiter, link.waiter_id):
            put_link(tx, link)


def _is_open(tx: Connection, link: Link, workflow_id: str, execution_id: bytes) -> bool:
    row = latest_run(tx, Target(link.shard, link.namespace, workflow_id, execution_id))
    return row is not None and row.execution_id == execution_id and row.status.is_open
