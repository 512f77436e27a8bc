"""What a worker's death means for a run: attempts that may have begun, guilt, and when to look."""

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from everlong_engine.machine.state import fold
from everlong_engine.machine.takeover import Verdict, judge, latest_attempts, next_deadline_us
from everlong_engine.model.codec import encode_event
from everlong_engine.model.events import (
    ActivityCompleted,
    ActivityScheduled,
    Event,
    Recorded,
    RunStarted,
    TimerFired,
    TimerStarted,
)
from everlong_engine.model.limits import STRIKES_TO_POISON
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.runs import (
    AttemptRow,
    AttemptState,
    LoadedRun,
    MailRow,
    Probation,
    RunRow,
    RunStatus,
)

NOW = 1_000_000
START = RunStarted("order", b"", "id", 7, "code", "3.11")
MAIL = MailRow(1, b"e" * 16, 7, b"", 0)


def row(
    *,
    status: RunStatus = RunStatus.RUNNING,
    losses: int = 0,
    strikes: int = 0,
    probation: Probation = Probation.NONE,
) -> RunRow:
    return RunRow(
        shard=0,
        run_id=b"r" * 16,
        execution_id=b"e" * 16,
        namespace="default",
        workflow_id="id",
        type="order",
        queue="default",
        status=status,
        next_seq=2,
        lease_token=1,
        owner=b"w" * 16,
        wake_us=None,
        started_us=0,
        closed_us=None,
        losses=losses,
        strikes=strikes,
        probation=probation,
        reason=None,
        request_id=None,
    )


def scheduled(
    number: int, *, began: bool = False, options: ActivityOptions | None = None
) -> ActivityScheduled:
    return ActivityScheduled(number, "act", b"", options or ActivityOptions(), "here", began)


def attempt(
    number: int, count: int, state: AttemptState, retry_us: int | None = None
) -> AttemptRow:
    return AttemptRow(
        activity_id=number, attempt=count, state=state, started_us=5, retry_us=retry_us
    )


def run(
    *events: Event,
    run_row: RunRow | None = None,
    attempts: tuple[AttemptRow, ...] = (),
    mail: bool = False,
) -> LoadedRun:
    history = [Recorded(seq, seq, event) for seq, event in enumerate((START, *events), 1)]
    return LoadedRun(run_row or row(), history, [MAIL] if mail else [], list(attempts))


def judged(loaded: LoadedRun, *, explained: bool = False) -> Verdict:
    return judge(loaded, "old-worker", NOW, explained=explained)


def lost(verdict: Verdict) -> list[tuple[int, int]]:
    return [(one.activity_id, one.attempt) for one in verdict.lost]


# ------------------------------------------------------------------------------- lost attempts


def test_only_what_may_have_begun_is_lost() -> None:
    verdict = judged(
        run(
            scheduled(1, began=True),
            scheduled(2),
            scheduled(3),
            scheduled(4, began=True),
            ActivityCompleted(4, b""),
            attempts=(attempt(3, 2, AttemptState.STARTED),),
        )
    )
    assert lost(verdict) == [(1, 1), (3, 2)]
    assert all(one.state is AttemptState.LOST for one in verdict.lost)
    assert all("old-worker" in one.error for one in verdict.lost)
    assert all(one.ended_us == NOW for one in verdict.lost)


@pytest.mark.parametrize("state", [AttemptState.FAILED, AttemptState.LOST, AttemptState.TIMED_OUT])
def test_an_attempt_in_back_off_is_not_lost_again(state: AttemptState) -> None:
    loaded = run(scheduled(1, began=True), attempts=(attempt(1, 1, state, NOW + 50),))
    verdict = judged(loaded)
    assert not verdict.lost
    assert verdict.wake_us == NOW + 50
    assert verdict.losses == 0


def test_a_lost_attempt_counts() -> None:
    twice = ActivityOptions(max_attempts=2)
    first = judged(run(scheduled(1, began=True, options=twice)))
    assert first.lost[0].retry_us == NOW
    started = (attempt(1, 2, AttemptState.STARTED),)
    last = judged(run(scheduled(1, began=True, options=twice), attempts=started))
    assert last.lost[0].retry_us is None
    once = judged(run(scheduled(1, began=True, options=ActivityOptions(at_most_once=True))))
    assert once.lost[0].retry_us is None


def test_the_newest_attempt_speaks_for_its_activity() -> None:
    rows = [
        attempt(1, 2, AttemptState.STARTED),
        attempt(1, 1, AttemptState.FAILED),
        attempt(2, 1, AttemptState.FAILED),
    ]
    newest = latest_attempts(rows)
    assert newest == {1: rows[0], 2: rows[2]}
    assert latest_attempts(list(reversed(rows))) == newest


# ------------------------------------------------------------------------------------- deadlines


def deadline(loaded: LoadedRun) -> int | None:
    return next_deadline_us(fold(loaded.history), loaded.attempts)


def test_a_run_that_waits_for_mail_alone_has_no_deadline() -> None:
    assert deadline(run()) is None
    assert deadline(run(TimerStarted(1, 5, "here"), TimerFired(1))) is None


