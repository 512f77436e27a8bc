"""Calls of the operating system that fail: a failed sync or write ends the process, and nothing is
acknowledged by it afterwards; the next process finds all that was acknowledged and goes on.

libfiu stands between the program and the C library. SQLite syncs with fdatasync and writes with
pwrite; the ledger of the tests uses neither, so what it says can be trusted.
"""

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import aftermath
from tests.chaos.arena import FULL, Arena, arena
from tests.chaos.customer import lines
from tests.proof.record import record
from tests.support.command_line import MARKET, everlong
from tests.support.tools import need

TRIALS = 160 if FULL else 8
AGAIN_MAX = 30
ENDS = 10 if FULL else 1
FLOWS = 14
PATIENCE_S = 30.0

SYNC, WRITE = "posix/io/sync/fdatasync", "posix/io/rw/pwrite"
FAULTS: dict[str, dict[str, float]] = {
    "syncs fail": {SYNC: 0.02},
    "writes fail": {WRITE: 0.004},
    "writes are short": {"posix/io/rw/pwrite/reduce": 0.02},
    "reads fail": {"posix/io/rw/pread": 0.01},
    "files cannot be made smaller": {"posix/io/rw/ftruncate": 0.3},
    "all of it": {SYNC: 0.005, WRITE: 0.002, "posix/io/rw/pread": 0.002},
}
FAIL_STOPS = ("syncs fail", "writes fail")


@pytest.fixture(name="arena")
def arena_with_faults(tmp_path: Path) -> Iterator[Arena]:
    need("fiu-run")
    yield from arena(tmp_path, ["fiu-run", "-x", "-f", ""])


@pytest.mark.timeout(1200 if FULL else 120)
async def test_failed_calls_stop_the_process_and_nothing_acknowledged_is_lost(
    arena: Arena, tmp_path: Path
) -> None:
    began = time.monotonic()
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    stopped: Counter[str] = Counter()
    acknowledged = lost = trials = 0
    for trial, kind in enumerate(_kinds(stopped)):
        trials += 1
        arena.db, arena.log = tmp_path / f"{trial}.db", tmp_path / f"{trial}.log"
        arena.forget_entries()
        facts = {"log": str(arena.log), "seed": seed + trial, "count": FLOWS, "pause_s": 0.0}
        child = arena.start("live", faults=FAULTS[kind], **facts)
        arena.until(lambda child=child: not child.is_alive, kind, PATIENCE_S)  # type: ignore[misc]
        told = [line["what"] for line in lines(arena.log)]
        if "failed" in told:
            stopped[kind] += 1
            lost += aftermath.acknowledged_behind(arena.log, "failed")
        if arena.db.exists():
            lost += len(await aftermath.lost_of(arena.db, aftermath.acknowledged(arena.log)))
        child = arena.start("live", **facts)
        arena.until(lambda child=child: not child.is_alive, "a healthy process", PATIENCE_S)  # type: ignore[misc]
        await aftermath.everything_came_out_right(arena, seed + trial, FLOWS)
        acknowledged += len(aftermath.acknowledged(arena.log))
    assert lost == 0
    for kind in FAIL_STOPS:
        assert stopped[kind] > 0, f"{kind}: never met, so this says nothing"
    print(f"{trials} trials, {acknowledged} acknowledged, fail stops: {dict(stopped)}")
    record(
        "failed system calls",
        invariants=[2, 4, 14],
        tried="syncs, writes and reads that fail with EIO, then a process without faults",
        times=trials,
        broken=lost,
        seconds=time.monotonic() - began,
        figures={"acknowledged": acknowledged, "processes that stopped": sum(stopped.values())},
        reproduce="make chaos ARGS='-k io_errors'",
    )


def _kinds(stopped: Counter[str]) -> Iterator[str]:
    """Each kind in turn; then, while chance has left out one that must be met, that one again."""
    kinds = list(FAULTS)
    for trial in range(TRIALS):
        yield kinds[trial % len(kinds)]
    for kind in FAIL_STOPS:
        for _ in range(AGAIN_MAX):
            if stopped[kind]:
                break
            yield kind


def test_a_worker_whose_sync_failed_says_so_and_exits_with_3(tmp_path: Path) -> None:
    need("fiu-run")
    assert everlong("start", "purchase", "-a", "amount=5", folder=tmp_path).code == 0
    command = [sys.executable, "-c", "from everlong.cli import main; raise SystemExit(main())"]
    for _ in range(ENDS):
        done = subprocess.run(
            [
                *("fiu-run", "-x", "-f", "", "-c", f"enable name={SYNC},failinfo=5"),
                *(*command, "worker", str(MARKET)),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 3, done
        assert "SQLITE_IOERR_FSYNC" in done.stderr
        assert "Nothing was acknowledged that was not stored" in done.stderr
        assert "Traceback" not in done.stderr
    shutil.rmtree(tmp_path)
