"""Brokers of a world: what lies there, who reads it, and what goes wrong on the way.

A broker checks at the very moment at which it is told that something is stored whether it is. It
keeps its messages (`LogReader`), or forgets what is acknowledged (`QueueReader`): then what was
given out and not acknowledged comes again once its reader is gone, or has not been heard of.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from everlong.streams import Cursor, Position, Reader, Record
from everlong.streams._forgetful import ForgetfulReader
from tests.simulation.flows import Away, Flow

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

__all__ = ["Broker", "LogReader", "QueueReader"]

T = TypeVar("T")

_SILENCE_US: Final = 2_000_000
"""Behind which a reader is taken for gone."""


@dataclass(frozen=True, slots=True)
class Lying:
    """A message at a broker."""

    number: int
    value: bytes
    partition: str


@dataclass(slots=True, eq=False)
class Session:
    """One reader, as the broker sees it."""

    process: "Process"
    is_open: bool = True
    out: dict[int, Lying] = field(default_factory=dict[int, Lying])
    """What it was given and has not acknowledged, by delivery."""


class Broker:
    """The broker of one flow."""

    def __init__(self, world: "World", flow: Flow) -> None:
        self.world = world
        self.flow = flow
        self.logs: dict[str, list[Lying]] = {}
        self.waits: deque[Lying] = deque()
        """Of a queue: what nobody has, the next first."""
        self.put = 0
        self._heard: deque[Lying] = deque(maxlen=flow.prefetch)
        """What was acknowledged last."""
        self._given: set[int] = set()
        self._deliveries = 0
        self._away: Away | None = None
        self._sessions: list[Session] = []
        self._waiting: list[tuple[Process, asyncio.Future[None]]] = []
        self._chance = Random(f"{world.plan.seed}/broker of {flow.name}")
        for one in flow.puts:
            world.later(round(one.at_s * 1e6), partial(self._put, str(one.partition), one.count))
        for away in flow.aways:
            world.later(round(away.at_s * 1e6), partial(self._go_away, away))

    # ------------------------------------------------------------------------- what befalls it

    def _put(self, partition: str, count: int) -> None:
        for _ in range(count):
            lying = Lying(self.put, self._value(self.put), partition)
            self.put += 1
            if self.flow.forgets:
                self.waits.append(lying)
            else:
                self.logs.setdefault(partition, []).append(lying)
        self._wake()

    def _go_away(self, away: Away) -> None:
        if self.world.healed_us is not None:
            return
        self.world.told(None, f"broker of {self.flow.name} goes away: {away.length_s} s")
        self.world.reached("broker: went away")
        self._away = away
        for session in list(self._sessions):
            self.close(session)
        if away.forgets and self.flow.forgets and self._heard:
            self.world.reached("broker: forgot acknowledgements")
            self.waits.extendleft(reversed(self._heard))
            self._heard.clear()
        if not away.silent:
            self._wake()
        self.world.later(round(away.length_s * 1e6), partial(self._come_back, away))

    def _come_back(self, away: Away) -> None:
        if self._away is away:
            self._away = None
            self._wake()

    def falls_silent(self, process: "Process") -> None:
        """A process was killed, stopped or cut off: that is seen after a while."""
        self.world.later(_SILENCE_US, partial(self._look_at, process))

    def _look_at(self, process: "Process") -> None:
        if _is_silent(process):
            for session in [one for one in self._sessions if one.process is process]:
                self._count_unheard(session)
                self.close(session)

    def _count_unheard(self, session: Session) -> None:
        """Whether it was between the commit and the acknowledgement that its reader fell silent."""
        recorded = self.world.journal.readings.recorded[self.flow.stream]
        if any(one.number in recorded for one in session.out.values()):
            self.world.reached("broker: reader gone between commit and acknowledgement")
        elif session.out:
            self.world.reached("broker: reader gone between fetch and commit")

    # ------------------------------------------------------------------------------- the way

    async def ask(self, session: Session, work: Callable[[], T]) -> T:
        """A request of a reader, and the broker's answer, if it comes. Raises ConnectionError."""
        world, process = self.world, self.world.running
        answer: asyncio.Future[T] = process.loop.create_future()

        def arrive() -> None:
            if process.loop.dead:
                return
            lost = world.healed_us is None and self._chance.random() < self.flow.lost
            outcome: T | ConnectionError
            if self._is_out_of_reach(session) or (lost and self._chance.random() < 0.5):
                outcome = ConnectionError("simulated: the broker is not there")
            else:
                outcome = work()
                if lost:
                    outcome = ConnectionError("simulated: its answer is lost")
            world.later(self._latency_us(process), partial(reply, outcome))

        def reply(outcome: T | ConnectionError) -> None:
            if not process.loop.dead:
                process.loop.call_soon(deliver, outcome)

        def deliver(outcome: T | ConnectionError) -> None:
            if answer.done():
                pass
            elif isinstance(outcome, ConnectionError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        world.later(self._latency_us(process), arrive)
        return await answer

    def _is_out_of_reach(self, session: Session) -> bool:
        return self._away is not None or not session.is_open or session.process.cut_off

    def _latency_us(self, process: "Process") -> int:
        chance = self._chance
        micros = 50 + int(chance.random() * 1500)
        if self.world.healed_us is None and chance.random() < self.flow.slow:
            self.world.reached("broker: slow")
            micros += int(chance.random() * 3_000_000)
        return int(micros * process.loop.slowness)

    def more(self) -> "asyncio.Future[None]":
        """Done once there may be something new. Asked for before one looks."""
        process = self.world.running
        future: asyncio.Future[None] = process.loop.create_future()
        self._waiting.append((process, future))
        return future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for process, future in waiting:
            self.world.later(self._latency_us(process), partial(_rouse, process, future))

    # ---------------------------------------------------------------------------- its readers

    async def connect(self) -> Session:
        """A queue has one reader; the next one waits."""
        session = Session(self.world.running)
        try:
            while True:
                more = self.more()
                if await self.ask(session, partial(self._admits, session)):
                    return session
                await more
        except BaseException:
            self.leave(session)  # It may have been let in, in an answer that was lost.
            raise

    def _admits(self, session: Session) -> bool:
        if self.flow.forgets and self._sessions:
            self.world.reached("broker: second reader waits")
            return False
        self._sessions.append(session)
        return True

    def close(self, session: Session) -> None:
        """What it has not acknowledged is there for others."""
        if not session.is_open:
            return
        session.is_open = False
        if session in self._sessions:
            self._sessions.remove(session)
        again = list(session.out.values())
        session.out.clear()
        if self.flow.at_the_back:
            self.waits.extend(again)
        else:
            self.waits.extendleft(reversed(again))
        self._wake()

    def leave(self, session: Session) -> None:
        """Its reader has closed it; the broker hears of that a little later."""
        self.world.later(self._latency_us(session.process), partial(self.close, session))

    def give(self, session: Session, most: int) -> list[tuple[int, Lying]]:
        """The next messages of a queue, each with the number of its delivery."""
        found: list[tuple[int, Lying]] = []
        while self.waits and len(found) < most and len(session.out) < self.flow.prefetch:
            lying = self.waits.popleft()
            self._deliveries += 1
            session.out[self._deliveries] = lying
            found.append((self._deliveries, lying))
            if lying.number in self._given:
                self.world.reached("broker: gave a message again")
            self._given.add(lying.number)
        return found

    def number_at(self, partition: str, position: Position) -> int:
        """Of the message that has this place; -1: there is none."""
        if self.flow.forgets:
            text = str(position).removeprefix("id:m")
            return int(text) if text.isdigit() else -1
        log, at = self.logs.get(partition, []), int(position)
        return log[at].number if 0 <= at < len(log) else -1

    def value_at(self, partition: str, position: Position) -> bytes | None:
        number = self.number_at(partition, position)
        return self._value(number) if 0 <= number < self.put else None

    def _value(self, number: int) -> bytes:
        return b"?" if number in self.flow.poison else str(number).encode()

    def behind(self, at: dict[str, int], partitions: Sequence[str] | None) -> list[Record]:
        """What lies in a log behind these positions, the partitions in any order."""
        names = [one for one in self.logs if partitions is None or one in partitions]
        self._chance.shuffle(names)
        return [
            Record(name, position, lying.value)
            for name in names
            for position, lying in enumerate(self.logs[name])
            if position > at.get(name, -1)
        ]

    def is_told(self, session: Session, last: int) -> None:
        """That everything up to this delivery is stored: from here on nobody gets it again."""
        for delivery in [one for one in session.out if one <= last]:
            lying = session.out.pop(delivery)
            self._must_be_stored(lying)
            self._heard.append(lying)
        self._wake()

    def is_known(self, session: Session, delivery: int) -> None:
        """That this one was stored before."""
        lying = session.out.pop(delivery, None)
        if lying is not None:  # Else it went with others.
            self._must_be_stored(lying)
            self._wake()

    def is_told_up_to(self, cursor: Cursor) -> None:
        for name, position in cursor.after.items():
            for lying in self.logs[name][: int(position) + 1]:
                self._must_be_stored(lying)

    def _must_be_stored(self, lying: Lying) -> None:
        self.world.reached("broker: acknowledged")
        stored = lying.number in self.world.journal.readings.recorded[self.flow.stream]
        name = f"{self.flow.stream}: message {lying.number}"
        self.world.journal.must(stored, f"{name} was acknowledged, and is not stored")


def _is_silent(process: "Process") -> bool:
    return process.loop.dead or process.loop.stopped or process.cut_off


def _rouse(process: "Process", future: "asyncio.Future[None]") -> None:
    if not process.loop.dead:
        process.loop.call_soon(_resolve, future)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class _Asking:
    """One question at a time is on its way. Who waits no longer for its answer finds it later."""

    def __init__(self, broker: Broker, session: Session) -> None:
        self._broker = broker
        self._session = session
        self._asks: asyncio.Task[list[Record]] | None = None

    async def answer(
        self, question: Callable[[], Coroutine[Any, Any, list[Record]]], wait_s: float | None
    ) -> Sequence[Record]:
        if self._asks is None:
            self._asks = asyncio.get_running_loop().create_task(question())
        done, _ = await asyncio.wait([self._asks], timeout=wait_s)
        if not done:
            return []
        asks, self._asks = self._asks, None
        return asks.result()

    def close(self) -> None:
        if self._asks is not None:
            self._asks.cancel()
        self._broker.leave(self._session)


class LogReader(Reader):
    """Of a broker that keeps everything."""

    def __init__(
        self,
        broker: Broker,
        session: Session,
        after: Cursor | None,
        partitions: Sequence[str] | None,
    ) -> None:
        self.identity = broker.flow.stream
        self._broker = broker
        self._session = session
        self._asking = _Asking(broker, session)
        self._partitions = partitions
        read: Mapping[str, Position] = {} if after is None else after.after
        self._at = {name: int(position) for name, position in read.items()}

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        del max_bytes  # They are small.
        return await self._asking.answer(partial(self._next, max_messages), wait_s)

    async def _next(self, most: int) -> list[Record]:
        broker = self._broker
        while True:
            more = broker.more()
            ask = partial(broker.behind, self._at, self._partitions)
            found = (await broker.ask(self._session, ask))[:most]
            for record in found:
                self._at[record.partition] = int(record.position)
            if found:
                return found
            await more

    async def acknowledge(self, cursor: Cursor) -> None:
        await self._broker.ask(self._session, partial(self._broker.is_told_up_to, cursor))

    async def close(self) -> None:
        self._asking.close()


class QueueReader(ForgetfulReader):
    """Of a broker that forgets: over what everlong's own readers of such brokers are made of."""

    def __init__(self, broker: Broker, session: Session, after: Cursor | None) -> None:
        super().__init__(broker.flow.stream, after, broker.flow.prefetch, broker)
        self._broker = broker
        self._session = session
        self._asking = _Asking(broker, session)

    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        del max_bytes  # They are small.
        return await self._asking.answer(partial(self._next, max_messages), wait_s)

    async def _next(self, most: int) -> list[Record]:
        broker, session, found = self._broker, self._session, list[Record]()
        while True:
            more = broker.more()
            given = await broker.ask(session, partial(broker.give, session, most))
            for delivery, lying in given:
                position = self.position_of(f"m{lying.number}", delivery)
                if position is not None:
                    found.append(Record(lying.partition, position, lying.value))
                    continue
                broker.world.reached("broker: what was stored came again")
                await broker.ask(session, partial(broker.is_known, session, delivery))
            if found:
                return found
            if not given:
                await more

    async def acknowledge(self, cursor: Cursor) -> None:
        if deliveries := self.to_acknowledge(cursor):
            told = partial(self._broker.is_told, self._session, deliveries[-1])
            await self._broker.ask(self._session, told)

    async def close(self) -> None:
        self._asking.close()
