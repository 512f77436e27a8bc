"""Counts instructions instead of seconds: did a commit make the hot path longer?

    python -m benchmarks.work throughput HEAD~20 HEAD

On a shared machine seconds say little, and neither does the processor's own counter where a virtual
machine hides it. valgrind's cachegrind counts every instruction of a process, and repeats itself
within half a percent. Each commit's sources are taken from the history into a temporary folder and
measured at two sizes, so that what starting costs falls out of the difference. Needs valgrind and
git; about half a minute a commit. Work is not time: waiting for the disk is not counted here.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks._disk import scratch
from benchmarks.sequential import WORKFLOWS

ROOT: Final = Path(__file__).resolve().parent.parent
TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Workload:
    small: int
    large: int
    per_size: int
    """Units of work that one more of the size adds."""
    unit: str
    role: str = "measure"
    before: str | None = None
    """What must have been made, uncounted."""


WORKLOADS: Final = MappingProxyType(
    {
        "throughput": Workload(400, 1_200, 1, "workflow"),
        "sequential": Workload(20, 100, WORKFLOWS + 1, "activity"),  # and the warm-up
        # Two histories, of the size and of ten times the size; an activity is two events.
        "replay": Workload(20, 100, 22, "event", role="read", before="write"),
    }
)


class NotCounted(Exception):
    """valgrind or the workload failed; what it said is in the message."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.work", description=__doc__)
    parser.add_argument("name", choices=WORKLOADS)
    parser.add_argument(
        "commit", nargs="+", help="commits, the first being what others differ from"
    )
    options = parser.parse_args()
    first: float | None = None
    with scratch(None) as folder:
        for commit in options.commit:
            found = count(options.name, commit, folder)
            first = first or found
            print(line(commit, found, first, WORKLOADS[options.name].unit), flush=True)


def line(commit: str, found: float, first: float, unit: str) -> str:
    return f"{commit:<12} {found:>12,.0f} instructions per {unit}  {found / first - 1:+.1%}"


def count(name: str, commit: str, folder: Path) -> float:
    """Instructions for one unit of work."""
    sources = _sources(commit, folder)
    workload = WORKLOADS[name]
    small, large = (
        instructions(_under_cachegrind(name, size, sources, folder))
        for size in (workload.small, workload.large)
    )
    return (large - small) / (workload.large - workload.small) / workload.per_size


def instructions(told: str) -> int:
    """What cachegrind says at its end."""
    found = re.search(r"I\s+refs:\s+([\d,]+)", told)
    if found is None:
        raise NotCounted(told)
    return int(found[1].replace(",", ""))


def _sources(commit: str, folder: Path) -> Path:
    name = _run(["git", "rev-parse", "--verify", f"{commit}^{{commit}}"], ROOT).strip()
    sources = folder / name
    if not sources.exists():
        archive = folder / f"{name}.tar"
        _run(["git", "archive", f"--output={archive}", name], ROOT)
        with tarfile.open(archive) as packed:
            packed.extractall(sources, filter="data")
    return sources


def _under_cachegrind(name: str, size: int, sources: Path, folder: Path) -> str:
    workload = WORKLOADS[name]
    path = os.pathsep.join(map(str, (sources / "sdk", sources / "engine", sources)))
    with scratch(folder) as database:

        def command(role: str) -> list[str]:
            what = [sys.executable, "-m", "benchmarks._child", f"{name}.{role}"]
            return [*what, str(database), str(size)]

        if workload.before is not None:
            _run(command(workload.before), sources, PYTHONPATH=path)
        counting = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]
        counting += ["--cachegrind-out-file=/dev/null", *command(workload.role)]
        return _run(counting, sources, PYTHONPATH=path, PYTHONHASHSEED="0")


def _run(command: Sequence[str], folder: Path, **environment: str) -> str:
    """What it printed, errors included."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCounted(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise NotCounted(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    try:
        main()
    except NotCounted as error:
        sys.exit(str(error))
