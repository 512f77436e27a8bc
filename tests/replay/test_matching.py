"""Whether two decisions are one: by kind, number, name and arguments, and by nothing else.

Then the same through whole runs: workflows whose code has changed meet a history from before.
"""

# tidy: this file sleeps because its time is the run's, and moves by hand.

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from everlong import (
    NondeterminismError,
    Output,
    Signal,
    activity,
    patched,
    publish,
    registry,
    workflow,
)
from everlong._replay.matching import check, describe
from everlong.exceptions import EverlongError
from everlong.workflow import Workflow
from everlong_engine import (
    DECISIONS,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityOptions,
    ActivityScheduled,
    ApprovalRequested,
    ApprovalWithdrawn,
    ChildCancelRequested,
    ChildScheduled,
    Decision,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    Failure,
    ItemPublished,
    MemoSet,
    PatchMarked,
    Recorded,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunTerminated,
    RunTimedOut,
    SideEffectRecorded,
    TagsSet,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateCompleted,
    UpdateFailed,
    pack,
)
from tests.support.run_by_hand import RunByHand, replayed

FAILURE = Failure(type="ValueError", message="no")
DECISION: dict[type[Decision], Decision] = {
    type(one): one
    for one in (
        ActivityScheduled(1, "charge", b"\x01", ActivityOptions(), "orders.py:1"),
        ActivityCancelRequested(1),
        TimerStarted(1, 60_000_000, "orders.py:2"),
        TimerCancelled(1),
        SideEffectRecorded(b"\x01", "orders.py:3"),
        PatchMarked("new"),
        UpdateCompleted("u", b"\x01"),
        UpdateFailed("u", FAILURE),
        ItemPublished("progress", 3, b"\x01", "orders.py:4"),
        ApprovalRequested(1, "Ship it?", b"\x01", ("ann",), 60_000_000, "orders.py:5"),
        ApprovalWithdrawn(1),
        TagsSet((("customer", "c1"), ("urgent", True), ("late", None)), "orders.py:8"),
        MemoSet(b"\x01", "orders.py:9"),
        ChildScheduled(1, "ship", "order/1", b"\x01", "orders.py:4"),
        ChildCancelRequested(1, "order/1", "enough"),
        ExternalSignalSent(1, "order-2", None, "word", b"\x01", "orders.py:5"),
        ExternalCancelSent(1, "order-2", None, "enough", "orders.py:6"),
        ExternalAwaited(1, "order-2", "orders.py:7"),
        RunCompleted(b"\x01"),
        RunFailed(FAILURE),
        RunCancelled("enough"),
        RunContinuedAsNew(b"\x01", (), 3),
        RunTerminated("enough"),
        RunTimedOut("run"),
    )
}


def as_recorded(_: Decision, recorded: bytes) -> bytes:
    return recorded


def differs(old: Decision, new: Decision) -> bool:
    try:
        check([old], [new], 1, as_recorded)
    except NondeterminismError:
        return True
    return False


def test_every_kind_of_decision_is_looked_at_here() -> None:
    assert DECISION.keys() == DECISIONS


@pytest.mark.parametrize("kind", DECISION, ids=lambda kind: kind.__name__)
def test_a_decision_equals_itself_and_no_other_kind(kind: type[Decision]) -> None:
    one = DECISION[kind]
    assert not differs(one, one)
    assert all(differs(one, other) for other in DECISION.values() if type(other) is not kind)
    assert describe(one)


