"""A full disk is an answer, not an end: nothing is acknowledged, and work goes on with the room."""

# tidy: this file sleeps because a disk fills at a random moment of real time
import os
import random
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from everlong import Client
from tests.chaos import aftermath, evidence, flows
from tests.chaos.arena import FULL, Arena, Child
from tests.chaos.customer import lines
from tests.proof.record import record
from tests.support.command_line import everlong
from tests.support.tools import need

FILLINGS = 40 if FULL else 3
LIMITS = 20 if FULL else 2
FLOWS = 60 * FILLINGS
DISK_BYTES = 32 << 20
RESUMED_WITHIN_S = 5.0


class SmallDisk:
    """A file system of a few megabytes, and the ballast that fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """To the last page, also what is freed meanwhile."""
        with self._ballast.open("ab") as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while os.write(file.fileno(), bytes(size)) == size:
                        pass

    def make_room(self) -> None:
        self._ballast.unlink()


@contextmanager
def small_disk(folder: Path) -> Generator[SmallDisk]:
    need("mount", "umount")
    point = folder / "small"
    point.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "everlong-test", str(point)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs leave to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield SmallDisk(point)
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=False)


def has_done(arena: Arena, acknowledged: int, ended: int = -1) -> bool:
    """More than that was acknowledged, and more attempts have ended."""
    return (
        len(aftermath.acknowledged(arena.log)) > acknowledged
        and len(arena.noted(what="end")) > ended
    )


@pytest.mark.timeout(600 if FULL else 120)
async def test_a_full_disk_is_survived_and_work_goes_on_with_the_room(
    arena: Arena, tmp_path: Path
) -> None:
    began = time.monotonic()
    chance = random.Random()
    longest_s = 0.0
    with small_disk(tmp_path) as disk:
        arena.db = disk.folder / "everlong.db"
        facts = {"log": str(arena.log), "seed": 1, "count": FLOWS, "pause_s": 0.005}
        child = arena.start("live", **facts)
        for number in range(FILLINGS):
            arena.until(partial(has_done, arena, 5 * number), "some work")
            time.sleep(chance.random() * 0.1)
            before = len(aftermath.refusals(arena.log))
            end = time.monotonic() + 20
            while len(aftermath.refusals(arena.log)) < before + 3:
                disk.fill()
                assert child.is_alive, arena.told()
                assert time.monotonic() < end, "the disk is full, and nobody was refused"
                time.sleep(0.005)
            done = len(aftermath.acknowledged(arena.log))
            ended = len(arena.noted(what="end"))
            disk.make_room()
            freed = time.monotonic()
            arena.until(
                partial(has_done, arena, done, ended), "work that goes on", RESUMED_WITHIN_S
            )
            longest_s = max(longest_s, time.monotonic() - freed)
        assert set(aftermath.refusals(arena.log)) == {"StoreFull"}
        assert child.wait(120), "everything comes to its end"
        await aftermath.everything_came_out_right(arena, 1, FLOWS)
    acknowledged, refused = (
        len(aftermath.acknowledged(arena.log)),
        len(aftermath.refusals(arena.log)),
    )
    print(
        f"{FILLINGS} times full, {acknowledged} acknowledged, {refused} refused, {longest_s:.2f} s"
    )
    record(
        "a full disk",
        invariants=[2, 13, 14],
        tried="a small disk filled to the last page under a worker and a client, then freed",
        times=FILLINGS,
        broken=0,
        seconds=time.monotonic() - began,
        figures={
            "acknowledged": acknowledged,
            "refused": refused,
            "resumed within, s": round(longest_s, 2),
        },
        reproduce="make chaos ARGS='-k disk_full'",
    )


async def test_an_outcome_waits_for_room_and_its_activity_is_not_repeated(
    arena: Arena, tmp_path: Path
) -> None:
    with small_disk(tmp_path) as disk:
        arena.db = disk.folder / "everlong.db"
        async with Client.connect(arena.db) as client:
            handles = [await client.start(flows.slow, id=f"slow-{number}") for number in range(5)]
            worker = arena.worker()
            arena.until(lambda: len(arena.noted(what="begin")) == 5, "five activities at work")
            disk.fill()
            arena.until(lambda: len(arena.noted(what="end")) == 5, "their ends")
            for _ in range(20):
                disk.fill()
                time.sleep(0.01)
            unstored = [one.status for one in (await client.list()).items].count("running")
            assert worker.is_alive
            disk.make_room()
            freed = time.monotonic()
            for handle in handles:
                assert await handle.result() == 1
            assert time.monotonic() - freed < RESUMED_WITHIN_S
            assert len(arena.noted(what="begin")) == 5
        arena.kill(worker)
        await evidence.nothing_is_damaged(arena.db)
    assert unstored > 0, "the outcomes found room after all"


def test_the_command_line_says_that_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        db = str(disk.folder / "everlong.db")
        start = ("start", "purchase", "-a", "amount=5", "--db", db)
        assert everlong(*start, "--id", "first", folder=tmp_path).code == 0
        disk.fill()
        done = everlong(*start, "--id", "second", folder=tmp_path)
        assert done.code == 3, done
        assert "There is no room left to write" in done.err
        assert "Traceback" not in done.err
        disk.make_room()
        assert everlong(*start, "--id", "second", folder=tmp_path).code == 0


@pytest.mark.timeout(300 if FULL else 120)
async def test_a_limit_on_the_size_of_files_stops_the_worker_and_loses_nothing(
    arena: Arena, tmp_path: Path
) -> None:
    """SQLite takes it for a failed write, which is not trusted: the next process goes on."""
    began = time.monotonic()
    chance = random.Random()
    facts = {"log": str(arena.log), "seed": 2, "count": 60, "pause_s": 0.0}
    stopped = 0
    for _ in range(LIMITS):
        arena.log.unlink(missing_ok=True)
        arena.forget_entries()
        arena.db = tmp_path / f"limited-{stopped}.db"
        limited = arena.start("live", file_bytes_max=chance.randint(260_000, 400_000), **facts)
        _until_it_ends(arena, limited)
        told = [line["what"] for line in lines(arena.log)]
        assert "failed" in told, arena.told()
        assert aftermath.acknowledged_behind(arena.log, "failed") == 0
        stopped += 1
        _until_it_ends(arena, arena.start("live", **facts))
        await aftermath.everything_came_out_right(arena, 2, 60)
    record(
        "a limit on the size of files",
        invariants=[2, 14],
        tried="a worker whose files may not grow any more (RLIMIT_FSIZE), then one that may",
        times=stopped,
        broken=0,
        seconds=time.monotonic() - began,
        reproduce="make chaos ARGS='-k limit_on_the_size'",
    )


def _until_it_ends(arena: Arena, child: Child) -> None:
    arena.until(lambda: not child.is_alive, "the end of a process", 30)
