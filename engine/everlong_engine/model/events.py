"""The only vocabulary of a history: two closed families of facts, past tense.

**Inputs** come from outside and are fed to the code one at a time. **Decisions** are what the code
did about the input before them; there is no second vocabulary of commands. A committed history is a
sequence of (input, its decisions) pairs, so replay never guesses at a frontier.

Payloads are opaque bytes here. Activities and timers are named by a number that counts up within
the run. `where` is the source line that made a decision, for people; it is never compared.

A new kind is one class, one entry in `KINDS`, one `case` wherever `assert_never` then complains.
Codes in `KINDS` and the order of fields are for ever: they are what is stored.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct

from everlong_engine.model.failure import Failure
from everlong_engine.model.lineage import Debounced, Numbers, Reset
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.tags import TagChanges, Tags

__all__ = [
    "CLOSING",
    "CODES",
    "DECISIONS",
    "INPUTS",
    "KINDS",
    "ActivityCancelRequested",
    "ActivityCancelled",
    "ActivityCompleted",
    "ActivityFailed",
    "ActivityLost",
    "ActivityScheduled",
    "ActivityTimedOut",
    "ApprovalAnswered",
    "ApprovalRequested",
    "ApprovalWithdrawn",
    "CancelRequested",
    "ChildCancelRequested",
    "ChildClosed",
    "ChildScheduled",
    "ChildStartFailed",
    "ChildStarted",
    "Closing",
    "Decision",
    "Event",
    "ExternalAnswered",
    "ExternalAwaited",
    "ExternalCancelSent",
    "ExternalSignalSent",
    "Input",
    "ItemPublished",
    "MemoSet",
    "Numbers",
    "PatchMarked",
    "Recorded",
    "RunCancelled",
    "RunCompleted",
    "RunContinuedAsNew",
    "RunFailed",
    "RunStarted",
    "RunTerminated",
    "RunTimedOut",
    "SideEffectRecorded",
    "SignalReceived",
    "SignalRejected",
    "TagsSet",
    "TimerCancelled",
    "TimerFired",
    "TimerStarted",
    "UpdateCompleted",
    "UpdateFailed",
    "UpdateReceived",
]

Carried: TypeAlias = tuple[tuple[str, bytes], ...]
"""Signals that were accepted but not yet received: (name, payload), oldest first."""


# ---------------------------------------------------------------------------------- inputs


class RunStarted(Struct, frozen=True):
    """The first event of every run: everything that the code may know from the start."""

    workflow: str
    arguments: bytes
    workflow_id: str
    seed: int
    code: str
    """Digest of the workflow's source when the run began."""
    python: str
    run_timeout_us: int | None = None
    execution_deadline_us: int | None = None
    previous_run: bytes | None = None
    carried: Carried = ()
    cancel_requested: bool = False
    """The execution was asked to cancel in an earlier run; it is not asked twice."""
    published: Numbers = ()
    """How far the output channels of the execution had come in its earlier runs."""
    parent: str | None = None
    """The workflow id of the execution whose child this is."""
    reset: Reset | None = None
    """What it repeats, if it was reset or forked."""
    tags: Tags = ()
    memo: bytes = b""
    """Of the execution, as they stood when the run began; the memo is a payload, or nothing."""
    cancel_reason: str | None = None
    """Why it was asked; None where nobody asked, or before it was kept."""
    begins_us: int | None = None
    """It is not fed before this instant."""
    headers: bytes = b""
    """What travels beside the arguments: a payload, or nothing. Not written where there is none,
    here and wherever else there are headers."""
    retry: tuple[Any, ...] | None = None
    """How the execution is tried again when a run of it fails (`machine.retries`)."""
    attempt: int = 1
    """Which attempt the run is, since the execution began or began anew."""
    cursors: Carried = ()
    """How far the execution had read its streams: (name, payload)."""
    debounced: Debounced | None = None
    """Which starts came together in it."""


class ActivityCompleted(Struct, frozen=True):
    activity_id: int
    result: bytes
    run: bytes | None = None
    """The run that an answer by token is for, since the inbox is the execution's; None in a
    history."""


class ActivityFailed(Struct, frozen=True):
    """The last allowed attempt failed."""

    activity_id: int
    failure: Failure
    attempts: int
    run: bytes | None = None
    """As in `ActivityCompleted`."""


class ActivityTimedOut(Struct, frozen=True):
    """`timeout` is start_to_close, schedule_to_close, schedule_to_start or heartbeat."""

    activity_id: int
    timeout: str
    attempts: int


class ActivityLost(Struct, frozen=True):
    """The worker died with the last allowed attempt; whether it took effect is unknown."""

    activity_id: int
    attempts: int


