"""Claims, hand-backs and attempts: what an owner does beside appending."""

import pytest
from msgspec.structs import replace

from everlong_engine.model.codec import encode_event
from everlong_engine.model.events import ActivityCompleted, CancelRequested
from everlong_engine.model.limits import ATTEMPTS_KEPT
from everlong_engine.model.runs import (
    AttemptRow,
    AttemptState,
    Probation,
    RunRow,
    RunStatus,
    Share,
    VersionCount,
)
from everlong_engine.model.writes import Halt, MarkAttempts, MessageResult, Pin, Refusal, Resume
from tests.support.store_rig import SECOND_US, Rig, refusal


def attempt(number: int, state: AttemptState = AttemptState.FAILED, **other: object) -> AttemptRow:
    return replace(
        AttemptRow(activity_id=1, attempt=number, state=state, started_us=number, error="no"),
        **other,
    )


def mark(row: RunRow, *attempts: AttemptRow, probation: Probation | None = None) -> MarkAttempts:
    return MarkAttempts(row.shard, row.run_id, row.lease_token, attempts, probation)


# -------------------------------------------------------------------------------------- claims


async def test_a_claim_moves_the_token_and_the_owner(rig: Rig) -> None:
    before = await rig.started()
    claimed = (await rig.claim_one()).row
    assert claimed == await rig.row()
    assert (claimed.lease_token, claimed.owner, claimed.wake_us) == (
        before.lease_token + 1,
        rig.worker_id,
        None,
    )
    assert await rig.claim() == []


async def test_a_claim_takes_what_it_hosts_only(rig: Rig) -> None:
    await rig.started("a", type="order")
    await rig.started("b", type="refund")
    await rig.started("c", type="order", queue="slow")
    assert [one.row.workflow_id for one in await rig.claim("order")] == ["a"]
    assert [one.row.workflow_id for one in await rig.claim("order", queue="slow")] == ["c"]
    assert await rig.claim("nothing") == []
    assert (await rig.row("b")).owner is None


async def test_the_longest_due_goes_first_whatever_its_type(rig: Rig) -> None:
    for number, kind in enumerate(["a", "b", "a", "b", "a"]):
        await rig.started(f"w{number}", type=kind)
        rig.now_us += 1
    names = [one.row.workflow_id for one in await rig.claim("a", "b", limit=3)]
    assert names == ["w0", "w1", "w2"]
    assert [one.row.workflow_id for one in await rig.claim("b", "a")] == ["w3", "w4"]


async def test_what_is_not_due_is_not_claimed_and_tells_when_it_is(rig: Rig) -> None:
    row = await rig.owned()
    due_us = rig.now_us + 5 * SECOND_US
    await rig.one(rig.release(row, due_us))
    assert await rig.claim() == []
    assert await rig.store.next_wake(rig.wants("flow", "other")) == due_us
    assert await rig.store.next_wake(rig.wants("other")) is None
    rig.now_us = due_us
    assert len(await rig.claim()) == 1
    assert await rig.store.next_wake(rig.wants()) is None


async def test_one_run_is_claimed_by_its_id_when_nobody_has_it(rig: Rig) -> None:
    row = await rig.owned()
    assert await rig.store.claim_run(rig.worker_id, row.shard, row.run_id) is None
    await rig.one(rig.release(row, None))
    loaded = await rig.store.claim_run(rig.worker_id, row.shard, row.run_id)
    assert loaded is not None
    assert loaded.row.lease_token == 2


async def test_what_was_claimed_in_a_lost_answer_is_claimed_anew(rig: Rig) -> None:
    """By its owner alone, which says what it has in its hands."""
    held = await rig.owned("held")
    other = Rig(rig.store, seed=8)
    theirs = await other.owned("theirs")
    await rig.started("lost")
    await rig.started("due")
    await rig.claim(limit=1)
    lost = await rig.row("lost")
    assert lost.owner == rig.worker_id
    knows = replace(rig.wants(), held=frozenset({held.execution_id}))
    (again,) = await rig.store.claim(knows, rig.now_us, 0)
    assert (again.row.run_id, again.row.lease_token) == (lost.run_id, lost.lease_token + 1)
    assert len(again.mail) == 1
    assert refusal(await rig.one(rig.append(lost))) is Refusal.FENCED
    assert (await rig.row("held"), await rig.row("theirs")) == (held, theirs)
    knows = replace(knows, held=frozenset({held.execution_id, lost.execution_id}))
    assert [one.row.workflow_id for one in await rig.store.claim(knows, rig.now_us, 5)] == ["due"]


