"""What the end of an execution means for others: who waits is told, children are dealt with.

All of it is in the transaction of the closing event, whoever wrote that (the run's owner, a client
that terminates, or the end of a parent in here), so nobody is forgotten. Deep families are walked
with a list, not by recursion.
"""

from typing import Any

from everlong_engine.machine import links
from everlong_engine.model.codec import checksum
from everlong_engine.model.ids import shard_of
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import Link, RunRow, RunStatus
from everlong_engine.store.postgres.pauses import forget_pause
from everlong_engine.store.postgres.rows import latest_run, put_mail, wake_for
from everlong_engine.store.postgres.statements import Tx

__all__ = [
    "close_now",
    "deliver",
    "ended",
    "link_of",
    "links_from_run",
    "links_of",
    "put_link",
    "tell_end",
]


async def put_link(tx: Tx, link: Link) -> None:
    values = (
        shard_of(link.namespace, link.workflow_id, tx.shards),
        link.execution_id,
        link.waiter_run,
        link.number,
        link.waiter_id,
        link.namespace,
        link.workflow_id,
        link.waiter,
        link.on_parent_close,
        shard_of(link.namespace, link.waiter, tx.shards),
    )
    await tx.run("put_link", values)


async def link_of(tx: Tx, key: tuple[Any, ...]) -> Link | None:
    """What a run waits for under (shard, its execution, it, number)."""
    found = await _links(tx, "link_at", key)
    return found[0] if found else None


async def links_from_run(tx: Tx, run: RunRow) -> list[Link]:
    """Whom a run waits for, and its children."""
    return await _links(tx, "links_from_run", (run.shard, run.execution_id, run.run_id))


async def _links(tx: Tx, query: str, key: tuple[Any, ...]) -> list[Link]:
    return [Link(*row) for row in await tx.all(query, key)]


async def links_of(tx: Tx, shard: int, execution_id: bytes) -> list[Link]:
    """Whom an execution waits for, then who waits for it."""
    key = (shard, execution_id)
    return [*await _links(tx, "links_from", key), *await _links(tx, "links_to", key)]


async def ended(tx: Tx, row: RunRow, seq: int, kind: int, body: bytes, now_us: int) -> bool:
    """An execution has ended with this event; whether anything came of it for others."""
    found = False
    to_do = [(row, seq, kind, body)]
    while to_do:
        closed, at, code, content = to_do.pop()
        for link in await _links(tx, "links_to", (closed.shard, closed.execution_id)):
            found |= await tell_end(tx, link, closed, at, code, content, now_us)
        await tx.run("forget_links_to", (closed.shard, closed.execution_id))
        for link in await _links(tx, "links_from", (closed.shard, closed.execution_id)):
            child = await _open_run(tx, link.namespace, link.workflow_id, link.execution_id)
            if child is None:
                continue
            if link.on_parent_close == "terminate":
                end_kind, end_body = links.termination(closed, code)
                status = RunStatus.TERMINATED
                end_seq = await close_now(tx, child, end_kind, end_body, status, now_us, None)
                to_do.append((child, end_seq, end_kind, end_body))
                found = True
            elif link.on_parent_close == "cancel":
                await deliver(tx, child, *links.cancellation(closed, code), now_us)
                found = True
        await tx.run("forget_links_from", (closed.shard, closed.execution_id))
    return found


async def tell_end(
    tx: Tx, link: Link, closed: RunRow, seq: int, kind: int, body: bytes, now_us: int
) -> bool:
    """Mail for the run that waits. One that has begun anew meanwhile does not wait any more."""
    waiting = await _open_run(tx, link.namespace, link.waiter, link.waiter_id)
    if waiting is None or waiting.run_id != link.waiter_run:
        return False
    mail_kind, mail_body, blobs, references = links.end(link, closed, seq, kind, body)
    await put_mail(tx, waiting.shard, waiting.execution_id, mail_kind, mail_body, blobs)
    for digest in references:
        if waiting.shard != closed.shard:
            await tx.run("copy_blob", (waiting.shard, closed.shard, digest))
        await tx.run("use_blob", (waiting.shard, waiting.execution_id, digest))
    await tx.run("wake_run", (now_us, waiting.shard, waiting.run_id))
    return True


async def _open_run(tx: Tx, namespace: str, workflow_id: str, execution_id: bytes) -> RunRow | None:
    """An execution's run, if it is open."""
    shard = shard_of(namespace, workflow_id, tx.shards)
    row = await latest_run(tx, Target(shard, namespace, workflow_id, execution_id))
    return row if row is not None and row.status.is_open else None


async def deliver(tx: Tx, to: RunRow, kind: int, body: bytes, now_us: int) -> int:
    """Leave a message for an open run, and have somebody look; its position."""
    position = await put_mail(tx, to.shard, to.execution_id, kind, body, None)
    await wake_for(tx, to, kind, now_us)
    return position


async def close_now(
    tx: Tx,
    row: RunRow,
    kind: int,
    body: bytes,
    status: RunStatus,
    now_us: int,
    append_id: int | None,
) -> int:
    """Close an open run from outside, whoever owns it; the number of its closing event."""
    key = (int(status), now_us, row.shard, row.run_id)
    seq: int = (await tx.one("terminate_run", key))[0]
    stored = checksum(seq, kind, body)
    values = (row.shard, row.run_id, seq, kind, now_us, body, stored, append_id)
    await tx.rows("insert_history", [values])
    await tx.run("forget_mail", (row.shard, row.execution_id))
    await tx.run("close_approvals", (row.shard, row.run_id))
    await tx.run("drop_tasks", (row.shard, row.run_id))
    if status is not RunStatus.RESET:  # The run in its place is held as well.
        await forget_pause(tx, row)
    if row.owner is not None:
        # A notice for the owner, so that it drops the run at once and not at its next append.
        notice = (row.shard, row.execution_id, kind, body, checksum(0, kind, body), row.owner)
        await tx.run("put_notice", notice)
    return seq
