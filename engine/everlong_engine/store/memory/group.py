"""A group of writes: who goes first, and one function per write of an owner's history.

Every write is judged alone and at once, on the rows as those before it left them. Between writes of
different kinds any order is a valid one; this is the order that the SQL takes (starts without
conditions, the other starts, appends, the rest, releases), so that answers can be compared.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from everlong_engine.machine.tasks import marks_ahead
from everlong_engine.model.outgoing import Target
from everlong_engine.model.requests import name_of_start
from everlong_engine.model.runs import NewRun, Probation, RunRow, RunStatus
from everlong_engine.model.tasks import SettleTask, WithdrawTask
from everlong_engine.model.writes import (
    Answer,
    AnswerApproval,
    AnswerMail,
    Append,
    AppendResult,
    Ask,
    Beat,
    ForgetMail,
    MarkAttempts,
    Message,
    Pause,
    PauseMany,
    Pin,
    Refusal,
    Release,
    Report,
    ResetRun,
    Resume,
    ResumeMany,
    StartResult,
    StartRun,
    Terminate,
    Write,
    WriteResult,
)
from everlong_engine.store.interface import MailGone
from everlong_engine.store.memory.data import MemoryData, StoredApproval, StoredEvent
from everlong_engine.store.memory.entities import put_entities
from everlong_engine.store.memory.keys import start_by_key
from everlong_engine.store.memory.leases import mark_attempts, release
from everlong_engine.store.memory.letters import put_letters
from everlong_engine.store.memory.messages import (
    answer_approval,
    answer_mail,
    ask,
    pin_run,
    put_answer,
    put_answers,
    put_attached,
    put_message,
    terminate_run,
    wake_for_mail,
)
from everlong_engine.store.memory.outgoing import send_all
from everlong_engine.store.memory.pauses import (
    is_held,
    pause_many,
    pause_run,
    resume_many,
    resume_run,
)
from everlong_engine.store.memory.reports import put_beat, put_report
from everlong_engine.store.memory.resets import reset_run
from everlong_engine.store.memory.starts import same_request, taken
from everlong_engine.store.memory.tasks import (
    end_tasks,
    queue_tasks,
    settle_task,
    withdraw_task,
)

__all__ = ["apply_group"]

_APPEND_TURN: Final = 3
_AHEAD_TURN: Final = 2


def apply_group(data: MemoryData, writes: Sequence[Write]) -> list[WriteResult]:
    """Apply every write; results in the order of the writes."""
    results: list[WriteResult] = [None] * len(writes)
    ahead = marks_ahead(writes)
    turns = [_AHEAD_TURN if at in ahead else _turn(write) for at, write in enumerate(writes)]
    order = sorted(range(len(writes)), key=turns.__getitem__)
    first = [at for at in order if turns[at] <= _APPEND_TURN]
    for at in first:
        if turns[at] == _APPEND_TURN:
            break
        results[at] = _apply(data, writes[at])
    newest = data.last_position
    apart = {one.run_id for one in writes if isinstance(one, Append) and one.statements}
    stopped: set[tuple[bytes, int, int]] = set()
    for at in first:
        write = writes[at]
        if not isinstance(write, Append):
            continue
        # What follows one that is not accepted now shares its fate, unless statements part them.
        follows = (write.run_id, write.token, write.base) in stopped
        result = results[at] = append_events(data, write, newest, follows=follows)
        moved = result.refusal is None and not result.repeated
        if not (moved or result.refusal is Refusal.MAIL or write.closed or write.run_id in apart):
            stopped.add((write.run_id, write.token, write.base + len(write.rows)))
    send_all(data, writes, results, start_run)
    for at in order[len(first) :]:
        results[at] = _apply(data, writes[at])
    return results


def _turn(write: Write) -> int:
    match write:
        case StartRun():
            # Both kinds of start decide alike; only the order is another one.
            over_at_once = write.first is not None and write.first.closed is not None
            conditions = write.if_closed != "allow" or write.run.request_id is not None
            beside = write.attached is not None or write.key is not None
            return 1 if conditions or over_at_once or beside else 0
        case Append():
            return _APPEND_TURN
        case Release():
            return 5
        case _:
            return 4


def _apply(data: MemoryData, write: Write) -> WriteResult:
    match write:
        case Append():
            raise AssertionError("appends of a group are looked at together")
        case StartRun():
            return start_run(data, write)
        case Message():
            return put_message(data, write)
        case MarkAttempts():
            return queue_tasks(data, write) if write.tasks else mark_attempts(data, write)
        case WithdrawTask():
            return withdraw_task(data, write)
        case SettleTask():
            return settle_task(data, write)
        case Release():
            return release(data, write)
        case AnswerApproval():
            return answer_approval(data, write)
        case Terminate():
            return terminate_run(data, write)
        case Pause():
            return pause_run(data, write)
        case PauseMany():
            return pause_many(data, write)
        case Resume():
            return resume_run(data, write)
        case ResetRun():
            return reset_run(data, write)
        case ResumeMany():
            return resume_many(data, write)
        case Pin():
            return pin_run(data, write)
        case Ask():
            return ask(data, write)
        case Answer():
            put_answer(data, write)
            return None
        case AnswerMail():
            answer_mail(data, write)
            return None
        case Report():
            return put_report(data, write)
        case Beat():
            return put_beat(data, write)
        case ForgetMail():
            _consume(data, write.position, write.execution_id)
            return None


# ---------------------------------------------------------------------------------------- starts


def start_run(data: MemoryData, start: StartRun) -> StartResult:
    """Begin an execution, or tell which one it came to, or who stands in its way."""
    if start.key is not None:
        return start_by_key(data, start, start.key, lambda plain: start_run(data, plain))
    in_the_way = _in_the_way(data, start)
    if in_the_way is not None:
        return in_the_way
    run, first = start.run, start.first
    begins = RunStatus.RUNNING
    if is_held(data, run.execution_id, run.namespace, run.type):
        begins = RunStatus.PAUSED
        if first is not None:
            return StartResult(False, run.run_id, run.execution_id, begins, held=True)
    if first is None:
        wake_us = start.wake_us if begins is RunStatus.RUNNING else None
        data.runs.put(run.run_id, _row(run, status=begins, wake_us=wake_us))
        data.put_mail(run.execution_id, start.kind, start.body, start.blobs)
        if start.attached is not None:
            put_attached(data, run.execution_id, start.attached)
    else:
        status = RunStatus.RUNNING if first.closed is None else first.closed
        row = _row(
            run,
            status=status,
            next_seq=first.base + len(first.rows),
            lease_token=first.token,
            owner=start.owner if status.is_open else None,
            closed_us=first.closed_us,
        )
        data.runs.put(run.run_id, row)
    data.change_tags(run.run_id, run.tags)
    if first is not None:
        _record(data, first)
    return StartResult(True, run.run_id, run.execution_id, begins)


def _in_the_way(data: MemoryData, start: StartRun) -> StartResult | None:
    run = start.run
    own = data.runs.get(run.run_id)
    if own is not None:  # This very start was done before, and its answer lost.
        return taken(own, created=True, repeated=True)
    same = None if run.request_id is None else same_request(data, run, run.request_id)
    if same is not None:
        return same
    latest = data.latest(Target(run.shard, run.namespace, run.workflow_id))
    if latest is None:
        return None
    if latest.status.is_open:
        if start.if_open == "use" and run.request_id is not None:
            key = (latest.execution_id, name_of_start(run.request_id))
            data.requests.put(key, latest.run_id)
        if start.if_open == "use" and start.attached is not None:
            put_attached(data, latest.execution_id, start.attached)
            wake_for_mail(data, latest, start.wake_us)
        return taken(latest, refused=start.if_open == "fail")
    if latest.status.keeps_id:
        return taken(latest, refused=True)
    match start.if_closed:
        case "allow":
            return None
        case "fail":
            return taken(latest, refused=True)
        case "allow_failed":
            good_end = latest.status is RunStatus.COMPLETED
            return taken(latest, refused=True) if good_end else None


def _row(
    run: NewRun,
    *,
    status: RunStatus = RunStatus.RUNNING,
    next_seq: int = 1,
    lease_token: int = 0,
    owner: bytes | None = None,
    wake_us: int | None = None,
    closed_us: int | None = None,
) -> RunRow:
    return RunRow(
        shard=run.shard,
        run_id=run.run_id,
        execution_id=run.execution_id,
        namespace=run.namespace,
        workflow_id=run.workflow_id,
        type=run.type,
        queue=run.queue,
        status=status,
        next_seq=next_seq,
        lease_token=lease_token,
        owner=owner,
        wake_us=wake_us,
        started_us=run.started_us,
        closed_us=closed_us,
        losses=0,
        strikes=0,
        probation=Probation.NONE,
        reason=None,
        request_id=run.request_id,
        version=run.version,
    )


# --------------------------------------------------------------------------------------- appends


def append_events(
    data: MemoryData, append: Append, newest: int, *, follows: bool = False
) -> AppendResult:
    """Accept a run's next events, if they are just that.

    An append whose commit succeeded and whose answer was lost is answered as done. What mail stands
    in its way is what lay there before the group's appends, up to `newest`.

    Args:
        follows: one of its group that was not accepted.
    """
    refusal = _refusal(data, append, newest) or (Refusal.FENCED if follows else None)
    if refusal is None:
        failure = data.run_statements(append.statements) if append.statements else None
        if failure is not None:
            return AppendResult(Refusal.STATEMENTS, failure=failure)
        return _accept(data, append)
    done = _was_done(data, append)
    return AppendResult(repeated=True) if done else AppendResult(refusal)


def _refusal(data: MemoryData, append: Append, newest: int) -> Refusal | None:
    approvals = append.approvals
    if approvals is not None and not approvals.forced:
        asked = [data.approvals.get((append.run_id, number)) for number in approvals.withdrawn]
        if any(one is not None and one.answer is not None for one in asked):
            return Refusal.MAIL
    if append.mail_free:
        waiting = data.mail_positions(append.execution_id)
        if any(one <= newest and one not in append.consumed for one in waiting):
            return Refusal.MAIL
    run = data.runs.get(append.run_id)
    if (
        run is None
        or run.status is not RunStatus.RUNNING
        or run.lease_token != append.token
        or run.next_seq != append.base
    ):
        return Refusal.FENCED
    return None


def _was_done(data: MemoryData, append: Append) -> bool:
    """Whether its last row is there, with its id, and the token is still its own."""
    run = data.runs.get(append.run_id)
    last = data.history.get((append.run_id, append.base + len(append.rows) - 1))
    if run is None or last is None or run.lease_token != append.token:
        return False
    return last.append_id == append.append_id


def _accept(data: MemoryData, append: Append) -> AppendResult:
    run = data.runs.rows[append.run_id]
    data.runs.put(run.run_id, _advanced(run, append))
    if append.pin is not None and append.closed is None:
        data.runs.put(run.run_id, replace(data.runs.rows[run.run_id], version=append.pin))
    _record(data, append)
    for position in append.consumed:
        if not _consume(data, position, append.execution_id):
            raise MailGone
    put_answers(data, append.execution_id, append.answers)
    for name, mark in append.over:
        data.requests.put((append.execution_id, name), mark)
    end_tasks(data, append.run_id, append.tasks)
    if append.next_run is not None:
        return _begin_next_run(data, append)
    if append.closed is not None:
        data.forget_mail(append.execution_id)
    return AppendResult()


def _advanced(run: RunRow, append: Append) -> RunRow:
    next_seq = append.base + len(append.rows)
    if append.closed is not None:
        return replace(
            run,
            next_seq=next_seq,
            status=append.closed,
            closed_us=append.closed_us,
            owner=None,
            wake_us=None,
            losses=0,
            strikes=0,
            probation=Probation.NONE,
            reason=None,
        )
    if append.healthy:
        return replace(run, next_seq=next_seq, losses=0, strikes=0, probation=Probation.NONE)
    return replace(run, next_seq=next_seq)


def _record(data: MemoryData, append: Append) -> None:
    """Write the events; nothing is ever written over."""
    last = len(append.rows) - 1
    for at, row in enumerate(append.rows):
        place = (append.run_id, row[0])
        if place in data.history.rows:
            raise AssertionError(f"event {row[0]} is there already: a history is append-only")
        data.history.put(place, StoredEvent(row, append.append_id if at == last else None))
    data.put_blobs(append.run_id, append.blobs)
    if append.approvals is not None:
        for number, seq in append.approvals.requested:
            data.approvals.put((append.run_id, number), StoredApproval(seq))
        for number in append.approvals.withdrawn:
            known = data.approvals.get((append.run_id, number))
            if known is not None and known.answer is None:
                data.approvals.remove((append.run_id, number))
    data.change_tags(append.run_id, append.tags)
    put_letters(data, append)
    for item in append.items:
        key = (append.execution_id, item.channel, item.number)
        if key in data.published.rows:
            raise AssertionError(f"item {item.number} of {item.channel} is there already")
        data.published.put(key, item)
    if append.entities is not None:
        put_entities(data, append.execution_id, append.entities)
    for trim in append.trims:
        keys = sorted(
            key
            for key in data.published_of.keys(append.execution_id)
            if key[1] == trim.channel and key[2] < trim.below
        )
        for key in keys[: trim.items_max]:
            data.published.remove(key)


def _consume(data: MemoryData, position: int, execution_id: bytes) -> bool:
    """Take one message out; False when it is not there."""
    mail = data.mail.get(position)
    if mail is None or mail.execution_id != execution_id:
        return False
    data.mail.remove(position)
    return True


def _begin_next_run(data: MemoryData, append: Append) -> AppendResult:
    following = append.next_run
    assert following is not None
    row = _row(following.run, lease_token=1, owner=following.owner)
    data.runs.put(row.run_id, row)
    data.change_tags(row.run_id, following.run.tags)
    position = data.put_mail(append.execution_id, following.kind, following.body, following.blobs)
    return AppendResult(next_run_mail=position)