class ActivityCancelled(Struct, frozen=True):
    """The end of a cancelled activity that the code waits for (`on_cancel="wait"`).

    `outcome` tells people what came of it: stopped, not_begun, completed, failed, timed_out or
    lost. The code gets its CancelledError in every case. `attempts` is 0 where it is not known.
    """

    activity_id: int
    outcome: str
    attempts: int


class TimerFired(Struct, frozen=True):
    timer_id: int


class SignalReceived(Struct, frozen=True):
    signal: str
    payload: bytes


class SignalRejected(Struct, frozen=True):
    """A signal whose value did not fit its declared type: recorded, never delivered."""

    signal: str
    payload: bytes
    error: str


class CancelRequested(Struct, frozen=True):
    reason: str


class UpdateReceived(Struct, frozen=True):
    """A request that wants an answer. It has passed its validator, which is not asked again."""

    update_id: str
    update: str
    arguments: bytes


# What comes back from other executions names the run that asked: the next one counts anew.


class ChildStarted(Struct, frozen=True):
    """A child is there. Recorded where the code waits for just that."""

    child_id: int
    run: bytes
    execution: bytes


class ChildStartFailed(Struct, frozen=True):
    """Its workflow id is taken; `status` tells how the execution that has it stands."""

    child_id: int
    run: bytes
    status: str


class ChildClosed(Struct, frozen=True):
    """A child, or another execution that was waited for, has ended: for good, not just a run of it.

    `reason` is why it was cancelled or terminated, or which timeout it exceeded.
    """

    child_id: int
    run: bytes
    status: str = ""
    result: bytes = b""
    failure: Failure | None = None
    reason: str = ""
    source: bytes = b""
    """In the inbox all that there is: where the end stands, and its event as it is stored there."""


class ExternalAnswered(Struct, frozen=True):
    """What came of something sent to another execution: "" when it was accepted, else "not_found"
    or how that execution has closed."""

    call_id: int
    run: bytes
    problem: str


class ApprovalAnswered(Struct, frozen=True):
    """Addressed to a run: the numbers of another one mean other approvals."""

    approval_id: int
    run: bytes
    approved: bool
    by: str
    comment: bytes
    at_us: int


# ------------------------------------------------------------------------------- decisions


class ActivityScheduled(Struct, frozen=True):
    activity_id: int
    activity: str
    arguments: bytes
    options: ActivityOptions
    where: str
    began: bool = False
    """A slot was free at the commit: the first attempt may have begun right behind it."""
    headers: bytes = b""


class ActivityCancelRequested(Struct, frozen=True):
    """Closes the activity: no outcome of it is recorded any more. One with `on_cancel="wait"` stays
    open until `ActivityCancelled`."""

    activity_id: int


class TimerStarted(Struct, frozen=True):
    timer_id: int
    due_us: int
    where: str


class TimerCancelled(Struct, frozen=True):
    timer_id: int


class SideEffectRecorded(Struct, frozen=True):
    value: bytes
    where: str


class PatchMarked(Struct, frozen=True):
    patch: str


class UpdateCompleted(Struct, frozen=True):
    update_id: str
    result: bytes


class UpdateFailed(Struct, frozen=True):
    """An exception left the handler. The run goes on."""

    update_id: str
    failure: Failure


class ItemPublished(Struct, frozen=True):
    """The numbers of a channel count from 0 through all runs of the execution."""

    channel: str
    number: int
    payload: bytes
    where: str


class TagsSet(Struct, frozen=True):
    """Only what changes; None takes a tag away."""

    tags: TagChanges
    where: str


class MemoSet(Struct, frozen=True):
    memo: bytes
    where: str


class ChildScheduled(Struct, frozen=True):
    """`target` is the child's workflow id."""

    child_id: int
    workflow: str
    target: str
    arguments: bytes
    where: str
    on_parent_close: str = "terminate"
    if_open: str = "fail"
    if_closed: str = "allow"
    run_timeout_us: int | None = None
    execution_timeout_us: int | None = None
    wants_start: bool = False
    """The code waits for the start, and will be told of it."""
    tags: Tags = ()
    memo: bytes = b""
    on_cancel: str = "try"
    """What cancelling the call does: "wait" for the child's end, "try", or "abandon" it."""
    headers: bytes = b""
    retry: tuple[Any, ...] | None = None
    """As in `RunStarted`; None: as the child's workflow says."""


class ChildCancelRequested(Struct, frozen=True):
    """The child is asked to stop. Nobody waits for it any more, and no outcome is recorded, unless
    its `on_cancel` is "wait"."""

    child_id: int
    target: str
    reason: str


class ExternalSignalSent(Struct, frozen=True):
    """`execution` is the one that is meant; None for whichever has the workflow id."""

    call_id: int
    target: str
    execution: bytes | None
    signal: str
    payload: bytes
    where: str


