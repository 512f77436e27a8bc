"""anyio inside a workflow: one order and one wording in every process, and cancellation that rests.

The last tests look at anyio itself: a version that is built differently makes them fail, so that
its adapter is looked at before it is allowed.
"""

# tidy: this file sleeps because its loop has a clock of its own, which jumps.

import asyncio
import dis
import importlib
import inspect
import types
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from everlong._replay import anyio_adapter, guard
from everlong._replay.anyio_adapter import install, is_cancel_retry
from everlong._replay.insertion_order import InsertionOrderedSet
from tests.support.fake_workflow_loop import Forbidden, fake_loop
from tests.support.fresh_processes import outputs

BACKEND: Any = importlib.import_module(anyio_adapter.BACKEND)


@pytest.fixture(autouse=True)
def installed() -> None:
    install()


def test_a_scopes_children_are_ordered_inside_a_workflow_only() -> None:
    inside: Any = fake_loop().call(lambda: anyio.CancelScope())  # noqa: PLW0108
    assert isinstance(inside._child_scopes, InsertionOrderedSet)


async def test_outside_a_workflow_anyio_is_as_ever() -> None:
    scope: Any = anyio.CancelScope()
    assert type(scope._child_scopes) is set
    with scope:
        scope.cancel()
        assert f"{id(scope):x}" in scope._cancel_reason
        await anyio.sleep(1)
    assert scope.cancelled_caught


ORDERS = """
import anyio
from everlong._replay.anyio_adapter import install
from tests.support.fake_workflow_loop import fake_loop
install()
log = []

async def guarded(name):
    with anyio.CancelScope():
        try:
            await anyio.sleep(100)
        except BaseException as error:
            log.append(f"undo {name}: {error}")
            raise

async def fail():
    await anyio.sleep(1)
    raise ValueError

async def receive(stream, name):
    try:
        await stream.receive()
    except anyio.ClosedResourceError:
        log.append(f"closed {name}")

async def send(stream, name):
    try:
        await stream.send(name)
    except anyio.ClosedResourceError:
        log.append(f"closed {name}")

async def workflow():
    try:
        async with anyio.create_task_group() as group:
            for n in range(12):
                group.start_soon(guarded, n, name=f"guarded {n}")
            group.start_soon(fail, name="fail")
    except* ValueError:
        log.append("failed")
    sender, receiver = anyio.create_memory_object_stream[str](0)
    async with anyio.create_task_group() as group:
        for n in range(12):
            group.start_soon(receive, receiver, n, name=f"receive {n}")
        await anyio.sleep(1)
        receiver.close()
    full_sender, full_receiver = anyio.create_memory_object_stream[str](0)
    async with anyio.create_task_group() as group:
        for n in range(12):
            group.start_soon(send, full_sender, n, name=f"send {n}")
        await anyio.sleep(1)
        full_sender.close()
    sender.close()
    full_receiver.close()
    with anyio.move_on_after(1):
        async with anyio.create_task_group() as group:
            for n in range(12):
                group.start_soon(guarded, f"late {n}", name=f"late {n}")

fake_loop().run(workflow())
assert len(log) == 12 + 1 + 12 + 12 + 12, log
print(log)
"""


def test_twenty_fresh_processes_take_one_order() -> None:
    assert len(outputs(ORDERS)) == 1


