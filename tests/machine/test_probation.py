"""Whom the rule of holds and trials parks, in a world of nothing but ages at death.

Each worker claims all flows that are open. What is not suspected begins at once; suspects are held
and tried as `RunLoader` does it. A worker dies of the first bomb whose fuse has burnt down, or of
what kills it from outside, and `judge` says what that means for each flow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import inf
from random import Random

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from everlong_engine.machine.probation import hold_us, is_suspect, trial_us, watch_us
from everlong_engine.machine.takeover import judge
from everlong_engine.model.events import Recorded, RunStarted
from everlong_engine.model.limits import (
    HOLD_DOUBLINGS_MAX,
    HOLD_US,
    LOSSES_TO_PROBATION,
    SECOND_US,
    STRIKES_TO_POISON,
    TRIALS_OF_A_HOLD,
)
from everlong_engine.model.runs import LoadedRun, MailRow, Probation, RunRow, RunStatus

ROW = RunRow(
    shard=0,
    run_id=b"r" * 16,
    execution_id=b"r" * 16,
    namespace="default",
    workflow_id="id",
    type="flow",
    queue="default",
    status=RunStatus.RUNNING,
    next_seq=2,
    lease_token=1,
    owner=b"w" * 16,
    wake_us=None,
    started_us=0,
    closed_us=None,
    losses=0,
    strikes=0,
    probation=Probation.NONE,
    reason=None,
    request_id=None,
)
HISTORY = [Recorded(1, 1, RunStarted("flow", b"", "id", 7, "code", "3.11"))]
MAIL = [MailRow(1, b"r" * 16, 7, b"", 0)]
FUSE_MAX_S = (HOLD_US << HOLD_DOUBLINGS_MAX) / TRIALS_OF_A_HOLD / SECOND_US


@dataclass(eq=False)
class Flow:
    takes_s: float
    is_bomb: bool = False
    """It kills its worker then, instead of making progress."""
    endless: bool = False
    """Behind each step there is another one."""
    row: RunRow = ROW
    done: bool = False

    @property
    def is_parked(self) -> bool:
        return self.row.status is RunStatus.BLOCKED


class World:
    def __init__(self, flows: list[Flow], seed: int) -> None:
        self.flows = flows
        self.chance = Random(seed)
        self.deaths = 0

    @property
    def open(self) -> list[Flow]:
        return [flow for flow in self.flows if not (flow.done or flow.is_parked)]

    def live(self, until_s: float) -> bool:
        """One worker's life, which something outside ends at `until_s`. False: it has not ended."""
        marks: dict[Flow, Probation] = {}
        death_s = self._age_at_death(until_s, marks)
        if death_s == inf:
            return False
        self.deaths += 1
        explained = any(mark.is_driven for mark in marks.values())
        for flow in self.open:
            row = replace(flow.row, probation=marks.get(flow, Probation.NONE))
            verdict = judge(LoadedRun(row, HISTORY, MAIL, []), "w", 1, explained=explained)
            flow.row = replace(
                row, status=verdict.status, losses=verdict.losses, strikes=verdict.strikes
            )
        return True

    def _age_at_death(self, until_s: float, marks: dict[Flow, Probation]) -> float:
        """Everything that begins and ends, in its order; `marks` as they stand at the end."""
        free = [flow for flow in self.open if not is_suspect(flow.row.losses)]
        to_try: list[tuple[float, Flow]] = []
        for flow in self.open:
            if is_suspect(flow.row.losses):
                hold = hold_us(flow.row.losses, self.chance.random())
                to_try.append((hold / SECOND_US, flow))
        to_try.sort(key=lambda one: one[0])
        ends = [(flow.takes_s, flow) for flow in free]
        slot_s = 0.0
        trials: list[tuple[float, float, Flow]] = []
        while to_try:
            to_try.sort(key=lambda one: (max(one[0], slot_s), one[0]))
            held_s, flow = to_try.pop(0)
            begin_s = max(held_s, slot_s)
            trial = trial_us(flow.row.losses, flow.row.strikes)
            watch = watch_us(trial, len(to_try) + 1)
            slot_s = begin_s + min(watch / SECOND_US, inf if flow.is_bomb else flow.takes_s)
            trials.append((begin_s, begin_s + trial / SECOND_US, flow))
            ends.append((begin_s + flow.takes_s, flow))
        death_s = min([until_s, *(end_s for end_s, flow in ends if flow.is_bomb)])
        for end_s, flow in ends:
            if end_s < death_s and not flow.is_bomb:
                flow.row = ROW
                flow.done = not flow.endless
        for begin_s, end_s, flow in trials:
            if begin_s <= death_s and flow.row is not ROW:
                on_trial = death_s <= end_s
                marks[flow] = Probation.ON_TRIAL if on_trial else Probation.OUTLIVED
        return death_s


