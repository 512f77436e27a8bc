"""Every error that Everlong raises on purpose, in one tree.

The first paragraph of a class's docstring is its default message; facts are attributes, so a
handler reads `error.workflow_id` and never parses a text.

    EverlongError
    ├── DefinitionError
    ├── InterceptorError
    ├── InvalidArguments (also TypeError)
    ├── InvalidFilter (also ValueError)
    ├── InvalidTag (also ValueError)
    ├── PayloadError
    │   ├── NotSerializable (also TypeError)
    │   ├── PayloadTooLarge
    │   └── UndecodablePayload
    │       ├── MissingKey
    │       ├── TamperedPayload
    │       └── PlainPayload
    ├── ApplicationError            for you to raise, in an activity or a workflow
    ├── InvalidToken                what `client.complete` and the like were given
    ├── ActivityNotOpen
    ├── ActivityError               stands for an exception whose class cannot be rebuilt
    │   ├── ActivityTimeout (also TimeoutError)
    │   └── ActivityLost
    ├── PoisonMessage               a message of a stream does not fit; its execution is paused
    ├── PoolFull                    a pool of workflows that refuses what has to wait
    ├── StatementFailed             SQL of a transactional activity: nothing of it was stored
    ├── StreamRewound               what a stream has read is not at its source any more
    ├── CompensationFailed          a saga that could not be undone
    ├── TooManyFailures             map_all tolerated fewer
    ├── WorkflowFailed              how a run ended: these four
    ├── WorkflowCancelled
    ├── WorkflowTerminated
    ├── WorkflowTimedOut
    ├── WorkflowAlreadyStarted
    ├── WorkflowNotFound
    ├── WorkflowClosed
    │   └── WorkflowMoved           it goes on in another store
    ├── WorkflowBlocked             an update waits for somebody to fix the code
    ├── CannotReset                 no run can begin from that point
    ├── UpdateRejected              an update: refused, failed, or left unfinished
    ├── UpdateFailed
    ├── UpdateUnfinished
    ├── AlreadyAnswered             an approval: answered by another, not for you, or gone
    ├── NotAnApprover
    ├── ApprovalNotFound
    ├── UnreadableExport            a file with exported executions
    ├── ImportRefused
    ├── MoveRefused                 an execution stays in its store
    ├── ItemsGone                   what a subscriber wants is no longer kept
    ├── QueryFailed
    ├── NoAnswer (also TimeoutError)
    ├── WorkflowFault               a fault in the workflow's code: the run is blocked, not failed
    │   ├── NondeterminismError
    │   ├── ForbiddenCall
    │   ├── EndlessDrive
    │   └── UnregisteredException
    └── StoreError
        ├── StoreOwned
        ├── ForeignFile
        ├── NewerSchema
        ├── NetworkFileSystem
        ├── StoreFull
        └── StoreFailed
"""

import datetime as dt
from collections.abc import Sequence

from everlong_engine.model.errors import (
    EverlongError,
    ForeignFile,
    ImportRefused,
    InvalidFilter,
    InvalidTag,
    NetworkFileSystem,
    NewerSchema,
    NotSerializable,
    PayloadError,
    PayloadTooLarge,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreOwned,
    UndecodablePayload,
    UnreadableExport,
    WorkflowAlreadyStarted,
    WorkflowClosed,
    WorkflowMoved,
    WorkflowNotFound,
)

__all__ = [
    "ActivityError",
    "ActivityLost",
    "ActivityNotOpen",
    "ActivityTimeout",
    "AlreadyAnswered",
    "ApplicationError",
    "ApprovalNotFound",
    "CannotReset",
    "CompensationFailed",
    "DefinitionError",
    "EndlessDrive",
    "EverlongError",
    "ForbiddenCall",
    "ForeignFile",
    "ImportRefused",
    "InterceptorError",
    "InvalidArguments",
    "InvalidFilter",
    "InvalidTag",
    "InvalidToken",
    "ItemsGone",
    "MissingKey",
    "MoveRefused",
    "NetworkFileSystem",
    "NewerSchema",
    "NoAnswer",
    "NondeterminismError",
    "NotAnApprover",
    "NotSerializable",
    "PayloadError",
    "PayloadTooLarge",
    "PlainPayload",
    "PoisonMessage",
    "PoolFull",
    "QueryFailed",
    "StatementFailed",
    "StoreError",
    "StoreFailed",
    "StoreFull",
    "StoreOwned",
    "StreamRewound",
    "TamperedPayload",
    "TooManyFailures",
    "UndecodablePayload",
    "UnreadableExport",
    "UnregisteredException",
    "UpdateFailed",
    "UpdateRejected",
    "UpdateUnfinished",
    "WorkflowAlreadyStarted",
    "WorkflowBlocked",
    "WorkflowCancelled",
    "WorkflowClosed",
    "WorkflowFailed",
    "WorkflowFault",
    "WorkflowMoved",
    "WorkflowNotFound",
    "WorkflowTerminated",
    "WorkflowTimedOut",
]