def changed(kind: type[Any], **fields: Any) -> Any:
    return pytest.param(kind, fields, id=f"{kind.__name__}.{next(iter(fields))}")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        changed(ActivityScheduled, activity_id=2),
        changed(ActivityScheduled, activity="refund"),
        changed(ActivityScheduled, arguments=b"\x02"),
        changed(ActivityCancelRequested, activity_id=2),
        changed(TimerStarted, timer_id=2),
        changed(TimerStarted, due_us=61_000_000),
        changed(TimerCancelled, timer_id=2),
        changed(PatchMarked, patch="newer"),
        changed(ItemPublished, channel="regress"),
        changed(ApprovalRequested, approval_id=2),
        changed(ApprovalRequested, title="Stop it?"),
        changed(ApprovalRequested, data=b"\x02"),
        changed(ApprovalRequested, approvers=()),
        changed(ApprovalRequested, due_us=None),
        changed(ApprovalWithdrawn, approval_id=2),
        changed(ItemPublished, number=4),
        changed(ItemPublished, payload=b"\x02"),
        changed(TagsSet, tags=(("customer", "c1"), ("urgent", 1), ("late", None))),
        changed(TagsSet, tags=(("customer", "c2"), ("urgent", True), ("late", None))),
        changed(TagsSet, tags=(("customer", "c1"), ("urgent", True))),
        changed(MemoSet, memo=b"\x02"),
        changed(ChildScheduled, child_id=2),
        changed(ChildScheduled, workflow="send"),
        changed(ChildScheduled, target="order/2"),
        changed(ChildScheduled, arguments=b"\x02"),
        changed(ChildScheduled, wants_start=True),
        changed(ChildCancelRequested, child_id=2),
        changed(ExternalSignalSent, call_id=2),
        changed(ExternalSignalSent, target="order-3"),
        changed(ExternalSignalSent, signal="words"),
        changed(ExternalSignalSent, payload=b"\x02"),
        changed(ExternalCancelSent, target="order-3"),
        changed(ExternalCancelSent, execution=b"e" * 16),
        changed(ExternalAwaited, target="order-3"),
        changed(RunCompleted, result=b"\x02"),
        changed(RunFailed, failure=replace(FAILURE, type="KeyError")),
        changed(RunContinuedAsNew, arguments=b"\x02"),
        changed(RunContinuedAsNew, checkpoints=0),
    ],
)
def test_what_makes_another_decision(kind: type[Any], fields: dict[str, Any]) -> None:
    assert differs(DECISION[kind], replace(DECISION[kind], **fields))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        changed(ActivityScheduled, where="orders.py:99"),
        changed(ActivityScheduled, options=ActivityOptions(max_attempts=1)),
        changed(ActivityScheduled, began=True),
        changed(TimerStarted, where="orders.py:99"),
        changed(SideEffectRecorded, value=b"\x02"),
        changed(SideEffectRecorded, where="orders.py:99"),
        changed(UpdateFailed, failure=replace(FAILURE, message="nope", traceback="elsewhere")),
        changed(ItemPublished, where="orders.py:99"),
        changed(ApprovalRequested, where="orders.py:99"),
        changed(TagsSet, where="orders.py:99"),
        changed(MemoSet, where="orders.py:99"),
        changed(ChildScheduled, where="orders.py:99"),
        changed(ChildScheduled, tags=(("customer", "c1"),), memo=b"\x02"),
        changed(ChildScheduled, on_parent_close="abandon"),
        changed(ChildCancelRequested, reason="why not"),
        changed(ExternalSignalSent, where="orders.py:99"),
        changed(ExternalCancelSent, reason="why not"),
        changed(ExternalAwaited, where="orders.py:99"),
        changed(RunCompleted, unread=("approve",)),
        changed(RunFailed, failure=replace(FAILURE, message="nope", traceback="elsewhere")),
    ],
)
def test_what_makes_no_other_decision(kind: type[Any], fields: dict[str, Any]) -> None:
    assert not differs(DECISION[kind], replace(DECISION[kind], **fields))


def test_the_first_difference_is_named_with_both_lines() -> None:
    timer = TimerStarted(2, 5, "orders.py:7")
    charge = DECISION[ActivityScheduled]
    with pytest.raises(NondeterminismError) as caught:
        check([charge, timer], [charge, replace(timer, due_us=6, where="orders.py:9")], 41, _never)
    assert caught.value.seq == 42
    assert (caught.value.recorded_at, caught.value.made_at) == ("orders.py:7", "orders.py:9")
    with pytest.raises(NondeterminismError, match=r"event 42.*made nothing: the code waits"):
        check([charge, timer], [charge], 41, _never)
    with pytest.raises(NondeterminismError, match=r"event 42.*recorded nothing: the code then"):
        check([charge], [charge, timer], 41, _never)


