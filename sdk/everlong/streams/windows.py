"""Windows: what happened within a span of time, by the time that the messages bear.

What is open is a plain value that the workflow carries through `checkpoint`; the kinds of windows
are only rules, declared once. Time is what the messages say, and moves by them alone, or by a tick
that a quiet source does not give. So the same messages give the same windows, whenever they are
read, and however they are cut into batches. The words are those of Flink's event time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import add
from typing import Any, Final, Generic, TypeVar

from everlong.exceptions import InvalidArguments
from everlong_engine import seconds_us

__all__ = ["Session", "Tumbling", "Window", "Windows"]

S = TypeVar("S")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_US: Final = 1_000_000


@dataclass(slots=True)
class Window(Generic[S]):
    """A span of one key, and what it has come to."""

    key: str
    start: datetime
    end: datetime
    """The first moment that is not in it."""
    value: S


@dataclass(slots=True)
class Windows(Generic[S]):
    """What is open: a parameter of the workflow, which goes through `checkpoint`."""

    open: dict[str, list[Window[S]]] = field(default_factory=dict)
    """By their keys."""
    now: datetime | None = None
    """The latest time that any message has borne, or any tick."""
    late: int = 0
    """How many messages came when their window had closed, and are in none."""


class _Rule(ABC, Generic[S]):
    def __init__(
        self, span: float | timedelta, what: str, combine: Callable[[S, S], S] | None, lateness: Any
    ) -> None:
        span_us = seconds_us(span, what)
        if span_us < _SECOND_US:
            raise InvalidArguments(f"{what}={span!r}: give a second or more")
        self._span = timedelta(microseconds=span_us)
        self._lateness = timedelta(microseconds=seconds_us(lateness, "lateness"))
        self._combine: Callable[[Any, Any], Any] = add if combine is None else combine

    def put(self, windows: Windows[S], key: str, at: datetime | None, value: S) -> bool:
        """Add what a message says to the window that it belongs to; False if that has closed.

        Args:
            windows: what is open; it is changed.
            key: windows of different keys have nothing to do with each other.
            at: when it happened, as `message.at`.
            value: what `combine` puts together with the rest of the window.

        Raises:
            InvalidArguments: there is no time, or one without a zone.
        """
        at = _instant(at)
        self.advance(windows, at)
        window = self._place(windows, Window(key, *self._bounds(at), value))
        if self._is_over(windows, window.end):
            windows.late += 1
            return False
        others = [one for one in windows.open.get(key, []) if one is not window]
        windows.open[key] = [*others, window]
        return True

    def advance(self, windows: Windows[S], to: datetime) -> None:
        """Time is at least here: for a source that is quiet, as at a `Tick`. It never goes back."""
        to = _instant(to)
        if windows.now is None or to > windows.now:
            windows.now = to

    def closed(self, windows: Windows[S]) -> list[Window[S]]:
        """Take what has closed since the last time, by its end and its key."""
        over: list[Window[S]] = []
        for key, found in list(windows.open.items()):
            left = [one for one in found if not self._is_over(windows, one.end)]
            if len(left) == len(found):
                continue
            over += [one for one in found if self._is_over(windows, one.end)]
            if left:
                windows.open[key] = left
            else:
                del windows.open[key]
        return sorted(over, key=lambda one: (one.end, one.key))

    def _is_over(self, windows: Windows[S], end: datetime) -> bool:
        return windows.now is not None and windows.now >= end + self._lateness

    def _waiting(self, windows: Windows[S], key: str) -> list[Window[S]]:
        """Those of a key that take something yet."""
        return [one for one in windows.open.get(key, []) if not self._is_over(windows, one.end)]

    @abstractmethod
    def _bounds(self, at: datetime) -> tuple[datetime, datetime]:
        """Start and end of the window of one message, as if it were alone."""

    @abstractmethod
    def _place(self, windows: Windows[S], new: Window[S]) -> Window[S]:
        """The window that is open with it, in place of those that it has become one with."""


class Tumbling(_Rule[S]):
    """Spans of one length, one behind the other, at its multiples since 1970.

        by_minute = Tumbling(60, lateness=5)                      # at module level

        for message in batch:                                     # in the workflow
            by_minute.put(windows, message.value.card, message.at, message.value.amount)
        for window in by_minute.closed(windows):
            await report(window.key, window.end, window.value)
        await checkpoint(windows=windows)

    A window closes when a message is `lateness` beyond its end. What people get wrong: without
    messages nothing closes, as nothing says that time goes on; `advance` says it.

    Args:
        size: seconds (or timedelta), 1 or more.
        combine: two values to one, whichever came first; + if it is left out.
        lateness: seconds (or timedelta) that a window waits for what comes late.

    Raises:
        InvalidArguments: a size of less than a second.
        ValueError: a duration below zero or beyond 100 years.
    """

    def __init__(
        self,
        size: float | timedelta,
        combine: Callable[[S, S], S] | None = None,
        *,
        lateness: float | timedelta = 0.0,
    ) -> None:
        super().__init__(size, "size", combine, lateness)

    def _bounds(self, at: datetime) -> tuple[datetime, datetime]:
        start = at - (at - _EPOCH) % self._span
        return start, start + self._span

    def _place(self, windows: Windows[S], new: Window[S]) -> Window[S]:
        for one in self._waiting(windows, new.key):
            if one.start == new.start:
                one.value = self._combine(one.value, new.value)
                return one
        return new


class Session(_Rule[S]):
    """Spans that last as long as no pause between two messages is as long as the gap.

        visits = Session(1800, lateness=60)                       # half an hour without a click

    A message between two open sessions makes one of them. The end of a session is its last message
    and the gap; otherwise as `Tumbling`.

    Args:
        gap: seconds (or timedelta), 1 or more.
        combine: two values to one, whichever came first; + if it is left out.
        lateness: seconds (or timedelta) that a session waits for what comes late.

    Raises:
        InvalidArguments: a gap of less than a second.
        ValueError: a duration below zero or beyond 100 years.
    """

    def __init__(
        self,
        gap: float | timedelta,
        combine: Callable[[S, S], S] | None = None,
        *,
        lateness: float | timedelta = 0.0,
    ) -> None:
        super().__init__(gap, "gap", combine, lateness)

    def _bounds(self, at: datetime) -> tuple[datetime, datetime]:
        return at, at + self._span

    def _place(self, windows: Windows[S], new: Window[S]) -> Window[S]:
        touching = [
            one
            for one in self._waiting(windows, new.key)
            if one.start < new.end and new.start < one.end
        ]
        if not touching:
            return new
        first, *others = sorted(touching, key=lambda one: one.start)
        for one in (*others, new):
            first.value = self._combine(first.value, one.value)
            first.start, first.end = min(first.start, one.start), max(first.end, one.end)
        if others:
            kept = windows.open[new.key]
            windows.open[new.key] = [one for one in kept if not any(one is x for x in others)]
        return first


def _instant(at: datetime | None) -> datetime:
    if at is None or at.tzinfo is None:
        raise InvalidArguments(
            f"a window needs to know when it happened, and is given {at!r}: a datetime with a zone"
        )
    return at
