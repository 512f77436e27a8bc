"""One seed from its beginning to its verdict: faults, then healing, then the end of everything."""

# tidy: this file sleeps because its clock is the simulation's
import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from everlong._replay import anyio_adapter, asyncio_adapter, guard
from everlong_engine import limits, unpack
from everlong_engine.duties import inbox_watcher
from everlong_engine.model.events import (
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    RunTerminated,
)
from everlong_engine.model.runs import LoadedRun, RunStatus
from everlong_engine.store.interface import RunFilter
from tests.simulation import language
from tests.simulation.journal import RunBook
from tests.simulation.language import carry_out, labels_that_ran, letters, received_by, wrong
from tests.simulation.line import Rates
from tests.simulation.loop import TooLong
from tests.simulation.plan import FAULT_S, Mishap, Plan
from tests.simulation.processes import (
    Sender,
    client_of,
    client_process,
    stop_in_order,
    worker_process,
)
from tests.simulation.world import Process, World

__all__ = ["Verdict", "run_plan"]

_HEALED_S: Final = 600.0
_BIRTH_US: Final = 300_000
_PATIENT_VERSION: Final = 3
"""The code that is right: version 2's mistakes are mended, and bombs are disarmed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one seed came to."""

    plan: Plan
    broken: tuple[str, ...]
    trace: tuple[str, ...]
    digest: str
    counters: Counter[str]
    accepted: int
    simulated_s: float


def run_plan(plan: Plan, trace_lines: int = 200) -> Verdict:
    """Simulate; whatever goes wrong is in the verdict."""
    with _prepared(plan):
        world = World(plan, trace_lines)
        language.stage.append(world)
        scenario = Scenario(world)
        try:
            scenario.run()
        except TooLong as error:
            world.journal.must(False, f"it never comes to rest: {error}")
        finally:
            language.stage.pop()
            scenario.bury()
    return Verdict(
        plan=plan,
        broken=tuple(dict.fromkeys(world.journal.broken)),
        trace=tuple(world.trace),
        digest=world.digest,
        counters=world.counters,
        accepted=world.journal.accepted,
        simulated_s=scenario.simulated_s,
    )


