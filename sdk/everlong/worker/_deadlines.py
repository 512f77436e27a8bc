"""Everything that a worker must do at a certain instant: timers, retries, timeouts.

One heap and one call on the event loop for its head. Instants are judged by the engine's clock, so
a deadline is met late, never early; the head is looked at once a second at least, in case the
machine's clock was set.
"""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from everlong_engine import Clock

__all__ = ["Deadlines"]

_LOOK_S: Final = 1.0


class Deadlines:
    """Calls back at instants (microseconds since the epoch), in order, ties in order of arrival."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._number = 0
        self._call: asyncio.TimerHandle | None = None
        self._call_us = 0

    def add(self, due_us: int, callback: Callable[..., Any], *args: Any) -> None:
        """Nothing is ever taken out: the callback looks whether it still matters."""
        self._number += 1
        heappush(self._heap, (due_us, self._number, callback, args))
        if self._call is None or due_us < self._call_us:
            self._arm()

    def stop(self) -> None:
        self._heap.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _arm(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._heap:
            self._call_us = self._heap[0][0]
            wait_s = (self._call_us - self._clock.now_us()) / 1_000_000
            loop = asyncio.get_running_loop()
            self._call = loop.call_later(min(max(wait_s, 0.0), _LOOK_S), self._fire)

    def _fire(self) -> None:
        self._call = None
        now_us = self._clock.now_us()
        while self._heap and self._heap[0][0] <= now_us:
            _, _, callback, args = heappop(self._heap)
            callback(*args)
        if self._call is None:
            self._arm()
