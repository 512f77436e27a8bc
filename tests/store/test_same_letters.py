"""Random letters: each store answers as the one in memory, and none gets lost on the way.

A letter is waiting, set aside, sent or dropped; a model counts them. Positions of a server have
gaps, so a letter is named by its payload here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from everlong_engine.model.events import SignalReceived
from everlong_engine.model.letters import KeptLetter, Letter, OutboxRow
from everlong_engine.model.runs import WorkerRow
from everlong_engine.model.writes import Append, Write
from everlong_engine.store.interface import Store
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.postgres.store import PostgresStore
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.store.test_postgres_same_answers import EXAMPLES
from tests.support.letters import letter
from tests.support.postgres_server import lent_store
from tests.support.store_rig import Rig

T = TypeVar("T")

OUTBOXES = ("p", "q")
WORKERS = (b"1" * 16, b"2" * 16, b"3" * 16)
boxes = st.sampled_from(OUTBOXES)
workers = st.sampled_from(WORKERS)
some = st.lists(st.integers(0, 30), max_size=6)


class SameLetters(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.memory = MemoryStore(MemoryData())
        self.other = self.opened()
        self.rig = Rig(self.memory)
        self.count = 0
        self.runs: list[str] = []
        self.known: set[bytes] = set()
        self.box_of: dict[bytes, str] = {}
        self.state: dict[bytes, str] = {}
        """Of each letter that is there: "waits" or "aside"; in the order in which they came."""

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

    def in_box(self, outbox: str, state: str) -> list[bytes]:
        return [
            one for one in self.state if self.state[one] == state and self.box_of[one] == outbox
        ]

    @staticmethod
    async def places(store: Store, outbox: str) -> dict[bytes, int]:
        found: list[KeptLetter] = []
        for refused in (False, True):
            found += await store.letters(outbox, 0, 1000, refused=refused)
        return {one.letter.payload: one.position for one in found}

    @rule(groups=st.lists(st.lists(boxes, min_size=1, max_size=3), min_size=1, max_size=3))
    def left(self, groups: Sequence[Sequence[str]]) -> None:
        """Appends of as many runs, in one transaction; each begins with its letters or goes on."""
        writes: list[Write] = []
        for at, group in enumerate(groups):
            if at == len(self.runs):
                name = f"w{at}"
                self.runs.append(name)
                start = self.rig.start_here(name)
                self.both(partial(_submitted, [start]))
            row = self.look(self.rig.row(self.runs[at]))
            append = self.rig.append(row, SignalReceived("s", b"\xc0"))
            self._put_into(append, row.next_seq, group)
            writes.append(append)
        self.both(partial(_submitted, writes))

    def _put_into(self, append: Append, seq: int, group: Sequence[str]) -> None:
        made: list[Letter] = []
        row = self.look(self.rig.store.run_by_id(append.run_id))
        assert row is not None
        for number, outbox in enumerate(group):
            self.count += 1
            payload = b"%04d" % self.count
            self.box_of[payload], self.state[payload] = outbox, "waits"
            made.append(letter(row, seq, number, outbox=outbox, payload=payload))
        append.letters = tuple(made)

    @rule(worker_id=workers)
    def comes(self, worker_id: bytes) -> None:
        if worker_id in self.known:
            return
        self.known.add(worker_id)
        row = WorkerRow(
            worker_id=worker_id, name="w", pid=1, host="h", started_us=1, beat_us=1, dead=False
        )
        self.both(lambda store: store.register(row))

    @rule(worker_id=workers)
    def goes(self, worker_id: bytes) -> None:
        self.both(lambda store: store.bury(worker_id))

    @rule(
        outbox=boxes,
        worker_id=workers,
        limit=st.integers(1, 5),
        room=st.integers(0, 20),
        marks=st.none() | st.integers(0, 5),
    )
    def relayed(
        self, outbox: str, worker_id: bytes, limit: int, room: int, marks: int | None
    ) -> None:
        """Taken, and sent up to some of them, or none: the broker is away."""

        async def take(store: Store) -> list[bytes] | None:
            found = await store.take_letters(outbox, worker_id, limit, room)
            if found is None:
                return None
            positions = [one.position for one in found]
            if marks is None:
                await store.outbox_fails(outbox, worker_id, "away", 7)
            else:
                refused = [(one, "no") for one in positions[marks : marks + 1]]
                await store.letters_sent(outbox, positions[:marks], refused)
            return [one.letter.payload for one in found]

        found = self.both(take)
        if found is None:
            return
        waiting = self.in_box(outbox, "waits")
        assert found == waiting[: len(found)]
        assert len(found) == min(limit, len(waiting), max(1, room // 4))
        if marks is not None:
            for one in found[:marks]:
                del self.state[one]
            for one in found[marks : marks + 1]:
                self.state[one] = "aside"

    @rule(outbox=boxes, chosen=st.none() | some, drop=st.booleans())
    def cared_for(self, outbox: str, chosen: Sequence[int] | None, drop: bool) -> None:
        names = None if chosen is None else [b"%04d" % one for one in chosen]

        async def act(store: Store) -> int:
            positions = None
            if names is not None:
                places = await self.places(store, outbox)
                positions = [places.get(one, 10**9) for one in names]
            verb = store.drop_letters if drop else store.send_again
            return await verb(outbox, positions)

        aside = self.in_box(outbox, "aside")
        among = [*aside, *self.in_box(outbox, "waits")] if drop and names is not None else aside
        meant = [one for one in among if names is None or one in names]
        assert self.both(act) == len(meant)
        for one in meant:
            if drop:
                del self.state[one]
            else:
                self.state[one] = "waits"

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        async def seen(
            store: Store,
        ) -> tuple[list[OutboxRow], list[list[bytes]], list[str]]:
            boxes = await store.outboxes()
            lists = [
                [one.letter.payload for one in await store.letters(outbox, 0, 999, refused=aside)]
                for outbox in OUTBOXES
                for aside in (False, True)
            ]
            return boxes, lists, await store.full_outboxes(OUTBOXES)

        _, lists, full = self.both(seen)
        expected = [
            sorted(self.in_box(outbox, state))
            for outbox in OUTBOXES
            for state in ("waits", "aside")
        ]
        assert lists == expected
        assert full == [one for one in OUTBOXES if self.in_box(one, "waits")]


async def _submitted(writes: Sequence[Write], store: Store) -> object:
    return await store.submit(writes)


TestSameLetters = SameLetters.TestCase
TestSameLetters.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class SameLettersOnPostgres(SameLetters):
    def opened(self) -> Store:
        self.lent = AsyncExitStack()
        url = self.look(self.lent.enter_async_context(lent_store()))
        self.server: Store = self.look(PostgresStore.open(url, lease_us=0))
        return self.server

    def closed(self) -> None:
        self.look(self.server.close())
        self.look(self.lent.aclose())


TestSameLettersOnPostgres = SameLettersOnPostgres.TestCase
TestSameLettersOnPostgres.settings = settings(
    TestSameLetters.settings, max_examples=EXAMPLES // 2, stateful_step_count=25
)
