"""The workflows behind the golden histories. Their code is never changed.

A history that an older Everlong wrote is replayed by these very functions for ever. A new feature
gets a new workflow here, and `python -m tests.histories.record` writes its history.
"""

# tidy: this file sleeps because workflows do, and their time is the run's.

import asyncio
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import anyio
from pydantic import BaseModel

from everlong import (
    ActivityLost,
    ActivityTimeout,
    ApplicationError,
    Output,
    Retry,
    Signal,
    Update,
    WorkflowAlreadyStarted,
    WorkflowClosed,
    WorkflowFailed,
    WorkflowNotFound,
    activity,
    all_handlers_finished,
    approval,
    checkpoint,
    continue_as_new,
    get_handle,
    info,
    now,
    patched,
    publish,
    random,
    set_memo,
    set_tags,
    side_effect,
    uuid4,
    wait_condition,
    workflow,
)

__all__ = [
    "Declined",
    "Order",
    "approve",
    "begins_anew",
    "cancelled",
    "carries",
    "fails",
    "family",
    "forced",
    "labelled",
    "lasting",
    "order",
    "patient",
    "side_by_side",
    "updated",
    "values",
]


class Declined(Exception):
    def __init__(self, order_id: int, reason: str) -> None:
        super().__init__(f"order {order_id}: {reason}")
        self.order_id = order_id
        self.reason = reason


class Order(BaseModel):
    id: int
    amount: Decimal
    placed: datetime | None = None
    lines: list[str] = []


@dataclass
class Receipt:
    order_id: int
    paid: Decimal
    wait: timedelta


approve: Signal[bool] = Signal("histories.approve", bool)


@activity(name="histories.charge", retry=Retry(max_attempts=3, delay=0.5), timeout=10)
async def charge(order: Order) -> Receipt:
    raise NotImplementedError


@activity(name="histories.step")
async def step(name: str, value: object = None) -> str:
    raise NotImplementedError


@activity(name="histories.once", at_most_once=True, raises=[Declined])
async def once(name: str) -> str:
    raise NotImplementedError


@workflow(name="histories.order")
async def order(bought: Order, express: bool = False) -> str:
    """The everyday: activities, a timer, a signal, a side effect, a patch."""
    region = await side_effect(lambda: "north")
    if patched("histories.check-first"):
        await step("check", region)
    if not await approve.receive():
        return "refused"
    receipt = await charge(bought)
    await asyncio.sleep(0 if express else receipt.wait.total_seconds())
    await step("ship", receipt.paid)
    return f"{receipt.order_id} in {region}"


@workflow(name="histories.fails", raises=[Declined])
async def fails() -> str:
    """Every way in which an activity can end badly, and the run with it."""
    try:
        await step("times out")
    except ActivityTimeout as error:
        await step("told", error.kind)
    try:
        await once("is lost")
    except ActivityLost:
        await step("looked", "whether it took effect")
    try:
        await once("is declined")
    except Declined as error:
        await step("undo", error.order_id)
        raise
    return "unreachable"


@workflow(name="histories.cancelled")
async def cancelled() -> None:
    """Cancelled in the middle, with cleanup that is durable."""
    try:
        async with asyncio.timeout(3600):
            await asyncio.gather(step("a"), step("b"), asyncio.sleep(600))
    finally:
        await step("clean up")


@workflow(name="histories.begins_anew")
async def begins_anew(total: int = 0) -> None:
    """Rolls over at a checkpoint, with a signal that was not received yet."""
    while True:
        total += len(await step("amount"))
        await checkpoint(total=total)


@workflow(name="histories.carries")
async def carries(total: int) -> str:
    """A second run: what was carried is received, and cancellation is known."""
    first = await approve.receive()
    await step("carried", first)
    return f"{total} {await approve.receive()}"


@workflow(name="histories.forced")
async def forced(left: int) -> None:
    await checkpoint(left=left)
    await step("work", left)
    continue_as_new(left=left - 1)


@workflow(name="histories.lasting")
async def lasting() -> None:
    """Still at work when it is ended from outside."""
    while True:
        await step("again")
        await asyncio.sleep(60)