@contextmanager
def _prepared(plan: Plan) -> Generator[None, None, None]:
    """Few settings of the engine stand in its modules; a seed sets its own."""
    guard.install()
    asyncio_adapter.install_as_completed()
    anyio_adapter.install()
    settings: list[tuple[Any, str, Any]] = [
        (limits, "CHECKPOINT_EVENTS", plan.checkpoint_events),
        # Idle polls are simulated one by one; these cost nothing but time.
        (inbox_watcher, "_BUSY_S", 0.02),
        (inbox_watcher, "_IDLE_S", 0.4),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    gc.disable()  # What a killed process leaves behind is buried in order, not at random moments.
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        gc.enable()
        logging.disable(level)


class Scenario:
    """Who lives in a world, what befalls them, and what must be true in the end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plan = world.plan
        self.senders = [Sender(world, n, errands) for n, errands in enumerate(self.plan.errands)]
        self.workers: dict[int, Process] = {}
        self.clients: dict[int, Process] = {}
        # Without a request id a message that is repeated, as its answer was lost, is another one.
        self._unnamed_letters = {
            one.text for sender in self.senders for one in sender.errands if not one.named
        }
        self.healing = False
        self.simulated_s = 0.0

    def run(self) -> None:
        world = self.world
        start_us = world.schedule.now_us
        for number in range(self.plan.workers):
            self._bear_worker(number)
        for number in range(self.plan.clients):
            self._bear_client(number)
        for mishap in self.plan.mishaps:
            world.later(round(mishap.at_s * 1e6), partial(self._befall, mishap))
        world.schedule.run_until(lambda: False, start_us + round(FAULT_S * 1e6))
        world.told(None, "everything is healed")
        self._heal()
        healed_us = world.schedule.now_us
        over = world.schedule.run_until(self._all_is_over, healed_us + round(_HEALED_S * 1e6))
        self.simulated_s = (world.schedule.now_us - start_us) / 1e6
        if not over:
            world.journal.must(
                False, f"after {_HEALED_S:.0f} s without faults: {self._unfinished()}"
            )
        self._judge()

    def bury(self) -> None:
        for process in self.world.processes:
            process.loop.dead = True
        for process in self.world.processes:
            process.bury()
        self.world.shared.close()

    # ------------------------------------------------------------------------------- processes

    def _senders_of(self, client: int | None) -> list[Sender]:
        """Senders are dealt out to the client processes; the last ones live with worker 0."""
        count = self.plan.clients
        return [
            one
            for one in self.senders
            if not one.done and (one.number if one.number < count else None) == client
        ]

    def _bear_worker(self, number: int) -> None:
        process = self.world.new_process(f"worker{number}")
        self.workers[number] = process
        process.on_death = lambda: self._again(self._bear_worker, number)
        worker_process(process, self._senders_of(None) if number == 0 else [])

    def _bear_client(self, number: int) -> None:
        process = self.world.new_process(f"client{number}")
        self.clients[number] = process
        process.on_death = lambda: self._again(self._bear_client, number)
        client_process(process, self._senders_of(number))

    def _again(self, bear: Any, number: int) -> None:
        """A supervisor: what died is begun anew."""
        if not self.healing:
            self.world.later(_BIRTH_US, lambda: bear(number))

    # --------------------------------------------------------------------------------- mishaps

    def _befall(self, mishap: Mishap) -> None:
        world = self.world
        if self.healing:
            return
        index = round(abs(mishap.amount) * 100)
        worker = self.workers[index % len(self.workers)]
        client = self.clients[index % len(self.clients)] if self.clients else None
        world.told(None, f"{mishap.kind}: {mishap.length_s} s, {mishap.amount}")
        world.reached(mishap.kind)
        back_us = round(mishap.length_s * 1e6)
        match mishap.kind:
            case "kill worker":
                worker.kill()
            case "kill client":
                if client is not None:
                    client.kill()
            case "stop worker":
                worker.loop.stopped = True
                world.later(back_us, worker.loop.go_on)
            case "slow worker":
                worker.loop.slowness = 3.0
                world.later(back_us, lambda: _quick(worker))
            case "cut off worker":
                _cut_off(world, worker, back_us)
            case "cut off client":
                if client is not None:
                    _cut_off(world, client, back_us)
            case "set clock":
                # Back by a minute, on by an hour: until a clock that was set back has caught up,
                # what is due by it waits, and nothing here may wait longer than healing lasts.
                world.clock_us += round(mishap.amount * (3_600e6 if mishap.amount > 0 else 60e6))
            case "fill disk":
                world.disk_is_full = True
                world.later(back_us, lambda: _empty(world))
            case "evict":
                self._evict(worker)
            case "restart worker":
                self._restart(worker)
            case "change code":
                world.code_version = 2
                self._restart(worker)

    def _evict(self, process: Process) -> None:
        keeper = process.worker and process.worker._keeper  # pyright: ignore[reportPrivateUsage]
        if keeper and not process.loop.dead and not process.loop.stopped:
            size, keeper.cache.size = keeper.cache.size, 0
            process.loop.run_inline(keeper.leaving.evict)
            keeper.cache.size = size

    def _restart(self, process: Process) -> None:
        if process.worker is not None and not process.loop.dead:
            process.loop.spawn(stop_in_order(process, process.worker))

    def _heal(self) -> None:
        """No more faults; new processes with code that is right."""
        world = self.world
        self.healing = True
        world.rates = Rates()
        world.disk_is_full = False
        world.bombs_are_live = False
        world.code_version = _PATIENT_VERSION
        for process in (*self.workers.values(), *self.clients.values()):
            process.kill()
        self._bear_worker(0)
        for number in range(self.plan.clients):
            self._bear_client(number)
        process = self.world.new_process("healer")
        client_process(process, [])
        process.loop.spawn(_heal_runs(self, process))

    # ------------------------------------------------------------------------------ the verdict

    def open_executions(self) -> list[bytes]:
        journal = self.world.journal
        return [one for one in journal.executions if not journal.is_over(one)]

    def _may_stay_blocked(self, execution_id: bytes) -> bool:
        """Code of version 2 may have recorded its mistake: nothing mends that but a reset."""
        name = self.world.journal.last_run(execution_id).workflow_id
        return name in self.plan.mistakes and self.world.counters["change code"] > 0

    def _all_is_over(self) -> bool:
        if not all(sender.done for sender in self.senders):
            return False
        return all(self._may_stay_blocked(one) for one in self.open_executions())

    def _unfinished(self) -> str:
        waiting = [f"sender {one.number} is at {one.at}" for one in self.senders if not one.done]
        journal = self.world.journal
        for execution_id in self.open_executions():
            book = journal.last_run(execution_id)
            if not self._may_stay_blocked(execution_id):
                last = type(book.events[-1][1]).__name__ if book.events else "nothing"
                waiting.append(f"{book.workflow_id} stands behind event {len(book.events)}, {last}")
        return "; ".join(waiting)

    def _judge(self) -> None:
        world, journal = self.world, self.world.journal
        inner = world.shared.open()
        process = world.new_process("judge")

        def look() -> None:
            for problem in world.read(inner.verify()):
                journal.must(False, f"verify: {problem.text}")
            rows = world.read(inner.list_runs(RunFilter("default"), 10_000, None))
            stored = {row.run_id for row in rows}
            for run_id, book in journal.runs.items():
                journal.must(run_id in stored, f"{book.workflow_id}: an accepted run is gone")
            for row in rows:
                loaded: LoadedRun = world.read(inner.load(row.shard, row.run_id))
                journal.compare(loaded)
                self._judge_blocked(loaded)

        process.loop.run_inline(look)
        for execution_id in journal.executions:
            self._judge_execution(execution_id)
        self._judge_acknowledgements()

    def _judge_blocked(self, loaded: LoadedRun) -> None:
        row = loaded.row
        if row.status is RunStatus.BLOCKED:
            self.world.reached("blocked for good")
            self.world.journal.must(
                "Nondeterminism" in (row.reason or ""),
                f"{row.workflow_id} is blocked: {row.reason}",
            )

    def _judge_execution(self, execution_id: bytes) -> None:
        world, journal = self.world, self.world.journal
        runs = journal.executions[execution_id]
        last = runs[-1]
        name = last.workflow_id
        got = journal.letters_of(execution_id, unpack)
        for text in sorted({one for one in got if got.count(one) > 1} - self._unnamed_letters):
            journal.must(False, f"{name}: letter {text} was delivered twice: {got}")
        match last.closing:
            case RunCompleted() as closing:
                result = unpack(closing.result)
                problem = wrong(_program_of(runs[0]), result)
                journal.must(problem is None, f"{name}: {problem}")
                world.reached("completed")
                received = received_by(result)
                journal.must(
                    _is_subsequence_of_multiset(received, got),
                    f"{name}: received {received}, recorded {got}",
                )
                for label, count in Counter(labels_that_ran(result)).items():
                    journal.must(
                        world.ledger.done[label] >= count,
                        f"{name}: {label} is said to be done {count} times, and was not",
                    )
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
                    False,
                    f"{name} failed: {failed.failure.type}: {failed.failure.message}",
                )
            case _:
                pass
        for book in runs[:-1]:
            journal.must(
                isinstance(book.closing, RunContinuedAsNew), f"{name}: a run has two successors"
            )
            world.reached("rolled over")

    def _judge_acknowledgements(self) -> None:
        journal = self.world.journal
        for sender in self.senders:
            last_seen: dict[bytes, int] = {}
            for one in sender.acknowledged:
                runs = journal.executions.get(one.execution_id)
                what = f"{one.errand.what} {one.errand.text or one.errand.workflow_id}"
                if runs is None:
                    journal.must(False, f"{what} was acknowledged, and its execution is not there")
                    continue
                if one.errand.what == "letter":
                    self._judge_letter(one.execution_id, one.errand.text, last_seen)
                elif one.errand.what == "cancel":
                    journal.must(
                        any(book.cancels for book in runs) or runs[-1].closing is not None,
                        f"{what} was acknowledged, and is lost",
                    )
                elif one.errand.what == "terminate":
                    journal.must(
                        isinstance(runs[-1].closing, RunTerminated),
                        f"{what} was acknowledged, and it did not end so",
                    )

    def _judge_letter(self, execution_id: bytes, text: str, last_seen: dict[bytes, int]) -> None:
        journal = self.world.journal
        got = journal.letters_of(execution_id, unpack)
        last = journal.last_run(execution_id)
        if text in got:
            at = got.index(text)
            journal.must(
                at > last_seen.get(execution_id, -1),
                f"{last.workflow_id}: letter {text} overtook another of its sender: {got}",
            )
            last_seen[execution_id] = at
            return
        # Accepted, and never fed: its run has ended then, and says so unless by force.
        match last.closing:
            case (
                RunCompleted(unread=unread) | RunFailed(unread=unread) | RunCancelled(unread=unread)
            ):
                journal.must(
                    letters.name in unread, f"{last.workflow_id}: letter {text} is lost: {got}"
                )
                self.world.reached("letter unread")
            case None:
                journal.must(
                    self._may_stay_blocked(execution_id),
                    f"{last.workflow_id}: letter {text} is not there: {got}",
                )
            case _:
                pass


async def _heal_runs(scenario: Scenario, process: Process) -> None:
    """An operator: resumes what is blocked, and writes to who waits for a letter."""
    client = client_of(process)
    number = 0
    while True:
        await asyncio.sleep(5.0)
        journal = scenario.world.journal
        for execution_id in scenario.open_executions():
            name = journal.last_run(execution_id).workflow_id
            handle = client.get_handle(name)
            number += 1
            try:
                if (await handle.describe()).status == "blocked":
                    await handle.resume()
                else:
                    await handle.signal(letters, f"healer:{number}")
            except Exception as error:
                scenario.world.told(process, f"{name}: {error}")


def _program_of(book: RunBook) -> language.Program:
    started = book.events[0][1]
    assert isinstance(started, RunStarted)
    args, kwargs = carry_out.definition.parameters.decode(started.arguments)
    return tuple(args[0] if args else kwargs["program"])


def _is_subsequence_of_multiset(received: list[str], recorded: list[str]) -> bool:
    """Branches receive side by side, so a result may hold letters in another order."""
    return not Counter(received) - Counter(recorded)


def _quick(process: Process) -> None:
    process.loop.slowness = 1.0


def _empty(world: World) -> None:
    world.disk_is_full = False


def _cut_off(world: World, process: Process, back_us: int) -> None:
    process.cut_off = True

    def back() -> None:
        process.cut_off = False

    world.later(back_us, back)
