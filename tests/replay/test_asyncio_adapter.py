"""Switching a thread between two loops, and asyncio without memory addresses."""

# tidy: this file sleeps because its loop has a clock of its own, which jumps.

import asyncio
import gc
import sys
from asyncio import as_completed as imported_early
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from everlong._context import driving
from everlong._replay import asyncio_adapter
from everlong._replay.asyncio_adapter import (
    driven_loop,
    enter,
    install_as_completed,
    leave,
)
from everlong._replay.insertion_order import InsertionOrderedSet
from tests.support.fake_workflow_loop import fake_loop
from tests.support.fresh_processes import outputs


@pytest.fixture(autouse=True)
def installed() -> None:
    install_as_completed()


async def test_a_drive_inside_a_task_of_the_worker_gives_everything_back() -> None:
    worker_loop, worker_task = asyncio.get_running_loop(), asyncio.current_task()
    hooks = sys.get_asyncgen_hooks()
    loop = fake_loop()
    outside = enter(loop)
    try:
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is None
        assert asyncio.current_task(worker_loop) is None
        assert driven_loop() is loop
    finally:
        leave(outside)
    assert asyncio.get_running_loop() is worker_loop
    assert asyncio.current_task() is worker_task
    assert sys.get_asyncgen_hooks() == hooks
    assert driven_loop() is None
    await asyncio.sleep(0)  # The worker's task still works.


async def test_a_drive_inside_a_callback_of_the_worker() -> None:
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def workflow() -> str:
        task = asyncio.current_task()
        await asyncio.sleep(5)
        return task.get_name() if task else "no task"

    def drive() -> None:
        seen.set_result(fake_loop().run(workflow()))

    asyncio.get_running_loop().call_soon(drive)
    assert (await seen).startswith("task-")


def test_a_drive_with_no_loop_around_it() -> None:
    async def workflow() -> int:
        return 3

    assert fake_loop().run(workflow()) == 3
    assert asyncio.events._get_running_loop() is None
    assert not driving


async def test_an_async_generator_of_a_workflow_never_reaches_the_workers_loop() -> None:
    cleaned: list[str] = []

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            cleaned.append("finally")

    async def workflow() -> None:
        async for _ in endless():
            break

    fake_loop().run(workflow())
    gc.collect()
    await asyncio.sleep(0)
    assert cleaned == []
    assert len(asyncio.get_running_loop()._asyncgens) == 0  # type: ignore[attr-defined]


async def named(name: str, cycles: int) -> str:
    for _ in range(cycles):
        await asyncio.sleep(0)
    return name


def test_as_completed_starts_coroutines_in_argument_order_even_if_imported_early() -> None:
    started: list[int] = []

    async def step(number: int) -> None:
        started.append(number)

    async def workflow() -> None:
        for done in imported_early([step(number) for number in range(20)]):
            await done

    fake_loop().run(workflow())
    assert started == list(range(20))


def test_as_completed_yields_in_order_of_completion() -> None:
    async def workflow() -> list[str]:
        coros: list[Coroutine[Any, Any, str]] = [
            named("late", 9),
            named("soon", 1),
            named("mid", 4),
        ]
        return [await done for done in asyncio.as_completed(coros)]

    assert fake_loop().run(workflow()) == ["soon", "mid", "late"]


