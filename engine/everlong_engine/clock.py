"""The one place of the engine that reads the machine's clock, and waits for it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from everlong_engine.model.clock import Alarm, Clock

__all__ = ["LoopAlarms", "SystemClock"]

_LOOK_S: Final = 1.0


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


class LoopAlarms:
    """Alarms of the running event loop. An instant is looked at once a second at least, in case the
    machine's clock was set."""

    __slots__ = ("_clock",)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def at(self, due_us: int | None, call: Callable[[], object]) -> Alarm:
        wait_s = _LOOK_S
        if due_us is not None:
            wait_s = min(max((due_us - self._clock.now_us()) / 1_000_000, 0.0), _LOOK_S)
        return asyncio.get_running_loop().call_later(wait_s, call)

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> Alarm:
        return asyncio.get_running_loop().call_later(seconds, call, *args)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
