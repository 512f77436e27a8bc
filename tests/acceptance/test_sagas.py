"""Sagas: undone in reverse, durably, whatever ended the block."""

import asyncio
from pathlib import Path

import anyio
import pytest

from everlong import (
    ApplicationError,
    CompensationFailed,
    EverlongError,
    Saga,
    Signal,
    Workflow,
    WorkflowCancelled,
    WorkflowFailed,
    activity,
    continue_as_new,
    saga,
    workflow,
)
from tests.support.hosting import ONCE, hosting, of_kind, until

go = Signal("sagas-go", bool)


class Ledger(list[str]):
    """What activities really did, in order."""


@pytest.fixture
def done() -> Ledger:
    return Ledger()


def an_order(done: Ledger, failing: str = "ship") -> Workflow[[], str]:
    @activity(retry=ONCE)
    async def act(what: str) -> None:
        if what == failing:
            raise ApplicationError(f"no {what}")
        done.append(what)

    @workflow
    async def order() -> str:
        async with saga() as s:
            await act("charge")
            s.undo(act, "refund")
            await act("reserve")
            s.undo(act, what="release")
            await go.receive()
            await act("ship")
        return "shipped"

    return order


@pytest.mark.parametrize("cache_size", [1_000, 0])
async def test_a_failure_undoes_the_steps_in_reverse_and_is_raised(
    path: Path, done: Ledger, cache_size: int
) -> None:
    order = an_order(done)
    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(order)
        await handle.signal(go, True)
        with pytest.raises(WorkflowFailed) as failed:
            await handle.result()
    assert isinstance(failed.value.__cause__, ApplicationError)
    assert done == ["charge", "reserve", "release", "refund"]


async def test_what_comes_to_its_end_undoes_nothing(path: Path, done: Ledger) -> None:
    order = an_order(done, failing="")
    async with hosting(path) as client:
        handle = await client.start(order)
        await handle.signal(go, True)
        assert await handle.result() == "shipped"
    assert done == ["charge", "reserve", "ship"]


async def test_a_cancellation_undoes_the_steps_too(path: Path, done: Ledger) -> None:
    order = an_order(done)
    async with hosting(path) as client:
        handle = await client.start(order)

        async def both() -> bool:
            return len(done) == 2

        await until(both)
        await handle.cancel("changed my mind")
        with pytest.raises(WorkflowCancelled, match="changed my mind"):
            await handle.result()
    assert done == ["charge", "reserve", "release", "refund"]


@pytest.mark.parametrize("how", ["timeout", "anyio", "task group"])
async def test_a_second_cancellation_waits_until_everything_is_undone(
    path: Path, done: Ledger, how: str
) -> None:
    @activity(retry=ONCE)
    async def act(what: str) -> None:
        await asyncio.sleep(0.05)  # tidy: waits because a deadline must strike meanwhile
        done.append(what)

    async def steps() -> None:
        async with saga() as s:
            s.undo(act, "first")
            s.undo(act, "second")
            raise ApplicationError("no")

    @workflow
    async def flow() -> str:
        try:
            match how:
                case "timeout":
                    async with asyncio.timeout(0.06):
                        await steps()
                case "anyio":
                    with anyio.fail_after(0.06):
                        await steps()
                case _:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(steps())
                        group.create_task(_fail_soon())
        except (TimeoutError, ApplicationError, ExceptionGroup) as error:
            return type(error).__name__
        return "through"

    async with hosting(path) as client:
        ended = await client.run(flow)
    assert done == ["second", "first"]
    assert ended in ("TimeoutError", "ApplicationError", "ExceptionGroup")


async def _fail_soon() -> None:
    await asyncio.sleep(0.06)  # tidy: waits because it strikes in the middle of the compensations
    raise ApplicationError("the neighbour failed")


async def test_a_compensation_that_fails_keeps_no_other_from_being_tried(
    path: Path, done: Ledger
) -> None:
    @activity(retry=ONCE)
    async def act(what: str) -> None:
        if what == "second":
            raise ApplicationError("cannot be undone")
        done.append(what)

    seen: list[CompensationFailed] = []

    @workflow
    async def flow() -> None:
        try:
            async with saga() as s:
                for what in ("first", "second", "third"):
                    s.undo(act, what)
                raise ApplicationError("the step")
        except CompensationFailed as error:
            seen.append(error)
            raise

    async with hosting(path) as client:
        with pytest.raises(WorkflowFailed) as failed:
            await client.run(flow)
    assert done == ["third", "first"]
    assert isinstance(failed.value.__cause__, CompensationFailed)
    ((name, error),) = seen[-1].failures
    assert "act" in name
    assert isinstance(error, ApplicationError)
    assert str(seen[-1].__context__) == "the step"


async def test_it_goes_on_with_the_compensations_after_its_worker_is_gone(
    path: Path, done: Ledger
) -> None:
    """What was undone is not undone again; the rest is."""
    stuck = asyncio.Event()

    @activity
    async def act(what: str) -> None:
        if what == "first" and not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()
        done.append(what)

    @workflow
    async def flow() -> None:
        async with saga() as s:
            s.undo(act, "first")
            s.undo(act, "second")
            raise ApplicationError("no")

    async with hosting(path, stop_timeout=0) as client:
        await client.start(flow, id="saga")
        await stuck.wait()
    assert done == ["second"]
    async with hosting(path) as client:
        with pytest.raises(WorkflowFailed):
            await client.get_handle("saga", flow).result()
        assert len(await of_kind(client.get_handle("saga"), "ActivityCompleted")) == 2
    assert done == ["second", "first"]


async def test_a_new_beginning_undoes_nothing(path: Path, done: Ledger) -> None:
    @activity
    async def act(what: str) -> None:
        done.append(what)

    @workflow
    async def flow(rounds: int = 0) -> int:
        while rounds < 2:
            async with saga() as s:
                s.undo(act, "undone")
                continue_as_new(rounds=rounds + 1)
        return rounds

    async with hosting(path) as client:
        assert await client.run(flow) == 2
    assert done == []


async def test_it_can_be_undone_without_an_error(path: Path, done: Ledger) -> None:
    @activity
    async def act(what: str) -> None:
        done.append(what)

    @workflow
    async def flow() -> str:
        async with saga() as s:
            s.undo(act, "refund")
            await s.compensate()
        return "called off"

    async with hosting(path) as client:
        assert await client.run(flow) == "called off"
    assert done == ["refund"]


async def test_it_works_without_an_engine(done: Ledger) -> None:
    async def undo(what: str) -> None:
        done.append(what)

    async def steps() -> None:
        async with saga() as s:
            s.undo(undo, "it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await steps()
    assert done == ["it"]


async def test_undo_outside_of_the_block_is_refused() -> None:
    with pytest.raises(EverlongError, match="async with saga"):
        Saga().undo(asyncio.sleep, 0)
