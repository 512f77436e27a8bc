"""Going back: to positions and moments, with the keys that messages had, or with fresh ones."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from everlong import Client, checkpoint, workflow
from everlong.exceptions import EverlongError, InvalidArguments
from everlong.streams import (
    Cursor,
    Lines,
    Memory,
    Reader,
    Rows,
    Source,
    Stream,
    StreamControl,
    _control,
)
from everlong.testing import amnesia
from tests.support.hosting import hosting, until

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


async def reached(control: StreamControl, after: dict[str, int]) -> None:
    async def look() -> bool:
        found = await control.position()
        return found is not None and found.after == after

    await until(look)


async def test_partitions_that_are_not_named_stay_where_the_loop_is_by_then(path: Path) -> None:
    """And not where they were when somebody asked: two may ask before the loop hears of it."""
    stream = Stream("numbers", source := Memory(str))
    source.put("a0", "a1", "a2", partition="a")
    source.put("b0", "b1", "b2", partition="b")

    @workflow
    async def rw_named(found: list[str] | None = None) -> list[str]:
        found = found or []
        async for batch in stream.batches():
            found += batch.values
            await checkpoint(found=found)
        return found

    async with hosting(path, workflows=[rw_named]) as client:
        handle = await client.start(rw_named, id="named")
        await reached(stream.control(handle), {"a": 2, "b": 2})
    async with Client.connect(path) as client:
        control = stream.control(client.get_handle("named"))
        await control.rewind({"a": 1})
        await control.rewind({"b": None})
    async with hosting(path, workflows=[rw_named]) as client:
        handle = client.get_handle("named", rw_named)

        async def again() -> bool:
            return bool((await stream.control(handle).savepoint("s")).parameters["found"])

        source.put("a3", partition="a")
        await until(again)
        await reached(stream.control(handle), {"a": 3, "b": 2})
        await stream.control(handle).drain()
        found = await handle.result()
    assert sorted(found[6:]) == ["a2", "a3", "b0", "b1", "b2"]


async def test_messages_that_are_read_again_have_their_keys_or_fresh_ones(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(*range(4))

    @workflow
    async def rw_keys(found: list[list[str]] | None = None) -> list[list[str]]:
        found = found or []
        async for batch in stream.batches():
            found.append([batch.id, *(one.id for one in batch)])
            await checkpoint(found=found)
        return found

    with amnesia():
        async with hosting(path, workflows=[rw_keys]) as client:
            handle = await client.start(rw_keys)
            control = stream.control(handle)

            async def read(count: int) -> None:
                async def look() -> bool:
                    point = await control.savepoint(f"{count}-{len(await control.savepoints())}")
                    return len(point.parameters["found"] or ()) == count

                await until(look)

            await read(1)
            await control.rewind({0: 1})
            await read(2)
            await control.rewind({0: 2}, keys="fresh")
            await read(3)
            await control.rewind({0: 0})  # What was not read since has the keys that it had.
            await read(4)
            await control.rewind({0: None}, keys="fresh")
            await read(5)
            point = await control.savepoint("end", stop=True)
            again = await client.start(rw_keys, from_savepoint=point)
            source.put(4)
            await reached(stream.control(again), {"0": 4})
            await stream.control(again).rewind({0: 3})
            await stream.control(again).drain()
            found = await again.result()
    plain = [f"numbers/memory/0/{n}" for n in range(5)]
    assert found[0][1:] == plain[:4]
    assert found[1][1:] == plain[2:4]
    (_, third), (_, *fourth), (_, *fifth) = found[2:5]
    assert third.startswith(f"{plain[3]}#")
    assert fourth == [plain[1], plain[2], third]
    suffix = fifth[0].removeprefix(plain[0])
    assert suffix != third.removeprefix(plain[3])
    assert fifth == [one + suffix for one in plain[:4]]
    assert found[5][1:] == [plain[4] + suffix]
    assert len({one[0] for one in found[:5]}) == 5  # Of the batches, too.


# ---------------------------------------------------------------------------------- by a moment


async def test_a_flow_goes_back_to_a_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlong.streams._source._SCAN_WAIT_S", 0.05)
    stream = Stream("numbers", source := Memory(str))
    for minute in range(4):
        source.put(f"a{minute}", partition="a", at=NOON + timedelta(minutes=minute))
    source.put("b2", partition="b", at=NOON + timedelta(minutes=2))
    source.put("c0", partition="c", at=NOON)

    @workflow
    async def rw_moments(found: list[str] | None = None) -> list[str]:
        found = found or []
        async for batch in stream.batches():
            found += batch.values
            await checkpoint(found=found)
        return found

    end = {"a": 3, "b": 0, "c": 0}
    async with hosting(path, workflows=[rw_moments]) as client:
        handle = await client.start(rw_moments)
        control = stream.control(handle)
        await reached(control, end)

        async def read(count: int) -> list[str]:
            async def look() -> list[str]:
                point = await control.savepoint(f"{count}-{len(await control.savepoints())}")
                found: list[str] = point.parameters["found"]
                return found if len(found) == count else []

            return await until(look)

        await control.rewind(to=NOON + timedelta(minutes=2))
        assert sorted((await read(9))[6:]) == ["a2", "a3", "b2"]
        await control.rewind(to=NOON + timedelta(minutes=1), partitions=["a"])
        assert sorted((await read(12))[9:]) == ["a1", "a2", "a3"]
        await control.rewind(to=NOON + timedelta(days=1))  # Nothing was written since.
        source.put("a4", partition="a")
        assert (await read(13))[12:] == ["a4"]
        await control.drain()
        await handle.result()


async def test_a_moment_is_refused_where_nobody_knows_where_it_lies(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines").write_text("1\n")
    lines: Stream[int] = Stream("lines", Lines(tmp_path / "lines", int))
    sqlite3.connect(tmp_path / "rows").close()
    rows = Rows(tmp_path / "rows", "select 1, 2 where 1 > :after")

    @workflow
    async def rw_refused(count: int = 0) -> int:
        async for batch in lines.batches():
            await checkpoint(count=count + len(batch))
        return count

    async with hosting(path, workflows=[rw_refused]) as client:
        handle = await client.start(rw_refused)
        control = lines.control(handle)
        with pytest.raises(InvalidArguments, match="does not say when its messages were written"):
            await control.rewind(to=NOON)
        with pytest.raises(InvalidArguments, match="does not say when its messages were written"):
            await Stream("rows", rows).control(handle).rewind(to=NOON)
        with pytest.raises(InvalidArguments, match="give an aware datetime"):
            await control.rewind(to=NOON.replace(tzinfo=None))
        with pytest.raises(InvalidArguments, match="only its declaration says where"):
            await StreamControl(handle, "lines").rewind(to=NOON)
        with pytest.raises(InvalidArguments, match='give "same" or "fresh"'):
            await control.rewind({0: 1}, keys="new")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(_control, "_SEEK_S", 0.01)
        with pytest.raises(EverlongError, match="has not told within"):
            await Stream("never", Never()).control(handle).rewind(to=NOON)


class Never(Source[bytes]):
    """Does not answer."""

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        return await Memory().open(after, partitions)

    async def before(self, at_us: int, partitions: Sequence[str] | None) -> Cursor:
        reader = await self.open(None, partitions)
        await reader.fetch(1, 1, None)
        raise AssertionError("nothing is there")
