"""What an accepted append sends to other executions, and what its end means for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias, assert_never

from everlong_engine.machine import links
from everlong_engine.model.outgoing import (
    AwaitEnd,
    CancelChild,
    Outgoing,
    SendTo,
    StartChild,
    Target,
)
from everlong_engine.model.runs import Link, NewRun, RunRow, RunStatus
from everlong_engine.model.writes import (
    Append,
    AppendResult,
    StartResult,
    StartRun,
    Write,
    WriteResult,
)
from everlong_engine.store.memory import reads
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.links import (
    close_now,
    deliver,
    ended,
    link_of,
    put_link,
    tell_end,
)

__all__ = ["Starter", "await_end", "link", "send_all"]

Starter: TypeAlias = Callable[[MemoryData, StartRun], StartResult]
"""Begins an execution, or tells who stands in its way."""


def send_all(
    data: MemoryData, writes: Sequence[Write], results: list[WriteResult], start: Starter
) -> None:
    """In the order of the writes, once all of the group's starts and appends are stored."""
    for at, write in enumerate(writes):
        append = _accepted(write, results[at])
        if append is None:
            continue
        sent = bool(append.outgoing)
        sender = data.runs.rows[append.run_id]
        ends = append.closed is not None and append.next_run is None
        for one in append.outgoing:
            _send_one(data, sender, one, start, ends=ends)
        if ends:
            seq, kind, at_us, body, _ = append.rows[-1]
            sent |= ended(data, sender, seq, kind, body, at_us)
        if sent:
            results[at] = replace(results[at], delivered=True)  # type: ignore[type-var]


def _accepted(write: Write, result: WriteResult) -> Append | None:
    if isinstance(write, Append) and isinstance(result, AppendResult):
        append, stored = write, result.refusal is None and not result.repeated
    elif isinstance(write, StartRun) and isinstance(result, StartResult):
        if write.first is None:
            return None
        append, stored = write.first, result.created and not result.repeated
    else:
        return None
    return append if stored else None


def _send_one(
    data: MemoryData, sender: RunRow, one: Outgoing, start: Starter, *, ends: bool
) -> None:
    match one:
        case StartChild():
            _start_child(data, sender, one, start, ends=ends)
        case CancelChild():
            found = link_of(data, sender, one.number)
            if found is not None:
                target = Target(0, found.namespace, found.workflow_id, found.execution_id)
                child = data.latest(target)
                if child is not None and child.status.is_open:
                    deliver(data, child, one.kind, one.body, one.now_us)
        case SendTo():
            _send_to(data, sender, one)
        case AwaitEnd():
            await_end(data, sender, one.number, one.target, "")
        case _:
            assert_never(one)


def _tell(data: MemoryData, sender: RunRow, letter: tuple[int, bytes]) -> None:
    """An answer, unless the sender has gone on without it."""
    if sender.status.is_open:
        data.put_mail(sender.execution_id, *letter, None)


def _start_child(
    data: MemoryData, parent: RunRow, one: StartChild, start: Starter, *, ends: bool
) -> None:
    """An end of the parent that stands behind this append, in the same group, deals with the child
    as ever; `ends` says that it is in this very append."""
    new = one.run
    if one.if_open == "terminate":
        row = data.latest(Target(0, new.namespace, new.workflow_id))
        if row is not None and row.status.is_open:
            kind, body = links.replacement()
            seq = close_now(data, row, kind, body, RunStatus.TERMINATED, one.wake_us, None)
            ended(data, row, seq, kind, body, one.wake_us)
    if data.runs.rows[parent.run_id].status is RunStatus.TERMINATED:
        # By another append of this group, or to make room: it was an ancestor that stood there.
        return
    result = start(
        data,
        StartRun(
            new,
            one.if_open,
            one.if_closed,
            one.kind,
            one.body,
            blobs=one.blobs,
            wake_us=one.wake_us,
        ),
    )
    found = one.if_open == "use" and result.status.is_open and not result.refused
    if not (result.created or found):
        _tell(data, parent, links.refused(one.number, parent.run_id, result.status.text))
        return
    if not ends:
        policy = one.on_parent_close if result.created else ""
        put_link(data, link(parent, one.number, new.workflow_id, result.execution_id, policy))
    if one.wants_start:
        _tell(data, parent, links.started(one.number, parent.run_id, result.execution_id))


def link(
    waiter: RunRow | NewRun,
    number: int,
    workflow_id: str,
    execution_id: bytes,
    on_parent_close: str,
) -> Link:
    return Link(
        waiter.shard,
        execution_id,
        waiter.run_id,
        number,
        waiter.execution_id,
        waiter.namespace,
        workflow_id,
        waiter.workflow_id,
        on_parent_close,
    )


def _send_to(data: MemoryData, sender: RunRow, one: SendTo) -> None:
    row = data.latest(one.target)
    problem = links.NOT_FOUND if row is None else ""
    if row is not None:
        if row.status.is_open:
            data.put_blobs(row.execution_id, one.blobs)
            deliver(data, row, one.kind, one.body, one.now_us)
        else:
            problem = row.status.text
    _tell(data, sender, links.answer(one.number, sender.run_id, problem))


def await_end(
    data: MemoryData, waiter: RunRow, number: int, target: Target, on_parent_close: str
) -> None:
    """Tell it when an execution has ended, at once if it has already."""
    row = data.latest(target)
    if row is None:
        _tell(data, waiter, links.answer(number, waiter.run_id, links.NOT_FOUND))
        return
    made = link(waiter, number, row.workflow_id, row.execution_id, on_parent_close)
    if row.status.is_open:
        if waiter.status.is_open:
            put_link(data, made)
        return
    events = reads.events_of(data, row.run_id)
    seq, kind, at_us, body, _ = events[-1]
    tell_end(data, made, row, seq, kind, body, at_us)
