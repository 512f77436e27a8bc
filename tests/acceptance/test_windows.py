"""Windows by the time of the messages: the same however they are read."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from everlong import checkpoint, workflow
from everlong.exceptions import InvalidArguments
from everlong.streams import Session, Stream, Tumbling, Window, Windows
from everlong.streams._source import Cursor, Reader, Record, Source
from everlong.testing import amnesia
from tests.support.hosting import hosting

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def spans(found: Sequence[Window[Any]]) -> list[tuple[str, float, float, Any]]:
    return [
        (
            one.key,
            (one.start - START).total_seconds(),
            (one.end - START).total_seconds(),
            one.value,
        )
        for one in found
    ]


def test_a_window_closes_when_time_is_beyond_its_end_and_its_lateness() -> None:
    minutes = Tumbling[int](60, lateness=10)
    windows = Windows[int]()
    assert minutes.put(windows, "a", at(5), 1)
    assert minutes.put(windows, "a", at(59), 2)
    assert minutes.put(windows, "b", at(61), 4)
    assert minutes.closed(windows) == []
    assert minutes.put(windows, "a", at(0), 8)  # Late, and not too late.
    assert minutes.put(windows, "b", at(70), 16)
    assert spans(minutes.closed(windows)) == [("a", 0, 60, 11)]
    assert not minutes.put(windows, "a", at(3), 32)
    assert windows.late == 1
    minutes.advance(windows, at(1000))
    minutes.advance(windows, at(7))
    assert spans(minutes.closed(windows)) == [("b", 60, 120, 20)]
    assert windows.open == {}


def test_a_session_lasts_until_nothing_comes_and_two_become_one() -> None:
    visits = Session[list[int]](30, lateness=60)
    windows = Windows[list[int]]()
    for seconds in (0, 29, 70, 99):
        visits.put(windows, "ann", at(seconds), [seconds])
    visits.put(windows, "bob", at(99), [99])
    assert len(windows.open["ann"]) == 2
    visits.put(windows, "ann", at(50), [50])  # Between the two.
    assert len(windows.open["ann"]) == 1
    visits.advance(windows, at(99 + 30 + 59))
    assert visits.closed(windows) == []
    visits.advance(windows, at(99 + 30 + 60))
    (ann, bob) = visits.closed(windows)
    assert (ann.start, ann.end, sorted(ann.value)) == (at(0), at(129), [0, 29, 50, 70, 99])
    assert spans([bob]) == [("bob", 99, 129, [99])]


messages = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 400), st.integers(1, 9)), max_size=40
)
rules: Any = st.one_of(
    st.builds(Tumbling, st.integers(1, 90), lateness=st.integers(0, 90)),
    st.builds(Session, st.integers(1, 90), lateness=st.integers(0, 90)),
)


@given(messages, rules, st.lists(st.integers(1, 10), max_size=40))
def test_how_the_messages_are_cut_into_batches_changes_nothing(
    sent: list[tuple[str, int, int]], rule: Any, cuts: list[int]
) -> None:
    def read(sizes: Callable[[], int]) -> tuple[list[Any], int]:
        windows, closed, left = Windows[int](), list[Any](), list(sent)
        while left:
            size = sizes()
            for key, seconds, value in left[:size]:
                rule.put(windows, key, at(seconds), value)
            left = left[size:]
            closed += spans(rule.closed(windows))
        rule.advance(windows, at(10_000))
        return sorted(closed + spans(rule.closed(windows))), windows.late

    assert read(iter([*cuts, *[7] * 40]).__next__) == read(lambda: 1)


@given(messages, st.integers(1, 90))
def test_whatever_is_in_time_is_in_one_window(sent: list[tuple[str, int, int]], size: int) -> None:
    """Against what the words say, over all messages at once."""
    tumbling, session = Tumbling[int](size, lateness=500), Session[int](size, lateness=500)
    in_spans, in_visits = Windows[int](), Windows[int]()
    for key, seconds, value in sent:
        assert tumbling.put(in_spans, key, at(seconds), value)
        assert session.put(in_visits, key, at(seconds), value)
    for windows in (in_spans, in_visits):
        tumbling.advance(windows, at(10_000))
    expected: dict[tuple[str, float], int] = {}
    first = int(START.timestamp())
    for key, seconds, value in sent:
        start = (first + seconds) // size * size - first
        expected[key, start] = expected.get((key, start), 0) + value
    assert {(one[0], one[1]): one[3] for one in spans(tumbling.closed(in_spans))} == expected
    visits: list[list[Any]] = []
    for key, seconds, value in sorted(sent):
        if visits and visits[-1][0] == key and seconds < visits[-1][2]:
            visits[-1][2:] = [seconds + size, visits[-1][3] + value]
        else:
            visits.append([key, seconds, seconds + size, value])
    assert sorted(spans(session.closed(in_visits))) == sorted(tuple(one) for one in visits)


class Clicks(Source[str]):
    """A list of (second, user), whose messages bear their time."""

    def __init__(self, *clicks: tuple[int, str]) -> None:
        super().__init__(str)
        self.clicks = clicks

    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        return _Clicks(self, 0 if after is None else int(after.after["0"]) + 1)


class _Clicks(Reader):
    identity = "clicks"

    def __init__(self, source: Clicks, next_one: int) -> None:
        self._source, self._next = source, next_one

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        here = self._source.clicks[self._next : self._next + max_messages]
        found = [
            Record("0", self._next + n, who.encode(), at_us=int(at(second).timestamp() * 1e6))
            for n, (second, who) in enumerate(here)
        ]
        self._next += len(found)
        return found


async def test_what_is_open_goes_through_a_checkpoint(path: Path) -> None:
    clicks = Stream(
        "clicks", Clicks((0, "ann"), (10, "bob"), (20, "ann"), (100, "ann"), (300, "eve"))
    )
    visits = Session[int](60)

    @workflow
    async def count(
        windows: Windows[int] = Windows(),  # noqa: B008 - made anew for every run
        seen: int = 0,
        told: list[list[Any]] | None = None,
    ) -> list[list[Any]]:
        told = [] if told is None else told
        async for batch in clicks.batches(max_messages=2):
            for message in batch:
                visits.put(windows, message.value, message.at, 1)
            told += [[one.key, one.value] for one in visits.closed(windows)]
            seen += len(batch)
            if seen == 5:
                break
            await checkpoint(windows=windows, seen=seen, told=told)
        return told

    with amnesia():
        async with hosting(path, workflows=[count]) as client:
            assert await client.run(count) == [["bob", 1], ["ann", 2], ["ann", 1]]


@pytest.mark.parametrize("when", [None, datetime(2026, 11, 22)])  # noqa: DTZ001
def test_a_time_that_is_none_is_refused(when: datetime | None) -> None:
    with pytest.raises(InvalidArguments, match="a datetime with a zone"):
        Tumbling[int](60).put(Windows(), "a", when, 1)


@pytest.mark.parametrize("make", [lambda: Tumbling[int](0.5), lambda: Session[int](0)])
def test_spans_of_no_length_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidArguments, match="a second or more"):
        make()
    with pytest.raises(ValueError, match="lateness"):
        Session[int](60, lateness=-1)