async def test_a_claimed_run_comes_whole(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(mark(row, attempt(1)))
    await rig.one(rig.release(row, rig.now_us))
    await rig.send()
    loaded = await rig.claim_one()
    assert (len(loaded.history), len(loaded.mail), len(loaded.attempts)) == (1, 1, 1)
    assert loaded.history_bytes > 0


# ----------------------------------------------------------------------------------- hand-backs


async def test_a_run_is_handed_back_asleep(rig: Rig) -> None:
    row = await rig.owned()
    assert refusal(await rig.one(rig.release(row, None))) is None
    row = await rig.row()
    assert (row.owner, row.wake_us, row.status) == (None, None, RunStatus.RUNNING)


async def test_falling_asleep_is_refused_while_there_is_mail(rig: Rig) -> None:
    row = await rig.owned()
    await rig.send()
    asleep = rig.release(row, rig.now_us + SECOND_US)
    assert refusal(await rig.one(asleep)) is Refusal.MAIL
    assert (await rig.row()).owner == rig.worker_id
    at_once = rig.release(row, 0)
    assert refusal(await rig.one(at_once)) is None
    assert len(await rig.claim()) == 1


async def test_falling_asleep_sees_the_mail_of_its_own_group(rig: Rig) -> None:
    row = await rig.owned()
    _, result = await rig.group(rig.message(), rig.release(row, None))
    assert refusal(result) is Refusal.MAIL or (await rig.row()).wake_us is not None


async def test_what_has_not_begun_goes_back_with_its_mail_unless_there_is_more(rig: Rig) -> None:
    await rig.started()
    row = (await rig.claim_one()).row
    begins_us = rig.now_us + 60 * SECOND_US
    (start,) = (await rig.load()).mail
    newer = await rig.position()
    early = rig.release(row, begins_us, waits_with=start.position)
    assert refusal(await rig.one(early)) is Refusal.MAIL
    assert refusal(await rig.one(rig.release(row, begins_us, waits_with=newer))) is None
    await rig.send()
    assert (await rig.row()).wake_us == begins_us
    cancel = rig.message()
    kind, body = encode_event(CancelRequested("enough"), {})
    await rig.one(replace(cancel, kind=kind, body=body))
    assert (await rig.row()).wake_us == rig.now_us


async def test_only_the_owner_that_saw_everything_hands_back(rig: Rig) -> None:
    row = await rig.owned()
    for stale in (replace(row, lease_token=0), replace(row, next_seq=1)):
        assert refusal(await rig.one(rig.release(stale, None))) is Refusal.FENCED
        assert refusal(await rig.one(rig.release(stale, None, blocked=True))) is Refusal.FENCED
    assert (await rig.row()) == row


async def test_many_fall_asleep_in_one_group(rig: Rig) -> None:
    rows = [await rig.owned(f"w{number}") for number in range(30)]
    stale = replace(rows[7], lease_token=9)
    group = [rig.release(stale if row is rows[7] else row, row.started_us) for row in rows]
    results = [refusal(result) for result in await rig.group(*group)]
    assert results == [Refusal.FENCED if at == 7 else None for at in range(30)]
    assert len(await rig.claim(limit=100)) == 29


async def test_a_hand_back_is_known_again_and_undoes_nothing(rig: Rig) -> None:
    """What came behind it stands: mail that woke the run, another's claim."""
    row = await rig.owned()
    asleep = rig.release(row, rig.now_us + SECOND_US)
    assert refusal(await rig.one(asleep)) is None
    await rig.send()
    assert refusal(await rig.one(asleep)) is None
    loaded = await rig.claim_one()
    assert len(loaded.mail) == 1
    assert refusal(await rig.one(asleep)) is not None
    assert (await rig.row()).owner == rig.worker_id


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0)])
async def test_of_two_hand_backs_in_one_group_the_first_that_may_decides(
    rig: Rig, order: tuple[int, int]
) -> None:
    row = await rig.owned()
    wake_us = rig.now_us + SECOND_US
    stale = rig.release(replace(row, lease_token=9), wake_us)
    group = (
        rig.release(row, wake_us),
        stale,
        rig.release(row, None, blocked=True, reason="a fault"),
        rig.release(row, wake_us + SECOND_US),
    )
    results = await rig.group(*(group[at] for at in order))
    told = [refusal(result) for result in results]
    assert told == [Refusal.FENCED if at == 1 else None for at in order]
    first = next(at for at in order if at != 1)
    after = await rig.row()
    assert (after.owner, after.status is RunStatus.BLOCKED) == (None, first == 2)
    assert after.wake_us == group[first].wake_us


