"""What a type checker infers of the steps of a workflow: activities, children, messages, sagas."""

import asyncio
from pathlib import Path
from typing import Any, assert_type

from everlong import (
    ActivityInfo,
    ChildHandle,
    Client,
    ExternalHandle,
    Retry,
    Signal,
    Update,
    UpdateHandle,
    Worker,
    WorkflowHandle,
    WorkflowInfo,
    activity,
    all_handlers_finished,
    complete_later,
    get_handle,
    info,
    map_all,
    saga,
    wait_condition,
    workflow,
)

stop: Signal[None] = Signal("typed-steps-stop")
more = Signal("typed-steps-more", int)
size = Update("typed-steps-size", int)


@activity(retry=Retry(max_attempts=2), timeout=5, on_cancel="wait")
async def length(text: str, times: int = 1) -> int:
    return len(text) * times


@activity(process=False)
def upper(text: str) -> str:
    return text.upper()


@activity
async def elsewhere(question: str) -> bool:
    assert_type(info(ActivityInfo).token, str)
    complete_later()


@workflow(name="typed-child")
async def child(text: str) -> list[str]:
    return [await upper(text)]


@workflow(name="typed-listener")
async def listener() -> int:
    async for number in more:
        assert_type(number, int)
        return number
    return 0


@workflow(name="typed-steps")
async def steps(text: str) -> int:
    called: list[str] = []

    @size.handler
    async def _(_by: int) -> int:
        return len(called)

    assert_type(await length(text), int)
    assert_type(await length.options(on_cancel="abandon")(text, times=2), int)
    assert_type(await upper(text), str)
    both = await asyncio.gather(length(text), upper(text))
    assert_type(both, tuple[int, str])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(length(text))
    assert_type(task.result(), int)

    result = await child(text)
    assert_type(result, list[str])
    called += result
    started = await child.options(on_parent_close="cancel").start(text)
    assert_type(started, ChildHandle[list[str]])
    assert_type(await started, list[str])
    assert_type(await started.result(), list[str])
    other = await listener.start()
    await other.signal(more, 3)
    assert_type(await other, int)
    assert_type(get_handle("other"), ExternalHandle[Any])
    assert_type(get_handle("other", child), ExternalHandle[list[str]])

    mapped = await map_all(length, [text, text], tolerate=0.5)
    assert_type(mapped.results, list[int])
    assert_type([failure.item for failure in mapped.failures], list[str])

    async with saga() as s:
        s.undo(length, text, times=2)
    assert_type(await wait_condition(lambda: bool(called), timeout=1), None)
    assert_type(all_handlers_finished(), bool)
    assert_type(info(WorkflowInfo).cancel_reason, str | None)

    await stop.receive()
    await wait_condition(all_handlers_finished)
    return len(called)


async def test_steps_are_inferred(tmp_path: Path) -> None:
    async with Client.connect(tmp_path / "typed.db") as client, Worker(client):
        handle = await client.start(steps, "text")
        assert_type(handle, WorkflowHandle[int])
        assert_type(await handle.update(size, 1), int)
        sent = await handle.start_update(size, 1)
        assert_type(sent, UpdateHandle[int])
        assert_type(await sent.result(), int)
        by_name = await handle.update("typed-steps-size", 1)
        assert_type(by_name, Any)
        assert_type(await handle.get_update(sent.id), UpdateHandle[Any])
        assert_type(await handle.get_update(sent.id, size), UpdateHandle[int])
        await handle.signal(stop)
        await handle.signal("typed-steps-more", 1)
        assert_type(await handle.result(), int)
