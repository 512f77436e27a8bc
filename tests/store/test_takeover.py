"""After a worker's death: what is lost, who is suspected, and who is parked."""

import pytest

from everlong_engine.model.events import ActivityScheduled, TimerStarted
from everlong_engine.model.limits import STRIKES_TO_POISON
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.runs import AttemptRow, AttemptState, Probation, RunStatus
from everlong_engine.model.writes import MarkAttempts
from tests.support.store_rig import SECOND_US, Rig, refusal, signal


def scheduled(
    activity_id: int = 1, *, began: bool = True, **options: bool | int
) -> ActivityScheduled:
    return ActivityScheduled(
        activity_id,
        "charge",
        b"",
        ActivityOptions(**options),  # type: ignore[arg-type]
        "x.py:1",
        began,
    )


async def test_the_dead_are_marked_dead_and_the_living_are_left_alone(rig: Rig) -> None:
    await rig.register("dead")
    dead = rig.worker_id
    await rig.owned("orphan")
    rig.worker_id = alive = rig.ids.next(rig.now_us)
    await rig.register("alive")
    await rig.owned("cared for")
    assert await rig.store.take_over([alive], rig.now_us, 100) == 1
    assert {one.worker_id: one.dead for one in await rig.store.workers()} == {
        dead: True,
        alive: False,
    }
    assert (await rig.row("cared for")).owner == alive
    assert (await rig.row("orphan")).owner is None


async def test_a_takeover_fences_before_anybody_claims(rig: Rig) -> None:
    row = await rig.owned()
    await rig.register()
    assert await rig.die() == 1
    assert (await rig.row()).lease_token == row.lease_token + 1
    assert refusal(await rig.one(rig.append(row))) is not None


async def test_a_takeover_is_bounded_and_comes_to_an_end(rig: Rig) -> None:
    await rig.register()
    for number in range(7):
        await rig.owned(f"w{number}")
    sweeps = [await rig.store.take_over([], rig.now_us, 3) for _ in range(4)]
    assert sweeps == [3, 3, 1, 0]


async def test_a_worker_that_was_buried_in_order_leaves_nothing_lost(rig: Rig) -> None:
    await rig.register()
    row = await rig.owned()
    await rig.one(rig.release(row, None))
    await rig.store.bury(rig.worker_id)
    assert await rig.die() == 0
    assert (await rig.row()).losses == 0


async def test_only_what_may_have_begun_is_lost(rig: Rig) -> None:
    await rig.register("the dead one")
    row = await rig.owned("w", scheduled(1), scheduled(2, began=False), scheduled(3, began=False))
    begun = AttemptRow(activity_id=3, attempt=4, state=AttemptState.STARTED, started_us=5)
    await rig.one(MarkAttempts(row.shard, row.run_id, row.lease_token, (begun,)))
    await rig.die()
    lost = (await rig.claim_one()).attempts
    assert {(one.activity_id, one.attempt, one.state) for one in lost} == {
        (1, 1, AttemptState.LOST),
        (3, 4, AttemptState.LOST),
    }
    assert all("the dead one" in one.error for one in lost)
    assert all(one.retry_us == rig.now_us for one in lost)


async def test_an_attempt_that_may_not_be_repeated_is_lost_for_good(rig: Rig) -> None:
    await rig.register()
    await rig.owned("w", scheduled(1, at_most_once=True), scheduled(2, max_attempts=1))
    await rig.die()
    assert [one.retry_us for one in (await rig.claim_one()).attempts] == [None, None]


async def test_a_back_off_survives(rig: Rig) -> None:
    await rig.register()
    row = await rig.owned("w", scheduled(began=False))
    due_us = rig.now_us + 60 * SECOND_US
    failed = AttemptRow(
        activity_id=1, attempt=1, state=AttemptState.FAILED, started_us=1, retry_us=due_us
    )
    await rig.one(MarkAttempts(row.shard, row.run_id, row.lease_token, (failed,)))
    await rig.die()
    row = await rig.row()
    assert (row.wake_us, row.losses) == (due_us, 0)
    assert await rig.store.attempts(row.shard, row.run_id) == [failed]


async def test_a_run_that_slept_is_not_suspected(rig: Rig) -> None:
    await rig.register()
    due_us = rig.now_us + SECOND_US
    await rig.owned("w", TimerStarted(1, due_us, "x.py:1"))
    await rig.die()
    row = await rig.row()
    assert (row.losses, row.wake_us) == (0, due_us)


async def test_losses_are_counted_and_progress_forgets_them(rig: Rig) -> None:
    await rig.register()
    await rig.owned("w", scheduled())
    for losses in (1, 2):
        await again(rig)
        assert await guilt(rig, "w") == (losses, 0)
    await rig.one(rig.append(await rig.row(), signal(), healthy=False))
    assert (await rig.row()).losses == 2
    await rig.one(rig.append(await rig.row(), signal()))
    assert (await rig.row()).losses == 0