def test_locks_limiters_events_and_streams_work() -> None:
    log: list[str] = []

    async def member(name: str, lock: anyio.Lock, limiter: anyio.CapacityLimiter) -> None:
        async with lock:
            await anyio.sleep(0.1)
        async with limiter:
            log.append(name)
            await anyio.sleep(0.1)

    async def started(task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        await anyio.sleep(0.1)
        task_status.started("up")

    async def workflow() -> None:
        lock, limiter, event = anyio.Lock(), anyio.CapacityLimiter(2), anyio.Event()
        condition, semaphore = anyio.Condition(), anyio.Semaphore(1)
        async with anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(member, name, lock, limiter)
            log.append(await group.start(started))
            event.set()
            await event.wait()
            async with semaphore, condition:
                condition.notify_all()
        with anyio.move_on_after(5) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(1):
            await anyio.sleep(3)

    fake_loop().run(workflow())
    assert sorted(log) == ["a", "b", "c", "up"]


def test_a_cancelled_task_that_waits_all_the_same_lets_the_drive_end() -> None:
    """The awaited future takes no cancellation, as an activity that is being cancelled."""
    loop = fake_loop()

    class Stubborn(asyncio.Future[str]):
        def cancel(self, msg: object = None) -> bool:
            return True

    async def workflow() -> tuple[str, int]:
        outcome = Stubborn(loop=loop)
        loop.call_later(60, outcome.set_result, "done in spite of it")
        text = ""
        with anyio.CancelScope() as scope:
            scope.cancel()
            text = await outcome
        task = asyncio.current_task()
        assert task is not None
        return text, task.cancelling()

    assert loop.run(workflow()) == ("done in spite of it", 0)
    assert loop.parked == 1


def test_only_a_repeated_delivery_counts_as_one() -> None:
    loop = fake_loop()
    scope: Any = loop.call(lambda: anyio.CancelScope())  # noqa: PLW0108
    assert is_cancel_retry(loop.call_soon(scope._deliver_cancellation, scope))
    assert not is_cancel_retry(loop.call_soon(scope.cancel))
    assert not is_cancel_retry(loop.call_soon(print))


def test_a_thread_is_refused() -> None:
    guard.install()

    async def workflow() -> None:
        await anyio.to_thread.run_sync(print)

    loop = fake_loop()
    with pytest.raises(Forbidden):
        loop.run(workflow())
    assert loop.forbidden[0][0] == "WorkerThread.start()"


def test_an_unknown_anyio_is_named_in_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class CancelScope:
        __slots__ = ("_scopes",)

    vars(anyio_adapter)["_deliveries"].clear()
    monkeypatch.setattr(BACKEND, "CancelScope", CancelScope)
    try:
        with pytest.warns(
            RuntimeWarning, match=r"anyio \d.*CancelScope.__init__ does not use _child_scopes"
        ):
            install()
        handle = fake_loop().call_soon(print)
        assert not is_cancel_retry(handle)
    finally:
        monkeypatch.undo()
        vars(anyio_adapter)["_deliveries"].clear()
        install()


# ------------------------------------------------------------------------------- anyio as it is


def codes(owner: types.CodeType) -> Iterator[types.CodeType]:
    yield owner
    for constant in owner.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def functions_that_load(module: types.ModuleType, *names: str) -> set[str]:
    whole = compile(inspect.getsource(module), str(module.__file__), "exec", dont_inherit=True)
    return {
        code.co_qualname
        for code in codes(whole)
        for instruction in dis.get_instructions(code)
        if instruction.opname == "LOAD_GLOBAL" and instruction.argval in names
    }


def test_the_sets_of_anyio_are_those_that_are_known() -> None:
    assert functions_that_load(BACKEND, "set", "WeakSet", "frozenset") <= {
        "CancelScope.__init__",
        "TaskGroup.__init__",
        "CapacityLimiter.__init__",
        "AsyncIOBackend.run_sync_in_worker_thread",  # refused in workflows, as signals are
        "_SignalReceiver.__init__",
        "_SignalReceiver.__enter__",
    }
    assert functions_that_load(importlib.import_module(anyio_adapter.STREAMS), "set") <= {
        "MemoryObjectReceiveStream.receive",
        "MemoryObjectSendStream.send",
        "MemoryObjectSendStream.close",
    }


def test_the_addresses_that_anyio_shows_are_those_that_are_known() -> None:
    assert functions_that_load(BACKEND, "id") <= {
        "CancelScope.cancel",
        "CancelScope._deliver_cancellation",  # before 4.11
        "TaskGroup._spawn",
        "TaskGroup.start",
        "AsyncIOTaskInfo.__init__",
        "AsyncIOBackend.check_cancelled",
    }
