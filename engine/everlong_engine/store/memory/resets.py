"""Resets and forks: a new run begins with a copy and the other is closed, in one transaction."""

from everlong_engine.machine import links, resets
from everlong_engine.machine.tagging import tags_in
from everlong_engine.model.codec import Blobs
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import child_request_id, name_of_reset
from everlong_engine.model.runs import Link, MailRow, NewRun, Probation, RunRow, RunStatus
from everlong_engine.model.writes import ResetRefusal, ResetResult, ResetRun, Reunion
from everlong_engine.store.memory import reads
from everlong_engine.store.memory.data import MemoryData, StoredApproval, StoredEvent
from everlong_engine.store.memory.links import close_now, deliver, ended, put_link
from everlong_engine.store.memory.outgoing import await_end, link
from everlong_engine.store.memory.pauses import hold_arrival
from everlong_engine.store.memory.starts import same_request

__all__ = ["reset_run"]


def reset_run(data: MemoryData, reset: ResetRun) -> ResetResult:
    new = reset.run
    known = _known(data, reset)
    if known is not None:
        return known
    old = data.runs.get(reset.source.run_id)
    if old is None:
        return ResetResult(ResetRefusal.GONE)
    refusal = _refusal(data, reset, old)
    if refusal is not None:
        return refusal
    unfed = [] if reset.is_fork else _unfed(data, reset, old)
    waiting = set(reset.settled) | {one.number for one in reset.reunions}
    if not reset.is_fork:
        if old.status.is_open:
            kind, body = reset.closing
            close_now(data, old, kind, body, RunStatus.RESET, reset.now_us, reset.append_id)
        waiting -= _move_links(data, reset, old, waiting)
    created = _begin(data, reset)
    hold_arrival(data, created)
    for kind, body in reset.mail:
        data.put_mail(new.execution_id, kind, body, None)
    data.put_blobs(new.execution_id, reset.mail_blobs)
    waiting -= set(reset.settled) | _put_unfed(data, reset, old, unfed)
    for one in reset.reunions:
        if one.number in waiting:
            _reunite(data, reset, created, one)
    for name, answer in reset.answers:
        data.requests.put((new.execution_id, name), answer)
    if reset.request_id is not None and not reset.is_fork:
        data.requests.put((new.execution_id, name_of_reset(reset.request_id)), new.run_id)
    return ResetResult(None, new.run_id, new.execution_id, old.status)


def _known(data: MemoryData, reset: ResetRun) -> ResetResult | None:
    """The answer to a reset that was done before."""
    new = reset.run
    own = data.runs.get(new.run_id)
    if own is not None:
        return ResetResult(None, own.run_id, own.execution_id, own.status, repeated=True)
    if reset.request_id is None:
        return None
    if reset.is_fork:
        same = same_request(data, new, reset.request_id)
        if same is None:
            return None
        return ResetResult(None, same.run_id, same.execution_id, same.status, same_request=True)
    found = data.requests.get((new.execution_id, name_of_reset(reset.request_id)))
    if found is None:
        return None
    return ResetResult(None, found, new.execution_id, None, same_request=True)


def _refusal(data: MemoryData, reset: ResetRun, old: RunRow) -> ResetResult | None:
    """Why it cannot be done now."""
    if data.entities_of.keys(old.execution_id):
        return ResetResult(ResetRefusal.STATES)
    behind = (data.history.get((old.run_id, seq)) for seq in range(reset.seen, old.next_seq))
    if any(one is not None and one.row[1] in resets.UNSEEN_KINDS for one in behind):
        return ResetResult(ResetRefusal.MOVED_ON)
    if not reset.is_fork:
        newest = data.latest(Target(0, old.namespace, old.workflow_id, old.execution_id))
        if newest is None or newest.run_id != old.run_id:
            return ResetResult(ResetRefusal.MOVED_ON)
    there = data.latest(Target(0, reset.run.namespace, reset.run.workflow_id))
    other = there is not None and there.run_id != old.run_id
    if there is not None and (there.status.keeps_id if other else there.status is RunStatus.MOVED):
        return ResetResult(ResetRefusal.TAKEN, status=there.status)
    return None


def _unfed(data: MemoryData, reset: ResetRun, old: RunRow) -> list[MailRow]:
    """What waits for the execution, and goes to the new run as it went to the other one."""
    wanted = resets.SAID_KINDS
    found = (data.mail.rows[one] for one in sorted(data.mail_positions(old.execution_id)))
    return [one for one in found if one.kind in wanted and one.position not in reset.dropped]


def _put_unfed(data: MemoryData, reset: ResetRun, old: RunRow, unfed: list[MailRow]) -> set[int]:
    """Behind what is fed first; the numbers of the answers among them."""
    answered: set[int] = set()
    stored = reads.blobs_of(data, old)
    waits = {one.number for one in reset.reunions}
    for one in unfed:
        if one.kind in resets.MESSAGE_KINDS:
            data.put_mail(old.execution_id, one.kind, one.body, None)
            continue
        letter = resets.readdressed(one.kind, one.body, stored, old.run_id, reset.run.run_id)
        if letter is not None and letter[0] in waits:
            number, (kind, body), blobs = letter
            data.put_mail(old.execution_id, kind, body, blobs)
            answered.add(number)
    return answered


