"""What clients are shown of executions: plain values for people and programs.

Payloads are decoded to plain data here, without any user's types, so that every process can look.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct

from everlong.exceptions import EverlongError
from everlong_engine import (
    ActivityCancelled,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityOptions,
    ActivityScheduled,
    ActivityTimedOut,
    AttemptRow,
    AttemptState,
    Failure,
    LoadedRun,
    OpenActivity,
    Recorded,
    Reset,
    RunRow,
    RunStarted,
    RunState,
    SignalReceived,
    SignalRejected,
    Tags,
    TagValue,
    fold,
    id_text,
    unpack,
)

__all__ = [
    "Attempt",
    "DebouncedStarts",
    "ExecutionDescription",
    "ExecutionSummary",
    "HistoryEvent",
    "OpenApproval",
    "Page",
    "Pause",
    "PendingActivity",
    "PendingChild",
    "PendingTimer",
    "Repeated",
    "describe",
    "instant",
    "repeated",
    "summary",
    "view_history",
]

T = TypeVar("T")


def instant(us: int) -> datetime:
    """Microseconds since the epoch as an aware datetime."""
    return datetime.fromtimestamp(us / 1e6, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Who holds what, since when, and why: a row of `client.paused()`."""

    workflow_id: str | None
    """None if it is not a single execution."""
    type: str | None
    """The workflow that is paused as a whole. With neither, it is everything."""
    since: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSummary:
    """A row of `client.list()`: one run."""

    workflow_id: str
    run_id: str
    type: str
    status: str
    """running, blocked, paused, completed, failed, cancelled, terminated, timed_out,
    continued_as_new, reset or retried: another run has taken its place."""
    started_at: datetime
    closed_at: datetime | None
    history_events: int
    reason: str | None
    """Why it is blocked."""
    tags: Mapping[str, TagValue] = field(default_factory=dict[str, TagValue])
    """What it is found by; of a run that has ended, as they stood at its end."""
    paused: Pause | None = None
    """Who holds it: its own pause, or that of its type, or of everything."""
    version: str | None = None
    """The version of the code that it is pinned to; None: it follows the newest."""
    begins_at: datetime | None = None
    """When it is to begin, if that was put off and has not come."""
    waits_for_turn: bool = False
    """It begins when its pool has room."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, and the cursor to pass as `after=` for those behind them; None at the end."""

    items: list[T]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of an activity that did not succeed, or is under way."""

    number: int
    state: str
    """started, elsewhere, failed, lost, timed_out, exhausted (the last one before its execution was
    paused for it), or cancelled (asked to end, and has ended)."""
    started_at: datetime
    ended_at: datetime | None
    next_at: datetime | None
    error_type: str
    error: str
    traceback: str
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingActivity:
    """An activity whose outcome is not recorded yet."""

    activity_id: int
    name: str
    attempt: int
    state: str
    """running, waiting (for a slot), queued (in a task queue, until a worker takes it), backing
    off, exhausted (until its execution is resumed), elsewhere (waiting for whoever has its token),
    or cancelling (its end is waited for)."""
    scheduled_at: datetime
    next_at: datetime | None
    last_error: str | None
    where: str
    queue: str | None = None
    """The task queue that it goes through, if that is not its workflow's."""
    worker: str | None = None
    """Who has taken it from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTimer:
    timer_id: int
    due_at: datetime
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingChild:
    """A child whose end is not recorded yet."""

    child_id: int
    name: str
    workflow_id: str
    on_parent_close: str
    scheduled_at: datetime
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenApproval:
    """An approval that waits for an answer: a row of `client.approvals()`."""

    id: str
    """For `client.approve` and `client.reject`."""
    title: str
    data: Any
    """Plain data, without types."""
    approvers: tuple[str, ...]
    """Who may answer; empty: anybody."""
    workflow_id: str
    opened_at: datetime
    due_at: datetime | None
    """When the workflow stops waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """What a run repeats that was reset or forked."""

    run_id: str
    """Whose history."""
    workflow_id: str
    """Of that run; another one's for a fork."""
    events: int
    """Up to which event; 0 if it began at the start."""
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DebouncedStarts:
    """Which starts came together in an execution (`Debounce`)."""

    key: str
    starts: int
    """How many there are, or were when it began."""
    first_at: datetime
    """When the first of them came."""
    latest_at: datetime | None
    """When it begins at the latest, as the newest said; None: when no more come for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionDescription(ExecutionSummary):
    """Everything about one execution as it stands in the store."""

    input: Any
    code: str
    python: str
    activities: tuple[PendingActivity, ...]
    timers: tuple[PendingTimer, ...]
    signals: tuple[str, ...]
    """Signals in the order of the journal; those that wait in the inbox have a mark behind."""
    rejected: tuple[str, ...] = ()
    """Signals whose values did not fit: recorded with the reason, never delivered."""
    updates: tuple[str, ...] = ()
    """Updates that are being performed: name and id."""
    cancel_requested: bool
    owner: str | None
    """The worker that has it; None while it sleeps, or if that worker is dead."""
    hosted: bool
    """Whether a living worker hosts its type, in its version; a run without one waits."""
    lost_in_a_row: int
    parent: str | None = None
    """The workflow id of the execution whose child this is."""
    children: tuple[PendingChild, ...] = ()
    """Those of this run that are not known to have ended."""
    approvals: tuple[OpenApproval, ...] = ()
    """What people are asked and nobody has answered yet."""
    reset: Repeated | None = None
    """Where the run comes from, if it was reset or forked."""
    memo: Any = None
    """What its start or its code put beside it."""
    debounced: DebouncedStarts | None = None
    """Of one that several starts have made together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """One event of a history. `fields` holds plain data; payloads are decoded."""

    seq: int
    at: datetime
    kind: str
    fields: dict[str, Any]
    attempts: tuple[Attempt, ...] = field(default=())
    """Attempts of the activity that this event scheduled, as far as they are kept."""


