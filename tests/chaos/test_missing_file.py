"""The file goes away under those who use it: nothing is acknowledged into a file without a name."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from everlong import Client, StoreFailed, Worker
from tests.chaos import aftermath, flows
from tests.chaos.arena import FULL, Arena
from tests.chaos.customer import lines
from tests.proof.record import record

TRIALS = 25 if FULL else 2
FLOWS = 400
NOTICED_WITHIN_S = 2.0


def delete(db: Path) -> None:
    for name in (db, Path(f"{db}-wal"), Path(f"{db}-shm")):
        name.unlink()


def rename(db: Path) -> None:
    db.rename(db.with_name("elsewhere.db"))


def replace(db: Path) -> None:
    other = db.with_name("other.db")
    other.write_bytes(db.read_bytes())
    other.replace(db)


def delete_the_log(db: Path) -> None:
    Path(f"{db}-wal").unlink()


WAYS = (delete, rename, replace, delete_the_log)


def test_work_on_a_file_that_goes_away_stops_at_once(arena: Arena, tmp_path: Path) -> None:
    began = time.monotonic()
    chance = random.Random()
    late = acknowledged = 0
    longest_s = 0.0
    trials = [way for way in WAYS for _ in range(TRIALS)]
    for number, way in enumerate(trials):
        folder = tmp_path / str(number)
        folder.mkdir()
        arena.db, arena.log = folder / "everlong.db", folder / "acknowledged"
        options = {"seed": number, "count": FLOWS, "pause_s": 0.0, "log": str(arena.log)}
        child = arena.start("live", **options)
        arena.until(lambda: len(aftermath.acknowledged(arena.log)) > 5, "some work")
        time.sleep(chance.random() * 0.05)  # tidy: waits because a random moment is what it tests
        way(arena.db)
        flows.append(str(arena.log), what="gone", key="")
        gone = time.monotonic()
        assert child.wait(NOTICED_WITHIN_S), f"{way.__name__}: it goes on without its file"
        longest_s = max(longest_s, time.monotonic() - gone)
        told = [line["what"] for line in lines(arena.log)]
        assert "failed" in told, told[-5:]
        late += aftermath.acknowledged_behind(arena.log, "gone")
        acknowledged += told.count("acknowledged")
    assert late == 0, f"{late} acknowledged into a file that was gone"
    assert "was deleted, renamed or replaced while it was in use" in arena.told()
    print(f"{len(trials)} files taken away, {acknowledged} acknowledgements, {longest_s:.2f} s")
    record(
        "the file goes away under a worker",
        invariants=[2, 14],
        tried="a store deleted, renamed, replaced, or robbed of its log while it is written",
        times=len(trials),
        broken=late,
        seconds=time.monotonic() - began,
        figures={"acknowledged": acknowledged, "stopped within, s": round(longest_s, 3)},
        reproduce="make chaos ARGS='-k missing_file'",
    )


@pytest.mark.parametrize("way", WAYS)
async def test_an_idle_worker_notices_too(tmp_path: Path, way: Callable[[Path], None]) -> None:
    db = tmp_path / "everlong.db"
    async with Client.connect(db) as client:
        worker = Worker(client, workflows=[])
        taken: list[None] = []

        def take() -> None:
            way(db)
            taken.append(None)

        with pytest.raises(StoreFailed, match="deleted, renamed or replaced"):
            await worker.run(on_ready=take)
        assert taken


async def test_a_client_without_a_worker_is_refused(tmp_path: Path) -> None:
    db = tmp_path / "everlong.db"
    async with Client.connect(db) as client:
        await client.start(flows.chain, 1, id="before")
        os.rename(db, tmp_path / "elsewhere.db")  # noqa: PTH104 - as mv does
        with pytest.raises(StoreFailed, match="start again"):
            await client.start(flows.chain, 1, id="after")