async def test_local_outcomes_go_back_as_mail(rig: Rig) -> None:
    row = await rig.owned()
    outcome = encode_event(ActivityCompleted(1, b"ok"), {})
    back = attempt(1, AttemptState.STARTED)
    await rig.one(rig.release(row, 0, mail=(outcome,), attempts=(back,)))
    loaded = await rig.claim_one()
    assert [(mail.kind, mail.body) for mail in loaded.mail] == [outcome]
    assert loaded.attempts == [back]


async def test_a_refused_hand_back_leaves_no_mail(rig: Rig) -> None:
    row = await rig.owned()
    stale = replace(row, lease_token=9)
    outcome = encode_event(ActivityCompleted(1, b"ok"), {})
    await rig.one(rig.release(stale, 0, mail=(outcome,), attempts=(attempt(1),)))
    loaded = await rig.load()
    assert (loaded.mail, loaded.attempts) == ([], [])


# ------------------------------------------------------------------------------------- attempts


async def test_attempts_are_kept_beside_the_history(rig: Rig) -> None:
    row = await rig.owned()
    begun = attempt(1, AttemptState.STARTED, details=b"50 %")
    await rig.one(mark(row, begun))
    ended = attempt(1, ended_us=9, retry_us=20, error_type="E", traceback="T", worker="me")
    await rig.one(mark(row, ended))
    (found,) = await rig.store.attempts(row.shard, row.run_id)
    assert found == replace(ended, details=b"50 %")
    assert await rig.kinds() == ["RunStarted"]


HALT = Halt(7, "the engine", "the bank is down")


async def test_an_exhausted_attempt_pauses_its_execution_with_its_row(rig: Rig) -> None:
    row = await rig.owned()
    last = attempt(2, AttemptState.EXHAUSTED, retry_us=7)
    assert refusal(await rig.one(replace(mark(row, last), halt=HALT))) is None
    held = await rig.row()
    assert (held.status, held.owner, held.lease_token) == (
        RunStatus.PAUSED,
        row.owner,
        row.lease_token,
    )
    assert await rig.store.attempts(row.shard, row.run_id) == [last]
    (pause,) = await rig.store.pause_of(held)
    assert (pause.since_us, pause.by, pause.reason) == (7, "the engine", "the bank is down")


async def test_a_mark_that_is_repeated_does_not_pause_what_goes_on_again(rig: Rig) -> None:
    row = await rig.owned()
    halts = replace(mark(row, attempt(2, AttemptState.EXHAUSTED)), halt=HALT)
    await rig.one(halts)
    await rig.one(Resume(rig.target(), rig.now_us))
    assert refusal(await rig.one(halts)) is None
    assert (await rig.row()).status is RunStatus.RUNNING
    await rig.one(mark(row, attempt(3, AttemptState.STARTED)))
    assert refusal(await rig.one(halts)) is None
    assert (await rig.row()).status is RunStatus.RUNNING
    again = replace(mark(row, attempt(3, AttemptState.EXHAUSTED)), halt=HALT)
    assert refusal(await rig.one(again)) is None
    assert (await rig.row()).status is RunStatus.PAUSED


