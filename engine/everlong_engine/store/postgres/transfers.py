"""Whole executions out of the store, and into it."""

from collections.abc import Sequence
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
from everlong_engine.model.ids import id_text, shard_of
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import ItemRow, Link, RunRow
from everlong_engine.model.writes import HistoryRow
from everlong_engine.store.postgres import reads
from everlong_engine.store.postgres.entities import entities_of, put_entities
from everlong_engine.store.postgres.leases import attempt_values
from everlong_engine.store.postgres.links import links_of, put_link
from everlong_engine.store.postgres.moves import leave as leave_as_seen, make_room
from everlong_engine.store.postgres.pauses import hold_arrival, pause_of
from everlong_engine.store.postgres.rows import latest_run, put_mail, read_run, run_row
from everlong_engine.store.postgres.statements import Tx
from everlong_engine.store.postgres.tags import tag_values

__all__ = ["bring", "export", "leave"]

_TERMINATED: Final = CODES[RunTerminated]


# ------------------------------------------------------------------------------------------ out


async def export(tx: Tx, target: Target, *, family: bool) -> list[ExportedExecution]:
    """An execution, and with `family` all that it waits for, and what those wait for.

    Raises:
        UndecodablePayload: some of it is damaged.
    """
    found: dict[bytes, ExportedExecution] = {}
    to_do = [target]
    while to_do:
        row = await latest_run(tx, to_do.pop())
        if row is None or row.execution_id in found:
            continue
        found[row.execution_id] = one = await _execution(tx, row)
        if family:
            to_do += [
                Target(link.shard, link.namespace, link.workflow_id, link.execution_id)
                for link in one.links
                if link.waiter_id == row.execution_id
            ]
    return list(found.values())


async def _execution(tx: Tx, last: RunRow) -> ExportedExecution:
    key = (last.shard, last.execution_id)
    rows = [run_row(values) for values in await tx.all("runs_of_execution", key)]
    blobs: dict[bytes, bytes] = {}
    for row in rows:
        blobs.update(await reads.blobs_of(tx, row))
    owners = dict.fromkeys([last.execution_id, *(row.run_id for row in rows)])
    uses: list[tuple[bytes, bytes]] = []
    for owner in owners:
        for owner_id, digest in await tx.all("blob_uses_of", (last.shard, owner)):
            uses.append((owner_id, digest))
    mail = await tx.rows("mail_of", [key]) if last.status.keeps_id else []
    pauses = await pause_of(tx, *key, last.namespace, last.type) if last.status.is_open else []
    return ExportedExecution(
        runs=tuple([await _run(tx, row) for row in rows]),
        blobs=blobs,
        blob_uses=tuple(uses),
        mail=tuple(ExportedMail(*row[2:]) for row in mail if row[2] != _TERMINATED),
        requests=tuple([tuple(row) for row in await tx.all("requests_of", key)]),
        items=tuple([ItemRow(*row) for row in await tx.all("items_of", key)]),
        entities=tuple(await entities_of(tx, *key)),
        links=tuple(await links_of(tx, last.shard, last.execution_id)),
        held=moving.held_by(pauses, PAUSED_ELSEWHERE),
    )


async def _run(tx: Tx, row: RunRow) -> ExportedRun:
    key = (row.shard, row.run_id)
    name = f"{row.workflow_id} (run {id_text(row.run_id)})"
    history: list[HistoryRow] = []
    for _, seq, kind, at_us, body, stored in await tx.rows("history_of", [key]):
        if seq != len(history) + 1 or checksum(seq, kind, body) != stored:
            raise UndecodablePayload(f"{name}: event {len(history) + 1} is missing or damaged")
        history.append((seq, kind, at_us, body, stored))
    approvals = await tx.all("approvals_of", key)
    return ExportedRun(
        row=row,
        history=tuple(history),
        attempts=tuple(await reads.attempts_of(tx, *key)),
        approvals=tuple(ExportedApproval(*one) for one in approvals),
    )


async def leave(tx: Tx, target: Target, seen: Sequence[ExportedExecution], to: str) -> bool:
    """Mark a family as moved, if nothing has gone on in it since it was `seen`."""
    await tx.rows("lock_runs", sorted((one.last.shard, one.last.run_id) for one in seen))
    now = await export(tx, target, family=True)
    return await leave_as_seen(tx, now, seen, to)


# ------------------------------------------------------------------------------------------- in


async def bring(
    tx: Tx,
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
    if moved and await make_room(tx, executions):
        return
    for execution in executions:
        await _make_way(tx, execution)
        await _put(tx, execution)
    for execution in executions:
        await _put_links(tx, execution)
    if rehearsed:
        raise moving.Rehearsed


async def _make_way(tx: Tx, execution: ExportedExecution) -> None:
    last = execution.last
    name = last.workflow_id
    for run in execution.runs:
        if await read_run(tx, last.shard, run.row.run_id) is not None:
            raise arrivals.is_here(run.row)
        request_id = run.row.request_id
        key = (last.shard, last.namespace, name, request_id)
        if request_id is not None and await tx.one("run_of_request", key):
            raise arrivals.is_requested_here(run.row)
    there = await latest_run(tx, Target(last.shard, last.namespace, name))
    if there is not None and there.status.keeps_id and last.status.is_open:
        raise arrivals.is_open_here(there)


async def _put(tx: Tx, execution: ExportedExecution) -> None:
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
        await tx.run("import_run", values)
        tags = arrivals.tags_on_arrival(execution, run)
        if tags:
            await tx.rows("put_tags", tag_values(row, tags))
        if run.history:
            rows = [(shard, row.run_id, *event, None) for event in run.history]
            await tx.rows("insert_history", rows)
        if run.attempts:
            tried = [attempt_values(shard, row.run_id, one) for one in run.attempts]
            await tx.rows("put_attempts", tried)
        for asked in run.approvals:
            await tx.run("import_approval", (shard, row.run_id, *asked))
    digests = dict.fromkeys(digest for _, digest in execution.blob_uses)
    if digests:
        blobs = [(shard, digest, execution.blobs[digest]) for digest in digests]
        await tx.rows("put_blobs", blobs)
        await tx.rows("use_blobs", [(shard, *use) for use in execution.blob_uses])
    for mail in execution.mail:
        await put_mail(tx, shard, last.execution_id, mail.kind, mail.body, None)
    for request_id, result in execution.requests:
        await tx.run("insert_request", (shard, last.execution_id, request_id, result))
    if execution.items:
        items = [(shard, last.execution_id, *item) for item in execution.items]
        await tx.rows("insert_published", items)
    await put_entities(tx, shard, last.execution_id, EntityChanges(execution.entities))
    await hold_arrival(tx, last, execution.held)


async def _put_links(tx: Tx, execution: ExportedExecution) -> None:
    """Who waits here for whom. Whoever waits elsewhere is not told from here."""
    for link in execution.links:
        waits = link.waiter_id == execution.last.execution_id
        if waits and not await _is_open(tx, link, link.workflow_id, link.execution_id):
            raise arrivals.waits_elsewhere(execution.last, link)
        if waits or await _is_open(tx, link, link.waiter, link.waiter_id):
            await put_link(tx, link)


async def _is_open(tx: Tx, link: Link, workflow_id: str, execution_id: bytes) -> bool:
    shard = shard_of(link.namespace, workflow_id, tx.shards)
    row = await latest_run(tx, Target(shard, link.namespace, workflow_id, execution_id))
    return row is not None and row.execution_id == execution_id and row.status.is_open