def test_wait_gives_done_and_pending_in_argument_order() -> None:
    async def workflow() -> tuple[list[str], list[str]]:
        tasks = [asyncio.create_task(named(str(n), n % 3 * 10)) for n in range(12)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        names = [task.get_name() for task in tasks]
        assert isinstance(done, set)
        assert done | pending == set(tasks)
        assert [names.index(task.get_name()) for task in done] == [0, 3, 6, 9]
        rest = [names.index(task.get_name()) for task in pending]
        while pending:
            pending.pop().cancel()
        return [task.result() for task in done], [str(number) for number in rest]

    done, pending = fake_loop().run(workflow())
    assert done == ["0", "3", "6", "9"]
    assert pending == ["1", "2", "4", "5", "7", "8", "10", "11"]


def test_all_tasks_of_a_workflow_are_its_own_and_in_order() -> None:
    async def workflow() -> list[str]:
        tasks = [asyncio.create_task(named("x", 3), name=f"t{n}") for n in range(40)]
        found = [task.get_name() for task in asyncio.all_tasks() if task in tasks]
        await asyncio.gather(*tasks)
        return found

    assert fake_loop().run(workflow()) == fake_loop().run(workflow())


async def test_outside_a_workflow_asyncio_keeps_its_plain_sets() -> None:
    done, pending = await asyncio.wait([asyncio.ensure_future(named("a", 0))])
    assert type(done) is set
    assert type(pending) is set
    assert list(await asyncio.gather(named("a", 0), named("b", 1))) == ["a", "b"]
    results = {await future for future in asyncio.as_completed([named("a", 1), named("b", 0)])}
    assert results == {"a", "b"}


def test_installing_twice_changes_nothing() -> None:
    before = vars(asyncio.tasks)["_GatheringFuture"]
    install_as_completed()
    assert vars(asyncio.tasks)["_GatheringFuture"] is before


def test_an_unknown_asyncio_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(*_: object) -> None: ...

    monkeypatch.delattr(asyncio.tasks, "set")
    monkeypatch.setattr(asyncio.tasks, "wait", wait)
    with pytest.raises(RuntimeError, match=r"a set in .*wait.* different in Python 3"):
        install_as_completed()


def test_every_private_name_is_checked_for() -> None:
    private = vars(asyncio_adapter)["_private"]
    with pytest.raises(RuntimeError, match="through _no_such_name of CPython's asyncio"):
        private(asyncio.tasks, "_no_such_name")


ORDERS = """
import asyncio
from everlong._replay.asyncio_adapter import install_as_completed
from tests.support.fake_workflow_loop import fake_loop
install_as_completed()
log = []

async def step(name, fails=False):
    log.append(f"do {name}")
    try:
        await asyncio.sleep(0 if fails else 10)
        if fails:
            raise ValueError(name)
    except asyncio.CancelledError:
        log.append(f"undo {name}")
        raise

async def workflow():
    for done in asyncio.as_completed([step(f"c{n}") for n in range(9)]):
        await done
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(12):
                group.create_task(step(f"g{n}", fails=n == 7))
    except* ValueError:
        log.append("failed")
    gathers = {asyncio.gather(step(f"a{n}"), step(f"b{n}")) for n in range(9)}
    await asyncio.sleep(0)
    for gather in gathers:
        gather.cancel()
    done, _ = await asyncio.wait(gathers)
    log.append(str(len(done)))
    waited = [asyncio.ensure_future(step(f"w{n}")) for n in range(9)]
    _, pending = await asyncio.wait(waited, timeout=1)
    for task in pending:
        task.cancel()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        log.append(task.get_name())
    await asyncio.gather(*waited, return_exceptions=True)

fake_loop().run(workflow())
print(log)
"""


def test_twenty_fresh_processes_take_one_order() -> None:
    assert len(outputs(ORDERS)) == 1


def test_an_ordered_set_is_a_set_that_remembers() -> None:
    letters = InsertionOrderedSet("dacb")
    assert list(letters) == ["d", "a", "c", "b"]
    letters.discard("a")
    letters.add("e")
    letters.add("d")
    assert list(letters) == ["d", "c", "b", "e"]
    letters -= {"c"}  # a method of set that it does not know
    assert list(letters) == ["d", "b", "e"]
    letters |= {"z"}
    assert list(letters) == ["d", "b", "e", "z"]
    assert letters == {"d", "b", "e", "z"}
    assert letters.pop() == "d"
    letters.remove("b")
    letters.clear()
    assert not letters
    with pytest.raises(KeyError):
        letters.pop()
