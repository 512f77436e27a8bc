"""What the end of an execution means for others: who waits is told, children are dealt with.

All of it is in the transaction of the closing event, whoever wrote that (the run's owner, a client
that terminates, or the end of a parent in here), so nobody is forgotten. Deep families are walked
with a list, not by recursion.
"""

from sqlite3 import Connection
from typing import Any, Final

from everlong_engine.machine import links
from everlong_engine.model.codec import checksum
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import Link, RunRow, RunStatus
from everlong_engine.store.sqlite.columns import COLUMNS, wrong
from everlong_engine.store.sqlite.pauses import forget_pause
from everlong_engine.store.sqlite.rows import latest_run, put_mail, wake_for
from everlong_engine.store.sqlite.statements import SQL, execute_rows

__all__ = [
    "any_link",
    "close_now",
    "deliver",
    "ended",
    "link_of",
    "links_from_run",
    "links_of",
    "put_link",
    "tell_end",
]

_LINK: Final = COLUMNS["links"]


def any_link(tx: Connection) -> bool:
    """The cheap first look."""
    return tx.execute(SQL["any_link"]).fetchone() is not None


def put_link(tx: Connection, link: Link) -> None:
    values = (
        link.shard,
        link.execution_id,
        link.waiter_run,
        link.number,
        link.waiter_id,
        link.namespace,
        link.workflow_id,
        link.waiter,
        link.on_parent_close,
    )
    tx.execute(SQL["put_link"], values)


def link_of(tx: Connection, key: tuple[Any, ...]) -> Link | None:
    """What a run waits for under (shard, its execution, it, number)."""
    found = _links(tx, "link_at", key)
    return found[0] if found else None


def links_from_run(tx: Connection, run: RunRow) -> list[Link]:
    """Whom a run waits for, and its children."""
    return _links(tx, "links_from_run", (run.shard, run.execution_id, run.run_id))


def _links(tx: Connection, query: str, key: tuple[Any, ...]) -> list[Link]:
    """Rows that nobody of us wrote are left out: they lead nowhere, and `verify` names them."""
    rows = tx.execute(SQL[query], key).fetchall()
    return [Link(*row) for row in rows if wrong(_LINK, row) is None]


def links_of(tx: Connection, shard: int, execution_id: bytes) -> list[Link]:
    """Whom an execution waits for, then who waits for it."""
    key = (shard, execution_id)
    return [*_links(tx, "links_from", key), *_links(tx, "links_to", key)]


def ended(tx: Connection, row: RunRow, seq: int, kind: int, body: bytes, now_us: int) -> bool:
    """An execution has ended with this event; whether anything came of it for others."""
    found = False
    to_do = [(row, seq, kind, body)]
    while to_do:
        closed, at, code, content = to_do.pop()
        for link in _links(tx, "links_to", (closed.shard, closed.execution_id)):
            found |= tell_end(tx, link, closed, at, code, content, now_us)
        tx.execute(SQL["forget_links_to"], (closed.shard, closed.execution_id))
        for link in _links(tx, "links_from", (closed.shard, closed.execution_id)):
            child = _open_run(tx, link.shard, link.namespace, link.workflow_id, link.execution_id)
            if child is None:
                continue
            if link.on_parent_close == "terminate":
                end_kind, end_body = links.termination(closed, code)
                status = RunStatus.TERMINATED
                end_seq = close_now(tx, child, end_kind, end_body, status, now_us, None)
                to_do.append((child, end_seq, end_kind, end_body))
                found = True
            elif link.on_parent_close == "cancel":
                deliver(tx, child, *links.cancellation(closed, code), now_us)
                found = True
        tx.execute(SQL["forget_links_from"], (closed.shard, closed.execution_id))
    return found


def tell_end(
    tx: Connection, link: Link, closed: RunRow, seq: int, kind: int, body: bytes, now_us: int
) -> bool:
    """Mail for the run that waits. One that has begun anew meanwhile does not wait any more."""
    waiting = _open_run(tx, link.shard, link.namespace, link.waiter, link.waiter_id)
    if waiting is None or waiting.run_id != link.waiter_run:
        return False
    mail_kind, mail_body, blobs, references = links.end(link, closed, seq, kind, body)
    put_mail(tx, waiting.shard, waiting.execution_id, mail_kind, mail_body, blobs)
    for digest in references:
        tx.execute(SQL["use_blob"], (waiting.shard, waiting.execution_id, digest))
    tx.execute(SQL["wake_run"], (now_us, waiting.shard, waiting.run_id))
    return True


def _open_run(
    tx: Connection, shard: int, namespace: str, workflow_id: str, execution_id: bytes
) -> RunRow | None:
    """An execution's run, if it is open. A row that cannot be read is nobody's reason to stop."""
    try:
        row = latest_run(tx, Target(shard, namespace, workflow_id, execution_id))
    except UndecodablePayload:
        return None  # It is blocked where it is claimed, and `verify` names it.
    return row if row is not None and row.status.is_open else None


def deliver(tx: Connection, to: RunRow, kind: int, body: bytes, now_us: int) -> int:
    """Leave a message for an open run, and have somebody look; its position."""
    position = put_mail(tx, to.shard, to.execution_id, kind, body, None)
    wake_for(tx, to, kind, now_us)
    return position


def close_now(
    tx: Connection,
    row: RunRow,
    kind: int,
    body: bytes,
    status: RunStatus,
    now_us: int,
    append_id: int | None,
) -> int:
    """Close an open run from outside, whoever owns it; the number of its closing event."""
    key = (int(status), now_us, row.shard, row.run_id)
    seq: int = tx.execute(SQL["terminate_run"], key).fetchone()[0]
    stored = checksum(seq, kind, body)
    values = (row.shard, row.run_id, seq, kind, now_us, body, stored, append_id)
    execute_rows(tx, "insert_history", [values])
    tx.execute(SQL["forget_mail"], (row.shard, row.execution_id))
    tx.execute(SQL["close_approvals"], (row.shard, row.run_id))
    tx.execute(SQL["drop_tasks"], (row.shard, row.run_id))
    if status is not RunStatus.RESET:  # The run in its place is held as well.
        forget_pause(tx, row)
    if row.owner is not None:
        # A notice for the owner, so that it drops the run at once and not at its next append.
        put_mail(tx, row.shard, row.execution_id, kind, body, None)
    return seq
