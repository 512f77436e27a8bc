"""Plants each defect and simulates until a seed breaks a rule: how good the rules are."""

import gc
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

from tests.simulation.mutants import MUTANTS
from tests.simulation.plan import draw
from tests.simulation.planting import Mutant, planted
from tests.simulation.seed import run_plan

__all__ = ["SEEDS_MAX", "Kill", "hunt", "hunt_all"]

SEEDS_MAX: Final = 2_000
"""A defect that so many seeds do not show is one that the simulation does not find."""


@dataclass(frozen=True, slots=True)
class Kill:
    """What became of one mutant."""

    mutant: str
    seed: int | None
    """The first that showed it; None: it survived."""
    rule: str
    seconds: float


def hunt(mutant: Mutant, seeds: range) -> Kill:
    """Simulate seeds with a defect until one shows it.

    Raises:
        AssertionError: that seed breaks without the defect as well, so it has shown nothing.
    """
    began = time.perf_counter()
    for seed in seeds:
        with planted(mutant):
            rule = _first_rule(seed)
        if rule is not None:
            sound = _first_rule(seed)
            assert sound is None, f"seed {seed} breaks without a defect: {sound}"
            return Kill(mutant.name, seed, rule, time.perf_counter() - began)
    return Kill(mutant.name, None, "", time.perf_counter() - began)


def _first_rule(seed: int) -> str | None:
    try:
        broken = run_plan(draw(seed, "sqlite")).broken
    except Exception as error:
        # What a rule's check or the world itself stumbles over is seen as well.
        return f"{type(error).__name__}: {error}"
    return broken[0] if broken else None


def hunt_all(mutants: Sequence[Mutant], seeds: range, workers: int) -> Iterator[Kill]:
    """Several mutants at a time, each in one process; in their order."""
    context = get_context("spawn")
    numbers = [MUTANTS.index(mutant) for mutant in mutants]
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_hunt, numbers, [seeds] * len(numbers))


def _hunt(number: int, seeds: range) -> Kill:
    gc.freeze()
    return hunt(MUTANTS[number], seeds)
