"""What all sources have in common, tried with each of them."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from everlong import checkpoint, workflow
from everlong.exceptions import InvalidArguments, StreamRewound
from everlong.streams import Cursor, Memory, Reader, Record, Stream
from tests.support.hosting import hosting, until
from tests.support.source_rigs import RIGS, Numbered, SourceRig
from tests.support.streams import SOON

PATIENCE_S = 20.0
SPINS_MAX = 200
"""Turns of the loop while a fetch waits a quarter of a second: a busy loop makes thousands."""


@pytest_asyncio.fixture(name="rig", params=RIGS)
async def opened_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[SourceRig]:
    async with RIGS[request.param](tmp_path) as rig:
        yield rig


class Reading:
    """A reader, and how far it has come."""

    def __init__(self, reader: Reader, after: Cursor | None) -> None:
        self.reader = reader
        self.cursor = after or Cursor(reader.identity, {})

    async def take(self, messages: int = 100, size: int = 1_000_000) -> list[Record]:
        """The next ones, once there are any."""
        async with asyncio.timeout(PATIENCE_S):
            found = list(await self.reader.fetch(messages, size, None))
        positions = {one.partition: one.position for one in found}
        self.cursor = Cursor(self.reader.identity, {**self.cursor.after, **positions})
        return found

    async def until(self, last: int, messages: int = 100) -> list[int]:
        """Everything up to this number."""
        found: list[int] = []
        while last not in found:
            found += numbers(await self.take(messages))
        return found


def numbers(records: list[Record]) -> list[int]:
    decode = Memory(Numbered).decode
    return [one for record in records if (one := decode(record.value).n) >= 0]


async def opened(rig: SourceRig, after: Cursor | None = None) -> Reading:
    return Reading(await rig.source.open(after, None), after)


async def test_what_is_put_comes_once_and_in_order(rig: SourceRig) -> None:
    reading = await opened(rig)
    await rig.put(*range(20))
    found = await reading.until(19, messages=3)
    await rig.put(*range(20, 30))
    found += await reading.until(29)
    assert found == list(range(30))
    await reading.reader.close()


async def test_behind_each_cursor_comes_the_rest(rig: SourceRig) -> None:
    await rig.put(*range(6))
    reading = await opened(rig)
    rests = [(reading.cursor, 0)] if not reading.cursor.after else []
    found = -1
    while found < 5:
        taken = numbers(await reading.take(1))
        assert len(taken) <= 1
        found = taken[-1] if taken else found
        rests.append((reading.cursor, found + 1))
    await reading.reader.close()
    for cursor, first in rests:
        assert Cursor.from_wire(cursor.to_wire()) == cursor
        again = await opened(rig, cursor if cursor.after else None)
        await rig.put(6)
        rest = await again.until(6)
        assert rest[: 6 - first] == list(range(first, 6))
        await again.reader.close()


async def test_two_readers_get_the_same_positions(rig: SourceRig) -> None:
    await rig.put(*range(5))
    lots: list[list[Any]] = []
    for messages in (2, 100):
        reading, found = await opened(rig), list[Record]()
        while 4 not in numbers(found):
            found += await reading.take(messages)
        lots.append([(one.partition, one.position, one.value, one.key) for one in found])
        await reading.reader.close()
    assert lots[0] == lots[1]
    assert len({one[:2] for one in lots[0]}) == len(lots[0])


async def test_a_fetch_waits_without_spinning_and_ends_in_time(
    rig: SourceRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put(1)
    reading = await opened(rig)
    await reading.until(1)
    loop: Any = asyncio.get_running_loop()
    select, spins = loop._selector.select, 0

    def counted(timeout: float | None) -> Any:
        nonlocal spins
        spins += 1
        return select(timeout)

    monkeypatch.setattr(loop._selector, "select", counted)
    began = loop.time()
    async with asyncio.timeout(PATIENCE_S):
        assert list(await reading.reader.fetch(10, 1000, 0.25)) == []
    assert loop.time() - began >= 0.2
    assert spins < SPINS_MAX or not rig.is_asked_quietly
    await reading.reader.close()


async def test_a_fetch_that_waits_gets_what_comes_meanwhile(rig: SourceRig) -> None:
    await rig.put(1)
    reading = await opened(rig)
    await reading.until(1)
    waits = asyncio.ensure_future(reading.take())
    await asyncio.sleep(0)
    await reading.reader.acknowledge(reading.cursor)  # While it waits.
    await rig.put(2)
    assert numbers(await waits) == [2]
    await reading.reader.close()


async def test_a_fetch_gives_no_more_than_is_wanted(rig: SourceRig) -> None:
    await rig.put(*range(20))
    reading = await opened(rig)
    assert len(await reading.take(7)) <= 7
    if rig.counts_bytes:
        assert len(await reading.take(100, size=1)) == 1
        assert len(await reading.take(100, size=20)) <= 3
    await reading.until(19)
    await reading.reader.close()


async def test_what_was_made_anew_is_not_taken_for_what_was_read(rig: SourceRig) -> None:
    await rig.put(*range(5))
    reading = await opened(rig)
    await reading.until(4)
    await reading.reader.close()
    if await rig.make_anew():
        with pytest.raises(StreamRewound):
            await first_of(await rig.source.open(reading.cursor, None))


async def first_of(reader: Reader) -> None:
    """Where a source tells no sooner who it is."""
    try:
        await reader.fetch(1, 1_000, 0.0)
    finally:
        await reader.close()


async def test_a_partition_that_is_not_there_is_refused(rig: SourceRig) -> None:
    if isinstance(rig.source, Memory):
        return  # Its partitions come with their first message.
    with pytest.raises(InvalidArguments, match="partition"):
        await rig.source.open(None, ["7"])


async def test_what_does_not_fit_is_a_dead_letter_and_the_flow_goes_on_over_restarts(
    rig: SourceRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream("numbers", rig.source)
    monkeypatch.setattr(stream.definition, "options", SOON)

    @workflow
    async def reads(found: list[int] | None = None) -> list[int]:
        found = found or []
        async for batch in stream.batches(max_messages=2, on_poison="dead_letter"):
            found += [one.n for one in batch.values if one.n >= 0]
            await checkpoint(found=found)
        return found

    await rig.put(1, "two", 3)
    async with hosting(tmp_path / "db", workflows=[reads]) as client:
        control = stream.control(await client.start(reads, id="reads"))

        async def is_through() -> bool:
            """A second reader gets nothing behind it."""
            read = await control.position() is not None
            return read and (await control.lag(wait=0.2)).messages == 0

        await until(is_through)
        (letter,) = await control.dead_letters()
        assert b"two" in letter.value
    await rig.put(4, 5)
    async with hosting(tmp_path / "db", workflows=[reads]) as client:
        handle = client.get_handle("reads", reads)
        control = stream.control(handle)
        await until(is_through)
        await control.drain()
        assert await handle.result() == [1, 3, 4, 5]
