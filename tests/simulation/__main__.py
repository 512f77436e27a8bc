"""`python -m tests.simulation --seeds N --seed S`: simulate; a failure prints how to repeat it."""

import argparse
import sys

from tests.proof.record import record
from tests.simulation.batch import Batch, run_seeds
from tests.simulation.plan import draw
from tests.simulation.seed import Verdict, run_plan

_INVARIANTS = (1, 3, 4, 5, 6, 7, 8, 9, 13, 14)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    options.add_argument("--seeds", type=int, default=1, help="how many")
    options.add_argument("--seed", type=int, default=0, help="the first")
    options.add_argument("--workers", type=int, default=2, help="processes that simulate")
    options.add_argument("--trace", action="store_true", help="print the whole trace of one seed")
    chosen = options.parse_args()
    if chosen.seeds == 1:
        verdict = run_plan(draw(chosen.seed, "sqlite"), 1_000_000 if chosen.trace else 200)
        _print_verdict(verdict, trace=chosen.trace or bool(verdict.broken))
        return 1 if verdict.broken else 0
    batch = run_seeds(range(chosen.seed, chosen.seed + chosen.seeds), chosen.workers)
    _print_batch(batch)
    record(
        "simulation",
        invariants=_INVARIANTS,
        tried="workers, clients and the store's SQL in one process on a virtual clock; each seed "
        "draws its programs, messages and faults, then heals and must come to its end",
        times=batch.seeds,
        broken=len(batch.broken),
        seconds=batch.seconds,
        figures={
            "appends accepted": batch.accepted,
            "simulated hours": round(batch.simulated_s / 3600, 1),
            "seeds per hour": round(batch.seeds / batch.seconds * 3600),
            **dict(sorted(batch.counters.items())),
        },
        reproduce=f"python -m tests.simulation --seed {chosen.seed} --seeds {batch.seeds}",
    )
    return 1 if batch.broken or batch.never_reached else 0


def _print_verdict(verdict: Verdict, *, trace: bool) -> None:
    plan = verdict.plan
    print(f"seed {plan.seed}: {plan.options()}")
    if trace:
        print(*verdict.trace, sep="\n")
    for rule in verdict.broken:
        print(f"BROKEN: {rule}")
    if verdict.broken:
        print(f"again: python -m tests.simulation --seed {plan.seed} --trace")
    print(f"{verdict.accepted} appends, {verdict.simulated_s:.0f} s, digest {verdict.digest}")


def _print_batch(batch: Batch) -> None:
    for verdict in batch.broken[:5]:
        _print_verdict(verdict, trace=True)
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
