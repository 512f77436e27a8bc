"""Random turns in pools: each store answers as the one in memory, and none lets too many begin.

Who is under way is told from the runs alone, and not from the rows that count: an execution that
has asked, is open, and does not wait.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from everlong_engine.model.codec import encode_event
from everlong_engine.model.events import CODES, CancelRequested
from everlong_engine.model.queues import (
    AtLimit,
    LimitOrigin,
    QueueLimits,
    RateLimit,
    SetLimits,
    pool_scope,
)
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.turns import AskTurn, Turn
from everlong_engine.model.writes import ForgetMail, Message, Pause, Resume, Write
from everlong_engine.store.interface import RunFilter, Store
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.postgres.store import PostgresStore
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.store.test_postgres_same_answers import EXAMPLES
from tests.support.postgres_server import lent_store
from tests.support.store_rig import SECOND_US, TERMINATED, Rig

T = TypeVar("T")

POOLS = ("p", "q")
counts = st.none() | st.integers(0, 3)
rates = st.none() | st.none() | st.builds(RateLimit, st.integers(1, 3), st.just(5 * SECOND_US))
all_limits = st.builds(
    QueueLimits,
    concurrency=counts,
    rate=rates,
    key_concurrency=st.none() | st.integers(1, 2),
    key_rate=rates,
    at_limit=st.sampled_from(AtLimit),
)
afters = st.sampled_from(["", "a", "az"])


class SameTurns(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.memory = MemoryStore(MemoryData())
        self.other = self.opened()
        self.rig = Rig(self.memory)
        self.limits: dict[str, QueueLimits] = {}
        self.members: dict[str, tuple[str, str]] = {}
        """Pool and key of each that has asked."""
        self.unclear: set[str] = set()
        """Paused or cancelled while they waited, or refused: their rows tell less."""
        self.waited: set[str] = set()

    def opened(self) -> Store:
        self.database = InlineDatabase()
        return self.database.open()

    def closed(self) -> None:
        self.database.close()

    def teardown(self) -> None:
        try:
            self.both(lambda store: store.verify())
        finally:
            self.closed()
            self.runner.close()

    def look(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def both(self, work: Callable[[Store], Awaitable[T]]) -> T:
        async def ask() -> T:
            mine = await work(self.memory)
            assert await work(self.other) == mine
            return mine

        return self.look(ask())

    def write(self, write: Write) -> None:
        async def send(store: Store) -> object:
            return await store.submit([write])

        self.both(send)

    def row(self, name: str) -> RunRow | None:
        return self.look(self.memory.latest(self.rig.target(name)))

    # ------------------------------------------------------------------------------------ rules

    @initialize(limits=st.tuples(all_limits, all_limits))
    def begin(self, limits: tuple[QueueLimits, QueueLimits]) -> None:
        for pool, chosen in zip(POOLS, limits, strict=True):
            self.limits[pool] = chosen
            self.set_limits(pool, chosen, LimitOrigin.CODE)

    def set_limits(self, pool: str, limits: QueueLimits | None, origin: LimitOrigin) -> None:
        change = SetLimits(
            queue=pool_scope(pool), origin=origin, limits=limits, now_us=self.rig.now_us, by="me"
        )
        self.both(lambda store: store.set_limits(change))

    @rule(pool=st.sampled_from(POOLS), limits=st.none() | all_limits)
    def person_says(self, pool: str, limits: QueueLimits | None) -> None:
        """From here on only the answers are compared."""
        self.set_limits(pool, limits, LimitOrigin.PERSON)
        self.limits.pop(pool, None)

    @rule(
        count=st.integers(1, 3),
        pool=st.sampled_from(POOLS),
        key=st.sampled_from(["", "a", "a", "b", "\u00e4"]),
        rank=st.sampled_from([0, 0, -1, 5]),
        lasts=st.none() | st.integers(1, 9),
        after=afters,
    )
    def enter(self, count: int, pool: str, key: str, **how: Any) -> None:
        """Some at once, as a worker asks for all that it has claimed."""
        names: list[str] = []
        for _ in range(count):
            names.append(f"e{len(self.members)}")
            self.rig.now_us += 1
            self.write(self.rig.start(names[-1]))
            self.members[names[-1]] = (pool, key)
        self.ask(names, **how)

    @rule(which=st.integers(0, 30), after=afters, lasts=st.none(), rank=st.just(7))
    def ask_again(self, which: int, **how: Any) -> None:
        if which < len(self.members):
            self.ask([f"e{which}"], **how)

    def ask(self, names: Sequence[str], **how: Any) -> None:
        asks = [self.asked(name, **how) for name in names]
        answers = self.both(lambda store: store.ask_turns(asks))
        for name, answer in zip(names, answers, strict=True):
            if answer.turn is Turn.WAITS:
                self.waited.add(name)
            if answer.turn is Turn.NO_ROOM:
                self.unclear.add(name)
                self.write(self.rig.terminate(name))

    def asked(self, name: str, *, rank: int, lasts: int | None, after: str) -> AskTurn:
        """Once it is claimed, if it can be."""
        row = self.row(name)
        assert row is not None
        pool, key = self.members[name]
        if row.owner is None and row.status is RunStatus.RUNNING:
            owned = (self.rig.worker_id, row.shard, row.run_id)
            self.both(lambda store: store.claim_run(*owned))
        row = self.row(name)
        assert row is not None
        mail = self.look(self.memory.mail_since(0, 1000))
        own = [one.position for one in mail if one.execution_id == row.execution_id]
        now_us = self.rig.now_us
        return AskTurn(
            shard=row.shard,
            execution_id=row.execution_id,
            namespace=row.namespace,
            workflow_id=row.workflow_id,
            worker_id=self.rig.worker_id,
            token=row.lease_token,
            pool=pool,
            key=key,
            rank=rank,
            waits_with=max(own, default=0),
            until_us=None if lasts is None else now_us + lasts * SECOND_US,
            now_us=now_us,
            after=after,
        )

    @rule(after=afters, seconds=st.sampled_from([0, 0, 1, 4, 20]))
    def deal(self, after: str, seconds: int) -> None:
        self.rig.now_us += seconds * SECOND_US
        wanted = [(pool, after) for pool in POOLS]
        self.both(lambda store: store.deal_turns(wanted, self.rig.now_us))

    @rule(
        which=st.integers(0, 30), how=st.sampled_from(["end", "end", "cancel", "pause", "resume"])
    )
    def something_happens(self, which: int, how: str) -> None:
        name = f"e{which}"
        row = self.row(name)
        if row is None:
            return
        target, now_us = self.rig.target(name), self.rig.now_us
        if how == "end":
            self.write(self.rig.terminate(name))
            return
        if row.waits_for_turn:
            self.unclear.add(name)
        if how == "cancel":
            self.write(Message(target, *encode_event(CancelRequested("enough"), {}), now_us))
        elif how == "pause":
            self.write(Pause(target, now_us, "me", "why"))
        else:
            self.write(Resume(target, now_us))

    # ------------------------------------------------------------------------------- invariants

    @invariant()
    def they_show_the_same(self) -> None:
        async def shown(store: Store) -> list[object]:
            for mail in await store.mail_since(0, 1000):
                if mail.kind == TERMINATED:  # A server has none for who is here.
                    await store.submit([ForgetMail(mail.position, mail.execution_id)])
            runs = await store.list_runs(RunFilter("default"), 1000, None)
            wants = self.rig.wants()
            mail_of = [(one.execution_id, one.kind) for one in await store.mail_since(0, 1000)]
            return [runs, await store.pools(), await store.next_wake(wants), mail_of]

        self.both(shown)

    @invariant()
    def no_more_are_under_way_than_may_be(self) -> None:
        keys: Counter[tuple[str, str]] = Counter()
        mail = self.look(self.memory.mail_since(0, 1000))
        cancelled = {one.execution_id for one in mail if one.kind == CODES[CancelRequested]}
        for name, (pool, key) in self.members.items():
            row = self.row(name)
            assert row is not None
            if name in self.waited and not row.waits_for_turn and row.execution_id in cancelled:
                self.unclear.add(name)
            if row.status.is_open and not row.waits_for_turn and name not in self.unclear:
                keys[pool, key] += 1
        for pool, limits in self.limits.items():
            inside = {key: count for (of, key), count in keys.items() if of == pool}
            most = limits.concurrency
            # Those that have waited for too long are woken for their end.
            if not self._somebody_is_late(pool):
                assert most is None or sum(inside.values()) <= most
                if limits.key_concurrency is not None:
                    keyed = [count for key, count in inside.items() if key]
                    assert max(keyed, default=0) <= limits.key_concurrency

    def _somebody_is_late(self, pool: str) -> bool:
        found = {one.pool: one for one in self.look(self.memory.pools())}
        rows = [self.row(name) for name, (of, _) in self.members.items() if of == pool]
        waiting = [row for row in rows if row is not None and row.waits_for_turn]
        return pool in found and found[pool].waiting > len(waiting)


TestSameTurns = SameTurns.TestCase
TestSameTurns.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class SameTurnsOnPostgres(SameTurns):
    def opened(self) -> Store:
        self.lent = AsyncExitStack()
        url = self.look(self.lent.enter_async_context(lent_store()))
        self.server: Store = self.look(PostgresStore.open(url, lease_us=0))
        return self.server

    def closed(self) -> None:
        self.look(self.server.close())
        self.look(self.lent.aclose())


TestSameTurnsOnPostgres = SameTurnsOnPostgres.TestCase
TestSameTurnsOnPostgres.settings = settings(
    TestSameTurns.settings, max_examples=EXAMPLES, stateful_step_count=30
)
