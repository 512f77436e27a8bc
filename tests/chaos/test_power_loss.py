"""Power cuts: what was acknowledged was on the disk by then, and what is left is never damaged.

The disk is one that forgets what was not synced (`forgetful_disk`). The power goes with a random
change of the disk: between the writes of a commit, between a write and its sync, while the file is
being created.
"""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import aftermath
from tests.chaos.arena import FULL, Arena
from tests.chaos.forgetful_disk import Survivors
from tests.chaos.power import Machine, machine
from tests.proof.record import record

CUTS = 240 if FULL else 12
CUTS_OF_A_DISK = 20 if FULL else 6
RELAXED_CUTS = 60 if FULL else 6
LOST_SYNCS = 100 if FULL else 5
CHANGES_MAX = 1000
FLOWS = 60
KINDS: tuple[Survivors, ...] = ("nothing", "some")


class Trial:
    """Lets a process live on the machine until the power goes, and looks at what is left."""

    def __init__(self, arena: Arena, machine: Machine, folder: Path, seed: int) -> None:
        self.arena = arena
        self.machine = machine
        self.seed = seed
        self.chance = random.Random(seed)
        self.changes = 0
        self._folder = folder

    def live(self, flows: int, **options: Any) -> None:
        """Until the power goes, or everything is done, or the store was let go."""
        facts = {"log": str(self.arena.log), "seed": self.seed, "count": flows}
        child = self.arena.start("live", db=self.machine.db, **facts, **options)
        self.arena.until(lambda: self.machine.is_out or not child.is_alive, "the end of the power")
        self.arena.kill(child)

    def cut(self, survivors: Survivors) -> Path:
        """The store that is left, in a plain folder."""
        self.changes += self.machine.cut(survivors, self.chance.getrandbits(30))
        return self.machine.save(self._folder)

    def new_disk(self) -> None:
        self.machine.wipe()
        self.arena.log.unlink(missing_ok=True)
        self.arena.forget_entries()
        self.seed = self.chance.getrandbits(30)


async def finish(trial: Trial, left: Path) -> None:
    """A process on what is left brings everything to its end, and all of it is right."""
    arena = trial.arena
    arena.db = left
    child = arena.start("live", log=str(arena.log), seed=trial.seed, count=FLOWS)
    arena.until(lambda: not child.is_alive, "the end of everything")
    await aftermath.everything_came_out_right(arena, trial.seed, FLOWS)


@pytest.mark.timeout(1800 if FULL else 120)
async def test_nothing_acknowledged_is_lost_when_the_power_goes(
    arena: Arena, tmp_path: Path
) -> None:
    began = time.monotonic()
    acknowledged = lost = disks = 0
    with machine(tmp_path) as computer:
        trial = Trial(arena, computer, tmp_path / "left", random.randrange(1 << 30))
        print(f"seed {trial.seed}")
        for cut in range(CUTS):
            computer.arm(cut_at=trial.chance.randint(1, CHANGES_MAX))
            trial.live(FLOWS)
            left = trial.cut(KINDS[cut % 2])
            gone = await aftermath.lost_of(left, aftermath.acknowledged(arena.log))
            lost += len(gone)
            assert not gone, f"acknowledged, and lost with the power: {sorted(gone)}"
            if (cut + 1) % CUTS_OF_A_DISK == 0:
                acknowledged += len(aftermath.acknowledged(arena.log))
                await finish(trial, left)
                trial.new_disk()
                disks += 1
    assert acknowledged > 3 * CUTS, "too little was done for the cuts to mean anything"
    print(f"{CUTS} cuts on {disks} disks, {acknowledged} acknowledgements, {lost} lost")
    record(
        "power loss",
        invariants=[1, 2, 3, 4, 14],
        tried="cuts of the power at a random change of a disk that forgets what was not synced",
        times=CUTS,
        broken=lost,
        seconds=time.monotonic() - began,
        figures={"acknowledged": acknowledged, "lost": lost, "changes of the disk": trial.changes},
        reproduce="make chaos ARGS='-k power_loss'",
    )


@pytest.mark.timeout(600 if FULL else 120)
async def test_relaxed_durability_loses_the_last_moments_and_damages_nothing(
    arena: Arena, tmp_path: Path
) -> None:
    """This is how it is known that the cuts above would find a missing sync."""
    began = time.monotonic()
    acknowledged = lost = 0
    with machine(tmp_path) as computer:
        trial = Trial(arena, computer, tmp_path / "left", random.randrange(1 << 30))
        print(f"seed {trial.seed}")
        for cut in range(RELAXED_CUTS):
            computer.arm(cut_at=trial.chance.randint(150, CHANGES_MAX))
            trial.live(FLOWS, durability="relaxed")
            left = trial.cut(KINDS[cut % 2])
            acknowledged += len(aftermath.acknowledged(arena.log))
            lost += len(await aftermath.lost_of(left, aftermath.acknowledged(arena.log)))
            trial.new_disk()
    assert lost > 0, "without a sync before the acknowledgement some must be lost"
    print(f"relaxed: {RELAXED_CUTS} cuts, {acknowledged} acknowledgements, {lost} lost")
    record(
        "power loss, relaxed durability",
        invariants=[1],
        tried="the same cuts with durability='relaxed': work may be lost, never damaged",
        times=RELAXED_CUTS,
        broken=0,
        seconds=time.monotonic() - began,
        figures={"acknowledged": acknowledged, "lost, as documented": lost},
        reproduce="make chaos ARGS='-k relaxed_durability'",
    )


@pytest.mark.timeout(600 if FULL else 120)
async def test_a_sync_that_failed_is_not_trusted_by_the_next_process_either(
    arena: Arena, tmp_path: Path
) -> None:
    """After a failed sync the kernel takes the pages for clean. They are still read, so the next
    process finds them, and nothing it writes behind them is safe until they are written anew."""
    began = time.monotonic()
    acknowledged = failed = lost = 0
    with machine(tmp_path) as computer:
        trial = Trial(arena, computer, tmp_path / "left", random.randrange(1 << 30))
        print(f"seed {trial.seed}")
        for cut in range(LOST_SYNCS):
            computer.arm(lose_sync_at=trial.chance.randint(4, 60))
            # Killed at once, it cannot even close the file, which would write everything anew.
            trial.live(FLOWS, die_with_the_store=cut % 4 < 2)
            failed += computer.lost_syncs
            computer.arm(cut_at=computer.changes + trial.chance.randint(20, CHANGES_MAX))
            trial.live(FLOWS)
            left = trial.cut(KINDS[cut % 2])
            gone = await aftermath.lost_of(left, aftermath.acknowledged(arena.log))
            lost += bool(gone)
            acknowledged += len(aftermath.acknowledged(arena.log))
            trial.new_disk()
    print(f"{failed} failed syncs, {acknowledged} acknowledgements, {lost} stores with a loss")
    assert failed > LOST_SYNCS // 2
    assert lost == 0
    record(
        "a failed sync, then a power cut",
        invariants=[2, 14],
        tried="syncs that fail once and drop the pages, then another process, then a power cut",
        times=failed,
        broken=0,
        seconds=time.monotonic() - began,
        figures={"acknowledged": acknowledged},
        reproduce="make chaos ARGS='-k sync_that_failed'",
    )
