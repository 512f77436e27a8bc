"""Who waits for whom among executions, and what each must be told: a book of its own.

It follows from what was accepted, and from the rules: a child begins once for each call of its
parent, its end reaches its parent once, and what becomes of a child whose parent has ended is what
the parent said. What a store does by itself in the transaction of another execution (a child's row,
an end together with its parent) stands here before anybody has looked at the store.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import structs

from everlong_engine.model.events import (
    ChildCancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    Closing,
    Event,
    ExternalAnswered,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunTerminated,
    RunTimedOut,
)
from everlong_engine.model.outgoing import AwaitEnd, CancelChild, SendTo, StartChild, Target
from everlong_engine.model.writes import Append

if TYPE_CHECKING:
    from tests.simulation.journal import Journal, RunBook

__all__ = ["Family", "Letter"]

_Answer: TypeAlias = ChildStarted | ChildStartFailed | ChildClosed | ExternalAnswered
_ANSWERS: Final = (ChildStarted, ChildStartFailed, ChildClosed, ExternalAnswered)

_HOW: Final[dict[type[Closing], str]] = {
    RunCompleted: "completed",
    RunFailed: "failed",
    RunCancelled: "cancelled",
    RunTerminated: "terminated",
    RunTimedOut: "timed_out",
}
_IN_WORDS: Final = {
    "completed": "completed",
    "failed": "failed",
    "cancelled": "was cancelled",
    "terminated": "was terminated",
    "timed_out": "timed out",
}


@dataclass(frozen=True, slots=True)
class _Tie:
    """A run waits for the end of an execution, or has it as its child."""

    waiter: "RunBook"
    number: int
    execution_id: bytes
    policy: str
    """What becomes of a child; "" for what is none."""


@dataclass(frozen=True, slots=True)
class _Owed:
    """Something that a run must be told."""

    since_us: int
    event: _Answer


@dataclass(frozen=True, slots=True)
class Letter:
    """A signal from one execution to another."""

    sender_run: bytes
    execution_id: bytes
    payload: bytes
    accepted_us: int


class Family:
    """The executions of one world, and what is between them."""

    def __init__(self, journal: "Journal", reached: Callable[[str], None]) -> None:
        self._journal = journal
        self._must = journal.must
        self._reached = reached
        self._ties: dict[tuple[bytes, int], _Tie] = {}
        self._begun: set[tuple[bytes, int]] = set()
        self._owed: dict[tuple[bytes, int, bool], _Owed] = {}
        self._told: set[tuple[bytes, int, bool]] = set()
        self._unwanted: set[tuple[bytes, int]] = set()
        self._meant: dict[tuple[bytes, int], tuple[bytes, bool]] = {}
        """The execution that a call for a child began, or found (False)."""
        self.now_us = 0
        """When what is told now was accepted."""
        self.asked: dict[bytes, int] = {}
        """Executions that must hear that they are to end, and since when."""
        self.letters: list[Letter] = []
        """In the order in which they were accepted."""

    # --------------------------------------------------------------------- behind what was accepted

    def sent(self, book: "RunBook", append: Append) -> None:
        """An append was accepted, with all that goes out with it; then its end, if it has one."""
        closes = append.closed is not None
        is_open = not closes or append.next_run is not None
        for one in append.outgoing:
            if one.number not in book.calls:
                self._must(False, f"{book.workflow_id}: sent {one.number}, and never decided that")
            match one:
                case StartChild():
                    self._start(book, one, is_open=is_open, listens=not closes)
                case CancelChild():
                    tie = self._ties.get((book.run_id, one.number))
                    if tie is not None:
                        self._ask(tie.execution_id)
                case SendTo():
                    self._send(book, one, listens=not closes)
                case AwaitEnd():
                    self._await(book, one, listens=not closes)
        if not is_open:
            self.ended(book, book.last_us)

    def _start(self, parent: "RunBook", one: StartChild, *, is_open: bool, listens: bool) -> None:
        key, name = (parent.run_id, one.number), one.run.workflow_id
        self._must(key not in self._begun, f"{parent.workflow_id}: child {name} was begun twice")
        self._begun.add(key)
        found = self._journal.latest(name)
        if one.if_open == "terminate" and found is not None and _is_open(found):
            self._reached("child: made room for it")
            self._end(found, "another one was started in its place", one.wake_us)
        if isinstance(parent.closing, RunTerminated):
            self._reached("child: not begun, its parent was ended meanwhile")
            return
        if found is not None and _is_open(found):
            if one.if_open == "fail":
                self._reached("child: its id is taken")
                self._owe(parent, ChildStartFailed(one.number, parent.run_id, "running"))
                return
            self._reached("child: found and used")
            self._meant[key] = found.execution_id, False
            self._tie(parent, one.number, found.execution_id, "", is_open=is_open)
        else:
            self._reached("child: started")
            if parent.closing is not None and is_open:
                self._reached("child: begun in the commit of its parent's end")
            self._journal.holds.begins_child(parent, one.run)
            found = self._journal.begin_child(one.run)
            self._meant[key] = found.execution_id, True
            self._tie(parent, one.number, found.execution_id, one.on_parent_close, is_open=is_open)
        if one.wants_start and listens:
            self._owe(parent, ChildStarted(one.number, parent.run_id, found.execution_id))

    def _send(self, sender: "RunBook", one: SendTo, *, listens: bool) -> None:
        found = self._found(one.target)
        problem = "not_found" if found is None else ""
        if found is not None:
            if _is_open(found):
                decision = sender.calls[one.number]
                if isinstance(decision, ExternalSignalSent):
                    self._reached("signal to another execution")
                    self.letters.append(
                        Letter(sender.run_id, found.execution_id, decision.payload, self.now_us)
                    )
                else:
                    self._ask(found.execution_id)
            else:
                problem = _how(found)
                self._reached("message to an execution that has ended")
        if listens:
            self._owe(sender, ExternalAnswered(one.number, sender.run_id, problem))

    def _await(self, waiter: "RunBook", one: AwaitEnd, *, listens: bool) -> None:
        found = self._found(one.target)
        if found is None:
            if listens:
                self._owe(waiter, ExternalAnswered(one.number, waiter.run_id, "not_found"))
        elif _is_open(found):
            self._tie(waiter, one.number, found.execution_id, "", is_open=listens)
        elif listens:
            self._reached("end of another execution, behind it")
            self._owe(waiter, _end_of(found, one.number, waiter))

    def _found(self, target: Target) -> "RunBook | None":
        if target.execution_id is None:
            return self._journal.latest(target.workflow_id)
        return self._journal.last_run(target.execution_id)

    def _tie(
        self, waiter: "RunBook", number: int, execution_id: bytes, policy: str, *, is_open: bool
    ) -> None:
        if is_open:
            key = waiter.run_id, number
            self._ties[key] = _Tie(waiter, number, execution_id, policy)

    def _ask(self, execution_id: bytes) -> None:
        if not self._journal.is_over(execution_id):
            self.asked.setdefault(execution_id, self.now_us)

    def _owe(self, to: "RunBook", event: _Answer) -> None:
        number = _number(event)
        if (to.run_id, number) not in self._unwanted:
            owed = _Owed(self.now_us, event)
            self._owed[to.run_id, number, isinstance(event, ChildStarted)] = owed

    # ------------------------------------------------------------------------------- ends

    def ended(self, book: "RunBook", at_us: int) -> None:
        """An execution is over: who waits for it is told, and its children get what was said."""
        execution_id = book.execution_id
        for key, tie in list(self._ties.items()):
            if tie.execution_id == execution_id:
                del self._ties[key]
                if tie.waiter.closing is None:
                    self._owe(tie.waiter, _end_of(book, tie.number, tie.waiter))
        for key, tie in list(self._ties.items()):
            # What an end leads to may lead back here: then it is dealt with already.
            if tie.waiter.execution_id != execution_id or self._ties.pop(key, None) is None:
                continue
            if not tie.policy or self._journal.is_over(tie.execution_id):
                continue
            self._reached(f"child: {tie.policy} behind its parent")
            child = self._journal.last_run(tie.execution_id)
            if tie.policy == "terminate":
                reason = f"its parent {book.workflow_id} {_IN_WORDS[_how(book)]}"
                self._end(child, reason, at_us)
            elif tie.policy == "cancel":
                self._ask(tie.execution_id)

    def _end(self, book: "RunBook", reason: str, at_us: int) -> None:
        """By force, in the transaction of another execution."""
        self._journal.ended_by_another(book, RunTerminated(reason), at_us)
        self.ended(book, at_us)

    # ------------------------------------------------------------------------------- resets

    def begins_again(
        self, old: "RunBook", book: "RunBook", tail: Sequence[Event], at_us: int
    ) -> None:
        """What a run waits for that repeats another one: what it waits for at its point, and of
        which nobody has told it up to there. Of the rest it knows nothing."""
        assert book.repeats is not None
        is_fork = book.repeats.is_fork
        for number in book.calls:
            meant = self._meant.get((old.run_id, number))
            if meant is not None:
                self._meant[book.run_id, number] = meant
        waiting = self._waits_for(book)
        told: set[tuple[int, bool]] = set()
        for event in tail:
            if isinstance(event, _ANSWERS):
                self._hear_again(book, event, waiting, told)
        self._forget_asked(book, is_fork=is_fork)
        moved: set[int] = set()
        if not is_fork:
            moved = self._move_ties(old, book, waiting, at_us)
            for key in [key for key in self._owed if key[0] == old.run_id]:
                self._hear_again(book, self._owed.pop(key).event, waiting, told)
        for number in waiting:
            if number not in moved and (number, False) not in told:
                self._look_again(book, number, told, is_fork=is_fork)

    def _waits_for(self, book: "RunBook") -> dict[int, bool]:
        """The numbers of its calls that are open, and whether the start of a child is awaited."""
        waiting: dict[int, bool] = {}
        for _, event in book.events:
            match event:
                case ChildScheduled():
                    waiting[event.child_id] = event.wants_start
                case ExternalAwaited() | ExternalSignalSent() | ExternalCancelSent():
                    waiting[event.call_id] = False
                case ChildStarted():
                    waiting[event.child_id] = False
                case ChildStartFailed() | ChildClosed() | ExternalAnswered():
                    waiting.pop(_number(event), None)
                case ChildCancelRequested():
                    call = book.calls.get(event.child_id)
                    if not (isinstance(call, ChildScheduled) and call.on_cancel == "wait"):
                        waiting.pop(event.child_id, None)
                        self._unwanted.add((book.run_id, event.child_id))
                case _:
                    pass
        return waiting

    def _hear_again(
        self,
        book: "RunBook",
        event: _Answer,
        waiting: dict[int, bool],
        told: set[tuple[int, bool]],
    ) -> None:
        """An answer of others is a fact, whichever run hears it."""
        key = _number(event), isinstance(event, ChildStarted)
        if key[0] in waiting and key not in told and (waiting[key[0]] or not key[1]):
            told.add(key)
            self._reached(f"told again: {type(event).__name__}")
            self._owe(book, structs.replace(event, run=book.run_id))

    def _forget_asked(self, book: "RunBook", *, is_fork: bool) -> None:
        """A reset run is not cancelled, unless it was before the point."""
        if not is_fork and not self._has_heard(book.execution_id):
            self.asked.pop(book.execution_id, None)

    def _move_ties(
        self, old: "RunBook", book: "RunBook", waiting: dict[int, bool], at_us: int
    ) -> set[int]:
        moved: set[int] = set()
        for key, tie in list(self._ties.items()):
            # What becomes of one child may lead to another: then it is dealt with already.
            if key[0] != old.run_id or self._ties.pop(key, None) is None:
                continue
            if tie.number in waiting:
                self._ties[book.run_id, tie.number] = replace(tie, waiter=book)
                moved.add(tie.number)
                continue
            if not tie.policy or self._journal.is_over(tie.execution_id):
                continue
            self._reached(f"child: {tie.policy} behind the reset of its parent")
            if tie.policy == "terminate":
                reason = f"its parent {old.workflow_id} was reset to before it began"
                self._end(self._journal.last_run(tie.execution_id), reason, at_us)
            elif tie.policy == "cancel":
                self._ask(tie.execution_id)
        return moved

    def _look_again(
        self, book: "RunBook", number: int, told: set[tuple[int, bool]], *, is_fork: bool
    ) -> None:
        """Nobody has said what came of this call, so it is looked up anew."""
        call = book.calls[number]
        match call:
            case ChildScheduled():
                meant = self._meant.get((book.run_id, number))
                if meant is None:
                    self._reached("child: not known any more")
                    reason = "how it ended is not known any more: it went with its retention"
                    self._owe(book, ChildClosed(number, book.run_id, "terminated", reason=reason))
                    return
                execution_id, is_own = meant
                if (
                    call.wants_start
                    and (number, True) not in told
                    and not self._has_started(book, number)
                ):
                    self._owe(book, ChildStarted(number, book.run_id, execution_id))
                child = self._journal.last_run(execution_id)
                policy = call.on_parent_close if is_own and not is_fork else ""
            case ExternalAwaited():
                found = self._journal.latest(call.target)
                if found is None:
                    self._owe(book, ExternalAnswered(number, book.run_id, "not_found"))
                    return
                child, policy = found, ""
            case _:
                assert isinstance(call, ExternalSignalSent | ExternalCancelSent)
                problem = "" if self._journal.latest(call.target) else "not_found"
                self._owe(book, ExternalAnswered(number, book.run_id, problem))
                return
        self._reached("waits again for another execution")
        if _is_open(child):
            self._tie(book, number, child.execution_id, policy, is_open=True)
        else:
            self._owe(book, _end_of(child, number, book))

    def _has_started(self, book: "RunBook", number: int) -> bool:
        return any(isinstance(e, ChildStarted) and e.child_id == number for _, e in book.events)

    # ------------------------------------------------------------------------- what was recorded

    def recorded(self, book: "RunBook", event: Event) -> None:
        """An event of these families is in a history now."""
        match event:
            case (
                ChildScheduled(child_id=number)
                | ExternalSignalSent(call_id=number)
                | ExternalCancelSent(call_id=number)
                | ExternalAwaited(call_id=number)
            ):
                book.calls[number] = event
            case ChildCancelRequested():
                self._reached("child: its caller was cancelled")
                call = book.calls.get(event.child_id)
                if isinstance(call, ChildScheduled) and call.on_cancel == "wait":
                    self._reached("child: its cancelled caller waits for it")
                    return
                self._unwanted.add((book.run_id, event.child_id))
                for start in (True, False):
                    self._owed.pop((book.run_id, event.child_id, start), None)
            case ChildStarted() | ChildStartFailed() | ChildClosed() | ExternalAnswered():
                self._tell(book, event)
            case _:
                pass

    def _tell(self, book: "RunBook", event: _Answer) -> None:
        number, name = _number(event), book.workflow_id
        key = book.run_id, number, isinstance(event, ChildStarted)
        what = f"{type(event).__name__} of {number}"
        owed = self._owed.pop(key, None)
        self._must(key not in self._told, f"{name}: was told {what} twice")
        self._told.add(key)
        self._must(owed is not None, f"{name}: was told {what}, which did not happen")
        if isinstance(event, ChildStartFailed) and event.status == "blocked":
            event = structs.replace(event, status="running")  # It is open, and that is what counts.
        if owed is not None:
            self._must(owed.event == event, f"{name}: was told {event}, and true is {owed.event}")
        self._reached(f"told: {type(event).__name__}")

    # ------------------------------------------------------------------------------- in the end

    def nothing_is_overdue(self, now_us: int, patience_us: int, running: list[bytes]) -> None:
        """Who is owed something for so long, and runs, was forgotten."""
        for (run_id, number, _), owed in self._owed.items():
            book = self._journal.runs[run_id]
            if book.closing is None and book.execution_id in running:
                self._must(
                    now_us - owed.since_us < patience_us,
                    f"{book.workflow_id}: nobody tells it {type(owed.event).__name__} of {number}",
                )
        for execution_id, since_us in self.asked.items():
            if execution_id in running:
                self._must(
                    self._has_heard(execution_id) or now_us - since_us < patience_us,
                    f"{self._journal.last_run(execution_id).workflow_id}: was asked to end, and "
                    "nobody tells it",
                )

    def all_is_over(
        self, decode: Callable[[bytes], Any], may_be_open: Callable[[bytes], bool]
    ) -> None:
        for execution_id in self.asked:
            self._must(
                self._has_heard(execution_id)
                or self._journal.is_over(execution_id)
                or may_be_open(execution_id),
                f"{self._journal.last_run(execution_id).workflow_id}: was asked to end, and that "
                "is lost",
            )
        self._letters_are_in_order(decode)

    def times_sent(self, to: Set[bytes], text: str, decode: Callable[[bytes], Any]) -> int:
        """How often others have sent a letter to some executions; 1 if it came from a client."""
        mine = (one.payload for one in self.letters if one.execution_id in to)
        return max([str(decode(one)) for one in mine].count(text), 1)

    def _has_heard(self, execution_id: bytes) -> bool:
        journal = self._journal
        return any(book.cancels for book in journal.lineage.chain(journal.last_run(execution_id)))

    def _letters_are_in_order(self, decode: Callable[[bytes], Any]) -> None:
        """Those of one run to one execution: as they were sent."""
        sent: dict[tuple[bytes, bytes], list[str]] = {}
        for one in self.letters:
            to = sent.setdefault((one.sender_run, one.execution_id), [])
            to.append(str(decode(one.payload)))
        everything = [text for texts in sent.values() for text in texts]
        again = {text for text in everything if everything.count(text) > 1}
        for (_, execution_id), texts in sent.items():
            got = self._journal.letters_of(execution_id, decode)
            # A run that was reset sends again what it sent behind the point.
            once = [text for text in texts if text not in again]
            wanted = [text for text in once if text in got]
            found = [text for text in got if text in once]
            name = self._journal.last_run(execution_id).workflow_id
            self._must(wanted == found, f"{name}: letters {texts} of one sender came as {found}")


def _is_open(book: "RunBook") -> bool:
    return book.closing is None


def _how(book: "RunBook") -> str:
    assert book.closing is not None
    return _HOW[type(book.closing)]


def _number(event: _Answer) -> int:
    return event.call_id if isinstance(event, ExternalAnswered) else event.child_id


def _end_of(book: "RunBook", number: int, waiter: "RunBook") -> ChildClosed:
    status, run = _how(book), waiter.run_id
    match book.closing:
        case RunCompleted(result=result):
            return ChildClosed(number, run, status, result=result)
        case RunFailed(failure=failure):
            return ChildClosed(number, run, status, failure=failure)
        case RunCancelled(reason=reason) | RunTerminated(reason=reason):
            return ChildClosed(number, run, status, reason=reason)
        case RunTimedOut(timeout=timeout):
            return ChildClosed(number, run, status, reason=timeout)
        case _:
            raise AssertionError("it has not ended")
