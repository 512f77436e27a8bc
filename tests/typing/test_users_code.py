"""Users' code, as a type checker sees it: what is inferred without a single annotation.

`make check` is the test; running it only shows that it also is a program.
"""

from pathlib import Path
from typing import Any, assert_type

from pydantic import BaseModel

import everlong
from everlong import (
    ChildHandle,
    Client,
    ExternalHandle,
    Output,
    PublishedItem,
    Query,
    Signal,
    Worker,
    WorkflowHandle,
    activity,
    approval,
    checkpoint,
    get_handle,
    publish,
    workflow,
)
from everlong.streams import Batch, Memory, Stream, Tick, every, merge
from everlong.testing import ActivityCall, Environment


class Verdict(BaseModel):
    ok: bool


verdict = Signal("typed-verdict", Verdict)
status = Query("typed-status", str)
anything = Signal("typed-anything")
steps = Output("typed-steps", Verdict)
maybe = Signal("typed-maybe", int | None)


@activity(name="typed-double")
async def double(number: int) -> int:
    return 2 * number


@workflow
async def typed(number: int) -> str:
    @status.handler
    def _() -> str:
        return "waiting"

    answer = await verdict.receive()
    assert_type(answer, Verdict)
    doubled = await double(number)
    assert_type(doubled, int)
    assert_type(await steps.publish(answer), int)
    assert_type(await publish(steps, answer), int)
    assert_type(await publish("typed-words", "plain"), int)
    assert_type(await simple(1), int)
    assert_type(await simple.options(id="typed-child")(number=1), int)
    handle = await simple.start(1)
    assert_type(handle, ChildHandle[int])
    assert_type(await handle.result(), int)
    assert_type(await handle, int)
    return f"{doubled} {answer.ok}"


@workflow(name="typed-asks")
async def asks() -> bool:
    said = await approval("Ship it?", data={"order": 1}, approvers=["ann"], timeout=5)
    assert_type(said, everlong.Verdict)
    return said.approved


@workflow
async def never_run() -> None:
    other = get_handle("typed-other", simple)
    assert_type(other, ExternalHandle[int])
    assert_type(await other.result(), int)
    assert_type(await get_handle("typed-other").result(), Any)
    await other.signal(verdict, Verdict(ok=True))


@workflow
async def simple(number: int) -> int:
    return number + 1


@workflow(name="typed-many")
async def many(first: int, second: str = "", *, third: float = 0.0) -> int:
    return first


@workflow(name="typed-rest")
async def rest(*numbers: int) -> int:
    return sum(numbers)


async def test_starts_take_options_and_arguments_in_any_way(tmp_path: Path) -> None:
    async with Client.connect(tmp_path / "typed.db") as client, Worker(client):
        handle = await client.start(many, 1, "two", id="a", if_open="fail")
        assert_type(handle, WorkflowHandle[int])
        assert_type(await client.start(many, 1, request_id="r"), WorkflowHandle[int])
        assert_type(await client.start(many, 1, "two", third=3), WorkflowHandle[int])
        assert_type(await client.start(many, 1, "two", third=3, id="b"), WorkflowHandle[int])
        assert_type(await client.start(many, 1, second="two", id="c"), WorkflowHandle[int])
        assert_type(await client.start(many, first=1, id=None), WorkflowHandle[int])
        assert_type(await client.start(many, first=1, id="d"), WorkflowHandle[int])
        assert_type(await client.start(rest, id="e"), WorkflowHandle[int])
        assert_type(await client.start(rest, 1, 2, id="f"), WorkflowHandle[int])
        assert_type(await client.start("typed-many", first=1, id="g"), WorkflowHandle[Any])
        assert_type(await client.run(rest, 1, 2, id="h"), int)


def test_scripts_are_inferred(tmp_path: Path) -> None:
    db = tmp_path / "typed.db"
    assert_type(everlong.run(many, 1, "two", db=db), int)
    assert_type(everlong.run(many, first=1, db=db), int)
    assert_type(everlong.run(many, 1, third=3, db=db, id="x"), int)


async def test_fakes_are_typed_like_their_activities() -> None:
    async def slow(number: int) -> int:
        await env.sleep(minutes=5)
        return number

    async with Environment() as env:
        env.fake(double, slow)
        env.fake(double, lambda number: number + 1)
        env.fake(double, returns=4)
        env.fail(double, ValueError, times=2)
        assert_type(await env.client.run(simple, 2), int)
        assert_type(env.calls(double), list[ActivityCall])


numbers = Stream("typed-numbers", Memory(int))


@workflow
async def merged(verdicts: int = 0) -> int:
    async for batch in numbers.batches():
        assert_type(batch, Batch[int])
        assert_type(batch.values, list[int])
    async for tick in every(60):
        assert_type(tick, Tick)
    async for either in merge(numbers.batches(), verdict):
        assert_type(either, Batch[int] | Verdict)
    async for found in merge(numbers.batches(), verdict, every(60)):
        assert_type(found, Batch[int] | Verdict | Tick)
        match found:
            case Batch():
                assert_type(found, Batch[int])
            case Verdict():
                verdicts += found.ok
            case Tick():
                await checkpoint(verdicts=verdicts)
    return verdicts


async def test_types_are_inferred_from_plain_functions(tmp_path: Path) -> None:
    assert_type(verdict, Signal[Verdict])
    assert_type(status, Query[str])
    assert_type(anything, Signal[Any])
    assert_type(maybe, Signal[Any])
    async with Client.connect(tmp_path / "typed.db") as client, Worker(client):
        handle = await client.start(typed, 1, id="typed")
        assert_type(handle, WorkflowHandle[str])
        assert_type(await handle.query(status), str)
        await handle.signal(verdict, Verdict(ok=True))
        assert_type(await handle.result(), str)
        async for step in handle.subscribe(steps):
            assert_type(step, Verdict)
        async for numbered in handle.subscribe(steps, 1, numbered=True):
            assert_type(numbered, PublishedItem[Verdict])
            assert_type(numbered.value, Verdict)
        async for word in handle.subscribe("typed-words"):
            assert_type(word, Any)
        assert_type(client.get_handle("typed"), WorkflowHandle[Any])
        assert_type(client.get_handle("typed", typed), WorkflowHandle[str])
        assert_type(await client.run(simple, 2), int)
        assert_type(await client.run(simple, 2, id="simple"), int)
        assert_type(await client.run(simple, number=2), int)
        assert_type(await client.run(simple, id="simple", number=2), int)
        assert_type(await client.run("simple", number=2, request_id="by-name"), Any)
        anything_goes: object = await handle.query(status)  # As in print(await …).
        assert anything_goes
