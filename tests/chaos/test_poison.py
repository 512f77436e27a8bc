"""A run that kills its worker condemns itself; one that is killed from outside condemns nobody."""

# tidy: this file sleeps because a random moment of real time is what it tests
import asyncio
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from everlong import Client
from everlong_engine.machine.probation import is_suspect
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.store.interface import RunFilter
from tests.chaos import evidence, flows
from tests.chaos.arena import FULL, Arena, arena
from tests.proof.record import record

HEALTHY = 499
KILLS = 50
DEATHS_MAX = 15
STORES = 4
SHORT_LIVES = 300 if FULL else 75
SHORT_S = 0.25 if FULL else 0.1
LONG_S = 3.0 if FULL else 1.5
USUAL_START_S = 0.25
"""Of a worker; where one takes longer, all live longer."""
LONG_LIVES = 0.2 if FULL else 0.1
STEPS_MS = (3, 30, 150, 400)


@pytest.mark.timeout(120)
async def test_one_poison_run_among_five_hundred_is_parked_alone(arena: Arena) -> None:
    begun = time.monotonic()
    async with Client.connect(arena.db) as client:
        for index in range(HEALTHY):
            if index == HEALTHY // 2:
                await client.start(flows.bomb, id="bomb")
            await client.start(flows.chain, index, id=f"chain-{index}")
        bomb = client.get_handle("bomb")

        deaths = 0
        worker = arena.worker()
        while (await bomb.describe()).status != "blocked":
            if not worker.is_alive:
                deaths += 1
                assert deaths <= DEATHS_MAX, arena.told()
                worker = arena.worker(ready=False)
            time.sleep(0.01)
        description = await bomb.describe()
        assert description.reason is not None
        assert description.reason.startswith("poison: ")

        end = time.monotonic() + 60
        while (left := await evidence.unfinished(client)) != {"bomb"}:
            assert time.monotonic() < end, f"never finished: {sorted(left)}"
            assert worker.is_alive
            time.sleep(0.05)
        for index in range(HEALTHY):
            assert await client.get_handle(f"chain-{index}").result() == 5 * index + 10
        assert (await bomb.describe()).status == "blocked"
        assert worker.is_alive
        await evidence.outcomes_are_recorded_once(client)
        await evidence.effects_have_attempts(arena, client)
    await evidence.nothing_is_damaged(arena.db)
    record(
        "a run that kills its worker, among 499 that do not",
        invariants=[13],
        tried="the run must be parked after a few deaths, and all others finish",
        times=deaths,
        broken=0,
        seconds=time.monotonic() - begun,
        figures={"deaths": deaths, "parked": 1, "finished": HEALTHY},
        reproduce="pytest tests/chaos/test_poison.py -s",
    )


@pytest.mark.timeout(120)
async def test_several_poison_runs_are_parked_each_for_itself(arena: Arena) -> None:
    bombs = [(flows.bomb, "a"), (flows.bomb_in_code, "b"), (flows.bomb, "c")][: 3 if FULL else 2]
    async with Client.connect(arena.db) as client:
        for index in range(4):
            await client.start(flows.slow, id=f"slow-{index}")
        for flow, name in bombs:
            await client.start(flow, id=name)
        worker = arena.worker(ready=False)
        deaths = 0
        while True:
            page = await client.list()
            by_status: dict[str, set[str]] = {}
            for one in page.items:
                by_status.setdefault(one.status, set()).add(one.workflow_id)
            assert by_status.get("blocked", set()) <= {name for _, name in bombs}
            if "running" not in by_status:
                break
            if not worker.is_alive:
                deaths += 1
                assert deaths <= DEATHS_MAX * len(bombs), by_status
                worker = arena.worker(ready=False)
            time.sleep(0.01)
        assert by_status["blocked"] == {name for _, name in bombs}
    print(f"{deaths} workers died before the runs were parked")


