"""Messages on which the body of a loop fails: found by halves, set aside, and given back."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from everlong import (
    Output,
    Retry,
    Signal,
    Transaction,
    WorkflowFailed,
    activity,
    checkpoint,
    saga,
    workflow,
)
from everlong.exceptions import InvalidArguments
from everlong.streams import (
    DeadLetter,
    Lines,
    Memory,
    Poison,
    Stream,
    StreamControl,
    Tick,
    dead_letter,
    every,
    merge,
    park_key,
    skip,
    stop,
)
from everlong.testing import amnesia
from tests.support.hosting import AT_ONCE, ONCE, described, hosting, of_kind, until

told = Output("poison-told", int)
asked = Signal("poison-asked", int)


class Sink:
    """What an activity of a test stores, and what it fails on."""

    def __init__(self, *poison: Any) -> None:
        self.poison: set[Any] = set(poison)
        self.is_up = True
        self.rows: list[Any] = []
        self.calls: list[list[Any]] = []

    def save(self, values: list[Any]) -> None:
        self.calls.append(values)
        if not self.is_up:
            raise ConnectionError("the database is down")
        if bad := [one for one in values if one in self.poison]:
            raise ValueError(f"{bad[0]} is poison")
        self.rows += values


async def letters_of(control: StreamControl, count: int) -> list[DeadLetter]:
    async def look() -> list[DeadLetter] | None:
        found = await control.dead_letters()
        return found if len(found) >= count else None

    return await until(look)


async def parked(control: StreamControl) -> dict[bytes, list[tuple[bytes, str]]]:
    return {
        one.key: [(message.value, message.error) for message in one.messages]
        for one in await control.parked()
    }


async def has_parked(control: StreamControl, wanted: dict[bytes, list[bytes]]) -> None:
    async def look() -> bool:
        found = await parked(control)
        return {key: [value for value, _ in those] for key, those in found.items()} == wanted

    await until(look)


# ----------------------------------------------------------------------- rows of a transaction


def rows_of(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [one for (one,) in db.execute("select number from sink order by rowid")]


@pytest.mark.file  # On a server nothing can be stored with a completion.
@pytest.mark.parametrize("forgets", [False, True])
async def test_a_plain_insert_never_collides_and_only_the_poisoned_are_set_aside(
    path: Path, forgets: bool
) -> None:
    source = Memory(int)
    stream = Stream("orders", source)
    source.put(*range(10), key=b"k")
    source.put(*range(10, 50), key=b"k", at=None)

    @activity(transactional=True, retry=AT_ONCE)
    async def save(tx: Transaction, numbers: list[int]) -> None:
        if bad := [one for one in numbers if one in (3, 17, 18, 49)]:
            raise ValueError(f"{bad[0]} is poison")
        tx.executemany(
            "insert into sink (number) values (:number)", [{"number": one} for one in numbers]
        )

    @workflow
    async def consume(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=20, on_poison=dead_letter(after=2)):
            await save(batch.values)
            count += len(batch)
            await checkpoint(count=count)
        return count

    with amnesia() if forgets else nullcontext():
        async with hosting(path, workflows=[consume], activities=[save]) as client:
            with closing(sqlite3.connect(path)) as db:
                db.execute("create table sink (number integer primary key)")
            handle = await client.start(consume)
            control = stream.control(handle)
            source.put(50)  # Behind 49, which is the last one of its batch or alone in it.
            letters = await letters_of(control, 4)
            await control.drain()
            assert await handle.result() == 47
            assert await client.verify() == []
    wanted = [(3, 2), (17, 2), (18, 2), (49, 2)]
    assert [(one.position, one.attempts) for one in letters] == wanted
    assert rows_of(path) == [one for one in range(51) if one not in (3, 17, 18, 49)]


# ------------------------------------------------------------------------------ what is set aside


async def test_a_letter_tells_what_it_was_and_why(path: Path) -> None:
    sink, source = Sink(2), Memory(int)
    stream = Stream("numbers", source)

    @activity(retry=AT_ONCE)
    async def save(values: list[int]) -> None:
        sink.save(values)

    @workflow
    async def saves(count: int = 0) -> int:
        async for batch in stream.batches(on_poison="dead_letter"):
            await save(batch.values)
            await checkpoint(count=count + len(batch))
        return count

    source.put(1, 2, 3, "x", key=b"k")
    async with hosting(path, workflows=[saves], activities=[save]) as client:
        handle = await client.start(saves)
        control = stream.control(handle)
        unfit, poison = await letters_of(control, 2)
        assert (unfit.value, unfit.attempts, unfit.key) == (b"x", 0, b"k")
        assert (poison.value, poison.error, poison.attempts) == (b"2", "ValueError: 2 is poison", 5)
        assert len(poison.code) > 5
        assert sink.rows == [1, 3]
        # The whole five times, its first half once, what is alone five times.
        tries = [[1, 2, 3]] * 5 + [[1, 2]] + [[1]] + [[2]] * 5 + [[3]]
        assert sink.calls == tries

        sink.poison.clear()
        assert await control.redrive(poison.number) == 1
        await until(lambda: saved(sink, [1, 3, 2]))
        sink.poison.add(4)
        source.put(4)
        source.put(5)
        again = (await letters_of(control, 3))[2]
        assert await control.redrive(again.number) == 1  # Before the code takes it:
        assert (await letters_of(control, 4))[3].number == 3  # a letter once more.
        await control.drain()
        await handle.result()
    assert sorted(sink.rows) == [1, 2, 3, 5]


async def has_rows(sink: Sink, count: int) -> bool:
    return len(sink.rows) == count


async def saved(sink: Sink, rows: list[Any]) -> bool:
    return sink.rows == rows


async def test_what_is_skipped_is_only_at_its_source(path: Path) -> None:
    sink, source = Sink(2), Memory(int)
    stream = Stream("numbers", source)

    @activity(retry=ONCE)  # Its own limit is left alone.
    async def save(values: list[int]) -> None:
        sink.save(values)

    @workflow
    async def saves() -> None:
        async for batch in stream.batches(on_poison=skip(after=3)):
            await asyncio.gather(*(save([one]) for one in batch.values))
            await checkpoint()

    source.put(1, 2, 3)
    async with hosting(path, workflows=[saves], activities=[save]) as client:
        handle = await client.start(saves)
        await until(lambda: saved_last(sink, 3))
        control = stream.control(handle)
        await control.drain()
        await handle.result()
        assert await control.dead_letters() == []
    assert set(sink.rows) == {1, 3}
    assert [2] in sink.calls


async def saved_last(sink: Sink, row: Any) -> bool:
    return bool(sink.rows) and sink.rows[-1] == row and sink.calls[-1] == [row]


async def test_code_of_the_body_may_fail_as_well(path: Path) -> None:
    source = Memory(dict[str, int])
    stream = Stream("orders", source)

    @workflow
    async def adds(total: int = 0) -> int:
        async for batch in stream.batches(on_poison=dead_letter()):
            total += sum(one["amount"] for one in batch.values)
            await checkpoint(total=total)
        return total

    source.put({"amount": 1}, {"amuont": 20}, {"amount": 300})
    async with hosting(path, workflows=[adds]) as client:
        handle = await client.start(adds)
        (letter,) = await letters_of(stream.control(handle), 1)
        await stream.control(handle).drain()
        assert await handle.result() == 301
    assert (letter.error, letter.attempts) == ("KeyError: 'amount'", 1)


# ------------------------------------------------------------------------- it is not the messages


async def test_an_outage_pauses_the_flow_and_sets_nothing_aside(path: Path) -> None:
    sink, source = Sink(5), Memory(int)
    stream = Stream("numbers", source)
    sink.is_up = False

    @activity(retry=AT_ONCE)
    async def save(values: list[int]) -> None:
        sink.save(values)

    @workflow
    async def saves(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=10, on_poison=dead_letter(after=2)):
            await save(batch.values)
            count += len(batch)
            await checkpoint(count=count)
        return count

    source.put(*range(20))
    async with hosting(path, workflows=[saves], activities=[save]) as client:
        handle = await client.start(saves)
        control = stream.control(handle)
        for _ in range(2):  # Also if somebody lets it go on too early: what he has looked at fails,
            paused = (await described(handle, lambda it: it.paused)).paused
            assert paused is not None
            assert "it may not be the messages" in paused.reason
            assert "ConnectionError: the database is down" in paused.reason
            if not await control.dead_letters():
                await handle.resume()
                await letters_of(control, 5)  # and is set aside; of the rest nothing is.
        letters = await control.dead_letters()
        assert [one.position for one in letters] == [0, 1, 2, 3, 4]
        sink.is_up = True
        await handle.resume()
        letters = await letters_of(control, 6)  # And then what is poison indeed.
        assert await control.redrive(0, 1, 2, 3, 4) == 5
        await until(lambda: has_rows(sink, 19))
        await control.drain()
        assert await handle.result() == 19
    assert sorted(sink.rows) == [one for one in range(20) if one != 5]
    assert (letters[5].position, letters[5].error) == (5, "ValueError: 5 is poison")


async def test_of_a_quiet_stream_some_are_set_aside_before_it_pauses(path: Path) -> None:
    """One message at a time has nobody to be compared with."""
    sink, source = Sink(), Memory(int)
    stream = Stream("numbers", source)

    @activity(retry=AT_ONCE)
    async def save(values: list[int]) -> None:
        sink.save(values)

    @workflow
    async def saves(count: int = 0) -> None:
        async for batch in stream.batches(max_messages=1, on_poison=dead_letter(after=1)):
            await save(batch.values)
            await checkpoint(count=count + 1)

    async with hosting(path, workflows=[saves], activities=[save]) as client:
        handle = await client.start(saves)
        control = stream.control(handle)
        sink.poison = {0, 1, 2, 3, 5, 6, 7, 8, 9}
        source.put(*range(10))
        paused = (await described(handle, lambda it: it.paused)).paused
        assert paused is not None
        assert "5 messages in a row" in paused.reason
        assert sink.rows == [4]
        letters = await control.dead_letters()
        assert [one.position for one in letters] == [0, 1, 2, 3, 5, 6, 7, 8]
        await handle.resume()
        await letters_of(control, 9)
        assert (await handle.describe()).paused is None


# ------------------------------------------------------------- where the body cannot begin anew


async def rejected(path: Path, body: Callable[[int], Any], activities: list[Any]) -> str:
    """The notes of the exception that such a body ends its workflow with."""
    source = Memory(int)
    stream = Stream("numbers", source)
    source.put(1, 2, 3)

    @workflow
    async def fails() -> None:
        async for batch in stream.batches(on_poison=dead_letter()):
            await body(len(batch))
            raise ValueError("poison")

    async with hosting(path, workflows=[fails], activities=activities) as client:
        handle = await client.start(fails)
        await handle.signal(asked, 1)
        with pytest.raises(WorkflowFailed) as failed:
            await handle.result()
        assert await stream.control(handle).dead_letters() == []
    assert failed.value.__cause__ is not None
    return "".join(failed.value.__cause__.__notes__)


async def test_what_is_promised_once_is_not_repeated(path: Path) -> None:
    async def publishes(number: int) -> None:
        await told.publish(number)

    async def receives(_: int) -> None:
        await asked.receive()

    assert "an item, published to poison-told" in await rejected(path, publishes, [])
    assert "a signal, received" in await rejected(path, receives, [])


@pytest.mark.file
async def test_rows_that_are_stored_are_not_stored_again(path: Path) -> None:
    @activity(transactional=True)
    async def save(tx: Transaction, number: int) -> None:
        tx.execute("create table if not exists sink (number integer)")

    assert "rows of save, which are stored once" in await rejected(path, save, [save])


async def test_an_activity_without_a_limit_is_tried_on_where_nothing_else_could_be_done(
    path: Path,
) -> None:
    """A second batch without a checkpoint between: to begin anew would lose the first."""
    sink, source = Sink(2), Memory(int)
    stream = Stream("numbers", source)

    @activity(retry=AT_ONCE)
    async def save(values: list[int]) -> None:
        if len(sink.calls) == 9:
            sink.poison.clear()
        sink.save(values)

    @workflow
    async def saves() -> int:
        count = 0
        async for batch in stream.batches(max_messages=1, on_poison=dead_letter(after=2)):
            await save(batch.values)
            count += len(batch)
            if count == 3:
                break
        return count

    source.put(1, 2, 3)
    async with hosting(path, workflows=[saves], activities=[save]) as client:
        handle = await client.start(saves)
        assert await handle.result() == 3
        assert await stream.control(handle).dead_letters() == []
    assert sink.rows == [1, 2, 3]


async def test_a_saga_is_undone_for_as_long_as_it_takes(path: Path) -> None:
    sink, source = Sink(2), Memory(int)
    stream = Stream("numbers", source)
    undone: list[list[int]] = []

    @activity(retry=AT_ONCE)
    async def save(values: list[int]) -> None:
        sink.save(values)

    @activity(retry=AT_ONCE)
    async def undo(values: list[int]) -> None:
        undone.append(values)
        if len(undone) % 5:
            raise ConnectionError("not yet")

    @workflow
    async def saves() -> None:
        async for batch in stream.batches(on_poison=dead_letter(after=2)):
            async with saga() as steps:
                steps.undo(undo, batch.values)
                await save(batch.values)
            await checkpoint()

    source.put(1, 2)
    async with hosting(path, workflows=[saves], activities=[save, undo]) as client:
        handle = await client.start(saves)
        control = stream.control(handle)
        source.put(3)
        (letter,) = await letters_of(control, 1)
        await control.drain()
        await handle.result()
    assert letter.error == "ValueError: 2 is poison"  # And not that it could not be undone.
    assert sink.rows == [1, 3]
    assert [2] in undone


# -------------------------------------------------------------------------------------- parked keys


def keyed(text: str) -> tuple[str, bytes]:
    """a1 has the key a."""
    return text, text[:1].encode()


def put(source: Memory[str], *texts: str) -> None:
    for text in texts:
        value, key = keyed(text)
        source.put(value, key=key)


class Parking:
    """A flow that parks, and its parts."""

    def __init__(self, *poison: str) -> None:
        self.sink = sink = Sink(*poison)
        self.source = Memory(str)
        self.stream = stream = Stream("words", self.source)

        @activity(name="parking_save", retry=AT_ONCE)
        async def save(values: list[str]) -> None:
            sink.save(values)

        @workflow(name="parking")
        async def parks(count: int = 0) -> int:
            async for batch in stream.batches(max_messages=4, on_poison=park_key(after=2)):
                await save(batch.values)
                count += len(batch)
                await checkpoint(count=count)
            return count

        self.save, self.parks = save, parks

    def rows(self, key: str) -> list[str]:
        return [one for one in self.sink.rows if one.startswith(key)]


@pytest.mark.parametrize("forgets", [False, True])
async def test_what_follows_a_poisoned_message_of_its_key_waits_in_order(
    path: Path, forgets: bool
) -> None:
    flow = Parking("a2")
    put(flow.source, "a1", "a2", "b1", "a3", "b2", "a4", "c1", "a5")
    with amnesia() if forgets else nullcontext():
        async with hosting(path, workflows=[flow.parks], activities=[flow.save]) as client:
            handle = await client.start(flow.parks, id="parks")
            control = flow.stream.control(handle)
            await has_parked(control, {b"a": [b"a2", b"a3", b"a4", b"a5"]})
            errors = [error for _, error in (await parked(control))[b"a"]]
            assert errors == ["ValueError: a2 is poison", "", "", ""]
            assert flow.sink.rows == ["a1", "b1", "b2", "c1"]
        # Another worker knows it, too; and what fails again is parked again.
        async with hosting(path, workflows=[flow.parks], activities=[flow.save]) as client:
            control = flow.stream.control(client.get_handle("parks"))
            put(flow.source, "a6")
            assert await control.redrive(key="a") in (4, 5)
            await has_parked(control, {b"a": [b"a2", b"a3", b"a4", b"a5", b"a6"]})
            flow.sink.poison.clear()
            await control.redrive(key=b"a", request_id="once")
            put(flow.source, "a7")
            await has_parked(control, {})
            await until(lambda: saved_last_of(flow, "a7"))
            assert await control.redrive(key=b"a", request_id="once") == 0
            with pytest.raises(InvalidArguments, match="parked are: none"):
                await control.redrive(key="a")
            await control.drain()
            handle = client.get_handle("parks", flow.parks)
            assert await handle.result() == 10
            assert await client.verify() == []
    assert flow.rows("a") == [f"a{one}" for one in range(1, 8)]


async def test_what_is_parked_goes_with_a_savepoint_and_over_a_rewind(path: Path) -> None:
    flow = Parking("a1")
    put(flow.source, "a1", "b1", "a2")
    async with hosting(path, workflows=[flow.parks], activities=[flow.save]) as client:
        handle = await client.start(flow.parks)
        control = flow.stream.control(handle)
        await has_parked(control, {b"a": [b"a1", b"a2"]})
        put(flow.source, "a3", "b2")
        await control.rewind({0: None})  # Parked once, though read twice; b1 is read again.
        await has_parked(control, {b"a": [b"a1", b"a2", b"a3"]})
        await until(lambda: saved_last_of(flow, "b2"))
        point = await control.savepoint("here")
        flow.sink.poison.clear()
        await control.redrive(key="a")
        await has_parked(control, {})
        await control.rewind(to=point)  # With all that it carried.
        await has_parked(control, {b"a": [b"a1", b"a2", b"a3"]})
        await control.drain()
        await handle.result()

        other = await client.start(flow.parks, from_savepoint=point, id="other")
        control = flow.stream.control(other)
        await has_parked(control, {b"a": [b"a1", b"a2", b"a3"]})
        await control.redrive(key="a")
        await has_parked(control, {})
        await control.drain()
        await other.result()
    assert flow.sink.rows.count("a3") == 2
    assert flow.rows("b")[-1] == "b2"


async def test_a_reset_takes_what_is_parked_back_and_people_see_it(path: Path) -> None:
    """What was told of the time behind it is told no more."""
    flow = Parking("a1")
    put(flow.source, "a1", "b1")
    async with hosting(path, workflows=[flow.parks], activities=[flow.save]) as client:
        handle = await client.start(flow.parks)
        control = flow.stream.control(handle)
        await has_parked(control, {b"a": [b"a1"]})
        await until(lambda: saved_last(flow.sink, "b1"))
        saves = [one.seq for one in await of_kind(handle, "ActivityCompleted")]
        put(flow.source, "a2", "b2")
        await has_parked(control, {b"a": [b"a1", b"a2"]})
        await until(lambda: saved_last(flow.sink, "b2"))
        await handle.reset(to=saves[-1])
        await until(lambda: has_rows(flow.sink, 3))  # b2 once more.
        assert flow.sink.rows == ["b1", "b2", "b2"]
        await has_parked(control, {b"a": [b"a1", b"a2"]})
        await control.drain()
        await handle.result()


async def test_a_lot_that_is_full_pauses_the_flow(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlong_engine.model.limits.PARKED_MAX", 3)
    flow = Parking("a1")
    put(flow.source, "a1", "b1", *(f"a{one}" for one in range(2, 12)), "b2")
    async with hosting(path, workflows=[flow.parks], activities=[flow.save]) as client:
        handle = await client.start(flow.parks)
        control = flow.stream.control(handle)
        paused = (await described(handle, lambda it: it.paused)).paused
        assert paused is not None
        assert "of 1 keys are parked" in paused.reason
        assert "redrive … --key" in paused.reason
        assert flow.rows("b") == ["b1"]
        await handle.resume()  # To say so alone changes nothing.
        await described(handle, lambda it: it.paused)
        flow.sink.poison.clear()
        await control.redrive(key="a")
        await handle.resume()
        await until(lambda: saved_last_of(flow, "b2"))
        assert (await handle.describe()).paused is None
    assert flow.rows("a") == [f"a{one}" for one in range(1, 12)]


async def saved_last_of(flow: Parking, row: str) -> bool:
    return row in flow.sink.rows


async def test_what_cannot_be_decoded_parks_its_key_in_its_place(path: Path) -> None:
    source, seen = Memory(int), list[int]()
    stream = Stream("numbers", source)

    @workflow
    async def parks() -> None:
        async for batch in stream.batches(on_poison="park_key"):
            seen.extend(batch.values)
            await checkpoint()

    source.put(1, "two", 3, key=b"k")
    source.put("four")
    source.put(5)
    async with hosting(path, workflows=[parks], cache_size=100) as client:
        handle = await client.start(parks)
        control = stream.control(handle)
        await has_parked(control, {b"k": [b"two", b"3"]})
        (letter,) = await control.dead_letters()  # Without a key it is one.
        assert letter.value == b"four"
        await control.drain()
        await handle.result()
    assert set(seen) == {1, 5}


# ------------------------------------------------------------------------- beside everything else


async def test_parts_come_in_a_merged_loop_and_a_pause_is_not_lost_to_a_tick(path: Path) -> None:
    sink, source = Sink(3), Memory(int)
    stream = Stream("numbers", source)
    sink.is_up = False

    @activity(retry=AT_ONCE)
    async def save(values: list[int]) -> None:
        sink.save(values)

    @workflow
    async def saves(count: int = 0, ticks: int = 0, words: int = 0) -> list[int]:
        batches = stream.batches(on_poison=dead_letter(after=1))
        async for found in merge(batches, every(1), asked):
            match found:
                case Tick():
                    ticks += 1
                case int():
                    words += found
                case batch:
                    await save(batch.values)
                    count += len(batch)
            await checkpoint(count=count, ticks=ticks, words=words)
        return [count, words]

    source.put(1, 2, 3, 4)
    async with hosting(path, workflows=[saves], activities=[save]) as client:
        handle = await client.start(saves)
        control = stream.control(handle)
        await described(handle, lambda it: it.paused)
        await handle.signal(asked, 7)
        sink.is_up = True
        await handle.resume()
        (letter,) = await letters_of(control, 1)
        assert letter.position == 2
        await control.drain()
        assert await handle.result() == [3, 7]
    assert sink.rows == [1, 2, 4]


async def test_a_drain_and_a_rewind_mean_the_batch_with_all_its_parts(path: Path) -> None:
    sink, source = Sink(), Memory(int)
    stream = Stream("numbers", source)
    sink.is_up = False

    @activity(retry=AT_ONCE)
    async def save(values: list[int]) -> None:
        sink.save(values)

    @workflow
    async def saves() -> None:
        async for batch in stream.batches(max_messages=6, on_poison=dead_letter(after=1)):
            await save(batch.values)
            await checkpoint()

    source.put(*range(6))
    async with hosting(path, workflows=[saves], activities=[save]) as client:
        handle = await client.start(saves, id="first")
        await described(handle, lambda it: it.paused)
        await stream.control(handle).drain()
        sink.is_up = True
        await handle.resume()
        await handle.result()
        assert sink.rows == list(range(6))

        sink.is_up = False
        handle = await client.start(saves, id="second")
        await described(handle, lambda it: it.paused)
        await stream.control(handle).rewind({0: 3})  # What lies before is not wanted.
        await stream.control(handle).drain()
        sink.is_up, sink.rows = True, []
        await handle.resume()
        await handle.result()
    assert sink.rows in ([], [4, 5])  # The source may have been read again by then.


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: dead_letter(after=0), "give 1 to 1,000"),
        (lambda: skip(after=1_001), "give 1 to 1,000"),
        (lambda: Stream("n", Memory(int)).batches(on_poison=dead_letter), "on_poison="),  # type: ignore[arg-type]
        (lambda: Stream("n", Lines("x")).batches(on_poison=park_key()), "have no keys"),
        (lambda: Stream("n", Lines("x")).batches(on_poison="park_key"), "have no keys"),
    ],
)
def test_policies_that_make_no_sense_are_refused(given: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidArguments, match=words):
        given()


def test_a_policy_is_a_value() -> None:
    assert dead_letter(5) == dead_letter() == Poison("dead_letter")
    assert stop == Poison("stop")
    assert Retry().max_attempts is None
