"""Executions that signal, cancel and await each other by workflow id."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    EverlongError,
    InvalidArguments,
    Signal,
    Worker,
    WorkflowCancelled,
    WorkflowClosed,
    WorkflowFailed,
    WorkflowNotFound,
    continue_as_new,
    get_handle,
    workflow,
)
from tests.support.gated_store import LossyStore
from tests.support.hosting import described, hosting, kinds, of_kind, until

word = Signal("others-word", str)
number = Signal("others-number", int)
both_caches = pytest.mark.parametrize("cache_size", [1000, 0])


@workflow(name="collects_elsewhere")
async def collects(count: int) -> list[int]:
    return [await number.receive() for _ in range(count)]


@workflow
async def sends(to: str, count: int) -> str:
    for one in range(count):
        await get_handle(to).signal(number, one)
    return "sent"


@both_caches
async def test_signals_arrive_once_and_in_order(path: Path, cache_size: int) -> None:
    async with hosting(path, workflows=[collects, sends], cache_size=cache_size) as client:
        target = await client.start(collects, 20, id="target")
        assert await client.run(sends, "target", 20) == "sent"
        assert await target.result() == list(range(20))
        assert await client.verify() == []


async def test_what_is_no_signal_and_what_is_too_large_is_refused_in_place(path: Path) -> None:
    @workflow
    async def sender() -> list[str]:
        told: list[str] = []
        for signal, value in ((None, 1), ("undeclared", "x" * 2_100_000)):
            try:
                await get_handle("target").signal(signal, value)  # type: ignore[arg-type]
            except EverlongError as error:
                told.append(f"{type(error).__name__}: {error}")
        return told

    async with hosting(path, workflows=[collects, sender]) as client:
        await client.start(collects, 1, id="target")
        no_signal, too_large = await client.run(sender)
        assert no_signal.startswith("InvalidArguments: None is no Signal"), no_signal
        assert too_large.startswith("PayloadTooLarge: signal undeclared"), too_large


async def test_a_group_that_is_repeated_sends_nothing_twice(path: Path) -> None:
    @workflow
    async def sender() -> None:
        await word.receive()
        await get_handle("target").signal(number, 1)
        await get_handle("target").signal(number, 2)

    async with hosting(path, workflows=[collects, sender]) as client:
        target = await client.start(collects, 2, id="target")
        handle = await client.start(sender)
        lossy = LossyStore(client)
        lossy.lose("submit", times=2)
        await handle.signal(word, "go")
        await handle.result()
        assert lossy.lost
        assert await target.result() == [1, 2]


@both_caches
async def test_who_is_not_there_or_closed_raises(path: Path, cache_size: int) -> None:
    @workflow
    async def closed() -> None: ...

    @workflow
    async def asks() -> list[str]:
        found: list[str] = []
        for target in ("nobody", "closed"):
            handle = get_handle(target)
            for call in (handle.signal(number, 1), handle.cancel("x")):
                try:
                    await call
                except (WorkflowNotFound, WorkflowClosed) as error:
                    found.append(f"{type(error).__name__} {error.workflow_id}")
        try:
            await get_handle("nobody").result()
        except WorkflowNotFound:
            found.append("no result")
        return found

    async with hosting(path, workflows=[closed, asks], cache_size=cache_size) as client:
        await client.run(closed, id="closed")
        assert await client.run(asks) == [
            "WorkflowNotFound nobody",
            "WorkflowNotFound nobody",
            "WorkflowClosed closed",
            "WorkflowClosed closed",
            "no result",
        ]


@both_caches
async def test_results_of_others_are_awaited_by_type(path: Path, cache_size: int) -> None:
    @workflow
    async def fails() -> None:
        await word.receive()
        raise ValueError("no")

    @workflow
    async def hops(left: int = 3) -> set[int]:
        await number.receive()
        if left:
            continue_as_new(left=left - 1)
        return {1, 2}

    @workflow
    async def waits() -> tuple[list[str], set[int]]:
        found: list[str] = []
        one, two = get_handle("hops", hops), get_handle("fails", fails)
        first = asyncio.ensure_future(one.result())
        try:
            await two.result()
        except WorkflowFailed as error:
            found.append(repr(error.__cause__))
        again = await get_handle("hops", hops)  # Closed or not, it is the same.
        assert again == await first
        return found, again

    flows: Any = [fails, hops, waits]
    async with hosting(path, workflows=flows, cache_size=cache_size) as client:
        hopping = await client.start(hops, id="hops")
        failing = await client.start(fails, id="fails")
        handle = await client.start(waits)
        await until(lambda: of_kind(handle, "ExternalAwaited"))
        await failing.signal(word, "go")
        for _ in range(4):
            await hopping.signal(number, 1)
        assert await handle.result() == (["ValueError('no')"], {1, 2})
        assert await client.verify() == []


async def test_waiting_in_vain_again_and_again_asks_once(path: Path) -> None:
    @workflow
    async def waits() -> list[int]:
        for _ in range(4):
            try:
                await asyncio.wait_for(get_handle("target", collects).result(), 0.002)
            except TimeoutError:
                continue
        return await get_handle("target", collects).result()

    async with hosting(path, workflows=[collects, waits]) as client:
        target = await client.start(collects, 1, id="target")
        handle = await client.start(waits)
        await until(lambda: of_kind(handle, "TimerFired"))
        await asyncio.sleep(0.02)  # tidy: waits because timers are to fire meanwhile
        await target.signal(number, 7)
        assert await handle.result() == [7]
        assert len(await of_kind(handle, "ExternalAwaited")) == 1


async def test_cancelling_another_execution(path: Path) -> None:
    @workflow
    async def cancels() -> str:
        handle = get_handle("target", collects)
        await handle.cancel("by another flow")
        try:
            await handle.result()
        except WorkflowCancelled as error:
            return error.reason
        return "?"

    async with hosting(path, workflows=[collects, cancels]) as client:
        await client.start(collects, 1, id="target")
        assert await client.run(cancels) == "by another flow"


async def test_nobody_waits_for_itself(path: Path) -> None:
    @workflow
    async def narcissus() -> str:
        try:
            await get_handle("me").result()
        except EverlongError as error:
            await get_handle("me").signal(word, str(error))
        return await word.receive()

    async with hosting(path) as client:
        assert "wait for itself" in await client.run(narcissus, id="me")


async def test_what_is_wrong_is_refused_before_it_is_sent(path: Path) -> None:
    @workflow
    async def wrong() -> list[str]:
        found: list[str] = []
        try:
            await get_handle("target").signal(number, "no number")  # type: ignore[misc]
        except InvalidArguments as error:
            found.append(str(error))
        try:
            get_handle("")
        except InvalidArguments as error:
            found.append(str(error))
        return found

    with pytest.raises(EverlongError, match=r"client\.get_handle"):
        get_handle("x")
    async with hosting(path) as client:
        handle = await client.start(wrong)
        assert len(await handle.result()) == 2
        assert await kinds(handle) == ["RunStarted", "RunCompleted"]


async def test_two_flows_may_talk_to_each_other_over_restarts(path: Path) -> None:
    @workflow
    async def plays(other: str, left: int) -> int:
        if left == 5:
            await get_handle(other).signal(number, 0)
        total = 0
        for _ in range(left):
            total = await number.receive()
            if total < 7:
                await get_handle(other).signal(number, total + 1)
        return total

    async with Client.connect(path) as client:
        left = await client.start(plays, "right", 4, id="left")
        right = await client.start(plays, "left", 5, id="right")
        for _ in range(3):
            async with Worker(client, cache_size=1):
                await asyncio.sleep(0.01)  # tidy: waits because it is to stop in the middle
        async with Worker(client, cache_size=1):
            await described(left, lambda d: d.closed_at is not None)
            assert await left.result() == 6
            await right.cancel()
