"""Faults that the engine finds: the run stops for good, whatever its code catches.

A ledger outside notes everything that user code did; what matters is where it ends.
"""

# tidy: this file sleeps because its time is the run's, and moves by hand.

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from everlong import (
    EndlessDrive,
    ForbiddenCall,
    NondeterminismError,
    Signal,
    WorkflowFault,
    activity,
    checkpoint,
    continue_as_new,
    info,
    side_effect,
    workflow,
)
from everlong_engine import (
    RunContinuedAsNew,
    RunStarted,
    SignalReceived,
    TimerFired,
    pack,
    unpack,
)
from tests.support.run_by_hand import RunByHand, new_code, started

ledger: list[str] = []
go: Signal[int] = Signal("faults.go", int)


@pytest.fixture(autouse=True)
def empty_ledger() -> None:
    ledger.clear()


@activity
async def step(name: str) -> str:
    ledger.append(f"ran {name}")
    return name


def fault_of(main: Any, kind: type[WorkflowFault] = WorkflowFault) -> str:
    """The fault that the first drive of a workflow ends with; its code is discarded."""
    code = new_code(main)
    with pytest.raises(WorkflowFault) as caught:
        code.feed(started(main), 1)
    assert isinstance(caught.value, kind), caught.value
    assert code.loop.stopped
    before = list(ledger)
    code.loop.run_ready()
    assert ledger == before, "something was driven behind the fault"
    code.discard()
    return str(caught.value)


@workflow(name="faults.sleeps")
async def sleeps() -> None:
    async def bystander() -> None:
        ledger.append("the bystander was driven")

    asyncio.create_task(bystander()).add_done_callback(lambda _: None)
    nap: Callable[[float], None] = getattr(time, "sle" + "ep")
    while True:
        try:
            nap(1)
        except BaseException:
            ledger.append("caught")
            await asyncio.sleep(0)
            ledger.append("went on")


def test_a_swallowed_fault_still_stops_the_run() -> None:
    assert "asyncio.sleep" in fault_of(sleeps, ForbiddenCall)
    assert ledger == ["caught"]


Attempt = Callable[[], Awaitable[object]]
attempts: dict[str, Attempt] = {}


def attempt(function: Attempt) -> Attempt:
    attempts[getattr(function, "__name__", "")] = function
    return function


@attempt
async def an_activity() -> object:
    return await step("late")


@attempt
async def a_timer() -> object:
    await asyncio.sleep(5)
    return None


@attempt
async def a_signal() -> object:
    return await go.receive()


@attempt
async def a_side_effect() -> object:
    return await side_effect(lambda: ledger.append("side effect"))


@attempt
async def a_checkpoint() -> object:
    await checkpoint()
    return None


@attempt
async def beginning_anew() -> object:
    continue_as_new()


@attempt
async def a_gather() -> object:
    return await asyncio.gather(step("a"), step("b"))


@attempt
async def a_timeout() -> object:
    async with asyncio.timeout(1):
        return await step("late")


@workflow(name="faults.tries")
async def tries(what: str) -> str:
    try:
        opened: Callable[[str], object] = getattr(sys.modules["os"], "popen")  # noqa: B009
        opened("true")
    except BaseException:
        try:
            await attempts[what]()
        except BaseException as error:
            ledger.append(type(error).__name__)
            return "swallowed"
    finally:
        ledger.append("finally")
    return "unreachable"


@pytest.mark.parametrize("what", attempts)
def test_nothing_can_be_done_behind_a_fault(what: str) -> None:
    code = new_code(tries)
    with pytest.raises(ForbiddenCall) as caught:
        code.feed(started(tries, what), 1)
    assert ledger in (["Fault", "finally"], []), "a task that waits is driven no further"
    with pytest.raises(ForbiddenCall) as again:
        code.feed(SignalReceived("faults.go", pack(1)), 2)
    assert again.value is caught.value
    code.discard()
    assert not [line for line in ledger if line.startswith(("ran", "side"))]


@workflow(name="faults.in_child")
async def in_child() -> str:
    async def child() -> None:
        getattr(time, "sle" + "ep")(1)

    async def sibling() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ledger.append("sibling's finally")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            await asyncio.sleep(0)
            group.create_task(child())
    except BaseException as error:
        ledger.append(f"main caught {type(error).__name__}")
        raise
    return "unreachable"


def test_a_forbidden_call_in_a_child_task_stops_every_task() -> None:
    fault_of(in_child, ForbiddenCall)
    assert "main caught" not in " ".join(ledger[:-2])
    assert ledger.count("sibling's finally") == 1  # by the discard


@workflow(name="faults.spins")
async def spins() -> None:
    try:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)
    except BaseException as error:
        ledger.append(type(error).__name__)
        raise


def test_an_endless_drive_is_stopped_and_says_where() -> None:
    text = fault_of(spins, EndlessDrive)
    assert "100000 callbacks" in text
    assert ledger == ["Discarded"]


def test_the_endless_task_is_named() -> None:
    code = new_code(spins)
    with pytest.raises(EndlessDrive) as caught:
        code.feed(started(spins), 1)
    assert "main" in caught.value.stack
    assert "test_faults.py" in caught.value.stack
    assert " at 0x" not in caught.value.stack
    code.discard()


@workflow(name="faults.leaves")
async def leaves(name: str, in_a_task: bool) -> None:
    async def leave() -> None:
        error: BaseException = {
            "exit": SystemExit(3),
            "interrupt": KeyboardInterrupt(),
            "own": OwnBase("of its own"),
            "generator": GeneratorExit(),
            "group": BaseExceptionGroup("several", [OwnBase("one")]),
        }[name]
        raise error

    if in_a_task:
        await asyncio.create_task(leave())
    await leave()


