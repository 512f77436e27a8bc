"""Streams: flows that read a source for ever, lose nothing and take nothing twice."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everlong import Client, Replayer, Signal, Transaction, Worker, activity, checkpoint, workflow
from everlong.codec import Encrypt
from everlong.exceptions import DefinitionError, EverlongError, InvalidArguments, UndecodablePayload
from everlong.streams import (
    Cursor,
    Lag,
    Lines,
    Memory,
    PartitionLag,
    Reader,
    Record,
    Rows,
    Source,
    Stream,
    StreamControl,
    _lag,
)
from everlong.testing import amnesia
from everlong_engine import LoadedRun, RunStarted, Wants, decode_event
from everlong_engine.model.payload import unpack
from tests.support.gated_store import Gate
from tests.support.hosting import AT_ONCE, described, hosting, kinds, of_kind, until

enough: Signal[bool] = Signal("streams-enough", bool)


async def reached(control: StreamControl, position: int) -> bool:
    found = await control.position()
    return found is not None and found.after == {"0": position}


def numbers(count: int, first: int = 0) -> range:
    return range(first, first + count)


# ------------------------------------------------------------------------------------ the loop


@pytest.mark.once
async def test_batches_come_in_order_and_none_twice(path: Path) -> None:
    source = Memory(int)
    stream = Stream("numbers", source)
    seen: list[list[int]] = []

    @workflow
    async def adds(total: int = 0, count: int = 0) -> int:
        async for batch in stream.batches(max_messages=4):
            seen.append(batch.values)
            total, count = total + sum(batch.values), count + len(batch)
            if count == 20:
                return total
            await checkpoint(total=total, count=count)
        return -1

    async with hosting(path, workflows=[adds], cache_size=1000) as client:
        handle = await client.start(adds)
        source.put(*numbers(10))
        source.put(*numbers(10, 10))
        assert await handle.result() == sum(range(20))
        assert await client.verify() == []
    assert [one for batch in seen for one in batch] == list(range(20))
    assert max(map(len, seen)) <= 4
    assert source.acknowledged == at(19)  # Also the last one, behind which nobody asks for more.


async def test_a_batch_is_acknowledged_behind_its_commit_and_not_before(path: Path) -> None:
    """Also while the loop is still at work with it."""
    source = Memory(int)
    stream = Stream("numbers", source)

    @workflow
    async def waits() -> None:
        async for _ in stream.batches(max_messages=1):
            await enough.receive()

    async with hosting(path, workflows=[waits]) as client:
        gate = Gate(client)
        handle = await client.start(waits)
        await described(handle, lambda it: it.activities)
        gate.shut()
        source.put(7)
        await gate.arrived.wait()  # The batch is on its way.
        told = source.acknowledged
        gate.open()
        assert told is None
        await described(handle, lambda _: source.acknowledged == at(0))


async def test_the_cursor_goes_with_the_execution(path: Path) -> None:
    """Over every checkpoint, and over workers and clients that come and go."""
    source = Memory(int)
    stream = Stream("numbers", source)

    @workflow
    async def adds(total: int = 0, count: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            total, count = total + sum(batch.values), count + len(batch)
            if count == 12:
                return total
            await checkpoint(total=total, count=count)
        return -1

    source.put(*numbers(4))
    with amnesia():
        async with hosting(path, workflows=[adds]) as client:
            handle = await client.start(adds, id="adds")
            await described(handle, lambda _: source.acknowledged == at(3))
        source.put(*numbers(4, 4))
        async with hosting(path, workflows=[adds], cache_size=0) as client:
            await described(client.get_handle("adds"), lambda _: source.acknowledged == at(7))
            source.put(*numbers(4, 8))
            assert await client.get_handle("adds").result() == sum(range(12))
            runs = list((await client.list()).items)
            assert {one.workflow_id for one in runs} == {"adds"}
            assert await client.verify() == []


def at(position: int, partition: str = "0") -> Cursor:
    return Cursor("memory", {partition: position})


async def test_a_stop_does_not_wait_for_what_may_never_come(path: Path) -> None:
    stream = Stream("numbers", Memory(int))

    @workflow
    async def reads() -> None:
        async for _ in stream.batches():
            raise AssertionError("nothing is there")

    async with Client.connect(path) as client:
        worker = Worker(client, workflows=[reads], stop_timeout=3600)
        await worker.start()
        handle = await client.start(reads)
        await described(handle, lambda it: it.activities)
        await worker.stop()
        (pending,) = (await handle.describe()).activities
        assert (pending.state, pending.attempt) == ("waiting", 1)


async def test_partitions_keep_their_order_and_can_be_chosen(path: Path) -> None:
    source = Memory(int)
    stream = Stream("numbers", source)

    @workflow
    async def reads(partition: int) -> list[str]:
        found: list[str] = []
        async for batch in stream.batches(max_messages=3, partitions=[partition]):
            found += [f"{one.partition}/{one.position}: {one.value}" for one in batch]
            if len(found) == 4:
                break
        return found

    for partition in "01":
        source.put(*numbers(4, 10 * int(partition)), partition=partition)
    async with hosting(path, workflows=[reads]) as client:
        results = await asyncio.gather(*(client.run(reads, number) for number in range(2)))
    assert results == [[f"{p}/{n}: {10 * p + n}" for n in range(4)] for p in range(2)]


async def test_messages_have_keys_that_stay(path: Path) -> None:
    stream = Stream("words", source := Memory(str))
    source.put("a", "b", key=b"k")

    @workflow
    async def reads() -> list[list[str]]:
        async for batch in stream.batches():
            return [[batch.id, one.id, one.value, str(one.key), str(one.at)] for one in batch]
        return []

    async with hosting(path, workflows=[reads]) as client:
        one, two = await client.run(reads), await client.run(reads)
    assert one == two
    assert [words[1:] for words in one] == [
        ["words/memory/0/0", "a", "b'k'", "None"],
        ["words/memory/0/1", "b", "b'k'", "None"],
    ]


async def test_a_loop_can_be_left_and_entered_again(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(*numbers(6))

    @workflow
    async def reads() -> list[int]:
        found: list[int] = []
        for _ in range(3):
            async for batch in stream.batches(max_messages=2):
                found += batch.values
                break
        return found

    async with hosting(path, workflows=[reads]) as client:
        assert await client.run(reads) == list(range(6))


async def test_two_tasks_cannot_read_one_stream(path: Path) -> None:
    stream = Stream("numbers", Memory(int))

    @workflow
    async def reads() -> str:
        async def once() -> None:
            async for _ in stream.batches():
                return

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(once())
                group.create_task(once())
        except ExceptionGroup as errors:
            return str(errors.exceptions[0])
        return ""

    async with hosting(path, workflows=[reads]) as client:
        assert "another task of this workflow" in await client.run(reads)


async def test_a_cancelled_loop_is_left(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def reads() -> int:
        try:
            async with asyncio.timeout(0.05):
                async for _ in stream.batches():
                    pass
        except TimeoutError:
            pass
        async for batch in stream.batches():
            return sum(batch.values)
        return -1

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        await described(handle, lambda it: it.history_events > 4)
        source.put(5)
        assert await handle.result() == 5


# ------------------------------------------------------------------------------- what goes wrong


class Flaky(Source[bytes]):
    """Breaks every other time that it is opened, and every other time that it is read."""

    def __init__(self, lies: Memory[bytes]) -> None:
        super().__init__()
        self.lies, self.opened = lies, 0

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        self.opened += 1
        if self.opened % 2:
            raise ConnectionError("nobody is there")
        return FlakyReader(await self.lies.open(after, partitions))


class FlakyReader(Reader):
    def __init__(self, inner: Reader) -> None:
        self.identity, self._inner, self._reads = inner.identity, inner, 0

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        self._reads += 1
        if self._reads == 3:
            raise ConnectionError("it has gone")
        return await self._inner.fetch(max_messages, max_bytes, wait_s)


async def test_a_source_that_goes_away_is_opened_again_where_the_flow_stands(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Flaky(lies := Memory())
    stream = Stream("flaky", source)
    monkeypatch.setattr(stream.definition, "options", AT_ONCE.options)
    lies.put(*(b"%d" % n for n in range(9)))

    @workflow
    async def reads() -> list[bytes]:
        found: list[bytes] = []
        async for batch in stream.batches(max_messages=1):
            found += batch.values
            if len(found) == 9:
                break
        return found

    async with hosting(path, workflows=[reads]) as client:
        assert await client.run(reads) == [b"%d" % n for n in range(9)]
    assert source.opened > 6


@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
async def test_what_cannot_be_decoded_is_dropped_or_kept_aside(path: Path, policy: Any) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put("1", "two", "3", "4.5", "5", key=b"k")

    @workflow
    async def reads(found: list[int] | None = None) -> list[int]:
        found = found or []
        async for batch in stream.batches(on_poison=policy):
            found += batch.values
            if found[-1] >= 5:
                break
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        assert await handle.result() == [1, 3, 5]
        letters = await stream.control(handle).dead_letters()
    shown = [(one.number, one.position, one.value, one.key) for one in letters]
    wanted = [(0, 1, b"two", b"k"), (1, 3, b"4.5", b"k")]
    assert shown == (wanted if policy == "dead_letter" else [])


async def test_what_is_too_large_for_one_batch_comes_in_several(path: Path) -> None:
    """Whatever the source gives at once; and what is too large for any is set aside."""
    stream = Stream("blobs", Generous(source := Memory()))
    source.put(*(bytes([n]) * 150_000 for n in range(20)), b"x" * 600_000, b"end")

    @workflow
    async def reads() -> list[list[int]]:
        found: list[list[int]] = []
        async for batch in stream.batches(on_poison="dead_letter"):
            found.append([one[0] for one in batch.values])
            if batch.values[-1] == b"end":
                break
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        found = await handle.result()
        assert [one for batch in found for one in batch] == [*range(20), ord("e")]
        assert max(map(len, found)) == 6
        (letter,) = await stream.control(handle).dead_letters()
        assert letter.cut
        assert letter.value == b"x" * 500
        with pytest.raises(InvalidArguments, match="only the beginning"):
            await stream.control(handle).redrive()


class Generous(Source[bytes]):
    """Gives all that it has at once, whatever it is asked for."""

    def __init__(self, lies: Memory[bytes]) -> None:
        super().__init__()
        self.lies = lies

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        return GenerousReader(await self.lies.open(after, partitions))


class GenerousReader(Reader):
    def __init__(self, inner: Reader) -> None:
        self.identity, self._inner = inner.identity, inner

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        return await self._inner.fetch(10_000, 1 << 30, wait_s)


async def test_poison_pauses_the_flow_until_the_code_takes_it(path: Path) -> None:
    source: Memory[Any] = Memory(int)
    stream = Stream("numbers", source)
    source.put("1", "two")

    @workflow
    async def reads() -> list[Any]:
        found: list[Any] = []
        async for batch in stream.batches(max_messages=1):
            found += batch.values
            if len(found) == 2:
                break
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        paused = await described(handle, lambda it: it.paused)
        assert paused.paused is not None
        assert "the message 1 of partition 0" in paused.paused.reason
        source.decode = lambda data: 2 if data == b"two" else int(data)  # type: ignore[method-assign]
        await handle.resume()
        assert await handle.result() == [1, 2]


async def test_dead_letters_are_given_to_the_loop_again(path: Path) -> None:
    """What was dead once stays so on record, whatever the code takes by now."""
    source: Memory[Any] = Memory(int)
    stream = Stream("numbers", source)
    source.put("1", "two", "three", "4")

    @workflow
    async def reads(found: list[Any] | None = None) -> list[Any]:
        found = found or []
        async for batch in stream.batches(on_poison="dead_letter"):
            found += [[one.id, one.value] for one in batch]
            await checkpoint(found=found)
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        control = stream.control(handle)
        await described(handle, lambda _: source.acknowledged == at(3))
        assert await control.redrive(request_id="first") == 2  # Nothing takes them yet.
        await described(handle, lambda it: it.history_events > 8)
        assert [one.number for one in await control.dead_letters()] == [0, 1, 2, 3]
        decode = source.decode
        source.decode = lambda data: len(data) if data[:1] == b"t" else decode(data)  # type: ignore[method-assign]
        with pytest.raises(InvalidArguments, match="no dead letters"):
            await control.redrive(7)
        assert await control.redrive(2, request_id="second") == 1
        assert await control.redrive(2, request_id="second") == 1
        await control.drain()
        assert await handle.result() == [
            ["numbers/memory/0/0", 1],
            ["numbers/memory/0/3", 4],
            ["numbers/memory/0/1", 3],
        ]
        Replayer([reads]).replay(await client.export(handle.workflow_id))


async def test_a_source_that_was_made_anew_stops_the_flow_until_it_is_rewound(path: Path) -> None:
    first, second = Memory(int, identity="one"), Memory(int, identity="two")
    stream = Stream("numbers", first)
    first.put(1, 2)

    @workflow
    async def reads(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads, id="reads")
        await described(handle, lambda _: first.acknowledged is not None)
        assert await stream.control(handle).position() is not None
    stream.source = second
    second.put(10, 20)
    async with hosting(path, workflows=[reads]) as client:
        handle = client.get_handle("reads", reads)
        paused = await described(handle, lambda it: it.paused)
        assert paused.paused is not None
        assert "StreamRewound" in paused.paused.reason
        control = stream.control(handle)
        await control.rewind({0: 0}, identity="two")
        await handle.resume()
        await described(handle, lambda _: second.acknowledged == Cursor("two", {"0": 1}))
        await control.drain()
        assert await handle.result() == 23
        assert await client.verify() == []


async def test_a_rewind_reads_again_from_where_it_says(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(1, 2, 3)

    @workflow
    async def reads(found: list[int] | None = None) -> list[int]:
        found = found or []
        async for batch in stream.batches(max_messages=3):
            found += batch.values
            await checkpoint(found=found)
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        control = stream.control(handle)
        await described(handle, lambda _: source.acknowledged == at(2))
        await control.rewind({0: 1}, request_id="again")
        await control.rewind({0: 1}, request_id="again")
        await described(handle, lambda it: it.history_events > 6)
        await control.drain()
        assert await handle.result() == [1, 2, 3, 3]


@pytest.mark.file  # Whose bytes are looked at.
async def test_how_far_it_has_read_is_sealed_and_told_right_behind_a_checkpoint(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int, identity="the canary"))
    source.put(*numbers(3))

    @workflow
    async def reads(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            count += len(batch)
            await checkpoint(count=count)
        return count

    secret = Encrypt({"k": b"k" * 32})
    with amnesia():
        async with (
            Client.connect(path, codecs=[secret]) as client,
            Worker(client, workflows=[reads], cache_size=0),
        ):
            handle = await client.start(reads)
            control = stream.control(handle)
            await until(lambda: reached(control, 2))

            async def begun() -> bool:  # The last run is there before it has begun.
                told = [one.fields.get("cursors") for one in await of_kind(handle, "RunStarted")]
                return told == [[["numbers", ["the canary", {"0": 2}]]]]

            await until(begun)
            async with Client.connect(path) as keyless:
                with pytest.raises(UndecodablePayload, match="Connect with the codecs"):
                    await stream.control(keyless.get_handle(handle.workflow_id)).position()
            await control.drain()
            assert await handle.result() == 3
    assert all(b"the canary" not in one.read_bytes() for one in path.parent.iterdir())


async def test_how_far_it_has_read_is_known_before_the_run_behind_a_checkpoint_begins(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream("numbers", source := Memory(int))

    @workflow
    async def reads(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    waits_behind: list[bytes] = []
    may_begin = asyncio.Event()

    def worker(version: str) -> Worker:
        return Worker(client, workflows=[reads], version=version, versioning="pinned_run")

    async def on_its_way() -> bool:
        source.put(1)
        return bool(waits_behind)

    async with Client.connect(path) as client, worker("1"):
        claim = client.engine.store.claim

        async def hold_back(wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
            found = await claim(wants, now_us, limit)
            waits_behind.extend(cursor for one in found for cursor in cursors_to_begin_with(one))
            if waits_behind:
                await may_begin.wait()
            return found

        monkeypatch.setattr(client.engine.store, "claim", hold_back)
        handle = await client.start(reads)
        async with worker("2"):  # With a checkpoint the execution goes there.
            await until(on_its_way)
            assert await kinds(handle) == []
            control = stream.control(handle)
            cursor = await control.position()
            assert cursor is not None
            assert cursor.to_wire() == unpack(waits_behind[0])
            await control.drain()
            may_begin.set()
            # What was put meanwhile may be read before the end is heard of.
            assert await handle.result() >= int(cursor.after["0"]) + 1


def cursors_to_begin_with(run: LoadedRun) -> list[bytes]:
    """Of a run that has not begun, and whose predecessor has read."""
    starts = [decode_event(one.kind, one.body, run.blobs) for one in run.mail]
    begins = [one for one in starts if isinstance(one, RunStarted) and not run.history]
    return [cursor for one in begins for _, cursor in one.cursors]


async def test_how_far_a_flow_is_behind_is_counted(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(*numbers(3))

    @workflow
    async def reads(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=3):
            count += len(batch)
            await enough.receive()
            await checkpoint(count=count)
        return count

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        control = stream.control(handle)
        await until(lambda: reached(control, 2))
        assert await control.lag(wait=0.05) == Lag(0, more=False, seconds=None)
        source.put(*numbers(5))
        source.put(*numbers(5), partition="1")
        each = PartitionLag(5, None)
        both = Lag(10, more=False, seconds=None, partitions={"0": each, "1": each})
        assert await control.lag(wait=0.05) == both
        one = Lag(5, more=False, seconds=None, partitions={"1": each})
        assert await control.lag(wait=0.05, partitions=[1]) == one
        assert await control.lag(wait=0.05, at_most=10) == both
        some = await control.lag(wait=0.05, at_most=9)
        assert (some.messages, some.more, some.seconds) == (9, True, None)
        await control.drain()
        await handle.signal(enough, True)
        assert await handle.result() == 3
        with pytest.raises(InvalidArguments, match="give 1 or more"):
            await control.lag(at_most=0)
        with pytest.raises(InvalidArguments, match="more than 0 seconds"):
            await control.lag(wait=0)
        with pytest.raises(InvalidArguments, match="only its declaration says"):
            await StreamControl(handle, "numbers").lag()


async def test_of_a_source_that_is_not_there_no_lag_is_told(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lag, "_OPEN_S", 0.05)
    stream = Stream("lines", Lines(tmp_path / "none.txt", poll=0.01))

    @workflow
    async def reads() -> None:
        async for _ in stream.batches():
            await checkpoint()

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        with pytest.raises(EverlongError, match=r"none\.txt'\) cannot be read: it is not there"):
            await stream.control(handle).lag()


async def test_a_position_that_is_none_stops_the_flow_until_it_is_rewound(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(1, 2)

    @workflow
    async def reads(total: int = 0) -> int:
        async for batch in stream.batches():
            total += sum(batch.values)
            await checkpoint(total=total)
        return total

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        control = stream.control(handle)
        await until(lambda: reached(control, 1))
        await control.rewind({0: "yesterday"})
        paused = await described(handle, lambda it: it.paused)
        assert paused.paused is not None
        assert "'yesterday' is none: rewind the flow" in paused.paused.reason
        await control.rewind({0: 0})
        await handle.resume()
        await until(lambda: reached(control, 1))
        await control.drain()
        assert await handle.result() == 5


NONSENSE: list[Any] = [
    None,
    "rewind",
    {"do": "rewind"},
    {"do": "rewind", "cursor": None},
    {"do": "rewind", "cursor": ["memory", {"0": None}]},
    {"do": "rewind", "cursor": ["memory", {"0": 1.5}]},
    {"do": "rewind", "cursor": [1, {}]},
    {"do": "redrive", "identity": "memory", "records": None},
    {"do": "redrive", "identity": "memory", "records": [1, [2], ["0", 1, b"1", None, "more"]]},
    {"do": "dance"},
]


@pytest.mark.parametrize("told", NONSENSE)
async def test_nonsense_that_a_loop_is_told_moves_nothing(path: Path, told: Any) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(1, 2)

    @workflow
    async def reads() -> list[int]:
        found: list[int] = []
        async for batch in stream.batches():
            found += batch.values
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        await described(handle, lambda _: source.acknowledged == at(1))
        control = stream.control(handle)
        await handle.signal("everlong.stream.numbers", told)
        source.put(3)
        await described(handle, lambda _: source.acknowledged == at(2))
        assert await control.position() == at(2)
        await control.drain()
        assert await handle.result() == [1, 2, 3]


class Deaf(Source[int]):
    """Cannot be told how far it was read."""

    def __init__(self, lies: Memory[int]) -> None:
        super().__init__(int)
        self.lies = lies

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        return DeafReader(await self.lies.open(after, partitions))


class DeafReader(Reader):
    def __init__(self, inner: Reader) -> None:
        self.identity, self._inner = inner.identity, inner

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        return await self._inner.fetch(max_messages, max_bytes, wait_s)

    async def acknowledge(self, cursor: Cursor) -> None:
        raise ConnectionError("nobody listens")


async def test_a_broker_that_cannot_be_told_stops_nobody(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream("numbers", Deaf(lies := Memory(int)))
    lies.put(*numbers(5))

    @workflow
    async def reads(total: int = 0) -> int:
        async for batch in stream.batches(max_messages=1):
            total += sum(batch.values)
            if batch.values == [4]:
                break
        return total

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        assert await handle.result() == 10
        begun = [one for one in await of_kind(handle, "ActivityScheduled") if one.attempts]
        assert all(len(one.attempts) == 1 for one in begun)
    assert "was not told how far it was read" in caplog.text
    assert "nobody listens" in caplog.text


async def test_a_reset_takes_the_cursor_along(path: Path) -> None:
    stream = Stream("numbers", source := Memory(int))
    source.put(1, 2, 3)

    @workflow
    async def reads() -> list[int]:
        found: list[int] = []
        async for batch in stream.batches(max_messages=1):
            found += batch.values
            if len(found) == 3:
                break
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        assert await handle.result() == [1, 2, 3]
        second = (await of_kind(handle, "ActivityCompleted"))[0].seq
        again = await handle.reset(second, reason="once more")
        assert await again.result() == [1, 2, 3]
        assert (await kinds(again)).count("ActivityCompleted") == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_messages": 0}, "max_messages=0"),
        ({"max_bytes": 2_000_000}, "max_bytes"),
        ({"on_poison": "burn"}, "on_poison"),
        ({"linger": -1.0}, "linger"),
        ({"partitions": []}, "partitions"),
    ],
)
async def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, InvalidArguments), match=words):
        Stream("numbers", Memory(int)).batches(**options)


async def test_declarations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(DefinitionError, match="needs a name"):
        Stream("", Memory(int))
    with pytest.raises(DefinitionError, match="no source"):
        Stream("numbers", "kafka")  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match=":after"):
        Rows("a.db", "select 1")
    with pytest.raises(EverlongError, match="inside a workflow"):
        await anext(Stream("numbers", Memory(int)).batches())


# --------------------------------------------------------------------------------- other sources


async def test_lines_of_a_file_that_grows(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "words.jsonl"
    stream = Stream("lines", Lines(file, str, poll=0.01))

    @workflow
    async def reads(found: list[str] | None = None) -> list[str]:
        found = found or []
        async for batch in stream.batches():
            found += batch.values
            await checkpoint(found=found)
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads, id="reads")
        with file.open("a") as lines:
            lines.write("one\ntwo\nthr")
            lines.flush()
            await described(handle, lambda it: it.history_events == 4)
            lines.write("ee\n")
            lines.flush()
            await described(handle, lambda it: it.history_events == 6)
        another = tmp_path / "another"  # Beside it, so that it is another file for certain.
        another.write_text("another\n")
        another.replace(file)
        paused = await described(handle, lambda it: it.paused)
        assert paused.paused is not None
        assert "rotated or made anew" in paused.paused.reason
        await stream.control(handle).drain()
        await handle.resume()
        assert await handle.result() == ["one", "two", "three"]


async def test_a_file_is_read_from_its_beginning_again(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "words"
    file.write_text("one\ntwo\n")
    stream = Stream("lines", Lines(file, str, poll=0.01))

    @workflow
    async def reads() -> list[str]:
        found: list[str] = []
        async for batch in stream.batches(max_messages=1):
            found += batch.values
            if len(found) == 4:
                break
        return found

    async with hosting(path, workflows=[reads]) as client:
        handle = await client.start(reads)
        control = stream.control(handle)
        await until(lambda: reached(control, 8))
        await control.rewind({0: None})
        assert await handle.result() == ["one", "two"] * 2


@pytest.mark.file  # Whose table is looked at.
async def test_rows_of_a_table_become_rows_of_another(path: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop.db"
    with closing(sqlite3.connect(shop)) as db:
        db.execute("create table changes (id integer primary key, item text, amount real)")
        db.executemany("insert into changes values (?, ?, ?)", [(n, f"i{n}", n) for n in range(7)])
        db.commit()
    query = "select id, item, amount from changes where id > :after order by id"
    stream = Stream("changes", Rows(shop, query, dict[str, Any], poll=0.01))

    @activity(transactional=True)
    async def add(tx: Transaction, amounts: list[float]) -> None:
        tx.execute("create table if not exists sink (amount real)")
        tx.executemany("insert into sink values (:amount)", [{"amount": one} for one in amounts])

    @workflow
    async def sums(count: int = 0) -> int:
        async for batch in stream.batches(max_messages=2):
            await add([one["amount"] for one in batch.values])
            count += len(batch)
            if count == 7:
                break
            await checkpoint(count=count)
        return count

    async with hosting(path, workflows=[sums], activities=[add]) as client:
        assert await client.run(sums) == 7
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("select count(*), sum(amount) from sink").fetchone() == (7, 21.0)
