"""Dropping a run at each of its awaits: nothing durable happens, and nothing is left behind.

Each program below is driven to every state in which it can wait, and discarded there. Its `finally`
blocks, context managers, generators and tasks all try to do something on their way out.
"""

# tidy: this file sleeps because its time is the run's, and moves by hand.

import asyncio
import gc
import logging
import sys
import time
import warnings
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import pytest

from everlong import (
    ForbiddenCall,
    Signal,
    WorkflowFault,
    activity,
    checkpoint,
    patched,
    side_effect,
    workflow,
)
from tests.support.run_by_hand import RunByHand, discard_all

ledger: list[str] = []
"""What the programs did outside themselves. It must stay empty."""

news: Signal[int] = Signal("discard.news", int)


@activity(name="discard.act")
async def act(name: str) -> str:
    ledger.append(name)
    return name


Program = Callable[[], Awaitable[object]]
programs: dict[str, Program] = {}


def program(function: Program) -> Program:
    programs[getattr(function, "__name__", "")] = function
    return function


@workflow(name="discard.plays")
async def plays(name: str) -> None:
    await programs[name]()


@program
async def cleanup_in_finally() -> None:
    try:
        await act("work")
    finally:
        await act("clean up")


@program
async def nested_finally() -> None:
    try:
        try:
            await asyncio.sleep(1)
        finally:
            try:
                await act("inner")
            finally:
                await asyncio.sleep(1)
                await act("outer")
    finally:
        await side_effect(lambda: ledger.append("side effect"))
        await act("outermost")


@program
async def catches_everything() -> None:
    for name in "abc":
        try:
            await act(name)
        except BaseException:
            await act(f"instead of {name}")


@program
async def swallows_everything() -> None:
    for name in "abc":
        with suppress(BaseException):
            await act(name)


@program
async def decides_on_its_way_out() -> None:
    try:
        await news.receive()
    finally:
        if patched("on the way out"):
            ledger.append("patched")
        await checkpoint()
        ledger.append("checkpoint")


@asynccontextmanager
async def resource(name: str) -> AsyncGenerator[str, None]:
    await act(f"open {name}")
    try:
        yield name
    finally:
        await act(f"close {name}")


@program
async def context_managers() -> None:
    async with resource("a") as a, resource("b"), AsyncExitStack() as stack:
        await stack.enter_async_context(resource("c"))
        stack.push_async_callback(lambda: act("callback"))
        await act(f"use {a}")


@program
async def async_generators() -> None:
    async for value in numbers():
        await act(f"use {value}")
    async with aclosing(numbers()) as source:
        async for value in source:
            await act(f"use {value}")
            break


async def numbers() -> AsyncGenerator[str, None]:
    try:
        for number in range(2):
            await act(f"fetch {number}")
            yield str(number)
    finally:
        await act("close the generator")


@program
async def a_generator_left_half_way() -> None:
    source = numbers()
    first = await anext(source)
    await act(first)
    other = numbers()
    await anext(other)
    await act("more")


@program
async def nested_tasks() -> None:
    async def child(depth: int) -> None:
        try:
            if depth:
                async with asyncio.TaskGroup() as group:
                    group.create_task(child(depth - 1))
                    group.create_task(child(depth - 1))
            await act(f"at {depth}")
        finally:
            await act(f"undo {depth}")

    await child(2)


@program
async def gathered_cleanup() -> None:
    async def undo(name: str) -> None:
        await act(f"undo {name}")

    try:
        await asyncio.gather(act("a"), act("b"), asyncio.sleep(3))
    finally:
        await asyncio.gather(undo("a"), undo("b"), act("c"))


@program
async def coroutines_kept_for_later() -> None:
    for one in [act("a"), act("b"), act("c")]:
        await one


@program
async def background_tasks() -> None:
    async def forever() -> None:
        while True:
            try:
                await asyncio.sleep(1)
            except BaseException:
                await act("one more thing")
                raise
            await act("tick")

    task = asyncio.create_task(forever())
    task.add_done_callback(lambda _: ledger.append("done callback"))
    await act("meanwhile")
    task.cancel()
    await asyncio.wait([task])


