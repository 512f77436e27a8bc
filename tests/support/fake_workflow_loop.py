"""A loop with just enough in it to drive workflow code in the tests of the guards and adapters.

Its time stands still but for its timers, which fire when nothing else is ready. It has no run, no
history and no worker; `everlong._replay.loop` is the real one.
"""

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from random import Random
from typing import Any, Final, NoReturn, TypeVar, cast

from everlong._replay.anyio_adapter import is_cancel_retry
from everlong._replay.asyncio_adapter import enter, leave

T = TypeVar("T")

START_NS: Final = 1_700_000_000_123_456_789
CALLBACKS_MAX: Final = 10_000


class Forbidden(BaseException):
    """What `forbid` raises, with its two texts as arguments."""


class NumberedFuture(asyncio.Future[Any]):
    def __init__(self, loop: "FakeWorkflowLoop") -> None:
        self.number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class NumberedTask(asyncio.Task[Any]):
    def __init__(self, coro: Coroutine[Any, Any, Any], loop: "FakeWorkflowLoop", name: str) -> None:
        self.number = loop.next_number()
        super().__init__(coro, loop=loop, name=name)

    def __hash__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return f"<task {self.get_name()}>"


class FakeWorkflowLoop(asyncio.AbstractEventLoop):
    everlong_workflow_loop = True

    def __init__(self, seed: int = 7) -> None:
        self.seed = seed
        self.stopped = False
        self.random = Random(seed)
        self.guard_time_ns = START_NS
        self.forbidden: list[tuple[str, str]] = []
        self.unhandled: list[dict[str, Any]] = []
        self.parked = 0
        self._retried = 0
        self._numbers = itertools.count(1)
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._time = 0.0

    def next_number(self) -> int:
        return next(self._numbers)

    def forgot(self, coroutine: object) -> None:
        raise AssertionError(f"{coroutine!r} was never awaited")

    def forbid(self, what: str, fix: str) -> NoReturn:
        self.forbidden.append((what, fix))
        raise Forbidden(what, fix)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Drive until `main` is done, as its worker would from a callback."""
        outside = enter(self)
        try:
            task: asyncio.Task[T] = self.create_task(main)
            for _ in range(CALLBACKS_MAX):
                if task.done():
                    return task.result()
                self._step()
        finally:
            leave(outside)
        raise AssertionError("the workflow does not come to rest")

    def call(self, function: Callable[[], T]) -> T:
        """Call a plain function as workflow code."""

        async def main() -> T:
            return function()

        return self.run(main())

    def _step(self) -> None:
        idle = self._retried >= len(self._ready) and all(map(is_cancel_retry, self._ready))
        if idle and self._timers:
            self.parked += len(self._ready)
            self._time, _, timer = heapq.heappop(self._timers)
            self._ready.append(timer)
        handle = self._ready.popleft()
        self._retried = self._retried + 1 if is_cancel_retry(handle) else 0
        if not handle.cancelled():
            handle._run()

    # ------------------------------------------------------------- what asyncio asks of a loop

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if when != math.inf:
            heapq.heappush(self._timers, (when, self.next_number(), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers = [entry for entry in self._timers if entry[2] is not handle]
        heapq.heapify(self._timers)

    def create_future(self) -> asyncio.Future[Any]:
        return NumberedFuture(self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return NumberedTask(coro, self, str(name or f"task-{self.next_number()}"))

    def time(self) -> float:
        return self._time

    def get_debug(self) -> bool:
        return False

    def get_task_factory(self) -> None:
        return None

    def is_running(self) -> bool:
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(context)


def fake_loop(seed: int = 7) -> FakeWorkflowLoop:
    """A new loop; the cast is for type checkers, to whom a loop without sockets is abstract."""
    made: FakeWorkflowLoop = cast(Any, FakeWorkflowLoop)(seed)
    return made
