"""What a group commit carries: a closed union of writes, each with its own result.

A store applies a group in one transaction, and judges every write alone: one that is refused never
fails the others. Appends of one run stand in their order; between other writes of a group any
order is a valid one, since their senders have not been answered yet.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from msgspec import Struct

from everlong_engine.model.codec import Blobs
from everlong_engine.model.entities import EntityChanges
from everlong_engine.model.failure import Failure
from everlong_engine.model.keys import StartKey
from everlong_engine.model.letters import Letter
from everlong_engine.model.outgoing import Outgoing, Target
from everlong_engine.model.policies import IfClosed, IfOpen, OnParentClose
from everlong_engine.model.refusals import Refusal
from everlong_engine.model.requests import Sent
from everlong_engine.model.runs import AttemptRow, Halt, ItemRow, NewRun, Probation, RunStatus, Trim
from everlong_engine.model.statements import Statement
from everlong_engine.model.tags import TagChanges
from everlong_engine.model.tasks import (
    NewTask,
    SettleTask,
    TaskEnd,
    Withdrawn,
    WithdrawTask,
)

__all__ = [
    "Answer",
    "AnswerApproval",
    "AnswerMail",
    "Append",
    "AppendResult",
    "ApprovalResult",
    "Approvals",
    "Ask",
    "Attached",
    "Beat",
    "ForgetMail",
    "Halt",
    "HistoryRow",
    "ManyResult",
    "MarkAttempts",
    "Message",
    "MessageResult",
    "NextRun",
    "NotTaken",
    "Pause",
    "PauseMany",
    "Pin",
    "Refusal",
    "Release",
    "Report",
    "ReportResult",
    "ResetRefusal",
    "ResetResult",
    "ResetRun",
    "Resume",
    "ResumeMany",
    "Reunion",
    "SettleTask",
    "StartResult",
    "StartRun",
    "Terminate",
    "WithdrawTask",
    "Write",
    "WriteResult",
]

HistoryRow: TypeAlias = tuple[int, int, int, bytes, int]
"""(seq, kind code, at_us, body, checksum)."""


class Append(Struct):
    """A run's next events, under its lease. Mutable only while it is built."""

    shard: int
    run_id: bytes
    execution_id: bytes
    token: int
    base: int
    """The sequence number of the first row: the run's next_seq must be just this."""
    rows: list[HistoryRow]
    append_id: int
    consumed: tuple[int, ...] = ()
    """Inbox positions that were fed."""
    mail_free: bool = False
    """Accept only if the inbox holds nothing but `consumed`: leaving, and direct messages."""
    closed: RunStatus | None = None
    closed_us: int | None = None
    next_run: "NextRun | None" = None
    blobs: Blobs | None = None
    healthy: bool = True
    """Progress that clears the run of suspicion: its losses are forgotten."""
    answers: tuple[tuple[str, bytes], ...] = ()
    """What senders wait for: (request name, answer), in place of the answer before."""
    items: tuple[ItemRow, ...] = ()
    """What its events publish, for subscribers."""
    outgoing: tuple[Outgoing, ...] = ()
    """What goes to other executions, each under this run and a number of its own. An append that
    is known again has sent it already."""
    approvals: "Approvals | None" = None
    tags: TagChanges = ()
    trims: tuple[Trim, ...] = ()
    """What goes from the beginnings of the channels that it publishes on."""
    pin: str | None = None
    """The version that the run is pinned to with its first append."""
    statements: tuple[Statement, ...] = ()
    """Of a transactional activity, whose outcome is the first of the rows."""
    over: tuple[tuple[str, bytes], ...] = ()
    """Of activities whose tokens somebody may have: (request name, what has become of it)."""
    tasks: tuple[tuple[int, TaskEnd], ...] = ()
    """Of activities that may be in a task queue: (number, what becomes of the task)."""
    letters: tuple[Letter, ...] = ()
    """What goes to brokers, in order. An append that is known again has left it already."""
    entities: EntityChanges | None = None
    """What the messages that it records make of the states of keys."""


