"""What is repeated when a run is reset, or forked: a book of its own.

It follows from what was accepted. The new run begins with just the events of the other one up to
its point, and nothing of what came behind; an open run is closed for it, so that an execution never
has two; messages that came behind the point are fed once more, in their order, unless they are left
out; and one request begins one run. What executions have to do with each other goes on at the point
as well: that is in `family`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec.structs import replace

from everlong_engine.model.codec import checksum, decode_event
from everlong_engine.model.events import (
    CODES,
    DECISIONS,
    ActivityCancelled,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    CancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    Event,
    ExternalAnswered,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    RunStarted,
    RunTerminated,
    RunTimedOut,
    SideEffectRecorded,
    SignalReceived,
    SignalRejected,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateCompleted,
    UpdateFailed,
    UpdateReceived,
)
from everlong_engine.model.writes import Append, Message, ResetResult, ResetRun

if TYPE_CHECKING:
    from tests.simulation.journal import Journal, RunBook

__all__ = ["Asked", "Lineage", "Repeats"]

_FORCED: Final = (RunTerminated, RunTimedOut)
_FAILED: Final = (ActivityFailed, ActivityTimedOut, ActivityLost)
_UNSEEN: Final = (
    ChildStarted,
    ChildStartFailed,
    ChildClosed,
    ExternalAnswered,
    UpdateCompleted,
    UpdateFailed,
)
_SIGNAL: Final = CODES[SignalReceived]
_Said: TypeAlias = tuple[str, bytes]
"""The family of a message ("signals", "updates"), and what it says."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """How a run began that repeats another one."""

    other: "RunBook"
    kept: Event | None
    """The input behind the point that is fed once more, whatever else is left out."""
    is_fork: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A reset as somebody asks for it. Its reason, which is recorded, tells which it was."""

    to: int | str
    families: tuple[str, ...]
    """Of messages that are fed once more."""


