"""Appends: the compare-and-set that makes a history one, and what may stand in its way."""

import pytest

from everlong_engine.model.events import (
    ActivityScheduled,
    RunCompleted,
    RunContinuedAsNew,
    RunStarted,
)
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.runs import RunStatus
from everlong_engine.model.writes import AppendResult, Refusal
from everlong_engine.store.interface import MailGone
from tests.support.store_rig import Rig, refusal, signal

GONE = 10_000


async def test_an_append_is_in_the_history_with_its_successors(rig: Rig) -> None:
    row = await rig.owned()
    assert refusal(await rig.one(rig.append(row, signal(b"1"), signal(b"2")))) is None
    assert refusal(await rig.one(rig.append(await rig.row(), signal(b"3")))) is None
    history = (await rig.load()).history
    assert [one.seq for one in history] == [1, 2, 3, 4]
    assert [one.event for one in history[1:]] == [signal(b"1"), signal(b"2"), signal(b"3")]
    assert await rig.problems() == []


@pytest.mark.parametrize("base", [1, 3], ids=["overlap", "gap"])
async def test_an_append_at_the_wrong_place_is_refused(rig: Rig, base: int) -> None:
    row = await rig.owned()
    assert refusal(await rig.one(rig.append(row, base=base))) is Refusal.FENCED
    assert await rig.kinds() == ["RunStarted"]


@pytest.mark.parametrize("token", [0, 2])
async def test_an_append_with_another_token_is_refused(rig: Rig, token: int) -> None:
    row = await rig.owned()
    assert refusal(await rig.one(rig.append(row, token=token))) is Refusal.FENCED
    assert (await rig.row()).next_seq == 2


async def test_no_older_token_is_accepted_behind_a_newer_one(rig: Rig) -> None:
    zombie = await rig.owned()
    await rig.register()
    await rig.die()
    taken = (await rig.claim_one()).row
    assert taken.lease_token > zombie.lease_token
    assert refusal(await rig.one(rig.append(zombie))) is Refusal.FENCED
    assert refusal(await rig.one(rig.append(taken))) is None
    assert refusal(await rig.one(rig.append(zombie, base=3))) is Refusal.FENCED


async def test_the_same_append_twice_is_stored_once_and_answered_as_done(rig: Rig) -> None:
    append = rig.append(row := await rig.owned())
    results = await rig.group(append, append)
    assert [refusal(result) for result in results] == [None, None]
    assert refusal(await rig.one(append)) is None
    assert len((await rig.load()).history) == 2
    another = rig.append(row)
    assert refusal(await rig.one(another)) is Refusal.FENCED
    assert len((await rig.load()).history) == 2


async def test_a_chain_of_appends_goes_in_one_group(rig: Rig) -> None:
    row = await rig.owned()
    chain = [rig.append(row, signal(b"%d" % number), base=2 + number) for number in range(40)]
    results = await rig.group(*chain)
    assert [refusal(result) for result in results] == [None] * 40
    assert (await rig.row()).next_seq == 42


async def test_behind_a_refused_append_all_are_refused(rig: Rig) -> None:
    row = await rig.owned()
    results = await rig.group(rig.append(row, base=3), rig.append(row, base=4))
    assert [refusal(result) for result in results] == [Refusal.FENCED] * 2


async def test_a_stale_append_does_not_fail_the_right_one_of_its_run(rig: Rig) -> None:
    row = await rig.owned()
    results = await rig.group(rig.append(row, base=7), rig.append(row, base=2))
    assert [refusal(result) for result in results] == [Refusal.FENCED, None]


async def test_a_refused_append_fails_no_other_run_of_its_group(rig: Rig) -> None:
    rows = [await rig.owned(f"w{number}") for number in range(5)]
    results = await rig.group(
        *(rig.append(row, base=9 if at == 2 else 2) for at, row in enumerate(rows))
    )
    assert [refusal(result) for result in results] == [None, None, Refusal.FENCED, None, None]


async def test_nothing_follows_a_closing_event(rig: Rig) -> None:
    row = await rig.owned()
    results = await rig.group(
        rig.append(row, RunCompleted(b"1")), rig.append(row, RunCompleted(b"2"), base=3)
    )
    assert [refusal(result) for result in results] == [None, Refusal.FENCED]
    assert refusal(await rig.one(rig.append(row, base=3))) is Refusal.FENCED
    assert await rig.problems() == []


async def test_closing_gives_the_run_up(rig: Rig) -> None:
    row = await rig.owned()
    rig.now_us += 5
    await rig.one(rig.append(row, RunCompleted(b"1")))
    row = await rig.row()
    assert (row.status, row.owner, row.closed_us) == (RunStatus.COMPLETED, None, rig.now_us)
    assert row.wake_us is None


# --------------------------------------------------------------------------------------- mail


async def test_consumed_mail_is_gone_exactly(rig: Rig) -> None:
    row = await rig.owned()
    first = await rig.position(payload=b"1")
    second = await rig.position(payload=b"2")
    assert refusal(await rig.one(rig.append(row, consumed=(second,)))) is None
    (left,) = (await rig.load()).mail
    assert left.position == first


async def test_leaving_is_refused_while_there_is_mail(rig: Rig) -> None:
    row = await rig.owned()
    position = await rig.position()
    closing = rig.append(row, RunCompleted(b"1"))
    assert refusal(await rig.one(closing)) is Refusal.MAIL
    assert await rig.kinds() == ["RunStarted"]
    assert [mail.position for mail in (await rig.load()).mail] == [position]


