"""What the engine asks of a clock. The real one is `everlong_engine.clock`; tests pass their own.

Instants are integers: microseconds since the epoch, UTC.
"""

from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    def now_us(self) -> int:
        """The store's time, estimated from below: timers are judged by it, late but never early."""
        ...
