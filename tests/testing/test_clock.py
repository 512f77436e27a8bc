"""Every feature that has to do with time, on the environment's clock."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings, strategies as st

from everlong import (
    ActivityLost,
    ActivityTimeout,
    ApplicationError,
    Output,
    Retry,
    Signal,
    Update,
    WorkflowFailed,
    WorkflowTimedOut,
    activity,
    approval,
    checkpoint,
    complete_later,
    now,
    wait_condition,
    workflow,
)
from everlong.testing import Environment

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
STEADY = Retry(delay=10.0, backoff=2.0, jitter=0.0, delay_max=10_000.0, max_attempts=4)


async def test_thirty_days_pass_while_the_test_waits_for_the_result() -> None:
    @workflow
    async def env_month() -> datetime:
        await asyncio.sleep(30 * 24 * 3600)
        return now()

    async with Environment() as env:
        assert env.now == START
        assert await env.client.run(env_month) == START + 30 * DAY
        assert env.now == START + 30 * DAY


async def test_time_stands_still_while_the_test_does_something_else() -> None:
    answer = Signal("env-answer", str)

    @workflow
    async def env_ask() -> str:
        try:
            async with asyncio.timeout(60):
                return await answer.receive()
        except TimeoutError:
            return "nobody"

    async with Environment() as env:
        handle = await env.client.start(env_ask)
        await env.settled()
        for _ in range(100):
            await asyncio.sleep(0)
        assert env.now == START
        await handle.signal(answer, "yes")
        assert await handle.result() == "yes"
        assert env.now == START
        assert await env.client.run(env_ask) == "nobody"
        assert env.now == START + timedelta(seconds=60)


async def test_the_clock_is_moved_by_hand_through_all_that_is_due() -> None:
    ticks: list[datetime] = []

    @activity
    async def env_tick() -> None:
        ticks.append(env.now)

    @workflow
    async def env_ticking() -> None:
        for _ in range(5):
            await asyncio.sleep(3600)
            await env_tick()

    async with Environment() as env:
        await env.client.start(env_ticking)
        await env.advance(hours=3, minutes=30)
        assert ticks == [START + timedelta(hours=hour) for hour in (1, 2, 3)]
        assert env.now == START + timedelta(hours=3.5)
        await env.advance(timedelta(hours=10))
        assert len(ticks) == 5
        assert env.now == START + timedelta(hours=13.5)


async def test_without_skipping_only_the_hand_moves_time() -> None:
    @workflow
    async def env_hour() -> str:
        await asyncio.sleep(3600)
        return "over"

    async with Environment() as env:
        handle = await env.client.start(env_hour)
        with env.skipping(False):
            waiting = asyncio.ensure_future(handle.result())
            await env.settled()
            assert not waiting.done()
            await env.advance(minutes=59)
            assert not waiting.done()
            await env.advance(minutes=1)
            assert await waiting == "over"
        assert await env.client.run(env_hour) == "over"
        assert env.now == START + timedelta(hours=2)


@pytest.mark.parametrize("cache_size", [None, 0])
async def test_retries_wait_for_their_back_off(cache_size: int | None) -> None:
    @activity(retry=STEADY)
    async def env_flaky() -> str:
        raise OSError("down")

    @workflow
    async def env_retrying() -> str:
        return await env_flaky()

    async with Environment(cache_size=cache_size) as env:
        with pytest.raises(WorkflowFailed):
            await env.client.run(env_retrying)
        begun = [call.at - START for call in env.calls(env_flaky)]
        assert begun == [timedelta(seconds=seconds) for seconds in (0, 10, 30, 70)]


async def test_a_failure_may_choose_its_own_delay() -> None:
    @activity(retry=STEADY)
    async def env_busy() -> str:
        return "done"

    @workflow
    async def env_asked_to_wait() -> str:
        return await env_busy()

    async with Environment() as env:
        env.fail(env_busy, ApplicationError("later", next_delay=timedelta(days=2)))
        assert await env.client.run(env_asked_to_wait) == "done"
        assert env.now == START + 2 * DAY


async def test_each_timeout_of_an_activity_ends_an_attempt_that_hangs() -> None:
    once = Retry(max_attempts=1)

    @activity(retry=once)
    async def env_hanging() -> None: ...

    @workflow
    async def env_times(which: str) -> str:
        options = {
            "start_to_close": env_hanging.options(timeout=60),
            "schedule_to_close": env_hanging.options(schedule_to_close=120),
            "heartbeat": env_hanging.options(heartbeat_timeout=180),
        }
        try:
            await options[which]()
        except ActivityTimeout as error:
            return error.kind
        return "none"

    async with Environment() as env:
        passed = START
        for which, seconds in (("start_to_close", 60), ("schedule_to_close", 120)):
            env.time_out(env_hanging)
            assert await env.client.run(env_times, which) == which
            passed += timedelta(seconds=seconds)
            assert env.now == passed
        env.time_out(env_hanging)
        assert await env.client.run(env_times, "heartbeat") == "heartbeat"
        assert env.now == passed + timedelta(seconds=180)


async def test_an_activity_may_wait_too_long_for_a_slot() -> None:
    @activity
    async def env_slow() -> None: ...

    @workflow
    async def env_queue() -> str:
        first = asyncio.create_task(env_slow())
        await asyncio.sleep(1)
        try:
            await env_slow.options(schedule_to_start=30)()
        except ActivityTimeout as error:
            return error.kind
        finally:
            await first
        return "none"

    async with Environment(activity_slots=1) as env:
        env.fake(env_slow, lambda: env.sleep(hours=1))
        assert await env.client.run(env_queue) == "schedule_to_start"
        assert env.now == START + timedelta(hours=1)


async def test_schedule_to_close_ends_a_row_of_retries() -> None:
    @activity(retry=Retry(delay=60, backoff=1, jitter=0), schedule_to_close=600)
    async def env_down() -> None: ...

    @workflow
    async def env_gives_up() -> str:
        try:
            await env_down()
        except ActivityTimeout as error:
            return error.kind
        return "none"

    async with Environment() as env:
        env.fake(env_down, raises=OSError("down"))
        assert await env.client.run(env_gives_up) == "schedule_to_close"
        assert env.now == START + timedelta(seconds=600)
        assert len(env.calls(env_down)) == 10


async def test_what_is_to_be_completed_later_times_out() -> None:
    @activity(timeout=3600, retry=Retry(max_attempts=1))
    async def env_boss() -> bool:
        complete_later()

    @workflow
    async def env_ask_boss() -> str:
        try:
            return str(await env_boss())
        except ActivityTimeout as error:
            return error.kind

    async with Environment() as env:
        assert await env.client.run(env_ask_boss) == "start_to_close"
        assert env.now == START + timedelta(hours=1)


async def test_conditions_approvals_and_timers_wait_on_the_clock() -> None:
    @workflow
    async def env_waits() -> list[str]:
        seen: list[str] = []
        for wait in (
            lambda: wait_condition(lambda: False, timeout=DAY),
            lambda: approval("May it?", timeout=DAY),
            lambda: asyncio.wait_for(asyncio.Event().wait(), 24 * 3600),
        ):
            try:
                await wait()
            except TimeoutError:
                seen.append(f"{now():%d}")
        return seen

    async with Environment() as env:
        assert await env.client.run(env_waits) == ["02", "03", "04"]
        assert env.now == START + 3 * DAY


async def test_runs_and_executions_time_out() -> None:
    @workflow
    async def env_for_ever() -> None:
        while True:
            await asyncio.sleep(7 * 3600)
            await checkpoint()

    async with Environment(amnesia=True) as env:
        handle = await env.client.start(env_for_ever, execution_timeout=DAY)
        with pytest.raises(WorkflowTimedOut):
            await handle.result()
        assert env.now == START + DAY
        with pytest.raises(WorkflowTimedOut):
            await (await env.client.start(env_for_ever, run_timeout=3600)).result()
        assert env.now == START + DAY + timedelta(hours=1)


async def test_closed_runs_go_when_their_retention_has_passed() -> None:
    @workflow
    async def env_short() -> str:
        return "over"

    async with Environment() as env:
        await env.client.run(env_short, id="old")
        await env.advance(days=29)
        assert [one.workflow_id for one in (await env.client.list()).items] == ["old"]
        await env.advance(days=2)
        assert not (await env.client.list()).items


async def test_who_waits_for_an_update_or_an_item_lets_time_pass() -> None:
    items = Output("env-items", int)
    ask = Update("env-ask-later", int)

    @workflow
    async def env_publishes() -> None:
        @ask.handler
        async def _() -> int:
            await asyncio.sleep(3600)
            return 1

        for number in range(3):
            await asyncio.sleep(24 * 3600)
            await items.publish(number)

    async with Environment() as env:
        handle = await env.client.start(env_publishes)
        assert await handle.update(ask) == 1
        assert env.now == START + timedelta(hours=1)
        assert [item async for item in handle.subscribe(items)] == [0, 1, 2]
        assert env.now == START + 3 * DAY


async def test_a_child_and_a_task_of_the_test_live_by_the_same_clock() -> None:
    go = Signal("env-go", str)

    @workflow
    async def env_child() -> str:
        return await go.receive()

    @workflow
    async def env_parent() -> str:
        return await env_child.options(id="env-child")()

    async with Environment() as env:

        async def customer() -> None:
            await env.sleep(days=2)
            await env.client.get_handle("env-child").signal(go, f"{env.now:%d}")

        asking = asyncio.ensure_future(customer())
        assert await env.client.run(env_parent) == "03"
        await asking


async def test_time_stands_still_while_a_real_activity_runs() -> None:
    release = threading.Event()
    entered = asyncio.Event()

    @activity
    def env_in_a_thread() -> str:
        loop.call_soon_threadsafe(entered.set)
        assert release.wait(20)
        return "real"

    @workflow
    async def env_races() -> str:
        work = asyncio.create_task(env_in_a_thread())
        done, _ = await asyncio.wait({work}, timeout=24 * 3600)
        return work.result() if done else "late"

    loop = asyncio.get_running_loop()
    async with Environment() as env:
        result = asyncio.ensure_future(env.client.run(env_races))
        await entered.wait()
        for _ in range(200):
            await asyncio.sleep(0)
        assert env.now == START
        release.set()
        assert await result == "real"
        assert env.now == START


async def test_runs_that_sleep_in_the_store_are_woken_by_the_clock() -> None:
    @workflow
    async def env_naps(naps: int) -> int:
        for _ in range(naps):
            await asyncio.sleep(3600)
        return naps

    async with Environment(cache_size=0) as env:
        handles = [await env.client.start(env_naps, naps) for naps in (3, 1, 2)]
        await env.advance(hours=2)
        statuses = [(await handle.describe()).status for handle in handles]
        assert statuses == ["running", "completed", "completed"]
        assert await handles[0].result() == 3
        assert env.now == START + timedelta(hours=3)


@settings(max_examples=40, deadline=None)
@given(
    waits=st.lists(st.integers(0, 10**6), max_size=5),
    failures=st.integers(0, 3),
    cached=st.booleans(),
)
async def test_the_clock_shows_the_sum_of_all_that_was_waited_for(
    waits: list[int], failures: int, cached: bool
) -> None:
    @activity(retry=STEADY)
    async def env_sum_step() -> None: ...

    @workflow
    async def env_sum(waits: list[int]) -> datetime:
        for wait in waits:
            await asyncio.sleep(wait)
        await env_sum_step()
        return now()

    async with Environment(cache_size=None if cached else 0) as env:
        env.fake(env_sum_step, returns=None)
        if failures:
            env.fail(env_sum_step, OSError("down"), times=failures)
        expected = START + timedelta(seconds=sum(waits) + sum((10, 20, 40)[:failures]))
        assert await env.client.run(env_sum, waits) == expected
        assert env.now == expected


async def test_the_same_test_has_the_same_ids_and_instants_each_time() -> None:
    @activity(retry=Retry(jitter=0.5))
    async def env_same() -> None: ...

    @workflow
    async def env_again() -> None:
        await env_same()

    seen: list[tuple[str, datetime]] = []
    for _ in range(2):
        async with Environment() as env:
            env.fail(env_same, OSError("down"), times=3)
            handle = await env.client.start(env_again)
            await handle.result()
            seen.append((handle.workflow_id, env.now))
    assert seen[0] == seen[1]


async def test_a_lost_attempt_of_something_at_most_once_is_its_end() -> None:
    @activity(at_most_once=True)
    async def env_once() -> None: ...

    @activity(retry=STEADY)
    async def env_more() -> str:
        return "done"

    @workflow
    async def env_loses() -> str:
        try:
            await env_once()
        except ActivityLost:
            return await env_more()
        return "never lost"

    async with Environment() as env:
        env.lose(env_once)
        env.lose(env_more)
        assert await env.client.run(env_loses) == "done"
        assert [call.attempt for call in env.calls(env_more)] == [1, 2]


@pytest.mark.parametrize(
    "wrong", [{"days": -1}, {"duration": -1.0}, {"duration": timedelta(days=200 * 365)}]
)
async def test_time_neither_runs_backwards_nor_for_centuries(wrong: dict[str, float]) -> None:
    async with Environment() as env:
        with pytest.raises(ValueError, match="between 0 seconds and 100 years"):
            await env.advance(**wrong)
        assert env.now == START


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Environment(start=datetime(2026, 1, 1))  # noqa: DTZ001
