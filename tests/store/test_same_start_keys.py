"""Random starts with keys: each store answers as the one in memory, and no start is lost.

Which start is in which execution is told from what that begins with, and from a model that knows
only the rule: a start is in an execution that has not been taken up, or makes the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Struct

from everlong_engine.model.codec import decode_event, encode_event
from everlong_engine.model.events import CancelRequested, RunCompleted, RunStarted
from everlong_engine.model.requests import Sent
from everlong_engine.model.runs import RunRow, RunStatus
from everlong_engine.model.writes import (
    ForgetMail,
    Message,
    Pause,
    Resume,
    StartResult,
    StartRun,
    Write,
)
from everlong_engine.store.interface import RunFilter, Store
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.postgres.store import PostgresStore
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.store.test_postgres_same_answers import EXAMPLES
from tests.store.test_start_keys import debounced, deduplicated
from tests.support.postgres_server import lent_store
from tests.support.store_rig import SECOND_US, TERMINATED, Rig

T = TypeVar("T")

keys = st.sampled_from(["k", "k", "k", "l"])


class Waiting(Struct):
    """What the model knows of the newest execution of a key."""

    name: str
    says: bytes
    first_us: int
    begins_us: int
    starts: int = 1
    open_to: bool = True
    """Nobody has taken it up, and nobody has ended it."""


class SameStartKeys(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.memory = MemoryStore(MemoryData())
        self.other = self.opened()
        self.rig = Rig(self.memory)
        self.newest: dict[str, Waiting] = {}
        self.of_name: dict[str, Waiting] = {}
        self.taken: dict[str, RunRow] = {}
        self.told: dict[tuple[str, str], str] = {}
        """(key, request id): which execution."""
        self.windows: dict[str, tuple[str, int]] = {}
        self.sent: list[tuple[StartRun, StartResult]] = []
        self.count = 0

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

    def write(self, *writes: Write) -> list[Any]:
        async def send(store: Store) -> list[Any]:
            return list(await store.submit(writes))

        return self.both(send)

    # ------------------------------------------------------------------------------------ rules

    def name(self) -> str:
        self.count += 1
        return f"w{self.count}"

    @rule(
        key=keys,
        span=st.integers(1, 6),
        most=st.none() | st.integers(6, 15),
        request=st.none() | st.none() | st.sampled_from(["r", "s"]),
        large=st.booleans(),
        gap=st.integers(0, 3),
    )
    def debounce(
        self, key: str, span: int, most: int | None, request: str | None, large: bool, gap: int
    ) -> None:
        self.rig.now_us += gap * SECOND_US
        name = self.name()
        says = name.encode() * (40_000 if large else 1)
        sent = Sent("me", self.rig.now_us + self.count) if request is None else None
        start = debounced(
            self.rig,
            says,
            name=name,
            key=key,
            span=span,
            most=most,
            request_id=request,
            sent=sent,
            tags=(("said", name),),
        )
        (result,) = self.write(start)
        known = None if request is None else self.told.get((key, request))
        if known is not None:
            assert (result.workflow_id, result.created, result.same_request) == (known, False, True)
            return
        self.sent.append((start, result))
        one = self.newest.get(key)
        begins = self.rig.now_us + span * SECOND_US
        if one is None or not one.open_to:
            assert (result.created, result.workflow_id) == (True, name)
            one = Waiting(name, says, self.rig.now_us, begins)
            self.newest[key] = self.of_name[name] = one
        else:
            assert (result.created, result.workflow_id) == (False, one.name)
            one.says, one.starts = says, one.starts + 1
            one.begins_us = begins
        if most is not None:
            one.begins_us = min(one.begins_us, one.first_us + most * SECOND_US)
        if request is not None:
            self.told[key, request] = one.name

    @precondition(lambda self: self.sent)
    @rule(last=st.integers(1, 3))
    def repeat(self, last: int) -> None:
        """The answer was lost, and the group is sent again."""
        # Of a sender only the newest is remembered; older ones have been answered.
        for start, result in self.sent[-1:] if last == 1 else self._requested()[-last:]:
            (again,) = self.write(start)
            assert again.execution_id == result.execution_id
            assert again.workflow_id == result.workflow_id

    def _requested(self) -> list[tuple[StartRun, StartResult]]:
        return [one for one in self.sent if one[0].key is not None and one[0].key.request_id]

    @rule(key=keys, within=st.integers(1, 8), gap=st.integers(0, 3))
    def dedup(self, key: str, within: int, gap: int) -> None:
        self.rig.now_us += gap * SECOND_US
        name = self.name()
        (result,) = self.write(deduplicated(self.rig, name, key, within))
        known, until_us = self.windows.get(key, ("", 0))
        if self.rig.now_us < until_us:
            assert (result.created, result.workflow_id) == (False, known)
        else:
            assert (result.created, result.workflow_id) == (True, name)
            self.windows[key] = name, self.rig.now_us + within * SECOND_US

    @rule(gap=st.integers(0, 8))
    def claim(self, gap: int) -> None:
        self.rig.now_us += gap * SECOND_US
        wants = self.rig.wants()

        async def claimed(store: Store) -> list[tuple[RunRow, tuple[bytes, ...]]]:
            found = await store.claim(wants, self.rig.now_us, 1000)
            rows = [(one.row, tuple(mail.body for mail in one.mail)) for one in found]
            return sorted(rows, key=lambda row: row[0].run_id)  # Of equals any may come first.

        for row, _ in self.both(claimed):
            self.taken[row.workflow_id] = row
            one = self.of_name.get(row.workflow_id)
            if one is not None and one.open_to:
                assert self.rig.now_us >= one.begins_us
                one.open_to = False

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["begin", "end", "back"]))
    def go_on(self, which: int, how: str) -> None:
        name = sorted(self.taken)[which % len(self.taken)]
        row = self.taken.pop(name)
        loaded = self.look(self.rig.load(name))
        mail = tuple(one.position for one in loaded.mail)
        if row.owner != loaded.row.owner or not loaded.row.status.is_open:
            return
        if how == "back":
            wake_us = self.rig.now_us + SECOND_US
            (result,) = self.write(self.rig.release(row, wake_us, waits_with=max(mail, default=0)))
            one = self.of_name.get(name)
            is_here = loaded.row.status is RunStatus.RUNNING and result.refusal is None
            if one is not None and is_here and not self._is_cancelled(name):
                # Nothing of it has begun.
                one.open_to, one.begins_us = True, wake_us
            return
        first = decode_event(loaded.mail[0].kind, loaded.mail[0].body, loaded.blobs)
        ends = [RunCompleted(b"")] if how == "end" else []
        self.write(self.rig.append(row, first, *ends, consumed=mail))

    def _is_cancelled(self, name: str) -> bool:
        return len(self.look(self.rig.load(name)).mail) > 1

    @rule(which=st.integers(1, 12), how=st.sampled_from(["cancel", "terminate", "pause", "resume"]))
    def something_happens(self, which: int, how: str) -> None:
        name = f"w{which}"
        one = self.of_name.get(name)
        if one is None:
            return
        target, now_us = self.rig.target(name), self.rig.now_us
        if how == "cancel":
            self.write(Message(target, *encode_event(CancelRequested("enough"), {}), now_us))
            one.open_to, one.begins_us = False, 0
        elif how == "terminate":
            self.write(self.rig.terminate(name))
            one.open_to = False
        elif how == "pause":
            self.write(Pause(target, now_us, "me", "why"))
        else:
            self.write(Resume(target, now_us))
            if one.open_to:  # Somebody looks, and puts it off again.
                one.begins_us = min(one.begins_us, now_us)

    # ------------------------------------------------------------------------------- invariants

    @invariant()
    def they_show_the_same(self) -> None:
        async def shown(store: Store) -> list[object]:
            for mail in await store.mail_since(0, 1000):
                if mail.kind == TERMINATED:  # A server has none for who is here.
                    await store.submit([ForgetMail(mail.position, mail.execution_id)])
            runs = await store.list_runs(RunFilter("default"), 1000, None)
            mail_of = [
                (one.execution_id, one.kind, one.body, one.checksum)
                for one in await store.mail_since(0, 1000)
            ]
            tags = [(await store.load(run.shard, run.run_id)) is not None for run in runs]
            return [runs, await store.next_wake(self.rig.wants()), mail_of, tags]

        self.both(shown)

    @invariant()
    def each_begins_with_what_the_last_one_said(self) -> None:
        for name, one in self.of_name.items():
            loaded = self.look(self.rig.load(name))
            if loaded.row.next_seq == 1 and loaded.row.status.is_open:
                event = decode_event(loaded.mail[0].kind, loaded.mail[0].body, loaded.blobs)
                assert isinstance(event, RunStarted)
                assert event.arguments == one.says
                assert event.workflow_id == name
                assert event.debounced is not None
                assert event.debounced.starts == one.starts
                # A payload that another one has taken the place of is not kept.
                assert len(loaded.blobs) <= 1


TestSameStartKeys = SameStartKeys.TestCase
TestSameStartKeys.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class SameStartKeysOnPostgres(SameStartKeys):
    def opened(self) -> Store:
        self.lent = AsyncExitStack()
        url = self.look(self.lent.enter_async_context(lent_store()))
        self.server: Store = self.look(PostgresStore.open(url, lease_us=0))
        return self.server

    def closed(self) -> None:
        self.look(self.server.close())
        self.look(self.lent.aclose())


TestSameStartKeysOnPostgres = SameStartKeysOnPostgres.TestCase
TestSameStartKeysOnPostgres.settings = settings(
    TestSameStartKeys.settings, max_examples=EXAMPLES, stateful_step_count=30
)
