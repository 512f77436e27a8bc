"""A history as steps that people follow: what has happened since the last look, what is open.

Pure: it is handed histories and keeps how far it has read. What the code decided is no step by
itself; its outcome is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from everlong.cli._documents import one_line
from everlong.cli._durations import span
from everlong.cli._screen import cropped
from everlong.client import HistoryEvent

__all__ = ["OpenStep", "Step", "StepReader", "error_text"]

VALUE_CHARS_MAX: Final = 60
ERROR_CHARS_MAX: Final = 200
_STEPS_SHOWN_MAX: Final = 20

_OUTCOMES: Final = frozenset(
    {"ActivityCompleted", "ActivityFailed", "ActivityTimedOut", "ActivityLost"}
)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that has happened."""

    mark: str
    style: str
    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class OpenStep:
    """Something that is under way, or waited for."""

    name: str
    since: datetime
    due: datetime | None = None
    attempt: int = 1
    last_error: str = ""


def error_text(kind: str, message: str) -> str:
    """`builtins.ValueError` and a message as people read it."""
    short = kind.removeprefix("builtins.")
    return cropped(f"{short}: {message}" if message else short, ERROR_CHARS_MAX)


class StepReader:
    """Reads one run's growing history."""

    def __init__(self) -> None:
        self._read = 0
        self._activities: dict[int, HistoryEvent] = {}
        self._timers: dict[int, HistoryEvent] = {}
        self._attempts: set[tuple[int, int, str]] = set()
        self.done = 0
        """Activities that have an outcome."""

    @property
    def events(self) -> int:
        """How many events have been read."""
        return self._read

    def read(self, history: Sequence[HistoryEvent]) -> list[Step]:
        """What is new in it; very many at once are summed up."""
        steps: list[Step] = []
        for event in history[self._read :]:
            if event.kind in _OUTCOMES:
                # Between two looks an activity may fail, be tried again, and end.
                known = self._activities.get(event.fields["activity_id"])
                if known is not None:
                    steps += self._failed_attempts(history[known.seq - 1])
            step = self._step(event)
            if step is not None:
                steps.append(step)
        self._read = max(self._read, len(history))
        for number, event in self._activities.items():
            # The same event as it is now: attempts come without an event of their own.
            self._activities[number] = now = history[event.seq - 1]
            steps += self._failed_attempts(now)
        return steps if len(steps) <= _STEPS_SHOWN_MAX else _summed_up(steps)

    def open_steps(self) -> list[OpenStep]:
        """Activities and timers that have no outcome yet, oldest first."""
        activities = [_open_activity(event) for event in self._activities.values()]
        timers = [
            OpenStep("timer", event.at, due=event.fields["due_at"])
            for event in self._timers.values()
        ]
        return activities + timers

    def _step(self, event: HistoryEvent) -> Step | None:
        facts = event.fields
        match event.kind:
            case "ActivityScheduled":
                self._activities[facts["activity_id"]] = event
            case "TimerStarted":
                self._timers[facts["timer_id"]] = event
            case "TimerCancelled":
                self._timers.pop(facts["timer_id"], None)
            case "TimerFired":
                began = self._timers.pop(facts["timer_id"], event)
                seconds = (began.fields.get("due_at", event.at) - began.at).total_seconds()
                return Step("◷", "dim", "timer", span(seconds))
            case "ActivityCancelRequested":
                began = self._activities.get(facts["activity_id"], event)
                if began.fields.get("options", {}).get("on_cancel") == "wait":
                    return Step("○", "dim", _activity(began), "asked to end")
                self._activities.pop(facts["activity_id"], None)
                return Step("○", "dim", _activity(began), "cancelled")
            case "ActivityCancelled":
                began = self._activities.pop(facts["activity_id"], event)
                return Step(
                    "○", "dim", _activity(began), f"cancelled: {_ENDS.get(facts['outcome'], '')}"
                )
            case _ if event.kind in _OUTCOMES:
                self.done += 1
                return _outcome(event, self._activities.pop(facts["activity_id"], event))
            case _:
                told = _TOLD.get(event.kind)
                return None if told is None else told(facts)
        return None

    def _failed_attempts(self, began: HistoryEvent) -> Iterator[Step]:
        for one in began.attempts:
            key = (began.seq, one.number, one.state)
            if one.state in _UNDER_WAY or key in self._attempts:
                continue
            self._attempts.add(key)
            detail = f"attempt {one.number} {_STATES.get(one.state, one.state)}"
            if one.next_at is not None and one.ended_at is not None:
                wait_s = (one.next_at - one.ended_at).total_seconds()
                detail += f", again in {span(wait_s)}" if wait_s > 0 else ", again now"
            detail += f": {error_text(one.error_type, one.error)}"
            yield Step("↻", "yellow", _activity(began), detail)