class NextRun(Struct, frozen=True):
    """The successor after a roll-over: its row and the mail that starts it."""

    run: NewRun
    owner: bytes
    kind: int
    body: bytes
    blobs: Blobs


class Approvals(Struct, frozen=True):
    """What becomes of the approvals of a run with an append.

    An answer that was accepted must be fed before the run may stop waiting for it: unless `forced`,
    the append is refused (MAIL) when one of `withdrawn` has been answered.
    """

    requested: tuple[tuple[int, int], ...] = ()
    """(number, sequence number of its event)."""
    withdrawn: tuple[int, ...] = ()
    forced: bool = False
    """The run is closed whatever it waits for, or an earlier answer led to this."""


# Dataclasses, where a field is left out of comparisons: a struct has no word for that.
@dataclass(frozen=True, slots=True)
class AppendResult:
    refusal: Refusal | None = None
    next_run_mail: int | None = None
    """Where the successor's start lies in the inbox."""
    delivered: bool = False
    """Something was left for other executions: whoever owns them here should look."""
    repeated: bool = field(default=False, compare=False)
    """It was stored before, and the answer was lost."""
    failure: Failure | None = None
    """Of a statement, where that is the refusal."""


class Attached(Struct, frozen=True):
    """A message that comes with a start, for whichever execution the start means. Under its request
    name it is accepted once."""

    kind: int
    body: bytes
    request_id: str
    blobs: Blobs | None = None


class StartRun(Struct, frozen=True):
    """A new execution, either driven already by its owner (`first`) or left as mail.

    A request id that found an open execution and uses it is remembered with it. One that only looks
    who is in the way, because it would end that one first (`if_open="terminate"`), is not.
    """

    run: NewRun
    if_open: IfOpen
    if_closed: IfClosed
    kind: int
    body: bytes
    """The start as mail; unused when `first` is there."""
    owner: bytes | None = None
    first: Append | None = None
    blobs: Blobs | None = None
    wake_us: int = 0
    attached: Attached | None = None
    """Not with `first`. It goes to the new execution, or to the open one that is used instead."""
    key: StartKey | None = None
    """Not with `first`; one that is debounced not with `attached` either."""


@dataclass(frozen=True, slots=True)
class StartResult:
    """`created` is False when the workflow id was taken; the rest then tells by whom."""

    created: bool
    run_id: bytes
    execution_id: bytes
    status: RunStatus
    same_request: bool = False
    refused: bool = False
    delivered: bool = False
    """As in `AppendResult`, for the first drive."""
    held: bool = False
    """Nothing was stored: its type is paused, so it cannot begin with a first drive."""
    repeated: bool = field(default=False, compare=False)
    workflow_id: str = ""
    """Of the execution that a start with a key has come to; "" for one without."""


class Message(Struct, frozen=True):
    """`request_id` is the user's; without one, `sent` knows it again."""

    target: Target
    kind: int
    body: bytes
    now_us: int
    request_id: str | None = None
    blobs: Blobs | None = None
    sent: Sent | None = None


class MessageResult(Struct, frozen=True):
    """`status` None: there is no such execution. Accepted only where `position` is set or
    `duplicate` says that the same request was accepted before."""

    status: RunStatus | None
    run_id: bytes = b""
    execution_id: bytes = b""
    owner: bytes | None = None
    position: int | None = None
    duplicate: bool = False
    mended: str = ""
    """What was wrong with its row, which could not be read until now."""


class Terminate(Struct, frozen=True):
    """Close at once: bumps the token and appends, in one transaction; needs no worker."""

    target: Target
    row_kind: int
    row_body: bytes
    status: RunStatus
    now_us: int
    append_id: int | None = None
    """Borne by the closing event: repeated after an answer that was lost, it is known again."""
    request: str | None = None
    """The name under which it is known again, also when the workflow id has gone to another."""


class AnswerApproval(Struct, frozen=True):
    """The answer to an open approval, as mail for its run. `request` is the user's request id, or a
    name of this very write."""

    shard: int
    run_id: bytes
    number: int
    kind: int
    body: bytes
    now_us: int
    request: str


