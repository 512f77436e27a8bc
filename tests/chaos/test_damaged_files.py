"""Files that were cut, flipped or mixed up: opening them neither crashes nor hangs, and either what
has checksums is as it was, or `verify` says that it is not.

A log that ends early is the one damage that cannot be seen: its last commits are gone, as they
would be if they had never been. So a store may be a shorter one than before, but no other one.
"""

import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import aftermath
from tests.chaos.arena import FULL, Arena
from tests.chaos.customer import lines
from tests.proof.record import record

DAMAGES = 420 if FULL else 28
FLOWS = 25
PAGE_BYTES = 4096
EXAMINED_WITHIN_S = 30.0

Rows = dict[bytes, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Original:
    """A whole store, of which copies are damaged."""

    db: Path
    rows: Rows


@dataclass(frozen=True)
class Originals:
    killed: Original
    """Its log holds most of it."""
    closed: Original
    """It has no log."""
    other: Original
    """Another one, killed as well."""


def log_of(db: Path) -> Path:
    return Path(f"{db}-wal")


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice((1, 1, 3, 16))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def zero(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    at = chance.randrange(max(1, len(content) // PAGE_BYTES)) * PAGE_BYTES
    content[at : at + PAGE_BYTES] = bytes(len(content[at : at + PAGE_BYTES]))
    file.write_bytes(content)


def cut(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


def remove(file: Path, chance: random.Random) -> None:
    file.unlink()


Damage = Callable[[Path, random.Random], None]
OF_THE_LOG: dict[str, Damage] = {
    "log flipped": flip,
    "log page zeroed": zero,
    "log cut": cut,
    "log removed": remove,
}
OF_THE_FILE: dict[str, Damage] = {
    "file flipped": flip,
    "file page zeroed": zero,
    "file cut": cut,
}
MIXED = "log of another store"
KINDS = (*OF_THE_LOG, *OF_THE_FILE, MIXED)


def damaged(of: Originals, kind: str, target: Path, chance: random.Random) -> tuple[Original, ...]:
    """Make it at `target`; which stores it may look like then. The index beside the log is never
    copied: it is made anew."""
    if damage := OF_THE_FILE.get(kind):
        shutil.copy(of.closed.db, target)
        damage(target, chance)
        return (of.closed,)
    if damage := OF_THE_LOG.get(kind):
        shutil.copy(of.killed.db, target)
        shutil.copy(log_of(of.killed.db), log_of(target))
        damage(log_of(target), chance)
        return (of.killed,)
    assert kind == MIXED
    shutil.copy(of.closed.db, target)
    shutil.copy(log_of(of.other.db), log_of(target))
    return (of.closed, of.other)


def history_of(db: Path) -> Rows:
    """What has a checksum, by run."""
    rows: Rows = {}
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as file:
        text = "SELECT run_id, seq, kind, body FROM history ORDER BY run_id, seq"
        for run_id, *values in file.execute(text):
            rows.setdefault(run_id, []).append(tuple(values))
    return rows


def is_shorter(found: Rows, whole: Rows) -> bool:
    """Each run as it was, or as it was earlier."""
    return all(rows == whole.get(run_id, [])[: len(rows)] for run_id, rows in found.items())


def make(arena: Arena, db: Path, seed: int, *, kill: bool) -> Original:
    arena.db, arena.log = db, Path(f"{db}.log")
    child = arena.start("live", seed=seed, count=FLOWS, pause_s=0.0, log=str(arena.log))
    enough = FLOWS if kill else 10 * FLOWS
    arena.until(
        lambda: len(aftermath.acknowledged(arena.log)) >= enough or not child.is_alive, "a store"
    )
    arena.kill(child)
    copy = db.with_name(f"whole-{db.name}")  # To read a store moves its log.
    shutil.copy(db, copy)
    if log_of(db).exists():
        shutil.copy(log_of(db), log_of(copy))
    return Original(db, history_of(copy))


def examined(arena: Arena, target: Path, kind: str) -> dict[str, Any]:
    """What a process says that opens it: it must come to its end, and say something."""
    child = arena.start("examine", db=str(target), report=f"{target}.report")
    assert child.wait(EXAMINED_WITHIN_S), f"{kind}: it hangs"
    told = lines(f"{target}.report")
    assert told, f"{kind}: the process died\n{arena.told()}"
    return told[0]


def what_came_of_it(
    arena: Arena, target: Path, told: dict[str, Any], possible: tuple[Original, ...]
) -> tuple[str, bool]:
    """In a word, and whether that may be."""
    if "error" in told:
        return "refused", True
    arena.start("look_again", db=str(target), report=f"{target}.report")
    arena.until(lambda: len(lines(f"{target}.report")) == 2, "a second look", EXAMINED_WITHIN_S)
    again = lines(f"{target}.report")[1]
    kept = bool(again["found"]) or "error" in again
    if told["problems"]:
        return "named by verify" + ("" if kept else ", and forgetful"), True
    found = history_of(target)
    whole = next((one.rows for one in possible if is_shorter(found, one.rows)), None)
    if whole is None:
        return "other data, unseen", False
    return ("whole" if found == whole else "shorter"), kept


@pytest.mark.timeout(600 if FULL else 120)
def test_a_damaged_file_is_refused_named_or_as_it_was(arena: Arena, tmp_path: Path) -> None:
    began = time.monotonic()
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    originals = Originals(
        killed=make(arena, tmp_path / "killed.db", 1, kill=True),
        closed=make(arena, tmp_path / "closed.db", 2, kill=False),
        other=make(arena, tmp_path / "other.db", 3, kill=True),
    )
    assert log_of(originals.killed.db).stat().st_size > 20 * PAGE_BYTES
    assert not log_of(originals.closed.db).exists()
    outcomes: Counter[str] = Counter()
    broken: list[str] = []
    for number in range(DAMAGES):
        kind = KINDS[number % len(KINDS)]
        target = tmp_path / f"damaged-{number}.db"
        possible = damaged(originals, kind, target, chance)
        told = examined(arena, target, kind)
        outcome, may_be = what_came_of_it(arena, target, told, possible)
        outcomes[f"{kind}: {outcome}"] += 1
        if not may_be:
            broken.append(f"{kind}: {outcome} ({target})")
    for name, times in sorted(outcomes.items()):
        print(f"{times:4} {name}")
    record(
        "damaged files",
        invariants=[1, 2, 14],
        tried="bits flipped, pages zeroed, files cut, removed and mixed up, then opened",
        times=DAMAGES,
        broken=len(broken),
        seconds=time.monotonic() - began,
        figures=dict(sorted(outcomes.items())),
        reproduce="make chaos ARGS='-k damaged_files'",
    )
    assert not broken
