"""Tries to break every invariant, and writes down what came of it.

    python -m tests.proof [--only PART …] [--quick] [--keep]

The parts run one after the other (`tests.proof.parts`). Each records its figures through
`EVERLONG_PROOF`; they are stamped with commit, date and machine and kept in
`docs/reliability.jsonl`, and `docs/reliability.md` is made from them. A part that fails leaves a
line that says so. Exits 1 if a part failed or an invariant broke.
"""

import argparse
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final, NoReturn

from tests.proof.lines import Line, LineError, Stamp, merged, read, stamped, text_of
from tests.proof.page import page
from tests.proof.parts import PARTS, Part

ROOT: Final = Path(__file__).resolve().parents[2]
LINES: Final = ROOT / "docs" / "reliability.jsonl"
PAGE: Final = ROOT / "docs" / "reliability.md"
CHANGED: Final = " + changes"


def main() -> None:
    signal.signal(signal.SIGTERM, _leave)
    options = _parse(sys.argv[1:])
    if options.write:
        PAGE.write_text(page(_kept()), encoding="utf-8")
        return
    names = options.only or [part.name for part in PARTS]
    # `--only` names what is to be made anew: the rest stays.
    old = _kept() if options.keep or options.only else []
    chosen = [part for part in PARTS if part.name in names]
    new: list[Line] = []
    for number, part in enumerate(chosen, 1):
        _say(f"[{number}/{len(chosen)}] {part.name}")
        new += _run(part, quick=options.quick)
        # After each part: what is known is not lost if a later one is cut off.
        lines = _in_order(merged(old, new, [one.name for one in chosen[:number]]))
        LINES.write_text(text_of(lines), encoding="utf-8")
        PAGE.write_text(page(lines), encoding="utf-8")
    broken = [line for line in new if line.broken]
    for line in broken:
        _say(f"BROKEN {line.broken} times: {line.part}: {line.reproduce}")
    _say(f"{len(new)} lines; {PAGE.relative_to(ROOT)} is written")
    sys.exit(1 if broken else 0)


# --------------------------------------------------------------------------------- one part


def _run(part: Part, *, quick: bool) -> list[Line]:
    command = part.command(quick=quick)
    environment = {} if quick else dict(part.environment)
    reproduce = _shown(environment, command)
    _say(f"      {reproduce}")
    stamp = _stamp(part.name, quick=quick)
    began = time.monotonic()
    with TemporaryDirectory(prefix="everlong-proof-") as folder:
        target = Path(folder) / "lines"
        status = _finish(command, {**os.environ, **environment, "EVERLONG_PROOF": str(target)})
        text = target.read_text(encoding="utf-8") if target.exists() else ""
    seconds = time.monotonic() - began
    trouble = f"the command ended with exit status {status}" if status else ""
    lines: list[Line] = []
    try:
        lines = stamped(text, part.name, stamp)
    except LineError as error:
        trouble = f"a line that it recorded cannot be read: {error}"
    if not lines and not trouble:
        trouble = "it recorded nothing"
    told = status == 1 and any(line.broken for line in lines)
    if trouble and not told:  # Else what it found is recorded, and why it failed.
        lines.append(_failed(part, stamp, trouble, seconds, reproduce))
    _say(f"      {len(lines)} lines in {seconds:.0f} s{f'; {trouble}' if trouble else ''}")
    return lines


def _failed(part: Part, stamp: Stamp, trouble: str, seconds: float, reproduce: str) -> Line:
    """A part that did not come to its end counts as broken until somebody has looked."""
    return Line(
        **dict(stamp),
        part=f"{part.name} (failed)",
        invariants=part.invariants,
        tried=f"failed: {trouble}",
        times=0,
        broken=1,
        seconds=round(seconds, 1),
        figures={},
        reproduce=reproduce,
    )


def _finish(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run it to its end in a process group of its own, and leave nothing of that group."""
    leader = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        # Not reaped yet, so that the group's number stays ours.
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
    return leader.returncode


# -------------------------------------------------------------------------- where and when


def _stamp(run: str, *, quick: bool) -> Stamp:
    return Stamp(
        run=run,
        quick=quick,
        commit=_commit(),
        date=datetime.now(UTC).date().isoformat(),
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        kernel=platform.release(),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
    )


def _commit() -> str:
    """The commit under test; what this program writes is not a change to it."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    status = _git(
        "status",
        "--porcelain",
        "--",
        ".",
        f":!{LINES.relative_to(ROOT)}",
        f":!{PAGE.relative_to(ROOT)}",
    )
    return head + (CHANGED if status else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# ------------------------------------------------------------------------------ small things


def _kept() -> list[Line]:
    if not LINES.exists():
        return []
    try:
        return read(LINES.read_text(encoding="utf-8"), LINES.name)
    except LineError as error:
        sys.exit(f"{error}\nMend the line, or run all parts without --keep.")


def _in_order(lines: Sequence[Line]) -> list[Line]:
    """In the order of the table, so that running one part moves no line of another."""
    order = {part.name: number for number, part in enumerate(PARTS)}
    return sorted(lines, key=lambda line: order.get(line.run, len(order)))


def _shown(environment: dict[str, str], command: Sequence[str]) -> str:
    settings = [f"{name}={value}" for name, value in environment.items()]
    return " ".join([*settings, "python", *command[1:]])


class Options(argparse.Namespace):
    """The command line, typed."""

    only: list[str]
    quick: bool
    keep: bool
    write: bool


def _parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=[part.name for part in PARTS],
        metavar="PART",
        help=f"only these, keeping the lines of the others: {', '.join(one.name for one in PARTS)}",
    )
    parser.add_argument("--quick", action="store_true", help="the short form of each part")
    parser.add_argument(
        "--keep", action="store_true", help="keep the lines of parts that are in no table any more"
    )
    parser.add_argument(
        "--write", action="store_true", help="run nothing: make the page from the kept lines"
    )
    return parser.parse_args(arguments, Options())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _leave(signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


if __name__ == "__main__":
    main()
