"""Whole executions out of memory, and into it."""

from collections.abc import Sequence
from typing import Final

from everlong_engine.machine import arrivals, moving
from everlong_engine.machine.pauses import PAUSED_ELSEWHERE
from everlong_engine.model.entities import EntityChanges
from everlong_engine.model.events import CODES, RunTerminated
from everlong_engine.model.exported import (
    ExportedApproval,
    ExportedExecution,
    ExportedMail,
    ExportedRun,
)
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import Link, RunRow
from everlong_engine.store.memory import reads
from everlong_engine.store.memory.data import MemoryData, StoredApproval, StoredEvent
from everlong_engine.store.memory.entities import entities_of, put_entities
from everlong_engine.store.memory.links import put_link
from everlong_engine.store.memory.moves import leave as leave_as_seen, make_room
from everlong_engine.store.memory.pauses import hold_arrival, pause_of

__all__ = ["bring", "export", "leave"]

_TERMINATED: Final = CODES[RunTerminated]


def export(data: MemoryData, target: Target, *, family: bool) -> list[ExportedExecution]:
    """An execution, and with `family` all that it waits for, and what those wait for."""
    found: dict[bytes, ExportedExecution] = {}
    to_do = [target]
    while to_do:
        row = data.latest(to_do.pop())
        if row is None or row.execution_id in found:
            continue
        found[row.execution_id] = one = _execution(data, row)
        if family:
            to_do += [
                Target(link.shard, link.namespace, link.workflow_id, link.execution_id)
                for link in one.links
                if link.waiter_id == row.execution_id
            ]
    return list(found.values())


def _execution(data: MemoryData, last: RunRow) -> ExportedExecution:
    key = last.execution_id
    rows = [data.runs.rows[run_id] for run_id in sorted(data.of_execution.keys(key))]
    blobs: dict[bytes, bytes] = {}
    for row in rows:
        blobs.update(reads.blobs_of(data, row))
    owners = dict.fromkeys([key, *(row.run_id for row in rows)])
    uses = [use for owner in owners for use in sorted(data.blobs_of_owner.keys(owner))]
    mail = [] if not last.status.keeps_id else reads.mail_of(data, key)
    pauses = pause_of(data, last) if last.status.is_open else []
    requests = sorted(data.requests_of.keys(key))
    links = [
        *sorted(data.links_from.keys(key), key=lambda one: one[1:]),
        *sorted(data.links_to.keys(key), key=lambda one: one[1:]),
    ]
    return ExportedExecution(
        runs=tuple(_run(data, row) for row in rows),
        blobs=blobs,
        blob_uses=tuple(uses),
        mail=tuple(
            ExportedMail(one.kind, one.body, one.checksum)
            for one in mail
            if one.kind != _TERMINATED
        ),
        requests=tuple((one[1], data.requests.rows[one]) for one in requests),
        items=tuple(data.published.rows[one] for one in sorted(data.published_of.keys(key))),
        entities=tuple(entities_of(data, key)),
        links=tuple(data.links.rows[one] for one in links),
        held=moving.held_by(pauses, PAUSED_ELSEWHERE),
    )


def _run(data: MemoryData, row: RunRow) -> ExportedRun:
    asked = sorted(data.approvals_of.keys(row.run_id))
    approvals = [(number, data.approvals.rows[row.run_id, number]) for _, number in asked]
    return ExportedRun(
        row=row,
        history=tuple(reads.events_of(data, row.run_id)),
        attempts=tuple(reads.attempts_of(data, row.run_id)),
        approvals=tuple(
            ExportedApproval(number, one.seq, one.answer, one.request) for number, one in approvals
        ),
    )


def leave(data: MemoryData, target: Target, seen: Sequence[ExportedExecution], to: str) -> bool:
    """Mark a family as moved, if nothing has gone on in it since it was `seen`."""
    now = export(data, target, family=True)
    return leave_as_seen(data, now, seen, to)


def bring(
    data: MemoryData,
    executions: Sequence[ExportedExecution],
    *,
    moved: bool = False,
    rehearsed: bool = False,
) -> None:
    """Store executions that were exported elsewhere: all of them, or none."""
    if moved and make_room(data, executions):
        return
    for execution in executions:
        _make_way(data, execution)
        _put(data, execution)
    for execution in executions:
        _put_links(data, execution)
    if rehearsed:
        raise moving.Rehearsed


def _make_way(data: MemoryData, execution: ExportedExecution) -> None:
    last = execution.last
    name = last.workflow_id
    for run in execution.runs:
        if run.row.run_id in data.runs.rows:
            raise arrivals.is_here(run.row)
        request_id = run.row.request_id
        same = (last.namespace, name, request_id)
        if request_id is not None and data.of_request.keys(same):
            raise arrivals.is_requested_here(run.row)
    there = data.latest(Target(last.shard, last.namespace, name))
    if there is not None and there.status.keeps_id and last.status.is_open:
        raise arrivals.is_open_here(there)


def _put(data: MemoryData, execution: ExportedExecution) -> None:
    execution_id = execution.last.execution_id
    for run in execution.runs:
        run_id = run.row.run_id
        data.runs.put(run_id, run.row)
        data.change_tags(run_id, arrivals.tags_on_arrival(execution, run))
        for event in run.history:
            data.history.put((run_id, event[0]), StoredEvent(event, None))
        for one in run.attempts:
            data.attempts.put((run_id, one.activity_id, one.attempt), one)
        for asked in run.approvals:
            stored = StoredApproval(asked.seq, asked.answer, asked.request)
            data.approvals.put((run_id, asked.number), stored)
    for owner, digest in execution.blob_uses:
        data.put_blobs(owner, {digest: execution.blobs[digest]})
    for mail in execution.mail:
        data.put_mail(execution_id, mail.kind, mail.body, None)
    for request_id, result in execution.requests:
        data.requests.put((execution_id, request_id), result)
    for item in execution.items:
        data.published.put((execution_id, item.channel, item.number), item)
    put_entities(data, execution_id, EntityChanges(execution.entities))
    hold_arrival(data, execution.last, execution.held)


def _put_links(data: MemoryData, execution: ExportedExecution) -> None:
    """Who waits here for whom. Whoever waits elsewhere is not told from here."""
    for link in execution.links:
        waits = link.waiter_id == execution.last.execution_id
        if waits and not _is_open(data, link, link.workflow_id, link.execution_id):
            raise arrivals.waits_elsewhere(execution.last, link)
        if waits or _is_open(data, link, link.waiter, link.waiter_id):
            put_link(data, link)


def _is_open(data: MemoryData, link: Link, workflow_id: str, execution_id: bytes) -> bool:
    row = data.latest(Target(link.shard, link.namespace, workflow_id, execution_id))
    return row is not None and row.execution_id == execution_id and row.status.is_open