async def test_a_zombie_pauses_nothing(rig: Rig) -> None:
    row = await rig.owned()
    stale = replace(row, lease_token=0)
    halts = replace(mark(stale, attempt(2, AttemptState.EXHAUSTED)), halt=HALT)
    assert refusal(await rig.one(halts)) is Refusal.FENCED
    assert (await rig.row()).status is RunStatus.RUNNING


async def test_the_attempt_behind_which_a_set_began_is_kept(rig: Rig) -> None:
    row = await rig.owned()
    for number in range(1, 40):
        state = AttemptState.EXHAUSTED if number in (2, 3) else AttemptState.FAILED
        await rig.one(mark(row, attempt(number, state)))
    kept = [one.attempt for one in await rig.store.attempts(row.shard, row.run_id)]
    assert kept == [3, *range(40 - ATTEMPTS_KEPT, 40)]


async def test_a_zombie_marks_no_attempt(rig: Rig) -> None:
    row = await rig.owned()
    stale = replace(row, lease_token=0)
    assert (
        refusal(await rig.one(mark(stale, attempt(1), probation=Probation.ON_TRIAL)))
        is Refusal.FENCED
    )
    assert await rig.store.attempts(row.shard, row.run_id) == []
    assert not (await rig.row()).probation


async def test_a_closed_run_takes_no_attempts(rig: Rig) -> None:
    row = await rig.closed()
    assert refusal(await rig.one(mark(row, attempt(1)))) is Refusal.FENCED


async def test_the_last_attempts_are_kept_and_their_number_stays_exact(rig: Rig) -> None:
    row = await rig.owned()
    for number in range(1, 101):
        await rig.one(mark(row, attempt(number), attempt(number, activity_id=2)))
    found = await rig.store.attempts(row.shard, row.run_id)
    for activity_id in (1, 2):
        numbers = [one.attempt for one in found if one.activity_id == activity_id]
        assert numbers == list(range(101 - ATTEMPTS_KEPT, 101))