@program
async def shielded() -> None:
    async def careful() -> None:
        try:
            await act("careful")
        finally:
            await act("carefully closed")

    try:
        await asyncio.wait_for(asyncio.shield(careful()), 1)
    except TimeoutError:
        await act("too late")


@program
async def timeouts_and_waits() -> None:
    tasks = [asyncio.ensure_future(act(name)) for name in "ab"]
    try:
        async with asyncio.timeout(5):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for done in asyncio.as_completed([act("c"), asyncio.sleep(2)]):
            await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@program
async def locks_and_queues() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    lock, condition = asyncio.Lock(), asyncio.Condition()

    async def produce() -> None:
        for number in range(3):
            async with lock:
                await act(f"make {number}")
            await queue.put(number)
        async with condition:
            condition.notify_all()

    async def consume() -> None:
        try:
            for _ in range(3):
                await act(f"take {await queue.get()}")
        finally:
            async with lock:
                await act("stop")

    async def wait() -> None:
        async with condition:
            await condition.wait()

    await asyncio.gather(produce(), consume(), wait())


@program
async def anyio_scopes() -> None:
    with anyio.CancelScope(shield=True):
        try:
            with anyio.move_on_after(5):
                await act("in a scope")
        finally:
            await act("shielded")
    async with anyio.create_task_group() as group:
        group.start_soon(act, "a")
        group.start_soon(anyio.sleep, 2)
        try:
            await act("b")
        finally:
            with anyio.CancelScope(shield=True):
                await act("clean up")


@program
async def anyio_streams() -> None:
    sender, receiver = anyio.create_memory_object_stream[str](0)

    async def send() -> None:
        async with sender:
            for name in "ab":
                await sender.send(await act(name))

    async with anyio.create_task_group() as group, receiver:
        group.start_soon(send)
        async for name in receiver:
            await act(f"got {name}")


@program
async def awaits_again_and_again() -> None:
    for _ in range(20):
        try:
            await asyncio.sleep(1)
        except BaseException:
            await asyncio.sleep(0)


@program
async def raises_another_error() -> None:
    try:
        await act("work")
    finally:
        raise RuntimeError("of the code's own")


@program
async def cancelled_already() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await act("work")
    finally:
        await act("clean up")


@program
async def a_task_that_has_not_begun() -> None:
    async def late() -> None:
        await act("late")

    await act("first")
    asyncio.create_task(late()).add_done_callback(lambda _: None)


# ---------------------------------------------------------------------------------- the checks


def advance(run: RunByHand) -> bool:
    """Feed whatever the run waits for; False at the end."""
    if run.closing is not None:
        return False
    if run.open_activities:
        run.complete(next(iter(run.open_activities)), "")
    elif run.pending_timers:
        run.fire_next()
    else:
        run.signal("discard.news", 1)
    return True


def driven(name: str, inputs: int) -> RunByHand | None:
    """The program behind so many inputs; None when it has ended before."""
    run = RunByHand(plays, name)
    for _ in range(inputs):
        if not advance(run):
            return None
    return run


def states(name: str) -> Iterator[tuple[int, RunByHand]]:
    for inputs in range(60):
        run = driven(name, inputs)
        if run is None:
            return
        yield inputs, run
    raise AssertionError(f"{name} does not end")


def decided(run: RunByHand) -> tuple[list[object], int, bool]:
    """The decisions of the last drive, the numbers given away, and whether the run has ended."""
    inside = vars(run.code)
    return list(inside["made"]), inside["last_id"], run.code.closed


@contextmanager
def all_quiet(caplog: pytest.LogCaptureFixture) -> Generator[None, None, None]:
    """Whatever would be told only in passing is told here."""
    unraisable: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda it: unraisable.append(f"{it.err_msg}: {it.exc_value!r}")
    try:
        with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
            warnings.simplefilter("always")
            yield
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert unraisable == []
    assert [str(one.message) for one in caught] == []
    assert caplog.messages == []


@pytest.fixture(autouse=True)
def empty_ledger() -> None:
    ledger.clear()