@workflow(name="histories.side_by_side")
async def side_by_side() -> list[str]:
    """Orders that depend on the loop: groups, races, scopes, sets of tasks, chance and time."""
    log: list[str] = []

    async def note(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            log.append(await step(name, str(now())))
        except asyncio.CancelledError:
            log.append(f"{name} cancelled")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(5):
                group.create_task(note(f"group {n}", 5 - n))
            await asyncio.sleep(3.5)
            raise ApplicationError("enough of the group")
    except* ApplicationError:
        log.append("group over")
    async with anyio.create_task_group() as tasks:
        for n in range(3):
            tasks.start_soon(note, f"anyio {n}", 1 + n)
        with anyio.move_on_after(2.5):
            await anyio.sleep_forever()
        tasks.cancel_scope.cancel()
    racers = [asyncio.ensure_future(note(f"race {n}", 4 - n)) for n in range(3)]
    done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for racer in pending:
        racer.cancel()
    log.append(f"{len(done)} of {len(await asyncio.gather(*racers, return_exceptions=True))}")
    for end in asyncio.as_completed([note(f"completed {n}", n) for n in range(3)]):
        await end
    async with asyncio.Semaphore(1), asyncio.Lock():
        log.append(await step("chance", [random().randrange(1000), str(uuid4())]))
    log.append(await step("more chance", [random().random(), str(uuid.uuid4())]))
    return log


@workflow(name="histories.values")
async def values(orders: list[Order], notes: dict[str, bytes], since: datetime) -> dict[str, Order]:
    """Values of many types, one of them large enough for a place of its own."""
    await step("since", since)
    await step("notes", notes)
    return {str(one.id): one for one in orders}


@workflow(name="histories.approves")
async def approves() -> list[object]:
    """One is answered, one is not."""
    verdict = await approval("First?", data={"order": 1}, approvers=["ann"], timeout=60)
    try:
        await approval("Second?", timeout=5)
    except TimeoutError:
        return [verdict.by, verdict.comment, verdict.at]
    return []


told: Output[Order] = Output("histories.told", Order)


@workflow(name="histories.publishes")
async def publishes() -> int:
    """Goes on where the run before it stopped."""
    await told.publish(Order(id=1, amount=Decimal("1.50")))
    await approve.receive()
    await publish("histories.free", [1, "two"])
    return await told.publish(Order(id=2, amount=Decimal(0), lines=["tea"]))


amount: Update[int] = Update("histories.amount", int)


@workflow(name="histories.updated", raises=[Declined])
async def updated(limit: int) -> int:
    """Two handlers that run activities, and whose ends overlap."""
    total = 0

    @amount.handler
    async def _(more: int) -> int:  # pyright: ignore[reportUnusedFunction]
        nonlocal total
        if more > limit:
            raise Declined(more, "too much")
        await step("amount", more)
        total += more
        return total

    @amount.validator
    def _(more: int) -> None:  # pyright: ignore[reportUnusedFunction]
        if more < 0:
            raise ValueError(more)

    await wait_condition(lambda: total >= limit)
    await wait_condition(all_handlers_finished)
    return total


@workflow(name="histories.patient")
async def patient() -> None:
    """Waits for the ends of what it cancels."""
    hold = step.options(on_cancel="wait")
    try:
        async with asyncio.timeout(1):
            await hold("first", None)
    except TimeoutError:
        await hold("second", None)


@workflow(name="histories.offspring", raises=[Declined])
async def offspring(order_id: int) -> str:
    return f"offspring of {order_id}"


@workflow(name="histories.guardian")
async def guardian(order_id: int) -> str:
    """Waits for the end of a child that it cancels; then is cancelled beside an abandoned one."""
    try:
        async with asyncio.timeout(1):
            return await offspring(order_id)
    except TimeoutError:
        return await offspring.options(on_cancel="abandon")(order_id + 1)


@workflow(name="histories.family")
async def family(order_id: int) -> list[str]:
    """Children, and other executions, with every answer that they give."""
    log: list[str] = []
    log.append(await offspring(order_id))
    child = await offspring.options(on_parent_close="abandon").start(order_id)
    try:
        await child.result()
    except WorkflowFailed as failed:
        log.append(type(failed.__cause__).__name__)
    try:
        await offspring.options(id="taken").start(order_id)
    except WorkflowAlreadyStarted:
        log.append("taken")
    try:
        async with asyncio.timeout(5):
            await offspring(order_id)
    except TimeoutError:
        log.append("too slow")
    other = get_handle("other", offspring)
    await other.signal(approve, True)
    try:
        await other.cancel("enough")
    except WorkflowClosed:
        log.append("closed")
    log.append(await other.result())
    try:
        await get_handle("nobody").result()
    except WorkflowNotFound:
        log.append("nobody")
    return log


@workflow(name="histories.labelled")
async def labelled(customer: str) -> list[str]:
    """Goes on with the tags of the run before it, and gives its child others."""
    set_tags(customer=customer, amount=9.5, at=now(), late=None)
    set_memo({"step": "first", "left": [1, 2]})
    set_tags(customer=customer)  # Nothing that is new.
    child = offspring.options(tags={"customer": customer, "urgent": True}, memo="of its parent")
    grown = await child(17)
    set_tags({"order.id": 17, "amount": None})
    return [grown, *sorted(info().tags)]
