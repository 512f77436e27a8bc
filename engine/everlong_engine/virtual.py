"""A clock that moves when nothing else does, and an engine in memory that lives by it.

For tests of flows that take days. Everything is the production engine's own, down to the SQL; what
is different is who says what time it is. `VirtualTime` is the engine's clock and its alarms. It
stands still while anything is going on: a transaction, an attempt, a callback. Once all is at rest
and somebody waits for what only time can bring, it jumps to the next alarm, and all comes to rest
again. So nothing is polled, no test sleeps, and a month is as long as what happens in it.

"At rest" is found by turns: when so many turns of the event loop have gone by without a word to the
store, nothing is under way between two of them. The store answers on the spot, so that a chain of
callbacks that brings no work to it is only a few turns long.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from heapq import heappop, heappush
from random import Random
from typing import Any, Final

from everlong_engine.engine import Engine
from everlong_engine.model.errors import EverlongError
from everlong_engine.model.events import Closing
from everlong_engine.model.failure import Failure
from everlong_engine.model.statements import SqlValue, Statement
from everlong_engine.store.sqlite.inline import InlineDatabase
from everlong_engine.store.user_sql import ask

__all__ = ["VirtualEngine", "VirtualTime"]

_TURNS: Final = 20


class _Alarm:
    """A call that is to come, unless it is cancelled."""

    __slots__ = ("args", "call", "context", "due_us", "is_cancelled", "number")

    def __init__(
        self, due_us: int, number: int, call: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.due_us = due_us
        self.number = number
        self.call = call
        self.args = args
        self.context: Context = copy_context()
        self.is_cancelled = False

    def __lt__(self, other: "_Alarm") -> bool:
        return (self.due_us, self.number) < (other.due_us, other.number)

    def cancel(self) -> None:
        self.is_cancelled = True


class VirtualTime:
    """Clock and alarms of one virtual engine.

    Args:
        start_us: what the clock shows at first.
    """

    def __init__(self, start_us: int) -> None:
        self._now_us = start_us
        self._alarms: list[_Alarm] = []
        self._background: list[_Alarm] = []
        self._number = 0
        self._targets: dict[asyncio.Future[None], int] = {}
        """Up to where somebody moves the clock by hand."""
        self._reached: list[asyncio.Future[None]] = []
        self._sleepers = 0
        self._pulses = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_skipping = True
        """Whether time moves by itself when somebody waits for it."""
        self.is_awaited: Callable[[], bool] = lambda: False
        """Whether somebody waits for what only time can bring."""
        self.is_busy: Callable[[], bool] = lambda: False
        """Whether anything is going on that will say so when it ends."""
        self.on_turn: Callable[[], None] = lambda: None
        """Called before each look whether all is at rest."""
        self.on_rest: Callable[[], bool] = lambda: False
        """Called when all is at rest, before time moves; True when that made news for somebody."""
        self.on_stuck: Callable[[], None] = lambda: None
        """Called when somebody waits, and time has nothing more to bring."""

    # ------------------------------------------------------------------------ clock and alarms

    def now_us(self) -> int:
        return self._now_us

    def at(self, due_us: int | None, call: Callable[[], object]) -> _Alarm:
        alarm = self._new(self._now_us if due_us is None else due_us, call, ())
        if due_us is not None:
            self._set(alarm)
        return alarm

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> _Alarm:
        alarm = self._new(self._now_us + round(seconds * 1e6), call, args)
        self._set(alarm)
        return alarm

    def _set(self, alarm: _Alarm) -> None:
        if alarm.due_us <= self._now_us:
            _ring(alarm)  # Nobody has to rest for what is due already.
        else:
            heappush(self._alarms, alarm)
        self.nudge()

    async def pause(self, seconds: float) -> None:
        over = asyncio.get_running_loop().create_future()
        alarm = self._new(self._now_us + round(seconds * 1e6), _resolve, (over,))
        heappush(self._background, alarm)
        try:
            await over
        finally:
            alarm.cancel()

    def _new(self, due_us: int, call: Callable[..., object], args: tuple[Any, ...]) -> _Alarm:
        self._number += 1
        return _Alarm(due_us, self._number, call, args)

    # -------------------------------------------------------------------------- waiting for it

    async def advance(self, duration_us: int) -> None:
        """Move the clock by hand, through everything that is due on the way, and come to rest."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._targets[reached] = self._now_us + duration_us
        alarm = self._new(self._targets[reached], self._reached.append, (reached,))
        self._set(alarm)
        try:
            await reached
        finally:
            alarm.cancel()
            del self._targets[reached]

    async def sleep(self, duration_us: int | None) -> None:
        """Wait until so much of this time has passed; None: for ever."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = None if duration_us is None else self.after(duration_us / 1e6, _resolve, over)
        self._sleepers += 1
        self.nudge()
        try:
            await over
        finally:
            self._sleepers -= 1
            if alarm is not None:
                alarm.cancel()
            self.nudge()

    # ---------------------------------------------------------------------------- moving it

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_going())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def nudge(self) -> None:
        """Something has happened: look again once all is at rest."""
        self._pulses += 1
        self._news.set()

    async def _keep_going(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._rest()
            while self._step():
                await self._rest()

    async def _rest(self) -> None:
        """Until nothing has happened for some turns of the event loop."""
        self.on_turn()
        quiet = 0
        while quiet < _TURNS:
            before = self._pulses
            await asyncio.sleep(0)
            quiet = quiet + 1 if before == self._pulses else 0

    def _step(self) -> bool:
        """At rest: do what is next, if anything is."""
        if self.is_busy():
            return False
        if self.on_rest():
            return True
        if self._reached:
            for reached in self._reached:
                _resolve(reached)
            self._reached.clear()
            return True
        due_us = self._next_us()
        awaited = self._sleepers > 0 or self.is_awaited()
        if due_us is not None:
            by_hand = max(self._targets.values(), default=-1) >= due_us
            if by_hand or (self.is_skipping and awaited):
                self._jump(due_us)
                return True
        if awaited:
            self.on_stuck()
        return False

    def _next_us(self) -> int | None:
        alarms = self._alarms
        while alarms and alarms[0].is_cancelled:
            heappop(alarms)
        return alarms[0].due_us if alarms else None

    def _jump(self, due_us: int) -> None:
        self._now_us = max(self._now_us, due_us)
        for heap in (self._alarms, self._background):
            while heap and heap[0].due_us <= self._now_us:
                _ring(heappop(heap))


def _ring(alarm: _Alarm) -> None:
    """From the loop, as its own timers are."""
    asyncio.get_running_loop().call_soon(_fire, alarm, context=alarm.context)


def _fire(alarm: _Alarm) -> None:
    if not alarm.is_cancelled:
        alarm.call(*alarm.args)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class VirtualEngine(Engine):
    """An engine over a database in memory, on virtual time. Make it with `begin`."""

    def __init__(self, database: InlineDatabase, time: VirtualTime, random: Random) -> None:
        super().__init__(database.open(), time, random, alarms=time)
        self.time = time
        self.is_working: Callable[[], bool] = lambda: False
        """Whether activities are at work."""
        self._database = database
        database.on_work = time.nudge
        time.is_awaited = self._is_awaited
        time.is_busy = self._is_busy
        time.on_turn = self.mail_arrived  # Nobody waits for the watcher's next look.

    @classmethod
    def begin(cls, start_us: int, random: Random) -> "VirtualEngine":
        """One user has it, and will `close` it."""
        engine = cls(InlineDatabase(), VirtualTime(start_us), random)
        engine.share()
        engine.time.start()
        return engine

    async def close(self) -> None:
        if self._users == 1:
            await self.time.stop()
        await super().close()
        if self._users == 0:
            self._database.close()

    def sql(self, text: str, values: Mapping[str, SqlValue]) -> list[Any] | Failure:
        """Run a statement on the tables of users; the rows that it gives, or what is wrong."""
        return ask(self._database.connection, Statement(text, (values,)))

    # ---------------------------------------------------------------------------- who waits

    def closing(self, execution_id: bytes) -> "asyncio.Future[tuple[bytes, Closing] | None]":
        self.time.nudge()
        return super().closing(execution_id)

    def answer(self, execution_id: bytes, name: str) -> "asyncio.Future[bytes | None]":
        self.time.nudge()
        return super().answer(execution_id, name)

    def publishing(self, execution_id: bytes) -> "asyncio.Future[None]":
        self.time.nudge()
        return super().publishing(execution_id)

    def _is_busy(self) -> bool:
        return self.is_working() or not self.commits.is_idle

    def _is_awaited(self) -> bool:
        return bool(self._waiters or self._answers or self._readers)

    def progress(self) -> tuple[int, int]:
        """Differs when anything was stored, or time has passed."""
        return self._database.commits, self.time.now_us()

    def awaited_executions(self) -> frozenset[bytes]:
        """Those whose end, or whose answer, somebody waits for."""
        return frozenset([*self._waiters, *(key[0] for key in self._answers)])

    def fail_waiting(self, error: EverlongError, execution_id: bytes | None = None) -> None:
        """Tell whoever waits for an execution, or for any, that it is in vain."""
        waiting: list[asyncio.Future[Any]] = []
        for one, futures in self._waiters.items():
            waiting += futures if execution_id in (None, one) else ()
        for (one, _), answers in self._answers.items():
            waiting += answers if execution_id in (None, one) else ()
        for future in waiting:
            with suppress(asyncio.InvalidStateError):
                future.set_exception(error)
                future.exception()  # Seen, also by who waits for several things at once.
