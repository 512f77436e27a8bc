"""One seed's world: processes on a schedule, a shared store, books of what happened, mishaps."""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Final

from everlong import ActivityInfo, OpenApproval, Rate, TaskQueue, Worker, WorkflowPool
from everlong_engine.model.events import KINDS, ActivityCancelled, RunStarted
from everlong_engine.model.ids import id_from_text, id_text
from everlong_engine.model.runs import LoadedRun
from everlong_engine.model.tasks import TakenTask
from everlong_engine.model.writes import (
    Append,
    MarkAttempts,
    Message,
    Release,
    ResetRun,
    StartRun,
    Write,
)
from everlong_engine.store.interface import RunFilter, Store
from tests.simulation.broker import Broker
from tests.simulation.carrying import carry_out
from tests.simulation.desk import LATER
from tests.simulation.journal import Journal, RunBook
from tests.simulation.ledger import Ledger
from tests.simulation.line import FaultyStore, Rates
from tests.simulation.loop import Call, ProcessLoop, Schedule
from tests.simulation.plan import APART, POISON, TYPE, Plan, program_name
from tests.simulation.pooled import POOL, place_of
from tests.simulation.reading import SINK
from tests.simulation.shared import SharedStore, shared_store

__all__ = ["Handed", "Process", "World"]

START_US: Final = 1_700_000_000_000_000
_EMPTY: Final = Context()
_TOLD: Final = frozenset({"register", "bury", "resume_blocked", "forget_question", "prune"})
"""Verbs without more to tell; mere reads are left out."""


class Dead(BaseException):
    """Raised in a process that has just been killed by what it runs, to leave its line."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A token that an activity has given to the world."""

    about: ActivityInfo
    label: str
    due_us: int | None
    """When its time is over."""


class Process:
    """A simulated operating system process."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.loop: ProcessLoop = world.schedule.new_loop(self._problem)
        self.clock = ProcessClock(world, Random(f"{world.plan.seed}/{name}/clock"))
        self.cut_off = False
        self.version = world.code_version
        self.worker: Worker | None = None
        self.helper: Worker | None = None
        """Takes from the other task queue."""
        self.stopping = False
        """It hands back what it has."""
        self.store: Store = FaultyStore(
            world, self, world.shared.open(), Random(f"{world.plan.seed}/{name}/line")
        )
        self.on_death: Callable[[], None] = lambda: None

    @property
    def version_name(self) -> str:
        """How its worker calls the code that it has."""
        return f"v{self.version}"

    def _problem(self, text: str, error: BaseException | None) -> None:
        self.world.journal.must(False, f"{self.name}: {text}: {type(error).__name__}: {error}")

    def kill(self) -> None:
        """SIGKILL: no line of it runs again, and its lock is free."""
        if self.loop.dead:
            return
        self.world.told(self, "is killed")
        self.loop.kill()
        if self.world.owner is self:
            self.world.owner = None
        self.world.falls_silent(self)
        self.on_death()

    def bury(self) -> None:
        """Close the code of a killed process without running a line of it."""
        keeper = None if self.worker is None else self.worker._keeper  # pyright: ignore[reportPrivateUsage]
        for run in [] if keeper is None else list(keeper.cache):
            run.code.discard()


class ProcessClock:
    """The machine's clock as one process reads it: never backwards within the process."""

    def __init__(self, world: "World", chance: Random) -> None:
        self._world = world
        self._skew_us = round((2 * chance.random() - 1) * world.plan.skew_s * 1e6)
        self._last = 0

    def now_us(self) -> int:
        self._last = max(self._last, self._world.clock_reads(self._skew_us))
        return self._last


