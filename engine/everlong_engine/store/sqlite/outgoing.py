"""What an accepted append sends to other executions, and what its end means for them.

A file has one shard, so all of it happens in the append's own transaction. An append that was
stored before has sent everything already, and is passed over.
"""

from collections.abc import Sequence
from dataclasses import replace
from sqlite3 import Connection
from typing import assert_never

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
from everlong_engine.store.sqlite.links import (
    any_link,
    close_now,
    deliver,
    ended,
    link_of,
    put_link,
    tell_end,
)
from everlong_engine.store.sqlite.rows import latest_run, put_blobs, put_mail, read_run
from everlong_engine.store.sqlite.starts import start_runs
from everlong_engine.store.sqlite.statements import SQL

__all__ = ["await_end", "link", "send_all"]


def send_all(tx: Connection, writes: Sequence[Write], results: list[WriteResult]) -> None:
    """In the order of the writes, once all of the group's starts and appends are stored."""
    linked: bool | None = None  # Asked once a group, and again when something was sent.
    for at, write in enumerate(writes):
        append = _accepted(write, results[at])
        if append is None:
            continue
        sent = False
        if append.outgoing:
            sent = _send(tx, append)
            linked = None
        if append.closed is not None and append.next_run is None:
            linked = any_link(tx) if linked is None else linked
            if linked:
                sent |= _ended(tx, append)
        if sent:
            results[at] = replace(results[at], delivered=True)  # type: ignore[type-var]


def _accepted(write: Write, result: WriteResult) -> Append | None:
    """The append that was stored just now, if it has anything for others."""
    if isinstance(write, Append) and isinstance(result, AppendResult):
        append, stored = write, result.refusal is None and not result.repeated
    elif isinstance(write, StartRun) and isinstance(result, StartResult):
        if write.first is None:
            return None
        append, stored = write.first, result.created and not result.repeated
    else:
        return None
    return append if stored and (append.outgoing or append.closed is not None) else None


def _ended(tx: Connection, append: Append) -> bool:
    row = read_run(tx, append.shard, append.run_id)
    assert row is not None, "its append has just been accepted"
    seq, kind, at_us, body, _ = append.rows[-1]
    return ended(tx, row, seq, kind, body, at_us)


def _send(tx: Connection, append: Append) -> bool:
    row = read_run(tx, append.shard, append.run_id)
    assert row is not None, "its append has just been accepted"
    ends = append.closed is not None and append.next_run is None
    for one in append.outgoing:
        _send_one(tx, row, one, ends=ends)
    return True


def _send_one(tx: Connection, sender: RunRow, one: Outgoing, *, ends: bool) -> None:
    match one:
        case StartChild():
            _start_child(tx, sender, one, ends=ends)
        case CancelChild():
            found = link_of(tx, (sender.shard, sender.execution_id, sender.run_id, one.number))
            if found is not None:
                child = latest_run(tx, _target(found))
                if child is not None and child.status.is_open:
                    deliver(tx, child, one.kind, one.body, one.now_us)
        case SendTo():
            _send_to(tx, sender, one)
        case AwaitEnd():
            await_end(tx, sender, one.number, one.target, "")
        case _:
            assert_never(one)


def _target(link: Link) -> Target:
    return Target(link.shard, link.namespace, link.workflow_id, link.execution_id)


def _tell(tx: Connection, sender: RunRow, letter: tuple[int, bytes]) -> None:
    """An answer, unless the sender has gone on without it. It is owned: nobody need be woken."""
    if sender.status.is_open:
        put_mail(tx, sender.shard, sender.execution_id, *letter, None)


def _start_child(tx: Connection, parent: RunRow, one: StartChild, *, ends: bool) -> None:
    """`ends` says that the parent's end is in the very append that begins the child. One that comes
    behind it in the group, though it shows in the parent's row, deals with the child as ever."""
    new = one.run
    if one.if_open == "terminate":
        _make_room(tx, parent, one)
    still = read_run(tx, parent.shard, parent.run_id)
    if still is not None and still.status is RunStatus.TERMINATED:
        # By another append of this group, or to make room: it was an ancestor that stood there.
        return
    start = StartRun(
        new, one.if_open, one.if_closed, one.kind, one.body, blobs=one.blobs, wake_us=one.wake_us
    )
    results: list[WriteResult] = [None]
    start_runs(tx, [(0, start)], results)
    result = results[0]
    assert isinstance(result, StartResult)
    found = one.if_open == "use" and result.status.is_open and not result.refused
    if not (result.created or found):
        _tell(tx, parent, links.refused(one.number, parent.run_id, result.status.text))
        return
    if not ends:
        # One that was there before is waited for, and is nobody's child by that.
        policy = one.on_parent_close if result.created else ""
        put_link(tx, link(parent, one.number, new.workflow_id, result.execution_id, policy))
    if one.wants_start:
        _tell(tx, parent, links.started(one.number, parent.run_id, result.execution_id))


def _make_room(tx: Connection, parent: RunRow, one: StartChild) -> None:
    """Terminate who has the child's workflow id."""
    new = one.run
    row = latest_run(tx, Target(new.shard, new.namespace, new.workflow_id))
    if row is None or not row.status.is_open:
        return
    kind, body = links.replacement()
    seq = close_now(tx, row, kind, body, RunStatus.TERMINATED, one.wake_us, None)
    ended(tx, row, seq, kind, body, one.wake_us)


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


def _send_to(tx: Connection, sender: RunRow, one: SendTo) -> None:
    row = latest_run(tx, one.target)
    problem = links.NOT_FOUND if row is None else ""
    if row is not None:
        if row.status.is_open:
            put_blobs(tx, row.shard, row.execution_id, one.blobs)
            deliver(tx, row, one.kind, one.body, one.now_us)
        else:
            problem = row.status.text
    _tell(tx, sender, links.answer(one.number, sender.run_id, problem))


def await_end(
    tx: Connection, waiter: RunRow, number: int, target: Target, on_parent_close: str
) -> None:
    """Tell it when an execution has ended, at once if it has already."""
    row = latest_run(tx, target)
    if row is None:
        _tell(tx, waiter, links.answer(number, waiter.run_id, links.NOT_FOUND))
        return
    made = link(waiter, number, row.workflow_id, row.execution_id, on_parent_close)
    if row.status.is_open:
        if waiter.status.is_open:
            put_link(tx, made)
        return
    last = tx.execute(SQL["last_event"], (row.shard, row.run_id)).fetchone()
    if last is None:  # Somebody has taken its history away.
        _tell(tx, waiter, links.answer(number, waiter.run_id, links.NOT_FOUND))
    else:
        seq, kind, at_us, body, _ = last
        tell_end(tx, made, row, seq, kind, body, at_us)
