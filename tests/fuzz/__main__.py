"""Fuzzes every target for a while: `python -m tests.fuzz --seconds 600 [--target payload]`.

Each target has a process of its own, since a fuzzer ends the one that it runs in.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.one import executions, has_atheris
from tests.fuzz.targets import TARGETS
from tests.proof.record import record

__all__ = ["Fuzzed", "fuzz", "main", "tell"]

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Fuzzed:
    name: str
    times: int
    seconds: float
    finding: str
    """What its process said, if it found anything."""


def fuzz(name: str, seconds: int, seed: int | None = None) -> Fuzzed:
    """One target, in a process of its own."""
    began = time.monotonic()
    seed = random.randrange(1, 1 << 30) if seed is None else seed
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(seconds), str(seed)]
    with TemporaryDirectory() as folder:  # A fuzzer leaves what it found behind.
        path = os.pathsep.join(map(str, (ROOT, ROOT / "sdk", ROOT / "engine")))
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + PATIENCE_S,
            check=False,
        )
    told = done.stdout + done.stderr
    times, finding = executions(told), ""
    if done.returncode != 0 or times == 0:
        finding = f"{' '.join(command)}\n{told[-4000:]}"
    return Fuzzed(name, times, time.monotonic() - began, finding)


def tell(found: list[Fuzzed], *, reproduce: str) -> None:
    """Leave the evidence."""
    record(
        "fuzzing",
        invariants=[13],
        tried="random bytes, chosen by the branches that they reach, given to every decoder of "
        "stored or typed data",
        times=sum(one.times for one in found),
        broken=sum(bool(one.finding) for one in found),
        seconds=sum(one.seconds for one in found),
        figures={
            **{one.name: one.times for one in found},
            "chosen by": "coverage (atheris)" if has_atheris() else "chance",
        },
        reproduce=reproduce,
    )


def main() -> int:
    """Exit code 1: something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    found: list[Fuzzed] = []
    for name in options.target or TARGETS:
        one = fuzz(name, options.seconds, options.seed)
        found.append(one)
        print(f"{one.name:<10} {one.times:>12,} executions  {one.seconds:6.1f} s", flush=True)
        if one.finding:
            print(one.finding, file=sys.stderr, flush=True)
    tell(found, reproduce=f"python -m tests.fuzz --seconds {options.seconds}")
    return int(any(one.finding for one in found))


if __name__ == "__main__":
    sys.exit(main())
