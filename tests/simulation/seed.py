"""One seed from its beginning to its verdict: faults, then healing, then the end of everything."""

# tidy: this file sleeps because its clock is the simulation's
import asyncio
import gc
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from everlong._replay import anyio_adapter, asyncio_adapter, guard
from everlong_engine import limits
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.sqlite.store import SqliteStore
from tests.simulation import language
from tests.simulation.carrying import carry_out
from tests.simulation.judge import Judge
from tests.simulation.language import letters
from tests.simulation.line import Rates
from tests.simulation.loop import TooLong
from tests.simulation.plan import FAULT_S, POISON, Mishap, MishapKind, Plan, program_name
from tests.simulation.pooled import TURNS
from tests.simulation.processes import (
    Sender,
    client_of,
    client_process,
    stop_in_order,
    worker_process,
)
from tests.simulation.stewards import release_all
from tests.simulation.tenders import end_flow
from tests.simulation.visitors import answer_all
from tests.simulation.world import Process, World

__all__ = ["Verdict", "run_plan"]

_HEALED_S: Final = 600.0
_BIRTH_US: Final = 300_000
_OPERATOR_S: Final = 5.0
_PATIENCE: Final = 8
"""Looks of the operator before a flow that waits for a letter gets one."""
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
        return _lived_through(World(plan, trace_lines))


def _lived_through(world: World) -> Verdict:
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
        plan=world.plan,
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
        (limits, "CLAIM_RUNS_MAX", plan.batch),
        (carry_out.definition, "turns", TURNS if plan.turns is not None else None),
        # Idle polls are simulated one by one; these cost nothing but time.
        (SqliteStore, "look_s", (0.02, 0.4)),
        (MemoryStore, "look_s", (0.02, 0.4)),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    gc.disable()  # What a killed process leaves behind is buried in order, not at random moments.
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        with warnings.catch_warnings():
            # A process may be killed before a task of it began.
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
            yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        _collect()
        gc.enable()
        logging.disable(level)