class ApprovalRequested(Struct, frozen=True):
    """Whoever may answer: one of `approvers`, or anybody if there are none."""

    approval_id: int
    title: str
    data: bytes
    approvers: tuple[str, ...]
    due_us: int | None
    where: str


class ExternalCancelSent(Struct, frozen=True):
    call_id: int
    target: str
    execution: bytes | None
    reason: str
    where: str


class ExternalAwaited(Struct, frozen=True):
    """The code began to wait for the end of another execution."""

    call_id: int
    target: str
    where: str


class ApprovalWithdrawn(Struct, frozen=True):
    """Closes the approval: the code does not wait for it any more."""

    approval_id: int


class RunCompleted(Struct, frozen=True):
    result: bytes
    unread: tuple[str, ...] = ()
    """Names of signals that were accepted and that the code never received."""


class RunFailed(Struct, frozen=True):
    failure: Failure
    unread: tuple[str, ...] = ()
    due_us: int | None = None
    """When the next attempt, a run of its own, begins; None: it has failed for good."""


class RunCancelled(Struct, frozen=True):
    reason: str
    unread: tuple[str, ...] = ()


class RunContinuedAsNew(Struct, frozen=True):
    """`checkpoints` tells which call of `checkpoint` did it, so that replay repeats just that one;
    0 is `continue_as_new`."""

    arguments: bytes
    carried: Carried
    checkpoints: int


class RunTerminated(Struct, frozen=True):
    """Closed from outside at once. Needs no worker and no code; stands behind complete pairs."""

    reason: str


class RunTimedOut(Struct, frozen=True):
    """`timeout` is run or execution. Like a termination, by the run's own deadline."""

    timeout: str


Input: TypeAlias = (
    RunStarted
    | ActivityCompleted
    | ActivityFailed
    | ActivityTimedOut
    | ActivityLost
    | ActivityCancelled
    | TimerFired
    | SignalReceived
    | SignalRejected
    | CancelRequested
    | UpdateReceived
    | ChildStarted
    | ChildStartFailed
    | ChildClosed
    | ExternalAnswered
    | ApprovalAnswered
)
Closing: TypeAlias = (
    RunCompleted | RunFailed | RunCancelled | RunContinuedAsNew | RunTerminated | RunTimedOut
)
Decision: TypeAlias = (
    ActivityScheduled
    | ActivityCancelRequested
    | TimerStarted
    | TimerCancelled
    | SideEffectRecorded
    | PatchMarked
    | UpdateCompleted
    | UpdateFailed
    | ApprovalRequested
    | ApprovalWithdrawn
    | ItemPublished
    | TagsSet
    | MemoSet
    | ChildScheduled
    | ChildCancelRequested
    | ExternalSignalSent
    | ExternalCancelSent
    | ExternalAwaited
    | Closing
)
Event: TypeAlias = Input | Decision

KINDS: Final[Mapping[int, type[Event]]] = {
    1: RunStarted,
    2: ActivityCompleted,
    3: ActivityFailed,
    4: ActivityTimedOut,
    5: ActivityLost,
    6: TimerFired,
    7: SignalReceived,
    8: SignalRejected,
    9: CancelRequested,
    10: UpdateReceived,
    11: ApprovalAnswered,
    12: ChildStarted,
    13: ChildStartFailed,
    14: ChildClosed,
    15: ExternalAnswered,
    16: ActivityCancelled,
    64: ActivityScheduled,
    65: ActivityCancelRequested,
    66: TimerStarted,
    67: TimerCancelled,
    68: SideEffectRecorded,
    69: PatchMarked,
    70: UpdateCompleted,
    71: UpdateFailed,
    72: ApprovalRequested,
    73: ApprovalWithdrawn,
    74: ItemPublished,
    75: ChildScheduled,
    76: ChildCancelRequested,
    77: ExternalSignalSent,
    78: ExternalCancelSent,
    79: ExternalAwaited,
    80: TagsSet,
    81: MemoSet,
    96: RunCompleted,
    97: RunFailed,
    98: RunCancelled,
    99: RunContinuedAsNew,
    100: RunTerminated,
    101: RunTimedOut,
}
CODES: Final[Mapping[type[Event], int]] = {kind: code for code, kind in KINDS.items()}
INPUTS: Final = frozenset(kind for code, kind in KINDS.items() if code < 64)
DECISIONS: Final = frozenset(kind for code, kind in KINDS.items() if code >= 64)
CLOSING: Final = frozenset(kind for code, kind in KINDS.items() if code >= 96)


class Recorded(Struct, frozen=True):
    """An event in its place. `at_us` is the time of the input that it belongs to."""

    seq: int
    at_us: int
    event: Event
