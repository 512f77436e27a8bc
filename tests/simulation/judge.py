"""What must be true of a world: while it heals, and when everything has come to its end.

The journal has checked each store operation by then. Here its book is held against the store's
rows, against what clients were told and saw, and against what the programs must give.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from everlong_engine import pack, unpack
from everlong_engine.model.events import (
    ActivityCompleted,
    ActivityFailed,
    ApprovalAnswered,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    RunTerminated,
    UpdateCompleted,
    UpdateFailed,
    UpdateReceived,
)
from everlong_engine.model.runs import LoadedRun, RunRow, RunStatus
from everlong_engine.store.interface import RunFilter, Store
from tests.simulation import language
from tests.simulation.carrying import carry_out
from tests.simulation.journal import RunBook
from tests.simulation.language import letters
from tests.simulation.oracle import (
    answers_of,
    items_of,
    labels_that_ran,
    notes_of,
    received_by,
    verdicts_of,
    wrong,
)
from tests.simulation.plan import POISON, program_name

if TYPE_CHECKING:
    from tests.simulation.processes import Acknowledged, Sender
    from tests.simulation.world import World

__all__ = ["OVERDUE_US", "Judge"]

_PATIENT_LOOKS: Final = 60
"""Of the operator, at a flow that has not read everything."""
OVERDUE_US: Final = 20_000_000
"""What is due for so long, and nothing stands in its way, was forgotten."""


class Judge:
    """Says what a world has broken; into its journal."""

    def __init__(self, world: "World", senders: "Sequence[Sender]") -> None:
        self._world = world
        self._journal = world.journal
        self._senders = senders

    def open_executions(self) -> list[bytes]:
        journal = self._journal
        return [one for one in journal.executions if not journal.is_over(one)]

    def may_stay_blocked(self, execution_id: bytes) -> bool:
        """Code of version 2 may have recorded its mistake: nothing mends that but a reset."""
        name = program_name(self._journal.last_run(execution_id).workflow_id)
        if name.startswith(POISON):
            return True
        mistakes = self._world.plan.mistakes
        return name in mistakes and self._world.counters["change code"] > 0

    # ------------------------------------------------------------------------- while it heals

    def running_executions(self) -> list[bytes]:
        """The open ones, but for what is parked."""
        rows = self._rows(self._world.shared.open())
        running = {
            row.execution_id
            for row in rows
            if row.status is RunStatus.RUNNING and not row.waits_for_turn
        }
        return [one for one in self.open_executions() if one in running]

    def may_be_parked(self, name: str, reason: str) -> None:
        """As a killer of its workers: only one that has a bomb in it."""
        if reason.startswith("poison:"):
            self._world.reached("bomb parked")
            is_bomb = program_name(name) in self._world.plan.bombs
            self._journal.must(is_bomb, f"{name} is parked for what others did: {reason}")

    def may_wait_for_messages(self, book: RunBook, number: int) -> None:
        """Back-off may be long by then, and no longer than this."""
        self._journal.must(
            number < _PATIENT_LOOKS,
            f"{book.workflow_id}: there are messages, and nobody reads them",
        )

    def nothing_is_forgotten(self) -> None:
        """There were no faults for a while: what was due must have happened, unasked."""
        journal, now_us = self._journal, self._world.clock_reads()
        if self._world.was_set_back:
            return  # What is due by a clock that was set back waits until it has caught up.
        for pool in self._world.read(self._world.shared.open().pools()):
            waits_us = now_us - (pool.oldest_us or now_us)
            journal.must(
                waits_us < OVERDUE_US or pool.begun >= (self._world.plan.turns or 0),
                f"{pool.waiting} wait for a turn that nobody has",
            )
        for execution_id in self.running_executions():
            book = journal.last_run(execution_id)
            name = book.workflow_id
            journal.must(not name.startswith(POISON), f"{name} is not parked")
            journal.must(
                bool(book.events) or now_us - book.accepted_us < OVERDUE_US,
                f"{name}: accepted long ago, and never begun",
            )
            for timer_id, due_us in book.timers.items():
                journal.must(
                    now_us - max(due_us, book.accepted_us) < OVERDUE_US,
                    f"{name}: timer {timer_id} is due, and forgotten",
                )
            got = journal.letters_of(execution_id, unpack)
            for one in self._letters_to(execution_id):
                text = one.errand.text
                may_wait = self._is_recent(one) or self._is_left_out(execution_id, text)
                journal.must(
                    may_wait or text in got, f"{name}: letter {text} lies there, and nobody looks"
                )
        running = self.running_executions()
        journal.family.nothing_is_overdue(now_us, OVERDUE_US, running)
        journal.desk.nothing_is_overdue(now_us, OVERDUE_US, running)

    # -------------------------------------------------------------------------- in the end

    def all_is_over(self) -> None:
        inner = self._world.shared.open()
        self._world.new_process("judge").loop.run_inline(lambda: self._look_at_rows(inner))
        for execution_id in self._journal.executions:
            self._look_at_execution(execution_id)
        for sender in self._senders:
            for one in sender.acknowledged:
                self._look_at_acknowledged(one)
            for seen in sender.seen:
                self._journal.must(
                    seen.stored, f"{seen.workflow_id}: its end was seen before it was stored"
                )
        for execution_id in self._journal.executions:
            self._look_at_order(execution_id)
        family = self._journal.family
        family.all_is_over(unpack, self.may_stay_blocked)
        for letter in family.letters:
            self._look_at_letter(letter.execution_id, str(unpack(letter.payload)))

    def _rows(self, inner: Store) -> list[RunRow]:
        rows: list[RunRow] = self._world.read(inner.list_runs(RunFilter("default"), 10_000, None))
        return rows

    def _look_at_rows(self, inner: Store) -> None:
        world, journal = self._world, self._journal
        for problem in world.read(inner.verify()):
            journal.must(False, f"verify: {problem.text}")
        rows = self._rows(inner)
        stored = {row.run_id for row in rows}
        for execution_id in journal.executions:
            self._look_at_streams(inner, execution_id)
        for run_id, book in journal.runs.items():
            journal.must(run_id in stored, f"{book.workflow_id}: an accepted run is gone")
        for row in rows:
            loaded: LoadedRun = world.read(inner.load(row.shard, row.run_id))
            journal.compare(loaded)
            if row.workflow_id.startswith(POISON):
                world.counters["poison parked"] += row.status is RunStatus.BLOCKED
                journal.must(
                    row.status in (RunStatus.BLOCKED, RunStatus.RUNNING),
                    f"{row.workflow_id}, which nobody can decode, has ended: {row.status}",
                )
            elif row.status is RunStatus.BLOCKED:
                world.reached("blocked for good")
                journal.must(
                    "Nondeterminism" in (row.reason or ""),
                    f"{row.workflow_id} is blocked: {row.reason}",
                )

    def _look_at_streams(self, inner: Store, execution_id: bytes) -> None:
        streams, book = self._journal.streams, self._journal.last_run(execution_id)
        for channel in streams.channels_of(execution_id):
            rows = self._world.read(inner.published(0, execution_id, channel, 0, 10_000))
            streams.compare(book, channel, rows)

    def _look_at_execution(self, execution_id: bytes) -> None:
        world, journal = self._world, self._journal
        runs = journal.executions[execution_id]
        last = runs[-1]
        name = last.workflow_id
        got = journal.letters_of(execution_id, unpack)
        for text in sorted({one for one in got if got.count(one) > 1}):
            # One whose sender was reset may have been sent twice, also to who was forked from this.
            to = journal.lineage.repeated_by(last)
            right = got.count(text) <= journal.family.times_sent(to, text, unpack)
            journal.must(right, f"{name}: letter {text} was delivered twice: {got}")
        wished = _wishes_of(journal.lineage.chain(last))
        for text in sorted({one for one in wished if wished.count(one) > 1}):
            journal.must(False, f"{name}: wish {text} was performed twice")
        for text in wished:
            refused = text.startswith(language.REFUSED)
            journal.must(not refused, f"{name}: wish {text} was refused, and performed")
        flow = world.flows.get(program_name(name))
        if flow is not None and last.closing is not None:
            done = isinstance(last.closing, RunCompleted)
            result = unpack(last.closing.result) if isinstance(last.closing, RunCompleted) else None
            rows = None
            if flow.body == "sink":
                rows = world.shared.rows("SELECT id, value FROM sink WHERE flow = ?", name)
            journal.readings.look_at(last, flow, result, rows)
            world.reached("stream: flow ended as asked" if done else "stream: flow ended early")
        match last.closing:
            case RunCompleted() if flow is not None:
                world.reached("completed")
            case RunCompleted() as closing:
                before = [one for one in journal.lineage.chain(last) if one not in runs]
                self._look_at_result([*runs, *before], unpack(closing.result), got)
                world.reached("completed")
            case RunCancelled() if len(runs[0].events) == 1:  # The journal knows where this may be.
                world.reached("cancelled before it began")
            case RunCancelled():
                world.reached("cancelled")
                journal.must(
                    any(book.cancels for book in runs),
                    f"{name}: cancelled, and nobody asked for it",
                )
                journal.must(world.ledger.done["cleanup"] > 0, f"{name}: its clean-up was not done")
            case RunTerminated():
                world.reached("terminated")
            case RunFailed() as failed:
                journal.must(
                    False, f"{name} failed: {failed.failure.type}: {failed.failure.message}"
                )
            case _:
                pass
        for book, after in pairwise(runs):
            if after.repeats is not None:
                world.reached("went on behind a reset")
                continue
            journal.must(
                isinstance(book.closing, RunContinuedAsNew), f"{name}: a run has two successors"
            )
            world.reached("rolled over")
            journal.must(
                not book.cancels or after.closing is None or _was_asked_to_end(after),
                f"{name}: a cancellation was lost when it began anew",
            )

    def _look_at_result(
        self, runs: Sequence[RunBook], result: language.Result, got: list[str]
    ) -> None:
        journal, name = self._journal, runs[0].workflow_id
        problem = wrong(_program_of(runs[0]), result)
        journal.must(problem is None, f"{name}: {problem}")
        received = received_by(result)
        # Branches receive side by side, so a result may hold letters in another order.
        journal.must(
            not Counter(received) - Counter(got), f"{name}: received {received}, recorded {got}"
        )
        for label, count in Counter(labels_that_ran(result)).items():
            journal.must(
                self._world.ledger.done[label] >= count,
                f"{name}: {label} is said to be done {count} times, and was not",
            )
        noted = {unpack(value) for book in runs for value in book.noted}
        for note in notes_of(result):
            journal.must(note in noted, f"{name}: {note} is another value than was recorded")
        self._look_at_answers(runs, result)

    def _look_at_answers(self, runs: Sequence[RunBook], result: language.Result) -> None:
        """What a result says that others have answered, and that it published, is recorded."""
        journal, name = self._journal, runs[0].workflow_id
        events = [event for book in runs for _, event in book.events]
        verdicts = Counter(
            (event.approved, event.by, str(unpack(event.comment)))
            for event in events
            if isinstance(event, ApprovalAnswered)
        )
        for verdict, count in Counter(verdicts_of(result)).items():
            journal.must(verdicts[verdict] >= count, f"{name}: nobody has said {verdict}")
        answers = {str(unpack(one.result)) for one in events if isinstance(one, ActivityCompleted)}
        answers |= {one.failure.message for one in events if isinstance(one, ActivityFailed)}
        for answer in answers_of(result):
            journal.must(answer in answers, f"{name}: nobody has answered {answer}")
        for channel, number, text in items_of(result):
            items = journal.streams.items_of(runs[0].execution_id, channel)
            right = number < len(items) and unpack(items[number]) == text
            journal.must(right, f"{name}: item {number} of {channel} is not {text}")

    # ---------------------------------------------------------------- what clients were told

    def _look_at_acknowledged(self, one: "Acknowledged") -> None:
        journal = self._journal
        runs = journal.executions.get(one.execution_id)
        what = f"{one.errand.what} {one.errand.text or one.errand.workflow_id}"
        if runs is None:
            journal.must(False, f"{what} was acknowledged, and its execution is not there")
        elif one.errand.what == "letter":
            self._look_at_letter(one.execution_id, one.errand.text)
        elif one.errand.what == "wish":
            self._look_at_wish(runs, one)
        elif one.errand.what == "cancel":
            journal.must(
                any(book.cancels for book in runs)
                or runs[-1].closing is not None
                or self.may_stay_blocked(one.execution_id),
                f"{what} was acknowledged, and is lost",
            )
        elif one.errand.what == "terminate":
            journal.must(
                any(isinstance(one.closing, RunTerminated) and not one.was_reset for one in runs),
                f"{what} was acknowledged, and it did not end so",
            )

    def _look_at_wish(self, runs: Sequence[RunBook], one: "Acknowledged") -> None:
        """An update ends once, as its sender was told."""
        text, answer = one.errand.text, one.answer
        was_reset = one.execution_id in self._journal.lineage.reset_us
        events = [event for book in runs for _, event in book.events]
        received = sum(isinstance(e, UpdateReceived) and e.update_id == text for e in events)
        ends = [
            event
            for event in events
            if isinstance(event, UpdateCompleted | UpdateFailed) and event.update_id == text
        ]
        match answer:
            case "UpdateRejected":
                self._world.reached("wish refused")
                right = text.startswith(language.REFUSED) and not received
            case "WorkflowClosed":
                right = not received or was_reset
            case "UpdateUnfinished":
                self._world.reached("wish unfinished")
                right = (received == 1 and not ends) or was_reset
            case _:
                self._world.reached("wish granted")
                results = [unpack(end.result) for end in ends if isinstance(end, UpdateCompleted)]
                done = self._world.ledger.done[f"wish {text}"]
                # One that was reset has perhaps done it again, with the same result.
                once = len(results) == 1 or was_reset
                right = once and set(results) == {answer} and done > 0
        name = one.errand.workflow_id
        self._journal.must(right, f"{name}: wish {text} was answered {answer}; recorded: {ends}")

    def _look_at_letter(self, execution_id: bytes, text: str) -> None:
        journal = self._journal
        got = journal.letters_of(execution_id, unpack)
        if text in got or self._is_left_out(execution_id, text):
            return
        last = journal.last_run(execution_id)
        # Accepted, and never fed: its run has ended then, and says so unless by force.
        match last.closing:
            case (
                RunCompleted(unread=unread) | RunFailed(unread=unread) | RunCancelled(unread=unread)
            ):
                journal.must(
                    letters.name in unread, f"{last.workflow_id}: letter {text} is lost: {got}"
                )
                self._world.reached("letter unread")
            case None:
                journal.must(
                    self.may_stay_blocked(execution_id),
                    f"{last.workflow_id}: letter {text} is not there: {got}",
                )
            case _:
                pass

    def _look_at_order(self, execution_id: bytes) -> None:
        """A letter that was sent when another was acknowledged already must stand behind it."""
        got = self._journal.letters_of(execution_id, unpack)
        sent = [one for one in self._letters_to(execution_id) if one.errand.text in got]
        for earlier in sent:
            for later in sent:
                first, second = earlier.errand.text, later.errand.text
                if first != second and earlier.acknowledged_us < later.sent_us:
                    self._journal.must(
                        got.index(first) < got.index(second),
                        f"{later.errand.workflow_id}: letter {second} overtook {first}: {got}",
                    )

    def _is_left_out(self, execution_id: bytes, text: str) -> bool:
        return self._journal.lineage.is_left_out(execution_id, pack(text))

    def _is_recent(self, one: "Acknowledged") -> bool:
        return self._world.schedule.now_us - one.acknowledged_us < OVERDUE_US

    def _letters_to(self, execution_id: bytes) -> "list[Acknowledged]":
        return [
            one
            for sender in self._senders
            for one in sender.acknowledged
            if one.execution_id == execution_id and one.errand.what == "letter"
        ]


def _wishes_of(runs: Sequence[RunBook]) -> list[str]:
    return [
        event.update_id
        for book in runs
        for _, event in book.events
        if isinstance(event, UpdateReceived)
    ]


def _was_asked_to_end(book: RunBook) -> bool:
    """Its code heard that it was cancelled: it ended so, or handed that on."""
    return not isinstance(book.closing, RunCompleted)


def _program_of(book: RunBook) -> language.Program:
    started = book.events[0][1]
    assert isinstance(started, RunStarted)
    args, kwargs = carry_out.definition.parameters.decode(started.arguments)
    return tuple(args[0] if args else kwargs["program"])
