"""How fast a history is replayed, and whether a longer one costs more for each event.

One process makes the histories; a fresh one is asked a query of each, and must load and replay the
whole run to answer. That time is divided by the events. The longer history has ten times the
activities; `flatness` is its rate divided by that of the shorter. What `everlong replay` does with
the same store is measured in one more process: it only looks, and replays one run after the other.
"""

import asyncio
import time
from pathlib import Path

from benchmarks._catalogue import Figures
from benchmarks._process import finish, start_role
from everlong import Client, Query, Replayer, Signal, Worker, activity, workflow
from everlong_engine import LoadedRun, Onlooker, RunFilter

TIMES_LONGER = 10
WARM_UP = 10
POLL_S = 0.05

told = Query("replay_told", int)
end = Signal("replay_end", int)


@activity
async def replay_step(number: int) -> int:
    return number


@workflow
async def replay_story(activities: int) -> None:
    steps = 0

    @told.handler
    def _() -> int:
        return steps

    for number in range(activities):
        await replay_step(number)
        steps += 1
    await end.receive()


async def measure(folder: Path, size: int) -> Figures:
    await finish(await start_role("replay.write", folder, size))
    figures = await finish(await start_role("replay.read", folder, size))
    return figures | await finish(await start_role("replay.look", folder, size))


async def write(folder: Path, size: int) -> Figures:
    """Make the histories; how durably does not matter here."""
    database = str(folder / "everlong.db")
    async with Client.connect(database, durability="relaxed") as client, Worker(client):
        await asyncio.gather(*(_tell(client, activities) for activities in _lengths(size)))
    return {}


async def read(folder: Path, size: int) -> Figures:
    """The fresh process."""
    async with Client.connect(str(folder / "everlong.db")) as client, Worker(client):
        _, short, long = [await _events_per_s(client, it) for it in _lengths(size)]
    return {"events_per_s": short, "events_per_s_10x": long, "flatness": long / short}


async def look(folder: Path, size: int) -> Figures:
    """As `everlong replay` does."""
    replayer, events = Replayer([replay_story]), 0
    replayer.check_run(_loaded(folder, WARM_UP))
    began = time.perf_counter()
    with Onlooker(folder / "everlong.db") as store:
        for row in store.runs(RunFilter("default")):
            loaded = store.load(row)
            assert loaded is not None
            assert replayer.check_run(loaded).fits
            events += len(loaded.history)
    return {"tool_events_per_s": events / (time.perf_counter() - began)}


def _loaded(folder: Path, activities: int) -> LoadedRun:
    with Onlooker(folder / "everlong.db") as store:
        (row,) = store.runs(RunFilter("default", workflow_id=_id(activities)))
        loaded = store.load(row)
    assert loaded is not None
    return loaded


def _lengths(size: int) -> tuple[int, int, int]:
    return WARM_UP, size, size * TIMES_LONGER


async def _tell(client: Client, activities: int) -> None:
    handle = await client.start(replay_story, activities, id=_id(activities))
    while await handle.query(told) < activities:  # noqa: ASYNC110 only a query can tell
        await asyncio.sleep(POLL_S)


async def _events_per_s(client: Client, activities: int) -> float:
    handle = client.get_handle(_id(activities))
    began = time.perf_counter()
    assert await handle.query(told) == activities
    elapsed_s = time.perf_counter() - began
    return len(await handle.history()) / elapsed_s


def _id(activities: int) -> str:
    return f"story-of-{activities}"