async def test_leaving_is_accepted_with_exactly_the_consumed_mail(rig: Rig) -> None:
    row = await rig.owned()
    one, two = await rig.position(), await rig.position()
    partly = rig.append(row, signal(), RunCompleted(b"1"), consumed=(one,))
    assert refusal(await rig.one(partly)) is Refusal.MAIL
    wholly = rig.append(row, signal(), signal(), RunCompleted(b"1"), consumed=(one, two))
    assert refusal(await rig.one(wholly)) is None
    assert (await rig.load()).mail == []


async def test_leaving_counts_what_earlier_appends_of_the_group_consume(rig: Rig) -> None:
    row = await rig.owned()
    position = await rig.position()
    results = await rig.group(
        rig.append(row, signal(), consumed=(position,)), rig.append(row, RunCompleted(b""), base=3)
    )
    assert [refusal(result) for result in results] == [None, None]


async def test_mail_of_others_is_no_reason_to_stay(rig: Rig) -> None:
    await rig.owned("other")
    await rig.position("other")
    row = await rig.owned()
    assert refusal(await rig.one(rig.append(row, RunCompleted(b"1")))) is None


async def test_an_append_that_need_not_be_mail_free_passes(rig: Rig) -> None:
    row = await rig.owned()
    await rig.position()
    assert refusal(await rig.one(rig.append(row))) is None


async def test_consuming_what_is_gone_voids_the_group(rig: Rig) -> None:
    """Whoever knows the group then sends each alone; here it is GroupCommit."""
    good, bad = await rig.owned("good"), await rig.owned("bad")
    with pytest.raises(MailGone):
        await rig.group(rig.append(good), rig.append(bad, consumed=(GONE,)))
    assert await rig.kinds("good") == ["RunStarted"]
    assert await rig.kinds("bad") == ["RunStarted"]


async def test_mail_is_consumed_once(rig: Rig) -> None:
    row = await rig.owned()
    position = await rig.position()
    await rig.one(rig.append(row, consumed=(position,)))
    with pytest.raises(MailGone):
        await rig.one(rig.append(await rig.row(), consumed=(position,)))


async def test_mail_of_another_execution_is_not_consumed(rig: Rig) -> None:
    await rig.owned("other")
    position = await rig.position("other")
    with pytest.raises(MailGone):
        await rig.one(rig.append(await rig.owned(), consumed=(position,)))
    assert len((await rig.load("other")).mail) == 1


# ---------------------------------------------------------------------------------- roll-over


async def test_a_roll_over_hands_the_execution_to_its_next_run(rig: Rig) -> None:
    row = await rig.owned()
    following = rig.successor(row)
    result = await rig.one(
        rig.append(row, RunContinuedAsNew(b"", (), 1), next_run=following, mail_free=False)
    )
    assert isinstance(result, AppendResult)
    after = await rig.row()
    assert (after.run_id, after.execution_id) == (following.run.run_id, row.execution_id)
    assert (after.owner, after.lease_token, after.next_seq) == (rig.worker_id, 1, 1)
    loaded = await rig.load(after)
    assert [mail.position for mail in loaded.mail] == [result.next_run_mail]
    assert (await rig.load(row)).row.status is RunStatus.CONTINUED_AS_NEW
    assert await rig.problems() == []


async def test_mail_outlives_a_roll_over(rig: Rig) -> None:
    row = await rig.owned()
    position = await rig.position()
    await rig.one(
        rig.append(row, RunContinuedAsNew(b"", (), 1), next_run=rig.successor(row), mail_free=False)
    )
    assert position in [mail.position for mail in (await rig.load()).mail]


async def test_a_refused_roll_over_begins_nothing(rig: Rig) -> None:
    row = await rig.owned()
    rolling = rig.append(row, RunContinuedAsNew(b"", (), 1), next_run=rig.successor(row), base=3)
    assert refusal(await rig.one(rolling)) is Refusal.FENCED
    assert (await rig.row()).run_id == row.run_id


# ------------------------------------------------------------------------------- whole events


async def test_every_field_of_an_event_comes_back(rig: Rig) -> None:
    event = ActivityScheduled(
        1, "charge", b"\x00\xff", ActivityOptions(max_attempts=3, at_most_once=True), "a.py:1", True
    )
    await rig.one(rig.append(await rig.owned(), event))
    assert (await rig.load()).history[-1].event == event


async def test_a_history_is_longer_than_any_statement(rig: Rig) -> None:
    row = await rig.owned()
    events = [signal(b"%d" % number) for number in range(2_000)]
    assert refusal(await rig.one(rig.append(row, *events))) is None
    history = (await rig.load()).history
    assert [one.event for one in history[1:]] == events
    assert isinstance(history[0].event, RunStarted)


async def test_what_follows_an_append_that_is_known_again_is_driven_again(rig: Rig) -> None:
    """The answer to the first was lost, and the owner had gone on: it looks anew."""
    row = await rig.owned()
    first = rig.events(row, row.next_seq, signal(b"1"), token=row.lease_token)
    second = rig.events(row, row.next_seq + 1, signal(b"2"), token=row.lease_token)
    assert refusal(await rig.one(first)) is None
    known, behind = await rig.group(first, second)
    assert isinstance(known, AppendResult)
    assert known.repeated
    assert refusal(behind) is Refusal.FENCED
    assert refusal(await rig.one(second)) is None
    assert await rig.problems() == []