class OwnBase(BaseException):
    pass


@pytest.mark.parametrize("in_a_task", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("own", "OwnBase"),
        ("generator", "GeneratorExit"),
        ("group", "BaseExceptionGroup"),
    ],
)
def test_what_is_no_exception_parks_the_run(name: str, kind: str, in_a_task: bool) -> None:
    code = new_code(leaves)
    with pytest.raises(WorkflowFault, match=f"{kind} left the workflow's code"):
        code.feed(started(leaves, name, in_a_task), 1)
    code.discard()


@workflow(name="faults.exits_and_catches")
async def exits_and_catches() -> str:
    try:
        sys.exit(2)
    except SystemExit as error:
        return f"caught {error.code}"


def test_an_exit_that_the_code_catches_is_its_own_affair() -> None:
    assert RunByHand(exits_and_catches).replay().result() == "caught 2"


@workflow(name="faults.waits_in_spite")
async def waits_in_spite() -> str:
    task = asyncio.current_task()
    assert task is not None
    future = Stubborn(loop=asyncio.get_running_loop())
    with anyio.CancelScope() as scope:
        scope.cancel()
        asyncio.get_running_loop().call_later(60, future.set_result, "done in spite of it")
        return await future
    return "unreachable"


class Stubborn(asyncio.Future[str]):
    def cancel(self, msg: Any = None) -> bool:
        return True


def test_endless_retries_of_a_cancellation_are_parked() -> None:
    run = RunByHand(waits_in_spite)
    assert run.code.loop.ready, "anyio's retry waits for the next input"
    run.signal("faults.go", 1)
    run.signal("faults.go", 2)
    assert run.closing is None
    run.fire_next()
    assert run.replay().result() == "done in spite of it"


@workflow(name="faults.group_in_scope")
async def group_in_scope() -> str:
    async def refuses() -> str:
        try:
            return await step("first")
        except asyncio.CancelledError:
            return await step("second")

    results: list[str] = []
    with anyio.move_on_after(1):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(refuses())
            task.add_done_callback(lambda done: results.append(done.result()))
    return results[0]


def test_a_cancellation_that_a_group_takes_over_and_over_is_parked() -> None:
    """asyncio would be busy until the group's last task ends; a run waits for it."""
    run = RunByHand(group_in_scope)
    run.fire_next()
    assert list(run.open_activities) == [3]
    run.signal("faults.go", 1)
    run.complete(3, "second")
    assert run.replay().result() == "second"


# -------------------------------------------------------------------- the end that begins anew


@workflow(name="faults.begins_anew")
async def begins_anew(total: int, what: str) -> str:
    try:
        continue_as_new(total=total + 1)
    except BaseException as error:
        ledger.append(type(error).__name__)
        if what == "return":
            return "swallowed"
        if what == "raise":
            raise ValueError("another") from None
        await attempts[what]()
    finally:
        ledger.append("finally")
    return "unreachable"


@pytest.mark.parametrize("what", [*attempts, "return", "raise"])
def test_nothing_follows_the_decision_to_begin_anew(what: str) -> None:
    run = RunByHand(begins_anew, 1, what)
    assert [type(one.event) for one in run.history] == [RunStarted, RunContinuedAsNew]
    run.replay()
    last = run.history[-1].event
    assert isinstance(last, RunContinuedAsNew)
    assert unpack(last.arguments) == {"total": 2, "what": what}
    run.discard()


@workflow(name="faults.checkpoint_then_anew")
async def checkpoint_then_anew(total: int) -> None:
    await checkpoint(total=total + 1)
    continue_as_new(total=total + 10)


def test_a_forced_beginning_is_not_taken_for_the_checkpoint_before_it() -> None:
    run = RunByHand(checkpoint_then_anew, 1).replay()
    last = run.history[-1].event
    assert isinstance(last, RunContinuedAsNew)
    assert unpack(last.arguments) == {"total": 11}


# ---------------------------------------------------------- facts that must come out on replay


@workflow(name="faults.side_effect_raises")
async def side_effect_raises() -> str:
    try:
        regions: dict[str, str] = {}
        return await side_effect(lambda: regions["REGION"])
    except KeyError:
        return "nowhere"


def test_a_side_effect_that_raises_is_a_fault_for_its_exception_is_not_recorded() -> None:
    text = fault_of(side_effect_raises)
    assert "test_faults.py" in text
    assert "KeyError" in text


@workflow(name="faults.side_effect_unpackable")
async def side_effect_unpackable() -> object:
    try:
        return await side_effect(object)
    except Exception:
        return "nothing"


def test_a_side_effect_that_cannot_be_stored_is_a_fault() -> None:
    assert "object" in fault_of(side_effect_unpackable)


@workflow(name="faults.counts_events")
async def counts_events() -> list[int]:
    counts: list[int] = []
    for _ in range(3):
        counts.append(info().history_events)
        await step(str(info().history_events))
    return counts


def test_the_length_of_the_history_is_the_same_on_replay() -> None:
    run = RunByHand(counts_events)
    for number in 1, 2, 3:
        run.complete(number, "")
    assert run.result() == [0, 2, 4]
    run.replay()


def test_a_mismatch_stops_the_run_too() -> None:
    code = new_code(counts_events)
    with pytest.raises(NondeterminismError):
        code.feed(started(counts_events), 1, [], 1)
    assert code.fault is not None
    with pytest.raises(NondeterminismError):
        code.feed(TimerFired(1), 2)
    code.discard()
