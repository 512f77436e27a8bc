"""Loops over streams whose code asks for other batches than the read that is on record."""

from pathlib import Path
from typing import Any

from everlong import checkpoint, workflow
from everlong.streams import Memory, OnPoison, Stream, dead_letter, stop
from tests.support.hosting import described, hosting, until


def flow(stream: Stream[int], most: int, on_poison: OnPoison = stop) -> Any:
    @workflow(name="changed_loop")
    async def adds(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=most, on_poison=on_poison):
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    return adds


async def test_a_read_that_waits_goes_on_as_it_was_asked_for(path: Path) -> None:
    """Also those that are over are replayed, whatever the loop asks for by now."""
    stream = Stream("numbers", source := Memory(int))
    source.put(1, 2, 3)
    async with hosting(path, workflows=[flow(stream, 1)]) as client:
        control = stream.control(await client.start("changed_loop", id="adds"))
        await until(lambda: stands_at(control, 2))
    async with hosting(path, workflows=[flow(stream, 500, dead_letter(after=2))]) as client:
        control = stream.control(handle := client.get_handle("adds"))
        source.put(4, "five", 6)
        await until(lambda: stands_at(control, 5))
        await control.drain()
        assert await handle.result() == 16
        assert [one.value for one in await control.dead_letters()] == [b"five"]


async def test_a_paused_read_is_ended_by_a_rewind_to_where_the_flow_stands(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(1, "two", 3)
    async with hosting(path, workflows=[flow(stream, 1)]) as client:
        handle = await client.start("changed_loop", id="adds")
        await described(handle, lambda it: it.status == "paused")
    async with hosting(path, workflows=[flow(stream, 500, dead_letter(after=2))]) as client:
        control = stream.control(handle := client.get_handle("adds"))
        await control.rewind({0: 0})
        await handle.resume()
        await until(control.dead_letters)
        await control.drain()
        assert await handle.result() == 4


async def stands_at(control: Any, position: int) -> bool:
    found = await control.position()
    return found is not None and found.after == {"0": position}
