"""What others have answered, to approvals and by the tokens of activities: a book of its own.

The first answer that was accepted is the answer: no other one is accepted behind it, the run hears
just that one, and an approval's is never lost to a timer, a cancellation, or an end by itself: only
to what the run decides about an earlier answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from everlong_engine.model.codec import decode_event
from everlong_engine.model.events import (
    DECISIONS,
    ActivityCompleted,
    ActivityFailed,
    ApprovalAnswered,
    ApprovalRequested,
    ApprovalWithdrawn,
    Event,
)
from everlong_engine.model.payload import unpack
from everlong_engine.model.writes import AnswerApproval, Report

if TYPE_CHECKING:
    from tests.simulation.journal import Journal, RunBook

__all__ = ["LATER", "Desk"]

LATER = "simulation.later"
_Outcome: TypeAlias = ActivityCompleted | ActivityFailed


@dataclass(slots=True)
class _Approval:
    requested: ApprovalRequested
    accepted: ApprovalAnswered | None = None
    request: str = ""
    accepted_us: int = 0
    told: bool = False
    """The run has heard of it."""
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class _Report:
    mark: bytes
    outcome: _Outcome
    accepted_us: int


class Desk:
    """Everything that was asked, and answered."""

    def __init__(self, journal: "Journal", reached: Callable[[str], None]) -> None:
        self._journal = journal
        self._must = journal.must
        self._reached = reached
        self._approvals: dict[tuple[bytes, int], _Approval] = {}
        self._reports: dict[tuple[bytes, int], _Report] = {}
        self.now_us = 0

    # ------------------------------------------------------------------------------- approvals

    def requested(self, book: "RunBook", event: ApprovalRequested) -> None:
        key = book.run_id, event.approval_id
        self._must(key not in self._approvals, f"{book.workflow_id}: {key[1]} is asked twice")
        self._approvals[key] = _Approval(event)
        self._reached("approval requested")

    def withdrawn(self, book: "RunBook", event: ApprovalWithdrawn) -> None:
        one = self._approvals[book.run_id, event.approval_id]
        name = f"{book.workflow_id}: approval {event.approval_id}"
        self._must(not one.withdrawn and not one.told, f"{name} is withdrawn, and was over")
        over_answer = one.accepted is not None and not _led_by_an_answer(book)
        self._must(not over_answer, f"{name} is withdrawn over its answer")
        one.withdrawn = True
        self._reached("approval withdrawn")

    def told(self, book: "RunBook", event: ApprovalAnswered) -> None:
        one = self._approvals.get((book.run_id, event.approval_id))
        name = f"{book.workflow_id}: approval {event.approval_id}"
        if one is None:
            self._must(False, f"{name} was answered, and never asked")
            return
        self._must(not one.told, f"{name} was answered twice")
        self._must(not one.withdrawn, f"{name} was answered, and withdrawn before")
        self._must(one.accepted == event, f"{name}: told {event}, accepted {one.accepted}")
        one.told = True
        self._reached("approval answered")

    def answered(self, given: AnswerApproval) -> None:
        """The store says that this is the answer."""
        one = self._approvals.get((given.run_id, given.number))
        event = decode_event(given.kind, given.body, {})
        if one is None or not isinstance(event, ApprovalAnswered):
            self._must(False, f"an answer to {given.number}, which nobody asks, was accepted")
            return
        name = f"{self._journal.runs[given.run_id].workflow_id}: approval {given.number}"
        if one.accepted is not None:
            self._must(one.request == given.request, f"{name}: a second answer was accepted")
            return
        book = self._journal.runs[given.run_id]
        self._must(book.closing is None, f"{name}: an answer was accepted behind the end")
        self._must(not one.withdrawn, f"{name}: an answer was accepted, and it is withdrawn")
        one.accepted, one.request, one.accepted_us = event, given.request, self.now_us

    def closes(self, book: "RunBook", *, forced: bool) -> None:
        """A run has ended. Over an answer it may do so by force, or because of an earlier one."""
        for (run_id, number), one in self._approvals.items():
            if run_id != book.run_id or one.told or one.withdrawn:
                continue
            self._must(
                forced or one.accepted is None or _led_by_an_answer(book),
                f"{book.workflow_id}: it ended over the answer to approval {number}",
            )
            one.withdrawn = one.accepted is None

    def answer_of(self, run_id: bytes, number: int) -> ApprovalAnswered | None:
        one = self._approvals.get((run_id, number))
        return None if one is None else one.accepted

    def may_be_listed(self, run_id: bytes, number: int, sent_us: int) -> bool:
        """Whether an approval may stand in a list for which was asked at that time."""
        one = self._approvals.get((run_id, number))
        return one is not None and (one.accepted is None or one.accepted_us >= sent_us)

    def begins_again(self, old: "RunBook", book: "RunBook", kept: Event | None) -> None:
        """What a run asks that repeats another one: it is asked anew, whatever was answered behind
        the point, but for an answer that is kept. What was told by tokens up to there is known."""
        for _, event in book.events:
            match event:
                case ApprovalRequested():
                    self._approvals[book.run_id, event.approval_id] = _Approval(event)
                case ApprovalWithdrawn():
                    self._approvals[book.run_id, event.approval_id].withdrawn = True
                case ApprovalAnswered():
                    self._approvals[book.run_id, event.approval_id].told = True
                case _:
                    pass
        if isinstance(kept, ApprovalAnswered):
            one = self._approvals[book.run_id, kept.approval_id]
            one.accepted, one.accepted_us = replace(kept, run=book.run_id), self.now_us
        over = set(book.over)
        if isinstance(kept, _Outcome):
            over.add(kept.activity_id)
        for (run_id, number), report in list(self._reports.items()):
            if run_id == old.run_id and number in over:
                self._reports[book.run_id, number] = report

    # ------------------------------------------------------------------------------- tokens

    def reported(self, report: Report) -> None:
        """The store has taken an answer by token."""
        book = self._journal.runs[report.run_id]
        number = report.activity_id
        name = f"{book.workflow_id}: activity {number}"
        before = self._reports.get((report.run_id, number))
        if before is not None:
            self._must(before.mark == report.mark, f"{name}: a second answer was taken")
            return
        outcome = decode_event(report.kind, report.body, report.blobs or {})
        assert isinstance(outcome, ActivityCompleted | ActivityFailed)
        self._must(book.closing is None, f"{name}: an answer was taken behind the end of its run")
        newest = max((n for a, n in book.marked if a == number), default=0)
        self._must(
            newest == report.attempt, f"{name}: {report.attempt} was answered, {newest} is at work"
        )
        self._reports[report.run_id, number] = _Report(report.mark, outcome, self.now_us)
        self._reached("answer by token taken")

    def outcome(self, book: "RunBook", event: _Outcome) -> None:
        """An activity that leaves its token has an outcome in the history."""
        report = self._reports.get((book.run_id, event.activity_id))
        name = f"{book.workflow_id}: activity {event.activity_id}"
        if report is None:
            self._must(False, f"{name} has an outcome, and nobody has answered")
            return
        taken = report.outcome
        if isinstance(event, ActivityCompleted):
            same = isinstance(taken, ActivityCompleted) and taken.result == event.result
        else:
            same = isinstance(taken, ActivityFailed) and taken.failure == event.failure
        self._must(same, f"{name}: told {event}, and the answer was {taken}")
        self._reached("answer by token told")

    def said_by_token(self, run_id: bytes, number: int) -> str | None:
        """The answer that was taken, as a text."""
        report = self._reports.get((run_id, number))
        if report is None:
            return None
        taken = report.outcome
        if isinstance(taken, ActivityCompleted):
            return str(unpack(taken.result))
        return taken.failure.message

    def report_of(self, run_id: bytes, number: int) -> bytes | None:
        """What knows the answer again that was taken."""
        report = self._reports.get((run_id, number))
        return None if report is None else report.mark

    # ------------------------------------------------------------------------------- in the end

    def nothing_is_overdue(self, now_us: int, patience_us: int, running: list[bytes]) -> None:
        for (run_id, number), one in self._approvals.items():
            book = self._journal.runs[run_id]
            if one.accepted is not None and not one.told and self._goes_on(book, running):
                self._must(
                    now_us - one.accepted_us < patience_us,
                    f"{book.workflow_id}: approval {number} was answered, and nobody tells it",
                )
        for (run_id, number), report in self._reports.items():
            book = self._journal.runs[run_id]
            if number not in book.over and self._goes_on(book, running):
                self._must(
                    now_us - report.accepted_us < patience_us,
                    f"{book.workflow_id}: activity {number} was answered, and nobody tells it",
                )

    def _goes_on(self, book: "RunBook", running: list[bytes]) -> bool:
        return book.closing is None and book.execution_id in running


def _led_by_an_answer(book: "RunBook") -> bool:
    """Whether what is decided now was decided about an answer: the first one may end the interest
    in the second."""
    inputs = (event for _, event in reversed(book.events) if type(event) not in DECISIONS)
    return isinstance(next(inputs, None), ApprovalAnswered)
