"""A run that kills its worker condemns itself; one that is killed from outside condemns nobody."""

# tidy: this file sleeps because a random moment of real time is what it tests
import random
import time
from functools import partial

import pytest

from everlong import Client
from tests.chaos import evidence, flows
from tests.chaos.arena import FULL, Arena

HEALTHY = 499
KILLS = 50
DEATHS_MAX = 15


@pytest.mark.timeout(120)
async def test_one_poison_run_among_five_hundred_is_parked_alone(arena: Arena) -> None:
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
    print(f"{deaths} workers died before the run was parked")


@pytest.mark.timeout(120)
async def test_several_poison_runs_are_parked_each_for_itself(arena: Arena) -> None:
    bombs = [(flows.bomb, "a"), (flows.bomb_in_code, "b"), (flows.bomb, "c")]
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


def _more_than(arena: Arena, done: int) -> bool:
    return len(arena.noted(what="end")) > done
