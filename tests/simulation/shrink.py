"""Makes a failing seed small: takes one part of its plan away after the other, while it fails.

What is left is not the plan of any seed, so it is found anew from the seed each time, the same way:
`python -m tests.simulation --seed S --shrink`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Final, TypeVar

from tests.simulation.language import Program
from tests.simulation.line import Rates
from tests.simulation.plan import Plan
from tests.simulation.seed import Verdict, run_plan

__all__ = ["RUNS_MAX", "shrink"]

T = TypeVar("T")

RUNS_MAX: Final = 600
SECONDS_MAX: Final = 60.0
"""How many smaller plans are tried, and for how long: one that spins takes seconds each time."""


def shrink(plan: Plan, run: Callable[[Plan], Verdict] = run_plan) -> Verdict:
    """The verdict of the smallest plan found that breaks a rule too. Raises ValueError: it breaks
    none to begin with."""
    smallest = run(plan)
    if not smallest.broken:
        raise ValueError(f"seed {plan.seed} breaks no rule")
    tries, began = 0, time.monotonic()
    again = True
    while again:
        again = False
        for smaller in _smaller(smallest.plan):
            tries += 1
            if tries > RUNS_MAX or time.monotonic() - began > SECONDS_MAX:
                return smallest
            verdict = run(smaller)
            if verdict.broken:
                smallest, again = verdict, True
                break
    return smallest


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with one thing less, the largest cuts first."""
    yield from _with_less_chance(plan)
    for mishaps in _shorter(plan.mishaps):
        yield replace(plan, mishaps=mishaps)
    for number, errands in enumerate(plan.errands):
        for fewer in _shorter(errands):
            several = (*plan.errands[:number], fewer, *plan.errands[number + 1 :])
            yield replace(plan, errands=several)
    for name, program in plan.programs.items():
        for shorter in _shorter(program):
            yield replace(plan, programs={**plan.programs, name: shorter})
        for simpler in _simpler(program):
            yield replace(plan, programs={**plan.programs, name: simpler})


def _with_less_chance(plan: Plan) -> Iterator[Plan]:
    rates = plan.rates
    for one in fields(rates):
        if getattr(rates, one.name):
            yield replace(plan, rates=Rates(**{**_values(rates), one.name: 0.0}))
    plainer = {
        "workers": 1,
        "clients": 1 if plan.clients > 1 else plan.clients,
        "skew_s": 0.0,
        "steal": False,
        "slots": 200,
        "cache_size": 1000,
        "checkpoint_events": 1000,
    }
    for name, value in plainer.items():
        if getattr(plan, name) != value:
            yield replace(plan, **{name: value})  # type: ignore[arg-type]


def _values(rates: Rates) -> dict[str, float]:
    return {one.name: getattr(rates, one.name) for one in fields(rates)}


def _shorter(several: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """Without a half, then without each one."""
    half = len(several) // 2
    if half > 1:
        yield several[half:]
        yield several[:half]
    for at in range(len(several) - 1, -1, -1):
        yield several[:at] + several[at + 1 :]


def _simpler(program: Program) -> Iterator[Program]:
    """With one of its steps replaced by what is inside it."""
    for at, step in enumerate(program):
        inner: list[Program] = [*getattr(step, "branches", ())]
        parts = ("body", "old", "new", "program")
        inner += [getattr(step, name) for name in parts if hasattr(step, name)]
        for body in inner:
            yield (*program[:at], *body, *program[at + 1 :])
