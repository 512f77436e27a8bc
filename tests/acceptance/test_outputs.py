"""Output channels: what a workflow publishes is read once, in order, live and afterwards."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from everlong import (
    Client,
    DefinitionError,
    EverlongError,
    InvalidArguments,
    ItemsGone,
    Output,
    PublishedItem,
    Signal,
    UndecodablePayload,
    Worker,
    WorkflowHandle,
    WorkflowNotFound,
    WorkflowTerminated,
    activity,
    continue_as_new,
    publish,
    workflow,
)
from everlong_engine import limits
from tests.support.gated_store import Gate
from tests.support.hosting import described, hosting, kinds, of_kind
from tests.support.other_process import other_process, publishes_elsewhere


@dataclass
class Progress:
    done: int
    of: int = 3


progress = Output("acceptance-progress", Progress)
word = Signal("acceptance-word", str)


async def every(items: AsyncIterator[Any]) -> list[Any]:
    async with asyncio.timeout(20):
        return [item async for item in items]


async def take(items: AsyncIterator[Any], count: int) -> list[Any]:
    async with asyncio.timeout(20):
        return [await anext(items) for _ in range(count)]


async def test_items_are_read_in_order_and_rebuilt_by_their_type(path: Path) -> None:
    @workflow
    async def flow() -> list[int]:
        return [await progress.publish(Progress(done)) for done in (1, 2, 3)]

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await handle.result() == [0, 1, 2]
        assert await every(handle.subscribe(progress)) == [Progress(1), Progress(2), Progress(3)]
        assert await every(handle.subscribe(progress, start=2)) == [Progress(3)]
        assert await every(handle.subscribe(progress, start=3)) == []
        assert await every(handle.subscribe("acceptance-progress", 2)) == [Progress(3)]
        numbered = await every(handle.subscribe(progress, numbered=True))
        assert [(item.number, item.value.done) for item in numbered] == [(0, 1), (1, 2), (2, 3)]
        assert isinstance(numbered[0], PublishedItem)
        assert numbered[0].at == (await handle.history())[0].at


async def test_subscribers_follow_live_each_for_itself(path: Path) -> None:
    @workflow
    async def flow() -> None:
        async for one in word:
            if one == "end":
                return
            await publish("words", one)

    async with hosting(path) as client:
        handle = await client.start(flow, id="one")
        first, second = handle.subscribe("words"), client.get_handle("one").subscribe("words", 1)
        waiting = asyncio.ensure_future(anext(first))
        await handle.signal(word, "a")
        assert await waiting == "a"
        rest = asyncio.ensure_future(every(second))
        await handle.signal(word, "b")
        assert await take(first, 1) == ["b"]
        await handle.signal(word, "c")
        assert await take(first, 1) == ["c"]
        assert await every(handle.subscribe("words", live=False)) == ["a", "b", "c"]
        await handle.signal(word, "end")
        assert await rest == ["b", "c"]
        assert await every(first) == []


async def test_channels_are_apart_and_one_that_nobody_uses_is_empty(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await publish("a", 1)
        await publish("b", [2])
        await publish("a", None)

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await every(handle.subscribe("a")) == [1, None]
        assert await every(handle.subscribe("b")) == [[2]]
        assert await every(handle.subscribe("c")) == []


async def test_numbers_go_on_when_the_function_begins_anew(path: Path) -> None:
    @workflow
    async def flow(hop: int = 0) -> str:
        for index in range(3):
            await publish("hops", [hop, index])
        if hop < 9:
            continue_as_new(hop=hop + 1)
        return "done"

    async with hosting(path) as client:
        handle = await client.start(flow)
        items = await every(handle.subscribe("hops", numbered=True))
        assert [item.number for item in items] == list(range(30))
        assert [item.value for item in items] == [[n // 3, n % 3] for n in range(30)]
        assert await handle.result() == "done"
        assert await client.verify() == []


async def test_nothing_is_published_twice_when_every_step_is_replayed(path: Path) -> None:
    @workflow
    async def flow() -> None:
        for _ in range(3):
            await publish("words", await word.receive())
            await asyncio.sleep(0.001)

    async with hosting(path, cache_size=0) as client:
        handle = await client.start(flow)
        items = handle.subscribe("words", numbered=True)
        for number, text in enumerate("abc"):
            await handle.signal(word, text)
            (item,) = await take(items, 1)
            assert (item.number, item.value) == (number, text)
        assert await every(items) == []
        assert (await kinds(handle)).count("ItemPublished") == 3


async def test_a_subscriber_outlives_the_worker_and_another_one_goes_on(path: Path) -> None:
    @workflow
    async def flow() -> None:
        while (text := await word.receive()) != "end":
            await publish("words", text)

    async with Client.connect(path) as client:
        async with Worker(client, workflows=[flow]):
            handle = await client.start(flow)
            items = handle.subscribe("words")
            await handle.signal(word, "a")
            assert await take(items, 1) == ["a"]
            rest = asyncio.ensure_future(every(items))
        await handle.signal(word, "b")
        async with Worker(client, workflows=[flow]):
            await handle.signal(word, "end")
            assert await rest == ["b"]


async def test_a_subscriber_in_another_process_survives_the_kill_of_the_worker(path: Path) -> None:
    async with Client.connect(path) as client:
        handle: WorkflowHandle[int] = await client.start(publishes_elsewhere, id="one")
        items = handle.subscribe("words", numbered=True)
        async with other_process(path) as other:
            await other.do("serve")
            await handle.signal("release", "a")
            await handle.signal("release", "b")
            assert [item.value for item in await take(items, 2)] == ["a", "b"]
            await handle.signal("release", "c")
            other.kill()
            await other.ended()
        async with other_process(path) as other:
            await other.do("serve")
            await handle.signal("release", "end")
            rest = [(item.number, item.value) for item in await every(items)]
            assert rest == [(2, "c")]
            assert await handle.result() == 1
        assert await client.verify() == []


async def test_an_item_is_seen_only_behind_its_commit(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await publish("words", await word.receive())

    async with hosting(path, workflows=[flow]) as client:
        handle = await client.start(flow)
        await described(handle, lambda it: it.history_events == 1)
        gate = Gate(client)
        gate.shut()
        sending = asyncio.ensure_future(handle.signal(word, "a"))
        await gate.arrived.wait()
        assert await every(handle.subscribe("words", live=False)) == []
        waiting = asyncio.ensure_future(every(handle.subscribe("words")))
        gate.open()
        await sending
        assert await waiting == ["a"]


async def test_a_subscription_ends_with_a_termination(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await publish("words", "a")
        await word.receive()

    async with hosting(path) as client:
        handle = await client.start(flow)
        items = handle.subscribe("words")
        assert await take(items, 1) == ["a"]
        rest = asyncio.ensure_future(every(items))
        await handle.terminate()
        assert await rest == []
        with pytest.raises(WorkflowTerminated):
            await handle.result()


async def test_one_execution_is_followed_whoever_has_its_id_by_then(path: Path) -> None:
    @workflow
    async def flow(text: str) -> None:
        await publish("words", text)
        await word.receive()

    async with hosting(path) as client:
        await client.start(flow, "first", id="one")
        items = client.get_handle("one").subscribe("words")
        assert await take(items, 1) == ["first"]
        again = await client.start(flow, "second", id="one", if_open="terminate")
        assert await every(items) == []
        assert await take(again.subscribe("words"), 1) == ["second"]


async def test_large_items_and_many_of_them_are_read_in_bounded_parts(path: Path) -> None:
    large = "x" * 1_000_000

    @workflow
    async def flow() -> None:
        for _ in range(6):
            await publish("large", large)
        for number in range(250):
            await publish("many", number)

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert await every(handle.subscribe("large")) == [large] * 6
        assert await every(handle.subscribe("many")) == list(range(250))


async def test_activities_stand_between_items(path: Path) -> None:
    @activity
    async def double(number: int) -> int:
        return 2 * number

    @workflow
    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(one(number))

    async def one(number: int) -> None:
        await publish("doubled", await double(number))

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert sorted(await every(handle.subscribe("doubled"))) == [0, 2, 4]
        (first, *_) = await of_kind(handle, "ItemPublished")
        assert first.fields["channel"] == "doubled"
        assert first.fields["number"] == 0
        assert first.fields["where"].startswith("test_outputs.py:")


async def test_too_many_items_of_one_drive_block_the_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISHED_MAX", 10)

    @workflow
    async def flow() -> None:
        while True:
            await publish("endless", 1)

    async with hosting(path) as client:
        handle = await client.start(flow)
        found = await described(handle, lambda it: it.status == "blocked")
        assert "without waiting" in (found.reason or "")
        assert await every(handle.subscribe("endless", live=False)) == []


async def test_too_many_channels_block_the_run(path: Path) -> None:
    @workflow
    async def flow() -> None:
        for number in range(limits.OUTPUT_CHANNELS_MAX + 1):
            await publish(f"channel {number}", number)

    async with hosting(path) as client:
        handle = await client.start(flow)
        found = await described(handle, lambda it: it.status == "blocked")
        assert "output channels" in (found.reason or "")


async def test_an_item_that_does_not_fit_its_type_is_refused(path: Path) -> None:
    @workflow
    async def flow() -> str:
        try:
            await progress.publish("three")  # type: ignore[arg-type]
        except InvalidArguments as error:
            return str(error)
        return "published"

    async with hosting(path) as client:
        handle = await client.start(flow)
        assert "acceptance-progress" in await handle.result()
        assert await every(handle.subscribe(progress)) == []


async def test_an_item_of_another_type_says_which_it_is(path: Path) -> None:
    @workflow
    async def flow() -> None:
        await publish("free", "text")

    async with hosting(path) as client:
        handle = await client.start(flow)
        await handle.result()
        typed = Output("free", Progress)
        with pytest.raises(UndecodablePayload) as caught:
            await every(handle.subscribe(typed))
        assert "item 0" in str(caught.value.__notes__)


class Ticks(NamedTuple):
    numbers: list[int]
    values: list[Any]


async def kept(handle: WorkflowHandle[Any], channel: str, start: int = 0) -> Ticks:
    found = await every(handle.subscribe(channel, start, numbered=True, live=False))
    return Ticks([one.number for one in found], [one.value for one in found])


ticks = Output("acceptance-ticks", int, keep=20)
many = Output("acceptance-many", int, keep=None)


@pytest.mark.parametrize("cache_size", [0, 100])
@pytest.mark.file
async def test_the_newest_items_of_a_channel_are_kept(path: Path, cache_size: int) -> None:
    @workflow
    async def endless(ticked: int = 0) -> int:
        for _ in range(11):
            await ticks.publish(ticked)
            await many.publish(ticked)
            await asyncio.sleep(0)
            ticked += 1
            if ticked % 3 == 0:
                await asyncio.sleep(0.001)
        if ticked < 110:
            continue_as_new(ticked=ticked)
        return ticked

    async with hosting(path, cache_size=cache_size) as client:
        handle = await client.start(endless)
        early = handle.subscribe(ticks, numbered=True)
        first = await anext(early)
        assert await handle.result() == 110
        numbers, values = await kept(handle, "acceptance-ticks")
        assert numbers == values
        # A tenth more than 20 may be there.
        assert numbers == list(range(numbers[0], 110))
        assert 88 <= numbers[0] <= 90
        assert (await kept(handle, "acceptance-ticks", 100)).values == list(range(100, 110))
        assert (await kept(handle, "acceptance-many")).values == list(range(110))
        with pytest.raises(ItemsGone, match=f"Item 3 .* the oldest is {numbers[0]}") as gone:
            await kept(handle, "acceptance-ticks", 3)
        assert (gone.value.number, gone.value.oldest) == (3, numbers[0])
        # Who was slow is told as well, and goes on from where it wants to.
        assert first.number == first.value
        with pytest.raises(ItemsGone):
            await every(early)
        assert await client.verify() == []
        async with Client.connect(path.with_name("copy.db")) as other:
            (copy,) = await other.import_(await client.export(handle.workflow_id), closed=True)
            assert (await kept(copy, "acceptance-ticks")).numbers == numbers


async def test_items_of_one_drive_are_kept_as_well(path: Path) -> None:
    few = Output("acceptance-few", int, keep=3)

    @workflow
    async def burst() -> None:
        for number in range(50):
            await few.publish(number)
            await publish("acceptance-undeclared", number)

    async with hosting(path) as client:
        handle = await client.start(burst)
        await handle.result()
        assert (await kept(handle, "acceptance-few")).numbers == [47, 48, 49]
        assert len((await kept(handle, "acceptance-undeclared")).numbers) == 50


@pytest.mark.parametrize("keep", [0, -1, True, 2.5, "10"])
def test_a_retention_that_makes_no_sense_is_refused(keep: Any) -> None:
    with pytest.raises(DefinitionError, match="1 or more, or None to keep all"):
        Output("acceptance-senseless", int, keep=keep)
    with pytest.raises(DefinitionError, match="keep=20 and keep=21"):
        Output("acceptance-ticks", int, keep=21)


async def test_wrong_uses_are_told(path: Path) -> None:
    with pytest.raises(EverlongError, match="inside a running workflow"):
        await publish("words", 1)
    with pytest.raises(EverlongError, match="inside a running workflow"):
        await progress.publish(Progress(1))
    with pytest.raises(DefinitionError, match="two outputs"):
        Output("acceptance-progress", int)
    with pytest.raises(DefinitionError, match="needs a name"):
        Output("", int)
    async with Client.connect(path) as client:
        handle = client.get_handle("nobody")
        with pytest.raises(ValueError, match="count from 0"):
            handle.subscribe("words", -1)
        with pytest.raises(WorkflowNotFound):
            await every(handle.subscribe("words"))


async def test_whoever_follows_hears_that_the_client_is_closed(path: Path) -> None:
    async with Client.connect(path) as other:
        async with Client.connect(path) as client:
            handle = await client.start(publishes_elsewhere)
            waiting = asyncio.ensure_future(every(handle.subscribe("words")))
            await handle.describe()  # By now it waits.
        with pytest.raises(EverlongError, match="not open"):
            await waiting
        assert (await other.get_handle(handle.workflow_id).describe()).status == "running"