def summary(
    row: RunRow, reason: str | None, tags: Tags, paused: Pause | None, now_us: int
) -> ExecutionSummary:
    begins_us = row.begins_us(now_us)
    begins_at = None if begins_us is None else instant(begins_us)
    return ExecutionSummary(**_summary(row, reason, tags), paused=paused, begins_at=begins_at)


def _summary(row: RunRow, reason: str | None, tags: Tags) -> dict[str, Any]:
    return {
        "workflow_id": row.workflow_id,
        "run_id": id_text(row.run_id),
        "type": row.type,
        "status": row.status.text,
        "started_at": instant(row.started_us),
        "closed_at": None if row.closed_us is None else instant(row.closed_us),
        "history_events": row.next_seq - 1,
        "reason": reason,
        "waits_for_turn": row.waits_for_turn,
        "tags": dict(tags),
        "version": row.version,
    }


def describe(
    loaded: LoadedRun,
    owner: str | None,
    reason: str | None,
    paused: Pause | None,
    *,
    hosted: bool,
    approvals: tuple[OpenApproval, ...] = (),
    tags: Tags = (),
    start: RunStarted | None = None,
    now_us: int = 0,
) -> ExecutionDescription:
    """`start` is the one that waits in the inbox of a run that has not begun."""
    state = fold(loaded.history)
    if state.started is None and start is not None:
        state.memo = start.memo
    tried: dict[int, dict[int, AttemptRow]] = {}
    for row in loaded.attempts:
        tried.setdefault(row.activity_id, {})[row.attempt] = row
    activities = tuple(
        _pending(number, one, tried.get(number, {})) for number, one in state.activities.items()
    )
    children = tuple(
        PendingChild(
            child_id=number,
            name=one.scheduled.workflow,
            workflow_id=one.scheduled.target,
            on_parent_close=one.scheduled.on_parent_close,
            scheduled_at=instant(one.at_us),
            where=one.scheduled.where,
        )
        for number, one in state.children.items()
    )
    events = [one.event for one in loaded.history]
    rejected = [one.signal for one in events if isinstance(one, SignalRejected)]
    received = [one.signal for one in events if isinstance(one, SignalReceived)]
    started = state.started
    return ExecutionDescription(
        **_summary(loaded.row, reason, tags),
        paused=paused,
        begins_at=_beginning(loaded.row, start, now_us),
        input=_input(started or start),
        code="" if started is None else started.code,
        python="" if started is None else started.python,
        activities=activities if loaded.row.status.is_open else (),
        timers=_timers(state) if loaded.row.status.is_open else (),
        signals=(*received, *("(in the inbox)" for _ in loaded.mail)),
        rejected=tuple(rejected),
        updates=_updates(state) if loaded.row.status.is_open else (),
        cancel_requested=state.cancel_requested,
        owner=owner,
        hosted=hosted,
        lost_in_a_row=loaded.row.losses,
        parent=None if started is None else started.parent,
        children=children if loaded.row.status.is_open else (),
        approvals=approvals,
        reset=None if started is None or started.reset is None else repeated(started.reset),
        memo=plain(state.memo) if state.memo else None,
        debounced=_debounced(started or start),
    )


