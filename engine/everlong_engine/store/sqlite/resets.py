"""Resets and forks: a new run begins with a copy, and the other one is closed, in one transaction.

Nobody is asked: the other run's token moves on, so that whatever its owner still writes is refused.
"""

from sqlite3 import Connection
from typing import Any

from everlong_engine.machine import links, resets
from everlong_engine.machine.tagging import tags_in
from everlong_engine.model.codec import Blobs
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import child_request_id, name_of_reset
from everlong_engine.model.runs import MailRow, NewRun, RunRow, RunStatus
from everlong_engine.model.writes import ResetRefusal, ResetResult, ResetRun, Reunion
from everlong_engine.store.sqlite.entities import has_entities
from everlong_engine.store.sqlite.links import (
    close_now,
    deliver,
    ended,
    links_from_run,
    put_link,
)
from everlong_engine.store.sqlite.outgoing import await_end, link
from everlong_engine.store.sqlite.pauses import hold_arrival
from everlong_engine.store.sqlite.reads import blobs_of
from everlong_engine.store.sqlite.rows import (
    latest_run,
    new_run_values,
    put_blobs,
    put_mail,
    read_run,
)
from everlong_engine.store.sqlite.starts import same_request
from everlong_engine.store.sqlite.statements import SQL, execute_rows
from everlong_engine.store.sqlite.tags import tag_values

__all__ = ["reset_run"]


def reset_run(tx: Connection, reset: ResetRun) -> ResetResult:
    new, source = reset.run, reset.source
    known = _known(tx, reset)
    if known is not None:
        return known
    old = read_run(tx, source.shard, source.run_id)
    refusal = ResetResult(ResetRefusal.GONE) if old is None else _refusal(tx, reset, old)
    if refusal is not None or old is None:
        return refusal or ResetResult(ResetRefusal.GONE)
    unfed = [] if reset.is_fork else _unfed(tx, reset, old)
    waiting = set(reset.settled) | {one.number for one in reset.reunions}
    if not reset.is_fork:
        _close(tx, reset, old)
        waiting -= _move_links(tx, reset, old, waiting)
    _begin(tx, reset)
    for kind, body in reset.mail:
        put_mail(tx, new.shard, new.execution_id, kind, body, None)
    put_blobs(tx, new.shard, new.execution_id, reset.mail_blobs)
    waiting -= set(reset.settled) | _put_unfed(tx, reset, old, unfed)
    created = read_run(tx, new.shard, new.run_id)
    assert created is not None, "it has just been inserted"
    hold_arrival(tx, created)
    for one in reset.reunions:
        if one.number in waiting:
            _reunite(tx, reset, created, one)
    key = (new.shard, new.execution_id)
    for name, answer in reset.answers:
        tx.execute(SQL["put_request"], (*key, name, answer))
    if reset.request_id is not None and not reset.is_fork:
        name = name_of_reset(reset.request_id)
        tx.execute(SQL["insert_request"], (*key, name, new.run_id))
    return ResetResult(None, new.run_id, new.execution_id, old.status)


def _known(tx: Connection, reset: ResetRun) -> ResetResult | None:
    """The answer to a reset that was done before."""
    new = reset.run
    own = read_run(tx, new.shard, new.run_id)
    if own is not None:
        return ResetResult(None, own.run_id, own.execution_id, own.status, repeated=True)
    if reset.request_id is None:
        return None
    if reset.is_fork:
        same = same_request(tx, new, reset.request_id)
        if same is None:
            return None
        return ResetResult(None, same.run_id, same.execution_id, same.status, same_request=True)
    key = (new.shard, new.execution_id, name_of_reset(reset.request_id))
    found = tx.execute(SQL["find_request"], key).fetchone()
    if found is None:
        return None
    return ResetResult(None, found[0], new.execution_id, None, same_request=True)


def _refusal(tx: Connection, reset: ResetRun, old: RunRow) -> ResetResult | None:
    """Why it cannot be done now."""
    if has_entities(tx, old.shard, old.execution_id):
        return ResetResult(ResetRefusal.STATES)
    key = (old.shard, old.run_id, reset.seen, *resets.UNSEEN_KINDS)
    if tx.execute(SQL["message_behind"], key).fetchone() is not None:
        return ResetResult(ResetRefusal.MOVED_ON)
    if not reset.is_fork:
        target = Target(old.shard, old.namespace, old.workflow_id, old.execution_id)
        newest = latest_run(tx, target)
        if newest is None or newest.run_id != old.run_id:
            return ResetResult(ResetRefusal.MOVED_ON)
    new = reset.run
    there = latest_run(tx, Target(new.shard, new.namespace, new.workflow_id))
    other = there is not None and there.run_id != old.run_id
    if there is not None and (there.status.keeps_id if other else there.status is RunStatus.MOVED):
        return ResetResult(ResetRefusal.TAKEN, status=there.status)
    return None


# ------------------------------------------------------------------------------ the other run


def _unfed(tx: Connection, reset: ResetRun, old: RunRow) -> list[MailRow]:
    """What waits for the execution, and goes to the new run as it went to the other one."""
    rows = tx.execute(SQL["mail_of"], (old.shard, old.execution_id)).fetchall()
    found = (MailRow(*values) for values in rows)
    wanted = resets.SAID_KINDS
    return [one for one in found if one.kind in wanted and one.position not in reset.dropped]


