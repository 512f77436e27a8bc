"""Loops over several things at once: batches, signals and ticks, none lost and none twice."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from everlong import Query, Replayer, Signal, checkpoint, workflow
from everlong.exceptions import EverlongError, InvalidArguments
from everlong.streams import Batch, Cursor, Memory, Reader, Stream, Tick, every, merge
from everlong.streams._pump import Pump, Sizes
from everlong.testing import Environment, amnesia
from tests.support.hosting import hosting, kinds, until


@dataclass
class Rule:
    factor: int


rules = Signal("merged-rules", Rule)
words: Signal[str] = Signal("merged-words", str)
gate: Signal[bool] = Signal("merged-gate", bool)
state: Query[list[int]] = Query("merged-state", list[int])


class Opened(Memory[int]):
    """Counts how often it is opened."""

    def __init__(self) -> None:
        super().__init__(int)
        self.times = 0

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        self.times += 1
        return await super().open(after, partitions)


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_signal_changes_the_rule_for_what_comes_behind_it(
    path: Path, tmp_path: Path, forgets: bool
) -> None:
    source = Opened()
    stream = Stream("numbers", source)

    @workflow
    async def adds(factor: int = 1, total: int = 0) -> int:
        @state.handler
        def _() -> list[int]:
            return [factor, total]

        async for found in merge(stream.batches(), rules):
            match found:
                case Rule():
                    factor = found.factor
                case Batch():
                    total += factor * sum(found.values)
            await checkpoint(factor=factor, total=total)
        return total

    with amnesia() if forgets else nullcontext():
        async with hosting(path, workflows=[adds]) as client:
            handle = await client.start(adds)

            async def stands(*wanted: int) -> bool:
                return await handle.query(state) == list(wanted)

            total = 0
            for factor, number in ((10, 1), (100, 2), (1000, 3)):
                await handle.signal(rules, Rule(factor))
                await until(lambda now=(factor, total): stands(*now))  # type: ignore[misc]
                source.put(number)
                total += factor * number
                await until(lambda now=(factor, total): stands(*now))  # type: ignore[misc]
            await stream.control(handle).drain()
            assert await handle.result() == 3210
            assert await client.verify() == []
            exported = tmp_path / "exported.jsonl"
            exported.write_text(await client.export(handle.workflow_id))
    for run in Replayer(workflows=[adds]).check(exported):
        assert run.fault is None
    assert source.times == 1  # What came between left it open.


@settings(
    max_examples=8,
    phases=[Phase.reuse, Phase.generate],  # What is lost is waited for.
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    order=st.lists(st.sampled_from(["one", "other", "word"]), min_size=1, max_size=24),
    size=st.integers(1, 3),
    forgets=st.booleans(),
    cache_size=st.sampled_from([0, 100]),
)
async def test_each_comes_once_and_in_its_order(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[str],
    size: int,
    forgets: bool,
    cache_size: int,
) -> None:
    """Whatever comes at the same moment as what."""
    first, second = Memory(int), Memory(int)
    one, other = Stream("one", first), Stream("other", second)
    path = tmp_path_factory.mktemp("merged") / "everlong.db"

    @workflow
    async def gathers(seen: list[list[Any]] | None = None) -> list[list[Any]]:
        seen = [] if seen is None else seen
        arms = merge(one.batches(max_messages=size), other.batches(max_messages=size), words)
        async for found in arms:
            if isinstance(found, Batch):
                name = "one" if found.id.startswith("one/") else "other"
                seen += [[name, value] for value in found.values]
            else:
                seen.append(["word", int(found)])
            if len(seen) == len(order):
                break
            await checkpoint(seen=seen)
        return seen

    with amnesia() if forgets else nullcontext():
        async with hosting(path, workflows=[gathers], cache_size=cache_size) as client:
            handle = await client.start(gathers)
            for number, what in enumerate(order):
                if what == "word":
                    await handle.signal(words, str(number))
                else:
                    (first if what == "one" else second).put(number)
            async with asyncio.timeout(20):
                found = await handle.result()
    for what in ("one", "other", "word"):
        expected = [number for number, each in enumerate(order) if each == what]
        assert [number for name, number in found if name == what] == expected


async def test_a_period_ticks_at_its_multiples_and_makes_nothing_up() -> None:
    @workflow
    async def ticks(seen: list[datetime] | None = None) -> list[datetime]:
        seen = [] if seen is None else seen
        async for tick in every(60):
            seen.append(tick.at)
            if len(seen) == 2:
                await asyncio.sleep(600)  # The body may take its time.
            if len(seen) == 4:
                break
            await checkpoint(seen=seen)
        return seen

    start = datetime(2026, 11, 22, 12, 0, 30, tzinfo=UTC)
    with amnesia():
        async with Environment(workflows=[ticks], start=start) as env:
            seen = await env.client.run(ticks)
    assert [one.strftime("%H:%M:%S") for one in seen] == [
        "12:01:00",
        "12:02:00",
        "12:12:00",
        "12:13:00",
    ]


async def test_ticks_come_between_batches_and_end_with_the_last_stream() -> None:
    source = Memory(int)
    stream = Stream("numbers", source)

    @workflow
    async def counts(ticks: int = 0, total: int = 0) -> list[int]:
        async for found in merge(stream.batches(max_messages=1), every(3600)):
            match found:
                case Tick():
                    ticks += 1
                case Batch():
                    total += sum(found.values)
            await checkpoint(ticks=ticks, total=total)
        return [ticks, total]

    async with Environment(workflows=[counts]) as env:
        handle = await env.client.start(counts)
        source.put(1, 2, 3)
        await env.settled()
        await env.advance(3 * 3600)
        await stream.control(handle).drain()
        ticks, total = await handle.result()
    assert total == 6
    assert 2 <= ticks <= 3


async def test_nothing_is_in_flight_while_the_body_works(path: Path) -> None:
    """So that a checkpoint begins anew however much could come."""
    stream = Stream("numbers", Memory(int))

    @workflow
    async def listens(count: int = 0) -> int:
        async for _ in merge(stream.batches(), words, every(60)):
            count += 1
            if count == 3:
                break
            await checkpoint(count=count)
        return count

    with amnesia():
        async with hosting(path, workflows=[listens]) as client:
            handle = await client.start(listens)
            for word in "abc":
                await handle.signal(words, word)
            assert await handle.result() == 3
            assert "RunStarted" in await kinds(handle)
            assert (await handle.describe()).run_id != handle.run_id


@pytest.mark.parametrize("forgets", [False, True])
async def test_what_has_come_together_is_taken_in_turns_and_none_is_lost(
    path: Path, forgets: bool
) -> None:
    """What was found and not handed out is still there, also for the run behind a checkpoint."""

    @workflow
    async def gathers(seen: list[str] | None = None) -> list[str]:
        if seen is None:
            await gate.receive()
        seen = [] if seen is None else seen
        async for found in merge(words, rules, every(3600)):
            seen.append(found if isinstance(found, str) else type(found).__name__)
            if len(seen) == 6:
                break
            await checkpoint(seen=seen)
        return seen

    with amnesia() if forgets else nullcontext():
        async with hosting(path, workflows=[gathers]) as client:
            handle = await client.start(gathers)
            for word in "abc":
                await handle.signal(words, word)
                await handle.signal(rules, Rule(1))
            await handle.signal(gate, True)
            async with asyncio.timeout(20):
                found = await handle.result()
    assert sorted(found) == ["Rule", "Rule", "Rule", "a", "b", "c"]
    if not forgets:  # Each run begins with the first one again.
        assert found == ["a", "Rule", "b", "Rule", "c", "Rule"]


async def test_a_signal_may_say_nothing_but_that_it_is_there(path: Path) -> None:
    stops: Signal[None] = Signal("merged-stops", type(None))
    stream = Stream("numbers", Memory(int))

    @workflow
    async def waits() -> str:
        async for found in merge(stream.batches(), stops):
            return repr(found)
        return "the loop has ended"

    async with hosting(path, workflows=[waits]) as client:
        handle = await client.start(waits)
        await handle.signal(stops, None)
        assert await handle.result() == "None"


async def test_a_failure_of_one_arm_is_the_loops(path: Path) -> None:
    stream = Stream("numbers", Memory(int))

    @workflow
    async def reads_twice() -> str:
        async def second() -> None:
            async for _ in merge(stream.batches(), words):
                return

        first = asyncio.ensure_future(anext(merge(stream.batches())))
        await asyncio.sleep(0)
        try:
            await second()
        except EverlongError as error:
            return str(error)
        finally:
            first.cancel()
        return "nothing was refused"

    async with hosting(path, workflows=[reads_twice]) as client:
        assert "is read by another task of this workflow" in await client.run(reads_twice)


async def test_what_was_read_and_not_taken_is_given_again() -> None:
    """A read that was over when something else came first; the source stays open."""
    source = Opened()
    source.put(1, 2, 3)
    sizes = Sizes(1, 1000, 0.0, None)
    pump = Pump(source, None, sizes, lambda: None)
    first = await pump.next(None)
    assert pump.continues(None, sizes)
    assert await pump.next(None) is first
    second = await pump.next(first.cursor)
    assert [one.value for one in (*first.records, *second.records)] == [b"1", b"2"]
    assert not pump.continues(None, sizes)
    assert pump.continues(first.cursor, sizes)
    assert await pump.next(first.cursor) is second
    assert [one.value for one in (await pump.next(second.cursor)).records] == [b"3"]
    assert source.times == 1
    pump.close()


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        (merge, "give at least one"),
        (lambda: merge(cast("Any", 7)), "give stream.batches"),
        (lambda: merge(words, words), "twice"),
        (lambda: merge(every(2), every(2.0)), "twice"),
        (lambda: merge(Stream("n", Memory()).batches(), Stream("n", Memory()).batches()), "twice"),
        (lambda: every(0.5), "a second or more"),
    ],
)
def test_what_makes_no_sense_is_refused(arms: Any, words: str) -> None:
    with pytest.raises(InvalidArguments, match=words):
        arms()


async def test_outside_of_a_workflow_there_is_no_loop() -> None:
    with pytest.raises(EverlongError, match="inside a workflow"):
        await anext(merge(words))
    with pytest.raises(EverlongError, match="inside a workflow"):
        await anext(every(1))