async def test_a_mark_that_comes_behind_the_release_is_void_with_the_next_claim(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(rig.release(row, 0))
    await rig.one(mark(row, probation=Probation.OUTLIVED))
    assert (await rig.claim_one()).row.probation is Probation.NONE


async def test_probation_is_a_mark_that_stays(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(mark(row, probation=Probation.ON_TRIAL))
    assert (await rig.row()).probation is Probation.ON_TRIAL
    await rig.one(mark(row, attempt(1)))
    assert (await rig.row()).probation is Probation.ON_TRIAL
    await rig.one(mark(row, probation=Probation.OUTLIVED))
    assert (await rig.row()).probation is Probation.OUTLIVED


# ------------------------------------------------------------------------------------ versions


async def test_a_claim_takes_pinned_runs_of_its_version_only(rig: Rig) -> None:
    await rig.started("follows")
    rig.now_us += 1
    await rig.started("first", version="1")
    await rig.started("second", version="2")
    wants = replace(rig.wants(), pinned=(("flow", "1"), ("other", "2")))
    assert await rig.store.next_wake(replace(wants, types=())) == rig.now_us
    claimed = await rig.store.claim(wants, rig.now_us, 10)
    assert [one.row.workflow_id for one in claimed] == ["follows", "first"]
    older = replace(rig.wants(), types=(), pinned=(("flow", "2"),))
    claimed = await rig.store.claim(older, rig.now_us, 10)
    assert [(one.row.workflow_id, one.row.version) for one in claimed] == [("second", "2")]


async def test_a_run_is_pinned_with_its_first_append_or_not_at_all(rig: Rig) -> None:
    await rig.started()
    row = (await rig.claim_one()).row
    append = rig.append(row)
    append.pin, append.token = "1", row.lease_token - 1
    assert refusal(await rig.one(append)) is Refusal.FENCED
    assert (await rig.row()).version is None
    append = rig.append(row)
    append.pin = "1"
    assert refusal(await rig.one(append)) is None
    assert (await rig.row()).version == "1"
    assert await rig.store.pinned_of(rig.worker_id) == [(row.run_id, "1")]


async def test_shares_tell_who_has_how_many_of_what_is_under_way(rig: Rig) -> None:
    async def shares(*types: str, queue: str = "default", now_us: int = rig.now_us) -> list[Share]:
        return await rig.store.shares(queue, types, now_us)

    assert await shares("flow") == []
    await rig.started("one")
    await rig.started("two")
    assert await shares("flow") == [Share("flow", None, None, 2)]
    (claimed,) = await rig.claim(limit=1)
    row, me = claimed.row, rig.worker_id
    both = [Share("flow", None, None, 1), Share("flow", None, me, 1)]
    assert await shares("flow", "other") == both
    await rig.one(Pin(rig.target(row.workflow_id), "1"))
    assert await shares("flow") == [Share("flow", None, None, 1), Share("flow", "1", me, 1)]
    assert await shares("flow", queue="apart") == await shares("other") == []


async def test_what_is_asleep_is_nobodys_share_until_it_is_due(rig: Rig) -> None:
    row = await rig.owned()
    asleep = rig.now_us + SECOND_US
    assert await rig.store.shares("default", ["flow"], asleep) == [
        Share("flow", None, rig.worker_id, 1)
    ]
    await rig.one(rig.release(row, wake_us=asleep))
    assert await rig.store.shares("default", ["flow"], asleep - 1) == []
    assert await rig.store.shares("default", ["flow"], asleep) == [Share("flow", None, None, 1)]


async def test_pinning_leaves_owner_and_token_alone(rig: Rig) -> None:
    row = await rig.owned(version="1")
    await rig.one(Pin(rig.target(), "2"))
    assert await rig.row() == replace(row, version="2")
    assert refusal(await rig.one(rig.append(row))) is None
    await rig.one(Pin(rig.target(), None))
    assert (await rig.row()).version is None


async def test_a_closed_run_keeps_its_version(rig: Rig) -> None:
    row = await rig.owned(version="1")
    await rig.one(rig.terminate())
    result = await rig.one(Pin(rig.target(), "2"))
    assert isinstance(result, MessageResult)
    assert result.status is RunStatus.TERMINATED
    assert (await rig.row()).version == row.version == "1"


async def test_open_runs_are_counted_by_type_and_version(rig: Rig) -> None:
    await rig.owned("a", version="1")
    blocked = await rig.owned("b", version="1")
    await rig.one(rig.release(blocked, None, blocked=True))
    await rig.owned("c")
    await rig.owned("d", type="another", version="1")
    await rig.one(rig.start("e", namespace="elsewhere"))
    assert await rig.store.versions("default") == [
        VersionCount("another", "1", 1, 0),
        VersionCount("flow", None, 1, 0),
        VersionCount("flow", "1", 1, 1),
    ]


async def test_other_code_resumes_blocked_runs_of_its_version(rig: Rig) -> None:
    for name, version in (("follows", None), ("first", "1"), ("second", "2")):
        row = await rig.owned(name, version=version)
        await rig.one(rig.release(row, None, blocked=True))
    await rig.store.resume_blocked(replace(rig.wants(), pinned=(("flow", "1"),)), rig.now_us)
    statuses = [(await rig.row(name)).status for name in ("follows", "first", "second")]
    assert statuses == [RunStatus.RUNNING, RunStatus.RUNNING, RunStatus.BLOCKED]


async def test_a_worker_tells_its_versions(rig: Rig) -> None:
    await rig.register(types=("flow", "other"), versions=("1", "2"))
    (worker,) = await rig.store.workers()
    assert (worker.version_of("flow"), worker.version_of("other")) == ("1", "2")
    assert worker.may_drive("flow", "1")
    assert worker.may_drive("flow", None)
    assert not worker.may_drive("flow", "2")
    assert not worker.may_drive("gone", None)
