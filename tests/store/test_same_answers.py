"""The store in memory and the SQL, side by side: the same verbs, the same answers, the same rows.

Each step draws verbs without knowing what is right: stale tokens, wrong numbers, mail that is gone,
groups that are repeated. Both stores must answer alike, and show the same afterwards. What is right
is told by the tests of each verb, and by `test_random_operations`; here the two only have to agree.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from everlong_engine.machine.elsewhere import UNWANTED
from everlong_engine.model.entities import (
    ByDue,
    ByKey,
    EntityChanges,
    EntityRow,
    OfKeys,
    entity_checksum,
)
from everlong_engine.model.events import (
    ActivityScheduled,
    ApprovalWithdrawn,
    RunCompleted,
    RunContinuedAsNew,
    TagsSet,
)
from everlong_engine.model.outgoing import AwaitEnd, CancelChild, Outgoing, SendTo
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.queues import LimitOrigin, QueueLimits, RateLimit, SetLimits
from everlong_engine.model.requests import name_of_over
from everlong_engine.model.runs import AttemptRow, AttemptState, Halt, Probation, RunRow, Trim
from everlong_engine.model.tasks import NewTask, SettleTask, TaskEnd, TaskWants, WithdrawTask
from everlong_engine.model.writes import (
    Answer,
    Append,
    Ask,
    Beat,
    ForgetMail,
    MarkAttempts,
    Message,
    Pause,
    PauseMany,
    Pin,
    Release,
    Report,
    Resume,
    ResumeMany,
    StartRun,
    Write,
)
from everlong_engine.store.interface import MailGone, RunFilter, Store, Wants
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.store.test_random_operations import NAMES
from tests.support.store_rig import SECOND_US, Rig, item, question, signal

T = TypeVar("T")

names = st.sampled_from(NAMES[:2])
EVERYBODY = [*NAMES, "parent", "kid"]
any_name = st.sampled_from(NAMES)
LARGE = bytes(range(256)) * 300  # 75 KB: over what stays in an event.
QUESTIONS = [b"p" * 16, b"q" * 16]
OVER = [UNWANTED, b"cancelled", b"done", b"gone"]
requests = st.sampled_from([None, None, "r1", "r2"])
whose = st.integers(0, 1)
versions = st.sampled_from([None, None, "1", "2"])
seldom = st.sampled_from([False, False, False, True])
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
tag_values = st.sampled_from(["c1", "", 7, -7, 7.0, 0.5, True, False, NOVEMBER])

KEYS = ["a", "B", "\ufb01", "\U0001f6d2"]
LOOKS = (ByKey("", 10), ByKey("a", 2), ByDue(3), OfKeys(("a", "\U0001f6d2", "nobody")))


def state_of(key: str, due_us: int | None, payload: bytes) -> EntityRow:
    return EntityRow(key, due_us, payload, entity_checksum(key, due_us, payload))


states_change = st.builds(
    EntityChanges,
    st.lists(
        st.builds(
            state_of,
            st.sampled_from(KEYS),
            st.none() | st.integers(0, 3),
            st.sampled_from([b"", b"1", b"2"]),
        ),
        max_size=3,
        unique_by=attrgetter("key"),
    ).map(tuple),
    st.lists(st.sampled_from([*KEYS, "nobody"]), max_size=2, unique=True).map(tuple),
)


class BothStores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = InlineDatabase()
        self.stores: tuple[Store, Store] = (MemoryStore(MemoryData()), self.database.open())
        # Two processes make ids of their own; what they look at is the first store.
        self.rigs = [Rig(self.stores[0], seed=seed) for seed in (7, 8)]
        self.group: list[Write] = []
        self.size = 1
        self.lossy = False
        self.items = 0
        self.asked = 0

    def teardown(self) -> None:
        try:
            self.flush()
            self.both(lambda store: store.verify())
        finally:
            self.database.close()
            self.runner.close()

    def look(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def both(self, work: Callable[[Store], Awaitable[T]]) -> T | str:
        """The answer of both."""
        memory, sql = (self.answer_of(store, work) for store in self.stores)
        assert memory == sql
        return memory

    def answer_of(self, store: Store, work: Callable[[Store], Awaitable[T]]) -> T | str:
        """The answer of one; a failure is one of two kinds."""

        async def ask() -> T | str:
            try:
                return await work(store)
            except MailGone:
                return "mail is gone"
            except Exception as error:
                return f"failed ({isinstance(error, AssertionError)})"

        return self.look(ask())

    def row(self, name: str) -> RunRow | None:
        return self.look(self.stores[0].latest(self.rigs[0].target(name)))

    @invariant()
    def they_show_the_same(self) -> None:
        async def shown(store: Store) -> list[object]:
            runs = await store.list_runs(RunFilter("default"), 1000, None)
            every = await store.tags([(run.shard, run.run_id) for run in runs])
            kinds = {run: [type(value) for _, value in tags] for run, tags in every.items()}
            found: list[object] = [runs, every, kinds]
            for run in runs:
                found.append(await store.load(run.shard, run.run_id))
                found.append(await store.last_event(run.shard, run.run_id))
                found.append(await store.event(run.shard, run.run_id, run.next_seq - 2))
                found += await self.items_of(store, run)
                for look in LOOKS:
                    found += await store.entities(run.shard, run.execution_id, look)
                found += [
                    await store.approval(run.shard, run.run_id, number)
                    for number in range(self.asked + 1)
                ]
            found += await store.approvals("default", None, (b"", 0), 100)
            found += await store.pauses("default", 100)
            found += [await store.pause_of(run) for run in runs]
            found += [await store.latest(self.rigs[0].target(name)) for name in EVERYBODY]
            found += [await store.answer(question) for question in QUESTIONS]
            found += [await store.open_questions(10), await store.workers()]
            found += [await store.versions("default")]
            found += [await store.pinned_of(rig.worker_id) for rig in self.rigs]
            types = ["flow", "another", "parent"]
            found += await store.shares("default", types, self.rigs[0].now_us)
            found += [await store.next_wake(one) for one in self.wanted("1", "2")]
            found += [await store.next_wake(self.rigs[0].wants())]
            found += [await store.queue_limits()]
            found += [await store.queues(), await store.tasks_of(self.rigs[0].worker_id)]
            found += [await store.take_tasks(self.task_wants(0, None), 1 << 60, 0)]
            found += await store.mail_since(0, 1000)
            return [*found, await store.newest_run(), await self.noticed(store)]

        self.both(shown)

    async def noticed(self, store: Store) -> bool:
        return await store.changed()

    async def items_of(self, store: Store, run: RunRow) -> list[object]:
        """Where there are gaps, as the draws leave them, they must agree on these too."""
        found: list[object] = []
        for number in range(self.items):
            found += await store.published(run.shard, run.execution_id, "told", number, 3)
        return found

    # --------------------------------------------------------------------- what makes a group up

    @rule(size=st.sampled_from([1, 2, 3, 5]), lossy=st.booleans())
    def groups_are_of(self, size: int, lossy: bool) -> None:
        """So many writes; where answers are lost, each group is sent again."""
        self.size, self.lossy = size, lossy

    def add(self, write: Write) -> None:
        self.group.append(write)
        if len(self.group) >= self.size:
            self.flush()

    @rule(
        name=names,
        who=whose,
        here=st.booleans(),
        ends=st.booleans(),
        large=seldom,
        if_open=st.sampled_from(["use", "use", "fail", "terminate"]),
        if_closed=st.sampled_from(["allow", "allow", "fail", "allow_failed"]),
        request_id=requests,
        tags=st.dictionaries(st.sampled_from("ab"), tag_values),
        version=versions,
    )
    def start(self, name: str, who: int, here: bool, ends: bool, large: bool, **how: Any) -> None:
        rig = self.rigs[who]
        how["tags"] = tuple(how["tags"].items())
        if here:
            ending = (RunCompleted(b"done"),) if ends else ()
            setting = (TagsSet((("a", 3), ("b", None)), ""),) if large else ()
            start: StartRun = rig.start_here(name, *setting, *ending, **how)
        else:
            start = rig.start(name, arguments=LARGE if large else b"", **how)
        self.add(start)

    @rule(
        name=names,
        count=st.integers(1, 2),
        ahead=st.sampled_from([0, 0, 0, 0, 1, -1]),
        stale=seldom,
        consume=st.sampled_from(["none", "first", "all", "all", "gone"]),
        end=st.sampled_from(["no", "no", "no", "close", "roll"]),
        mail_free=seldom,
        healthy=st.booleans(),
        large=seldom,
        publishes=seldom,
        trims=st.sampled_from([None, (1, 1), (2, 9), (5, 2)]),
        sends=st.lists(st.sampled_from(["child", "cancel", "signal", "end"]), max_size=2),
        to=any_name,
        policy=st.sampled_from(["terminate", "cancel", "abandon"]),
        if_open=st.sampled_from(["use", "fail", "terminate"]),
        wants_start=st.booleans(),
        asks=st.sampled_from(["no", "no", "ask", "withdraw"]),
        tags=st.lists(st.tuples(st.sampled_from("ab"), st.none() | tag_values), max_size=2),
        pin=versions,
        over=st.none() | st.tuples(st.integers(1, 2), st.sampled_from(OVER)),
        tasks=st.none() | st.tuples(st.integers(1, 2), st.sampled_from(TaskEnd)),
        entities=st.none() | states_change,
    )
    def append(self, name: str, count: int, consume: str, end: str, **how: Any) -> None:
        row = self.row(name)
        if row is None:
            return
        loaded = self.look(self.rigs[0].load(row))
        positions = [mail.position for mail in loaded.mail]
        consumed = {"none": [], "first": positions[:1], "all": positions, "gone": [10**6]}[consume]
        events: list[Any] = [signal(LARGE if how["large"] else b"%d" % n) for n in range(count)]
        if how["publishes"]:
            # Each number once: the stores rely on it, and the code that counts is not here.
            self.items += 1
            events.append(item(self.items - 1, LARGE if how["large"] else b"item"))
        if how["asks"] == "ask":
            self.asked += 1  # Each number once, as in the code.
            events.append(question(self.asked))
        elif how["asks"] == "withdraw":
            events.append(ApprovalWithdrawn(max(self.asked, 1)))
        if how["tags"]:
            events.append(TagsSet(tuple(how["tags"]), ""))
        trims = how["trims"] if how["publishes"] else None
        options: dict[str, Any] = {"consumed": tuple(consumed), "healthy": how["healthy"]}
        if trims is not None:  # All but so many of the items before, up to a bound.
            options["trims"] = (Trim("told", max(self.items - trims[0], 0), trims[1]),)
        options["pin"] = how["pin"]
        if how["over"] is not None:
            number, mark = how["over"]
            options["over"] = ((name_of_over(row.run_id, number), mark),)
        if how["tasks"] is not None:
            options["tasks"] = (how["tasks"],)
        options["entities"] = how["entities"]
        options["outgoing"] = tuple(self.sent(one, row, **how) for one in how["sends"])
        if end == "close":
            events.append(RunCompleted(b""))
        elif end == "roll":
            events.append(RunContinuedAsNew(b"", (), 1))
            tags = tuple((name, value) for name, value in how["tags"] if value is not None)
            options |= {"next_run": self.rigs[0].successor(row, tags), "mail_free": False}
        else:
            options["mail_free"] = how["mail_free"]
        base = self._base(row) + how["ahead"]
        if base < 1:
            return
        token = row.lease_token - how["stale"]
        append = self.rigs[0].events(row, base, *events, token=token, **options)
        self.add(append)

    def _base(self, row: RunRow) -> int:
        """Where the next event goes, behind those of the group that is being drawn."""
        before = [one for one in self.group if isinstance(one, Append) and one.run_id == row.run_id]
        return before[-1].base + len(before[-1].rows) if before else row.next_seq

    @rule(
        name=names,
        activity=st.integers(1, 2),
        attempt=st.integers(1, 2),
        queue=st.sampled_from(["gpu", "slow"]),
        due=st.integers(-1, 2),
        rank=st.sampled_from([0, 0, -1, 5]),
        key=st.sampled_from(["", "", "a", "b", "\u00e4"]),
        large=seldom,
        once=st.booleans(),
        pauses=seldom,
    )
    def put_task(self, name: str, activity: int, attempt: int, queue: str, **how: Any) -> None:
        """An activity is scheduled, and its next attempt goes into a queue."""
        row = self.row(name)
        if row is None:
            return
        rig, seq = self.rigs[0], self._base(row)
        options = ActivityOptions(
            max_attempts=1 if how["once"] else None,
            on_exhausted="pause" if how["pauses"] else "fail",
        )
        arguments = LARGE if how["large"] else b"x"
        event = ActivityScheduled(activity, f"do{activity}", arguments, options, "")
        self.add(rig.events(row, seq, event, token=row.lease_token, blobs={}))
        task = NewTask(
            activity_id=activity,
            attempt=attempt,
            queue=queue,
            activity=event.activity,
            due_us=rig.now_us + how["due"] * SECOND_US,
            seq=seq,
            origin=name,
            rank=how["rank"],
            key=how["key"],
        )
        attempts = (self._attempt(activity, attempt, AttemptState.QUEUED),)
        token = row.lease_token
        mark = MarkAttempts(row.shard, row.run_id, token, attempts, begins=True, tasks=(task,))
        self.add(mark)

    @rule(
        queue=st.sampled_from(["gpu", "slow"]),
        origin=st.sampled_from(LimitOrigin),
        limits=st.none()
        | st.builds(
            QueueLimits,
            concurrency=st.none() | st.integers(0, 3),
            rate=st.none() | st.builds(RateLimit, st.integers(1, 3), st.just(5 * SECOND_US)),
            key_concurrency=st.none() | st.integers(0, 2),
            key_rate=st.none() | st.builds(RateLimit, st.integers(1, 2), st.just(SECOND_US)),
        ),
    )
    def set_limits(self, queue: str, origin: LimitOrigin, limits: QueueLimits | None) -> None:
        now_us = self.rigs[0].now_us
        change = SetLimits(queue=queue, origin=origin, limits=limits, now_us=now_us, by="me")
        self.both(lambda store: store.set_limits(change))

    def task_wants(self, who: int, queues: list[str] | None, after: str = "") -> TaskWants:
        chosen = None if queues is None else tuple(queues)
        kinds = ("do1", "do2")
        return TaskWants(self.rigs[who].worker_id, f"worker {who}", kinds, chosen, after)

    @rule(
        who=whose,
        queues=st.sampled_from([None, None, ["gpu"], ["slow", "gpu"], ["none"]]),
        limit=st.integers(0, 3),
        after=st.sampled_from(["", "a", "az"]),
    )
    def take_tasks(self, who: int, queues: list[str] | None, limit: int, after: str) -> None:
        self.flush()
        wants = self.task_wants(who, queues, after)
        self.both(lambda store: store.take_tasks(wants, self.rigs[0].now_us, limit))

    @rule(
        who=whose,
        which=st.integers(0, 2),
        late=seldom,
        comes=st.sampled_from(["ends", "ends", "fails", "goes on", "leaves", "pauses"]),
        large=seldom,
    )
    def settle_task(self, who: int, which: int, late: bool, comes: str, large: bool) -> None:
        rig = self.rigs[who]
        held = self.look(self.stores[0].tasks_of(rig.worker_id))
        if which >= len(held):
            return
        one = held[which]
        run = self.look(self.stores[0].run_by_id(one.run_id))
        assert run is not None
        outcome: Message = self.rigs[0].message("a", LARGE if large else b"an outcome")
        number, now_us = one.activity_id, self.rigs[0].now_us
        state = {"fails": AttemptState.FAILED, "leaves": AttemptState.ELSEWHERE}.get(
            comes, AttemptState.TAKEN
        )
        how: dict[str, Any] = {"rows": (self._attempt(number, one.attempt, state),)}
        match comes:
            case "ends":
                how |= {"mail": (outcome.kind, outcome.body), "blobs": outcome.blobs}
            case "fails":
                waits = self._attempt(number, one.attempt + 1, AttemptState.QUEUED)
                how |= {"rows": (*how["rows"], waits), "again": (one.attempt + 1, now_us + 5)}
            case "goes on":
                how |= {"keeps": True}
            case "pauses":
                how |= {"halt": Halt(now_us, "the engine", "no more")}
            case _:
                pass
        self.add(
            SettleTask(
                shard=run.shard,
                run_id=run.run_id,
                execution_id=run.execution_id,
                activity_id=number,
                token=one.token - late,
                worker_id=rig.worker_id,
                now_us=now_us,
                **how,
            )
        )

    @rule(name=names, activity=st.integers(1, 2), attempt=st.integers(0, 2), stale=seldom)
    def withdraw_task(self, name: str, activity: int, attempt: int, stale: bool) -> None:
        row = self.row(name)
        if row is not None:
            token = row.lease_token - stale
            self.add(WithdrawTask(row.shard, row.run_id, token, activity, attempt))

    @rule(
        policy=st.sampled_from(["terminate", "cancel", "abandon"]),
        waits=st.booleans(),
        asleep=st.booleans(),
        then=st.lists(
            st.sampled_from(
                [
                    "parent ends",
                    "parent rolls",
                    "parent sleeps",
                    "child ends",
                    "terminate",
                    "repeat",
                ]
            ),
            min_size=1,
            max_size=3,
        ),
    )
    def family(self, policy: str, waits: bool, asleep: bool, then: list[str]) -> None:
        """A parent, its child, perhaps one more that waits for it, and how they end."""
        self.flush()
        rig = self.rigs[0]
        start = rig.start_here("parent")
        assert start.first is not None
        run_id = start.run.run_id
        outgoing: list[Outgoing] = [rig.child("kid", 1, run_id, on_parent_close=policy)]
        if waits:
            outgoing.append(AwaitEnd(2, rig.target("kid")))
        start = replace(start, first=replace(start.first, outgoing=tuple(outgoing)))
        for _ in range(1 + self.lossy):
            self.both(lambda store: store.submit([start]))
        if self.row("parent") is None:
            return  # Its type is paused.
        if not asleep:
            self.claim(3, False, set())
        for what in then:
            write = self._end_of_family(what)
            group = [] if write is None else [write]
            for _ in range(len(group) + (what == "repeat")):
                self.both(lambda store: store.submit(group))  # noqa: B023

    def _end_of_family(self, what: str) -> Write | None:
        rig, parent, child = self.rigs[0], self.row("parent"), self.row("kid")
        assert parent is not None
        if child is None:
            return None
        mail = self.look(rig.load(parent)).mail
        options: dict[str, Any] = {"consumed": tuple(one.position for one in mail)}
        match what:
            case "parent ends" | "repeat":
                return rig.append(parent, RunCompleted(b""), **options)
            case "parent rolls":
                options |= {"next_run": rig.successor(parent), "mail_free": False}
                return rig.append(parent, RunContinuedAsNew(b"", (), 1), **options)
            case "parent sleeps":
                return rig.release(parent, None)
            case "child ends":
                mail = self.look(rig.load(child)).mail
                consumed = tuple(one.position for one in mail)
                return rig.append(child, RunCompleted(LARGE), consumed=consumed)
            case _:
                return rig.terminate("parent")

    def sent(
        self, what: str, row: RunRow, *, to: str, policy: str, if_open: str, **how: Any
    ) -> Outgoing:
        """Under a number that is used now and then already."""
        rig, number = self.rigs[0], 1 + row.next_seq % 4
        match what:
            case "child":
                options = {"on_parent_close": policy, "if_open": if_open}
                wants_start = how["wants_start"]
                return rig.child(to, number, row.run_id, wants_start=wants_start, **options)
            case "cancel":
                mail = rig.message(to)
                return CancelChild(number, mail.kind, mail.body, rig.now_us)
            case "signal":
                mail = rig.message(to, LARGE if how["large"] else b"sent")
                return SendTo(
                    number, mail.target, mail.kind, mail.body, mail.blobs or {}, rig.now_us
                )
            case _:
                return AwaitEnd(number, rig.target(to))

    @rule(
        name=names,
        who=whose,
        request=requests,
        sent=st.booleans(),
        large=seldom,
        earlier=seldom,
    )
    def message(
        self, name: str, who: int, request: str | None, sent: bool, large: bool, earlier: bool
    ) -> None:
        rig = self.rigs[who]
        execution_id: bytes | None = None
        if earlier:
            runs = self.look(
                rig.store.list_runs(RunFilter("default", workflow_id=name), 1000, None)
            )
            execution_id = runs[-1].execution_id if runs else b"nobody" * 3
        message: Message = rig.message(
            name,
            LARGE if large else b"x",
            request_id=request,
            execution_id=execution_id,
            sent=rig.sent(f"sender {who}") if sent and request is None else None,
        )
        self.add(message)

    @rule(name=names, back=st.integers(0, 2), request=st.sampled_from(["r1", "r2"]))
    def answer_approval(self, name: str, back: int, request: str) -> None:
        row = self.row(name)
        if row is not None:
            self.add(self.rigs[0].answer(row, max(self.asked - back, 0), request, request))

    @rule(name=names)
    def terminate(self, name: str) -> None:
        self.add(self.rigs[0].terminate(name))

    @rule(name=names, who=whose, request=requests, sent=st.booleans(), goes_on=st.booleans())
    def pause_or_resume(
        self, name: str, who: int, request: str | None, sent: bool, goes_on: bool
    ) -> None:
        rig = self.rigs[who]
        marks = (request, rig.sent(f"sender {who}") if sent and request is None else None)
        if goes_on:
            self.add(Resume(rig.target(name), rig.now_us, *marks))
        else:
            self.add(Pause(rig.target(name), rig.now_us, f"{who}", "why", *marks))

    @rule(
        kind=st.sampled_from(["", "flow", "other"]),
        request=requests,
        goes_on=st.booleans(),
        blocked=st.booleans(),
    )
    def pause_or_resume_many(
        self, kind: str, request: str | None, goes_on: bool, blocked: bool
    ) -> None:
        now_us = self.rigs[0].now_us
        if goes_on:
            self.add(ResumeMany("default", kind, now_us, blocked, request))
        else:
            self.add(PauseMany("default", kind, now_us, "somebody", "why", request))

    @rule(
        name=names,
        sleep=st.sampled_from([None, 0, 2]),
        stale=seldom,
        blocked=st.booleans(),
        mail=seldom,
        attempts=st.booleans(),
        waits=st.sampled_from([None, None, 0, 2, 1000]),
    )
    def release(
        self,
        name: str,
        sleep: int | None,
        stale: bool,
        blocked: bool,
        mail: bool,
        attempts: bool,
        waits: int | None,
    ) -> None:
        row = self.row(name)
        if row is None:
            return
        if any(isinstance(one, Release) and one.run_id == row.run_id for one in self.group):
            self.flush()  # Whoever hands a run back waits for the answer before it does so again.
            row = self.row(name)
            assert row is not None
        rig = self.rigs[0]
        wake_us = rig.now_us + sleep * SECOND_US if sleep else sleep
        outcome = rig.message(name)
        release: Release = rig.release(
            replace(row, lease_token=row.lease_token - stale),
            wake_us,
            blocked=blocked,
            reason="no" if blocked else None,
            attempts=(self._attempt(1, 1, AttemptState.NOT_BEGUN),) if attempts else (),
            mail=((outcome.kind, outcome.body),) if mail else (),
            waits_with=waits,
        )
        self.add(release)

    @rule(
        name=names,
        activity=st.integers(1, 2),
        attempt=st.integers(1, 30),
        state=st.sampled_from(AttemptState),
        stale=seldom,
        probation=st.sampled_from([None, *Probation]),
        begins=st.booleans(),
        outcome=seldom,
        halts=seldom,
    )
    def mark(
        self,
        name: str,
        activity: int,
        attempt: int,
        state: AttemptState,
        stale: bool,
        probation: Probation | None,
        begins: bool,
        outcome: bool,
        halts: bool,
    ) -> None:
        row = self.row(name)
        if row is not None:
            attempts = (self._attempt(activity, attempt, state),)
            token = row.lease_token - stale
            mark = MarkAttempts(row.shard, row.run_id, token, attempts, probation, begins)
            if outcome:
                mail: Message = self.rigs[0].message(name, b"an outcome")
                mark = replace(mark, mail=((mail.kind, mail.body),))
            if halts:
                mark = replace(mark, halt=Halt(self.rigs[0].now_us, "the engine", "no more"))
            self.add(mark)

    @rule(
        name=names,
        activity=st.integers(1, 2),
        attempt=st.integers(1, 3),
        answer=st.sampled_from([b"one", b"two"]),
        stranger=seldom,
        large=seldom,
    )
    def report(
        self, name: str, activity: int, attempt: int, answer: bytes, stranger: bool, large: bool
    ) -> None:
        row = self.row(name)
        if row is None:
            return
        mail: Message = self.rigs[0].message(name, LARGE if large else answer)
        self.add(
            Report(
                row.shard,
                row.run_id,
                b"nobody" * 3 if stranger else row.execution_id,
                activity,
                attempt,
                mail.kind,
                mail.body,
                answer,
                self.rigs[0].now_us,
                mail.blobs,
            )
        )

    @rule(
        name=names,
        activity=st.integers(1, 2),
        attempt=st.integers(1, 3),
        details=st.sampled_from([None, b"half"]),
        ahead=st.integers(0, 5),
    )
    def beat(
        self, name: str, activity: int, attempt: int, details: bytes | None, ahead: int
    ) -> None:
        row = self.row(name)
        if row is not None:
            now_us = self.rigs[0].now_us + ahead
            key = (row.shard, row.run_id, row.execution_id, activity, attempt)
            self.add(Beat(*key, now_us, details))

    def _attempt(self, activity: int, attempt: int, state: AttemptState) -> AttemptRow:
        details = None if attempt % 3 else b"%d" % attempt
        return AttemptRow(
            activity_id=activity,
            attempt=attempt,
            state=state,
            started_us=self.rigs[0].now_us,
            details=details,
        )

    @rule(name=names, which=st.sampled_from(QUESTIONS))
    def ask(self, name: str, which: bytes) -> None:
        rig = self.rigs[0]
        self.add(Ask(which, rig.target(name), "status", b"", rig.now_us))

    @rule(which=st.sampled_from(QUESTIONS), ok=st.booleans())
    def put_answer(self, which: bytes, ok: bool) -> None:
        self.add(Answer(which, ok, b"so"))

    @rule(at=st.integers(0, 3))
    def forget_mail(self, at: int) -> None:
        mail = self.look(self.stores[0].mail_since(0, 1000))
        if at < len(mail):
            self.add(ForgetMail(mail[at].position, mail[at].execution_id))

    # ------------------------------------------------------------------------ what is done at once

    @rule()
    def flush(self) -> None:
        """What was drawn since the last time is one group."""
        if self.group:
            group, self.group = self.group, []
            for _ in range(1 + self.lossy):
                self.submit(group)

    def submit(self, group: list[Write]) -> None:
        self.both(lambda store: store.submit(group))

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        for rig in self.rigs:
            rig.now_us += seconds * SECOND_US

    @rule(seconds=st.integers(1, 100))
    def a_clock_is_set_back(self, seconds: int) -> None:
        self.rigs[1].now_us -= seconds * SECOND_US

    def wanted(self, *versions: str) -> list[Wants]:
        """What a worker of each version wants, beside what follows."""
        wants = self.rigs[0].wants()
        return [replace(wants, pinned=(("flow", version),)) for version in versions]

    @rule(name=names, version=versions)
    def pin(self, name: str, version: str | None) -> None:
        self.add(Pin(self.rigs[0].target(name), version))

    @rule(
        limit=st.integers(0, 3),
        doubt=st.booleans(),
        held=st.sets(names),
        version=versions,
        follows=st.booleans(),
    )
    def claim(
        self,
        limit: int,
        doubt: bool,
        held: set[str],
        version: str | None = None,
        follows: bool = True,
    ) -> None:
        self.flush()
        rig = self.rigs[0]
        wants = rig.wants() if version is None else self.wanted(version)[0]
        if not follows:
            wants = replace(wants, types=())
        if doubt:
            rows = [row for name in sorted(held) if (row := self.row(name)) is not None]
            wants = replace(wants, held=frozenset(row.execution_id for row in rows))
        self.both(lambda store: store.claim(wants, rig.now_us, limit))

    @rule(name=names)
    def claim_run(self, name: str) -> None:
        self.flush()
        row = self.row(name)
        if row is not None:
            rig = self.rigs[0]
            self.both(lambda store: store.claim_run(rig.worker_id, row.shard, row.run_id))

    @rule()
    def register(self) -> None:
        self.both(self._register)

    async def _register(self, store: Store) -> None:
        first = self.rigs[0].store
        try:
            self.rigs[0].store = store
            await self.rigs[0].register()
        finally:
            self.rigs[0].store = first

    @rule(alive=st.booleans(), limit=st.integers(1, 2))
    def take_over(self, alive: bool, limit: int) -> None:
        self.flush()
        rig = self.rigs[0]
        living = [rig.worker_id] if alive else []
        freed = self.both(lambda store: store.take_over(living, rig.now_us, limit))
        if not alive and freed != limit:
            rig.worker_id = rig.ids.next(rig.now_us)

    @rule()
    def bury(self) -> None:
        self.both(lambda store: store.bury(self.rigs[0].worker_id))

    @rule()
    def resume_blocked(self) -> None:
        self.flush()
        wants = self.wanted("1")[0]
        self.both(lambda store: store.resume_blocked(wants, self.rigs[0].now_us))

    @rule(which=st.sampled_from(QUESTIONS))
    def forget_question(self, which: bytes) -> None:
        self.both(lambda store: store.forget_question(which))

    @rule(limit=st.integers(1, 4), old=st.integers(-1, 3))
    def prune(self, limit: int, old: int) -> None:
        self.flush()
        horizon_us = self.rigs[0].now_us - old * SECOND_US
        cursor: Any = (-1, b"")
        while cursor is not None:
            at = cursor
            answer = self.both(lambda store: store.prune(at, horizon_us, limit))  # noqa: B023
            assert not isinstance(answer, str)
            cursor, _ = answer


TestSameAnswers = BothStores.TestCase
TestSameAnswers.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
