"""Virtual time, and an event loop for each simulated process.

A `ProcessLoop` is what `asyncio.get_running_loop()` returns inside one process. It keeps what is
ready in order, as asyncio promises; which process goes next is the seed's choice. When nothing is
ready anywhere, time jumps to the next deadline. A killed process never runs another line, not even
a `finally`; a stopped one (SIGSTOP) finds everything that came due when it goes on.
"""

import asyncio
from asyncio import AbstractEventLoop, Future, Task, events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, TypeAlias, TypeVar

__all__ = ["ProcessLoop", "Schedule", "TooLong"]

T = TypeVar("T")

_STEPS_MAX: Final = 150_000

_get_running_loop: Final[Callable[[], AbstractEventLoop | None]] = events._get_running_loop  # pyright: ignore[reportPrivateUsage]
_set_running_loop: Final[Callable[[AbstractEventLoop | None], None]] = events._set_running_loop  # pyright: ignore[reportPrivateUsage]


class TooLong(Exception):
    """A seed took more steps than any should: something spins."""


class Call:
    """A callback that is ready or will be; what asyncio calls a handle."""

    __slots__ = ("args", "callback", "cancelled_", "context", "due_us")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context, due_us: int
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.due_us = due_us
        self.cancelled_ = False

    def cancel(self) -> None:
        self.cancelled_ = True

    def cancelled(self) -> bool:
        return self.cancelled_

    def when(self) -> float:
        return self.due_us / 1e6


_Timer: TypeAlias = tuple[int, float, "ProcessLoop", Call]


class Schedule:
    """Decides who goes on, and what time it is."""

    def __init__(self, chance: Random, start_us: int) -> None:
        self.now_us = start_us
        self.steps = 0
        self.running: ProcessLoop | None = None
        self.loops: list[ProcessLoop] = []
        self._chance = chance
        self._timers: list[_Timer] = []

    def new_loop(self, on_problem: Callable[[str, BaseException | None], None]) -> "ProcessLoop":
        loop = ProcessLoop(self, on_problem)  # type: ignore[abstract]  # what nobody asks of it
        self.loops.append(loop)
        return loop

    def at(self, due_us: int, loop: "ProcessLoop", call: Call) -> None:
        # Ties in an order that the seed chooses: no process may count on another's.
        heappush(self._timers, (due_us, self._chance.random(), loop, call))

    def run_until(self, done: Callable[[], bool], end_us: int) -> bool:
        """Go on until `done()`; False when the time is over, or nothing will ever happen."""
        while not done():
            able = [loop for loop in self.loops if loop.can_run]
            if able:
                loop = able[0] if len(able) == 1 else able[int(self._chance.random() * len(able))]
                self.running = loop
                self.steps += loop.run_ready()
                self.running = None
                if self.steps > _STEPS_MAX:
                    raise TooLong(f"more than {_STEPS_MAX} steps")
            elif not self._timers or self._timers[0][0] > end_us:
                self.now_us = max(self.now_us, end_us)
                return done()
            else:
                self._pass_time()
        return True

    def _pass_time(self) -> None:
        due_us, _, loop, call = heappop(self._timers)
        if call.cancelled_ or loop.dead:
            return
        if loop.stopped:
            loop.overdue.append(call)
            return
        self.now_us = max(self.now_us, due_us)
        loop.ready.append(call)


class ProcessLoop(AbstractEventLoop):
    """One process's event loop, on the schedule's time."""

    def __init__(
        self, schedule: Schedule, on_problem: Callable[[str, BaseException | None], None]
    ) -> None:
        self.dead = False
        self.stopped = False
        self.ready: deque[Call] = deque()
        self.overdue: list[Call] = []
        self.slowness = 1.0
        """How much longer than others its timers and answers take."""
        self._schedule = schedule
        self._on_problem = on_problem

    def __lt__(self, other: object) -> bool:
        return False  # Never decides: ties are drawn before it is asked.

    @property
    def can_run(self) -> bool:
        return bool(self.ready) and not (self.dead or self.stopped)

    def run_ready(self) -> int:
        """Everything that is ready now, in order; how many calls that were."""
        count = len(self.ready)
        _set_running_loop(self)
        try:
            for _ in range(count):
                call = self.ready.popleft()
                if call.cancelled_:
                    continue
                try:
                    call.context.run(call.callback, *call.args)
                except BaseException as error:
                    # Whatever a killed process raises on its way out is its own affair.
                    self._problem(f"a callback raised: {call.callback!r}", error)
                if self.dead or self.stopped:
                    break
        finally:
            _set_running_loop(None)
        return count

    def run_inline(self, work: Callable[[], T]) -> T:
        """Run something as if this loop ran it."""
        before = _get_running_loop()
        _set_running_loop(self)
        try:
            return work()
        finally:
            _set_running_loop(before)

    def kill(self) -> None:
        self.dead = True
        self.ready.clear()
        self.overdue.clear()

    def go_on(self) -> None:
        self.stopped = False
        self.ready.extend(self.overdue)
        self.overdue.clear()

    def _problem(self, text: str, error: BaseException | None) -> None:
        if not self.dead:
            self._on_problem(text, error)

    # --------------------------------------------------------------- what asyncio asks of a loop

    def call_soon(  # type: ignore[override]  # a plain callable is all that it needs
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Any:
        call = Call(callback, args, context or copy_context(), 0)
        if not self.dead:
            self.ready.append(call)
        return call

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self.time() + delay * self.slowness, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Any:
        # Rounded up: a clock that is read when it fires must not be before the deadline.
        due_us = -int(-when * 1e6 // 1)
        call = Call(callback, args, context or copy_context(), due_us)
        if not self.dead:
            # What is due later is not due now, however little later: time would stand still.
            now_us = self._schedule.now_us + (when > self.time())
            self._schedule.at(max(due_us, now_us), self, call)
        return call

    def time(self) -> float:
        return self._schedule.now_us / 1e6

    def create_future(self) -> "Future[Any]":
        return Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Any:
        return Task(coro, loop=self, name=name, context=context)

    def get_task_factory(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._problem(str(context.get("message")), context.get("exception"))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Begin a task from outside."""
        return self.run_inline(lambda: Task(work, loop=self))
