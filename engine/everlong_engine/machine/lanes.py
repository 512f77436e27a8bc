"""Which of the tasks that wait are taken next: by urgency, fair to keys, within limits. Pure.

Tasks that wait stand in lanes: one for each queue, activity, rank and key. A claim gets the heads
of lanes from its store, and deals its slots to them. What is counted are the rows that workers have
taken: a permit is nothing of its own that a crash could leak.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from everlong_engine.model.queues import NO_LIMITS, QueueLimits, RateLimit, Starts
from everlong_engine.model.tasks import NewTask

__all__ = ["MARKS_MAX", "Dealer", "Lane", "free_at", "noted", "room_in"]

MARKS_MAX: Final = 32
"""Of one period: starts that lie closer together than this share of it are counted as one mark."""
_NO_BOUND: Final = 1 << 62


# ------------------------------------------------------------------------------------------ rates


def _within(starts: Starts, rate: RateLimit, now_us: int) -> Starts:
    """Those that still count. One that lies ahead, by a clock that was wrong, began just now."""
    counted = tuple((first, min(last, now_us), count) for first, last, count in starts)
    return tuple(mark for mark in counted if mark[1] > now_us - rate.period_us)


def room_in(starts: Starts, rate: RateLimit, now_us: int) -> int:
    """How many may begin now, so that in no period there are more than the rate allows."""
    return max(0, rate.count - sum(count for *_, count in _within(starts, rate, now_us)))


def free_at(starts: Starts, rate: RateLimit, now_us: int) -> int:
    """When the next one may begin."""
    counted = _within(starts, rate, now_us)
    left = sum(count for *_, count in counted) - rate.count
    if left < 0:
        return now_us
    for _, last, count in counted:
        left -= count
        if left < 0:
            return last + rate.period_us
    return now_us + rate.period_us


def noted(starts: Starts, rate: RateLimit, now_us: int, count: int) -> Starts:
    """With `count` more that begin now. A mark counts until its last start has left the period, so
    what is merged is never counted too short."""
    counted = _within(starts, rate, now_us)
    if counted:
        first, _, before = counted[-1]
        if now_us - first < rate.period_us // MARKS_MAX:
            return (*counted[:-1], (first, now_us, before + count))
    return (*counted, (now_us, now_us, count))


# ------------------------------------------------------------------------------------------ lanes


class Lane(Struct, frozen=True, order=True):
    """Tasks of one kind, among which the longest due is first."""

    queue: str
    activity: str
    rank: int
    """The smaller, the sooner."""
    key: str

    @classmethod
    def of(cls, task: NewTask) -> "Lane":
        return cls(task.queue, task.activity, task.rank, task.key)


class Dealer:
    """Deals the slots of one claim.

    Args:
        limits: of the queues that have any.
        after: the key that was served last: among equals, the keys behind it come first.
    """

    def __init__(self, limits: Mapping[str, QueueLimits], now_us: int, after: str = "") -> None:
        self._limits = limits
        self._taken: dict[tuple[str, str], int] = {}
        self._in_queue: dict[str, int] = {}
        self._starts: dict[tuple[str, str], Starts] = {}
        self._now_us = now_us
        self._after = after
        self.changed: set[tuple[str, str]] = set()
        """Queues ("" is their key), and queues and keys, whose starts are others now."""

    def count(self, queue: str, key: str, taken: int) -> None:
        """So many calls of a queue and key are in workers' hands."""
        self._taken[queue, key] = self._taken.get((queue, key), 0) + taken
        self._in_queue[queue] = self._in_queue.get(queue, 0) + taken

    def know(self, key: tuple[str, str], starts: Starts | None) -> None:
        """When calls began of a queue, or of a queue and key, whose rate is limited; None: that
        cannot be read, and a whole period passes before the next one."""
        rate = self.rate_of(key)
        if starts is None:
            starts = () if rate is None else ((self._now_us, self._now_us, rate.count),)
            self.changed.add(key)
        self._starts[key] = starts

    def needs_starts(self, lane: Lane) -> bool:
        """Whether those of its key are not known yet, and matter."""
        key = (lane.queue, lane.key)
        return bool(lane.key) and key not in self._starts and self.rate_of(key) is not None

    def starts(self, key: tuple[str, str]) -> Starts:
        return self._starts.get(key, ())

    def room_of_queue(self, queue: str) -> int:
        """How many more calls of it may begin, whatever their keys."""
        limits = self._limits.get(queue, NO_LIMITS)
        room = _NO_BOUND
        if limits.concurrency is not None:
            room = limits.concurrency - self._in_queue.get(queue, 0)
        if limits.rate is not None:
            room = min(room, room_in(self.starts((queue, "")), limits.rate, self._now_us))
        return max(0, room)

    def room(self, lane: Lane) -> int:
        """How many more of the lane may begin."""
        return min(self.room_of_queue(lane.queue), self._room_of_key(lane.queue, lane.key))

    def _room_of_key(self, queue: str, key: str) -> int:
        limits = self._limits.get(queue, NO_LIMITS)
        room = _NO_BOUND
        if key and limits.key_concurrency is not None:
            room = limits.key_concurrency - self._taken.get((queue, key), 0)
        if key and limits.key_rate is not None:
            room = min(room, room_in(self.starts((queue, key)), limits.key_rate, self._now_us))
        return max(0, room)

    def deal(self, lanes: Mapping[Lane, int], slots: int) -> list[tuple[Lane, int]]:
        """How many to take of which lane, the most urgent first; as if each had enough.

        Lanes of one rank get equal shares. Where there are not enough slots for all, those come
        first of whose key the fewest are at work; without keys, those that wait longest.

        Args:
            lanes: and since when the first of each is due.
        """
        by_rank: dict[int, list[Lane]] = {}
        for lane in lanes:
            by_rank.setdefault(lane.rank, []).append(lane)
        dealt: list[tuple[Lane, int]] = []
        promised: dict[tuple[str, str | None], int] = {}
        for rank in sorted(by_rank):
            ready = sorted(by_rank[rank], key=lambda lane: self._turn(lane, lanes[lane]))
            slots -= self._share_out(ready, slots, promised, dealt)
            if slots <= 0:
                break
        return dealt

    def _share_out(
        self,
        lanes: Sequence[Lane],
        slots: int,
        promised: dict[tuple[str, str | None], int],
        dealt: list[tuple[Lane, int]],
    ) -> int:
        """Adds to `promised` and `dealt`; returns how many slots went away."""
        share = -(-slots // len(lanes))
        left = slots
        for lane in lanes:
            whole, own = (lane.queue, None), (lane.queue, lane.key)
            room = min(
                self.room_of_queue(lane.queue) - promised.get(whole, 0),
                self._room_of_key(lane.queue, lane.key) - promised.get(own, 0),
            )
            quota = min(share, left, room)
            if quota > 0:
                dealt.append((lane, quota))
                promised[whole] = promised.get(whole, 0) + quota
                promised[own] = promised.get(own, 0) + quota
                left -= quota
        return slots - left

    def _turn(self, lane: Lane, due_us: int) -> tuple[int, bool, str, int, Lane]:
        at_work = self._taken.get((lane.queue, lane.key), 0) if lane.key else 0
        return at_work, lane.key <= self._after, lane.key, due_us, lane

    def note(self, lane: Lane, count: int) -> None:
        """So many of it begin."""
        if count == 0:  # Else a mark of nothing would hold others back.
            return
        self.count(lane.queue, lane.key, count)
        limits = self._limits.get(lane.queue, NO_LIMITS)
        if limits.rate is not None:
            self._note_starts((lane.queue, ""), limits.rate, count)
        if limits.key_rate is not None and lane.key:
            self._note_starts((lane.queue, lane.key), limits.key_rate, count)

    def _note_starts(self, key: tuple[str, str], rate: RateLimit, count: int) -> None:
        self._starts[key] = noted(self.starts(key), rate, self._now_us, count)
        self.changed.add(key)

    def rate_of(self, key: tuple[str, str]) -> RateLimit | None:
        """By which the starts of a queue, or of a queue and key, are limited."""
        limits = self._limits.get(key[0], NO_LIMITS)
        return limits.key_rate if key[1] else limits.rate

    def until_us(self, key: tuple[str, str]) -> int:
        """When its starts are forgotten."""
        rate, starts = self.rate_of(key), self.starts(key)
        return self._now_us if rate is None or not starts else starts[-1][1] + rate.period_us

    def free_us(self, key: tuple[str, str]) -> int:
        """When the next call of a queue, or of a queue and key, may begin by its rate."""
        rate = self.rate_of(key)
        return self._now_us if rate is None else free_at(self.starts(key), rate, self._now_us)

    def next_us(self, lanes: Iterable[Lane]) -> int | None:
        """When the first of these lanes has room again that a rate holds back; what is held back
        by other calls begins with the end of one."""
        return min(
            (
                free
                for lane in lanes
                if (free := max(self.free_us((lane.queue, "")), self._free_us_of(lane)))
                > self._now_us
            ),
            default=None,
        )

    def _free_us_of(self, lane: Lane) -> int:
        return self.free_us((lane.queue, lane.key)) if lane.key else self._now_us
