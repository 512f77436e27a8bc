"""Savepoints and rewinds of flows whose sources forget what is acknowledged."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from everlong import WorkflowHandle, checkpoint, workflow
from everlong.exceptions import EverlongError, InvalidArguments, WorkflowCancelled
from everlong.streams import Memory, Stream, StreamControl, merge
from everlong.streams._names import control_of
from tests.support.forgetful_queue import ForgetfulQueue
from tests.support.hosting import hosting, of_kind, until
from tests.support.streams import has_read

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlong.streams._pump._IDLE_LEFT_S", 0.05)


async def test_what_was_stored_and_not_acknowledged_comes_once_over_a_savepoint(
    path: Path,
) -> None:
    """The marks go along, so the new flow knows what is sent to it again."""
    stream = Stream("orders", queue := ForgetfulQueue(int))
    queue.hears = False

    @workflow
    async def fs_one(found: list[int] | None = None) -> list[int]:
        found = found or []
        async for batch in stream.batches(max_messages=2):
            found += batch.values
            await checkpoint(found=found)
        return found

    @workflow
    async def fs_two(found: list[int] | None = None) -> list[int]:
        found = found or []
        async for batch in stream.batches():
            found += batch.values
            await checkpoint(found=found)
        return found

    async with hosting(path, workflows=[fs_one, fs_two]) as client:
        queue.put(1, 2, 3)
        old = await client.start(fs_one, id="flow")
        await has_read(stream.control(old), {"0": 3})
        point = await stream.control(old).savepoint("s", stop=True)
        assert (point.parameters, point.positions) == (
            {"found": [1, 2, 3]},
            {"orders": {"0": 3}},
        )
        with pytest.raises(WorkflowCancelled):
            await old.result()
        assert (queue.deliveries, queue.acknowledged) == (3, 0)
        queue.put(4)
        new = await client.start(fs_two, id="flow", from_savepoint=point)
        await has_read(stream.control(new), {"0": 4})
        assert queue.deliveries >= 7  # They were given out again.
        await stream.control(new).drain()
        assert await new.result() == [1, 2, 3, 4]
        assert await client.verify() == []


async def test_a_savepoint_without_a_stop_is_refused(path: Path) -> None:
    """By who knows the source, or what was read; and by the run, whoever asks."""
    stream = Stream("orders", queue := ForgetfulQueue(int))
    ticks = Stream("ticks", Memory(int))

    @workflow
    async def fs_goes_on(total: int = 0) -> int:
        async for batch in merge(stream.batches(), ticks.batches()):
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with hosting(path, workflows=[fs_goes_on]) as client:
        handle = await client.start(fs_goes_on)
        with pytest.raises(InvalidArguments, match="Stop it with the savepoint: stop=True"):
            await stream.control(handle).savepoint("before")
        queue.put(5)
        await has_read(stream.control(handle), {"0": 1})
        for control in (StreamControl(handle, "orders"), ticks.control(handle)):
            with pytest.raises(InvalidArguments, match="taking messages from 'orders'"):
                await control.savepoint("behind")
        order = {"name": "told", "request": "told", "stop": False}
        await handle.signal(control_of("ticks"), {"do": "savepoint", "order": order})
        with pytest.raises(EverlongError, match=r"no savepoint 'told': without a stop"):
            await until(lambda: taken(ticks.control(handle)))
        assert await ticks.control(handle).savepoints() == []
        point = await ticks.control(handle).savepoint("s", stop=True)
        assert point.parameters == {"total": 5}
        assert await client.verify() == []


async def taken(control: StreamControl) -> bool:
    """Asked once more with the same request, it waits for what comes of it."""
    await control.savepoint("told", stop=True, wait=5, request_id="told")
    return True


async def heard(handle: WorkflowHandle[int], signals: int) -> bool:
    return len(await of_kind(handle, "SignalReceived")) == signals


async def test_nothing_takes_it_back(path: Path) -> None:
    """Refused, with whatever is asked for; and what is on record moves nothing."""
    stream = Stream("orders", queue := ForgetfulQueue(int))
    numbers = Stream("numbers", memory := Memory(int))

    @workflow
    async def fs_back(total: int = 0) -> int:
        async for batch in merge(stream.batches(), numbers.batches()):
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with hosting(path, workflows=[fs_back]) as client:
        handle = await client.start(fs_back)
        beginning = await numbers.control(handle).position()
        assert beginning is None
        queue.put(1, 2)
        await has_read(stream.control(handle), {"0": 2})
        memory.put(10)
        await has_read(numbers.control(handle), {"0": 0})
        point = await stream.control(handle).savepoint("s", stop=True)
        again = await client.start(fs_back, from_savepoint=point)
        control = stream.control(again)
        for ask in (
            control.rewind({0: 1}),
            control.rewind({0: 1}, keys="fresh", identity="queue"),
            control.rewind(to=NOON),
            control.rewind(to=point),
            StreamControl(again, "orders").rewind({0: None}),
            StreamControl(again, "orders").rewind(to=NOON),
            numbers.control(again).rewind(to=point, keys="fresh"),
        ):
            with pytest.raises(InvalidArguments, match="'orders' cannot be rewound"):
                await ask
        back = {"cursors": [list(one) for one in point.cursors], "arguments": point.arguments}
        recorded: list[tuple[str, dict[str, Any]]] = [
            ("orders", {"do": "rewind", "cursor": ["queue", {"0": 0}]}),
            ("orders", {"do": "rewind", "cursor": ["queue", {}], "named": {"0": None}}),
            ("orders", {"do": "rewind", "cursor": ["queue", {}], "named": {}, "keys": "fresh"}),
            ("numbers", {"do": "return", **back, "keys": "fresh"}),
        ]
        for name, told in recorded:
            await again.signal(control_of(name), told)
        await until(lambda: heard(again, 4))
        found = await control.position()
        assert found is not None
        assert (found.after, found.taken is None) == ({"0": 2}, False)
        await numbers.control(again).rewind({0: None})  # The other one has kept what was read.
        queue.put(3)
        await has_read(control, {"0": 3})
        await has_read(numbers.control(again), {"0": 0})
        await control.drain()
        await numbers.control(again).drain()
        assert await again.result() == 26
        assert await client.verify() == []