async def at_work(rig: Rig, workflow_id: str, probation: Probation | None = None) -> None:
    """An attempt is under way, and perhaps the run is on trial."""
    row = await rig.row(workflow_id)
    number = 1 + max(
        (one.attempt for one in await rig.store.attempts(row.shard, row.run_id)), default=0
    )
    begun = AttemptRow(activity_id=1, attempt=number, state=AttemptState.STARTED, started_us=1)
    await rig.one(MarkAttempts(row.shard, row.run_id, row.lease_token, (begun,), probation))


async def guilt(rig: Rig, workflow_id: str) -> tuple[int, int]:
    row = await rig.row(workflow_id)
    return row.losses, row.strikes


async def suspects(rig: Rig, *workflow_ids: str) -> None:
    """All are in a worker's hands, after two deaths in a row."""
    await rig.register()
    for workflow_id in workflow_ids:
        await rig.owned(workflow_id, scheduled())
    for _ in range(2):
        await again(rig)
    for workflow_id in workflow_ids:
        assert await guilt(rig, workflow_id) == (2, 0)


async def again(rig: Rig) -> None:
    await rig.die()
    await rig.register()
    await rig.claim()


async def test_deaths_in_its_trials_park_a_run(rig: Rig) -> None:
    await suspects(rig, "w")
    for strikes in range(STRIKES_TO_POISON):
        assert await guilt(rig, "w") == (2 + strikes, strikes)
        await at_work(rig, "w", Probation.ON_TRIAL)
        await again(rig)
    row = await rig.row()
    assert (row.status, row.owner, row.wake_us) == (RunStatus.BLOCKED, None, None)
    assert row.reason is not None
    assert row.reason.startswith("poison")


async def test_a_death_while_it_is_held_back_clears_a_suspect(rig: Rig) -> None:
    await suspects(rig, "w")
    await at_work(rig, "w", Probation.ON_TRIAL)
    await again(rig)
    assert await guilt(rig, "w") == (3, 1)
    await again(rig)
    assert await guilt(rig, "w") == (1, 0)


async def test_a_death_behind_its_trial_is_a_loss_and_no_strike(rig: Rig) -> None:
    await suspects(rig, "w")
    await at_work(rig, "w", Probation.OUTLIVED)
    await again(rig)
    row = await rig.row()
    assert (row.losses, row.strikes, row.probation) == (3, 0, Probation.NONE)


@pytest.mark.parametrize("mark", [Probation.ON_TRIAL, Probation.OUTLIVED])
async def test_a_driven_suspect_explains_the_death_for_all_who_were_held_in_every_batch(
    rig: Rig, mark: Probation
) -> None:
    names = ["a", "b", "c", "d", "e"]
    await suspects(rig, *names)
    await at_work(rig, "c", mark)
    for _ in names:
        await rig.store.take_over([], rig.now_us, 1)
    expected = dict.fromkeys(names, (2, 0)) | {"c": (3, mark is Probation.ON_TRIAL)}
    assert {name: await guilt(rig, name) for name in names} == expected


async def test_a_suspect_at_rest_explains_nothing(rig: Rig) -> None:
    await suspects(rig, "a", "b")
    await at_work(rig, "a", Probation.OVER)
    await again(rig)
    assert [await guilt(rig, name) for name in ("a", "b")] == [(3, 0), (1, 0)]


async def test_poison_stays_parked_when_other_code_comes(rig: Rig) -> None:
    await test_deaths_in_its_trials_park_a_run(rig)
    changed = await rig.owned("changed")
    await rig.one(rig.release(changed, None, blocked=True, reason="its code changed"))
    await rig.store.resume_blocked(rig.wants("flow"), rig.now_us)
    assert [one.row.workflow_id for one in await rig.claim()] == ["changed"]


async def test_a_suspect_that_a_fault_has_blocked_goes_on_when_other_code_comes(rig: Rig) -> None:
    await suspects(rig, "w")
    await at_work(rig, "w", Probation.ON_TRIAL)
    await again(rig)
    await rig.one(rig.release(await rig.row(), None, blocked=True, reason="its code changed"))
    await rig.store.resume_blocked(rig.wants("flow"), rig.now_us)
    assert [one.row.strikes for one in await rig.claim()] == [1]


async def test_code_of_other_types_resumes_nothing(rig: Rig) -> None:
    row = await rig.owned()
    await rig.one(rig.release(row, None, blocked=True, reason="its code changed"))
    await rig.store.resume_blocked(rig.wants("other"), rig.now_us)
    assert await rig.claim() == []
