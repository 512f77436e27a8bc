"""What a reset or a fork writes, made from the history of the run that it repeats.

What was done up to the point is copied, sealed anew for its new place. Of what came behind it, that
is kept which nobody here has done: messages, and what other executions have answered. All the rest
is begun anew: activities, approvals, what the code decided.
"""

import asyncio
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

from msgspec.structs import replace

from everlong._definitions import ENTITY, WorkflowDefinition
from everlong._records import Records
from everlong.exceptions import CannotReset, InvalidArguments
from everlong.outboxes import outbox_in
from everlong_engine import (
    CODES,
    ActivityCancelled,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    ApprovalAnswered,
    ApprovalRequested,
    Blobs,
    CancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    CopiedPart,
    Engine,
    Event,
    ExternalAnswered,
    ExternalAwaited,
    HistoryRow,
    Input,
    ItemPublished,
    ItemRow,
    LoadedRun,
    NewRun,
    Point,
    Recorded,
    Reset,
    ResetRun,
    Reunion,
    RunStarted,
    RunTerminated,
    SignalReceived,
    SignalRejected,
    UpdateCompleted,
    UpdateFailed,
    UpdateReceived,
    Waiting,
    fold,
    id_text,
    name_of_update,
    origin_of,
    pack,
    unpack,
    waiting_at,
)

__all__ = ["KEEPS_STATES", "Wanted", "plan"]

KEEPS_STATES: Final = (
    "it is a keyed entity, or keeps states as one: they are what all messages so far have made of "
    "them, and there is no way back for them. Start another execution, under another id: it reads "
    "from the beginning of the source and builds its states anew"
)

_OUTCOMES: Final = (
    ActivityCompleted,
    ActivityFailed,
    ActivityTimedOut,
    ActivityLost,
    ActivityCancelled,
)
_ANSWERS: Final = (ChildStarted, ChildStartFailed, ChildClosed, ExternalAnswered)
_Answer: TypeAlias = ChildStarted | ChildStartFailed | ChildClosed | ExternalAnswered
_MESSAGES: Final = tuple(CODES[one] for one in (SignalReceived, UpdateReceived))
"""As they lie in the inbox."""
_ROWS_AT_ONCE: Final = 500
_ITEMS_MAX: Final = 100_000
_ITEMS_AT_ONCE: Final = 500
_ACCEPTED: Final = b"accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A reset as somebody asks for it."""

    point: Point
    new_id: str | None
    """The workflow id of a fork."""
    reason: str
    arguments: Mapping[str, Any]
    reapply: Collection[str]
    """"signals", "updates"."""
    request_id: str | None
    takes_inbox: bool = True
    """No earlier run: what waits in the inbox has been sent to the last one."""


@dataclass(slots=True)
class _Plan:
    engine: Engine
    records: Records
    wanted: Wanted
    loaded: LoadedRun
    """Opened."""
    new: NewRun
    blobs: Blobs = field(default_factory=dict[bytes, bytes])
    mail_blobs: Blobs = field(default_factory=dict[bytes, bytes])
    mail: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    answers: dict[str, bytes] = field(default_factory=dict[str, bytes])
    settled: set[int] = field(default_factory=set[int])

    @property
    def prefix(self) -> list[Recorded]:
        return self.loaded.history[: self.wanted.point.copied]

    @property
    def tail(self) -> list[Recorded]:
        return self.loaded.history[self.wanted.point.copied :]

    @property
    def is_fork(self) -> bool:
        return self.wanted.new_id is not None

    def to_run(self, event: Input) -> None:
        self.mail.append(self.records.outcome(self.new, event, self.mail_blobs))

    def to_execution(self, event: Input) -> None:
        self.mail.append(self.records.message(self.new, event, self.mail_blobs))


async def plan(
    engine: Engine,
    records: Records,
    loaded: LoadedRun,
    wanted: Wanted,
    definition: WorkflowDefinition | None,
) -> ResetRun:
    """The write that does it, from a loaded run that is opened already.

    Raises:
        CannotReset, InvalidArguments: it cannot be done, and why.
    """
    row, now_us = loaded.row, engine.clock.now_us()
    this = _Plan(engine, records, wanted, loaded, _new_run(engine, loaded, wanted))
    started = _started(this, definition, now_us)
    waiting = waiting_at(this.prefix)
    _keep(this, waiting)
    dropped = _look_into_the_inbox(this)
    for update_id in fold(this.prefix).updates:
        told = records.told(this.new, update_id, "recorded")
        this.answers.setdefault(name_of_update(update_id), told)
    rows: list[HistoryRow] = []
    start: tuple[int, bytes] | None = None
    if wanted.point.copied:
        rows = await _copy(this, started)
    else:
        start = records.start(this.new, started, this.mail_blobs)
    text = f"reset to event {wanted.point.copied}; it goes on as run {id_text(this.new.run_id)}"
    if wanted.reason:
        text += f": {wanted.reason}"
    source = replace(
        this.new,
        run_id=row.run_id,
        execution_id=row.execution_id,
        workflow_id=row.workflow_id,
        shard=row.shard,
    )
    return ResetRun(
        source,
        loaded.row.next_seq,
        this.new,
        tuple(rows),
        start,
        tuple(this.mail),
        dropped,
        this.blobs,
        this.mail_blobs,
        tuple(_reunions(this, waiting)),
        tuple(this.settled),
        tuple(_open_approvals(this)),
        tuple(this.answers.items()),
        records.message(row, RunTerminated(text), {}),
        engine.new_append_id(),
        now_us,
        wanted.request_id,
        tuple(await _published(this, started)) if this.is_fork else (),
    )


