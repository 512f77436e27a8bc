"""`python -m tests.simulation --seeds N --seed S`: simulate; a failure prints how to repeat it."""

import argparse
import os
import sys
import time
from typing import Final

from tests.proof.record import record
from tests.simulation.batch import Batch, run_seeds
from tests.simulation.hunt import SEEDS_MAX, hunt_all
from tests.simulation.mutants import MUTANTS
from tests.simulation.plan import draw
from tests.simulation.seed import Verdict, run_plan
from tests.simulation.shrink import shrink

_INVARIANTS: Final = (1, 3, 4, 5, 6, 7, 8, 9, 13, 14)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    options.add_argument("--seeds", type=int, help="how many (1; with --mutants at most 2,000)")
    options.add_argument("--seed", type=int, default=0, help="the first")
    cores = os.cpu_count() or 1
    options.add_argument("--workers", type=int, default=cores, help="processes that simulate")
    options.add_argument("--trace", action="store_true", help="print the whole trace of one seed")
    options.add_argument("--shrink", action="store_true", help="make a seed that fails small")
    options.add_argument("--mutants", action="store_true", help="plant each defect and find it")
    options.add_argument("--only", default="", help="mutants whose name contains this")
    chosen = options.parse_args()
    if chosen.mutants:
        seeds = range(chosen.seed, chosen.seed + (chosen.seeds or SEEDS_MAX))
        return _mutants(seeds, chosen.only, chosen.workers)
    if (chosen.seeds or 1) == 1:
        return _one(chosen.seed, trace=chosen.trace, small=chosen.shrink)
    return _many(range(chosen.seed, chosen.seed + chosen.seeds), chosen.workers)


def _one(seed: int, *, trace: bool, small: bool) -> int:
    verdict = run_plan(draw(seed), 1_000_000 if trace else 200)
    if verdict.broken and small:
        verdict = shrink(verdict.plan)
        _print_plan(verdict)
    _print_verdict(verdict, trace=trace or bool(verdict.broken))
    return 1 if verdict.broken else 0


def _many(seeds: range, workers: int) -> int:
    batch = run_seeds(seeds, workers)
    for verdict in batch.broken[:3]:
        small = shrink(verdict.plan)
        _print_plan(small)
        _print_verdict(small, trace=True)
    _print_batch(batch)
    record(
        "simulation",
        invariants=_INVARIANTS,
        tried="workers, clients and the store's own code in one process on a virtual clock; each "
        "seed draws its programs, families, messages, answers and faults, then heals and must come "
        "to its end",
        times=batch.seeds,
        broken=len(batch.broken),
        seconds=batch.seconds,
        figures={
            "appends accepted": batch.accepted,
            "simulated hours": round(batch.simulated_s / 3600, 1),
            "seeds per hour": round(batch.seeds / batch.seconds * 3600),
            **dict(sorted(batch.counters.items())),
        },
        reproduce=f"python -m tests.simulation --seed {seeds.start} --seeds {batch.seeds}",
    )
    return 1 if batch.broken or batch.never_reached else 0


def _mutants(seeds: range, only: str, workers: int) -> int:
    chosen = [mutant for mutant in MUTANTS if only in mutant.name]
    if not chosen:
        print(f"no mutant's name contains {only!r}", file=sys.stderr)
        return 2
    began = time.perf_counter()
    found: dict[str, int | float | str] = {}
    survivors = slowest = 0
    for kill in hunt_all(chosen, seeds, workers):
        if kill.seed is None:
            survivors += 1
            found[kill.mutant] = "not found"
            print(f"SURVIVED  {kill.mutant}: {len(seeds)} seeds, {kill.seconds:.0f} s", flush=True)
        else:
            slowest = max(slowest, kill.seed - seeds.start + 1)
            found[kill.mutant] = f"seed {kill.seed}: {kill.rule}"[:140]
            print(f"seed {kill.seed:<4} {kill.mutant}: {kill.rule}"[:200], flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} found, the slowest in {slowest} seeds")
    record(
        "planted defects",
        invariants=_INVARIANTS,
        tried=f"defects planted in the engine one at a time, each simulated for up to {len(seeds)} "
        "seeds, until a rule breaks; broken counts those that no seed showed",
        times=len(chosen),
        broken=survivors,
        seconds=time.perf_counter() - began,
        figures=found,
        reproduce="python -m tests.simulation --mutants",
    )
    return 1 if survivors else 0


def _print_plan(verdict: Verdict) -> None:
    """What is left of a plan that was made small."""
    plan = verdict.plan
    wanted = {errand.workflow_id for errands in plan.errands for errand in errands}
    for name in sorted(wanted & plan.programs.keys()):
        print(f"{name}: {plan.programs[name]}")
    for number, errands in enumerate(plan.errands):
        for errand in errands:
            print(f"sender {number}: {errand}")
    for mishap in plan.mishaps:
        print(mishap)


def _print_verdict(verdict: Verdict, *, trace: bool) -> None:
    plan = verdict.plan
    print(f"seed {plan.seed}: {plan.options()}")
    if trace:
        print(*verdict.trace, sep="\n")
    for rule in verdict.broken:
        print(f"BROKEN: {rule}")
    if verdict.broken:
        print(f"again: python -m tests.simulation --seed {plan.seed} --shrink (or --trace)")
    print(f"{verdict.accepted} appends, {verdict.simulated_s:.0f} s, digest {verdict.digest}")


def _print_batch(batch: Batch) -> None:
    for what, count in sorted(batch.counters.items()):
        print(f"{count:10,}  {what}")
    for what in batch.never_reached:
        print(f"NEVER REACHED: {what}")
    hour = batch.seeds / batch.seconds * 3600
    print(
        f"{batch.seeds} seeds in {batch.seconds:.1f} s ({hour:,.0f} an hour), "
        f"{batch.accepted:,} appends, {len(batch.broken)} broken: "
        f"{[verdict.plan.seed for verdict in batch.broken]}"
    )


if __name__ == "__main__":
    sys.exit(main())
