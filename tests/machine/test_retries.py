"""When an attempt is tried again: never earlier than the policy says, never once too often."""

import pytest
from hypothesis import example, given, strategies as st
from msgspec.structs import replace

from everlong_engine.machine.retries import (
    exhausted_at,
    may_repeat_lost,
    next_delay_us,
    retry_failed,
)
from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.failure import Failure
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.runs import AttemptRow, AttemptState

FAILURE = Failure(type="shop.payments.CardDeclined", message="no")
chances = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    ActivityOptions,
    max_attempts=st.none() | st.integers(1, 10),
    delay_us=st.integers(0, 10**15),
    backoff=st.floats(1, 1000),
    delay_max_us=st.integers(0, 10**15),
    jitter=st.floats(0, 1),
)
STEADY = ActivityOptions(jitter=0.0)


def test_the_default_doubles_up_to_a_minute() -> None:
    delays = [next_delay_us(STEADY, attempt, 0.5) for attempt in range(1, 9)]
    assert delays == [seconds * 1_000_000 for seconds in (1, 2, 4, 8, 16, 32, 60, 60)]


@given(policies, st.integers(1, 10**6), chances)
@example(ActivityOptions(backoff=1000.0), 10**9, 0.0)
def test_a_delay_lies_between_the_policy_and_the_policy_with_its_jitter(
    policy: ActivityOptions, attempt: int, chance: float
) -> None:
    least = next_delay_us(policy, attempt, 0.0)
    delay = next_delay_us(policy, attempt, chance)
    assert 0 <= least <= policy.delay_max_us
    assert least <= delay <= round(least * (1 + policy.jitter)) + 1


@given(policies, st.integers(1, 1000), chances)
def test_delays_never_shrink_from_attempt_to_attempt(
    policy: ActivityOptions, attempt: int, chance: float
) -> None:
    now, then = (next_delay_us(policy, number, chance) for number in (attempt, attempt + 1))
    assert now <= then


@given(policies, st.integers(1, 20), chances)
def test_there_are_never_more_attempts_than_allowed(
    policy: ActivityOptions, attempt: int, chance: float
) -> None:
    delay = retry_failed(policy, FAILURE, attempt, chance)
    allowed = policy.max_attempts is None or attempt < policy.max_attempts
    assert (delay is not None) == allowed
    assert may_repeat_lost(policy, attempt) == allowed


def test_a_failure_that_says_so_is_not_tried_again() -> None:
    assert retry_failed(STEADY, replace(FAILURE, retryable=False), 1, 0.0) is None


def test_types_are_named_in_full_or_by_their_class() -> None:
    for name, again in (
        ("shop.payments.CardDeclined", False),
        ("CardDeclined", False),
        ("Declined", True),
        ("payments.CardDeclined", True),
        ("shop.payments", True),
    ):
        policy = replace(STEADY, non_retryable=(name,))
        assert (retry_failed(policy, FAILURE, 1, 0.0) is not None) == again, name


def test_a_failure_may_set_its_own_delay_within_the_attempts() -> None:
    own = replace(FAILURE, next_delay_us=90_000_000)
    policy = replace(STEADY, max_attempts=3)
    assert retry_failed(policy, own, 1, 0.9) == 90_000_000
    assert retry_failed(policy, replace(FAILURE, next_delay_us=0), 2, 0.9) == 0
    assert retry_failed(policy, own, 3, 0.9) is None


def test_a_lost_attempt_of_at_most_once_was_the_last() -> None:
    assert not may_repeat_lost(replace(STEADY, at_most_once=True), 1)
    assert may_repeat_lost(STEADY, 1_000_000)


def test_a_set_of_attempts_begins_behind_the_last_exhausted_one() -> None:
    rows = [
        AttemptRow(activity_id=activity, attempt=number, state=state, started_us=1)
        for activity, number, state in (
            (1, 4, AttemptState.EXHAUSTED),
            (1, 2, AttemptState.EXHAUSTED),
            (1, 5, AttemptState.FAILED),
            (2, 1, AttemptState.FAILED),
        )
    ]
    assert exhausted_at(rows) == {1: 4}


def test_what_came_later_is_written_only_where_it_is_chosen() -> None:
    """Versions that know nothing of it read the rest."""
    chosen = replace(STEADY, on_exhausted="pause")
    assert ActivityOptions.from_wire(chosen.to_wire()) == chosen
    wire = STEADY.to_wire()
    assert wire is not None
    assert len(wire) == 12
    assert ActivityOptions.from_wire(wire) == STEADY
    with pytest.raises(UndecodablePayload, match="on_exhausted"):
        ActivityOptions.from_wire([*wire, "wait"])