def _never(_: Decision, recorded: bytes) -> bytes:
    raise AssertionError("equal bytes need no decoding")


def test_arguments_may_be_written_otherwise_by_todays_types() -> None:
    old, new = DECISION[ActivityScheduled], b"\x01 with a default"
    assert isinstance(old, ActivityScheduled)
    now = replace(old, arguments=new)
    check([old], [now], 1, lambda _, recorded: recorded + b" with a default")
    with pytest.raises(NondeterminismError):
        check([old], [now], 1, lambda _, recorded: recorded + b" with another")

    def unreadable(_: Decision, __: bytes) -> bytes:
        raise EverlongError("today's types cannot read it")

    with pytest.raises(NondeterminismError):
        check([old], [now], 1, unreadable)


# ------------------------------------------------------------------------------ through whole runs


@activity(name="matching.act")
async def act(name: str, amount: int = 1) -> str:
    return name


news: Signal[str] = Signal("matching.news", str)


@workflow(name="matching.before")
async def before() -> str:
    await act("a")
    await asyncio.sleep(60)
    first, second = await asyncio.gather(act("b"), act("c"))
    await news.receive()
    return first + second


def a_history() -> list[Recorded]:
    run = RunByHand(before)
    run.complete(1, "a")
    run.fire_next()
    run.signal("matching.news", "!")
    run.complete(4, "c")
    run.complete(3, "b")
    assert run.result() == "bc"
    return run.history


Variant = Callable[[], Any]
accepted: dict[str, Variant] = {}
refused: dict[str, tuple[int, Variant]] = {}


def accept(function: Variant) -> Variant:
    accepted[function.__name__] = function
    return function


def refuse(seq: int) -> Callable[[Variant], Variant]:
    def note(function: Variant) -> Variant:
        refused[function.__name__] = (seq, function)
        return function

    return note


@accept
async def written_otherwise() -> str:
    """Helpers, loops, logging and tasks are no decisions."""
    for name in "a":
        await act.options(timeout=5)(name)
    await asyncio.wait_for(asyncio.sleep(60), None)
    tasks = [asyncio.create_task(act(name)) for name in "bc"]
    try:
        results = [await task for task in tasks]
    finally:
        await asyncio.sleep(0)
    async for _ in news:
        break
    return "".join(results)


@accept
async def changed_behind_a_patch() -> str:
    await act("a")
    if patched("no nap"):
        await act("in place of the nap")
    else:
        await asyncio.sleep(60)
    first, second = await asyncio.gather(act("b"), act("c"))
    await news.receive()
    return first + second


@accept
async def cancelled_before_it_began() -> str:
    asyncio.create_task(act("never")).cancel()
    asyncio.get_running_loop().call_soon(print).cancel()
    return await before.function()


@refuse(2)
async def begun_and_taken_back_at_once() -> str:
    """It is not recorded, but its number is used up."""
    task = asyncio.create_task(act("never"))
    await asyncio.sleep(0)
    task.cancel()
    return await before.function()


@refuse(2)
async def another_argument() -> str:
    await act("A")
    return await before.function()


@refuse(2)
async def another_default() -> str:
    await act("a", 2)
    return await before.function()


@refuse(2)
async def something_else_first() -> str:
    await asyncio.sleep(60)
    return await before.function()


@refuse(2)
async def nothing_at_all() -> str:
    return "at once"


@refuse(4)
async def another_nap() -> str:
    await act("a")
    await asyncio.sleep(61)
    return ""


@refuse(4)
async def a_step_left_out() -> str:
    await act("a")
    return "".join(await asyncio.gather(act("b"), act("c")))


@refuse(5)
async def a_step_put_in() -> str:
    await act("a")
    naps = asyncio.sleep(60), act("too")
    await asyncio.gather(*naps)
    return ""


@refuse(6)
async def the_other_way_round() -> str:
    await act("a")
    await asyncio.sleep(60)
    await asyncio.gather(act("c"), act("b"))
    return ""


