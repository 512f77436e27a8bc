"""Executions that leave a store of any kind, and those that come into one."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from everlong_engine.machine.arrivals import arriving
from everlong_engine.machine.moving import as_it_stood, bringing, move_of
from everlong_engine.model.errors import ImportRefused, WorkflowAlreadyStarted
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.moves import MOVER
from everlong_engine.model.outgoing import Target
from everlong_engine.model.runs import RunStatus
from everlong_engine.model.writes import (
    MessageResult,
    Pause,
    Pin,
    Resume,
    StartResult,
)
from everlong_engine.store.interface import Store
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.support.store_rig import SECOND_US, Rig, item, question

DAY_US = 86_400 * SECOND_US
PLACE = "the other one"


@pytest.fixture(params=["memory", "inline sqlite"])
async def other(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """Another store."""
    fresh: Store
    fresh = MemoryStore(MemoryData()) if request.param == "memory" else InlineDatabase().open()
    yield Rig(fresh, seed=8)
    await fresh.close()


async def held(rig: Rig, name: str = "w", by: str = MOVER) -> list[ExportedExecution]:
    """The family, when nothing goes on in it."""
    await rig.one(Pause(rig.target(name), rig.now_us, by, "it moves"))
    return await rig.store.export(rig.target(name), family=True)


async def left(rig: Rig, name: str = "w") -> list[ExportedExecution]:
    """Marked as moved; what is kept of it."""
    assert await rig.store.leave(rig.target(name), await held(rig, name), PLACE)
    return await rig.store.export(rig.target(name), family=True)


def packed(family: list[ExportedExecution], now_us: int = 0) -> list[ExportedExecution]:
    return [arriving(bringing(as_it_stood(one), move_of(one).turn), 0, now_us) for one in family]


def named(family: list[ExportedExecution]) -> list[tuple[Target, int]]:
    return [
        (
            Target(one.last.shard, one.last.namespace, one.last.workflow_id, one.last.execution_id),
            move_of(one).turn,
        )
        for one in family
    ]


async def a_run(rig: Rig, name: str = "w") -> None:
    """Begun, at rest, with mail, a request, an item and an open approval."""
    row = await rig.owned(name, item(0))
    await rig.one(rig.append(row, question(2)))
    row = await rig.row(name)
    await rig.one(rig.release(row))
    await rig.send(name, request_id="told")


async def test_what_left_as_it_was_seen_takes_nothing_more(rig: Rig, other: Rig) -> None:
    await a_run(rig)
    family = await left(rig)
    row = await rig.row()
    assert (row.status, row.reason, row.owner, row.wake_us) == (RunStatus.MOVED, PLACE, None, None)
    assert await rig.problems() == []
    # It is known what it was told before; nothing else is accepted.
    assert (await rig.send(request_id="told")).duplicate
    for result in (
        await rig.send(),
        await rig.one(rig.terminate()),
        await rig.one(Pause(rig.target(), rig.now_us, "ann", "")),
        await rig.one(Resume(rig.target(), rig.now_us)),
        await rig.one(Pin(rig.target(), "v")),
    ):
        assert isinstance(result, MessageResult)
        assert (result.status, result.position) == (RunStatus.MOVED, None)
    assert not (await rig.answered(row, 2, "ann", "a")).accepted
    for start in (
        rig.start(),
        rig.start(if_open="use"),
        rig.start(if_open="terminate"),
        rig.start(request_id="n"),
    ):
        started = await rig.one(start)
        assert isinstance(started, StartResult)
        assert (started.created, started.refused) == (False, True)
        assert started.status is RunStatus.MOVED
    here = await rig.one(rig.start_here())
    assert isinstance(here, StartResult)
    assert (here.created, here.refused) == (False, True)
    assert await rig.claim() == []
    await other.store.bring(packed(family), moved=True)
    assert await other.problems() == []
    assert (await other.row()).status is RunStatus.RUNNING
    assert [one.kind for one in (await other.claim_one()).mail] == [family[0].mail[0].kind]


async def test_what_was_said_meanwhile_goes_with_it(rig: Rig, other: Rig) -> None:
    await a_run(rig)
    seen = await held(rig)
    assert seen[0].last.status is RunStatus.PAUSED
    await rig.send(request_id="late")
    await rig.one(rig.answer(await rig.row(), 2, "ann"))
    await rig.one(Pause(rig.target(), rig.now_us, "ann", "of her own"))
    await rig.one(Pin(rig.target(), "v"))
    assert await rig.store.leave(rig.target(), seen, PLACE)
    await other.store.bring(packed(await rig.store.export(rig.target(), family=True)), moved=True)
    row = await other.row()
    assert (row.status, row.version) == (RunStatus.PAUSED, "v")
    assert [one.by for one in await other.store.pause_of(row)] == ["ann"]
    assert len((await other.load()).mail) == 3
    assert (await other.send(request_id="late")).duplicate
    assert await other.open_approvals() == []
    assert await other.problems() == []


async def test_it_does_not_leave_when_it_goes_on_or_is_in_hand(rig: Rig) -> None:
    await a_run(rig)
    seen = await held(rig)
    await rig.one(Resume(rig.target(), rig.now_us))
    assert not await rig.store.leave(rig.target(), seen, PLACE)
    claimed = await rig.claim_one()
    seen = await held(rig)
    assert not await rig.store.leave(rig.target(), seen, PLACE), "somebody has it in hand"
    await rig.one(rig.release(claimed.row, wake_us=0))
    assert not await rig.store.leave(rig.target(), seen, PLACE), "it was another's when seen"
    assert await rig.store.leave(rig.target(), await held(rig), PLACE)


async def test_only_the_hold_of_a_move_gives_way_and_only_it_is_taken_back(rig: Rig) -> None:
    await a_run(rig)
    await held(rig)
    await rig.one(Pause(rig.target(), rig.now_us, "ann", "of her own"))
    await rig.one(Pause(rig.target(), rig.now_us, "bob", "too late"))
    (seen,) = await rig.store.export(rig.target(), family=True)
    assert seen.held == (rig.now_us, "ann", "of her own")
    await rig.one(Resume(rig.target(), rig.now_us, by=MOVER))
    assert (await rig.row()).status is RunStatus.PAUSED, "that was her wish"
    await rig.one(Resume(rig.target(), rig.now_us))
    assert (await rig.row()).status is RunStatus.RUNNING
    await held(rig)
    await rig.one(Resume(rig.target(), rig.now_us, by=MOVER))
    assert (await rig.row()).status is RunStatus.RUNNING
    assert await rig.problems() == []


async def test_what_is_brought_twice_is_there_once(rig: Rig, other: Rig) -> None:
    await a_run(rig)
    family = await left(rig)
    await other.store.bring(packed(family), moved=True)
    claimed = await other.claim_one()
    await other.one(other.append(claimed.row, item(1)))
    await other.store.bring(packed(family), moved=True)
    assert (await other.row()).next_seq == claimed.row.next_seq + 1, "it has gone on meanwhile"
    assert await rig.store.settle(named(family), rig.now_us, arrived=True)
    assert not await rig.store.settle(named(family), rig.now_us, arrived=True)
    assert await rig.problems() == []


async def test_a_rehearsal_stores_nothing_and_finds_what_is_in_the_way(
    rig: Rig, other: Rig
) -> None:
    await a_run(rig)
    coming = packed(await left(rig))
    await other.store.bring(coming, moved=True, rehearsed=True)
    assert await other.store.latest(other.target()) is None
    await other.started()
    with pytest.raises(WorkflowAlreadyStarted):
        await other.store.bring(coming, moved=True, rehearsed=True)


async def test_what_was_refused_does_not_come_any_more_and_goes_on_here(
    rig: Rig, other: Rig
) -> None:
    await a_run(rig)
    family = await left(rig)
    assert await other.store.refuse_arrivals(named(family), other.now_us)
    assert await rig.store.settle(named(family), rig.now_us, arrived=False)
    row = await rig.row()
    assert (row.status, row.reason, row.wake_us) == (RunStatus.RUNNING, None, rig.now_us)
    with pytest.raises(ImportRefused, match="called off"):
        await other.store.bring(packed(family), moved=True)
    # Moved once more, it is another turn.
    again = await left(rig)
    assert move_of(again[0]).turn == 2
    await other.store.bring(packed(again), moved=True)
    assert not await other.store.refuse_arrivals(named(again), other.now_us), "it has arrived"
    assert await rig.problems() == []
    assert await other.problems() == []


async def test_it_comes_back_in_the_place_of_what_it_left(rig: Rig, other: Rig) -> None:
    await a_run(rig)
    first = await left(rig)
    await other.store.bring(packed(first), moved=True)
    await rig.store.settle(named(first), rig.now_us, arrived=True)
    claimed = await other.claim_one()
    await other.one(other.append(claimed.row, item(1)))
    await other.one(other.release(await other.row(), wake_us=0))
    back = await left(other)
    await rig.store.bring([replace(one) for one in packed(back)], moved=True)
    await other.store.settle(named(back), other.now_us, arrived=True)
    assert (await rig.row()).status is RunStatus.RUNNING
    assert len(await rig.kinds()) == len(await other.kinds())
    assert await rig.problems() == []
    assert await other.problems() == []
    # Somebody who was stopped with the first copy in hand comes too late.
    with pytest.raises(ImportRefused, match="has been here since"):
        await other.store.bring(packed(first), moved=True)


async def test_what_is_under_way_is_kept_and_what_has_arrived_goes_with_its_retention(
    rig: Rig, other: Rig
) -> None:
    await a_run(rig)
    family = await left(rig)
    rig.now_us += 60 * DAY_US
    start = (-1, b"")
    await rig.store.prune(start, rig.now_us, 10)
    assert len(await rig.store.export(rig.target(), family=True)) == 1
    await other.store.bring(packed(family), moved=True)
    await rig.store.settle(named(family), rig.now_us, arrived=True)
    assert (await rig.row()).closed_us == rig.now_us
    await rig.store.prune(start, rig.now_us + DAY_US, 10)
    assert await rig.store.latest(rig.target()) is None
    assert await rig.problems() == []


async def test_the_remains_of_one_give_way_to_another_with_its_id(rig: Rig, other: Rig) -> None:
    await a_run(rig)
    family = await left(rig)
    await other.started("w")
    coming = packed(await left(other))
    with pytest.raises(ImportRefused, match="nobody has seen it arrive"):
        await rig.store.bring(coming, moved=True)
    await rig.store.settle(named(family), rig.now_us, arrived=True)
    await rig.store.bring(coming, moved=True)
    assert (await rig.row()).status is RunStatus.RUNNING
    assert await rig.problems() == []