def test_the_earliest_of_all_deadlines_counts() -> None:
    limited = ActivityOptions(schedule_to_close_us=300)
    assert deadline(run(TimerStarted(1, 70, "here"), TimerStarted(2, 60, "here"))) == 60
    assert deadline(run(scheduled(1))) == 0
    failed = (attempt(1, 1, AttemptState.FAILED, 500),)
    assert deadline(run(scheduled(1), attempts=failed)) == 500
    assert deadline(run(scheduled(1, options=limited), attempts=failed)) == 302
    begun = replace(START, run_timeout_us=40, execution_deadline_us=90)
    loaded = run(TimerStarted(1, 70, "here"))
    loaded.history[0] = Recorded(1, 1, begun)
    assert deadline(loaded) == 41
    loaded.history[0] = Recorded(1, 1, replace(begun, run_timeout_us=None))
    assert deadline(loaded) == 70


# ----------------------------------------------------------------------------------------- guilt


def test_a_sleeping_run_is_not_blamed() -> None:
    verdict = judged(run(TimerStarted(1, NOW + 5, "here"), run_row=row(losses=1)))
    assert (verdict.losses, verdict.strikes, verdict.wake_us) == (1, 0, NOW + 5)
    assert verdict.status is RunStatus.RUNNING


@pytest.mark.parametrize(
    "loaded",
    [
        run(scheduled(1, began=True)),
        run(mail=True),
        run(TimerStarted(1, NOW, "here")),
    ],
    ids=["an attempt", "mail", "a timer that is due"],
)
def test_a_run_at_work_has_a_loss_and_is_looked_at_now(loaded: LoadedRun) -> None:
    verdict = judged(loaded)
    assert (verdict.losses, verdict.strikes, verdict.wake_us) == (1, 0, NOW)


@given(st.lists(st.sampled_from([Probation.NONE, Probation.OUTLIVED, Probation.OVER]), max_size=50))
def test_deaths_outside_of_its_trial_never_park_a_run(deaths: list[Probation]) -> None:
    standing = row()
    for mark in deaths:
        verdict = judged(run(mail=True, run_row=replace(standing, probation=mark)))
        assert (verdict.status, verdict.strikes) == (RunStatus.RUNNING, 0)
        standing = replace(standing, losses=verdict.losses, strikes=verdict.strikes)


def test_deaths_in_its_trial_make_a_run_poison() -> None:
    standing = row(losses=2, probation=Probation.ON_TRIAL)
    for strike in range(1, STRIKES_TO_POISON):
        verdict = judged(run(mail=True, run_row=standing), explained=True)
        assert (verdict.strikes, verdict.status) == (strike, RunStatus.RUNNING)
        standing = replace(standing, strikes=verdict.strikes, losses=verdict.losses)
    verdict = judged(run(mail=True, run_row=standing), explained=True)
    assert verdict.status is RunStatus.BLOCKED
    assert verdict.wake_us is None
    assert verdict.reason is not None
    assert "poison" in verdict.reason
    assert "resume" in verdict.reason


def test_a_death_while_it_was_held_back_clears_a_suspect() -> None:
    verdict = judged(run(mail=True, run_row=row(losses=5, strikes=2)))
    assert (verdict.losses, verdict.strikes) == (1, 0)


def test_a_death_while_another_suspect_was_driven_says_nothing_about_a_held_run() -> None:
    verdict = judged(run(mail=True, run_row=row(losses=5, strikes=2)), explained=True)
    assert (verdict.losses, verdict.strikes) == (5, 2)


def test_a_death_behind_its_trial_is_a_loss_and_ends_the_row_of_strikes() -> None:
    standing = row(losses=5, strikes=2, probation=Probation.OUTLIVED)
    verdict = judged(run(mail=True, run_row=standing))
    assert (verdict.losses, verdict.strikes) == (6, 0)


def test_a_blocked_run_stays_blocked() -> None:
    verdict = judged(run(run_row=row(status=RunStatus.BLOCKED), mail=True))
    assert verdict.status is RunStatus.BLOCKED
    assert verdict.wake_us is None


@given(
    st.booleans(),
    st.booleans(),
    st.integers(0, 10),
    st.integers(0, STRIKES_TO_POISON - 1),
    st.sampled_from(Probation),
    st.booleans(),
)
def test_a_strike_comes_from_the_own_trial_only(
    began: bool, mail: bool, losses: int, strikes: int, probation: Probation, explained: bool
) -> None:
    standing = row(losses=losses, strikes=strikes, probation=probation)
    events = [scheduled(1, began=True)] if began else []
    verdict = judged(run(*events, run_row=standing, mail=mail), explained=explained)
    assert verdict.losses <= losses + (began or mail)
    if verdict.strikes > strikes:
        assert probation is Probation.ON_TRIAL
        assert began or mail
    assert (verdict.status is RunStatus.BLOCKED) == (verdict.strikes >= STRIKES_TO_POISON)


def test_an_attempt_whose_outcome_waits_in_the_inbox_is_not_lost() -> None:
    """As that of a paused run does, whose worker dies before it goes on."""
    kind, body = encode_event(ActivityCompleted(1, b"done"), {})
    outcome = MailRow(1, b"e" * 16, kind, body, 0)
    loaded = run(scheduled(1, began=True), scheduled(2, began=True))
    verdict = judge(replace(loaded, mail=[outcome]), "worker", NOW)
    assert [one.activity_id for one in verdict.lost] == [2]


def test_a_paused_run_stays_paused_when_its_worker_dies() -> None:
    loaded = run(scheduled(1, began=True))
    held = replace(loaded, row=row(status=RunStatus.PAUSED))
    verdict = judge(held, "worker", NOW)
    assert (verdict.status, verdict.wake_us) == (RunStatus.PAUSED, None)
    assert [one.activity_id for one in verdict.lost] == [1]