def deaths_max(bombs: int) -> int:
    """A bomb is driven freely twice, outlives some trials, and is struck; its likes interfere."""
    return bombs * (LOSSES_TO_PROBATION + HOLD_DOUBLINGS_MAX + 2 * STRIKES_TO_POISON)


def lives(mean_s: float, chance: Random) -> Callable[[], float]:
    return lambda: chance.expovariate(1 / mean_s)


# ------------------------------------------------------------------------------------- the guilty


@given(
    st.lists(st.floats(0.001, FUSE_MAX_S / 2), min_size=1, max_size=4),
    st.lists(st.floats(0.001, 30), max_size=8),
    st.integers(0, 1 << 30),
)
@settings(max_examples=300, deadline=None)
def test_every_bomb_is_parked_after_a_few_deaths_and_nobody_else(
    fuses: list[float], works: list[float], seed: int
) -> None:
    bombs = [Flow(fuse, is_bomb=True) for fuse in fuses]
    healthy = [Flow(work) for work in works]
    world = World([*bombs, *healthy], seed)
    while world.live(inf):
        assert world.deaths <= deaths_max(len(bombs)), [flow.row for flow in bombs]
    assert all(flow.is_parked for flow in bombs)
    assert all(flow.done for flow in healthy)


@pytest.mark.parametrize("seed", range(5))
def test_bombs_are_parked_alone_among_a_hundred_flows_that_take_long(seed: int) -> None:
    """So many that each is watched for a moment only, and a slow fuse burns into other trials."""
    bombs = [Flow(0.01, is_bomb=True), Flow(3, is_bomb=True)]
    healthy = [Flow(60) for _ in range(100)]
    world = World([*bombs, *healthy], seed)
    while world.live(inf):
        assert world.deaths <= deaths_max(len(bombs))
    assert all(flow.is_parked for flow in bombs)
    assert all(flow.done for flow in healthy)


def test_a_quick_bomb_alone_needs_five_deaths() -> None:
    bomb = Flow(0.01, is_bomb=True)
    world = World([bomb], 1)
    while world.live(inf):
        pass
    assert (bomb.is_parked, world.deaths) == (True, LOSSES_TO_PROBATION + STRIKES_TO_POISON)


@pytest.mark.parametrize("mean_s", [2.0, 5.0, 20.0, 100.0])
def test_a_bomb_is_parked_among_deaths_of_other_reasons_too(mean_s: float) -> None:
    for seed in range(20):
        bomb, healthy = Flow(0.02, is_bomb=True), Flow(0.05, endless=True)
        world = World([bomb, healthy], seed)
        life = lives(mean_s, Random(seed))
        while not bomb.is_parked:
            world.live(life())
            assert world.deaths < 500
        assert not healthy.is_parked


# ----------------------------------------------------------------------------------- the innocent


@pytest.mark.parametrize("takes_s", [0.01, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("mean_s", [0.1, 0.3, 0.6, 1.0, 2.0, 5.0, 30.0, 300.0])
def test_an_innocent_flow_is_not_parked_however_often_its_workers_die(
    mean_s: float, takes_s: float
) -> None:
    """At random moments: those are the worst for it."""
    world = World([Flow(takes_s, endless=True) for _ in range(3)], 7)
    life = lives(mean_s, Random(7))
    while world.deaths < 1_500:
        world.live(life())
        assert not any(flow.is_parked for flow in world.flows), world.deaths


@given(st.floats(0.01, 200), st.floats(0.001, 60), st.integers(0, 1 << 30))
@settings(max_examples=200, deadline=None)
def test_nor_if_all_workers_die_at_the_same_age(age_s: float, takes_s: float, seed: int) -> None:
    world = World([Flow(takes_s, endless=True) for _ in range(2)], seed)
    for _ in range(60):
        world.live(age_s)
    assert not any(flow.is_parked for flow in world.flows)


@given(st.floats(0.05, 5), st.integers(0, 1 << 30))
@settings(max_examples=100, deadline=None)
def test_flows_that_fit_into_half_a_life_get_on_while_workers_die(age_s: float, seed: int) -> None:
    """A suspicion costs the next life at most: it is cleared in it, or driven."""
    world = World([Flow(age_s / 2) for _ in range(5)], seed)
    for number in count():
        if not world.open:
            break
        assert number < 3
        world.live(age_s)


@given(st.integers(0, 60), st.floats(0, 1, exclude_max=True))
def test_a_hold_is_many_times_as_long_as_the_trial_behind_it(losses: int, chance: float) -> None:
    for strikes in range(STRIKES_TO_POISON):
        suspect = LOSSES_TO_PROBATION + strikes + losses
        hold = hold_us(suspect, chance)
        assert hold >= TRIALS_OF_A_HOLD * trial_us(suspect, strikes)
        assert hold <= 2 * (HOLD_US << HOLD_DOUBLINGS_MAX)
