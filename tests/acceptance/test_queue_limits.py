"""Task queues with limits: how many at once, how many in a period, of whom, in what order."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Client,
    DefinitionError,
    InvalidArguments,
    LimitSummary,
    Rate,
    TaskQueue,
    Worker,
    activity,
    map_all,
    workflow,
)
from everlong.testing import Environment
from tests.support.hosting import hosting, of_kind, until


class Floor:
    """Counts who is at work, in all and of each key, and the most that ever were."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[str] = []
        self.changed = asyncio.Event()
        self.open = asyncio.Event()

    async def work(self, key: str, name: str = "") -> None:
        for one in ("", key):
            self.now[one] += 1
            self.most[one] = max(self.most[one], self.now[one])
        self.order.append(name or key)
        self.changed.set()
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        finally:
            for one in ("", key):
                self.now[one] -= 1

    async def until_at_work(self, count: int) -> None:
        async with asyncio.timeout(20):
            while self.now[""] < count:
                self.changed.clear()
                await self.changed.wait()


def by_first(customer: str, *_: object) -> str:
    return customer


def by_whom(_: int, *, of: str) -> str:
    return of


async def test_no_more_are_at_work_than_a_queue_lets_through(path: Path) -> None:
    floor = Floor()
    queue = TaskQueue("limited", concurrency=3)

    @activity(queue=queue)
    async def step(number: int) -> int:
        await floor.work("any")
        return number

    @workflow
    async def flow() -> list[int]:
        return list(await asyncio.gather(*(step(number) for number in range(12))))

    async with hosting(path) as client, Worker(client, workflows=[], name="second"):
        handle = await client.start(flow)
        await floor.until_at_work(3)
        (found,) = await client.queues()
        assert (found.running, found.waiting) == (3, 9)
        floor.open.set()
        assert await handle.result() == list(range(12))
    assert floor.most[""] == 3


async def test_a_key_has_a_limit_of_its_own(path: Path) -> None:
    floor = Floor()
    queue = TaskQueue("limited by key", key_concurrency=1)

    @activity(queue=queue, key=by_first)
    async def charge(customer: str, number: int) -> None:
        await floor.work(customer)

    @workflow
    async def flow() -> None:
        calls = [charge(customer, number) for customer in ("ann", "bob") for number in range(4)]
        await asyncio.gather(*calls)

    async with hosting(path) as client:
        handle = await client.start(flow)
        await floor.until_at_work(2)
        floor.open.set()
        await handle.result()
    assert (floor.most["ann"], floor.most["bob"]) == (1, 1)
    assert floor.order.count("ann") == 4


async def test_one_call_does_not_wait_for_another_customers_thousand(path: Path) -> None:
    floor = Floor()
    floor.open.set()

    @activity(queue="fair", key=by_first)
    async def charge(customer: str) -> None:
        await floor.work(customer)

    @workflow
    async def flow(customer: str, calls: int) -> None:
        await asyncio.gather(*(charge(customer) for _ in range(calls)))

    async with Client.connect(path) as client:
        async with Worker(client, queues=["default"]):
            await client.start(flow, "large", 300)
            await client.start(flow, "small", 1)
            await until(lambda: waits(client, 301))
        async with Worker(client, activity_slots=1):
            await until(lambda: ended(client, 2))
    assert floor.order.index("small") <= 2
    assert len(floor.order) == 301


async def waits(client: Client, count: int) -> bool:
    return sum(one.waiting for one in await client.queues()) == count


async def ended(client: Client, count: int) -> bool:
    return await client.count("status = 'completed'") == count


async def test_the_most_urgent_goes_first(path: Path) -> None:
    floor = Floor()
    floor.open.set()

    @activity(queue="urgent", priority=-1)
    async def step(name: str) -> None:
        await floor.work(name)

    @workflow
    async def flow() -> None:
        calls = [step("last"), step.options(priority=0)("usual"), step.options(priority=9)("first")]
        await asyncio.gather(*calls)

    async with Client.connect(path) as client:
        async with Worker(client, queues=["default"]):
            handle = await client.start(flow)
            await until(lambda: waits(client, 3))
        async with Worker(client, activity_slots=1):
            await handle.result()
    assert floor.order == ["first", "usual", "last"]


async def test_a_rate_holds_back_what_comes_too_soon() -> None:
    queue = TaskQueue("by rate", rate=Rate(2, per=timedelta(minutes=1)))
    began: list[datetime] = []
    environment: list[Environment] = []

    @activity(queue=queue)
    async def call() -> None:
        began.append(environment[0].now)

    @workflow
    async def flow() -> None:
        await asyncio.gather(*(call() for _ in range(5)))

    async with Environment() as env:
        environment.append(env)
        handle = await env.client.start(flow)
        await handle.result()
    assert [round((at - began[0]).total_seconds()) for at in began] == [0, 0, 60, 60, 120]


async def limits_of(client: Client, queue: str) -> list[LimitSummary]:
    return [one for one in await client.limits() if one.queue == queue]