class Lineage:
    """The resets and forks of one world, and the letters that lie in its inboxes."""

    def __init__(self, journal: "Journal", reached: Callable[[str], None]) -> None:
        self._journal = journal
        self._must = journal.must
        self._reached = reached
        self._began: dict[tuple[bytes, str], bytes] = {}
        """The run that a reset with a request id began, by execution."""
        self._lying: dict[int, tuple[bytes, bytes]] = {}
        """Signals that were accepted and are not fed: (execution, payload), by place."""
        self._again: dict[bytes, set[bytes]] = {}
        """Payloads of signals that a reset has left for the next run, at places of its own."""
        self._left_out: dict[bytes, set[bytes]] = {}
        """Payloads of signals that an execution need not hear, should it be reset."""
        self.asked: dict[str, Asked] = {}
        """By reason."""
        self.reset_us: dict[bytes, int] = {}
        """When an execution was last reset, in truth."""
        self.true_us: Callable[[], int] = lambda: 0

    def chain(self, book: "RunBook") -> "list[RunBook]":
        """A run and those before it whose state it goes on with, the oldest first. A run that was
        reset is none of them: what counts of it is repeated."""
        found: list[RunBook] = []
        one: RunBook | None = book
        while one is not None:
            found.append(one)
            one = one.previous
        return found[::-1]

    def repeated_by(self, book: "RunBook") -> set[bytes]:
        """The execution of a run, and those of which it repeats a part."""
        found: set[bytes] = set()
        one: RunBook | None = book
        while one is not None:
            found.add(one.execution_id)
            one = one.previous if one.repeats is None else one.repeats.other
        return found

    # ---------------------------------------------------------------------------------- messages

    def posted(self, write: Message, execution_id: bytes, position: int) -> None:
        """A message was left in an inbox."""
        if write.kind == _SIGNAL:
            event = decode_event(write.kind, write.body, write.blobs or {})
            assert isinstance(event, SignalReceived)
            self._lying[position] = execution_id, event.payload

    def consumed(self, book: "RunBook", append: Append, events: Sequence[Event]) -> None:
        """An append takes from the inbox what it feeds; one that is an end, what came too late."""
        found = [one for at in append.consumed if (one := self._lying.pop(at, None)) is not None]
        if found and append.closed is not None:
            fed = [said for event in events if (said := _said(event)) is not None]
            late = {payload for _, payload in found if ("signals", payload) not in fed}
            self._gone(book.execution_id).update(late)

    def ends(self, book: "RunBook") -> None:
        """An execution is over, and what lies there goes with it: should it be reset, then its
        history is repeated, and nothing else is known."""
        gone = self._gone(book.execution_id)
        for position, (execution_id, payload) in list(self._lying.items()):
            if execution_id == book.execution_id:
                del self._lying[position]
                gone.add(payload)
        gone |= self._unheard(book)

    def is_left_out(self, execution_id: bytes, payload: bytes) -> bool:
        """Whether nobody need hear of a letter any more, because of a reset."""
        return execution_id in self.reset_us and payload in self._gone(execution_id)

    def _gone(self, execution_id: bytes) -> set[bytes]:
        return self._left_out.setdefault(execution_id, set())

    def _unheard(self, book: "RunBook") -> set[bytes]:
        """What was not fed of that whose place nobody knows here: from other executions, and what
        a reset has left in the inbox."""
        heard = {said for one in self.chain(book) for _, e in one.events if (said := _said(e))}
        letters = self._journal.family.letters
        sent = {one.payload for one in letters if one.execution_id == book.execution_id}
        sent |= self._again.get(book.execution_id, set())
        return {payload for payload in sent if ("signals", payload) not in heard}

    # ------------------------------------------------------------------------------------ resets

    def begun(self, write: ResetRun, result: ResetResult, now_us: int) -> None:
        """The store says that a run has begun so, or why it has not."""
        what = "fork" if write.is_fork else "reset"
        if result.refusal is not None:
            self._reached(f"{what} refused: {result.refusal.name}")
            return
        if result.same_request:
            self._reached(f"{what}: requested before")
            return
        journal, new = self._journal, write.run
        if new.run_id in journal.runs:
            return  # Repeated after an answer that was lost, and answered as done.
        old = journal.runs[write.source.run_id]
        self._count(what, old, write)
        asked = self._asked(write)
        seen = [event for _, event in old.events[: write.seen - 1]]
        copied, keeps = point_of(seen, asked.to)
        name, rows = old.workflow_id, len(write.rows)
        self._must(rows == copied, f"{name}: reset to {asked.to} it repeats {rows} events")
        unseen = [event for _, event in old.events[write.seen - 1 :]]
        self._must(
            not any(_said(event) or isinstance(event, _UNSEEN) for event in unseen),
            f"{name}: something was said to it that who has reset it did not know",
        )
        kept = seen[copied] if keeps else None
        if not write.is_fork:
            self._close(old, write)
        book = journal.begin_repeated(new, old)
        book.repeats = Repeats(old, kept, write.is_fork)
        self._copy(book, old, write)
        self._messages(old, write, asked, seen[copied:], kept)
        journal.desk.begins_again(old, book, kept)
        tail = [event for _, event in old.events[copied:]]
        journal.family.now_us = now_us
        journal.family.begins_again(old, book, tail, write.now_us)
        if write.is_fork:
            journal.streams.forked(old, book, write.items)
        else:
            self.reset_us[old.execution_id] = self.true_us()

    def _count(self, what: str, old: "RunBook", write: ResetRun) -> None:
        self._reached(f"{what} of {'an open' if old.closing is None else 'a closed'} run")
        if len(old.events) >= write.seen:
            self._reached(f"{what}: it raced an append")
        at_work = (number for (number, _), state in old.marked.items() if state == 0)
        if old.closing is None and any(number not in old.over for number in at_work):
            self._reached(f"{what} in mid-activity")
        if any(execution_id == old.execution_id for execution_id, _ in self._lying.values()):
            self._reached(f"{what}: letters in flight")
            if write.dropped:
                self._reached(f"{what}: letters in flight left out")

    def _asked(self, write: ResetRun) -> Asked:
        if write.start is not None:
            first = decode_event(*write.start, write.mail_blobs)
        else:
            _, kind, _, body, _ = write.rows[0]
            first = decode_event(kind, body, write.blobs)
        assert isinstance(first, RunStarted)
        assert first.reset is not None
        return self.asked[first.reset.reason]

    def _close(self, old: "RunBook", write: ResetRun) -> None:
        """Of an execution's runs one is open, at most: the one that has begun now."""
        name = old.workflow_id
        self._must(
            self._journal.last_run(old.execution_id) is old, f"{name}: an earlier run was reset"
        )
        if write.request_id is not None:
            key = old.execution_id, write.request_id
            first = self._began.setdefault(key, write.run.run_id) == write.run.run_id
            self._must(first, f"{name}: request {write.request_id} reset it a second time")
        if old.closing is None:
            old.was_reset = True
            event = decode_event(*write.closing, {})
            assert isinstance(event, RunTerminated)
            self._journal.ended_by_another(old, event, write.now_us)

    def _copy(self, book: "RunBook", old: "RunBook", write: ResetRun) -> None:
        """Event by event what the other run has recorded up to the point."""
        must, name = self._must, old.workflow_id
        for (seq, kind, at_us, body, check), before in zip(write.rows, old.events, strict=False):
            must(check == checksum(seq, kind, body), f"{name}: a checksum is wrong in a copy")
            event, was = decode_event(kind, body, write.blobs), before[1]
            if isinstance(event, RunStarted):
                event = self._completed(event, old, is_fork=write.is_fork)
                same = isinstance(was, RunStarted) and _plain(event) == _plain(was)
            elif isinstance(event, ActivityScheduled) and isinstance(was, ActivityScheduled):
                same = replace(event, began=False) == replace(was, began=False)
            else:
                same = event == was
            must(
                same and at_us == before[0] and seq == len(book.events) + 1,
                f"{name}: event {seq} was not repeated as it was",
            )
            book.events.append((at_us, event))
            _fold(book, event)
        for number in book.scheduled.keys() - book.over:
            began = book.scheduled[number].began
            must(not began, f"{name}: activity {number} has begun in a copy")

    def _completed(self, event: RunStarted, old: "RunBook", *, is_fork: bool) -> RunStarted:
        """What a store adds: how far the channels have come. A fork has its own."""
        if event.reset is None or is_fork:
            return event
        *earlier, last = event.reset.copied
        numbers = self._journal.streams.numbers_of(old.execution_id)
        parts = (*earlier, replace(last, published=numbers))
        return replace(event, reset=replace(event.reset, copied=parts))

    def _messages(
        self,
        old: "RunBook",
        write: ResetRun,
        asked: Asked,
        tail: Sequence[Event],
        kept: Event | None,
    ) -> None:
        """Those behind the point are fed once more, in their order, but for what is left out."""
        came = [(said, event is kept) for event in tail if (said := _said(event)) is not None]
        wanted = [said for said, is_kept in came if is_kept or said[0] in asked.families]
        mail = (decode_event(kind, body, write.mail_blobs) for kind, body in write.mail)
        again = [said for event in mail if (said := _said(event)) is not None]
        if write.is_fork:  # It gets what lies in the inbox, too.
            again = again[: len(wanted)]
        self._must(again == wanted, f"{old.workflow_id}: it must hear {wanted}, and hears {again}")
        if write.is_fork:
            return
        gone = self._gone(old.execution_id)
        gone |= {payload for (family, payload), _ in came if family == "signals"}
        gone -= {payload for family, payload in again if family == "signals"}
        for position in write.dropped:
            found = self._lying.pop(position, None)
            if found is not None:
                gone.add(found[1])
        if "signals" not in asked.families:
            gone |= self._unheard(old)
        left = {payload for family, payload in again if family == "signals"}
        for position, (execution_id, payload) in list(self._lying.items()):
            if execution_id == old.execution_id:
                del self._lying[position]
                left.add(payload)
        self._again[old.execution_id] = left | (self._unheard(old) - gone)


