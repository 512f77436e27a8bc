"""A second book of everything that the store accepted, and the rules that it must never break.

It is written from the requests and their answers, not from the store's rows, and shares no code
with the engine but the decoding of events. Every rule is checked at the moment at which it could
break; at the end the store's histories are held against this book, event by event.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from everlong_engine.model.codec import checksum, decode_event
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
    Closing,
    Event,
    RunCancelled,
    RunContinuedAsNew,
    RunStarted,
    RunTerminated,
    RunTimedOut,
    SideEffectRecorded,
    SignalReceived,
    TimerCancelled,
    TimerFired,
    TimerStarted,
)
from everlong_engine.model.runs import AttemptState, LoadedRun, NewRun, RunStatus
from everlong_engine.model.tasks import SettleTask, TakenTask
from everlong_engine.model.writes import (
    AnswerApproval,
    Append,
    AppendResult,
    ApprovalResult,
    MarkAttempts,
    Message,
    MessageResult,
    Report,
    ReportResult,
    ResetResult,
    ResetRun,
    StartResult,
    StartRun,
    Terminate,
    Write,
    WriteResult,
)
from tests.simulation.desk import LATER, Desk
from tests.simulation.family import Family
from tests.simulation.holding import Holds
from tests.simulation.language import letters
from tests.simulation.lineage import Lineage, Repeats
from tests.simulation.readings import Readings
from tests.simulation.streams import Streams

__all__ = ["Journal", "RunBook"]

_OUTCOMES: Final = (ActivityCompleted, ActivityFailed, ActivityTimedOut, ActivityLost)
_FORCED: Final = (RunTerminated, RunTimedOut)


@dataclass(slots=True)
class RunBook:
    """What was accepted of one run."""

    run_id: bytes
    execution_id: bytes
    workflow_id: str
    token: int
    owner: str | None
    accepted_us: int = 0
    type: str = ""
    events: list[tuple[int, Event]] = field(default_factory=list[tuple[int, Event]])
    """(at_us, event)"""
    append_ids: list[int] = field(default_factory=list[int])
    scheduled: dict[int, ActivityScheduled] = field(default_factory=dict[int, ActivityScheduled])
    over: set[int] = field(default_factory=set[int])
    """Activities whose outcome is recorded, or that are not wanted any more."""
    ending: set[int] = field(default_factory=set[int])
    """Activities that are cancelled, and whose end is waited for."""
    left_alone: dict[int, str | None] = field(default_factory=dict[int, str | None])
    """Activities that were abandoned, and by which process."""
    timers: dict[int, int] = field(default_factory=dict[int, int])
    closing: Closing | None = None
    cancels: int = 0
    noted: list[bytes] = field(default_factory=list[bytes])
    """Values of side effects."""
    version: str | None = None
    """The only one that may drive it."""
    calls: dict[int, Event] = field(default_factory=dict[int, Event])
    """What it has begun with other executions, by number."""
    marked: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """(activity, attempt) to the state of its last row."""
    previous: "RunBook | None" = None
    """The run that began this one anew."""
    repeats: Repeats | None = None
    """How it began, if another run was reset or forked."""
    was_reset: bool = False
    """Its end is that another run was begun in its place."""

    @property
    def last_us(self) -> int:
        return self.events[-1][0] if self.events else 0


def _queued_first(writes: Sequence[Write]) -> set[int]:
    """What puts tasks into queues is stored before all else, also before a pause in its group,
    unless its run is appended to ahead of it."""
    appended: set[bytes] = set()
    found: set[int] = set()
    for at, write in enumerate(writes):
        match write:
            case Append():
                appended.add(write.run_id)
            case MarkAttempts() if write.tasks and write.run_id not in appended:
                found.add(at)
            case _:
                pass
    return found


class Journal:
    """The book of one seed. `broken` collects what should never have happened."""

    def __init__(self, reached: Callable[[str], None]) -> None:
        self.runs: dict[bytes, RunBook] = {}
        self.executions: dict[bytes, list[RunBook]] = {}
        self.requests: dict[tuple[str, str], bytes] = {}
        """The execution that a start with a request id began, by workflow id and request id."""
        self.has_pool = False
        """Whether an execution may be cancelled before it begins."""
        self.broken: list[str] = []
        self.accepted = 0
        self.refused = 0
        self.reached = reached
        self.family = Family(self, reached)
        self.desk = Desk(self, reached)
        self.streams = Streams(self, reached)
        self.readings = Readings(self, reached)
        self.holds = Holds(self, reached)
        self.lineage = Lineage(self, reached)
        self.was_over: set[bytes] = set()
        """Executions that have come to an end, whether or not they were reset behind it."""
        self.on_ended: Callable[[RunBook, ActivityCancelled], None] = lambda book, event: None
        """Called when the end of a cancelled activity is recorded."""

    def must(self, right: bool, rule: str) -> None:
        if not right:
            self.broken.append(rule)

    # ------------------------------------------------------------------------------- from writes

    def group(
        self, process: str, now_us: int, writes: Sequence[Write], results: Sequence[WriteResult]
    ) -> None:
        """A group that the store says it has committed: starts, then appends, then what they send,
        then the rest."""
        self.family.now_us = self.desk.now_us = self.streams.now_us = now_us
        pairs = list(zip(writes, results, strict=True))
        accepted: dict[int, Append] = {}
        for at in sorted(range(len(pairs)), key=lambda at: isinstance(writes[at], Append)):
            match pairs[at]:
                case StartRun() as start, StartResult(created=True):
                    if self._started(process, now_us, start) and start.first is not None:
                        accepted[at] = start.first
                case Append() as append, AppendResult(refusal=None):
                    if self._appended(process, now_us, append):
                        accepted[at] = append
                case Append(), _:
                    self.refused += 1
                case _:
                    pass
        for at in sorted(accepted):
            self.family.sent(self.runs[accepted[at].run_id], accepted[at])
        queued = _queued_first(writes)
        order = sorted(range(len(pairs)), key=lambda at: at not in queued)
        for write, result in (pairs[at] for at in order):
            match write, result:
                case Terminate(), MessageResult(position=int() as seq):
                    self._terminated(result.run_id, seq, write)
                case AnswerApproval(), ApprovalResult(accepted=True):
                    self.desk.answered(write)
                case Report(), ReportResult(refusal=None, duplicate=False):
                    self.desk.reported(write)
                case Message(), MessageResult(position=int() as position):
                    self.lineage.posted(write, result.execution_id, position)
                case ResetRun(), ResetResult():
                    self.lineage.begun(write, result, now_us)
                case MarkAttempts(), AppendResult(refusal=None):
                    book = self.runs[write.run_id]
                    if write.begins:
                        self.holds.acts(book, "an attempt began", process)
                    for row in write.attempts:
                        key = (row.activity_id, row.attempt)
                        if not (write.tasks and key in book.marked):  # Else it is told again.
                            book.marked[key] = int(row.state)
                case SettleTask(), AppendResult(refusal=None):
                    for row in write.rows:
                        self.runs[write.run_id].marked[row.activity_id, row.attempt] = int(
                            row.state
                        )
                case _:
                    self.holds.written(write, result)

    def taken(self, process: str, taken: TakenTask) -> None:
        """An attempt may begin with the worker that has taken it."""
        book, number = self.runs[taken.run.run_id], taken.task.activity_id
        name = f"{book.workflow_id}: the task of activity {number}"
        self.must(number not in book.ending, f"{name} was taken, and is cancelled")
        self.must(book.closing is None, f"{name} was taken, and its run is closed")
        held = self.holds.holds(book.execution_id)
        self.must(not held, f"{name} was taken, and it is paused")
        book.marked[number, taken.task.attempt] = int(AttemptState.TAKEN)

    def claimed(self, process: str, loaded: LoadedRun) -> None:
        """A lease was granted."""
        row = loaded.row
        book = self.runs.get(row.run_id)
        if book is None:
            self.must(False, f"{row.workflow_id}: claimed, and never started")
            return
        self.must(
            row.lease_token > book.token,
            f"{row.workflow_id}: claimed with token {row.lease_token} behind {book.token}",
        )
        book.token = row.lease_token
        book.owner = process
        self.holds.is_taken(book, "claimed", process)
        self.must(book.closing is None, f"{row.workflow_id}: claimed, and closed")

    def begin_child(self, run: NewRun) -> RunBook:
        """Left as mail by its parent's append."""
        return self._book(run, None, 0)

    def begin_repeated(self, run: NewRun, other: RunBook) -> RunBook:
        """In the place of another run, or as a fork of it."""
        book = self._book(run, None, 0)
        book.previous = other.previous
        return book

    def ended_by_another(self, book: RunBook, event: RunTerminated, at_us: int) -> None:
        """Closed in the transaction of another execution, or of its own reset."""
        book.token += 1
        book.owner = None
        self._event(book, at_us, at_us, event)

    def _book(self, run: NewRun, process: str | None, token: int) -> RunBook:
        others = self.executions.setdefault(run.execution_id, [])
        for book in self.runs.values():
            if book.workflow_id == run.workflow_id and book.closing is None:
                self.must(False, f"{run.workflow_id}: two open executions")
        if run.request_id is not None:
            began = self.requests.setdefault((run.workflow_id, run.request_id), run.execution_id)
            self.must(
                began == run.execution_id,
                f"{run.workflow_id}: request {run.request_id} began two executions",
            )
        book = RunBook(
            run.run_id, run.execution_id, run.workflow_id, token, process, run.started_us
        )
        book.version, book.type = run.version, run.type
        self.runs[run.run_id] = book
        others.append(book)
        return book

    def _started(self, process: str, now_us: int, start: StartRun) -> bool:
        """Whether this is new."""
        if start.run.run_id in self.runs:
            return False  # Repeated after an answer that was lost, and answered as done.
        if start.first is None:
            self._book(start.run, None, 0)
        else:
            self._book(start.run, process, start.first.token)
            self._appended(process, now_us, start.first)
        return True

    def _appended(self, process: str, now_us: int, append: Append) -> bool:
        """Whether this is new."""
        book = self.runs.get(append.run_id)
        if book is None:
            self.must(False, "an append to a run that never started was accepted")
            return False
        name = book.workflow_id
        if append.append_id in book.append_ids:
            return False  # Repeated after an ambiguous commit, and answered as done.
        book.append_ids.append(append.append_id)
        self.accepted += 1
        if append.pin is not None:
            book.version = append.pin
        self.holds.acts(book, "an append was accepted", process)
        self.must(book.closing is None, f"{name}: an append behind the end was accepted")
        self.must(
            append.token == book.token,
            f"{name}: an append with token {append.token} was accepted, {book.token} was granted",
        )
        self.must(
            append.base == len(book.events) + 1,
            f"{name}: an append at {append.base} was accepted behind event {len(book.events)}",
        )
        self.must(
            book.owner in (None, process), f"{name}: {process} appended, {book.owner} owns it"
        )
        events: list[Event] = []
        for seq, kind, at_us, body, check in append.rows:
            self.must(check == checksum(seq, kind, body), f"{name}: a checksum is wrong")
            events.append(decode_event(kind, body, append.blobs or {}))
            self._event(book, now_us, at_us, events[-1])
        self.lineage.consumed(book, append, events)
        self.streams.appended(book, append, events)
        if append.next_run is not None:
            following = append.next_run.run
            successor = RunBook(
                following.run_id,
                following.execution_id,
                following.workflow_id,
                1,
                process,
                following.started_us,
            )
            successor.version = following.version
            successor.previous = book
            self.holds.follows(book, following)
            self.runs[following.run_id] = successor
            self.executions[following.execution_id].append(successor)
        return True

    def _terminated(self, run_id: bytes, seq: int, write: Terminate) -> None:
        book = self.runs[run_id]
        self.must(book.closing is None, f"{book.workflow_id}: terminated behind its end")
        self.must(seq == len(book.events) + 1, f"{book.workflow_id}: a gap before its termination")
        book.token += 1
        book.owner = None
        self._event(
            book, write.now_us, write.now_us, decode_event(write.row_kind, write.row_body, {})
        )
        self.family.ended(book, write.now_us)

    # ------------------------------------------------------------------------- the rules of events

    def _event(self, book: RunBook, now_us: int, at_us: int, event: Event) -> None:
        name, seq = book.workflow_id, len(book.events) + 1
        self.must(book.closing is None, f"{name}: event {seq} behind the end")
        if type(event) not in _FORCED:
            self.must(at_us >= book.last_us, f"{name}: event {seq} is before the one ahead of it")
        # One that is terminated before it was ever driven has nothing but its end.
        begins = type(event) is RunStarted or type(event) in _FORCED
        begins = begins or (type(event) is RunCancelled and self.has_pool)
        self.must(begins or seq > 1, f"{name}: it begins with {type(event).__name__}")
        self.must(seq == 1 or type(event) is not RunStarted, f"{name}: started again at {seq}")
        book.events.append((at_us, event))
        self.readings.recorded_one(book, event)
        match event:
            case RunStarted():
                self._begun_anew(book, event)
            case ActivityScheduled():
                self.must(
                    event.activity_id not in book.scheduled,
                    f"{name}: activity {event.activity_id} scheduled twice",
                )
                book.scheduled[event.activity_id] = event
                if event.began:
                    book.marked[event.activity_id, 1] = 0
            case ActivityCompleted() | ActivityFailed() | ActivityTimedOut() | ActivityLost():
                self._outcome(book, event)
            case ActivityCancelRequested():
                self._cancelled(book, event.activity_id)
            case ActivityCancelled():
                number = event.activity_id
                self.must(number in book.ending, f"{name}: an end of activity {number}, not asked")
                book.ending.discard(number)
                book.over.add(number)
                self.reached(f"activity ended: {event.outcome}")
                if book.repeats is None or event != book.repeats.kept:
                    self.on_ended(book, event)
            case ApprovalRequested():
                self.desk.requested(book, event)
            case ApprovalWithdrawn():
                self.desk.withdrawn(book, event)
            case ApprovalAnswered():
                self.desk.told(book, event)
            case TimerStarted():
                book.timers[event.timer_id] = event.due_us
            case TimerCancelled():
                self.must(
                    book.timers.pop(event.timer_id, None) is not None,
                    f"{name}: timer {event.timer_id} cancelled, and not pending",
                )
            case TimerFired():
                due_us = book.timers.pop(event.timer_id, None)
                self.must(due_us is not None, f"{name}: timer {event.timer_id} fired twice")
                self.must(
                    due_us is None or (at_us >= due_us and now_us >= due_us),
                    f"{name}: timer {event.timer_id} fired early",
                )
            case CancelRequested():
                book.cancels += 1
            case SideEffectRecorded():
                book.noted.append(event.value)
            case _ if type(event) in CLOSING:
                book.closing = event  # type: ignore[assignment]
                self.desk.closes(book, forced=type(event) in _FORCED)
                if not (book.was_reset or isinstance(event, RunContinuedAsNew)):
                    self.was_over.add(book.execution_id)
                    self.holds.ends(book)
                    self.lineage.ends(book)
            case _:
                self.family.recorded(book, event)

    def _begun_anew(self, book: RunBook, event: RunStarted) -> None:
        """A successor starts with just what its predecessor left it."""
        if event.previous_run is None:
            return
        before, name = self.runs[event.previous_run], book.workflow_id
        closing, started = before.closing, before.events[0][1]
        self.must(
            isinstance(closing, RunContinuedAsNew)
            and (closing.arguments, closing.carried) == (event.arguments, event.carried),
            f"{name}: it began anew with other arguments or signals than it was left",
        )
        asked = before.cancels > 0 or (isinstance(started, RunStarted) and started.cancel_requested)
        self.must(event.cancel_requested == asked, f"{name}: it forgot that it was cancelled")

    def _cancelled(self, book: RunBook, number: int) -> None:
        scheduled = book.scheduled[number]
        again = number in book.over or number in book.ending
        self.must(not again, f"{book.workflow_id}: activity {number} is over, and cancelled")
        on_cancel = scheduled.options.on_cancel
        if on_cancel == "wait":
            book.ending.add(number)
        else:
            book.over.add(number)
        if on_cancel == "abandon":
            book.left_alone[number] = book.owner
        if on_cancel != "try":
            self.reached(f"activity cancelled: {on_cancel}")

    def _outcome(
        self,
        book: RunBook,
        event: ActivityCompleted | ActivityFailed | ActivityTimedOut | ActivityLost,
    ) -> None:
        number, name = event.activity_id, book.workflow_id
        scheduled = book.scheduled.get(number)
        self.must(scheduled is not None, f"{name}: an outcome of activity {number}, not scheduled")
        self.must(number not in book.over, f"{name}: a second outcome of activity {number}")
        self.must(number not in book.ending, f"{name}: an outcome of {number}, which is cancelled")
        book.over.add(number)
        if (
            scheduled is not None
            and scheduled.activity == LATER
            and isinstance(event, ActivityCompleted | ActivityFailed)
        ):
            self.desk.outcome(book, event)
            return
        if scheduled is not None and not isinstance(event, ActivityCompleted):
            most = scheduled.options.max_attempts
            self.must(
                most is None or event.attempts <= most,
                f"{name}: {event.attempts} attempts of activity {number}, at most {most}",
            )

    # ---------------------------------------------------------------------------------- at the end

    def compare(self, loaded: LoadedRun) -> None:
        """A run as the store has it."""
        book = self.runs.get(loaded.row.run_id)
        name = loaded.row.workflow_id
        if book is None:
            self.must(False, f"{name}: the store has a run that was never accepted")
            return
        for expected_seq, recorded in enumerate(loaded.history, 1):
            self.must(recorded.seq == expected_seq, f"{name}: a gap at event {expected_seq}")
        stored = [(one.at_us, one.event) for one in loaded.history]
        if stored != book.events:
            at = next(
                (n for n, (a, b) in enumerate(zip(stored, book.events, strict=False)) if a != b),
                min(len(stored), len(book.events)),
            )
            self.must(
                False, f"{name}: the store's history differs from what was accepted at {at + 1}"
            )
        closed = loaded.row.status is not RunStatus.BLOCKED and not loaded.row.status.is_open
        self.must(
            closed == (book.closing is not None), f"{name}: row and history differ about its end"
        )

    def letters_of(self, execution_id: bytes, decode: Callable[[bytes], object]) -> list[str]:
        """Signals that were fed to an execution, in order. What a reset leaves behind is not."""
        return [
            str(decode(event.payload))
            for book in self.lineage.chain(self.last_run(execution_id))
            for _, event in book.events
            if isinstance(event, SignalReceived) and event.signal == letters.name
        ]

    def latest(self, workflow_id: str) -> RunBook | None:
        """The run that a workflow id means: the open one, else the newest."""
        runs = [book for book in self.runs.values() if book.workflow_id == workflow_id]
        return max(runs, key=lambda book: (book.closing is None, book.run_id), default=None)

    def last_run(self, execution_id: bytes) -> RunBook:
        return self.executions[execution_id][-1]

    def is_over(self, execution_id: bytes) -> bool:
        closing = self.last_run(execution_id).closing
        return closing is not None and not isinstance(closing, RunContinuedAsNew)