class ApprovalResult(Struct, frozen=True):
    """`answer` is the one that stands, if it is another; neither: there is no such approval."""

    accepted: bool
    answer: bytes | None = None


class Pause(Struct, frozen=True):
    """Hold an execution: nothing is appended behind this, no attempt begins. The first counts."""

    target: Target
    now_us: int
    by: str
    reason: str
    request_id: str | None = None
    sent: Sent | None = None


class Resume(Struct, frozen=True):
    """Take an execution's own pause away, and let a blocked run be tried again, unsuspected."""

    target: Target
    now_us: int
    request_id: str | None = None
    sent: Sent | None = None
    by: str | None = None
    """Only a pause of this one, and nothing but a pause."""


class PauseMany(Struct, frozen=True):
    """Hold all executions of a type, or of the namespace (type ""), also those to come."""

    namespace: str
    type: str
    now_us: int
    by: str
    reason: str
    request_id: str | None = None


class ResumeMany(Struct, frozen=True):
    """Take such a pause away; with `blocked`, also let blocked runs be tried again."""

    namespace: str
    type: str
    now_us: int
    blocked: bool = False
    request_id: str | None = None


class ManyResult(Struct, frozen=True):
    """How many executions were held, or go on. `owned` are those that somebody has in hand."""

    executions: int
    owned: tuple[bytes, ...] = ()
    found: bool = True
    """Whether there was such a pause to take away."""
    duplicate: bool = False


class Reunion(Struct, frozen=True):
    """What the new run waits for from another execution, if no answer is at hand."""

    number: int
    origin: bytes
    """The run that asked for it."""
    target: Target
    policy: OnParentClose | None = None
    """Of a child; None for one that is no child."""
    awaits_end: bool = True
    """False for a message, of which only the fate is told."""
    wants_start: bool = False


class ResetRun(Struct, frozen=True):
    """A new run with the beginning of another one's history; of the same execution, or (a fork) of
    a new one. Closes the other run if it is open, needs no lease, and begins no code.

    Refused where something that others have said lies in the other history, or what they were told,
    and its sender has not seen it.
    """

    source: NewRun
    """The run whose history is repeated, as it was begun."""
    seen: int
    """Up to before this event the sender knows its history."""
    run: NewRun
    rows: tuple[HistoryRow, ...]
    """The copy. The store completes its first event by how far the output channels have come."""
    start: tuple[int, bytes] | None
    """In place of a copy: the start as mail."""
    mail: tuple[tuple[int, bytes], ...]
    """What is fed first, in order: inputs that are kept, messages that came behind the point."""
    dropped: tuple[int, ...]
    """Messages in the inbox that go with what was done behind the point."""
    blobs: Blobs
    mail_blobs: Blobs
    reunions: tuple[Reunion, ...]
    settled: tuple[int, ...]
    """Numbers of what waits for others at the point, with the answers in `mail`."""
    approvals: tuple[tuple[int, int], ...]
    """(number, sequence number) of those that are open at the point."""
    answers: tuple[tuple[str, bytes], ...]
    """What senders of updates are told from now on."""
    closing: tuple[int, bytes]
    """(kind, body) that closes the other run."""
    append_id: int
    now_us: int
    request_id: str | None = None
    items: tuple[ItemRow, ...] = ()
    """What a fork has published, for its own subscribers."""

    @property
    def is_fork(self) -> bool:
        return self.run.execution_id != self.source.execution_id


class ResetRefusal(Enum):
    """Why there is no new run."""

    GONE = "the run is not in the store any more"
    MOVED_ON = "the run, or its inbox, has moved on meanwhile: look again"
    TAKEN = "another execution has the workflow id"
    STATES = "the execution has states of keyed entities, which only go forward"


@dataclass(frozen=True, slots=True)
class ResetResult:
    refusal: ResetRefusal | None = None
    run_id: bytes = b""
    execution_id: bytes = b""
    status: RunStatus | None = None
    """Of whoever has the workflow id."""
    same_request: bool = False
    repeated: bool = field(default=False, compare=False)


