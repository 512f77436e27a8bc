"""What `info()` returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

__all__ = ["ActivityInfo", "WorkflowInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInfo:
    """Where workflow code is running. The same on replay, but for `replaying`.

    Attributes:
        workflow_id: the name that the execution was started with.
        run_id: this segment of it; a checkpoint that begins anew makes the next.
        type: the workflow's name.
        started_us: when the run began, microseconds since the epoch.
        replaying: recorded inputs are being fed. For logging and the like; never decide by it.
        cancel_reason: why cancellation was requested; None when it was not.
        history_events: the length of the history before this input.
        parent: the workflow id of the execution whose child this is; None when it is no child.
        tags: what the execution is found by, as it stands; see `set_tags`.
        attempt: which attempt this run is, where the workflow has a `Retry`; else 1.
    """

    workflow_id: str
    run_id: str
    type: str
    started_us: int
    replaying: bool
    cancel_reason: str | None
    history_events: int
    parent: str | None = None
    tags: Mapping[str, str | int | float | bool | datetime] = field(
        default_factory=dict[str, str | int | float | bool | datetime]
    )

    attempt: int = 1

    @property
    def started_at(self) -> datetime:
        """When the run began, UTC."""
        return datetime.fromtimestamp(self.started_us / 1e6, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityInfo:
    """Which attempt of which activity the code is.

    Attributes:
        workflow_id, run_id: the run that scheduled it.
        activity_id: its number within the run.
        type: the activity's name.
        attempt: 1 for the first.
        idempotency_key: the same over attempts, takeovers and replays. Hand it to the services
            that you call, so that a repeated attempt has one effect.
        heartbeat_details: what the attempt before this one last passed to `heartbeat()`.
        cancelled: the workflow does not want the outcome any more; for code in threads, which
            cannot be interrupted. Never true with `on_cancel="abandon"`, nor in a process.
        token: names this attempt for whoever completes it elsewhere; see `complete_later`.
    """

    workflow_id: str
    run_id: str
    activity_id: int
    type: str
    attempt: int
    idempotency_key: str
    heartbeat_details: Any = None
    cancelled: bool = False
    _token: Callable[[], str] = field(default=partial(str, ""), repr=False, compare=False)
    """Not the text itself: an activity whose token is handed out leaves a mark when it ends."""

    @property
    def token(self) -> str:
        return self._token()