@pytest.mark.parametrize("name", programs)
def test_a_discard_at_any_await_does_nothing_durable(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    count = 0
    with all_quiet(caplog):
        for _, run in states(name):
            before = decided(run)
            ledger.clear()
            run.discard()
            assert ledger == []
            assert decided(run) == before
            assert not run.code.loop.ready
            count += 1
            del run
        discard_all()
    assert count > 1


@pytest.mark.parametrize("name", programs)
def test_every_frame_is_closed_at_once(name: str) -> None:
    for _, run in states(name):
        frames = list(suspended(run))
        run.discard()
        assert frames
        assert [one for one in frames if getattr(one, "cr_frame", None) is not None] == []


def suspended(run: RunByHand) -> Iterator[Any]:
    """The coroutines of every task, outermost first."""
    for task in run.code.loop.tasks:
        at: Any = task.get_coro()
        while hasattr(at, "cr_frame"):
            yield at
            at = at.cr_await


# Their libraries tie a knot of their own: a shield and a Timeout know their task, and the other way
# round, an exit stack its callbacks. The collector finds closed frames in it, and nothing to run.
KNOTTED = {"anyio_scopes", "anyio_streams", "context_managers", "shielded", "timeouts_and_waits"}


@pytest.mark.parametrize("name", sorted(programs.keys() - KNOTTED))
def test_nothing_is_left_to_the_garbage_collector(name: str) -> None:
    inputs = 0
    while (run := driven(name, inputs)) is not None:
        gc.collect()
        gc.disable()
        try:
            left = weakrefs(run)
            run.discard()
            forget(run)
            del run
            alive = [kind for kind, ref in left if ref() is not None]
        finally:
            gc.enable()
        assert not alive, f"behind {inputs} inputs: {alive}"
        inputs += 1


def weakrefs(run: RunByHand) -> list[tuple[str, "weakref.ref[Any]"]]:
    code = run.code
    frames = [task.get_coro() for task in code.loop.tasks if not task.done()]
    return [
        ("the run", weakref.ref(code)),
        ("the loop", weakref.ref(code.loop)),
        *((repr(frame), weakref.ref(frame)) for frame in frames),
        *((f"{task!r}", weakref.ref(task)) for task in code.loop.tasks),
    ]


def forget(run: RunByHand) -> None:
    run.history.clear()
    discard_all()


@pytest.mark.parametrize("name", programs)
async def test_the_hosting_loop_notices_nothing(name: str) -> None:
    """As in a worker: the drive and the discard stand in a task of another loop."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    tasks = asyncio.all_tasks()
    for _, run in states(name):
        ledger.clear()
        run.discard()
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        assert ledger == []
    assert asyncio.all_tasks() == tasks
    gc.collect()
    await asyncio.sleep(0)


@workflow(name="discard.endless")
async def endless() -> None:
    while True:
        try:
            await asyncio.sleep(1 if len(ledger) < 1 else 0)
        except BaseException:
            ledger.append("no")


def test_code_that_will_not_end_is_named_and_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def hear(it: "sys.UnraisableHookArgs") -> None:
        told.append(str(it.exc_value))

    monkeypatch.setattr(sys, "unraisablehook", hear)
    RunByHand(endless).discard()
    discard_all()
    assert "task main would not end when its run was discarded" in caplog.text
    assert set(told) == {"coroutine ignored GeneratorExit"}, "Python's own word on it"


@workflow(name="discard.faulty")
async def faulty() -> None:
    await asyncio.gather(act("a"), forbidden(), act("b"))
    await act("c")


def forbidden() -> Awaitable[None]:
    getattr(time, "sle" + "ep")(1)
    raise AssertionError("unreachable")


def test_a_fault_between_coroutines_warns_of_none(caplog: pytest.LogCaptureFixture) -> None:
    """They live on in the traceback of the task, until it is discarded."""
    with all_quiet(caplog):
        with pytest.raises(ForbiddenCall) as caught:
            RunByHand(faulty)
        del caught
        discard_all()


def test_a_second_discard_changes_nothing() -> None:
    run = driven("nested_tasks", 1)
    assert run is not None
    run.discard()
    run.discard()


def test_a_coroutine_that_code_forgets_is_a_fault() -> None:
    """Only what a discard drops is nobody's mistake."""
    with pytest.raises(WorkflowFault, match=r"sleep\(…\) was called and never awaited"):
        RunByHand(forgets)


@workflow(name="discard.forgets")
async def forgets() -> None:
    asyncio.sleep(1)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
