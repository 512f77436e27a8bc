"""Crashes, faults and modes in an environment, and tests that would wait in vain."""

import asyncio
import logging
from pathlib import Path

import pytest

from everlong import (
    Client,
    EverlongError,
    NondeterminismError,
    Retry,
    Signal,
    Worker,
    WorkflowFault,
    activity,
    checkpoint,
    workflow,
)
from everlong.testing import Environment, Stuck, always_replay, amnesia
from tests.support.hosting import described


async def test_a_crash_loses_what_was_at_work_and_nothing_else() -> None:
    asked = Signal("env-asked", str)

    @activity(retry=Retry(max_attempts=2))
    async def env_long() -> str:
        return "never for real"

    @workflow
    async def env_crashes() -> list[str]:
        first = await asked.receive()
        return [first, await env_long(), await asked.receive()]

    async def takes_a_day() -> str:
        await env.sleep(days=1)
        return "a day later"

    async with Environment() as env:
        env.fake(env_long, takes_a_day)
        handle = await env.client.start(env_crashes)
        await handle.signal(asked, "before")
        await env.settled()
        assert len(env.calls(env_long)) == 1
        env.fake(env_long, returns="done")
        await env.restart_worker()
        await handle.signal(asked, "after")
        assert await handle.result() == ["before", "done", "after"]
        assert [call.attempt for call in env.calls(env_long)] == [1, 2]
        assert not await env.client.verify()


async def test_a_stop_in_order_lets_an_activity_end() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    @activity
    async def env_polite() -> str:
        entered.set()
        await release.wait()
        return "ended"

    @workflow
    async def env_stops() -> str:
        return await env_polite()

    async with Environment() as env:
        handle = await env.client.start(env_stops)
        await entered.wait()
        stopping = asyncio.ensure_future(env.restart_worker(in_order=True))
        await asyncio.sleep(0)
        release.set()
        await stopping
        assert await handle.result() == "ended"
        assert len(env.calls(env_polite)) == 1


async def test_many_crashes_are_survived_also_while_a_result_is_waited_for() -> None:
    @workflow
    async def env_marathon() -> int:
        for _ in range(20):
            await asyncio.sleep(24 * 3600)
        return 20

    async with Environment() as env:
        handle = await env.client.start(env_marathon)
        with env.skipping(False):
            waiting = asyncio.ensure_future(handle.result())
            for _ in range(10):
                await env.advance(days=1.5)
                await env.restart_worker()
        assert await waiting == 20


async def test_a_blocked_run_fails_whoever_waits_for_it_or_for_its_parent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow
    async def env_faulty() -> None:
        await asyncio.sleep(1)
        Path(__file__).read_text(encoding="utf-8")

    @workflow
    async def env_of_faulty() -> None:
        await env_faulty.options(id="env-faulty")()

    caplog.set_level(logging.CRITICAL, "everlong")
    async with Environment() as env:
        with pytest.raises(WorkflowFault, match="open"):
            await env.client.run(env_faulty)
        with pytest.raises(WorkflowFault, match="open"):
            await env.client.run(env_of_faulty)
        handle = env.client.get_handle("env-faulty")
        assert (await handle.describe()).status == "blocked"


async def test_a_blocked_run_goes_on_with_other_code() -> None:
    @activity
    async def env_step(number: int) -> int:
        return number

    @workflow(name="env-deployed")
    async def before() -> int:
        await asyncio.sleep(60)
        return await env_step(1)

    @workflow(name="env-deployed-next")
    async def after() -> int:
        await asyncio.sleep(61)
        return await env_step(1)

    @workflow(name="env-deployed-fixed")
    async def fixed() -> int:
        await asyncio.sleep(60)
        return await env_step(2)

    for later in (after, fixed):
        later.definition.name = "env-deployed"
    async with Environment(workflows=[before]) as env:
        handle = await env.client.start(before)
        await env.settled()
        await env.restart_worker(workflows=[after])
        with pytest.raises(NondeterminismError):
            await handle.result()
        await env.restart_worker(workflows=[fixed])
        assert await handle.result() == 2


async def test_who_waits_for_nothing_is_told() -> None:
    never = Signal("env-never", str)

    @workflow
    async def env_in_vain() -> str:
        return await never.receive()

    @workflow
    async def env_with_a_timer() -> None:
        await asyncio.sleep(3600)

    async with Environment(patience=0.05) as env:
        with pytest.raises(Stuck, match=r"in-vain \(env_in_vain\) waits for a message"):
            await env.client.run(env_in_vain, id="in-vain")
        with env.skipping(False), pytest.raises(Stuck, match=r"time stands still.*a timer until"):
            await env.client.run(env_with_a_timer)
        # A message that comes in time is none too late.
        handle = env.client.get_handle("in-vain")
        waiting = asyncio.ensure_future(handle.result())
        await asyncio.sleep(0)
        await handle.signal(never, "at last")
        assert await waiting == "at last"


