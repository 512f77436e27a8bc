"""What is open, pending and asked for follows from the history alone."""

from hypothesis import given, strategies as st

from everlong_engine.machine.state import RunState, fold
from everlong_engine.model.events import (
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    CancelRequested,
    Event,
    PatchMarked,
    Recorded,
    RunCompleted,
    RunStarted,
    RunTerminated,
    SideEffectRecorded,
    SignalReceived,
    SignalRejected,
    TimerCancelled,
    TimerFired,
    TimerStarted,
)
from everlong_engine.model.failure import Failure
from everlong_engine.model.policies import ActivityOptions

START = RunStarted("order", b"", "id", 7, "code", "3.11")
FAILURE = Failure(type="ValueError", message="no")


def scheduled(number: int) -> ActivityScheduled:
    return ActivityScheduled(number, "act", b"", ActivityOptions(), "here")


def history(*events: Event) -> list[Recorded]:
    return [Recorded(seq, 1_000 * seq, event) for seq, event in enumerate(events, 1)]


def open_in(state: RunState) -> tuple[set[int], set[int]]:
    return set(state.activities), set(state.timers)


def test_an_empty_history_is_an_empty_state() -> None:
    assert fold([]) == RunState()


def test_the_start_is_remembered_with_its_time() -> None:
    state = fold(history(START, scheduled(1)))
    assert state.started is START
    assert (state.started_us, state.last_us, state.last_seq) == (1_000, 2_000, 2)


def test_every_outcome_closes_its_activity_and_no_other() -> None:
    outcomes: list[Event] = [
        ActivityCompleted(1, b""),
        ActivityFailed(1, FAILURE, 3),
        ActivityTimedOut(1, "heartbeat", 1),
        ActivityLost(1, 1),
        ActivityCancelRequested(1),
    ]
    for outcome in outcomes:
        state = fold(history(START, scheduled(1), scheduled(2), outcome))
        assert list(state.activities) == [2]
        assert state.activities[2].at_us == 3_000


def test_a_timer_is_pending_until_it_fires_or_is_cancelled() -> None:
    begun: list[Event] = [START, TimerStarted(1, 5, "here"), TimerStarted(2, 6, "here")]
    assert list(fold(history(*begun)).timers) == [1, 2]
    assert list(fold(history(*begun, TimerFired(1))).timers) == [2]
    assert list(fold(history(*begun, TimerCancelled(2))).timers) == [1]


def test_a_request_to_cancel_is_a_state_and_outlives_the_run() -> None:
    assert fold(history(START, CancelRequested("why"))).cancel_requested
    carried = RunStarted("order", b"", "id", 7, "code", "3.11", cancel_requested=True)
    assert fold(history(carried)).cancel_requested
    assert not fold(history(START)).cancel_requested


def test_the_closing_event_is_kept() -> None:
    for closing in (RunCompleted(b""), RunTerminated("enough")):
        assert fold(history(START, scheduled(1), closing)).closing is closing


def test_what_leaves_nothing_open_changes_nothing_but_the_place() -> None:
    before = fold(history(START, scheduled(1)))
    after = fold(
        history(
            START,
            scheduled(1),
            SignalReceived("s", b""),
            SignalRejected("s", b"", "no"),
            SideEffectRecorded(b"", "here"),
            PatchMarked("p"),
        )
    )
    assert open_in(after) == open_in(before)
    assert after.last_seq == 6


steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "schedule",
                "complete",
                "fail",
                "time out",
                "lose",
                "cancel",
                "start timer",
                "fire",
                "cancel timer",
            ]
        ),
        st.integers(1, 6),
    ),
    max_size=40,
)


def event(what: str, number: int) -> Event:
    made: dict[str, Event] = {
        "schedule": scheduled(number),
        "complete": ActivityCompleted(number, b""),
        "fail": ActivityFailed(number, FAILURE, 1),
        "time out": ActivityTimedOut(number, "heartbeat", 1),
        "lose": ActivityLost(number, 1),
        "cancel": ActivityCancelRequested(number),
        "start timer": TimerStarted(number, number, "here"),
        "fire": TimerFired(number),
        "cancel timer": TimerCancelled(number),
    }
    return made[what]


OPENS = {"schedule": "activity", "start timer": "timer"}
TIMERS = {"start timer", "fire", "cancel timer"}


@given(steps)
def test_a_fold_agrees_with_plain_sets_at_every_prefix(chosen: list[tuple[str, int]]) -> None:
    activities: set[int] = set()
    timers: set[int] = set()
    state = RunState()
    for seq, (what, number) in enumerate(chosen, 1):
        members = timers if what in TIMERS else activities
        if what in OPENS:
            members.add(number)
        else:
            members.discard(number)
        state.apply(Recorded(seq, seq, event(what, number)))
        assert open_in(state) == (activities, timers)
    assert state.last_seq == len(chosen)


@given(st.lists(st.integers(0, 100), min_size=1))
def test_time_never_goes_back(times: list[int]) -> None:
    state = fold(Recorded(n, at_us, TimerFired(n)) for n, at_us in enumerate(times, 1))
    assert state.last_us == max(times)