class Pin(Struct, frozen=True):
    """Say which version may drive an open run; None: whichever is here. Whoever has it in hand
    notices, and hands it back when nothing goes on in it."""

    target: Target
    version: str | None
    request_id: str | None = None


class Release(Struct, frozen=True):
    """Hand a run back: owner none, and either asleep until `wake_us` or blocked with a reason."""

    shard: int
    run_id: bytes
    execution_id: bytes
    token: int
    base: int
    wake_us: int | None
    blocked: bool = False
    reason: str | None = None
    attempts: tuple[AttemptRow, ...] = ()
    """Attempts that were at work and are handed back."""
    mail: tuple[tuple[int, bytes], ...] = ()
    """Local inputs that were not fed, as (kind, body): the next owner finds them in the inbox."""
    blobs: Blobs | None = None
    waits_with: int | None = None
    """It has not begun, and is not to before `wake_us`: what lies in the inbox up to this position
    waits with it."""


class MarkAttempts(Struct, frozen=True):
    """Attempts that may begin now, failed, or were lost. `probation` sets the mark."""

    shard: int
    run_id: bytes
    token: int
    attempts: tuple[AttemptRow, ...]
    probation: Probation | None = None
    begins: bool = False
    """An attempt begins behind it: refused while the run is paused."""
    mail: tuple[tuple[int, bytes], ...] = ()
    """Outcomes that cannot be fed now, as (kind, body)."""
    blobs: Blobs | None = None
    halt: Halt | None = None
    tasks: tuple[NewTask, ...] = ()
    """What goes into task queues with it."""


class Report(Struct, frozen=True):
    """An attempt's outcome, from whoever completes it elsewhere. The first of an activity wins."""

    shard: int
    run_id: bytes
    execution_id: bytes
    activity_id: int
    attempt: int
    kind: int
    body: bytes
    mark: bytes
    """Knows this very answer again."""
    now_us: int
    blobs: Blobs | None = None


class Beat(Struct, frozen=True):
    """A sign of life of an attempt that is completed elsewhere."""

    shard: int
    run_id: bytes
    execution_id: bytes
    activity_id: int
    attempt: int
    now_us: int
    details: bytes | None = None


class NotTaken(Enum):
    """Why what was said of an attempt counts no more."""

    UNKNOWN = "there is no such run"
    CLOSED = "its run has ended"
    ANSWERED = "somebody else has answered"
    OVER = "the attempt is over"
    CANCELLED = "the workflow has cancelled it"
    DONE = "it has an outcome already"
    GONE = "it has timed out, or was lost with its worker"


class ReportResult(Struct, frozen=True):
    refusal: NotTaken | None = None
    duplicate: bool = False
    unwanted: bool = False
    """The workflow has cancelled it, and waits for its end."""


class Ask(Struct, frozen=True):
    """A query from a process that does not own the file; its answer is written beside it."""

    question_id: bytes
    target: Target
    query: str
    arguments: bytes
    now_us: int


class Answer(Struct, frozen=True):
    question_id: bytes
    ok: bool
    answer: bytes


class ForgetMail(Struct, frozen=True):
    """A notice that was read, such as that of a termination."""

    position: int
    execution_id: bytes


class AnswerMail(Struct, frozen=True):
    """Take a message out unfed and answer its sender, as the owner of the run that refuses it.

    Nothing is done unless the message is still there and the lease is still held.
    """

    shard: int
    run_id: bytes
    execution_id: bytes
    token: int
    position: int
    request_id: str
    answer: bytes


Write: TypeAlias = (
    Append
    | AnswerMail
    | StartRun
    | Message
    | ForgetMail
    | Terminate
    | AnswerApproval
    | Pause
    | PauseMany
    | Resume
    | ResetRun
    | ResumeMany
    | Pin
    | Release
    | MarkAttempts
    | Ask
    | Answer
    | Report
    | Beat
    | WithdrawTask
    | SettleTask
)
WriteResult: TypeAlias = (
    AppendResult
    | ApprovalResult
    | ManyResult
    | StartResult
    | MessageResult
    | ReportResult
    | ResetResult
    | Withdrawn
    | None
)