def _new_run(engine: Engine, loaded: LoadedRun, wanted: Wanted) -> NewRun:
    row = loaded.row
    engine.ids.follow(row.run_id)
    request_id = None if wanted.new_id is None else wanted.request_id
    workflow_id = wanted.new_id or row.workflow_id
    new = engine.new_run(row.namespace, workflow_id, row.type, row.queue, request_id)
    return new if wanted.new_id is not None else replace(new, execution_id=row.execution_id)


# -------------------------------------------------------------------------------- what is repeated


def _started(this: _Plan, definition: WorkflowDefinition | None, now_us: int) -> RunStarted:
    """The first event of the new run."""
    point, first = this.wanted.point, this.loaded.history[0]
    before = first.event
    assert isinstance(before, RunStarted), "a point lies in a history that has begun"
    if any(name.startswith(ENTITY) for name, _ in before.cursors) or any(
        isinstance(one.event, ActivityScheduled) and one.event.activity.startswith(ENTITY)
        for one in this.loaded.history
    ):
        raise CannotReset(KEEPS_STATES)
    if this.wanted.arguments and point.copied:
        names = ", ".join(this.wanted.arguments)
        raise CannotReset(
            f"other arguments ({names}) need a reset to the start: up to event {point.copied} the "
            "code has worked with the recorded ones"
        )
    deadline_us = before.execution_deadline_us
    earlier = () if before.reset is None else before.reset.copied
    parts = [
        one if one.last <= point.copied else CopiedPart(one.run, one.workflow_id, point.copied, ())
        for one in earlier
    ]
    row = this.loaded.row
    parts.append(CopiedPart(row.run_id, row.workflow_id, point.copied, ()))
    started = replace(
        before,
        workflow_id=this.new.workflow_id,
        execution_deadline_us=None if deadline_us is None else now_us + deadline_us - first.at_us,
        reset=Reset(tuple(parts), now_us, this.wanted.reason),
    )
    if point.copied:
        return started
    return replace(
        started,
        arguments=_arguments(before, definition, this.wanted.arguments),
        code=before.code if definition is None else definition.digest,
        python=platform.python_version(),
    )


def _arguments(
    before: RunStarted, definition: WorkflowDefinition | None, changed: Mapping[str, Any]
) -> bytes:
    if not changed:
        return before.arguments
    if definition is not None:
        return definition.parameters.merge(before.arguments, changed)
    plain: Any = unpack(before.arguments)
    if not isinstance(plain, dict):
        raise InvalidArguments("the recorded arguments are no map, so none of them has a name")
    return pack({**cast("dict[str, Any]", plain), **changed})


async def _copy(this: _Plan, started: RunStarted) -> list[HistoryRow]:
    """The events up to the point, sealed for their new place."""
    prefix = this.prefix
    open_activities = fold(prefix).activities
    rows: list[HistoryRow] = []
    for one in prefix:
        event: Event = one.event
        if one.seq == 1:
            event = started
        elif isinstance(event, ActivityScheduled) and event.activity_id in open_activities:
            event = replace(event, began=False)  # Its attempts begin anew.
        rows.append(this.records.row(this.new, one.seq, event, one.at_us, this.blobs))
        if one.seq % _ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)  # tidy: waits because others want the loop, too
    return rows


def _open_approvals(this: _Plan) -> list[tuple[int, int]]:
    """They are asked once more; whatever was answered behind the point."""
    answered = {
        one.event.approval_id
        for one in this.tail
        if one.seq == this.wanted.point.kept and isinstance(one.event, ApprovalAnswered)
    }
    numbers = fold(this.prefix).approvals.keys() - answered
    return [
        (one.event.approval_id, one.seq)
        for one in this.prefix
        if isinstance(one.event, ApprovalRequested) and one.event.approval_id in numbers
    ]


# ------------------------------------------------------------------------------------ what is kept


def _keep(this: _Plan, waiting: dict[int, Waiting]) -> None:
    """What came behind the point and is fed once more, in the order in which it came."""
    over = {
        one.event.update_id
        for one in this.tail
        if isinstance(one.event, UpdateCompleted | UpdateFailed)
    }
    for one in this.tail:
        event, kept = one.event, one.seq == this.wanted.point.kept
        match event:
            case SignalReceived() | SignalRejected():
                if kept or "signals" in this.wanted.reapply:
                    this.to_execution(SignalReceived(event.signal, event.payload))
            case UpdateReceived():
                _keep_update(this, event, kept=kept, is_over=event.update_id in over)
            case CancelRequested() if kept:
                this.to_execution(event)
            case ApprovalAnswered() if kept:
                this.to_execution(replace(event, run=this.new.run_id))
            case _ if kept and isinstance(event, _OUTCOMES):
                this.to_run(event)
            case _ if isinstance(event, _ANSWERS):
                _keep_answer(this, event, waiting)
            case _:
                pass  # Done by the code or for it, and done anew; or a timer, which is due still.


