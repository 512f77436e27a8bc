"""Keyed entities: one state for each key of a stream, which its messages and its timers change."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlong import Client, Output, Retry, Worker, WorkflowFailed, WorkflowHandle, activity
from everlong.codec import Encrypt, new_key
from everlong.exceptions import (
    CannotReset,
    DefinitionError,
    EverlongError,
    InvalidArguments,
    UndecodablePayload,
    WorkflowNotFound,
)
from everlong.streams import (
    Entity,
    EntityContext,
    EntityControl,
    EntityState,
    Memory,
    Message,
    Poison,
    Stream,
    Timer,
    dead_letter,
    entity,
    park_key,
    skip,
)
from everlong.streams._entity_rows import States
from everlong.testing import Environment, amnesia
from everlong_engine import ByKey, limits
from tests.support.gated_store import Gate
from tests.support.hosting import described, hosting, kinds, of_kind, until

Line = tuple[str, int]
heard: Output[str] = Output("entities-heard", str)


@dataclass
class Cart:
    amounts: list[int] = field(default_factory=list[int])
    rang: list[str] = field(default_factory=list[str])


def customer(message: Message[Line]) -> str:
    return message.value[0]


def lines(source: Memory[Line], *values: Line) -> None:
    source.put(*values)


async def keeps(control: EntityControl[Any], key: str, wanted: Any) -> None:
    async def look() -> bool:
        return bool(await control.get(key) == wanted)

    await until(look)


def carts(source: Memory[Line], **options: Any) -> Entity[Cart, Line]:
    """An entity that notes the amounts of each customer; 13 it cannot take."""

    @entity(Stream("lines", source), key=customer, state=Cart, **options)
    async def on_line(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
        cart.amounts.append(message.value[1])
        if message.value[1] == 13:
            raise ValueError("no thirteens")
        if message.value[1] == 0:
            ctx.delete()

    return on_line


async def paused(handle: WorkflowHandle[Any]) -> str:
    found = await described(handle, lambda it: it.paused)
    assert found.paused is not None
    return found.paused.reason


# ------------------------------------------------------------------------------------- states


async def test_each_message_changes_the_state_of_its_key_once_and_in_order(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    on_line = carts(source, max_messages=7)
    source.put(*((f"c{number % 5}", number + 100) for number in range(60)))
    with amnesia():
        async with hosting(path, workflows=[on_line]) as client:
            handle = await client.start(on_line, id="carts")
            control = on_line.control(handle)
            await keeps(control, "c4", Cart(list(range(104, 160, 5))))
            assert await control.keys() == ["c0", "c1", "c2", "c3", "c4"]
            states = [one async for one in control.states()]
            assert states[1] == EntityState("c1", Cart(list(range(101, 160, 5))), {})
            assert await control.get("nobody") is None
        source.put(("c4", 1), ("new", 2))
        async with hosting(path, workflows=[on_line], cache_size=0) as client:
            control = on_line.control(client.get_handle("carts"))
            await keeps(control, "new", Cart([2]))
            await keeps(control, "c4", Cart([*range(104, 160, 5), 1]))
            assert await client.verify() == []


async def test_a_deleted_key_begins_anew(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    on_line = carts(source)
    async with hosting(path, workflows=[on_line]) as client:
        control = on_line.control(await client.start(on_line))
        source.put(("a", 1), ("b", 1))
        await keeps(control, "a", Cart([1]))
        source.put(("a", 0))
        await keeps(control, "a", None)
        assert await control.keys() == ["b"]
        source.put(("a", 2), ("a", 0), ("a", 3), ("x", 0))
        await keeps(control, "a", Cart([3]))
        assert await control.keys() == ["a", "b"]
        source.put(("a", 0))
        await keeps(control, "a", None)


async def test_a_handler_may_return_another_state(path: Path) -> None:
    source: Memory[Line] = Memory(Line)

    @entity(Stream("lines", source), key=customer, state=int)
    async def totals(total: int, message: Message[Line], ctx: EntityContext) -> int:
        assert ctx.key == message.value[0]
        return total + message.value[1]

    async with hosting(path, workflows=[totals]) as client:
        control = totals.control(await client.start(totals))
        source.put(("a", 1), ("b", 5), ("a", 2))
        await keeps(control, "a", 3)
        assert await control.get("b") == 5


async def test_the_history_stays_short_however_long_it_reads(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    on_line = carts(source, max_messages=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CHECKPOINT_EVENTS", 20)
        async with hosting(path, workflows=[on_line]) as client:
            handle = await client.start(on_line, id="carts")
            source.put(*(("a", number + 100) for number in range(40)))
            await keeps(on_line.control(handle), "a", Cart(list(range(100, 140))))
            assert len((await client.list()).items) > 2  # Runs that it rolled over.
            assert (await handle.describe()).history_events < 60


# ------------------------------------------------------------------------------------- crashes


async def test_what_is_not_stored_is_handled_again_from_the_states_before(path: Path) -> None:
    """A worker that is lost between the handlers and the commit has changed nothing."""
    source: Memory[Line] = Memory(Line)
    on_line = carts(source)
    async with Client.connect(path) as client:
        async with Worker(client, workflows=[on_line]):
            handle = await client.start(on_line, id="carts")
            control = on_line.control(handle)
            source.put(("a", 1))
            await keeps(control, "a", Cart([1]))
            gate, seen = Gate(client), asyncio.Event()
            entered = on_line.handler

            async def slow(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
                await entered(cart, message, ctx)
                gate.shut()
                seen.set()

            replace_handler(on_line, slow)
            source.put(("a", 2), ("b", 2))
            await seen.wait()
            await gate.arrived.wait()
            assert await control.get("a") == Cart([1])
            gate.open()
        replace_handler(on_line, entered)
        async with Worker(client, workflows=[on_line]):
            await keeps(control, "b", Cart([2]))
            assert await control.get("a") == Cart([1, 2])


def replace_handler(on_line: Entity[Cart, Line], handler: Callable[..., Awaitable[Any]]) -> None:
    object.__setattr__(on_line._entity, "handler", handler)  # pyright: ignore[reportPrivateUsage]


async def test_a_worker_that_stops_in_mid_batch_leaves_the_batch_to_the_next(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    entered, calls = asyncio.Event(), 0

    @entity(Stream("lines", source), key=customer, state=Cart)
    async def slow(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
        nonlocal calls
        calls += 1
        cart.amounts.append(message.value[1])
        if message.value == ("b", 2) and calls == 2:
            entered.set()
            await asyncio.Event().wait()

    source.put(("a", 1), ("b", 2), ("c", 3))
    async with Client.connect(path) as client:
        async with Worker(client, workflows=[slow], stop_timeout=0.0):
            handle = await client.start(slow)
            await entered.wait()
        assert await slow.control(handle).keys() == []
        async with Worker(client, workflows=[slow]):
            await keeps(slow.control(handle), "c", Cart([3]))
            assert await slow.control(handle).get("a") == Cart([1])
    assert calls == 5


async def test_what_ends_while_the_flow_is_paused_is_handled_again_behind_that(path: Path) -> None:
    """Its completion is nothing without its states, so it is not kept without them."""
    source: Memory[Line] = Memory(Line)
    entered, go, calls = asyncio.Event(), asyncio.Event(), 0

    @entity(Stream("lines", source), key=customer, state=Cart)
    async def slow(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
        nonlocal calls
        calls += 1
        cart.amounts.append(message.value[1])
        entered.set()
        await go.wait()

    async with hosting(path, workflows=[slow]) as client:
        handle = await client.start(slow)
        source.put(("a", 1), ("a", 2))
        await entered.wait()
        await handle.pause()
        go.set()
        await until(lambda: unowned(handle))
        assert await slow.control(handle).get("a") is None
        await handle.resume()
        await keeps(slow.control(handle), "a", Cart([1, 2]))
        source.put(("a", 3))
        await keeps(slow.control(handle), "a", Cart([1, 2, 3]))
        assert await client.verify() == []
    assert calls == 5


async def unowned(handle: WorkflowHandle[Any]) -> bool:
    row, _ = await handle.entities(ByKey("", 1))
    return row.owner is None


# ------------------------------------------------------------------------------------- timers


def timed(source: Memory[Line]) -> Entity[Cart, Line]:
    @entity(Stream("lines", source), key=customer, state=Cart)
    async def on_line(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
        amount = message.value[1]
        if amount < 0:
            ctx.cancel_timer("late")
        elif amount:
            ctx.set_timer("late", after=amount)
        else:
            ctx.set_timer("hourly", at=ctx.now + timedelta(hours=1))
        cart.amounts.append(amount)

    @on_line.on_timer
    async def rings(cart: Cart, timer: Timer, ctx: EntityContext) -> None:  # pyright: ignore[reportUnusedFunction]
        assert timer.at <= ctx.now
        cart.rang.append(f"{timer.name} {timer.at:%H:%M:%S}")
        if timer.name == "hourly" and len(cart.rang) < 3:
            ctx.set_timer("hourly", after=timedelta(hours=1))

    return on_line


START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


async def test_timers_come_when_they_are_due_and_once() -> None:
    """Set, replaced, cancelled, set anew by their own handler; each for its key."""
    source: Memory[Line] = Memory(Line)
    on_line = timed(source)
    async with Environment(workflows=[on_line], start=START) as env:
        control = on_line.control(await env.client.start(on_line))
        source.put(("a", 60), ("b", 60), ("c", 60), ("hours", 0), ("b", 90), ("c", -1))
        await env.settled()
        shown = await control.show("b")
        assert shown is not None
        assert [one.replace(microsecond=0) for one in shown.timers.values()] == [
            START + timedelta(seconds=90)
        ]
        await env.advance(59)
        assert (await control.get("a")) == Cart([60])
        await env.advance(2)
        assert (await control.get("a")) == Cart([60], ["late 12:01:00"])
        assert (await control.get("b")) == Cart([60, 90])
        await env.advance(4 * 3600)
        assert (await control.get("b")) == Cart([60, 90], ["late 12:01:30"])
        assert (await control.get("c")) == Cart([60, -1])
        hours = ["hourly 13:00:00", "hourly 14:00:00", "hourly 15:00:00"]
        assert (await control.get("hours")) == Cart([0], hours)
        assert [one.timers async for one in control.states()] == [{}] * 4


async def test_timers_that_were_due_while_nobody_was_there_come_late_and_once(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    on_line = timed(source)
    async with Client.connect(path) as client:
        async with Worker(client, workflows=[on_line]):
            handle = await client.start(on_line)
            control = on_line.control(handle)
            source.put(*((f"c{number:04}", 1) for number in range(1100)))
            await keeps(control, "c1099", Cart([1]))
        late = await control.show("c0000")
        assert late is not None
        async with Worker(client, workflows=[on_line]):

            async def all_rang() -> bool:
                states = [one async for one in control.states() if one.key != "end"]
                return len(states) == 1100 and all(len(one.state.rang) == 1 for one in states)

            await until(all_rang)
        async with Worker(client, workflows=[on_line]):
            source.put(("end", -1))
            await keeps(control, "end", Cart([-1]))
            assert await all_rang()


async def test_a_timer_without_anybody_to_hear_it_is_refused(path: Path) -> None:
    source: Memory[Line] = Memory(Line)

    @entity(Stream("lines", source), key=customer, state=Cart, on_poison=Poison("stop", 1))
    async def deaf(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
        ctx.set_timer("late", after=1)

    async with hosting(path, workflows=[deaf]) as client:
        handle = await client.start(deaf)
        source.put(("a", 1))
        assert "@on_order.on_timer" in await paused(handle)


async def test_a_timer_whose_handler_fails_pauses_the_flow(path: Path) -> None:
    """Whatever is said about messages: nobody could put it aside."""
    source: Memory[Line] = Memory(Line)
    broken = True

    @entity(Stream("lines", source), key=customer, state=Cart, on_poison=dead_letter(1))
    async def on_line(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
        ctx.set_timer("soon", after=0)

    @on_line.on_timer
    async def rings(cart: Cart, timer: Timer, ctx: EntityContext) -> None:  # pyright: ignore[reportUnusedFunction]
        if broken:
            raise ValueError("out of order")
        cart.rang.append(timer.name)

    async with hosting(path, workflows=[on_line]) as client:
        handle = await client.start(on_line)
        source.put(("a", 1))
        assert "the timer 'soon' of the key 'a': ValueError" in await paused(handle)
        broken = False
        await handle.resume()
        await keeps(on_line.control(handle), "a", Cart([], ["soon"]))


# ------------------------------------------------------------------------------- what goes wrong


async def test_a_message_that_is_not_taken_stops_the_flow_with_nothing_stored(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    on_line = carts(source, on_poison=Poison("stop", 1))
    source.put(("a", 1), ("b", 13), ("c", 3))
    async with hosting(path, workflows=[on_line]) as client:
        handle = await client.start(on_line)
        reason = await paused(handle)
        assert "cannot take the message lines/memory/0/1: ValueError: no thirteens" in reason
        assert await on_line.control(handle).keys() == []

        async def takes(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
            cart.amounts.append(message.value[1])

        replace_handler(on_line, takes)
        await handle.resume()
        await keeps(on_line.control(handle), "c", Cart([3]))
        assert await on_line.control(handle).get("b") == Cart([13])


@pytest.mark.parametrize("policy", [dead_letter, skip])
async def test_a_message_that_is_not_taken_is_set_aside(path: Path, policy: Any) -> None:
    """With the state of its key as it was before it; and it can be given to the handler again."""
    source: Memory[Line] = Memory(Line)
    on_line = carts(source, on_poison=policy(after=2))
    stream: Stream[Line] = Stream("lines", source)
    source.put(("a", 1), ("a", 13), ("a", 3), ("", 7), ("b", 2), ("b", 13))
    async with hosting(path, workflows=[on_line]) as client:
        handle = await client.start(on_line)
        control = on_line.control(handle)
        await keeps(control, "a", Cart([1, 3]))
        assert await control.get("b") == Cart([2])
        letters = await stream.control(handle).dead_letters()
        if policy is skip:
            assert letters == []
            return
        assert [(one.position, one.error) for one in letters] == [
            (1, "ValueError: no thirteens"),
            (3, letters[1].error),
            (5, "ValueError: no thirteens"),
        ]
        assert "its key '' is empty" in letters[1].error
        assert [one.attempts for one in letters] == [2, 0, 2]
        assert {len(one.code) for one in letters} == {len(on_line.definition.digest)}

        async def takes(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
            cart.amounts.append(message.value[1])

        replace_handler(on_line, takes)
        assert await stream.control(handle).redrive(0) == 1
        await keeps(control, "a", Cart([1, 3, 13]))


class Outage:
    """What handlers cannot do without, and whom they asked."""

    def __init__(self) -> None:
        self.is_up = False
        self.calls: list[int] = []

    def entity(self, source: Memory[Line], **options: Any) -> Entity[Cart, Line]:
        @entity(Stream("lines", source), key=customer, state=Cart, **options)
        async def on_line(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
            self.calls.append(message.value[1])
            if not self.is_up:
                raise ConnectionError("the database is down")
            cart.amounts.append(message.value[1])

        return on_line


@pytest.mark.parametrize("mended", [True, False])
async def test_where_none_passes_it_may_not_be_the_messages(path: Path, mended: bool) -> None:
    """Nothing is set aside until a person has looked; then what fails is, and nobody asks again."""
    source: Memory[Line] = Memory(Line)
    stream: Stream[Line] = Stream("lines", source)
    outage = Outage()
    on_line = outage.entity(source, on_poison=dead_letter(1))
    source.put(("a", 1), ("a", 2), ("b", 3))
    async with hosting(path, workflows=[on_line]) as client:
        handle = await client.start(on_line)
        control = on_line.control(handle)
        reason = await paused(handle)
        assert "3 messages in a row have failed, and none has passed" in reason
        assert "ConnectionError: the database is down" in reason
        assert await stream.control(handle).dead_letters() == []
        assert await control.keys() == []
        outage.is_up = mended
        await handle.resume()
        if not mended:

            async def all_are_set_aside() -> bool:
                return len(await stream.control(handle).dead_letters()) == 3

            await until(all_are_set_aside)
            assert await stream.control(handle).redrive() == 3  # Somebody asks for those, too.

            async def and_again() -> bool:
                return len(await stream.control(handle).dead_letters()) == 6

            await until(and_again)
            outage.is_up = True
            assert await stream.control(handle).redrive(0, 1, 2) == 3
        await keeps(control, "a", Cart([1, 2]))
        await keeps(control, "b", Cart([3]))
        assert await client.verify() == []


@pytest.mark.parametrize("batch", [1, 20])
async def test_five_failures_in_a_row_pause_the_flow(path: Path, batch: int) -> None:
    """Counted over batches and runs; the next message that passes ends the row."""
    source: Memory[Line] = Memory(Line)
    stream: Stream[Line] = Stream("lines", source)
    handled: list[int] = []

    @entity(stream, key=customer, state=Cart, on_poison=dead_letter(1), max_messages=batch)
    async def on_line(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
        handled.append(message.value[1])
        if message.value[1] < 0:
            raise ValueError("below zero")
        cart.amounts.append(message.value[1])

    source.put(*(("a", number) for number in (-1, -2, -3, -4, 5, -6, -7, -8, -9, -10, -11, 12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CHECKPOINT_EVENTS", 10)
        async with hosting(path, workflows=[on_line]) as client:
            handle = await client.start(on_line)
            reason = await paused(handle)
            assert "5 messages in a row have failed" in reason
            assert handled == [-1, -2, -3, -4, 5, -6, -7, -8, -9, -10]
            letters = await stream.control(handle).dead_letters()
            assert [one.position for one in letters] == (
                [0, 1, 2, 3, 5, 6, 7, 8][: 8 * (batch == 1)]
            )
            await handle.resume()
            await keeps(on_line.control(handle), "a", Cart([5, 12]))
            letters = await stream.control(handle).dead_letters()
            assert [one.position for one in letters] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]


async def test_what_fails_beside_the_handlers_is_tried_on_and_on(path: Path) -> None:
    """No message is to blame, so none is looked for and no batch is given back."""
    source: Memory[Line] = Memory(Line)
    stream: Stream[Line] = Stream("lines", source)
    on_line = carts(source, on_poison=dead_letter(1))
    failures = 3

    async def is_away(states: Any, entity: Any) -> Any:
        nonlocal failures
        if failures and entity:
            failures -= 1
            raise OSError("the store is away")
        return await reads(states, entity)

    reads = States.of_keys
    async with Environment(workflows=[on_line]) as env:
        handle = await env.client.start(on_line)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(States, "of_keys", is_away)
            source.put(("a", 1), ("b", 2))
            await env.settled()
            await env.advance(60)
        await keeps(on_line.control(handle), "b", Cart([2]))
        assert failures == 0
        assert await stream.control(handle).dead_letters() == []
        assert "RunContinuedAsNew" not in await kinds(handle)


async def test_an_exception_that_leaves_the_loop_gives_no_batch_back(path: Path) -> None:
    """Messages are judged by the activity. What fails beside it is the fault of none."""
    source: Memory[Line] = Memory(Line)
    stream: Stream[Line] = Stream("lines", source)
    on_line = carts(source, on_poison=dead_letter(1))

    async def fails(*_: object) -> None:
        raise ValueError("a defect of the loop")

    source.put(("a", 1), ("b", 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Entity, "_handle_all", fails)
        async with hosting(path, workflows=[on_line]) as client:
            handle = await client.start(on_line)
            with pytest.raises(WorkflowFailed, match="a defect of the loop"):
                await handle.result()
            assert await stream.control(handle).dead_letters() == []
            assert "RunContinuedAsNew" not in await kinds(handle)


async def test_a_family_keeps_states_where_its_partitions_are(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    source.partitions_every_s = 0.01
    stream: Stream[Line] = Stream("lines", source)
    on_line = carts(source)
    for partition in range(4):
        source.put((f"c{partition}", 1), (f"c{partition}", 2), partition=str(partition))
    async with hosting(path, workflows=[on_line]) as client:
        family = await stream.spread(client, on_line, id="carts", parts=3)
        controls = [on_line.control(one) for one in family.handles]
        for number, key in ((0, "c0"), (1, "c1"), (2, "c2"), (0, "c3")):
            await keeps(controls[number], key, Cart([1, 2]))
        assert [await one.keys() for one in controls] == [["c0", "c3"], ["c1"], ["c2"]]
        assert (await stream.spread(client, on_line, id="carts", parts=3)).generation == 1
        with pytest.raises(InvalidArguments, match=r"keeps states of keys.*another id"):
            await stream.spread(client, on_line, id="carts", parts=2)
        source.put(("c1", 3), partition="1")
        source.put(("c7", 4), partition="7")
        await keeps(controls[1], "c1", Cart([1, 2, 3]))
        await keeps(controls[1], "c7", Cart([4]))
        assert await client.verify() == []


async def test_a_handler_is_tried_again_with_the_state_before(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    failures = 2

    @activity(retry=Retry(max_attempts=1))
    async def flaky() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("away")

    @entity(Stream("lines", source), key=customer, state=Cart, on_poison=Poison("stop", 3))
    async def on_line(cart: Cart, message: Message[Line], ctx: EntityContext) -> None:
        cart.amounts.append(message.value[1])
        ctx.publish(heard, f"{message.id} {failures}")
        await flaky()

    async with hosting(path, workflows=[on_line]) as client:
        handle = await client.start(on_line)
        source.put(("a", 1))
        await keeps(on_line.control(handle), "a", Cart([1]))
        items = [one async for one in handle.subscribe(heard, live=False)]
        assert items == ["lines/memory/0/0 0"]
        scheduled = await of_kind(handle, "ActivityScheduled")
        assert all(one.fields["activity"].startswith("everlong.") for one in scheduled)


def are_the_same(_: object, __: object) -> bool:
    """As if one function had been changed in its place."""
    return True


async def test_a_state_that_does_not_fit_its_type_any_more_holds_the_flow(path: Path) -> None:
    """It is today's code that is wrong: no message is set aside for it."""
    source: Memory[Line] = Memory(Line)
    stream = Stream("lines", source)

    async def on_line(state: Any, message: Message[Line], ctx: EntityContext) -> Any:
        return state | {"n": len(state)}

    async def counts(count: int, message: Message[Line], ctx: EntityContext) -> int:
        return count + 1

    declare: Any = entity
    before = declare(stream, key=customer, state=dict[str, int], name="counts")(on_line)
    source.put(("a", 1))
    async with hosting(path, workflows=[before]) as client:
        handle = await client.start(before, id="it")
        await keeps(before.control(handle), "a", {"n": 0})
    after = declare(stream, key=customer, state=int, name="counts", on_poison=skip(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("everlong.registry._same", are_the_same)
        now = after(counts)
    async with hosting(path, workflows=[now]) as client:
        handle = client.get_handle("it")
        source.put(("b", 1), ("a", 2))
        reason = await paused(handle)
        assert "keeps for the key 'a' does not fit its type now" in reason
        with pytest.raises(UndecodablePayload):
            await now.control(handle).get("a")
        assert await now.control(handle).keys() == ["a"]
    async with hosting(path, workflows=[before]) as client:
        await client.get_handle("it").resume()
        await keeps(before.control(client.get_handle("it")), "a", {"n": 1})


# ------------------------------------------------------------------- what comes of it outside


async def test_what_is_published_comes_once(path: Path) -> None:
    """With the states, in the order of the batch's keys; nothing of what was set aside."""
    source: Memory[Line] = Memory(Line)

    @entity(Stream("lines", source), key=customer, state=int, on_poison=skip(1))
    async def tells(total: int, message: Message[Line], ctx: EntityContext) -> int:
        ctx.publish(heard, f"{ctx.key} {message.value[1]}")
        if message.value[1] == 13:
            raise ValueError("no thirteens")
        return total + message.value[1]

    source.put(("a", 1), ("b", 1), ("a", 13), ("a", 2))
    async with hosting(path, workflows=[tells]) as client:
        handle = await client.start(tells)
        await keeps(tells.control(handle), "a", 3)
        items = [one async for one in handle.subscribe(heard, live=False)]
        assert items == ["a 1", "a 2", "b 1"]
        assert await client.verify() == []


async def test_states_are_there_while_no_worker_is(path: Path) -> None:
    """For any client, also behind the end of the flow."""
    source: Memory[Line] = Memory(Line)
    on_line = carts(source)
    stream: Stream[Line] = Stream("lines", source)
    source.put(*((f"c{number}", number) for number in range(1, 13)))
    async with hosting(path, workflows=[on_line]) as client:
        handle = await client.start(on_line, id="carts")
        await keeps(on_line.control(handle), "c12", Cart([12]))
        await stream.control(handle).drain()
        await handle.result()
    async with Client.connect(path) as other:
        control = on_line.control(other.get_handle("carts"))
        assert await control.get("c7") == Cart([7])
        assert await control.keys(limit=2) == ["c1", "c10"]
        assert await control.keys(after="c10", limit=3) == ["c11", "c12", "c2"]
        assert len([one async for one in control.states()]) == 12
        plain = EntityControl[Any](other.get_handle("carts"))
        assert await plain.get("c7") == {"amounts": [7], "rang": []}
        with pytest.raises(WorkflowNotFound):
            await on_line.control(other.get_handle("nobody")).get("a")
        with pytest.raises(InvalidArguments):
            await control.keys(limit=0)


async def test_encrypted_states_open_with_their_key_only(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    on_line = carts(source)
    key = new_key()
    source.put(("anna", 4711))
    codecs = [Encrypt({"k": key})]
    async with Client.connect(path, codecs=codecs) as client, Worker(client, workflows=[on_line]):
        handle = await client.start(on_line, id="carts")
        await keeps(on_line.control(handle), "anna", Cart([4711]))
        _, (stored,) = await handle.entities(ByKey("", 10))
        assert b"amounts" not in stored.payload
    async with Client.connect(path) as client:
        with pytest.raises(UndecodablePayload):
            await on_line.control(client.get_handle("carts")).get("anna")


@pytest.mark.file
async def test_states_move_with_their_execution(path: Path, tmp_path: Path) -> None:
    """And timers with them; what was read before is not read again."""
    source: Memory[Line] = Memory(Line)
    on_line = timed(source)
    source.put(("a", 1), ("b", 5))
    async with Client.connect(path) as here, Client.connect(tmp_path / "there.db") as there:
        async with Worker(here, workflows=[on_line]):
            handle = await here.start(on_line, id="carts")
            await keeps(on_line.control(handle), "b", Cart([5]))
        await here.move("carts", there)
        async with Worker(there, workflows=[on_line]):
            control = on_line.control(there.get_handle("carts"))
            source.put(("a", -1), ("c", -1))
            await keeps(control, "c", Cart([-1]))
            moved = await control.get("a")
            assert moved is not None
            assert moved.amounts == [1, -1]
            assert await there.verify() == []
            export = await there.export("carts")
        async with Client.connect(tmp_path / "copy.db") as copy:
            await copy.import_(export, id="copy")
            assert await on_line.control(copy.get_handle("copy")).get("a") == moved


# ------------------------------------------------------------------------ there is no way back


async def test_there_is_no_way_back_for_states(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    stream: Stream[Line] = Stream("lines", source)
    on_line = carts(source)
    source.put(("a", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CHECKPOINT_EVENTS", 10)
        async with hosting(path, workflows=[on_line]) as client:
            handle = await client.start(on_line, id="carts")
            control = on_line.control(handle)
            await keeps(control, "a", Cart([1]))
            for _ in range(2):
                await until(lambda: kinds(handle))  # Not between two runs.
                with pytest.raises(CannotReset, match="Start another execution"):
                    await handle.reset(to="start")
                with pytest.raises(CannotReset, match="Start another execution"):
                    await handle.fork("other", to="start")
                with pytest.raises(InvalidArguments, match="Start another execution"):
                    await stream.control(handle).rewind({0: None})
                with pytest.raises(InvalidArguments, match="Start another execution"):
                    await stream.control(handle).rewind({0: None}, identity="memory")
                with pytest.raises(InvalidArguments, match="Start another execution"):
                    await stream.control(handle).savepoint("here", stop=True)
                for number in range(12):  # Into a run that has not seen the beginning.
                    source.put(("b", number + 1))
                    await keeps(control, "b", Cart(list(range(1, number + 2))))
                source.put(("b", 0))
                await keeps(control, "b", None)
            assert await control.get("a") == Cart([1])


async def test_a_loop_that_is_told_to_go_back_stays(path: Path) -> None:
    """By another version of Everlong, which does not know that it must not."""
    source: Memory[Line] = Memory(Line)
    stream: Stream[Line] = Stream("lines", source)
    on_line = carts(source)
    source.put(("a", 1))
    with pytest.MonkeyPatch.context() as patch:

        async def knows_nothing(_: object) -> bool:
            return False

        patch.setattr("everlong.streams._saving.keeps_states", knows_nothing)
        async with hosting(path, workflows=[on_line]) as client:
            handle = await client.start(on_line, id="carts")
            await keeps(on_line.control(handle), "a", Cart([1]))
            await stream.control(handle).rewind({0: None})
            with pytest.raises(EverlongError, match="there is no savepoint 'here': the states"):
                await stream.control(handle).savepoint("here", stop=True)
            source.put(("a", 2))
            await keeps(on_line.control(handle), "a", Cart([1, 2]))


# ------------------------------------------------------------------------------- declarations


async def test_what_cannot_be_an_entity_is_refused() -> None:
    source: Memory[Line] = Memory(Line)
    stream = Stream("lines", source)
    declare: Any = entity
    with pytest.raises(DefinitionError, match="give the Stream"):
        declare(source, key=customer, state=Cart)
    for parks in ("park_key", park_key(after=2)):
        with pytest.raises(InvalidArguments, match=r"parks no keys.*dead_letter\(after=5\)"):
            declare(stream, key=customer, state=Cart, on_poison=parks)
    with pytest.raises(InvalidArguments, match="on_poison"):
        declare(stream, key=customer, state=Cart, on_poison="shrug")
    with pytest.raises(InvalidArguments, match="on_poison"):
        declare(stream, key=customer, state=Cart, on_poison=Poison("as it is"))
    with pytest.raises(DefinitionError, match="are called"):
        declare(stream, key="customer", state=Cart)

    async def one_of_two(cart: Cart, message: Message[Line]) -> None:
        del cart, message

    with pytest.raises(DefinitionError, match=r"\(cart, message, ctx\)"):
        declare(stream, key=customer, state=Cart)(one_of_two)
    with pytest.raises(DefinitionError, match="async def"):
        declare(stream, key=customer, state=Cart)(customer)
    on_line = timed(source)

    async def another(cart: Cart, timer: Timer, ctx: EntityContext) -> None:
        del cart, timer, ctx

    with pytest.raises(DefinitionError, match="already"):
        on_line.on_timer(another)


async def test_a_context_is_of_no_use_behind_its_handler(path: Path) -> None:
    source: Memory[Line] = Memory(Line)
    kept: list[EntityContext] = []
    bad: list[str] = []

    @entity(Stream("lines", source), key=customer, state=int)
    async def on_line(total: int, message: Message[Line], ctx: EntityContext) -> int:
        kept.append(ctx)
        set_timer: Any = ctx.set_timer
        for wrong in (
            {"after": 1, "at": START},
            {},
            {"at": datetime(2026, 1, 1)},  # noqa: DTZ001 - just that is wrong
            {"after": -1},
        ):
            try:
                set_timer("late", **wrong)
            except (EverlongError, ValueError) as error:
                bad.append(str(error))
        return total + 1

    @on_line.on_timer
    async def rings(total: int, timer: Timer, ctx: EntityContext) -> None:  # pyright: ignore[reportUnusedFunction]
        raise AssertionError("none was set")

    async with hosting(path, workflows=[on_line]) as client:
        handle = await client.start(on_line)
        source.put(("a", 1))
        await keeps(on_line.control(handle), "a", 1)
        assert len(bad) == 4
        with pytest.raises(EverlongError, match="has returned"):
            kept[0].publish(heard, "late")
        assert "ActivityFailed" not in await kinds(handle)