class World:
    """Implements `language.Stage`: what simulated code sees of it."""

    def __init__(self, plan: Plan, trace_lines: int) -> None:
        self.plan = plan
        self.schedule = Schedule(Random(f"{plan.seed}/schedule"), START_US)
        self.rates: Rates = plan.rates
        self.counters: Counter[str] = Counter()
        self._versions: dict[str, str] = {}
        """Of the code of each process that there ever was."""
        self.journal = Journal(self.reached)
        self.journal.has_pool = plan.turns is not None
        self.journal.on_ended = self._end_recorded
        self.journal.lineage.true_us = lambda: self.schedule.now_us
        self.journal.holds.version_of = self._versions.__getitem__
        self.journal.holds.successors_stay = plan.versioning == "pinned"
        self.tokens: list[Handed] = []
        self.approvals: list[OpenApproval] = []
        """All that anybody has found open."""
        self.healed_us: int | None = None
        """When the last fault was over."""
        self.ledger = Ledger(self.journal, lambda: self.schedule.now_us)
        self.shared: SharedStore = shared_store(plan.store)
        self.owner: Process | None = None
        self.disk_is_full = False
        self.clock_us = 0
        self.was_set_back = False
        self._notes = 0
        self._keys_taken: dict[tuple[bytes, int, int], str] = {}
        self.highest_us = 0
        self.code_version = 1
        self.bombs_are_live = True
        self.stolen_from: set[Process] = set()
        self.processes: list[Process] = []
        self._by_loop: dict[ProcessLoop | None, Process] = {}
        self.trace: deque[str] = deque(maxlen=trace_lines)
        self._digest = blake2b(digest_size=16)
        self._tearing = Random(f"{plan.seed}/tearing")
        self._births: Counter[str] = Counter()
        self._hub = self.schedule.new_loop(self._hub_problem)
        self._inner: Store = self.shared.open()
        self.flows = {one.name: one for one in plan.flows}
        self.brokers = {one.stream: Broker(self, one) for one in plan.flows}
        self.journal.readings.broker_of = self.brokers.__getitem__
        if any(one.body == "sink" for one in plan.flows):
            self.shared.make_table(SINK)

    def _hub_problem(self, text: str, error: BaseException | None) -> None:
        raise AssertionError(text) from error

    # ---------------------------------------------------------------------------- time and talk

    def later(self, delay_us: int, do: Callable[[], None]) -> None:
        """Do something, as the world, so many microseconds from now."""
        due_us = self.schedule.now_us + max(delay_us, 0)
        self.schedule.at(due_us, self._hub, Call(do, (), _EMPTY, due_us))

    def falls_silent(self, process: Process) -> None:
        """Brokers hear nothing of it any more, or not for a while."""
        for broker in self.brokers.values():
            broker.falls_silent(process)

    def reached(self, what: str) -> None:
        self.counters[what] += 1

    def told(self, process: "Process | None", what: str) -> None:
        """One line of the trace."""
        name = "world" if process is None else process.name
        line = f"{(self.schedule.now_us - START_US) / 1e6:10.4f} {name:10} {what}"
        self.trace.append(line)
        self._digest.update(line.encode())

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def new_process(self, kind: str) -> Process:
        """`kind` and how many there were of it are its name."""
        self._births[kind] += 1
        process = Process(self, f"{kind}.{self._births[kind]}")
        self.processes.append(process)
        self._versions[process.name] = process.version_name
        self._by_loop[process.loop] = process
        return process

    def may_steal(self, owner: Process) -> bool:
        """Whether the lock of an owner is given away: only of one that stands still."""
        if not (self.plan.steal and owner.loop.stopped):
            return False
        self.stolen_from.add(owner)
        return True

    # -------------------------------------------------------------------------------- the store

    def applied(
        self,
        process: Process,
        verb: str,
        writes: Sequence[Write],
        outcome: Any,
        *,
        again: bool = False,
    ) -> None:
        """The shared store has carried something out; `again` for a repeated request."""
        if verb == "submit":
            kinds = ", ".join(self._written(write) for write in writes)
            if isinstance(outcome, Exception):
                self.told(process, f"submit {kinds}: {type(outcome).__name__}")
                self.reached("group refused")
                return
            self.told(process, f"submit {kinds}{' again' if again else ''}: {_short(outcome)}")
            self.clock_reads()
            self.journal.group(process.name, self.highest_us, writes, outcome)
            self._count(process, writes, outcome)
        elif isinstance(outcome, Exception):
            self.told(process, f"{verb}: {type(outcome).__name__}: {outcome}")
        elif verb == "claim":
            for loaded in outcome:
                self._claimed(process, loaded)
        elif verb == "claim_run" and outcome is not None:
            self._claimed(process, outcome)
        elif verb == "take_tasks" and outcome is not None:
            for taken in outcome[0]:
                if taken.task.queue != APART:
                    self.reached("activity offered to others")
                self.told(process, f"takes {taken.run.workflow_id} {taken.task.activity_id}")
                self.reached("task taken")
                self.journal.taken(process.name, taken)
            self._count_permits()
        elif verb == "ask_turns" and outcome is not None:
            self.told(process, f"turns: {', '.join(one.turn.name for one in outcome)}")
            for one in outcome:
                self.reached(f"turn: {one.turn.name}")
            self._turns_are_kept()
        elif verb == "deal_turns" and outcome is not None:
            if outcome.begun:
                self.told(process, f"{outcome.begun} may begin")
                self.reached("turn came later")
            self._turns_are_kept()
        elif verb == "take_over":
            self.told(process, f"take_over: {outcome}")
            if outcome:
                self.reached("takeover")
                self._tokens_moved()
        elif verb in _TOLD:
            self.told(process, verb)

    def was_well_since(self, true_us: int) -> bool:
        """Whether nothing has stood in anybody's way since."""
        return self.healed_us is not None and self.healed_us < true_us and not self.was_set_back

    def clock_reads(self, skew_us: int = 0) -> int:
        """The machine's clock, which may have been set; of a process whose clock differs."""
        now = self.schedule.now_us + self.clock_us + skew_us
        self.highest_us = max(self.highest_us, now)
        return now

    def _written(self, write: Write) -> str:
        """A write, for the trace."""
        kind = type(write).__name__
        match write:
            case Append():
                kinds = "+".join(KINDS[row[1]].__name__ for row in write.rows)
                return f"{kind} {self._name(write.run_id)}#{write.base} {kinds}"
            case MarkAttempts():
                marks = [
                    f"{one.activity_id}/{one.attempt} {one.state.name}" for one in write.attempts
                ]
                return f"{kind} {self._name(write.run_id)} {' '.join(marks)}"
            case Release():
                return f"{kind} {self._name(write.run_id)}#{write.base}"
            case StartRun():
                return f"{kind} {write.run.workflow_id}{' driven' if write.first else ''}"
            case Message():
                return f"{kind} {write.target.workflow_id} {KINDS[write.kind].__name__}"
            case ResetRun():
                how = f"{write.run.workflow_id} keeps {len(write.rows)}"
                return f"{kind} {write.source.workflow_id}#{write.seen} as {how}"
            case _:
                return kind

    def _name(self, run_id: bytes) -> str:
        book = self.journal.runs.get(run_id)
        return "?" if book is None else book.workflow_id

    def _claimed(self, process: Process, loaded: LoadedRun) -> None:
        self.told(process, f"claim {loaded.row.workflow_id} token {loaded.row.lease_token}")
        self.journal.claimed(process.name, loaded)
        self.reached("claim")
        if loaded.mail:
            self.reached("claim with mail")

    def _tokens_moved(self) -> None:
        """A takeover gives nothing back that tells the tokens: look."""
        for row in self.read(self._inner.list_runs(RunFilter("default"), 1000, None)):
            book = self.journal.runs.get(row.run_id)
            if book is not None and row.lease_token > book.token:
                book.token, book.owner = row.lease_token, None
                if any(state == 0 for (_, _), state in book.marked.items()):
                    self.reached("takeover in mid-activity")

    def tear(self, work: Callable[[], Any]) -> Any:
        """Break the transaction of `work` off in its middle, if it is long enough."""
        return self.shared.tear(1 + int(400 * self._tearing.random() ** 2), work)

    def read(self, work: Awaitable[Any]) -> Any:
        """What a verb of the shared store gives, for the books."""
        steps = work.__await__()
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        raise AssertionError("a verb of the shared store waited")

    def _count(self, process: Process, writes: Sequence[Write], outcome: Sequence[Any]) -> None:
        for write, result in zip(writes, outcome, strict=True):
            refusal = getattr(result, "refusal", None)
            if refusal is None:
                if isinstance(write, Release) and write.blocked:
                    self._must_be_faulty(process, write)
                continue
            self.reached(f"{type(write).__name__} refused: {refusal.name}")
            if process in self.stolen_from:
                self.reached("zombie refused")

    def _must_be_faulty(self, process: Process, release: Release) -> None:
        """Nobody's code is parked but that which has a fault, or is older than what it replays."""
        if process.version < self.code_version:
            return
        name = self._name(release.run_id)
        known = program_name(name)
        faulty = known in self.plan.mistakes | self.plan.bombs or name.startswith(POISON)
        self.journal.must(faulty, f"{name} was parked, and has no fault: {release.reason}")

    # --------------------------------------------------------------------------- what code sees

    @property
    def running(self) -> Process:
        """The process whose line runs now."""
        return self._by_loop[self.schedule.running]

    def attempt_begins(self, about: ActivityInfo, label: str, once: bool) -> None:
        process = self.running
        self.told(process, f"attempt {about.attempt} of {label}")
        zombie = process in self.stolen_from
        run_id = id_from_text(about.run_id)
        now_us = process.clock.now_us()
        self.ledger.begins(now_us, run_id, about, once, zombie, process.name)

    def queue_of(self, label: str) -> dict[str, Any]:
        """Where a step's activity runs, as options of it: by its label, so in each replay alike."""
        apart = self.plan.queues and sum(map(ord, label)) % 2 == 0
        if not apart:
            return {}
        return {"queue": APART, "key": label[-1], "priority": len(label) % 3}

    def declared_limits(self) -> list[TaskQueue | WorkflowPool]:
        """What the code of each worker says of its queue and its pool."""
        per_second = self.plan.in_a_second
        queue = TaskQueue(
            APART,
            concurrency=self.plan.at_once,
            rate=None if per_second is None else Rate(per_second, per=1.0),
            key_concurrency=self.plan.at_once_of_key,
        )
        limits: list[TaskQueue | WorkflowPool] = [queue] if self.plan.queues else []
        if self.plan.turns is not None:
            limits.append(WorkflowPool(POOL, key_concurrency=self.plan.turns))
        return limits

    def _turns_are_kept(self) -> None:
        """Of those that wait for no others, no more are under way than the pool lets through. One
        that was reset, or forked, asks nobody."""
        under_way = 0
        for books in self.journal.executions.values():
            first, last = books[0], books[-1]
            started = first.events[0][1] if first.events else None
            asks_nobody = any(book.repeats is not None or book.was_reset for book in books)
            if not (isinstance(started, RunStarted) and started.workflow == TYPE):
                continue
            if last.closing is None and not asks_nobody:
                args, kwargs = carry_out.definition.parameters.decode(started.arguments)
                under_way += place_of(*args, **kwargs) != ""
        most = self.plan.turns
        self.journal.must(
            most is None or under_way <= most, f"{under_way} are under way in a pool of {most}"
        )

    def remember_keys(self, taken: Iterable[TakenTask]) -> None:
        """Whether or not whoever took them hears of it."""
        for one in taken:
            if one.task.queue == APART:
                key = (one.run.run_id, one.task.activity_id, one.token)
                self._keys_taken[key] = one.task.key

    def _count_permits(self) -> None:
        """What workers have at this moment, as the store has it, is never more than the limits."""
        workers = [row.worker_id for row in self.read(self._inner.workers())]
        held = [one for who in workers for one in self.read(self._inner.tasks_of(who))]
        known = ((one.run_id, one.activity_id, one.token) for one in held)
        keys = Counter(self._keys_taken[one] for one in known if one in self._keys_taken)
        plan, must = self.plan, self.journal.must
        if plan.at_once is not None:
            if keys.total() == plan.at_once:
                self.reached("queue at its limit")
            must(keys.total() <= plan.at_once, f"{keys.total()} tasks are taken of {plan.at_once}")
        if plan.at_once_of_key is not None:
            most = max(keys.values(), default=0)
            must(most <= plan.at_once_of_key, f"{most} tasks of a key are taken: {dict(keys)}")

    def queue_of_activity(self, book: RunBook, number: int) -> str:
        scheduled = book.scheduled.get(number)
        return "" if scheduled is None else scheduled.options.queue

    def attempt_fails(self, about: ActivityInfo) -> None:
        self.ledger.fails(self.running.clock.now_us(), about)

    def attempt_ends(self, about: ActivityInfo, label: str) -> None:
        self.ledger.ends(about, label)

    def attempt_is_told(self, about: ActivityInfo) -> None:
        """To stop: what was abandoned by then is told nothing."""
        self.ledger.is_told(about)
        process = self.running
        book = self.journal.runs[id_from_text(about.run_id)]
        stopping = process.worker is None or process.worker._keeper is None or process.stopping  # pyright: ignore[reportPrivateUsage]
        if self.queue_of_activity(book, about.activity_id) and process.helper is not None:
            taker = process.helper._taker  # pyright: ignore[reportPrivateUsage]
            stopping = stopping or taker is None or taker.over
        if book.closing is not None and self.queue_of_activity(book, about.activity_id):
            return  # Its run was terminated: so is what stood in a queue for it.
        if not stopping and book.left_alone.get(about.activity_id) == process.name:
            attempts = self.ledger.at_work.get((about.run_id, about.activity_id), {})
            began_here = any(one.process == process.name for one in attempts.values())
            self.journal.must(
                not began_here,
                f"{book.workflow_id}: activity {about.activity_id} was abandoned, and is stopped",
            )

    def attempt_stops(self, about: ActivityInfo) -> None:
        """Of its own, or because it was told to, perhaps long ago."""
        self.ledger.stops(about)

    def hand_out(self, about: ActivityInfo, label: str, limit_s: float | None) -> None:
        self.told(self.running, f"token of {label}")
        due_us = None if limit_s is None else self.clock_reads() + round(limit_s * 1e6)
        self.tokens.append(Handed(about, label, due_us))

    def _end_recorded(self, book: RunBook, event: ActivityCancelled) -> None:
        process = book.owner
        if event.outcome == "completed" and book.scheduled[event.activity_id].activity == LATER:
            report = self.journal.desk.report_of(book.run_id, event.activity_id)
            self.journal.must(report is not None, f"{book.workflow_id}: nobody has answered")
            return
        apart = bool(self.queue_of_activity(book, event.activity_id))
        run_id = id_text(book.run_id)
        self.ledger.end_is_recorded(process, book.token, run_id, event, apart=apart)

    def version(self) -> int:
        return self.running.version

    def note(self) -> int:
        self._notes += 1
        return self._notes

    def explode(self) -> None:
        if not self.bombs_are_live:
            return
        self.reached("bomb")
        self.told(self.running, "explodes")
        self.running.kill()
        raise Dead


def _short(outcome: Sequence[Any]) -> str:
    """Results for the trace: only what was not simply done."""
    told = [
        result.refusal.name for result in outcome if getattr(result, "refusal", None) is not None
    ]
    return " ".join(told) or "ok"
