"""The one place of the engine that reads the machine's clock."""

import time
from collections.abc import Callable

__all__ = ["SystemClock"]


class SystemClock:
    """Wall time that never runs backwards within a process.

    For a SQLite file the store's clock is the clock of the machine that holds it. A step back
    (NTP, a hand on the clock) would make a run's events go back in time, so the last reading is
    kept as a floor: time stands still until the machine's clock has caught up.
    """

    __slots__ = ("_last", "_read")

    def __init__(self) -> None:
        # The original function, taken before anything makes `time` context-aware.
        self._read: Callable[[], int] = time.time_ns
        self._last = 0

    def now_us(self) -> int:
        now = self._read() // 1000
        if now < self._last:
            return self._last
        self._last = now
        return now
