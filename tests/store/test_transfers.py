"""Whole executions out of one store and into another, of any kind."""

from collections.abc import AsyncIterator, Sequence

import pytest
from msgspec.structs import replace

from everlong_engine.machine.arrivals import arriving, closed_on_arrival, renamed
from everlong_engine.model.errors import ImportRefused, WorkflowAlreadyStarted
from everlong_engine.model.events import (
    KINDS,
    ActivityScheduled,
    ChildClosed,
    ChildStarted,
    RunCompleted,
    RunContinuedAsNew,
    RunTerminated,
    TagsSet,
)
from everlong_engine.model.export_lines import export_lines, read_export
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.outgoing import Target
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.runs import AttemptRow, AttemptState, RunStatus
from everlong_engine.model.writes import MarkAttempts
from everlong_engine.store.interface import Store
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.support.store_rig import SECOND_US, Rig, item, question, signal

LARGE = bytes(range(256)) * 300
OPTIONS = ActivityOptions(delay_us=SECOND_US)


@pytest.fixture(params=["memory", "inline sqlite"])
async def other(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """Another store."""
    fresh: Store
    fresh = MemoryStore(MemoryData()) if request.param == "memory" else InlineDatabase().open()
    yield Rig(fresh, seed=8)
    await fresh.close()


def scheduled(number: int, *, began: bool = True) -> ActivityScheduled:
    return ActivityScheduled(number, "charge", b"", OPTIONS, "", began)


async def a_rich_one(rig: Rig) -> None:
    """Two runs, mail, attempts, requests, items, an answered and an open approval, blobs."""
    row = await rig.owned("w", item(0), request_id="started-so")
    leaving = rig.append(
        row, RunContinuedAsNew(b"", (), 0), next_run=rig.successor(row), mail_free=False
    )
    await rig.one(leaving)
    row = await rig.row()
    (begun,) = await rig.store.claim(rig.wants(), rig.now_us, 1) or [await rig.load()]
    row = begun.row
    mail = [one.position for one in begun.mail]
    events = (signal(LARGE), item(1, b"second"), question(2), question(3), scheduled(4))
    await rig.one(rig.append(row, *events, consumed=tuple(mail)))
    failed = AttemptRow(
        activity_id=4,
        attempt=1,
        state=AttemptState.FAILED,
        started_us=rig.now_us,
        ended_us=rig.now_us,
        retry_us=rig.now_us + SECOND_US,
        error_type="OSError",
        error="refusé",
        traceback="…",
        worker="there",
        details=b"\xc1\x00",
    )
    await rig.one(MarkAttempts(row.shard, row.run_id, row.lease_token, (failed,)))
    await rig.answered(row, 2, "ann", "a")
    await rig.send(payload=LARGE + b"!", request_id="told-so")
    await rig.send(sent=rig.sent())


async def exported(rig: Rig, name: str = "w", *, family: bool = False) -> list[ExportedExecution]:
    """Through its text, as a file brings it."""
    found = await rig.store.export(rig.target(name), family=family)
    lines = list(export_lines(found, written_by="test", at_us=rig.now_us))
    read = read_export(lines)
    assert list(export_lines(read, written_by="test", at_us=rig.now_us)) == lines
    return read


def bare(executions: Sequence[ExportedExecution]) -> list[ExportedExecution]:
    """Without who had it when, which stays behind."""
    rows = ("shard", "owner", "wake_us", "lease_token", "losses", "strikes", "probation")
    return [
        replace(
            one,
            runs=tuple(
                replace(run, row=replace(run.row, **dict.fromkeys(rows, 0))) for run in one.runs
            ),
        )
        for one in executions
    ]


async def test_all_of_it_arrives(rig: Rig, other: Rig) -> None:
    await a_rich_one(rig)
    (one,) = found = await exported(rig)
    assert len(one.runs) == 2
    assert len(one.mail) == 3
    assert {len(one.blobs), len(one.items)} == {2}
    assert [asked.answer is None for asked in one.runs[1].approvals] == [False, True]
    arrived = arriving(one, 0, other.now_us)
    await other.store.bring([arrived])
    assert await other.problems() == []
    assert bare(await exported(other)) == bare([replace(found[0], runs=arrived.runs)])
    assert await other.published() == await rig.published()
    assert await other.open_approvals() == [("w", 3)]
    assert (await other.claim_one()).mail[0].kind == one.mail[0].kind


async def test_it_is_found_by_its_tags_where_it_arrives(rig: Rig, other: Rig) -> None:
    row = await rig.owned("w", tags=(("customer", "c1"), ("n", 1)))
    changed = TagsSet((("n", None), ("urgent", True)), "")
    await rig.one(rig.append(row, changed))
    await rig.started("waits", tags=(("customer", "c2"),))
    for name in ("w", "waits"):
        (one,) = await exported(rig, name)
        await other.store.bring([arriving(one, 0, other.now_us)])
    assert await other.tags("w") == {"customer": "c1", "urgent": True}
    assert await other.tags("waits") == {"customer": "c2"}
    assert await other.problems() == []


async def test_a_request_that_was_answered_there_is_known_here(rig: Rig, other: Rig) -> None:
    await a_rich_one(rig)
    (one,) = await exported(rig)
    await other.store.bring([arriving(one, 0, other.now_us)])
    assert (await other.send(request_id="told-so")).duplicate
    again = await other.one(other.start(request_id="started-so"))
    assert getattr(again, "same_request", False)


async def test_a_run_at_rest_is_looked_at_and_nobodys(rig: Rig, other: Rig) -> None:
    row = await rig.owned("w", scheduled(1))
    handed_back = AttemptRow(
        activity_id=1, attempt=1, state=AttemptState.NOT_BEGUN, started_us=rig.now_us
    )
    await rig.one(rig.release(row, rig.now_us + SECOND_US, attempts=(handed_back,)))
    (one,) = await exported(rig)
    await other.store.bring([arriving(one, 0, other.now_us)])
    loaded = await other.claim_one()
    assert [attempt.state for attempt in loaded.attempts] == [AttemptState.NOT_BEGUN]


async def test_an_attempt_of_an_owned_run_is_lost_on_the_way(rig: Rig, other: Rig) -> None:
    await rig.owned("w", scheduled(1), scheduled(2, began=False))
    (one,) = await exported(rig)
    await other.store.bring([arriving(one, 0, other.now_us)])
    loaded = await other.claim_one()
    lost = [(row.activity_id, row.state, row.retry_us) for row in loaded.attempts]
    assert lost == [(1, AttemptState.LOST, other.now_us)]
    assert loaded.row.losses == 0


async def test_a_blocked_run_stays_blocked_with_its_reason(rig: Rig, other: Rig) -> None:
    row = await rig.owned("w")
    await rig.one(rig.release(row, blocked=True, reason="its code has changed"))
    (one,) = await exported(rig)
    await other.store.bring([arriving(one, 0, other.now_us)])
    there = await other.row()
    assert (there.status, there.reason) == (RunStatus.BLOCKED, "its code has changed")
    assert await other.claim() == []


async def test_one_that_has_not_begun_begins(rig: Rig, other: Rig) -> None:
    await rig.started("w")
    (one,) = await exported(rig)
    await other.store.bring([arriving(one, 0, other.now_us)])
    assert len((await other.claim_one()).mail) == 1


async def test_what_is_open_under_the_id_is_never_written_over(rig: Rig, other: Rig) -> None:
    await a_rich_one(rig)
    (one,) = await exported(rig)
    theirs = await other.owned("w")
    with pytest.raises(WorkflowAlreadyStarted, match="never written over"):
        await other.store.bring([arriving(one, 0, other.now_us)])
    assert await other.row() == theirs
    await other.one(other.append(theirs, RunCompleted(b"")))
    await other.store.bring([arriving(one, 0, other.now_us)])
    assert (await other.row()).run_id == one.last.run_id
    assert await other.problems() == []


async def test_a_closed_one_takes_its_place_beside_an_open_one(rig: Rig, other: Rig) -> None:
    await rig.closed("w")
    (one,) = await exported(rig)
    theirs = await other.owned("w")
    await other.store.bring([arriving(one, 0, other.now_us)])
    assert await other.row() == theirs
    assert await other.problems() == []


async def test_the_same_one_does_not_arrive_twice(rig: Rig, other: Rig) -> None:
    await rig.closed("w", request_id="r")
    (one,) = await exported(rig)
    arrived = arriving(one, 0, other.now_us)
    await other.store.bring([arrived])
    with pytest.raises(ImportRefused, match="in this store already"):
        await other.store.bring([arrived])


async def test_a_request_id_that_is_taken_is_told(rig: Rig, other: Rig) -> None:
    await rig.closed("w", request_id="r")
    (one,) = await exported(rig)
    await other.closed("w", request_id="r")
    with pytest.raises(ImportRefused, match="same request id 'r'"):
        await other.store.bring([arriving(one, 0, other.now_us)])


async def test_of_several_all_arrive_or_none(rig: Rig, other: Rig) -> None:
    await a_rich_one(rig)
    await rig.owned("v")
    ones = [*await exported(rig), *await exported(rig, "v")]
    await other.owned("v")
    with pytest.raises(WorkflowAlreadyStarted):
        await other.store.bring([arriving(one, 0, other.now_us) for one in ones])
    assert await other.store.latest(other.target("w")) is None
    assert await other.problems() == []


async def test_under_another_id_it_stands_beside_itself(rig: Rig) -> None:
    await a_rich_one(rig)
    (one,) = await exported(rig)
    copy = renamed(one, "default", "copy", lambda: rig.ids.next(rig.now_us))
    await rig.store.bring([arriving(copy, 0, rig.now_us)])
    assert await rig.problems() == []
    there, copied = await rig.row("w"), await rig.row("copy")
    assert there.execution_id != copied.execution_id
    (again,) = await exported(rig, "copy")
    assert [len(run.history) for run in again.runs] == [len(run.history) for run in one.runs]
    assert again.requests == ()
    assert await rig.published("copy") == await rig.published("w")
    started = again.load(again.runs[0]).history[0].event
    assert getattr(started, "workflow_id", None) == "copy"


@pytest.mark.parametrize("kind", ["rich", "not begun"])
async def test_one_that_is_closed_on_arrival_stands_still(rig: Rig, other: Rig, kind: str) -> None:
    await (a_rich_one(rig) if kind == "rich" else rig.started("w"))
    (one,) = await exported(rig)
    closed = closed_on_arrival(one, other.now_us, "only looked at")
    await other.store.bring([arriving(closed, 0, other.now_us)])
    row = await other.row()
    assert row.status is RunStatus.TERMINATED
    assert await other.claim() == []
    assert await other.problems() == []
    last = await other.store.last_event(0, row.run_id)
    assert last is not None
    assert last.event == RunTerminated("only looked at")


async def family_of(rig: Rig) -> None:
    parent = await rig.owned("parent")
    kid = rig.child("kid", 1, parent.run_id)
    await rig.one(rig.append(parent, signal(), outgoing=[kid]))


async def test_a_parent_arrives_with_its_children_or_not_at_all(rig: Rig, other: Rig) -> None:
    await family_of(rig)
    (alone,) = await exported(rig, "parent")
    with pytest.raises(ImportRefused, match="waits for 'kid'"):
        await other.store.bring([arriving(alone, 0, other.now_us)])
    both = await exported(rig, "parent", family=True)
    assert [one.last.workflow_id for one in both] == ["parent", "kid"]
    await other.store.bring([arriving(one, 0, other.now_us) for one in both])
    assert await other.problems() == []
    kid = await other.row("kid")
    await other.one(other.terminate("kid", kid.execution_id))
    told = [KINDS[one.kind] for one in (await other.load("parent")).mail]
    assert told == [ChildStarted, ChildClosed]


async def test_a_child_alone_arrives_without_its_parent(rig: Rig, other: Rig) -> None:
    await family_of(rig)
    (kid,) = await exported(rig, "kid", family=True)
    await other.store.bring([arriving(kid, 0, other.now_us)])
    assert await other.problems() == []


async def test_nothing_is_exported_of_what_is_not_there(rig: Rig) -> None:
    assert await rig.store.export(Target(0, "default", "nobody"), family=True) == []