async def test_a_person_closes_a_queue_and_opens_it_again(path: Path) -> None:
    floor = Floor()
    floor.open.set()
    queue = TaskQueue("closed", concurrency=5)

    @activity(queue=queue)
    async def step() -> None:
        await floor.work("any")

    @workflow
    async def flow() -> None:
        await step()

    async with hosting(path) as client:
        assert [one.concurrency for one in await limits_of(client, "closed")] == [5]
        await client.limit_queue("closed", concurrency=0, by="ann")
        (found,) = await limits_of(client, "closed")
        assert (found.concurrency, found.set_by_person, found.by) == (0, True, "ann")
        handle = await client.start(flow)
        await until(lambda: waits(client, 1))
        assert await client.unlimit_queue("closed") is True
        await handle.result()
        assert await client.unlimit_queue("closed") is False
        (found,) = await limits_of(client, "closed")
        assert (found.concurrency, found.set_by_person) == (5, False)


async def test_what_code_says_no_more_holds_no_more(path: Path) -> None:
    TaskQueue("was limited", concurrency=1, key_rate=Rate(1, per=1))
    async with hosting(path) as client:
        (found,) = await limits_of(client, "was limited")
        assert (found.concurrency, found.key_rate) == (1, Rate(1, per=1))
        TaskQueue("was limited")
        async with Worker(client):
            assert await limits_of(client, "was limited") == []


async def test_a_key_is_told_by_the_arguments_or_by_the_call(path: Path) -> None:
    @activity(queue="keys", key=by_whom)
    async def step(number: int, *, of: str) -> None: ...

    @activity(queue="keys")
    async def other() -> None: ...

    @workflow
    async def flow() -> None:
        await step(1, of="ann")
        await other.options(key=17, priority=3)()

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.result()
        scheduled = await of_kind(handle, "ActivityScheduled")
    seen = [str(event.fields.get("options")) for event in scheduled]
    assert "ann" in seen[0]
    assert "17" in seen[1]
    assert "3" in seen[1]


@pytest.mark.parametrize("key", [None, 1.5, "", "x" * 201, "a\nb"])
async def test_a_key_that_is_none_is_refused_at_the_call(path: Path, key: Any) -> None:
    def none(_: int) -> Any:
        return key

    @activity(queue="keys", key=none)
    async def step(number: int) -> None: ...

    @workflow
    async def flow() -> str:
        try:
            await step(1)
        except (TypeError, ValueError) as error:
            return str(error)
        return "went through"

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert "its key= gave" in await handle.result()


def test_keys_and_priorities_are_for_queues() -> None:
    with pytest.raises(DefinitionError, match="give queue="):

        @activity(priority=1)
        async def urgent() -> None: ...

    with pytest.raises(DefinitionError, match="give queue="):

        @activity(queue="default", key=lambda: "a")
        async def keyed() -> None: ...

    @activity
    async def plain() -> None: ...

    with pytest.raises(DefinitionError, match="give queue="):
        plain.options(key="a")
    with pytest.raises(TypeError, match="no function"):
        activity(queue="q", key="a")(lambda: None)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="whole number"):
        plain.options(queue="q", priority=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1,000,000"):
        plain.options(queue="q", priority=1_000_001)
    with pytest.raises(TypeError, match="is no key"):
        plain.options(queue="q", key=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"concurrency": -1}, "0 to"),
        ({"concurrency": True}, "whole number"),
        ({"key_concurrency": 1.5}, "whole number"),
        ({"rate": 5}, "give a Rate"),
        ({"key_rate": "5/s"}, "give a Rate"),
    ],
)
async def test_limits_that_are_none_are_refused(
    path: Path, limits: dict[str, Any], says: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        TaskQueue("refused", **limits)
    async with Client.connect(path) as client:
        with pytest.raises((TypeError, ValueError), match=says):
            await client.limit_queue("refused", **limits)


async def test_limits_of_nothing_are_refused(path: Path) -> None:
    with pytest.raises(DefinitionError, match="where workflows are"):
        TaskQueue("default", concurrency=1)
    with pytest.raises(ValueError, match="names no task queue"):
        TaskQueue("")
    with pytest.raises(ValueError, match="more than 0"):
        Rate(1, per=0)
    with pytest.raises(ValueError, match="1 to"):
        Rate(0, per=1)
    async with Client.connect(path) as client:
        with pytest.raises(InvalidArguments, match="needs a limit"):
            await client.limit_queue("gpu")
        with pytest.raises(InvalidArguments, match="cannot be limited"):
            await client.limit_queue("default", concurrency=1)


def test_two_files_cannot_declare_one_queue_with_different_limits() -> None:
    TaskQueue("of two files", concurrency=1)
    TaskQueue("of two files", concurrency=2)  # Here it is the same file: a cell that is run again.
    again = compile('TaskQueue("of two files", concurrency=3)', "other.py", "exec")
    with pytest.raises(DefinitionError, match="two task queues 'of two files'"):
        exec(again, {"TaskQueue": TaskQueue})


async def test_a_map_over_a_limited_queue_keeps_to_it(path: Path) -> None:
    floor = Floor()
    floor.open.set()
    queue = TaskQueue("mapped", concurrency=2)

    @activity(queue=queue)
    async def step(number: int) -> int:
        await floor.work("any")
        return number * 2

    @workflow
    async def flow() -> list[int]:
        return list((await map_all(step, range(20))).results)

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == [2 * number for number in range(20)]
    assert floor.most[""] <= 2