def point_of(events: Sequence[Event], to: int | str) -> tuple[int, bool]:
    """How many events are repeated by a run that begins there, and whether the input behind them
    is kept, so that what follows from it is decided anew."""
    inputs = [n for n, event in enumerate(events, 1) if type(event) not in DECISIONS]
    if isinstance(to, int):
        ends_there = to == len(events) or to + 1 in inputs or type(events[to]) in _FORCED
        return (to, False) if ends_there else (to - 1, True)
    word, _, kind = to.partition(":")
    calls = [
        n
        for n, event in enumerate(events, 1)
        if isinstance(event, ActivityScheduled) and kind in ("", event.activity)
    ]
    match word:
        case "start":
            at = 1
        case "last":
            at = inputs[-1]
        case "first-activity":
            at = max(n for n in inputs if n < calls[0])
        case "last-activity":
            at = max(n for n in inputs if n < calls[-1])
        case _:
            failed = [event.activity_id for event in events if isinstance(event, _FAILED)]
            (call,) = (n for n in calls if _number(events[n - 1]) == failed[-1])
            at = max(n for n in inputs if n < call)
    return at - 1, True


def _number(event: Event) -> int:
    assert isinstance(event, ActivityScheduled)
    return event.activity_id


def _said(event: Event) -> _Said | None:
    match event:
        case SignalReceived() | SignalRejected():
            return "signals", event.payload
        case UpdateReceived():
            return "updates", event.update_id.encode()
        case _:
            return None


def _plain(event: Event) -> Event:
    """A start without what differs when it is repeated."""
    assert isinstance(event, RunStarted)
    return replace(event, reset=None, workflow_id="", execution_deadline_us=None)


def _fold(book: "RunBook", event: Event) -> None:
    """What a run goes on with that has repeated this."""
    match event:
        case ActivityScheduled():
            book.scheduled[event.activity_id] = event
        case ActivityCompleted() | ActivityFailed() | ActivityTimedOut() | ActivityLost():
            book.over.add(event.activity_id)
        case ActivityCancelRequested():
            waits = book.scheduled[event.activity_id].options.on_cancel == "wait"
            (book.ending if waits else book.over).add(event.activity_id)
        case ActivityCancelled():
            book.ending.discard(event.activity_id)
            book.over.add(event.activity_id)
        case TimerStarted():
            book.timers[event.timer_id] = event.due_us
        case TimerCancelled() | TimerFired():
            book.timers.pop(event.timer_id, None)
        case CancelRequested():
            book.cancels += 1
        case SideEffectRecorded():
            book.noted.append(event.value)
        case ChildScheduled():
            book.calls[event.child_id] = event
        case ExternalSignalSent() | ExternalCancelSent() | ExternalAwaited():
            book.calls[event.call_id] = event
        case _:
            pass
