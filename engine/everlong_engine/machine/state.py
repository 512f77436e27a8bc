"""A run's state as a fold of its history: what is open, what is pending, what waits.

Derived state is not stored. A worker folds a history when it takes a run over, `describe` when a
person looks; both see the same. Pure: no I/O, no clock.
"""

from collections.abc import Iterable

from msgspec import Struct, field

from everlong_engine.model.events import (
    CLOSING,
    ActivityCancelled,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    ApprovalAnswered,
    ApprovalRequested,
    ApprovalWithdrawn,
    CancelRequested,
    ChildCancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStartFailed,
    Closing,
    Event,
    MemoSet,
    Recorded,
    RunStarted,
    TagsSet,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateCompleted,
    UpdateFailed,
    UpdateReceived,
)
from everlong_engine.model.tags import Tags, changed_tags

__all__ = ["OpenActivity", "OpenChild", "RunState", "fold", "tags_behind"]


class OpenActivity(Struct):
    """An activity whose outcome is not recorded yet."""

    scheduled: ActivityScheduled
    at_us: int
    seq: int
    """Of the event that scheduled it."""
    cancel_requested: bool = False
    """Its end is waited for."""


class OpenChild(Struct):
    """A child whose end is not recorded yet."""

    scheduled: ChildScheduled
    at_us: int


class RunState(Struct):
    started: RunStarted | None = None
    started_us: int = 0
    last_us: int = 0
    last_seq: int = 0
    activities: dict[int, OpenActivity] = field(default_factory=dict[int, OpenActivity])
    timers: dict[int, TimerStarted] = field(default_factory=dict[int, TimerStarted])
    approvals: dict[int, tuple[ApprovalRequested, int]] = field(
        default_factory=dict[int, tuple[ApprovalRequested, int]]
    )
    """Open ones, with the instant of each."""
    updates: dict[str, UpdateReceived] = field(default_factory=dict[str, UpdateReceived])
    """Those whose handlers are at work, by their ids."""
    children: dict[int, OpenChild] = field(default_factory=dict[int, OpenChild])
    cancel_requested: bool = False
    tags: Tags = ()
    memo: bytes = b""
    closing: Closing | None = None

    def apply(self, recorded: Recorded) -> None:
        """Take the next event in."""
        self.last_seq = recorded.seq
        self.last_us = max(self.last_us, recorded.at_us)
        self._apply(recorded.event, recorded.at_us)

    def _apply(self, event: Event, at_us: int) -> None:
        match event:
            case ActivityScheduled():
                self.activities[event.activity_id] = OpenActivity(event, at_us, self.last_seq)
            case (
                ActivityCompleted()
                | ActivityFailed()
                | ActivityTimedOut()
                | ActivityLost()
                | ActivityCancelled()
            ):
                self.activities.pop(event.activity_id, None)
            case ActivityCancelRequested():
                self._cancel(event.activity_id)
            case TimerStarted():
                self.timers[event.timer_id] = event
            case TimerFired() | TimerCancelled():
                self.timers.pop(event.timer_id, None)
            case UpdateReceived():
                self.updates[event.update_id] = event
            case UpdateCompleted() | UpdateFailed():
                self.updates.pop(event.update_id, None)
            case ChildScheduled():
                self.children[event.child_id] = OpenChild(event, at_us)
            case ChildCancelRequested():
                child = self.children.get(event.child_id)
                if child is not None and child.scheduled.on_cancel != "wait":
                    del self.children[event.child_id]
            case ChildStartFailed() | ChildClosed():
                self.children.pop(event.child_id, None)
            case ApprovalRequested():
                self.approvals[event.approval_id] = event, at_us
            case ApprovalAnswered() | ApprovalWithdrawn():
                self.approvals.pop(event.approval_id, None)
            case RunStarted():
                self.started, self.started_us = event, at_us
                self.cancel_requested = event.cancel_requested
                self.tags, self.memo = event.tags, event.memo
            case TagsSet():
                self.tags = changed_tags(self.tags, event.tags)
            case MemoSet():
                self.memo = event.memo
            case CancelRequested():
                self.cancel_requested = True
            case _ if type(event) in CLOSING:
                self.closing = event  # type: ignore[assignment]
            case _:
                pass  # Signals, side effects, patches and published items leave nothing open.

    def _cancel(self, activity_id: int) -> None:
        activity = self.activities.get(activity_id)
        if activity is not None and activity.scheduled.options.on_cancel == "wait":
            activity.cancel_requested = True
        else:
            self.activities.pop(activity_id, None)


def tags_behind(tags: Tags | None, event: Event) -> Tags | None:
    """The tags of a run that had these before the event; None of one that has not begun."""
    match event:
        case RunStarted():
            return event.tags
        case TagsSet():
            return changed_tags(tags or (), event.tags)
        case _:
            return tags


def fold(history: Iterable[Recorded]) -> RunState:
    """The state behind a whole history."""
    state = RunState()
    for recorded in history:
        state.apply(recorded)
    started = state.started
    if started is not None and started.reset is not None:
        _begin_anew(state, started.reset.at_us)
    return state


def _begin_anew(state: RunState, reset_us: int) -> None:
    """What a reset run repeats is older than the run: limits count from its beginning."""
    state.started_us = max(state.started_us, reset_us)
    for activity in state.activities.values():
        activity.at_us = max(activity.at_us, reset_us)