def _updates(state: RunState) -> tuple[str, ...]:
    return tuple(f"{one.update} {one.update_id}" for one in state.updates.values())


def _timers(state: RunState) -> tuple[PendingTimer, ...]:
    return tuple(
        PendingTimer(timer_id=one.timer_id, due_at=instant(one.due_us), where=one.where)
        for one in state.timers.values()
    )


def _input(started: RunStarted | None) -> Any:
    return None if started is None else plain(started.arguments)


def _debounced(started: RunStarted | None) -> DebouncedStarts | None:
    if started is None or started.debounced is None:
        return None
    found = started.debounced
    return DebouncedStarts(
        key=found.key,
        starts=found.starts,
        first_at=instant(found.first_us),
        latest_at=None if found.latest_us is None else instant(found.latest_us),
    )


def _beginning(row: RunRow, start: RunStarted | None, now_us: int) -> datetime | None:
    """When the run is to begin, if that has not come."""
    if start is None or start.begins_us is None or not row.status.is_open:
        return None
    return instant(start.begins_us) if start.begins_us > now_us else None


def repeated(reset: Reset) -> Repeated:
    last = reset.copied[-1]
    return Repeated(
        run_id=id_text(last.run),
        workflow_id=last.workflow_id,
        events=last.last,
        reason=reset.reason,
        at=instant(reset.at_us),
    )


def _pending(
    number: int, activity: OpenActivity, tried: Mapping[int, AttemptRow]
) -> PendingActivity:
    """`tried` are its attempts by their numbers."""
    scheduled = activity.scheduled
    newest = tried[max(tried)] if tried else None
    attempt, state, error = 1, "running" if scheduled.began else "waiting", None
    next_at = None
    if newest is not None:
        attempt = newest.attempt
        if newest.state is AttemptState.NOT_BEGUN:
            state = "waiting"
        elif newest.state is AttemptState.ELSEWHERE:
            state = "elsewhere"
        elif newest.state.is_in_queue:
            state = "queued" if newest.state is AttemptState.QUEUED else "running"
            before = tried.get(attempt - 1)
            if before is not None:
                error = f"{before.error_type}: {before.error}"
                if state == "queued" and before.retry_us is not None:
                    next_at = instant(before.retry_us)
        elif newest.state is not AttemptState.STARTED:
            error = f"{newest.error_type}: {newest.error}"
            if newest.state is AttemptState.EXHAUSTED:
                state = "exhausted"
            else:
                state = "backing off"
                next_at = None if newest.retry_us is None else instant(newest.retry_us)
        else:
            state = "running"
    if activity.cancel_requested:
        state, next_at = "cancelling", None
    return PendingActivity(
        activity_id=number,
        name=scheduled.activity,
        attempt=attempt,
        state=state,
        scheduled_at=instant(activity.at_us),
        next_at=next_at,
        last_error=error,
        where=scheduled.where,
        queue=scheduled.options.queue or None,
        worker=newest.worker if newest and newest.state is AttemptState.TAKEN else None,
    )


def view_history(history: list[Recorded], attempts: list[AttemptRow]) -> list[HistoryEvent]:
    by_activity: dict[int, dict[int, Attempt]] = {}
    for row in attempts:
        known = by_activity.setdefault(row.activity_id, {})
        if row.state not in (AttemptState.NOT_BEGUN, AttemptState.QUEUED):
            known[row.attempt] = _attempt(row)
    waited: set[int] = set()
    for one in history:
        _end_last_attempt(by_activity, waited, one)
    return [
        HistoryEvent(
            seq=one.seq,
            at=instant(one.at_us),
            kind=type(one.event).__name__,
            fields=_fields(one.event),
            attempts=tuple(by_activity.get(one.event.activity_id, {}).values())
            if isinstance(one.event, ActivityScheduled)
            else (),
        )
        for one in history
    ]