def _move_links(data: MemoryData, reset: ResetRun, old: RunRow, waiting: set[int]) -> set[int]:
    """What the new run waits for as the other one did; a child that it knows nothing of has lost
    its parent."""
    moved: set[int] = set()
    keys = (key for key in data.links_from.keys(old.execution_id) if key[1] == old.run_id)
    found: list[Link] = []
    for key in sorted(keys, key=lambda key: key[2]):
        found.append(data.links.rows[key])
        data.links.remove(key)
    for one in found:
        if one.number in waiting:
            made = link(
                reset.run, one.number, one.workflow_id, one.execution_id, one.on_parent_close
            )
            put_link(data, made)
            moved.add(one.number)
            continue
        child = data.latest(Target(0, one.namespace, one.workflow_id, one.execution_id))
        if child is None or not child.status.is_open:
            continue
        if one.on_parent_close == "terminate":
            kind, body = links.termination_by_reset(old)
            status = RunStatus.TERMINATED
            seq = close_now(data, child, kind, body, status, reset.now_us, None)
            ended(data, child, seq, kind, body, reset.now_us)
        elif one.on_parent_close == "cancel":
            deliver(data, child, *links.cancellation_by_reset(old), reset.now_us)
    return moved


def _begin(data: MemoryData, reset: ResetRun) -> RunRow:
    """The new run's row, its history, and what hangs on it."""
    new = reset.run
    rows, blobs = list(reset.rows), dict(reset.blobs)
    row = RunRow(
        shard=new.shard,
        run_id=new.run_id,
        execution_id=new.execution_id,
        namespace=new.namespace,
        workflow_id=new.workflow_id,
        type=new.type,
        queue=new.queue,
        status=RunStatus.RUNNING,
        next_seq=len(rows) + 1,
        lease_token=0,
        owner=None,
        wake_us=reset.now_us,
        started_us=new.started_us,
        closed_us=None,
        losses=0,
        strikes=0,
        probation=Probation.NONE,
        reason=None,
        request_id=new.request_id,
        version=new.version,
    )
    data.runs.put(new.run_id, row)
    published = () if reset.is_fork else _published(data, new)
    if rows and not reset.is_fork:
        rows[0] = resets.completed(rows[0], published, blobs)
    if reset.start is not None:
        spilled: Blobs = dict(reset.mail_blobs)
        start = reset.start
        if not reset.is_fork:
            start = resets.completed_start(start, published, spilled)
        data.put_mail(new.execution_id, *start, spilled)
    copied = [(kind, body) for _, kind, _, body, _ in rows] or [reset.start or (0, b"")]
    data.change_tags(new.run_id, tags_in(copied, blobs | dict(reset.mail_blobs)))
    for event in rows:
        append_id = reset.append_id if event is rows[-1] else None
        data.history.put((new.run_id, event[0]), StoredEvent(event, append_id))
    data.put_blobs(new.run_id, blobs)
    for number, seq in reset.approvals:
        data.approvals.put((new.run_id, number), StoredApproval(seq))
    for item in reset.items:
        data.published.put((new.execution_id, item.channel, item.number), item)
    return row


def _published(data: MemoryData, new: NewRun) -> tuple[tuple[str, int], ...]:
    """How far the output channels of the execution have come."""
    numbers: dict[str, int] = {}
    for _, channel, number in data.published_of.keys(new.execution_id):
        numbers[channel] = max(numbers.get(channel, 0), number + 1)
    return tuple(sorted(numbers.items()))


def _reunite(data: MemoryData, reset: ResetRun, waiter: RunRow, one: Reunion) -> None:
    """What the run waits for, looked up anew."""
    execution_id, policy = None, ""
    if one.policy is not None:
        child = NewRun(
            shard=0,
            run_id=b"",
            execution_id=b"",
            namespace=one.target.namespace,
            workflow_id=one.target.workflow_id,
            type="",
            queue="",
            started_us=0,
        )
        request_id = child_request_id(one.origin, one.number)
        begun = same_request(data, child, request_id)
        if begun is None:
            letter = resets.unknown(one.number, waiter.run_id)
            data.put_mail(waiter.execution_id, *letter, None)
            return
        execution_id = begun.execution_id
        first = data.runs.rows.get(begun.run_id)
        if first is not None and first.request_id == request_id and not reset.is_fork:
            policy = one.policy  # One that was found, and used, is nobody's child by that.
        if one.wants_start:
            letter = links.started(one.number, waiter.run_id, execution_id)
            data.put_mail(waiter.execution_id, *letter, None)
    target = Target(0, one.target.namespace, one.target.workflow_id, execution_id)
    if one.awaits_end:
        await_end(data, waiter, one.number, target, policy)
        return
    problem = "" if data.latest(target) is not None else links.NOT_FOUND
    letter = links.answer(one.number, waiter.run_id, problem)
    data.put_mail(waiter.execution_id, *letter, None)