async def test_code_that_replays_otherwise_is_found(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    @activity
    async def env_count(number: int) -> int:
        return number

    @workflow
    async def env_impure() -> int:
        calls.append(1)
        return await env_count(len(calls))

    @workflow
    async def env_pure(steps: int) -> int:
        total = 0
        for step in range(steps):
            await asyncio.sleep(60)
            total += await env_count(step)
        return total

    caplog.set_level(logging.CRITICAL, "everlong")
    async with Environment() as env:
        assert await env.client.run(env_impure) == 1
    replayed: list[int] = []
    with always_replay(on_replay=replayed.append):
        async with Environment() as env:
            with pytest.raises(NondeterminismError):
                await env.client.run(env_impure)
            replayed.clear()
            assert await env.client.run(env_pure, 5) == 10
            assert replayed == list(range(1, 12))
        async with Environment(always_replay=False) as env:
            replayed.clear()
            assert await env.client.run(env_pure, 2) == 1
            assert not replayed


async def test_modes_hold_for_any_worker(tmp_path: Path) -> None:
    @workflow
    async def env_forgetful(rounds: int, total: int = 0) -> int:
        seen: list[int] = []  # Not a parameter, so it is gone where the function begins anew.
        while total < rounds:
            await asyncio.sleep(0.001)
            total += 1
            seen.append(total)
            await checkpoint(total=total)
        return len(seen)

    async with Environment() as env:
        usual = await env.client.run(env_forgetful, 4)
    async with Environment(amnesia=True) as env:
        assert await env.client.run(env_forgetful, 4) != usual
    with amnesia():
        async with Client.connect(tmp_path / "e.db") as client, Worker(client):
            assert await client.run(env_forgetful, 4) != usual


async def test_amnesia_begins_anew_at_each_checkpoint_that_may_and_only_there() -> None:
    @activity
    async def env_add(number: int) -> int:
        return number + 1

    @workflow
    async def env_carries(until: int, total: int = 0) -> int:
        while total < until:
            await checkpoint(total=total)  # At its head: the first drive must not begin anew.
            total = await env_add(total)
            await checkpoint(total=total)
        return total

    @workflow
    async def env_in_flight(done: bool = False) -> str:
        if done:
            return "anew"
        waits = asyncio.create_task(asyncio.sleep(60))
        await env_add(1)
        await checkpoint(done=True)
        await waits
        return "the first"

    async with Environment(amnesia=True) as env:
        handle = await env.client.start(env_carries, 5)
        assert await handle.result() == 5
        runs = await env.client.list(workflow_id=handle.workflow_id)
        assert len(runs.items) == 6
        assert await env.client.run(env_in_flight) == "the first"


async def test_everything_at_once_is_noticed_by_no_right_code() -> None:
    @activity(retry=Retry(delay=5))
    async def env_fetch(number: int) -> int:
        return number

    @workflow
    async def env_right(until: int, at: int = 0, total: int = 0) -> int:
        while at < until:
            total += await env_fetch(at)
            at += 1
            await asyncio.sleep(3600)
            await checkpoint(at=at, total=total)
        return total

    async with Environment(always_replay=True, amnesia=True) as env:
        env.fail(env_fetch, OSError("down"), times=2)
        handle = await env.client.start(env_right, 6)
        await env.advance(hours=2)
        await env.restart_worker()
        assert await handle.result() == 15


async def test_an_environment_says_what_is_wrong_with_its_use() -> None:
    @workflow
    async def env_sleeper() -> None:
        await env.sleep(1)

    env = Environment()
    with pytest.raises(EverlongError, match="not open"):
        await env.restart_worker()
    with pytest.raises(EverlongError, match="this Environment is not open"):
        _ = env.now
    with pytest.raises(EverlongError, match="this Environment is not open"):
        env.skipping(False)
    with pytest.raises(ValueError, match="patience=0"):
        Environment(patience=0)
    async with env:
        with pytest.raises(EverlongError, match="open already"):
            async with env:
                pass
        with pytest.raises(Exception, match="use asyncio's"):
            await env.client.run(env_sleeper)
    with pytest.raises(EverlongError, match="this Environment is not open"):
        await env.advance(days=1)


async def test_environments_know_nothing_of_each_other() -> None:
    @workflow
    async def env_alone(days: int) -> int:
        await asyncio.sleep(days * 24 * 3600)
        return days

    async with Environment() as one, Environment() as other:
        first, second = await asyncio.gather(
            one.client.run(env_alone, 1, id="a"), other.client.run(env_alone, 9, id="a")
        )
        assert (first, second) == (1, 9)
        assert (other.now - one.now).days == 8


async def test_nothing_is_left_behind_by_an_environment_that_is_left_early() -> None:
    entered = asyncio.Event()

    @activity
    async def env_endless() -> None:
        entered.set()
        await asyncio.Event().wait()

    @workflow
    async def env_left() -> None:
        await env_endless()

    before = asyncio.all_tasks()
    async with Environment() as env:
        handle = await env.client.start(env_left)
        await entered.wait()
        await described(handle, lambda found: found.activities)
    assert asyncio.all_tasks() == before