class DefinitionError(EverlongError):
    """A workflow, activity or channel is not declared in a way that Everlong can run."""

    function: str | None = None
    parameter: str | None = None


class InterceptorError(EverlongError):
    """An interceptor is at fault. The message names its method, and tells what it did."""


class InvalidArguments(EverlongError, TypeError):
    """The arguments do not fit the declared types. Nothing was started and nothing was stored."""

    owner: str | None = None
    parameter: str | None = None


class InvalidToken(EverlongError):
    """The text is no token of an activity. Pass `info(ActivityInfo).token` on as it is."""


class ActivityNotOpen(EverlongError):
    """Activity {activity_id} of {workflow_id!r} takes no answer: {reason}."""

    workflow_id: str | None = None
    activity_id: int | None = None
    reason: str = "it is over"


class MissingKey(UndecodablePayload):
    """A payload is encrypted with the key {key_id!r}, which was not given. Give it to the client
    with codecs=[Encrypt(…)], or to a command with --codecs; then the run goes on."""

    key_id: str = "?"


class TamperedPayload(UndecodablePayload):
    """A payload that was encrypted with the key {key_id!r} was changed, or taken from another
    place. Restore the file from a backup."""

    key_id: str = "?"


class PlainPayload(UndecodablePayload):
    """A payload is not encrypted, and this client reads only encrypted ones. If the store was
    begun without encryption, connect with Encrypt(…, accept_plain=True); otherwise somebody has
    put it there."""


class ApplicationError(EverlongError):
    """The application failed.

    Raise it in an activity to say what the retry policy cannot know:

        raise ApplicationError("card declined", details={"code": 51}, retryable=False)

    Args:
        details: plain data for whoever handles the error.
        retryable: False ends the attempts at once.
        next_delay: seconds or timedelta until the next attempt, in place of the policy's delay.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        details: object = None,
        retryable: bool = True,
        next_delay: float | dt.timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.details = details
        self.retryable = retryable
        self.next_delay = next_delay


class ActivityError(EverlongError):
    """The activity failed with {type}.

    Stands for an exception whose own class cannot be rebuilt here; name the class in `raises=[...]`
    to catch it as itself.
    """

    type: str = "an unknown exception"
    message: str = ""
    details: object = None
    traceback: str = ""


class CompensationFailed(EverlongError):
    """A saga could not be undone: {names} failed for good. Look at what they were to undo.

    `failures` holds (name, exception) of each, in the order in which they were tried; what made the
    saga fail is the `__context__`.
    """

    names: str = ""
    failures: Sequence[tuple[str, Exception]] = ()


class TooManyFailures(EverlongError):
    """{failed} of {items} items failed, and {tolerated} may. The first failed with {first}.

    `failures` holds a `MapFailure` of each that had failed by then; the first one's error is the
    `__cause__`.
    """

    failed: int = 0
    items: int = 0
    tolerated: int = 0
    first: str = ""
    failures: Sequence[object] = ()


class ActivityTimeout(ActivityError, TimeoutError):
    """The activity took longer than its {kind} timeout allows.

    `kind` is `start_to_close`, `schedule_to_close`, `schedule_to_start` or `heartbeat`.
    """

    type: str = "everlong.exceptions.ActivityTimeout"
    kind: str = "start_to_close"


class ActivityLost(ActivityError):
    """The worker or the process that ran the activity is gone, and no attempt is left. Whether it
    took effect is unknown: look before you repeat it."""

    type: str = "everlong.exceptions.ActivityLost"


class StatementFailed(EverlongError):
    """A statement of a transactional activity failed, so nothing of it was stored."""


class StreamRewound(EverlongError):
    """What a stream's cursor names is not at its source any more: it was made anew, or cut."""


class PoisonMessage(EverlongError):
    """A message of a stream cannot be decoded, and its loop is to stop at one; or it is to stop
    since too many have failed, or are parked. It pauses the execution."""


class PoolFull(EverlongError):
    """The pool refuses what has to wait, and has no room. None of the execution's code ran."""


class WorkflowFailed(EverlongError):
    """The workflow {workflow_id!r} failed: {reason}.

    `__cause__` is the exception that left the workflow function, rebuilt where its class is known.
    """

    workflow_id: str | None = None
    run_id: str | None = None
    type: str | None = None
    reason: str = "see __cause__"
    traceback: str = ""


class WorkflowCancelled(EverlongError):
    """The workflow {workflow_id!r} was cancelled: {reason}."""

    workflow_id: str | None = None
    run_id: str | None = None
    reason: str = "no reason was given"


class WorkflowTerminated(EverlongError):
    """The workflow {workflow_id!r} was terminated: {reason}."""

    workflow_id: str | None = None
    run_id: str | None = None
    reason: str = "no reason was given"