def _activity(began: HistoryEvent) -> str:
    """Its name. A damaged history may hold an outcome of what was never scheduled."""
    return str(began.fields.get("activity", "?"))


_UNDER_WAY: Final = ("started", "elsewhere")
_STATES: Final = {"timed_out": "timed out", "lost": "was lost"}
_ENDS: Final = {
    "stopped": "it gave way",
    "not_begun": "it was not at work",
    "completed": "it had completed",
    "failed": "it failed meanwhile",
    "timed_out": "it did not end in time",
    "lost": "it was lost with its worker",
}

_TOLD: Final[dict[str, Callable[[dict[str, Any]], Step]]] = {
    "SignalReceived": lambda facts: Step(
        "←", "cyan", f"signal {facts.get('signal', '')}", _value(facts.get("payload"))
    ),
    "SignalRejected": lambda facts: Step(
        "✗", "yellow", f"signal {facts.get('signal', '')}", f"rejected: {facts.get('error', '')}"
    ),
    "UpdateReceived": lambda facts: Step(
        "←", "cyan", f"update {facts.get('update', '')}", _value(facts.get("arguments"))
    ),
    "UpdateCompleted": lambda facts: Step("✓", "green", "update", _value(facts.get("result"))),
    "UpdateFailed": lambda facts: Step(
        "✗", "red", "update", error_text(facts.get("error_type", ""), facts.get("error", ""))
    ),
    "CancelRequested": lambda facts: Step("←", "yellow", "cancel", facts.get("reason", "")),
    "RunContinuedAsNew": lambda _: Step("↻", "dim", "begins anew", "with a fresh history"),
}


def _outcome(event: HistoryEvent, began: HistoryEvent) -> Step:
    facts, name = event.fields, _activity(began)
    took = span((event.at - began.at).total_seconds())
    match event.kind:
        case "ActivityCompleted":
            value = _value(facts.get("result"))
            return Step("✓", "green", name, f"{took}  {value}" if value else took)
        case "ActivityFailed":
            why = error_text(facts["error_type"], facts.get("error", ""))
        case "ActivityTimedOut":
            why = f"{facts.get('timeout', '')} timeout"
        case _:
            why = "lost with its worker"
    return Step("✗", "red", name, f"{took}  {why} · {_attempts(facts.get('attempts', 1))}")


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"


def _value(value: Any) -> str:
    return "" if value is None else "→ " + cropped(one_line(value), VALUE_CHARS_MAX)


def _open_activity(event: HistoryEvent) -> OpenStep:
    name = _activity(event)
    if not event.attempts:
        return OpenStep(name, event.at)
    newest = max(event.attempts, key=lambda one: one.number)
    failed = [one for one in event.attempts if one.state not in _UNDER_WAY]
    error = error_text(failed[-1].error_type, failed[-1].error) if failed else ""
    running = newest.state in _UNDER_WAY or newest.next_at is None
    return OpenStep(
        name,
        newest.started_at,
        due=None if running else newest.next_at,
        attempt=newest.number if running else newest.number + 1,
        last_error=error,
    )


def _summed_up(steps: Sequence[Step]) -> list[Step]:
    counted = Counter((step.mark, step.style, step.name) for step in steps)
    return [Step(*key, detail=f"× {count}" if count > 1 else "") for key, count in counted.items()]