@pytest.mark.timeout(300)
async def test_a_healthy_flow_that_is_killed_fifty_times_is_never_parked(arena: Arena) -> None:
    chance = random.Random()
    async with Client.connect(arena.db) as client:
        handle = await client.start(flows.steady, id="steady")
        most_losses = 0
        while arena.kills < KILLS * (4 if FULL else 1):
            done = len(arena.noted(what="end"))
            worker = arena.worker()
            arena.until(partial(_more_than, arena, done), "some progress")
            time.sleep(chance.random() * 0.03)
            arena.kill(worker)
            description = await handle.describe()
            assert description.status == "running", description.reason
            most_losses = max(most_losses, description.lost_in_a_row)
        worker = arena.worker()
        await handle.signal(flows.enough, True)
        steps = await handle.result()
        assert steps <= len(arena.noted(what="end"))
        await evidence.effects_have_attempts(arena, client)
    await evidence.nothing_is_damaged(arena.db)
    print(f"{arena.kills} kills, {steps} steps; at most {most_losses} losses in a row")


async def test_a_stop_in_order_hands_back_what_is_held_and_counts_for_nothing(arena: Arena) -> None:
    async with Client.connect(arena.db) as client:
        await client.start(flows.stuck, id="stuck")

        async def standing() -> RunRow:
            (row,) = await client.engine.store.list_runs(RunFilter("default"), 1, None)
            return row

        for attempt in (1, 2):
            worker = arena.worker()
            arena.until(partial(arena.noted, what="begin", attempt=attempt), "an attempt")
            arena.kill(worker)
        for _ in range(3):
            tokens = (await standing()).lease_token
            worker = arena.start("work_until_told")
            while (row := await standing()).owner is None or row.lease_token == tokens:
                time.sleep(0.01)
            worker.signal(signal.SIGTERM)
            assert worker.wait(10)
            row = await standing()
            assert (row.owner, row.losses, row.strikes) == (None, 2, 0)


@pytest.mark.timeout(1800 if FULL else 120)
async def test_flows_whose_workers_live_for_a_moment_are_never_parked(tmp_path: Path) -> None:
    """Now and then one lives for long enough to put what it suspects on trial."""
    begun = time.monotonic()
    counts: Counter[str] = Counter()
    sieges = (_besiege(tmp_path / str(number), counts) for number in range(STORES))
    await asyncio.gather(*sieges)
    assert counts["kills"] == STORES * SHORT_LIVES
    assert counts["kills while a flow was suspected"] > counts["kills"] // 10
    print(dict(counts))
    record(
        "flows of workers that live for a moment",
        invariants=[13],
        tried="workers killed again and again before most flows get on; none may be parked",
        times=counts["kills"],
        broken=0,
        seconds=time.monotonic() - begun,
        figures=dict(counts),
        reproduce="EVERLONG_CHAOS=full pytest tests/chaos/test_poison.py -s",
    )


async def _besiege(folder: Path, counts: Counter[str]) -> None:
    folder.mkdir()
    chance = random.Random()
    with contextmanager(arena)(folder) as besieged:
        async with Client.connect(besieged.db) as client:
            handles = [await client.start(flows.steady, ms, id=f"{ms} ms") for ms in STEPS_MS]
            begun = time.monotonic()
            worker = besieged.worker()
            slowness = max(1.0, (time.monotonic() - begun) / USUAL_START_S)
            besieged.kill(worker)
            counts["kills"] += 1
            while besieged.kills < SHORT_LIVES:
                worker = besieged.worker(ready=False)
                long = chance.random() < LONG_LIVES
                await asyncio.sleep(chance.random() * (LONG_S if long else SHORT_S) * slowness)
                besieged.kill(worker)
                counts["kills"] += 1
                rows = await client.engine.store.list_runs(RunFilter("default"), 100, None)
                assert {row.status for row in rows} == {RunStatus.RUNNING}, [
                    row.reason for row in rows
                ]
                suspects = [row for row in rows if is_suspect(row.losses)]
                counts["kills while a flow was suspected"] += bool(suspects)
                counts["strikes standing at a kill"] += sum(row.strikes for row in suspects)
                counts["kills in a trial"] += any(row.probation.is_driven for row in rows)
            besieged.worker()
            for handle in handles:
                await handle.signal(flows.enough, True)
            for handle in handles:
                counts["steps"] += await handle.result()
            await evidence.effects_have_attempts(besieged, client)
        await evidence.nothing_is_damaged(besieged.db)


def _more_than(arena: Arena, done: int) -> bool:
    return len(arena.noted(what="end")) > done
