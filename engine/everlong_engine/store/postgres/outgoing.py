"""What an accepted append sends to other executions, and what its end means for them.

A file has one shard, so all of it happens in the append's own transaction. An append that was
stored before has sent everything already, and is passed over.
"""

from collections.abc import Sequence
from dataclasses import replace
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
from everlong_engine.store.postgres.links import (
    close_now,
    deliver,
    ended,
    link_of,
    put_link,
    tell_end,
)
from everlong_engine.store.postgres.rows import latest_run, put_blobs, put_mail, read_run
from everlong_engine.store.postgres.starts import start_runs
from everlong_engine.store.postgres.statements import Tx

__all__ = ["await_end", "link", "send_all"]


async def send_all(tx: Tx, writes: Sequence[Write], results: list[WriteResult]) -> None:
    """In the order of the writes, once all of the group's starts and appends are stored."""
    linked: set[bytes] | None = None  # Asked once a group, and again when something was sent.
    for at, write in enumerate(writes):
        append = _accepted(write, results[at])
        if append is None:
            continue
        sent = False
        if append.outgoing:
            sent = await _send(tx, append)
            linked = None
        if append.closed is not None and append.next_run is None:
            linked = await _linked(tx, writes, results) if linked is None else linked
            if append.execution_id in linked:
                sent |= await _ended(tx, append)
        if sent:
            results[at] = replace(results[at], delivered=True)  # type: ignore[type-var]


async def _linked(tx: Tx, writes: Sequence[Write], results: list[WriteResult]) -> set[bytes]:
    """Which of the executions that end in this group have to do with others."""
    found = (_accepted(write, result) for write, result in zip(writes, results, strict=True))
    ends = {(one.shard, one.execution_id) for one in found if one is not None and one.closed}
    return {row[0] for row in await tx.rows("linked", list(ends))}


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


async def _ended(tx: Tx, append: Append) -> bool:
    row = await read_run(tx, append.shard, append.run_id)
    assert row is not None, "its append has just been accepted"
    seq, kind, at_us, body, _ = append.rows[-1]
    return await ended(tx, row, seq, kind, body, at_us)


async def _send(tx: Tx, append: Append) -> bool:
    row = await read_run(tx, append.shard, append.run_id)
    assert row is not None, "its append has just been accepted"
    ends = append.closed is not None and append.next_run is None
    for one in append.outgoing:
        await _send_one(tx, row, one, ends=ends)
    return True


async def _send_one(tx: Tx, sender: RunRow, one: Outgoing, *, ends: bool) -> None:
    match one:
        case StartChild():
            await _start_child(tx, sender, one, ends=ends)
        case CancelChild():
            found = await link_of(
                tx, (sender.shard, sender.execution_id, sender.run_id, one.number)
            )
            if found is not None:
                child = await latest_run(tx, _target(found))
                if child is not None and child.status.is_open:
                    await deliver(tx, child, one.kind, one.body, one.now_us)
        case SendTo():
            await _send_to(tx, sender, one)
        case AwaitEnd():
            await await_end(tx, sender, one.number, one.target, "")
        case _:
            assert_never(one)


def _target(link: Link) -> Target:
    return Target(link.shard, link.namespace, link.workflow_id, link.execution_id)


async def _tell(tx: Tx, sender: RunRow, letter: tuple[int, bytes]) -> None:
    """An answer, unless the sender has gone on without it. It is owned: nobody need be woken."""
    if sender.status.is_open:
        await put_mail(tx, sender.shard, sender.execution_id, *letter, None)


async def _start_child(tx: Tx, parent: RunRow, one: StartChild, *, ends: bool) -> None:
    """`ends` says that the parent's end is in the very append that begins the child. One that comes
    behind it in the group, though it shows in the parent's row, deals with the child as ever."""
    new = one.run
    if one.if_open == "terminate":
        await _make_room(tx, parent, one)
    still = await read_run(tx, parent.shard, parent.run_id)
    if still is not None and still.status is RunStatus.TERMINATED:
        # By another append of this group, or to make room: it was an ancestor that stood there.
        return
    start = StartRun(
        new, one.if_open, one.if_closed, one.kind, one.body, blobs=one.blobs, wake_us=one.wake_us
    )
    results: list[WriteResult] = [None]
    await start_runs(tx, [(0, start)], results)
    result = results[0]
    assert isinstance(result, StartResult)
    found = one.if_open == "use" and result.status.is_open and not result.refused
    if not (result.created or found):
        await _tell(tx, parent, links.refused(one.number, parent.run_id, result.status.text))
        return
    if not ends:
        # One that was there before is waited for, and is nobody's child by that.
        policy = one.on_parent_close if result.created else ""
        await put_link(tx, link(parent, one.number, new.workflow_id, result.execution_id, policy))
    if one.wants_start:
        await _tell(tx, parent, links.started(one.number, parent.run_id, result.execution_id))


async def _make_room(tx: Tx, parent: RunRow, one: StartChild) -> None:
    """Terminate who has the child's workflow id."""
    new = one.run
    row = await latest_run(tx, Target(new.shard, new.namespace, new.workflow_id))
    if row is None or not row.status.is_open:
        return
    kind, body = links.replacement()
    seq = await close_now(tx, row, kind, body, RunStatus.TERMINATED, one.wake_us, None)
    await ended(tx, row, seq, kind, body, one.wake_us)


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


async def _send_to(tx: Tx, sender: RunRow, one: SendTo) -> None:
    row = await latest_run(tx, one.target)
    problem = links.NOT_FOUND if row is None else ""
    if row is not None:
        if row.status.is_open:
            await put_blobs(tx, row.shard, row.execution_id, one.blobs)
            await deliver(tx, row, one.kind, one.body, one.now_us)
        else:
            problem = row.status.text
    await _tell(tx, sender, links.answer(one.number, sender.run_id, problem))


async def await_end(
    tx: Tx, waiter: RunRow, number: int, target: Target, on_parent_close: str
) -> None:
    """Tell it when an execution has ended, at once if it has already."""
    row = await latest_run(tx, target)
    if row is None:
        await _tell(tx, waiter, links.answer(number, waiter.run_id, links.NOT_FOUND))
        return
    made = link(waiter, number, row.workflow_id, row.execution_id, on_parent_close)
    if row.status.is_open:
        if waiter.status.is_open:
            await put_link(tx, made)
        return
    last = await tx.one("last_event", (row.shard, row.run_id))
    if last is None:  # Somebody has taken its history away.
        await _tell(tx, waiter, links.answer(number, waiter.run_id, links.NOT_FOUND))
    else:
        seq, kind, at_us, body, _ = last
        await tell_end(tx, made, row, seq, kind, body, at_us)
