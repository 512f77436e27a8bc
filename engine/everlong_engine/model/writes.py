"""What a group commit carries: a closed union of writes, each with its own result.

A store applies a group in one transaction, and judges every write alone: one that is refused never
fails the others. Appends of one run stand in their order; between other writes of a group any
order is a valid one, since their senders have not been answered yet.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from everlong_engine.model.codec import Blobs
from everlong_engine.model.policies import IfClosed, IfOpen, OnParentClose
from everlong_engine.model.requests import Sent
from everlong_engine.model.runs import AttemptRow, ItemRow, NewRun, Probation, RunStatus

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
    "AwaitEnd",
    "Beat",
    "CancelChild",
    "ForgetMail",
    "HistoryRow",
    "MarkAttempts",
    "Message",
    "MessageResult",
    "NextRun",
    "NotTaken",
    "Outgoing",
    "Refusal",
    "Release",
    "Report",
    "ReportResult",
    "Resume",
    "SendTo",
    "StartChild",
    "StartResult",
    "StartRun",
    "Target",
    "Terminate",
    "Write",
    "WriteResult",
]

HistoryRow: TypeAlias = tuple[int, int, int, bytes, int]
"""(seq, kind code, at_us, body, checksum)."""


class Refusal(Enum):
    """Why a write of an owner was refused. Each means: discard the run, then look again."""

    FENCED = "the lease was lost, or the history has moved on"
    MAIL = "the inbox holds mail that must be fed first"
    CONFLICT = "a row that this append consumes is gone"


@dataclass(slots=True)
class Append:
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
    outgoing: "tuple[Outgoing, ...]" = ()
    """What goes to other executions, each under this run and a number of its own. An append that
    is known again has sent it already."""
    approvals: "Approvals | None" = None


@dataclass(frozen=True, slots=True)
class NextRun:
    """The successor after a roll-over: its row and the mail that starts it."""

    run: NewRun
    owner: bytes
    kind: int
    body: bytes
    blobs: Blobs


@dataclass(frozen=True, slots=True)
class Approvals:
    """What becomes of the approvals of a run with an append.

    An answer that was accepted must be fed before the run may stop waiting for it: unless `forced`,
    the append is refused (MAIL) when one of `withdrawn` has been answered.
    """

    requested: tuple[tuple[int, int], ...] = ()
    """(number, sequence number of its event)."""
    withdrawn: tuple[int, ...] = ()
    forced: bool = False
    """The run is closed whatever it waits for."""


@dataclass(frozen=True, slots=True)
class AppendResult:
    refusal: Refusal | None = None
    next_run_mail: int | None = None
    """Where the successor's start lies in the inbox."""
    delivered: bool = False
    """Something was left for other executions: whoever owns them here should look."""
    repeated: bool = field(default=False, compare=False)
    """It was stored before, and the answer was lost."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A message that comes with a start, for whichever execution the start means. Under its request
    name it is accepted once."""

    kind: int
    body: bytes
    request_id: str
    blobs: Blobs | None = None


@dataclass(frozen=True, slots=True)
class StartRun:
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
    repeated: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Target:
    """An execution by workflow id; a given `execution_id` must be the one that has it now."""

    shard: int
    namespace: str
    workflow_id: str
    execution_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class StartChild:
    """A child, as a start that is left as mail. Its request id is made of the parent's run and the
    number, so that one decision never begins two."""

    number: int
    run: NewRun
    kind: int
    body: bytes
    blobs: Blobs
    on_parent_close: OnParentClose
    if_open: IfOpen
    if_closed: IfClosed
    wants_start: bool
    wake_us: int


@dataclass(frozen=True, slots=True)
class CancelChild:
    """A request to cancel, for the child with this number."""

    number: int
    kind: int
    body: bytes
    now_us: int


@dataclass(frozen=True, slots=True)
class SendTo:
    """A message to any execution; the sender is told what came of it."""

    number: int
    target: Target
    kind: int
    body: bytes
    blobs: Blobs
    now_us: int


@dataclass(frozen=True, slots=True)
class AwaitEnd:
    """Tell the sender when an execution has ended, at once if it has already."""

    number: int
    target: Target


Outgoing: TypeAlias = StartChild | CancelChild | SendTo | AwaitEnd


@dataclass(frozen=True, slots=True)
class Message:
    """`request_id` is the user's; without one, `sent` knows it again."""

    target: Target
    kind: int
    body: bytes
    now_us: int
    request_id: str | None = None
    blobs: Blobs | None = None
    sent: Sent | None = None


@dataclass(frozen=True, slots=True)
class MessageResult:
    """`status` None: there is no such execution. Accepted only where `position` is set or
    `duplicate` says that the same request was accepted before."""

    status: RunStatus | None
    run_id: bytes = b""
    execution_id: bytes = b""
    owner: bytes | None = None
    position: int | None = None
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Terminate:
    """Close at once: bumps the token and appends, in one transaction; needs no worker."""

    target: Target
    row_kind: int
    row_body: bytes
    status: RunStatus
    now_us: int
    append_id: int | None = None
    """Borne by the closing event: repeated after an answer that was lost, it is known again."""


@dataclass(frozen=True, slots=True)
class AnswerApproval:
    """The answer to an open approval, as mail for its run. `request` is the user's request id, or a
    name of this very write."""

    shard: int
    run_id: bytes
    number: int
    kind: int
    body: bytes
    now_us: int
    request: str


@dataclass(frozen=True, slots=True)
class ApprovalResult:
    """`answer` is the one that stands, if it is another; neither: there is no such approval."""

    accepted: bool
    answer: bytes | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Let a blocked run be tried again: clears its suspicion and wakes it."""

    target: Target
    now_us: int


@dataclass(frozen=True, slots=True)
class Release:
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


@dataclass(frozen=True, slots=True)
class MarkAttempts:
    """Attempts that may begin now, failed, or were lost. `probation` sets the mark."""

    shard: int
    run_id: bytes
    token: int
    attempts: tuple[AttemptRow, ...]
    probation: Probation | None = None


@dataclass(frozen=True, slots=True)
class Report:
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


@dataclass(frozen=True, slots=True)
class Beat:
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


@dataclass(frozen=True, slots=True)
class ReportResult:
    refusal: NotTaken | None = None
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A query from a process that does not own the file; its answer is written beside it."""

    question_id: bytes
    target: Target
    query: str
    arguments: bytes
    now_us: int


@dataclass(frozen=True, slots=True)
class Answer:
    question_id: bytes
    ok: bool
    answer: bytes


@dataclass(frozen=True, slots=True)
class ForgetMail:
    """A notice that was read, such as that of a termination."""

    position: int
    execution_id: bytes


@dataclass(frozen=True, slots=True)
class AnswerMail:
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
    | Resume
    | Release
    | MarkAttempts
    | Ask
    | Answer
    | Report
    | Beat
)
WriteResult: TypeAlias = (
    AppendResult | ApprovalResult | StartResult | MessageResult | ReportResult | None
)