def _collect() -> None:
    """Let go of the dead processes' tasks now: what they have to say of that is nobody's affair."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = hook


class Scenario:
    """Who lives in a world, what befalls them, and what must be true in the end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plan = world.plan
        self.senders = [Sender(world, n, errands) for n, errands in enumerate(self.plan.errands)]
        self.workers: dict[int, Process] = {}
        self.clients: dict[int, Process] = {}
        self.judge = Judge(world, self.senders)
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
        broken = world.journal.broken  # The first broken rule ends it: its trace ends there, too.
        if not world.schedule.run_until(lambda: bool(broken), start_us + round(FAULT_S * 1e6)):
            world.told(None, "everything is healed")
            self._heal()
            end_us = world.schedule.now_us + round(_HEALED_S * 1e6)
            over = world.schedule.run_until(lambda: bool(broken) or self._all_is_over(), end_us)
            world.journal.must(
                over, f"after {_HEALED_S:.0f} s without faults: {self._unfinished()}"
            )
        self.simulated_s = (world.schedule.now_us - start_us) / 1e6
        if not broken:
            self.judge.all_is_over()

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

        def born() -> None:
            if not (self.healing and self.plan.fresh):  # Then new ones are there already.
                bear(number)

        self.world.later(_BIRTH_US, born)

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
                world.falls_silent(worker)
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
                world.was_set_back = world.was_set_back or mishap.amount < 0
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
            case "hand over" | "hand over to new code":
                self._hand_over(index % len(self.workers), mishap.kind)

    def _evict(self, process: Process) -> None:
        keeper = process.worker and process.worker._keeper  # pyright: ignore[reportPrivateUsage]
        if keeper and not process.loop.dead and not process.loop.stopped:
            size, keeper.cache.size = keeper.cache.size, 0
            process.loop.run_inline(keeper.leaving.evict)
            keeper.cache.size = size

    def _restart(self, process: Process) -> None:
        if process.worker is not None and not process.loop.dead:
            process.loop.spawn(stop_in_order(process, process.worker))

    def _hand_over(self, number: int, how: MishapKind) -> None:
        """A new process waits for the file before the old one stops. Senders live once only, so one
        that has some is begun anew behind its end."""
        old = self.workers[number]
        if how == "hand over to new code":
            self.world.code_version = 2
            self.world.reached("change code")
        if old.worker is not None and not old.loop.dead and not old.loop.stopped:
            if number or not self._senders_of(None):
                old.on_death = lambda: None
                self._bear_worker(number)
                self.world.reached("new process waits for the file")
            self._restart(old)

    def _heal(self) -> None:
        """No more faults. Either all processes are new and have code that is right, or those that
        live go on: then nothing that they have lost sight of is found by a restart."""
        world = self.world
        self.healing = True
        world.healed_us = world.schedule.now_us
        world.rates = Rates()
        world.disk_is_full = False
        world.bombs_are_live = False
        alive = [*self.workers.values(), *self.clients.values()]
        if self.plan.fresh:
            world.code_version = _PATIENT_VERSION
            for process in alive:
                process.kill()
            self._bear_worker(0)
            for number in range(self.plan.clients):
                self._bear_client(number)
        else:
            for process in alive:
                process.cut_off = False
                process.loop.slowness = 1.0
                process.loop.go_on()
        operator = self.world.new_process("operator")
        client_process(operator, [])
        operator.loop.spawn(_operate(self, operator))

    # ------------------------------------------------------------------------------- the end

    def _all_is_over(self) -> bool:
        if not all(sender.done for sender in self.senders):
            return False
        judge = self.judge
        return all(judge.may_stay_blocked(one) for one in judge.open_executions())

    def _unfinished(self) -> str:
        waiting = [f"sender {one.number} is at {one.at}" for one in self.senders if not one.done]
        journal = self.world.journal
        for execution_id in self.judge.open_executions():
            book = journal.last_run(execution_id)
            if not self.judge.may_stay_blocked(execution_id):
                last = type(book.events[-1][1]).__name__ if book.events else "nothing"
                waiting.append(f"{book.workflow_id} stands behind event {len(book.events)}, {last}")
        return "; ".join(waiting)


async def _operate(scenario: Scenario, process: Process) -> None:
    """An operator: resumes what is blocked; then looks whether all goes on by itself; then writes
    to who waits for a letter."""
    client = client_of(process)
    judge, journal = scenario.judge, scenario.world.journal
    number = 0
    while True:
        await asyncio.sleep(_OPERATOR_S)
        number += 1
        await release_all(process, client)
        if number == _PATIENCE:
            judge.nothing_is_forgotten()
        if number >= _PATIENCE:
            try:
                await answer_all(scenario.world, process, client, number)
            except Exception as error:
                scenario.world.told(process, f"answers: {error}")
        for execution_id in judge.open_executions():
            name = journal.last_run(execution_id).workflow_id
            handle = client.get_handle(name)
            try:
                found = await handle.describe()
                if found.version not in (None, process.version_name):
                    await handle.pin(None)
                if name.startswith(POISON):
                    continue
                if found.status == "blocked":
                    judge.may_be_parked(name, found.reason or "")
                    await handle.resume()
                elif number >= _PATIENCE:
                    await handle.signal(letters, f"operator:{number}")
                    if program_name(name) in scenario.world.flows:
                        await end_flow(scenario.world, client, execution_id, number, judge)
            except Exception as error:
                scenario.world.told(process, f"{name}: {error}")


def _quick(process: Process) -> None:
    process.loop.slowness = 1.0


def _empty(world: World) -> None:
    world.disk_is_full = False


def _cut_off(world: World, process: Process, back_us: int) -> None:
    process.cut_off = True
    world.falls_silent(process)

    def back() -> None:
        process.cut_off = False

    world.later(back_us, back)
