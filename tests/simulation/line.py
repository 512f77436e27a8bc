"""The way from a process to the store, and everything that can go wrong on it.

`FaultyStore` is one process's `Store`: each verb becomes a request that travels, is applied to the
shared store, and is answered. On the way it may be late, be lost before or behind the commit, be
applied twice, be torn in its middle, or meet a full disk. A killed process's requests are not
applied; a stopped one's, that left it before, are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from everlong_engine.model.entities import EntityLook, EntityRow
from everlong_engine.model.errors import StoreError, StoreFailed, StoreFull, StoreOwned
from everlong_engine.model.events import Recorded
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.filters import AnyField
from everlong_engine.model.letters import KeptLetter, OutboxRow, Refused
from everlong_engine.model.outgoing import Target
from everlong_engine.model.queues import LimitRow, SetLimits
from everlong_engine.model.runs import (
    ApprovalRow,
    AttemptRow,
    Fleet,
    ItemRow,
    LoadedRun,
    MailRow,
    PauseRow,
    RunRow,
    Share,
    VersionCount,
    WorkerRow,
)
from everlong_engine.model.tags import Tags
from everlong_engine.model.tasks import QueueCount, TaskClaim, TaskKey, TaskWants
from everlong_engine.model.turns import AskTurn, PoolCount, TurnAnswer, TurnsDealt
from everlong_engine.model.writes import Write, WriteResult
from everlong_engine.store.interface import (
    Counted,
    Heard,
    Problem,
    Question,
    RunFilter,
    Store,
    StoreInfo,
    Trouble,
    Wants,
)

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

__all__ = ["FaultyStore", "Lost", "Rates"]

T = TypeVar("T")


class Lost(Exception):
    """What a process is told when the answer did not come, or the store refused for a reason of
    its own. `trouble` is what a store would make of it."""

    def __init__(self, trouble: Trouble, error: StoreError) -> None:
        super().__init__(str(error))
        self.trouble = trouble
        self.error = error


class Fate(Enum):
    """What becomes of one request."""

    WELL = "answered"
    LOST_BEFORE = "lost before it was applied"
    LOST_BEHIND = "applied, and its answer lost"
    TWICE = "applied twice"
    TORN = "torn in its middle"
    FULL = "refused: no room"
    BROKEN = "refused: the disk failed"


@dataclass(slots=True)
class Rates:
    """How often a request meets which fate, for the rest of the seed. 0 while all is healed."""

    lost_before: float = 0.0
    lost_behind: float = 0.0
    twice: float = 0.0
    torn: float = 0.0
    late: float = 0.0
    full: float = 0.0
    broken: float = 0.0
    dies: float = 0.0
    """How often a process is killed while a group of writes is on its way."""


class FaultyStore:
    """Implements `everlong_engine.store.interface.Store` for one process."""

    def __init__(self, world: "World", process: "Process", inner: Store, chance: Random) -> None:
        self._world = world
        self._process = process
        self._inner = inner
        self._chance = chance
        self._last_us = 0
        self.on_fatal: Callable[[StoreError], None] | None = None

    @property
    def shards(self) -> int:
        return self._inner.shards

    @property
    def path(self) -> str:
        return self._inner.path

    # ---------------------------------------------------------------------------------- the way

    def _travel(
        self, verb: str, work: Callable[[], Awaitable[T]], writes: Sequence[Write] = ()
    ) -> "asyncio.Future[T]":
        """Send a request; the future gets its answer, if the process lives to see it."""
        world, process = self._world, self._process
        answer: asyncio.Future[T] = process.loop.create_future()
        if process.loop.dead:
            return answer
        fate = self._fate(verb)
        # A process's requests reach the store in the order in which it sent them.
        arrives_us = max(world.schedule.now_us + self._latency_us(), self._last_us + 1)
        self._last_us = arrives_us

        def arrive() -> None:
            if process.loop.dead:
                world.reached("request of a killed process dropped")
                return
            if verb == "submit" and self._dies():
                world.reached("process killed with writes on their way")
                process.kill()
                return
            outcome = self._apply(verb, fate, work, writes)
            world.later(self._latency_us(), lambda: self._reply(answer, outcome))

        world.later(arrives_us - world.schedule.now_us, arrive)
        return answer

    def _fate(self, verb: str) -> Fate:
        rates, world = self._world.rates, self._world
        if self._process.cut_off:
            world.reached("request of a partitioned process")
            return Fate.LOST_BEFORE
        if world.disk_is_full and verb in _WRITING:
            return Fate.FULL
        draw = self._chance.random()
        for fate, rate in (
            (Fate.LOST_BEFORE, rates.lost_before),
            (Fate.LOST_BEHIND, rates.lost_behind),
            (Fate.TWICE, rates.twice if verb == "submit" else 0.0),
            (Fate.TORN, rates.torn if verb in _WRITING else 0.0),
            (Fate.BROKEN, rates.broken if verb in _WRITING else 0.0),
        ):
            if draw < rate:
                return fate
            draw -= rate
        return Fate.WELL

    def _dies(self) -> bool:
        """What it did ahead of the commit was in vain: nobody may have seen it."""
        rate = self._world.rates.dies
        return rate > 0 and self._chance.random() < rate

    def _latency_us(self) -> int:
        chance = self._chance
        micros = 50 + int(chance.random() * 1500)
        if chance.random() < self._world.rates.late:
            self._world.reached("request late")
            micros += int(chance.random() * 4_000_000)
        return int(micros * self._process.loop.slowness)

    def _apply(
        self,
        verb: str,
        fate: Fate,
        work: Callable[[], Awaitable[T]],
        writes: Sequence[Write],
    ) -> "T | Exception":
        world = self._world
        if fate in (Fate.LOST_BEFORE, Fate.FULL, Fate.BROKEN):
            world.reached(f"request {fate.value}")
            world.told(self._process, f"{verb} {fate.name}")
            return _refusal(fate)
        if fate is Fate.TORN:
            torn: T | Exception = world.tear(lambda: _at_once(work))
            if isinstance(torn, Exception):
                world.reached(f"request {fate.value}")
                world.told(self._process, f"{verb} TORN")
                return _refusal(fate)
            # It was too short to be torn: done.
            world.applied(self._process, verb, writes, torn)
            return torn
        outcome = _at_once(work)
        world.applied(self._process, verb, writes, outcome)
        if fate is Fate.TWICE and not isinstance(outcome, Exception):
            world.reached(f"request {fate.value}")
            again = _at_once(work)
            world.applied(self._process, verb, writes, again, again=True)
        if fate is Fate.LOST_BEHIND:
            world.reached(f"request {fate.value}")
            return _refusal(fate)
        return outcome

    def _reply(self, answer: "asyncio.Future[T]", outcome: "T | Exception") -> None:
        if self._process.loop.dead:
            self._world.reached("answer to a killed process dropped")
            return

        def deliver() -> None:
            if answer.done():
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self._process.loop.call_soon(deliver)

    async def _ask(self, verb: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A verb whose errors are the store's own."""
        try:
            return await self._travel(verb, work)
        except Lost as lost:
            if lost.trouble is Trouble.FATAL and self.on_fatal is not None:
                self.on_fatal(lost.error)
            raise lost.error from lost

    # ------------------------------------------------------------------------------------ writes

    def submit(self, writes: Sequence[Write]) -> "asyncio.Future[list[WriteResult]]":
        return self._travel("submit", lambda: self._inner.submit(writes), writes)

    def classify(self, error: BaseException) -> tuple[Trouble, StoreError]:
        if isinstance(error, Lost):
            return error.trouble, error.error
        return self._inner.classify(error)

    async def forget_question(self, question_id: bytes) -> None:
        await self._ask("forget_question", lambda: self._inner.forget_question(question_id))

    # --------------------------------------------------------------------------------- ownership

    @property
    def owned(self) -> bool:
        return self._world.owner is self._process

    def acquire(self) -> None:
        world = self._world
        if world.owner is not None and world.owner is not self._process:
            if not world.may_steal(world.owner):
                raise StoreOwned(path=self.path)
            world.reached("lock of a stopped owner given away")
        world.owner = self._process

    async def abandon(self) -> None:
        if self.owned:
            self._world.owner = None

    async def register(self, worker: WorkerRow) -> None:
        await self._ask("register", lambda: self._inner.register(worker))

    async def bury(self, worker_id: bytes) -> None:
        await self._ask("bury", lambda: self._inner.bury(worker_id))

    async def take_over(self, alive: Sequence[bytes], now_us: int, limit: int) -> int:
        return await self._ask("take_over", lambda: self._inner.take_over(alive, now_us, limit))

    async def resume_blocked(self, wants: Wants, now_us: int) -> None:
        await self._ask("resume_blocked", lambda: self._inner.resume_blocked(wants, now_us))

    async def claim(self, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
        return await self._ask("claim", lambda: self._inner.claim(wants, now_us, limit))

    async def claim_run(self, worker_id: bytes, shard: int, run_id: bytes) -> LoadedRun | None:
        return await self._ask("claim_run", lambda: self._inner.claim_run(worker_id, shard, run_id))

    async def next_wake(self, wants: Wants) -> int | None:
        return await self._ask("next_wake", lambda: self._inner.next_wake(wants))

    async def take_tasks(self, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
        async def take() -> TaskClaim:
            claim = await self._inner.take_tasks(wants, now_us, limit)
            self._world.remember_keys(claim.tasks)
            return claim

        return await self._ask("take_tasks", take)

    async def ask_turns(self, asks: Sequence[AskTurn]) -> list[TurnAnswer]:
        return await self._ask("ask_turns", lambda: self._inner.ask_turns(asks))

    async def deal_turns(self, wanted: Sequence[tuple[str, str]], now_us: int) -> TurnsDealt:
        return await self._ask("deal_turns", lambda: self._inner.deal_turns(wanted, now_us))

    async def tasks_of(self, worker_id: bytes) -> list[TaskKey]:
        return await self._ask("tasks_of", lambda: self._inner.tasks_of(worker_id))

    # ------------------------------------------------------------------------------------- reads

    async def queues(self) -> list[QueueCount]:
        return await self._ask("queues", self._inner.queues)

    async def pools(self) -> list[PoolCount]:
        return await self._ask("pools", self._inner.pools)

    async def queue_limits(self) -> list[LimitRow]:
        return await self._ask("queue_limits", self._inner.queue_limits)

    async def set_limits(self, change: SetLimits) -> None:
        await self._ask("set_limits", lambda: self._inner.set_limits(change))

    # ---------------------------------------------------------------------------------- outboxes

    async def full_outboxes(self, names: Sequence[str]) -> list[str]:
        return await self._ask("full_outboxes", lambda: self._inner.full_outboxes(names))

    async def take_letters(
        self, outbox: str, worker_id: bytes, limit: int, bytes_max: int
    ) -> list[KeptLetter] | None:
        return await self._ask(
            "take_letters", lambda: self._inner.take_letters(outbox, worker_id, limit, bytes_max)
        )

    async def letters_sent(
        self, outbox: str, sent: Sequence[int], refused: Sequence[Refused]
    ) -> None:
        await self._ask("letters_sent", lambda: self._inner.letters_sent(outbox, sent, refused))

    async def outbox_fails(self, outbox: str, worker_id: bytes, fault: str, now_us: int) -> None:
        await self._ask(
            "outbox_fails", lambda: self._inner.outbox_fails(outbox, worker_id, fault, now_us)
        )

    async def outboxes(self) -> list[OutboxRow]:
        return await self._ask("outboxes", self._inner.outboxes)

    async def letters(
        self, outbox: str, after: int, limit: int, *, refused: bool
    ) -> list[KeptLetter]:
        return await self._ask(
            "letters", lambda: self._inner.letters(outbox, after, limit, refused=refused)
        )

    async def send_again(self, outbox: str, positions: Sequence[int] | None) -> int:
        return await self._ask("send_again", lambda: self._inner.send_again(outbox, positions))

    async def drop_letters(self, outbox: str, positions: Sequence[int] | None) -> int:
        return await self._ask("drop_letters", lambda: self._inner.drop_letters(outbox, positions))

    async def letters_of(self, execution_ids: Sequence[bytes]) -> int:
        return await self._ask("letters_of", lambda: self._inner.letters_of(execution_ids))

    async def load(self, shard: int, run_id: bytes) -> LoadedRun | None:
        return await self._ask("load", lambda: self._inner.load(shard, run_id))

    async def latest(self, target: Target) -> RunRow | None:
        return await self._ask("latest", lambda: self._inner.latest(target))

    async def newest_run(self) -> bytes | None:
        return await self._ask("newest_run", self._inner.newest_run)

    async def run_by_id(self, run_id: bytes) -> RunRow | None:
        return await self._ask("run_by_id", lambda: self._inner.run_by_id(run_id))

    async def event(self, shard: int, run_id: bytes, seq: int) -> Recorded | None:
        return await self._ask("event", lambda: self._inner.event(shard, run_id, seq))

    async def last_event(self, shard: int, run_id: bytes) -> Recorded | None:
        return await self._ask("last_event", lambda: self._inner.last_event(shard, run_id))

    async def attempts(self, shard: int, run_id: bytes) -> list[AttemptRow]:
        return await self._ask("attempts", lambda: self._inner.attempts(shard, run_id))

    async def approval(self, shard: int, run_id: bytes, number: int) -> ApprovalRow | None:
        return await self._ask("approval", lambda: self._inner.approval(shard, run_id, number))

    async def approvals(
        self, namespace: str, workflow_id: str | None, after: tuple[bytes, int], limit: int
    ) -> list[ApprovalRow]:
        return await self._ask(
            "approvals", lambda: self._inner.approvals(namespace, workflow_id, after, limit)
        )

    async def pause_of(self, row: RunRow) -> list[PauseRow]:
        return await self._ask("pause_of", lambda: self._inner.pause_of(row))

    async def pauses(self, namespace: str, limit: int) -> list[PauseRow]:
        return await self._ask("pauses", lambda: self._inner.pauses(namespace, limit))

    async def published(
        self, shard: int, execution_id: bytes, channel: str, number: int, limit: int
    ) -> list[ItemRow]:
        return await self._ask(
            "published",
            lambda: self._inner.published(shard, execution_id, channel, number, limit),
        )

    async def entities(self, shard: int, execution_id: bytes, look: EntityLook) -> list[EntityRow]:
        return await self._ask("entities", lambda: self._inner.entities(shard, execution_id, look))

    async def export(self, target: Target, *, family: bool) -> list[ExportedExecution]:
        return await self._ask("export", lambda: self._inner.export(target, family=family))

    async def list_runs(self, wanted: RunFilter, limit: int, after: bytes | None) -> list[RunRow]:
        return await self._ask("list_runs", lambda: self._inner.list_runs(wanted, limit, after))

    async def count_runs(self, wanted: RunFilter, by: AnyField | None) -> list[Counted]:
        return await self._ask("count_runs", lambda: self._inner.count_runs(wanted, by))

    async def tags(self, runs: Sequence[tuple[int, bytes]]) -> dict[bytes, Tags]:
        return await self._ask("tags", lambda: self._inner.tags(runs))

    async def versions(self, namespace: str) -> list[VersionCount]:
        return await self._ask("versions", lambda: self._inner.versions(namespace))

    async def pinned_of(self, worker_id: bytes) -> list[tuple[bytes, str]]:
        return await self._ask("pinned_of", lambda: self._inner.pinned_of(worker_id))

    async def shares(self, queue: str, types: Sequence[str], now_us: int) -> list[Share]:
        return await self._ask("shares", lambda: self._inner.shares(queue, types, now_us))

    async def workers(self) -> list[WorkerRow]:
        return await self._ask("workers", self._inner.workers)

    async def answer(self, question_id: bytes) -> tuple[bool, bytes] | None:
        return await self._ask("answer", lambda: self._inner.answer(question_id))

    async def told(self, target: Target, name: str) -> tuple[RunRow, bytes | None] | None:
        return await self._ask("told", lambda: self._inner.told(target, name))

    async def open_questions(self, limit: int) -> list[Question]:
        return await self._ask("open_questions", lambda: self._inner.open_questions(limit))

    @property
    def lease_s(self) -> float | None:
        return self._inner.lease_s

    @property
    def fleet_number(self) -> int:
        return self._inner.fleet_number

    async def fleet(self) -> Fleet:
        return await self._inner.fleet()

    async def beat(self, workers: Sequence[bytes], busy: Sequence[int] = ()) -> Heard:
        return await self._ask("beat", lambda: self._inner.beat(workers, busy))

    @property
    def look_s(self) -> tuple[float, float]:
        return self._inner.look_s

    def listen(self, heard: Callable[[], None]) -> None:
        self._inner.listen(heard)

    async def changed(self) -> bool:
        self._look()
        return await self._inner.changed()

    async def mail_since(
        self, position: int, limit: int, workers: Sequence[bytes] | None = None
    ) -> list[MailRow]:
        self._look()
        return await self._inner.mail_since(position, limit, workers)

    def _look(self) -> None:
        """A look that does not travel: it fails, or not."""
        if self._process.cut_off or self._chance.random() < self._world.rates.lost_before:
            raise _refusal(Fate.LOST_BEFORE).error

    # ------------------------------------------------------------------------------------ upkeep

    async def prune(
        self, cursor: tuple[int, bytes], horizon_us: int, limit: int
    ) -> tuple[tuple[int, bytes] | None, int]:
        return await self._ask("prune", lambda: self._inner.prune(cursor, horizon_us, limit))

    async def bring(
        self,
        executions: Sequence[ExportedExecution],
        *,
        moved: bool = False,
        rehearsed: bool = False,
    ) -> None:
        await self._ask(
            "bring", lambda: self._inner.bring(executions, moved=moved, rehearsed=rehearsed)
        )

    async def leave(self, target: Target, seen: Sequence[ExportedExecution], to: str) -> bool:
        return await self._ask("leave", lambda: self._inner.leave(target, seen, to))

    async def settle(
        self, left: Sequence[tuple[Target, int]], now_us: int, *, arrived: bool
    ) -> bool:
        return await self._ask("settle", lambda: self._inner.settle(left, now_us, arrived=arrived))

    async def refuse_arrivals(self, coming: Sequence[tuple[Target, int]], now_us: int) -> bool:
        return await self._ask(
            "refuse_arrivals", lambda: self._inner.refuse_arrivals(coming, now_us)
        )

    async def verify(self) -> list[Problem]:
        return await self._ask("verify", self._inner.verify)

    async def info(self) -> StoreInfo:
        return await self._ask("info", self._inner.info)

    async def close(self) -> None:
        if self.owned:
            self._world.owner = None


_WRITING = frozenset(
    {
        "submit",
        "forget_question",
        "register",
        "bury",
        "take_over",
        "resume_blocked",
        "claim",
        "claim_run",
        "take_tasks",
        "ask_turns",
        "deal_turns",
        "set_limits",
        "take_letters",
        "letters_sent",
        "outbox_fails",
        "send_again",
        "drop_letters",
        "prune",
    }
)


def _refusal(fate: Fate) -> Lost:
    match fate:
        case Fate.FULL:
            return Lost(Trouble.FULL, StoreFull(path="simulated"))
        case Fate.BROKEN:
            return Lost(Trouble.FATAL, StoreFailed(path="simulated", reason="simulated failure"))
        case _:
            return Lost(
                Trouble.REPEAT, StoreFailed(path="simulated", reason=f"request {fate.value}")
            )


def _at_once(work: Callable[[], Awaitable[T]]) -> "T | Exception":
    """What a verb of an inline store gives: nothing in it waits."""
    awaitable = work()
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    except Exception as error:
        return error
    raise AssertionError("a verb of the shared store waited")