def _put_unfed(tx: Connection, reset: ResetRun, old: RunRow, unfed: list[MailRow]) -> set[int]:
    """Behind what is fed first; the numbers of the answers among them."""
    answered: set[int] = set()
    stored = blobs_of(tx, old) if unfed else {}
    waits = {one.number for one in reset.reunions}
    for one in unfed:
        if one.kind in resets.MESSAGE_KINDS:
            put_mail(tx, old.shard, old.execution_id, one.kind, one.body, None)
            continue
        letter = resets.readdressed(one.kind, one.body, stored, old.run_id, reset.run.run_id)
        if letter is not None and letter[0] in waits:
            number, (kind, body), blobs = letter
            put_mail(tx, old.shard, old.execution_id, kind, body, blobs)
            answered.add(number)
    return answered


def _close(tx: Connection, reset: ResetRun, old: RunRow) -> None:
    """An open one is over with this; one that has ended stays as it was."""
    if not old.status.is_open:
        return
    kind, body = reset.closing
    close_now(tx, old, kind, body, RunStatus.RESET, reset.now_us, reset.append_id)


def _move_links(tx: Connection, reset: ResetRun, old: RunRow, waiting: set[int]) -> set[int]:
    """What the new run waits for as the other one did; of the others it knows nothing, and a child
    among them has lost its parent."""
    moved: set[int] = set()
    found = links_from_run(tx, old)
    tx.execute(SQL["forget_links_from_run"], (old.shard, old.execution_id, old.run_id))
    for one in found:
        if one.number in waiting:
            put_link(
                tx,
                link(reset.run, one.number, one.workflow_id, one.execution_id, one.on_parent_close),
            )
            moved.add(one.number)
            continue
        target = Target(one.shard, one.namespace, one.workflow_id, one.execution_id)
        child = latest_run(tx, target)
        if child is None or not child.status.is_open:
            continue
        if one.on_parent_close == "terminate":
            end_kind, end_body = links.termination_by_reset(old)
            status = RunStatus.TERMINATED
            seq = close_now(tx, child, end_kind, end_body, status, reset.now_us, None)
            ended(tx, child, seq, end_kind, end_body, reset.now_us)
        elif one.on_parent_close == "cancel":
            deliver(tx, child, *links.cancellation_by_reset(old), reset.now_us)
    return moved


# --------------------------------------------------------------------------------- the new run


def _begin(tx: Connection, reset: ResetRun) -> None:
    """Its row, its history, and what hangs on it."""
    new: NewRun = reset.run
    rows, blobs = list(reset.rows), dict(reset.blobs)
    values = new_run_values(new, RunStatus.RUNNING, len(rows) + 1, 0, None, reset.now_us, None)
    created = execute_rows(tx, "insert_runs", [values])
    assert created, "nobody has the workflow id"
    if not reset.is_fork:
        key = (new.shard, new.execution_id)
        published = tuple(tx.execute(SQL["published_numbers"], key).fetchall())
        if rows:
            rows[0] = resets.completed(rows[0], published, blobs)
    else:
        published = ()
    if reset.start is not None:
        spilled: Blobs = dict(reset.mail_blobs)
        start = reset.start
        if not reset.is_fork:
            start = resets.completed_start(start, published, spilled)
        put_mail(tx, new.shard, new.execution_id, *start, spilled)
    copied = [(kind, body) for _, kind, _, body, _ in rows] or [reset.start or (0, b"")]
    tags = tags_in(copied, blobs | dict(reset.mail_blobs))
    if tags:
        execute_rows(tx, "put_tags", tag_values(new, tags))
    key_of_run = (new.shard, new.run_id)
    if rows:
        history: list[tuple[Any, ...]] = [(*key_of_run, *row, None) for row in rows[:-1]]
        history.append((*key_of_run, *rows[-1], reset.append_id))
        execute_rows(tx, "insert_history", history)
    put_blobs(tx, new.shard, new.run_id, blobs)
    for number, seq in reset.approvals:
        tx.execute(SQL["insert_approval"], (*key_of_run, number, seq))
    if reset.items:
        items = [(new.shard, new.execution_id, *item) for item in reset.items]
        execute_rows(tx, "insert_published", items)


def _reunite(tx: Connection, reset: ResetRun, waiter: RunRow, one: Reunion) -> None:
    """What the run waits for, looked up anew."""
    execution_id, policy = None, ""
    if one.policy is not None:
        child = NewRun(
            shard=one.target.shard,
            run_id=b"",
            execution_id=b"",
            namespace=one.target.namespace,
            workflow_id=one.target.workflow_id,
            type="",
            queue="",
            started_us=0,
        )
        request_id = child_request_id(one.origin, one.number)
        begun = same_request(tx, child, request_id)
        if begun is None:
            letter = resets.unknown(one.number, waiter.run_id)
            put_mail(tx, waiter.shard, waiter.execution_id, *letter, None)
            return
        execution_id = begun.execution_id
        first = read_run(tx, child.shard, begun.run_id)
        if first is not None and first.request_id == request_id and not reset.is_fork:
            policy = one.policy  # One that was found, and used, is nobody's child by that.
        if one.wants_start:
            letter = links.started(one.number, waiter.run_id, execution_id)
            put_mail(tx, waiter.shard, waiter.execution_id, *letter, None)
    target = Target(one.target.shard, one.target.namespace, one.target.workflow_id, execution_id)
    if one.awaits_end:
        await_end(tx, waiter, one.number, target, policy)
        return
    problem = "" if latest_run(tx, target) is not None else links.NOT_FOUND
    letter = links.answer(one.number, waiter.run_id, problem)
    put_mail(tx, waiter.shard, waiter.execution_id, *letter, None)
