"""What the end of an execution means for others: who waits is told, children are dealt with."""

from msgspec.structs import replace

from everlong_engine.machine import links
from everlong_engine.model.codec import checksum
from everlong_engine.model.events import CODES, CancelRequested
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import Link, Probation, RunRow, RunStatus
from everlong_engine.store.memory.data import MemoryData, StoredEvent

__all__ = ["close_now", "deliver", "ended", "link_of", "put_link", "tell_end", "wake"]


def put_link(data: MemoryData, link: Link) -> None:
    key = (link.execution_id, link.waiter_run, link.number)
    if key not in data.links.rows:
        data.links.put(key, link)


def link_of(data: MemoryData, waiter: RunRow, number: int) -> Link | None:
    """What a run waits for under one of its numbers."""
    for key in data.links_from.keys(waiter.execution_id):
        if key[1:] == (waiter.run_id, number):
            return data.links.rows[key]
    return None


def ended(data: MemoryData, row: RunRow, seq: int, kind: int, body: bytes, now_us: int) -> bool:
    """An execution has ended with this event; whether anything came of it for others."""
    found = False
    to_do = [(row, seq, kind, body)]
    while to_do:
        closed, at, code, content = to_do.pop()
        for key in _in_order(data.links_to.keys(closed.execution_id)):
            found |= tell_end(data, data.links.rows[key], closed, at, code, content, now_us)
            data.links.remove(key)
        for key in _in_order(data.links_from.keys(closed.execution_id)):
            link = data.links.rows[key]
            data.links.remove(key)
            child = _open_run(data, link.namespace, link.workflow_id, link.execution_id)
            if child is None:
                continue
            if link.on_parent_close == "terminate":
                end_kind, end_body = links.termination(closed, code)
                status = RunStatus.TERMINATED
                end_seq = close_now(data, child, end_kind, end_body, status, now_us, None)
                to_do.append((child, end_seq, end_kind, end_body))
                found = True
            elif link.on_parent_close == "cancel":
                deliver(data, child, *links.cancellation(closed, code), now_us)
                found = True
    return found


def _in_order(keys: object) -> list[tuple[bytes, bytes, int]]:
    """By run and number, as they were made."""
    return sorted(keys, key=lambda key: key[1:])  # type: ignore[call-overload, no-any-return]


def tell_end(
    data: MemoryData, link: Link, closed: RunRow, seq: int, kind: int, body: bytes, now_us: int
) -> bool:
    """Mail for the run that waits, unless that has begun anew."""
    waiting = _open_run(data, link.namespace, link.waiter, link.waiter_id)
    if waiting is None or waiting.run_id != link.waiter_run:
        return False
    mail_kind, mail_body, blobs, references = links.end(link, closed, seq, kind, body)
    data.put_mail(waiting.execution_id, mail_kind, mail_body, blobs)
    for digest in references:
        if (waiting.execution_id, digest) not in data.blob_uses.rows:
            data.blob_uses.put((waiting.execution_id, digest), True)
    wake(data, waiting, now_us)
    return True


def _open_run(
    data: MemoryData, namespace: str, workflow_id: str, execution_id: bytes
) -> RunRow | None:
    row = data.latest(Target(0, namespace, workflow_id, execution_id))
    return row if row is not None and row.status.is_open else None


def deliver(data: MemoryData, to: RunRow, kind: int, body: bytes, now_us: int) -> int:
    """Leave a message for an open run, and have somebody look; its position."""
    position = data.put_mail(to.execution_id, kind, body, None)
    wake(data, to, now_us, kind)
    return position


def wake(data: MemoryData, run: RunRow, now_us: int, kind: int | None = None) -> None:
    """Have somebody look at a run that sleeps; a blocked one stays parked, and one whose beginning
    is put off begins when it should, unless it is cancelled."""
    put_off = run.waits_for_turn or run.begins_us(now_us) is not None
    if put_off and kind != CODES[CancelRequested]:
        return
    if run.owner is None and run.status is RunStatus.RUNNING:
        wake_us = now_us if run.wake_us is None else min(run.wake_us, now_us)
        data.runs.put(run.run_id, replace(run, wake_us=wake_us))


def close_now(
    data: MemoryData,
    run: RunRow,
    kind: int,
    body: bytes,
    status: RunStatus,
    now_us: int,
    append_id: int | None,
) -> int:
    """Close an open run from outside; the owner is fenced, and told by a notice in its mail."""
    seq = run.next_seq
    closed = replace(
        run,
        status=status,
        closed_us=now_us,
        next_seq=seq + 1,
        lease_token=run.lease_token + 1,
        owner=None,
        wake_us=None,
        probation=Probation.NONE,
        reason=None,
    )
    data.runs.put(run.run_id, closed)
    row = (seq, kind, now_us, body, checksum(seq, kind, body))
    data.history.put((run.run_id, seq), StoredEvent(row, append_id))
    data.forget_mail(run.execution_id)
    data.close_approvals(run.run_id)
    data.drop_tasks(run.run_id)
    if status is not RunStatus.RESET and run.execution_id in data.pauses.rows:
        data.pauses.remove(run.execution_id)
    if run.owner is not None:
        data.put_mail(run.execution_id, kind, body, None)
    return seq
