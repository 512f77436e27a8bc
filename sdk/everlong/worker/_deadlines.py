"""Everything that a worker must do at a certain instant: timers, retries, timeouts.

One heap and one alarm for its head. Instants are judged by the engine's clock, so a deadline is met
late, never early.

Nothing is taken out one by one: a deadline that does not matter any more (most timeouts, for what
they guard is done in time) is passed over when it is met, or swept out when the heap has doubled.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, Final, TypeAlias

from everlong_engine import Alarm, Alarms, Clock, LoopAlarms

__all__ = ["Deadlines"]

_SWEEP_MIN: Final = 1_000

_Entry: TypeAlias = tuple[int, int, Callable[..., Any], tuple[Any, ...], Callable[..., bool]]


class Deadlines:
    """Calls back at instants (microseconds since the epoch), in order, ties in order of arrival."""

    def __init__(self, clock: Clock, alarms: Alarms | None = None) -> None:
        self._clock = clock
        self._alarms = alarms or LoopAlarms(clock)
        self._heap: list[_Entry] = []
        self._number = 0
        self._call: Alarm | None = None
        self._call_us = 0
        self._sweep_at = _SWEEP_MIN

    def __len__(self) -> int:
        return len(self._heap)

    def add(
        self,
        due_us: int,
        callback: Callable[..., Any],
        *args: Any,
        matters: Callable[..., bool],
    ) -> None:
        """Call `callback(*args)` at `due_us`, if `matters(*args)` then."""
        self._number += 1
        heappush(self._heap, (due_us, self._number, callback, args, matters))
        if len(self._heap) > self._sweep_at:
            self._sweep()
        if self._call is None or due_us < self._call_us:
            self._arm()

    def tidy(self) -> None:
        """Let the alarm stand for a deadline that matters: what follows from it may be far off."""
        heap = self._heap
        while heap and not heap[0][4](*heap[0][3]):
            heappop(heap)
        if not heap or heap[0][0] != self._call_us or self._call is None:
            self._arm()

    def stop(self) -> None:
        """Forget everything."""
        self._heap.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if entry[4](*entry[3])]
        heapify(self._heap)
        self._sweep_at = 2 * len(self._heap) + _SWEEP_MIN

    def _arm(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._heap:
            self._call_us = self._heap[0][0]
            self._call = self._alarms.at(self._call_us, self._fire)

    def _fire(self) -> None:
        self._call = None
        now_us = self._clock.now_us()
        while self._heap and self._heap[0][0] <= now_us:
            _, _, callback, args, matters = heappop(self._heap)
            if matters(*args):
                callback(*args)
        if self._call is None:
            self._arm()
