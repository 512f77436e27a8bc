"""Several things in one loop: batches of streams, signals, and ticks of a clock.

Whatever comes first is taken; the others are looked for again behind it, so that nothing is in
flight while the body works, and a checkpoint there may begin the run anew. To look takes nothing: a
batch that had come, and was not taken, is still behind the cursor.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast, overload

from everlong._context import RunPort, user_line
from everlong.channels import Signal
from everlong.exceptions import InvalidArguments
from everlong.streams._batches import Batches
from everlong.streams._loops import cursors_of, run_here
from everlong_engine import pack, seconds_us, unpack

__all__ = ["Tick", "every", "merge", "merged"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

Arm: TypeAlias = AsyncIterator[A] | Signal[A]
"""What can be merged: `stream.batches()`, a `Signal`, `every(seconds)`."""

_PERIOD_US_MIN: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Tick:
    """A moment that has come."""

    at: datetime
    """When it was due, in UTC. It comes later if nobody was there to see it."""


class _Arm(Protocol):
    @property
    def key(self) -> object:
        """What is looked at: nothing is merged with itself."""
        ...

    async def look(self, run: RunPort, where: str) -> Any:
        """Wait until there is something, and take nothing."""
        ...

    async def take(self, run: RunPort, found: Any) -> tuple[Any] | tuple[()]:
        """What was found, or nothing if it is gone. Raises StopAsyncIteration: nothing comes any
        more."""
        ...


class Every(AsyncIterator[Tick]):
    """The ticks of a period, at its multiples since 1970: 60 seconds tick with the minute."""

    def __init__(self, period_us: int) -> None:
        self._period_us = period_us
        self._name = f"everlong.every.{period_us}"

    @property
    def key(self) -> object:
        return self._name

    async def __anext__(self) -> Tick:
        run, where = run_here("every() ticks"), user_line()
        (found,) = await self.take(run, await self.look(run, where))
        return found

    async def look(self, run: RunPort, where: str) -> int:
        del where  # A timer says by itself whose it is.
        known = cursors_of(run).get(self._name)
        if known is None:
            known = cursors_of(run)[self._name] = pack(run.now_us // self._period_us)
        due_us = (cast("int", unpack(known)) + 1) * self._period_us
        while run.now_us < due_us:  # noqa: ASYNC110 - the run's clock, which its timers move
            await asyncio.sleep((due_us - run.now_us) / 1e6)
        return run.now_us // self._period_us

    async def take(self, run: RunPort, found: int) -> tuple[Tick]:
        cursors_of(run)[self._name] = pack(found)
        return (Tick(_EPOCH + timedelta(microseconds=found * self._period_us)),)


class _Received:
    """The values of a signal."""

    def __init__(self, signal: Signal[Any]) -> None:
        self._name = signal.name

    @property
    def key(self) -> object:
        return Signal, self._name

    async def look(self, run: RunPort, where: str) -> None:
        del where
        await run.signals.come(self._name, run.loop.create_future)

    async def take(self, run: RunPort, found: None) -> tuple[Any] | tuple[()]:
        del found
        if not run.signals.has_come(self._name):
            return ()  # Another receiver of this run was first.
        return (await run.receive_signal(self._name),)


def every(period: float | timedelta) -> AsyncIterator[Tick]:
    """A `Tick` at each multiple of a period, for a loop in a workflow, alone or with `merge`.

        async for tick in every(60):
            await report(tick.at)

    The last tick goes with the execution, over checkpoints and crashes. What people get wrong: what
    was missed is not made up for; behind a rest of an hour there is one tick, the last one due.

    Args:
        period: seconds (or timedelta), 1 or more.

    Raises:
        InvalidArguments: a period of less than a second.
        ValueError: one below zero or beyond 100 years.
    """
    period_us = seconds_us(period, "every()")
    if period_us < _PERIOD_US_MIN:
        raise InvalidArguments(f"every({period!r}): give a second or more")
    return Every(period_us)


@overload
def merge(a: Arm[A], /) -> AsyncIterator[A]: ...
@overload
def merge(a: Arm[A], b: Arm[B], /) -> AsyncIterator[A | B]: ...
@overload
def merge(a: Arm[A], b: Arm[B], c: Arm[C], /) -> AsyncIterator[A | B | C]: ...
@overload
def merge(a: Arm[A], b: Arm[B], c: Arm[C], d: Arm[D], /) -> AsyncIterator[A | B | C | D]: ...
@overload
def merge(*arms: Arm[Any]) -> AsyncIterator[Any]: ...
def merge(*arms: Any) -> AsyncIterator[Any]:
    """Batches, signals and ticks in one loop, one at a time, each as it comes.

        async for found in merge(orders.batches(), rule_changed, every(60)):
            match found:
                case Batch(): await save(found.values)
                case Rule(): rule = found
                case Tick(): await report(found.at)
            await checkpoint(rule=rule)

    Where several have come, they take turns. Nothing is taken before it is handed out, so a
    checkpoint in the body, or a crash, loses none. The loop ends when each of its streams has been
    drained; one without streams never does.

    What people get wrong: tell the arms apart by type, so give each signal a type of its own.

    Args:
        arms: `stream.batches(…)`, a `Signal`, `every(seconds)`.

    Raises:
        InvalidArguments: something else, the same one twice, or nothing at all.
    """
    return _Merged([_arm_of(one) for one in arms])


def merged(*arms: _Arm) -> AsyncIterator[Any]:
    """Not for flows: likewise, of arms of Everlong's own."""
    return _Merged(list(arms))


def _arm_of(one: Any) -> _Arm:
    if isinstance(one, Signal):
        return _Received(one)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(one, (Batches, Every)):
        return one  # pyright: ignore[reportUnknownVariableType]
    raise InvalidArguments(
        f"merge({one!r:.80}): give stream.batches(…), a Signal or every(seconds)"
    )


class _Merged(AsyncIterator[Any]):
    def __init__(self, arms: list[_Arm]) -> None:
        if not arms:
            raise InvalidArguments("merge(): give at least one, as orders.batches()")
        if len({arm.key for arm in arms}) < len(arms):
            raise InvalidArguments("merge(): it is given the same stream, signal or period twice")
        self._arms = arms

    async def __anext__(self) -> Any:
        run, where = run_here("merge() is read"), user_line()
        savepoints = run.rolling.savepoints
        run.in_hand = None
        await savepoints.rest()
        while self._arms:
            for one in self._arms:
                if isinstance(one, Batches):  # Not beside others: it may wait to be resumed.
                    await one.make_ready(run, where)
            arm, found = await self._first(run, where)
            self._arms.remove(arm)
            try:
                taken = await arm.take(run, found)
            except StopAsyncIteration:
                if not any(isinstance(one, Batches) for one in self._arms):
                    break  # Signals and ticks alone would never end.
                continue
            self._arms.append(arm)  # Behind the others, so that they take turns.
            if taken:
                savepoints.leave()
                return taken[0]
        self._arms = []
        raise StopAsyncIteration

    async def _first(self, run: RunPort, where: str) -> tuple[_Arm, Any]:
        """The first arm that has found something, and what; the others look no longer."""
        looks = [asyncio.ensure_future(arm.look(run, where)) for arm in self._arms]
        try:
            await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
            at = next(at for at, look in enumerate(looks) if look.done())
        finally:
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)
        return self._arms[at], looks[at].result()
