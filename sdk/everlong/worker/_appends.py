"""Turns an input and its decisions into the rows of one append."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from everlong._records import Records
from everlong.outboxes import Draft, outbox_in
from everlong.worker._approvals import approvals_of, approvals_to_close
from everlong.worker._outgoing import SENDING, Sender
from everlong.worker._owned import OUTCOMES, OwnedRun, Step
from everlong.worker._updates import answers_of
from everlong.worker._versions import Versions
from everlong_engine import (
    CLOSING,
    ActivityCancelRequested,
    ActivityOptions,
    ActivityScheduled,
    Append,
    Approvals,
    Blobs,
    Closing,
    Decision,
    Engine,
    Event,
    HistoryRow,
    ItemPublished,
    ItemRow,
    Letter,
    NewRun,
    NextRun,
    Outgoing,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    RunStatus,
    RunTerminated,
    RunTimedOut,
    SignalReceived,
    TagChanges,
    TagsSet,
    TaskEnd,
    Trim,
    mark_of_end,
    name_of_over,
    retry_failed,
    run_policy_of,
)

__all__ = ["Appends", "is_followed", "may_be_followed"]

_PYTHON: Final = platform.python_version()
_STATUS: Final[Mapping[type[Closing], RunStatus]] = {
    RunCompleted: RunStatus.COMPLETED,
    RunFailed: RunStatus.FAILED,
    RunCancelled: RunStatus.CANCELLED,
    RunContinuedAsNew: RunStatus.CONTINUED_AS_NEW,
    RunTerminated: RunStatus.TERMINATED,
    RunTimedOut: RunStatus.TIMED_OUT,
}

_RETURNS: Final = frozenset({RunCompleted, RunFailed, RunCancelled})
"""How the code itself ends its run."""


class Appends:
    """Builds what goes into the group commit for one worker's runs."""

    def __init__(
        self,
        engine: Engine,
        records: Records,
        worker_id: bytes,
        versions: Versions,
        reserve: Callable[[ActivityOptions], bool],
    ) -> None:
        self._engine = engine
        self._records = records
        self._worker_id = worker_id
        self._versions = versions
        self._reserve = reserve
        self._sender = Sender(engine, records, versions, _PYTHON)

    def of_step(self, run: OwnedRun, step: Step, at_us: int) -> Append:
        """An input with its decisions. The run is then ahead of its commit by them.

        An activity for which a slot is free gets it here: that its first attempt may begin right
        behind the commit is part of what is committed.
        """
        incoming, decisions = step.incoming, step.decisions
        self._look_for_retry(run, decisions, at_us)
        blobs: Blobs = {}
        base = step.base = run.next_seq
        rows = [self._records.row(run, base, incoming.event, at_us, blobs)]
        items, sends = self._decided(run, decisions, rows, at_us, blobs)
        last = decisions[-1] if decisions else None
        closing: Closing | None = None
        if last is not None and type(last) in CLOSING:
            closing = last  # type: ignore[assignment]
        told: tuple[tuple[str, bytes], ...] = ()
        if run.code.has_updates:
            told = answers_of(
                self._records, run, incoming.event, decisions, ends=closing is not None
            )
        position = incoming.position
        consumed: tuple[int, ...] = () if position is None else (position,)
        continued = is_followed(closing)
        if closing is not None and not continued:
            # It came too late to be fed: it goes with this append, which may leave no mail behind.
            consumed += run.positions_unfed()
        append = self._append(
            run,
            rows,
            at_us,
            blobs,
            consumed=consumed,
            # A message that came directly must not overtake what lies in the inbox, whatever it
            # leads to. The inbox is the execution's: a run that begins anew for another reason
            # leaves it to the next one.
            mail_free=incoming.on_done is not None or (closing is not None and not continued),
            closing=closing,
            answers=told,
            items=tuple(items),
            outgoing=self._sender.outgoing(run, decisions) if sends else (),
            approvals=approvals_of(run, incoming.event, decisions, base, ends=closing is not None)
            if run.code.asks_people
            else None,
            tags=_tags_set(decisions) if run.code.is_labelled else (),
            trims=run.code.outputs.trims(items) if items else (),
        )
        if incoming.effects:
            append.statements = tuple(one for one in incoming.effects if not isinstance(one, Draft))
        append.entities = incoming.entities
        letters = self._letters(run, step, at_us)
        if letters:
            append.letters, step.leaves_letters = letters, True
        if run.handed_out or (position is not None and isinstance(incoming.event, OUTCOMES)):
            append.over = _over(run, step)
        if run.queued:
            append.tasks = _task_ends(run, (incoming.event, *decisions), ends=closing is not None)
            step.ends_tasks = bool(append.tasks)
        return append

    def _decided(
        self,
        run: OwnedRun,
        decisions: list[Decision],
        rows: list[HistoryRow],
        at_us: int,
        blobs: Blobs,
    ) -> tuple[list[ItemRow], bool]:
        """Add their rows. Gives what they publish, and whether anything goes to others."""
        row = self._records.row
        seq = run.next_seq
        items: list[ItemRow] = []
        sends = False
        for index, made in enumerate(decisions):
            decision = made
            sends = sends or type(made) in SENDING
            # Not isinstance with a union: that builds it each time.
            if type(made) in _RETURNS and not is_followed(made):
                decision = decisions[index] = _with_unread(made, run)  # type: ignore[arg-type]
            if type(made) is ActivityScheduled and self._reserve(made.options):
                decision = decisions[index] = ActivityScheduled(
                    made.activity_id,
                    made.activity,
                    made.arguments,
                    made.options,
                    made.where,
                    True,
                    made.headers,
                )
            elif type(made) is ItemPublished and outbox_in(made.channel) is None:
                items.append(self._records.item(run.execution_id, run, made, at_us))
            rows.append(row(run, seq + 1 + index, decision, at_us, blobs))
        return items, sends

    def _letters(self, run: OwnedRun, step: Step, at_us: int) -> tuple[Letter, ...]:
        """What goes to brokers: of an activity that has completed, then of what follows."""
        base, effects = step.base, step.incoming.effects
        found = [
            (one.outbox, base, number, one.payload)
            for number, one in enumerate(one for one in effects if isinstance(one, Draft))
        ]
        for seq, made in enumerate(step.decisions, base + 1):
            if type(made) is ItemPublished and (outbox := outbox_in(made.channel)) is not None:
                found.append((outbox, seq, 0, made.payload))
        return tuple(
            self._records.letter(
                Letter(
                    outbox=outbox,
                    shard=run.shard,
                    execution_id=run.execution_id,
                    run_id=run.run_id,
                    seq=seq,
                    number=number,
                    at_us=at_us,
                    payload=payload,
                    checksum=0,
                )
            )
            for outbox, seq, number, payload in found
        )

    def of_end(
        self, run: OwnedRun, event: RunTimedOut | RunCancelled | RunFailed, at_us: int
    ) -> Append:
        """A closing event that the code did not decide. Of a run that has not begun, what lies in
        its inbox is named in it, so there must be no more."""
        unbegun = run.next_seq == 1 and not isinstance(event, RunTimedOut)
        blobs: Blobs = {}
        rows = [self._records.row(run, run.next_seq, event, at_us, blobs)]
        append = self._append(
            run,
            rows,
            at_us,
            blobs,
            consumed=tuple(sorted(run.positions)) if unbegun else (),
            mail_free=unbegun,
            closing=event,
            approvals=approvals_to_close(run),
        )
        append.tasks = _task_ends(run, (), ends=True)
        return append

    def _append(
        self,
        run: OwnedRun,
        rows: list[HistoryRow],
        at_us: int,
        blobs: Blobs,
        *,
        consumed: tuple[int, ...],
        mail_free: bool,
        closing: Closing | None,
        answers: tuple[tuple[str, bytes], ...] = (),
        items: tuple[ItemRow, ...] = (),
        outgoing: tuple[Outgoing, ...] = (),
        approvals: Approvals | None = None,
        tags: TagChanges = (),
        trims: tuple[Trim, ...] = (),
    ) -> Append:
        base = run.next_seq
        run.next_seq = base + len(rows)
        run.last_us = at_us
        run.code.history_events = run.next_seq - 1
        for row in rows:
            run.code.history_bytes += len(row[3])
        following = None
        if closing is not None:
            run.closing = True
            if isinstance(closing, RunContinuedAsNew):
                cursors = run.code.cursors
                following = self._following(
                    run, closing.arguments, closing.carried, tuple((cursors or {}).items())
                )
            elif isinstance(closing, RunFailed) and closing.due_us is not None:
                following = self._next_attempt(run, closing.due_us)
        return Append(
            run.shard,
            run.run_id,
            run.execution_id,
            run.token,
            base,
            rows,
            self._engine.new_append_id(),
            consumed,
            mail_free,
            None if closing is None else _status(closing),
            None if closing is None else at_us,
            following,
            blobs or None,
            not run.suspects,
            answers,
            items,
            outgoing,
            approvals,
            tags,
            trims,
        )

    def _look_for_retry(self, run: OwnedRun, decisions: list[Decision], at_us: int) -> None:
        """A failure that is not the last says when the next attempt begins."""
        started = run.code.started
        if not decisions or started is None or started.retry is None:
            return
        failed = decisions[-1]
        if type(failed) is not RunFailed or run.code.cancel_reason is not None:
            return
        policy, chance = run_policy_of(started.retry), self._engine.random.random()
        delay_us = retry_failed(policy, failed.failure, started.attempt, chance)
        if delay_us is None:
            return
        due_us, deadline_us = at_us + delay_us, started.execution_deadline_us
        if deadline_us is None or due_us < deadline_us:
            decisions[-1] = RunFailed(failed.failure, (), due_us)

    def _next_attempt(self, run: OwnedRun, due_us: int) -> NextRun:
        """The same once more, behind its back-off."""
        before = run.code.started
        assert before is not None, "a run that fails has started"
        carried = run.code.carried()
        attempt = before.attempt + 1
        return self._following(run, before.arguments, carried, before.cursors, due_us, attempt)

    def _following(
        self,
        run: OwnedRun,
        arguments: bytes,
        carried: tuple[tuple[str, bytes], ...],
        cursors: tuple[tuple[str, bytes], ...],
        begins_us: int | None = None,
        attempt: int = 1,
    ) -> NextRun:
        """The successor: its row, and the mail that starts it."""
        before, labels = run.code.started, run.code.labels
        assert before is not None, "a run that continues has started"
        now_us = self._engine.clock.now_us()
        started = RunStarted(
            workflow=before.workflow,
            arguments=arguments,
            workflow_id=before.workflow_id,
            seed=self._engine.random.getrandbits(60),
            code=self._versions.workflows[run.type].digest,
            python=_PYTHON,
            run_timeout_us=before.run_timeout_us,
            execution_deadline_us=before.execution_deadline_us,
            previous_run=run.run_id,
            carried=carried,
            cancel_requested=run.code.cancel_reason is not None,
            published=run.code.outputs.numbers,
            parent=before.parent,
            tags=labels.tags,
            memo=labels.memo,
            cancel_reason=run.code.cancel_reason,
            begins_us=begins_us,
            headers=before.headers,
            retry=before.retry,
            attempt=attempt,
            cursors=cursors,
        )
        self._engine.ids.follow(run.run_id)
        new = NewRun(
            shard=run.shard,
            run_id=self._engine.ids.next(now_us),
            execution_id=run.execution_id,
            namespace=run.namespace,
            workflow_id=run.workflow_id,
            type=run.type,
            queue=run.queue,
            started_us=now_us,
            tags=labels.tags,
            version=self._versions.pin_of_successor(run),
        )
        blobs: Blobs = {}
        kind, body = self._records.start(new, started, blobs)
        return NextRun(new, self._worker_id, kind, body, blobs)


