"""The machine's clock is set, forward and back, under a worker and between two of them.

libfaketime tells the processes of the arena another time, by an offset in a file. Wall time that
runs back stands still for timers until it has caught up; nothing else waits for it.
"""

# tidy: this file sleeps because a clock is set at a random moment of real time
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from everlong import Client, Worker, workflow
from everlong_engine.model.events import TimerCancelled, TimerFired, TimerStarted
from everlong_engine.model.runs import LoadedRun
from tests.chaos import aftermath, evidence
from tests.chaos.arena import FULL, Arena, arena
from tests.chaos.customer import lines
from tests.proof.record import record
from tests.support.tools import need

JUMPS = 60 if FULL else 5
RESTARTS = 20 if FULL else 2
FLOWS = 21
HOUR_S, DAY_S = 3600, 86_400
OFFSETS_S = (-10 * DAY_S, -HOUR_S, -2, 2, HOUR_S, 10 * DAY_S)


class FakeTime:
    """The offset that every process of the arena adds to its clock."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.offset_s = 0
        self.set(0)

    def set(self, offset_s: int) -> None:
        self.offset_s = offset_s
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}\n")
        new.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> FakeTime:
    return FakeTime(tmp_path / "offset")


@pytest.fixture(name="arena")
def arena_with_another_clock(tmp_path: Path, clock: FakeTime) -> Iterator[Arena]:
    need("faketime")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    yield from arena(
        tmp_path,
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(tmp_path / "offset"),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        FAKETIME_FORCE_MONOTONIC_FIX="0",  # Else each wait of a thread costs milliseconds.
    )


def times_are_in_order(run: LoadedRun) -> int:
    """Events of a run never run back; a timer fires once, never early. How many have fired."""
    before = 0
    due: dict[int, int] = {}
    fired = 0
    for one in run.history:
        assert one.at_us >= before, (run.row.workflow_id, one.seq)
        before = one.at_us
        match one.event:
            case TimerStarted(timer_id=timer_id, due_us=due_us):
                due[timer_id] = due_us
            case TimerFired(timer_id=timer_id):
                assert one.at_us >= due.pop(timer_id), (run.row.workflow_id, one.seq, "early")
                fired += 1
            case TimerCancelled(timer_id=timer_id):
                due.pop(timer_id)
            case _:
                pass
    return fired


async def timers_are_right(db: Path) -> int:
    async with Client.connect(db) as client:
        return sum(times_are_in_order(run) for run in await evidence.all_runs(client))


@pytest.mark.timeout(600 if FULL else 120)
async def test_a_clock_that_jumps_under_a_worker_fires_no_timer_early_or_twice(
    arena: Arena, clock: FakeTime
) -> None:
    began = time.monotonic()
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    count = FLOWS * JUMPS // 2
    facts = {"log": str(arena.log), "seed": seed, "count": count, "pause_s": 0.002}
    child = arena.start("live", **facts)
    farthest_s = 0
    for jump in range(JUMPS):
        arena.until(lambda done=5 * jump: len(aftermath.acknowledged(arena.log)) > done, "work")  # type: ignore[misc]
        time.sleep(chance.random() * 0.05)
        clock.set(clock.offset_s + chance.choice(OFFSETS_S))
        farthest_s = max(farthest_s, clock.offset_s)
        # Whichever way it went: what needs no timer goes on at once.
        done = len(aftermath.acknowledged(arena.log))
        arena.until(
            lambda done=done, child=child: (
                len(aftermath.acknowledged(arena.log)) > done or not child.is_alive
            ),  # type: ignore[misc]
            "work after the jump",
            10,
        )
    clock.set(farthest_s + 5)  # Caught up: whatever stood still is due.
    assert child.wait(90), f"it hangs\n{arena.told()}"
    assert lines(arena.log)[-1]["what"] == "done", arena.told()
    fired = await timers_are_right(arena.db)
    assert fired > 0
    await aftermath.everything_came_out_right(arena, seed, count)
    print(f"{JUMPS} jumps, {fired} timers")
    record(
        "clock jumps under a worker",
        invariants=[6, 14],
        tried="the clock set by seconds, an hour, ten days, forward and back, under a live worker",
        times=JUMPS,
        broken=0,
        seconds=time.monotonic() - began,
        figures={"timers": fired},
        reproduce="make chaos ARGS='-k clock_jumps'",
    )


@pytest.mark.timeout(600 if FULL else 120)
async def test_open_runs_go_on_after_a_restart_with_the_clock_set_back(
    arena: Arena, clock: FakeTime, tmp_path: Path
) -> None:
    began = time.monotonic()
    chance = random.Random()
    fired = 0
    for restart in range(RESTARTS):
        arena.db, arena.log = tmp_path / f"{restart}.db", tmp_path / f"{restart}.log"
        arena.forget_entries()
        facts = {"log": str(arena.log), "seed": restart, "count": FLOWS, "pause_s": 0.005}
        ahead_s = chance.choice((HOUR_S, 10 * DAY_S))
        clock.set(ahead_s)
        child = arena.start("live", **facts)
        arena.until(lambda: len(aftermath.acknowledged(arena.log)) > 10, "some work")
        time.sleep(chance.random() * 0.05)
        arena.kill(child)

        clock.set(0)
        child = arena.start("live", **facts)
        # Every start and signal is taken, and flows without timers, roll-overs too, come to an end.
        arena.until(
            lambda: any(line["what"] == "finished" for line in lines(arena.log)), "all sent", 20
        )
        end = time.monotonic() + 20
        async with Client.connect(arena.db) as watcher:
            while left := [
                name
                for name in await evidence.unfinished(watcher)
                if not name.startswith(("patient", "stubborn"))
            ]:
                assert time.monotonic() < end, (left, arena.told())
                assert child.is_alive or not await evidence.unfinished(watcher), arena.told()
                time.sleep(0.02)
        clock.set(ahead_s + 120)  # Caught up.
        assert child.wait(30), arena.told()
        assert lines(arena.log)[-1]["what"] == "done", arena.told()
        fired += await timers_are_right(arena.db)
        await aftermath.everything_came_out_right(arena, restart, FLOWS)
    record(
        "clock set back between two workers",
        invariants=[6, 8, 13],
        tried="a worker killed, the clock set back by an hour or ten days, another worker",
        times=RESTARTS,
        broken=0,
        seconds=time.monotonic() - began,
        figures={"timers": fired},
        reproduce="make chaos ARGS='-k set_back'",
    )


class SetClock:
    def __init__(self, offset_s: int) -> None:
        self._offset_s = offset_s

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self._offset_s * 1_000_000


@workflow(name="clock_says")
async def clock_says(word: str) -> str:
    return word


async def test_the_newest_execution_is_found_although_its_clock_was_behind(tmp_path: Path) -> None:
    for word, offset_s in (("first", 10 * DAY_S), ("second", 0)):
        async with Client.connect(tmp_path / "everlong.db") as client:
            client.engine.clock = SetClock(offset_s)
            async with Worker(client, workflows=[clock_says]):
                handle = await client.start(clock_says, word, id="same", if_closed="allow")
                assert await handle.result() == word
            assert await client.get_handle("same").result() == word