def _end_last_attempt(
    by_activity: dict[int, dict[int, Attempt]], waited: set[int], recorded: Recorded
) -> None:
    """How the last attempt ended is in no row of its own: it is the event that the code was fed."""
    event, at = recorded.event, instant(recorded.at_us)
    if isinstance(event, ActivityScheduled) and event.options.on_cancel == "wait":
        waited.add(event.activity_id)
    match event:
        case ActivityScheduled() if event.began:
            # A first attempt has a row only once it has failed, or has left details behind.
            by_activity.setdefault(event.activity_id, {1: _under_way(at)})
        case ActivityCancelRequested() if event.activity_id in waited:
            pass  # Its end is told later.
        case ActivityCancelled() if event.outcome not in _WITHOUT_ROW:
            known = by_activity.get(event.activity_id, {})
            last = known.get(event.attempts)
            if last is not None and last.state in _UNDER_WAY:
                ended = "cancelled" if event.outcome == "stopped" else event.outcome
                known[event.attempts] = replace(last, state=ended, ended_at=at)
        case ActivityCompleted() | ActivityCancelled() | ActivityCancelRequested():
            known = by_activity.get(event.activity_id, {})
            for number in [number for number, one in known.items() if one.state in _UNDER_WAY]:
                del known[number]
        case ActivityFailed() | ActivityTimedOut():
            known = by_activity.get(event.activity_id, {})
            last = known.get(event.attempts)
            if last is not None and last.state in _UNDER_WAY:
                known[event.attempts] = replace(last, ended_at=at, **_how_it_ended(event))
        case _:
            pass


def _how_it_ended(event: ActivityFailed | ActivityTimedOut) -> dict[str, Any]:
    if isinstance(event, ActivityTimedOut):
        return {"state": "timed_out", "error": f"it exceeded its {event.timeout} timeout"}
    failure = event.failure
    return {
        "state": "failed",
        "error_type": failure.type,
        "error": failure.message,
        "traceback": failure.traceback,
    }


_STARTED = AttemptState.STARTED.name.lower()
_UNDER_WAY = (_STARTED, AttemptState.ELSEWHERE.name.lower())
_WITHOUT_ROW = ("completed", "not_begun")


def _under_way(started_at: datetime) -> Attempt:
    return Attempt(
        number=1,
        state=_STARTED,
        started_at=started_at,
        ended_at=None,
        next_at=None,
        error_type="",
        error="",
        traceback="",
        worker="",
    )


def _attempt(row: AttemptRow) -> Attempt:
    return Attempt(
        number=row.attempt,
        state="started" if row.state is AttemptState.TAKEN else row.state.name.lower(),
        started_at=instant(row.started_us),
        ended_at=None
        if row.ended_us is None or row.state is AttemptState.ELSEWHERE
        else instant(row.ended_us),
        next_at=None
        if row.retry_us is None or row.state is AttemptState.EXHAUSTED
        else instant(row.retry_us),
        error_type=row.error_type,
        error=row.error,
        traceback=row.traceback,
        worker=row.worker,
    )


_ID_BYTES = 16
"""What is damaged is shown as well."""
_IDS = frozenset({"previous_run", "run", "execution"})
_PAYLOADS = frozenset(
    {"arguments", "comment", "data", "headers", "memo", "payload", "result", "value"}
)


def _fields(event: Struct) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, Failure):
            shown["error_type"], shown["error"] = value.type, value.message
            shown["traceback"] = value.traceback
        elif isinstance(value, ActivityOptions):
            if value != ActivityOptions():
                shown["options"] = {
                    option: getattr(value, option)
                    for option in value.__struct_fields__
                    if getattr(value, option) != getattr(ActivityOptions(), option)
                }
        elif isinstance(value, Reset):
            shown["reset"] = asdict(repeated(value))
        elif name in ("result", "memo", "headers") and not value:
            continue  # There are none.
        elif name == "tags":
            if value:
                shown[name] = dict(value)
        elif name in _PAYLOADS:
            shown[name] = plain(value)
        elif name.endswith("_us") and value is not None and name.startswith("due"):
            shown["due_at"] = instant(value)
        elif name in _IDS and value is not None:
            shown[name] = id_text(value) if len(value) == _ID_BYTES else value.hex()
        elif name in ("carried", "cursors"):
            if value:
                shown[name] = [[one, plain(payload)] for one, payload in value]
        elif value not in (None, "", (), b""):
            shown[name] = value
    return shown


def plain(payload: bytes) -> Any:
    """A payload without its types; undecodable ones say so instead of hiding the rest."""
    try:
        return unpack(payload)
    except EverlongError as error:
        return f"<{len(payload)} bytes: {error}>"
