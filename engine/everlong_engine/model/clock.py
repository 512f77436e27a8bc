"""What the engine asks of a clock. The real one is `everlong_engine.clock`; tests pass their own.

Instants are integers: microseconds since the epoch, UTC.
"""

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Alarm", "Alarms", "Clock"]


class Clock(Protocol):
    def now_us(self) -> int:
        """The store's time, estimated from below: timers are judged by it, late but never early."""
        ...


class Alarm(Protocol):
    """A call that is to come."""

    def cancel(self) -> None: ...


class Alarms(Protocol):
    """Waiting for instants of a clock. With a clock that jumps, waits must jump along."""

    def at(self, due_us: int | None, call: Callable[[], object]) -> Alarm:
        """Call when the clock shows that instant, or earlier: whoever is called looks at the clock.
        None is for who expects nothing, and looks all the same if the clock is a real one."""
        ...

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> Alarm:
        """Call once that much time has passed."""
        ...

    async def pause(self, seconds: float) -> None:
        """For what goes on in the background: nobody waits for it, so it moves no clock."""
        ...
