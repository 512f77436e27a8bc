"""Approvals in a store: opened and withdrawn with an append, answered once."""

import pytest

from everlong_engine.model.events import (
    ApprovalWithdrawn,
    RunCompleted,
    RunContinuedAsNew,
    RunTimedOut,
)
from everlong_engine.model.runs import RunStatus
from everlong_engine.model.writes import Approvals, Refusal
from tests.support.store_rig import Rig, question, refusal, signal


async def test_an_approval_is_open_until_it_is_answered(rig: Rig) -> None:
    row = await rig.owned("w", question(1), question(2))
    assert await rig.open_approvals() == [("w", 1), ("w", 2)]
    assert (await rig.answered(row, 1, "ann", "a")).accepted
    assert await rig.open_approvals() == [("w", 2)]
    second = await rig.answered(row, 1, "bob", "b")
    assert not second.accepted
    assert second.answer == rig.answer(row, 1, "ann").body
    assert (await rig.answered(row, 1, "ann", "a")).accepted, "the same request"
    assert len((await rig.load()).mail) == 1
    unknown = await rig.answered(row, 3, "ann", "c")
    assert (unknown.accepted, unknown.answer) == (False, None)
    assert await rig.problems() == []


async def test_an_answer_wakes_a_sleeping_run(rig: Rig) -> None:
    row = await rig.owned("w", question(1))
    await rig.one(rig.release(row))
    assert await rig.claim() == []
    assert (await rig.answered(row, 1, "ann", "a")).accepted
    assert [one.row.run_id for one in await rig.claim()] == [row.run_id]


async def test_what_was_answered_is_not_withdrawn(rig: Rig) -> None:
    row = await rig.owned("w", question(1))
    await rig.answered(row, 1, "ann", "a")
    withdrawing = rig.append(row, signal(), ApprovalWithdrawn(1))
    assert refusal(await rig.one(withdrawing)) is Refusal.MAIL
    assert (await rig.row()).next_seq == row.next_seq
    for last in (RunCompleted(b""), RunContinuedAsNew(b"", (), 0)):
        ending = rig.append(row, last, approvals=Approvals((), (1,)), mail_free=False)
        assert refusal(await rig.one(ending)) is Refusal.MAIL
    assert refusal(await rig.one(rig.append(row, signal()))) is None


async def test_what_was_withdrawn_is_not_answered(rig: Rig) -> None:
    row = await rig.owned("w", question(1))
    assert refusal(await rig.one(rig.append(row, signal(), ApprovalWithdrawn(1)))) is None
    result = await rig.answered(row, 1, "ann", "a")
    assert (result.accepted, result.answer) == (False, None)
    assert await rig.open_approvals() == []


async def test_of_both_in_one_group_the_append_goes_first(rig: Rig) -> None:
    row = await rig.owned("w", question(1))
    group = rig.answer(row, 1, "ann"), rig.append(row, signal(), ApprovalWithdrawn(1))
    answered, appended = await rig.group(*group)
    assert refusal(appended) is None
    assert not getattr(answered, "accepted", True)
    assert await rig.problems() == []


@pytest.mark.parametrize("how", ["terminate", "time out", "close", "at once"])
async def test_open_ones_go_with_their_run(rig: Rig, how: str) -> None:
    gone = Approvals((), (1,), forced=how == "time out")
    if how == "at once":
        start = rig.start_here("w", question(1), RunCompleted(b""))
        assert start.first is not None
        start.first.approvals = Approvals(((1, 2),), (1,))
        await rig.one(start)
        assert await rig.open_approvals() == []
        return
    row = await rig.owned("w", question(1))
    if how == "terminate":
        await rig.one(rig.terminate())
    elif how == "close":
        await rig.one(rig.append(row, RunCompleted(b""), approvals=gone))
    else:
        options = {"closed": RunStatus.TIMED_OUT, "closed_us": rig.now_us, "approvals": gone}
        await rig.one(rig.append(row, RunTimedOut("run"), **options))
    assert not (await rig.row()).status.is_open
    assert await rig.open_approvals() == []
    assert not (await rig.answered(row, 1, "ann", "a")).accepted
    assert await rig.problems() == []


async def test_one_that_outlives_its_run_is_named(rig: Rig) -> None:
    row = await rig.owned("w", question(1))
    forgetful = rig.append(row, RunCompleted(b""), approvals=Approvals(), mail_free=False)
    assert refusal(await rig.one(forgetful)) is None
    (problem,) = await rig.problems()
    assert problem.startswith("approval 1 of "), problem
    assert problem.endswith("is open, and its run is not"), problem


async def test_who_was_first_is_told_as_long_as_the_run_is_kept(rig: Rig) -> None:
    row = await rig.owned("w", question(1))
    await rig.answered(row, 1, "ann", "a")
    await rig.one(rig.terminate())
    assert (await rig.answered(row, 1, "bob", "b")).answer is not None
    rig.now_us += 10_000_000
    await rig.store.prune((-1, b""), rig.now_us, 100)
    assert (await rig.answered(row, 1, "bob", "b")).answer is None
    assert await rig.problems() == []