def is_followed(closing: object) -> bool:
    """Whether another run of the execution takes the place of the one that this closes."""
    if type(closing) is RunFailed:
        return closing.due_us is not None
    return type(closing) is RunContinuedAsNew


def may_be_followed(started: RunStarted, last: Decision) -> bool:
    """Whether a first drive ends in a successor."""
    retried = started.retry is not None and type(last) is RunFailed
    return retried or type(last) is RunContinuedAsNew


def _status(closing: Closing) -> RunStatus:
    retried = type(closing) is RunFailed and closing.due_us is not None
    return RunStatus.RETRIED if retried else _STATUS[type(closing)]


def _tags_set(decisions: Sequence[Decision]) -> TagChanges:
    """What becomes of the tags by which the run is found, the last word on each last."""
    return tuple(change for one in decisions if type(one) is TagsSet for change in one.tags)


def _task_ends(
    run: OwnedRun, events: Iterable[Event], *, ends: bool
) -> tuple[tuple[int, TaskEnd], ...]:
    """What becomes of tasks in queues with these events."""
    found: dict[int, TaskEnd] = {}
    for event in events:
        if isinstance(event, OUTCOMES) and event.activity_id in run.queued:
            found[event.activity_id] = TaskEnd.DROP
        elif type(event) is ActivityCancelRequested and event.activity_id in run.queued:
            attempt = run.attempts.get(event.activity_id)
            if run.code.is_cancelling(event.activity_id):
                found[event.activity_id] = TaskEnd.ASK
            elif attempt is not None and attempt.scheduled.options.on_cancel == "abandon":
                found[event.activity_id] = TaskEnd.LEAVE
                run.queued.discard(event.activity_id)
            else:
                found[event.activity_id] = TaskEnd.DROP
    if ends:
        found.update(dict.fromkeys(run.queued, TaskEnd.DROP))
    return tuple(found.items())


def _over(run: OwnedRun, step: Step) -> tuple[tuple[str, bytes], ...]:
    """What whoever has the token of an activity is told from here on.

    An outcome out of the inbox is one that was told by token, or that came while the run was
    paused: in whose hands the token is then nobody here knows.
    """
    marks: list[tuple[str, bytes]] = []
    told = step.incoming.position is not None
    for event in (step.incoming.event, *step.decisions):
        number = getattr(event, "activity_id", None)
        if number is not None and (told or number in run.handed_out):
            mark = mark_of_end(event, waits=run.code.is_cancelling(number))
            if mark is not None:
                marks.append((name_of_over(run.run_id, number), mark))
        told = False
    return tuple(marks)


def _with_unread(
    closing: RunCompleted | RunFailed | RunCancelled, run: OwnedRun
) -> RunCompleted | RunFailed | RunCancelled:
    """Signals that were accepted, and for which the code came to its end too early."""
    names = tuple(
        one.event.signal
        for one in run.mailbox
        if one.position is not None and isinstance(one.event, SignalReceived)
    )
    return replace(closing, unread=closing.unread + names) if names else closing