class WorkflowTimedOut(EverlongError):
    """The workflow {workflow_id!r} did not finish within its {kind} timeout. Allow more time, or
    start it without a timeout.

    `kind` is `run` or `execution`.
    """

    workflow_id: str | None = None
    run_id: str | None = None
    kind: str = "run"


class WorkflowBlocked(EverlongError):
    """The workflow {workflow_id!r} is blocked, so nobody performs the update {update_id!r} now:
    {reason}. It is stored, and is performed when the run goes on: correct the code, then ask again
    with the same update id."""

    workflow_id: str | None = None
    run_id: str | None = None
    update: str | None = None
    update_id: str | None = None
    reason: str = "no reason is recorded"


class CannotReset(EverlongError):
    """{workflow_id!r} cannot begin anew from there. `everlong history` shows its events with their
    numbers."""

    workflow_id: str | None = None


class UpdateRejected(EverlongError):
    """The workflow {workflow_id!r} refused the update {update!r}: {reason}. Nothing was changed.

    `__cause__` is what its validator raised.
    """

    workflow_id: str | None = None
    update: str | None = None
    update_id: str | None = None
    reason: str = "see __cause__"


class UpdateFailed(EverlongError):
    """The update {update!r} of workflow {workflow_id!r} failed: {reason}. The workflow goes on.

    `__cause__` is the exception that left its handler.
    """

    workflow_id: str | None = None
    update: str | None = None
    update_id: str | None = None
    reason: str = "see __cause__"


class UpdateUnfinished(EverlongError):
    """The workflow {workflow_id!r} ended, or began anew, before the update {update!r} was finished.
    What its handler had done by then stands: look before you repeat it."""

    workflow_id: str | None = None
    update: str | None = None
    update_id: str | None = None


class AlreadyAnswered(EverlongError):
    """The approval {id} was {verdict} by {by!r} before, with the comment {comment!r}. The first
    answer stands."""

    id: str | None = None
    approved: bool = False
    verdict: str = "answered"
    by: str = "somebody"
    comment: str = ""
    at: dt.datetime | None = None


class NotAnApprover(EverlongError):
    """{by!r} is not among those who may answer the approval {id}: {approvers}. Nothing was
    stored."""

    id: str | None = None
    by: str = ""
    approvers: tuple[str, ...] = ()


class ApprovalNotFound(EverlongError):
    """There is no approval {id!r} that waits for an answer: it timed out, was cancelled, its run
    has ended, or the id is wrong. `client.approvals()` lists the open ones."""

    id: str | None = None


class MoveRefused(EverlongError):
    """{workflow_id!r} cannot be moved: {reason}. It stays where it is."""

    workflow_id: str | None = None
    reason: str = "it is at work"
    waiter: str | None = None
    """The workflow id of one that waits for it, and would have to go first."""


class ItemsGone(EverlongError):
    """Item {number} of the output {channel!r} of {workflow_id!r} is no longer kept: the oldest is
    {oldest}. Subscribe from there, or with start=0; Output(keep=…) says how many are kept."""

    workflow_id: str | None = None
    channel: str | None = None
    number: int = 0
    oldest: int = 0


class QueryFailed(EverlongError):
    """The query {query!r} of workflow {workflow_id!r} failed: {reason}. The run itself is not
    affected."""

    workflow_id: str | None = None
    query: str | None = None
    reason: str = "unknown"


class NoAnswer(EverlongError, TimeoutError):
    """Nobody answered within {timeout_s} seconds. Is a Worker running on this store that has
    {what} registered?"""

    workflow_id: str | None = None
    what: str = "the workflow"
    timeout_s: float | None = None


class WorkflowFault(EverlongError):
    """The engine found a fault in the workflow's code. The run is blocked, not failed: fix the
    code, and it goes on where it stands."""

    workflow_id: str | None = None
    run_id: str | None = None


class NondeterminismError(WorkflowFault):
    """At event {seq} the code decided something other than what is recorded: recorded {recorded},
    made {made}. Bring back the old order of calls, or put the change behind patched().

    `recorded_at` and `made_at` are the source lines.
    """

    seq: int | None = None
    recorded: str = "nothing"
    made: str = "nothing"
    recorded_at: str = ""
    made_at: str = ""


class ForbiddenCall(WorkflowFault):
    """{call} cannot be called inside a workflow: its outcome would differ on replay. {fix}"""

    call: str = "This function"
    fix: str = "Call it in an activity."


class EndlessDrive(WorkflowFault):
    """The workflow ran {callbacks} callbacks without waiting for anything. Await a timer, a
    signal or an activity in the loop."""

    callbacks: int = 0
    stack: str = ""


class UnregisteredException(WorkflowFault):
    """{type} was registered when it was raised and is not now, so another `except` branch would
    be taken. Import its module in the worker, or name it in raises=[...]."""

    type: str = "An exception class"