def _keep_update(this: _Plan, event: UpdateReceived, *, kept: bool, is_over: bool) -> None:
    name = name_of_update(event.update_id)
    if kept or "updates" in this.wanted.reapply:
        this.to_execution(event)
        this.answers[name] = _ACCEPTED
    elif not (is_over or this.is_fork):
        this.answers[name] = this.records.told(this.new, event.update_id, "unfinished")


def _keep_answer(this: _Plan, event: _Answer, waiting: dict[int, Waiting]) -> None:
    """Of another execution, to what waits for it at the point: a fact, whoever hears it."""
    number = event.call_id if isinstance(event, ExternalAnswered) else event.child_id
    if number not in waiting or number in this.settled:
        return
    this.to_run(replace(event, run=this.new.run_id))
    if isinstance(event, ChildStarted):
        waiting[number].wants_start = False
    else:
        this.settled.add(number)


def _look_into_the_inbox(this: _Plan) -> tuple[int, ...]:
    """Messages that are not fed yet stay where they are, unless they are not wanted; a fork gets
    its own. The places of those that go."""
    dropped: list[int] = []
    for mail in this.loaded.mail if this.wanted.takes_inbox else ():
        if mail.kind not in _MESSAGES:
            continue
        event = this.records.input(this.loaded.row, mail, this.loaded.blobs)
        if not isinstance(event, SignalReceived | SignalRejected | UpdateReceived):
            continue
        family = "updates" if isinstance(event, UpdateReceived) else "signals"
        wanted = family in this.wanted.reapply
        if this.is_fork:
            if isinstance(event, UpdateReceived) and wanted:
                _keep_update(this, event, kept=True, is_over=False)
            elif wanted and not isinstance(event, UpdateReceived):
                this.to_execution(SignalReceived(event.signal, event.payload))
        elif not wanted:
            dropped.append(mail.position)
            if isinstance(event, UpdateReceived):
                told = this.records.told(this.new, event.update_id, "unfinished")
                this.answers[name_of_update(event.update_id)] = told
    return tuple(dropped)


def _reunions(this: _Plan, waiting: dict[int, Waiting]) -> list[Reunion]:
    """What the new run waits for, and of which it has no answer yet."""
    started, row = this.loaded.history[0].event, this.loaded.row
    assert isinstance(started, RunStarted), "a point lies in a history that has begun"
    found: list[Reunion] = []
    for number, one in waiting.items():
        if number not in this.settled:
            event = one.event
            child = isinstance(event, ChildScheduled)
            found.append(
                Reunion(
                    number,
                    origin_of(started, row.run_id, one.seq),
                    this.engine.target(row.namespace, event.target),
                    event.on_parent_close if child else None,  # type: ignore[union-attr, arg-type]
                    awaits_end=child or isinstance(event, ExternalAwaited),
                    wants_start=one.wants_start,
                )
            )
    return found


# ------------------------------------------------------------------------------ what was published


async def _published(this: _Plan, started: RunStarted) -> list[ItemRow]:
    """A fork's subscribers read from the first item on, so it gets all of them."""
    numbers = dict(started.published)
    parts = () if started.reset is None else started.reset.copied
    for one in this.prefix:
        if isinstance(one.event, ItemPublished):
            numbers[one.event.channel] = one.event.number + 1
        for part in parts:
            if part.last == one.seq:
                numbers.update(part.published)
    # What was put into an outbox is none of its channels, and has gone out.
    numbers = {name: end for name, end in numbers.items() if outbox_in(name) is None}
    if sum(numbers.values()) > _ITEMS_MAX:
        raise CannotReset(
            f"the execution has published {sum(numbers.values())} items up to there, and a fork "
            f"takes along {_ITEMS_MAX} at most. Start a new execution instead"
        )
    items: list[ItemRow] = []
    row, store = this.loaded.row, this.engine.store
    for channel, end in numbers.items():
        at = 0
        while at < end:
            limit = min(end - at, _ITEMS_AT_ONCE)
            some = await store.published(row.shard, row.execution_id, channel, at, limit)
            found = [item for item in some if item.number < end]
            if at == 0:  # The oldest may be gone, if it keeps so many only.
                at = found[0].number if found else end
            if [item.number for item in found] != list(range(at, at + len(found))) or (
                not found and at < end
            ):
                raise CannotReset(f"item {at} of the output channel {channel!r:.100} is missing")
            for item in found:
                payload = this.records.published(row.execution_id, row, item)
                event = ItemPublished(channel, item.number, payload, "")
                execution_id = this.new.execution_id
                items.append(this.records.item(execution_id, this.new, event, item.at_us))
            at += len(found)
    return items
