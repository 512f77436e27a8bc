"""A history, read bit by bit, as the steps that people follow."""

from datetime import UTC, datetime, timedelta
from typing import Any

from everlong.cli._steps import Step, StepReader
from everlong.client import Attempt, HistoryEvent

NOON = datetime(2026, 7, 29, 12, tzinfo=UTC)


def event(seq: int, kind: str, *attempts: Attempt, at: float = 0, **fields: Any) -> HistoryEvent:
    return HistoryEvent(
        seq=seq, at=NOON + timedelta(seconds=at), kind=kind, fields=fields, attempts=attempts
    )


def attempt(number: int, state: str = "failed", *, again: float | None = None) -> Attempt:
    return Attempt(
        number=number,
        state=state,
        started_at=NOON,
        ended_at=NOON,
        next_at=None if again is None else NOON + timedelta(seconds=again),
        error_type="builtins.OSError",
        error="refused",
        traceback="",
        worker="",
    )


STARTED = event(1, "RunStarted")
CHARGE = event(2, "ActivityScheduled", activity_id=1, activity="charge")


def test_an_outcome_is_told_once_with_its_duration_and_value() -> None:
    reader = StepReader()
    done = event(3, "ActivityCompleted", at=1.2, activity_id=1, result={"paid": True})
    assert reader.read([STARTED, CHARGE]) == []
    assert [one.name for one in reader.open_steps()] == ["charge"]
    assert reader.read([STARTED, CHARGE, done]) == [
        Step("✓", "green", "charge", '1.2 s  → {"paid": true}')
    ]
    assert reader.read([STARTED, CHARGE, done]) == []
    assert (reader.open_steps(), reader.done, reader.events) == ([], 1, 3)


def test_failed_attempts_are_told_though_they_are_no_events() -> None:
    reader = StepReader()
    reader.read([STARTED, CHARGE])
    failed = event(2, "ActivityScheduled", attempt(1, again=10), activity_id=1, activity="charge")
    assert [step.detail for step in reader.read([STARTED, failed])] == [
        "attempt 1 failed, again in 10 s: OSError: refused"
    ]
    assert reader.read([STARTED, failed]) == []
    (waiting,) = reader.open_steps()
    assert (waiting.attempt, waiting.last_error) == (2, "OSError: refused")
    assert waiting.due == NOON + timedelta(seconds=10)


def test_attempts_between_two_looks_are_told_before_the_outcome() -> None:
    failed = event(2, "ActivityScheduled", attempt(1, again=0), activity_id=1, activity="charge")
    done = event(3, "ActivityCompleted", activity_id=1, result=None)
    assert [one.mark for one in StepReader().read([STARTED, failed, done])] == ["↻", "✓"]
    reader = StepReader()
    reader.read([STARTED, failed])
    assert [one.mark for one in reader.read([STARTED, failed, done])] == ["✓"]


def test_a_lost_attempt_says_so() -> None:
    lost = event(
        2, "ActivityScheduled", attempt(1, "lost", again=0), activity_id=1, activity="charge"
    )
    assert (
        StepReader()
        .read([lost.__class__(seq=1, at=NOON, kind="RunStarted", fields={}), lost])[0]
        .detail.startswith("attempt 1 was lost, again now")
    )


def test_timers_tell_how_long_they_took_and_cancelled_ones_nothing() -> None:
    reader = StepReader()
    due = NOON + timedelta(seconds=90)
    history = [
        STARTED,
        event(2, "TimerStarted", timer_id=1, due_at=due),
        event(3, "TimerStarted", timer_id=2, due_at=due),
        event(4, "TimerCancelled", timer_id=1),
    ]
    assert reader.read(history) == []
    assert [one.due for one in reader.open_steps()] == [due]
    history.append(event(5, "TimerFired", at=90, timer_id=2))
    assert reader.read(history) == [Step("◷", "dim", "timer", "1 min 30 s")]


def test_very_many_steps_at_once_are_summed_up() -> None:
    history = [STARTED]
    history += [
        event(number + 2, "ActivityScheduled", activity_id=number, activity="quick")
        for number in range(100)
    ]
    history += [event(102 + n, "ActivityCompleted", activity_id=n, result=n) for n in range(100)]
    assert StepReader().read(history) == [Step("✓", "green", "quick", "× 100")]


def test_what_comes_from_outside_is_a_step() -> None:
    told = StepReader().read(
        [
            STARTED,
            event(2, "SignalReceived", signal="approve", payload={"ok": True}),
            event(3, "SignalRejected", signal="approve", payload=1, error="no verdict"),
            event(4, "CancelRequested", reason="enough"),
            event(5, "PatchMarked", patch="x"),
        ]
    )
    assert [(one.name, one.detail) for one in told] == [
        ("signal approve", '→ {"ok": true}'),
        ("signal approve", "rejected: no verdict"),
        ("cancel", "enough"),
    ]


def test_ends_without_a_result_say_why() -> None:
    ends = [
        event(3, "ActivityFailed", activity_id=1, error_type="x.Y", error="no", attempts=3),
        event(3, "ActivityTimedOut", activity_id=1, timeout="start_to_close", attempts=1),
        event(3, "ActivityLost", activity_id=1, attempts=1),
    ]
    details = [StepReader().read([STARTED, CHARGE, end])[0].detail for end in ends]
    assert details == [
        "0 ms  x.Y: no · 3 attempts",
        "0 ms  start_to_close timeout · 1 attempt",
        "0 ms  lost with its worker · 1 attempt",
    ]