@refuse(7)
async def one_after_the_other() -> str:
    await act("a")
    await asyncio.sleep(60)
    return await act("b") + await act("c")


@refuse(11)
async def not_waiting_for_the_signal() -> str:
    await act("a")
    await asyncio.sleep(60)
    await asyncio.wait([asyncio.create_task(act(name)) for name in "bc"])
    await act("more")
    return ""


@refuse(11)
async def another_result() -> str:
    return (await before.function()).upper()


@refuse(11)
async def a_failure_in_place_of_a_result() -> str:
    raise ValueError(await before.function())


@refuse(11)
async def a_step_behind_the_end() -> str:
    result: str = await before.function()
    await act("more")
    return result


def as_workflow(function: Variant) -> Workflow[..., Any]:
    made: Workflow[..., Any] = workflow(name=f"matching.{function.__name__}")(function)
    del registry.workflows[f"matching.{function.__name__}"]
    return made


@pytest.mark.parametrize("name", accepted)
def test_code_that_decides_the_same_is_accepted(name: str) -> None:
    replayed(as_workflow(accepted[name]), a_history())


@pytest.mark.parametrize("name", refused)
def test_code_that_decides_otherwise_is_refused_at_its_event(name: str) -> None:
    seq, function = refused[name]
    with pytest.raises(NondeterminismError) as caught:
        replayed(as_workflow(function), a_history())
    assert caught.value.seq == seq
    at = caught.value.recorded_at + caught.value.made_at
    assert "test_matching.py" in at or seq == 11, "an end stands on no line"


@pytest.mark.parametrize(
    "event", [ActivityCompleted(9, pack("x")), TimerFired(9), ActivityCompleted(2, pack("x"))]
)
def test_an_input_for_nothing_that_is_open_is_refused(event: Any) -> None:
    history = a_history()[:4]
    with pytest.raises(NondeterminismError):
        replayed(before, [*history, Recorded(5, history[-1].at_us, event)])


def test_a_termination_behind_the_pairs_was_not_the_codes_decision() -> None:
    history = a_history()[:4]
    last = history[-1].at_us
    code = replayed(before, [*history, Recorded(5, last, RunTerminated("enough"))])
    assert code.history_events == 5
    assert not code.closed


@dataclass
class Old:
    name: str


@dataclass
class New:
    name: str
    note: str = "none"


def test_a_parameter_and_a_field_with_a_default_may_be_added() -> None:
    async def ship(order: Old) -> None: ...

    async def ship_now(order: New, fast: bool = False) -> None: ...

    def flow(ships: Any, order: Any) -> Workflow[..., Any]:
        async def matching_grows() -> None:
            await ships(order)

        return as_workflow(matching_grows)

    def made(function: Any) -> Any:
        function.__annotations__["order"] = Old if function is ship else New
        found = activity(name="matching.ship")(function)
        del registry.activities["matching.ship"]
        return found

    run = RunByHand(flow(made(ship), Old("x")))
    replayed(flow(made(ship_now), New("x")), run.history)
    for other in (New("y"), New("x", "important")):
        with pytest.raises(NondeterminismError):
            replayed(flow(made(ship_now), other), run.history)


@dataclass
class Step:
    name: str
    done: int = 0


def test_published_items_are_part_of_what_the_code_decides() -> None:
    def flow(item: Callable[[], Any]) -> Workflow[..., Any]:
        async def publishes() -> None:
            await news.receive()
            await item()
            await news.receive()

        return as_workflow(publishes)

    run = RunByHand(flow(lambda: publish("matching.steps", {"name": "a"})))
    run.signal("matching.news", "!")
    replayed(flow(lambda: publish("matching.steps", {"name": "a"})), run.history)
    typed = Output("matching.steps", Step)
    try:
        # A field with a default may be added.
        replayed(flow(lambda: typed.publish(Step("a"))), run.history)
        for other in (Step("b"), Step("a", 1)):
            with pytest.raises(NondeterminismError, match=r"item 0 of output 'matching\.steps'"):
                replayed(flow(lambda: typed.publish(other)), run.history)  # noqa: B023
    finally:
        del registry.outputs["matching.steps"]
