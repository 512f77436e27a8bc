"""Cancellation on replay: every race has one recorded outcome, and `finally` is durable."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from everlong import Signal, WorkflowInfo, activity, info, wait_condition, workflow
from everlong_engine import (
    ActivityCancelled,
    ActivityCancelRequested,
    ActivityScheduled,
    ChildClosed,
    RunCancelled,
    RunCompleted,
)
from tests.support.fresh_processes import outputs
from tests.support.run_by_hand import RunByHand, pairs, replayed

REPLAYS = 100

ready: Signal[str] = Signal("replay-cancelling-ready", str)


@activity(name="cancelling step")
async def step(name: str) -> str:
    return name


@activity(name="cancelling patient step", on_cancel="wait")
async def patient(name: str) -> str:
    return name


def kinds(run: RunByHand) -> list[str]:
    return [type(one.event).__name__ for one in run.history]


def replayed_often(run: RunByHand) -> RunByHand:
    for _ in range(REPLAYS):
        run.replay()
    return run


# ----------------------------------------------------------------------------------- races


@workflow(name="cancelling-one-after-the-other")
async def one_after_the_other() -> list[str]:
    done: list[str] = []
    try:
        while len(done) < 10:
            done += [await step(str(len(done)))]
    except asyncio.CancelledError:
        await step("cleaned up")
        raise
    return done


@pytest.mark.parametrize("first", ["completion", "cancellation"])
def test_a_cancellation_that_meets_a_completion_is_not_lost(first: str) -> None:
    run = RunByHand(one_after_the_other)
    if first == "completion":
        run.complete(1, "0")
        run.cancel("enough")
        cleaning = 3
    else:
        run.cancel("enough")
        assert not run.code.is_open(1)  # The worker drops the completion: it comes too late.
        cleaning = 2
    run.complete(cleaning, "cleaned up")
    assert run.closing == RunCancelled("enough")
    replayed_often(run)


@workflow(name="cancelling-a-condition")
async def on_condition() -> str:
    seen: list[str] = []

    async def listen() -> None:
        seen.append(await ready.receive())

    listening = asyncio.ensure_future(listen())
    try:
        await wait_condition(lambda: seen)
    except asyncio.CancelledError:
        return f"cancelled, saw {seen}"
    finally:
        listening.cancel()
    await step("after")
    return f"saw {seen}"


@pytest.mark.parametrize("first", ["signal", "cancellation"])
def test_a_cancellation_that_meets_a_true_condition_has_one_outcome(first: str) -> None:
    run = RunByHand(on_condition)
    if first == "signal":
        run.signal("replay-cancelling-ready", "it")
        run.cancel()
        assert run.closing == RunCancelled("enough")
    else:
        run.cancel()
        assert run.result() == "cancelled, saw []"
    replayed_often(run)


@workflow(name="cancelling-in-one-drive")
async def in_one_drive() -> list[str]:
    """One task makes the condition true and cancels the one that waits for it, in one drive."""
    flag = False
    log: list[str] = []

    async def waits(name: str) -> None:
        try:
            await wait_condition(lambda: flag)
        except asyncio.CancelledError:
            log.append(f"{name} cancelled")
            raise
        log.append(f"{name} saw it")

    tasks = [asyncio.ensure_future(waits(name)) for name in ("one", "two", "three")]
    await ready.receive()
    flag = True
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return log


def test_a_condition_and_a_cancellation_in_one_drive() -> None:
    run = RunByHand(in_one_drive)
    run.signal("replay-cancelling-ready", "now")
    assert run.result() == ["two cancelled", "one saw it", "three saw it"]
    replayed_often(run)


# ---------------------------------------------------------------------------------- a state


@workflow(name="cancelling-swallowed")
async def swallowed() -> list[str]:
    log: list[str] = []
    for number in range(3):
        try:
            await step(str(number))
        except asyncio.CancelledError as error:
            log += [str(error), str(info(WorkflowInfo).cancel_reason)]
    return log


def test_it_is_delivered_once_and_remembered() -> None:
    run = RunByHand(swallowed)
    run.cancel("first")
    run.cancel("second")
    run.complete(2, "1")
    run.complete(3, "2")
    assert run.result() == ["first", "first"]
    replayed_often(run)


@workflow(name="cancelling-a-loop-of-short-steps")
async def loop_of_short_steps() -> None:
    while True:
        await step("short")


def test_a_loop_of_short_activities_cannot_swallow_it() -> None:
    """Wherever it comes between the completions: before, behind, or after many."""
    for completions in range(6):
        run = RunByHand(loop_of_short_steps)
        for number in range(completions):
            run.complete(number + 1, "short")
        run.cancel("enough")
        assert run.closing == RunCancelled("enough")
        run.replay()


@workflow(name="cancelling-with-time-limits")
async def with_time_limits() -> None:
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(step("short"), 5)
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await step("short")


def test_time_limits_around_steps_do_not_swallow_it_either() -> None:
    for inputs in range(8):
        run = RunByHand(with_time_limits)
        for number in range(inputs):
            if number % 3 == 2:
                run.fire_next()
            else:
                run.complete(min(run.open_activities), "short")
        run.cancel("enough")
        assert run.closing == RunCancelled("enough")
        run.replay()


# -------------------------------------------------------------------------------- who waits


@workflow(name="cancelling-patiently")
async def patiently() -> str:
    try:
        async with asyncio.timeout(10):
            await patient("long")
    except TimeoutError:
        return await step("timed out")
    return "done"


def test_who_waits_for_the_end_is_woken_by_it_alone() -> None:
    run = RunByHand(patiently)
    run.fire_next()
    (number,) = run.open_activities
    assert run.state.activities[number].cancel_requested
    assert run.code.in_flight() == ["activity cancelling patient step"]
    run.feed(ActivityCancelled(number, "completed", 1))
    (after,) = run.open_activities
    run.complete(after, "timed out")
    assert run.result() == "timed out"
    replayed_often(run)
    for length in pairs(run.history):
        replayed(patiently, run.history[:length]).discard()


@workflow(name="cancelling-patiently-twice")
async def patiently_twice() -> str:
    task = asyncio.ensure_future(patient("long"))
    await asyncio.sleep(1)
    task.cancel("one")
    await asyncio.sleep(1)
    task.cancel("two")
    try:
        await task
    except asyncio.CancelledError as error:
        return f"{error} of {task.cancelling()}"
    return "done"


def test_it_is_asked_once_whoever_asks_again() -> None:
    run = RunByHand(patiently_twice)
    run.fire_next()
    run.fire_next()
    assert kinds(run).count("ActivityCancelRequested") == 1
    (number,) = run.open_activities
    run.feed(ActivityCancelled(number, "stopped", 1))
    assert run.result() == "one of 2"
    replayed_often(run)


def test_the_option_in_force_is_the_recorded_one() -> None:
    """Code that says something else today must not change what the history has begun."""
    run = RunByHand(patiently)
    history = list(run.history)
    scheduled = history[2].event
    assert isinstance(scheduled, ActivityScheduled)
    impatient = replace(scheduled, options=replace(scheduled.options, on_cancel="try"))
    history[2] = replace(history[2], event=impatient)
    again = RunByHand.resumed(patiently, history)
    again.fire_next()
    (after,) = again.open_activities
    assert after > scheduled.activity_id
    again.complete(after, "timed out")
    assert again.result() == "timed out"
    again.replay()


# --------------------------------------------------------------------------- what is shielded


@workflow(name="cancelling-shielded")
async def shielded(how: str) -> str:
    async def careful() -> str:
        return await step("careful") + await step("and careful")

    try:
        await ready.receive()
    finally:
        if how == "asyncio":
            cleaning = asyncio.ensure_future(careful())
            while not cleaning.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(cleaning)
        else:
            with anyio.CancelScope(shield=True):
                await careful()
    return "not reached"


@pytest.mark.parametrize("how", ["asyncio", "anyio"])
def test_shielded_cleanup_completes(how: str) -> None:
    run = RunByHand(shielded, how)
    run.cancel("enough")
    run.cancel("again")
    run.complete(1, "a")
    run.complete(2, "b")
    assert run.closing == RunCancelled("enough")
    replayed_often(run)


@workflow(name="cancelling-an-anyio-group")
async def anyio_group(children: int) -> None:
    async def child(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await step(f"cleanup {number}")

    async with anyio.create_task_group() as group:
        for number in range(children):
            group.start_soon(child, number)


def test_shielded_cleanup_in_every_child_of_a_group_completes() -> None:
    run = RunByHand(anyio_group, 3)
    run.cancel("enough")
    assert len(run.open_activities) == 3
    for number in sorted(run.open_activities):
        run.complete(number, "")
    assert run.closing == RunCancelled("enough")
    replayed_often(run)


@workflow(name="cancelling-inside-a-shield")
async def inside_a_shield() -> str:
    with anyio.CancelScope(shield=True):
        await step("must be done")
        await step("this too")
    await step("not begun")
    return "not reached"


def test_a_cancellation_waits_until_a_shielded_scope_is_left() -> None:
    run = RunByHand(inside_a_shield)
    run.cancel("enough")
    assert list(run.open_activities) == [1]
    run.complete(1, "")
    run.complete(2, "")
    assert run.closing == RunCancelled("enough")
    assert kinds(run).count("ActivityScheduled") == 2
    replayed_often(run)


# ------------------------------------------------------------------------ locks and semaphores


@workflow(name="cancelling-holders")
async def holders(kind: str) -> list[str]:
    gate: Any = asyncio.Lock() if kind == "lock" else asyncio.Semaphore(1)
    log: list[str] = []

    async def work(name: str) -> None:
        async with gate:
            log.append(name)
            await step(name)

    tasks = [asyncio.ensure_future(work(name)) for name in "abcd"]
    await asyncio.sleep(1)
    tasks[0].cancel()  # It holds; the next in line gets it.
    tasks[2].cancel()  # It waits; the line closes behind it.
    await asyncio.sleep(1)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not gate.locked()
    return log


@pytest.mark.parametrize("kind", ["lock", "semaphore"])
def test_a_cancelled_holder_hands_on_and_a_cancelled_waiter_leaves_no_hole(kind: str) -> None:
    run = RunByHand(holders, kind)
    run.fire_next()
    run.fire_next()
    (last,) = run.open_activities
    run.complete(last, "d")
    assert run.result() == ["a", "b", "d"]
    replayed_often(run)


@workflow(name="cancelling-patient-child")
async def patient_child() -> None:
    await ready.receive()


@workflow(name="cancelling-twice")
async def twice(*, child: bool, within: str) -> str:
    """The inner limit asks the call to stop, which takes its time; then comes the outer one."""
    call = patient_child if child else partial(patient, "it")
    if within == "anyio":
        with anyio.move_on_after(2):
            async with asyncio.timeout(1):
                await call()
        return "moved on"
    try:
        async with asyncio.timeout(2):
            with anyio.move_on_after(1):
                await call()
            return "the inner one took it"
    except TimeoutError:
        return "timed out"


@pytest.mark.parametrize("child", [False, True])
@pytest.mark.parametrize(("within", "told"), [("anyio", "moved on"), ("asyncio", "timed out")])
def test_the_outer_of_two_limits_takes_what_both_have_cancelled(
    within: str, told: str, *, child: bool
) -> None:
    run = RunByHand(twice, child=child, within=within)
    run.fire_next()
    run.fire_next()
    assert run.closing is None
    (number,) = run.state.children if child else run.state.activities
    if child:
        run.feed(ChildClosed(number, bytes(16), "cancelled", reason="told to"))
    else:
        run.feed(ActivityCancelled(number, "stopped", 1))
    assert run.result() == told
    replayed_often(run)


# --------------------------------------------------------------------------- in fresh processes


@workflow(name="cancelling-siblings")
async def siblings(count: int) -> None:
    async def one(number: int) -> None:
        try:
            await (patient if number % 3 == 0 else step)(f"work {number}")
        finally:
            await step(f"cleanup {number}")

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))


def cancelled_siblings() -> str:
    run = RunByHand(siblings, 20)
    run.cancel("enough")
    while run.closing is None:
        for number, it in run.state.activities.items():
            if it.cancel_requested:
                run.feed(ActivityCancelled(number, "stopped", 1))
            else:
                run.complete(number, "")
            break
    run.replay()
    names = [
        one.event.activity_id
        if isinstance(one.event, ActivityCancelRequested)
        else bytes(one.event.arguments)
        for one in run.history
        if isinstance(one.event, ActivityCancelRequested | ActivityScheduled)
    ]
    return f"{names} {run.closing}"


def test_cleanup_of_siblings_is_in_the_same_order_in_every_process() -> None:
    script = """
        from tests.replay.test_cancelling import cancelled_siblings
        print(cancelled_siblings())
    """
    (told,) = outputs(script, processes=8)
    assert "RunCancelled" in told


@workflow(name="cancelling-completed")
async def completed() -> str:
    return await asyncio.shield(step("it"))


def test_what_is_over_cannot_be_cancelled() -> None:
    run = RunByHand(completed)
    run.complete(1, "it")
    assert isinstance(run.closing, RunCompleted)
    assert run.result() == "it"
