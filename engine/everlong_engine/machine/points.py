"""Points of a history from which another run can begin, and what is open there. Pure.

A history is a sequence of inputs, each with the decisions that followed. So a run can begin behind
the last decision of an input, with everything up to there. Or it can begin behind the input itself:
what came is kept, and what is to be done about it is decided anew, by today's code.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from everlong_engine.model.events import (
    CLOSING,
    INPUTS,
    ActivityFailed,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    ChildCancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    ExternalAnswered,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    Recorded,
    RunStarted,
    RunTerminated,
    RunTimedOut,
)

__all__ = [
    "NoSuchPoint",
    "Point",
    "Waiting",
    "check_point",
    "find_point",
    "origin_of",
    "waiting_at",
]

_FORCED: Final = (RunTerminated, RunTimedOut)
_FAILED: Final = (ActivityFailed, ActivityTimedOut, ActivityLost)
WORDS: Final = "start, last, last-failure, retry, first-activity[:NAME], last-activity[:NAME]"


class NoSuchPoint(ValueError):
    """A history has no such point, or no run can begin there; the text says why."""


class Point(Struct, frozen=True):
    copied: int
    """The number of the last event that the new run repeats; 0 for none."""
    kept: int | None
    """The input behind it that is kept, and about which is decided anew."""


class Waiting(Struct):
    """What the code waits for at a point, and another execution has to tell."""

    number: int
    seq: int
    """Of the decision."""
    event: ChildScheduled | ExternalAwaited | ExternalSignalSent | ExternalCancelSent
    wants_start: bool = False
    """It waits for the start of a child, too."""


def find_point(history: Sequence[Recorded], to: int | str) -> Point:
    """Where `to` is in a history.

    Raises:
        NoSuchPoint: nowhere, or between the decisions of one input.
    """
    if not history or not isinstance(history[0].event, RunStarted):
        raise NoSuchPoint("the run has not begun, so it has done nothing that could be kept")
    if isinstance(to, int):
        return _at(history, to)
    word, name = check_point(to)
    match word:
        case "start":
            return Point(0, 1)
        case "last":
            return _last_input(history)
        case "retry":
            ended_by = _ended_by(history)
            return _last_input(history) if ended_by is None else _before(history, ended_by)
        case "last-failure":
            return _before(history, _last_failed(history))
        case _:
            return _before(history, _scheduled(history, name, first=word == "first-activity"))


def check_point(to: int | str) -> tuple[str, str]:
    """The word of a point, and the activity's name behind it; for what no history is needed.

    Raises:
        NoSuchPoint: no history has it.
    """
    if isinstance(to, int):
        if to < 1:
            raise NoSuchPoint(f"there is no event {to}: histories begin with 1")
        return "", ""
    word, colon, name = to.partition(":")
    of_activity = word in ("first-activity", "last-activity")
    if not (of_activity or word in ("start", "last", "last-failure", "retry")) or (
        colon and not (of_activity and name)
    ):
        raise NoSuchPoint(
            f"{to!r:.100} names no point: give the number of an event, or one of {WORDS}"
        )
    return word, name


def _at(history: Sequence[Recorded], number: int) -> Point:
    last = history[-1].seq
    if not 1 <= number <= last:
        raise NoSuchPoint(f"there is no event {number}: the history has the events 1 to {last}")
    event = history[number - 1].event
    if isinstance(event, _FORCED):
        raise NoSuchPoint(
            f"event {number} closed the run from outside: the last point before it is {number - 1}"
        )
    if type(event) in CLOSING:
        first = _input_of(history, number)
        raise NoSuchPoint(
            f"event {number} closed the run: behind it is nothing to do. Give {first}, to decide "
            f"anew what follows from event {first}"
        )
    if number == last or _begins_another(history[number]):
        return Point(number, None)
    if type(event) in INPUTS:
        return _kept(number)
    first, behind = _input_of(history, number), number
    while behind < last and not _begins_another(history[behind]):
        behind += 1
    end = behind if type(history[behind - 1].event) not in CLOSING else None
    text = (
        f"event {number} stands between what was decided about event {first}. Give {first}, to "
        "decide that anew"
    )
    raise NoSuchPoint(text if end is None else f"{text}, or {end}, to keep all of it")


def _last_input(history: Sequence[Recorded]) -> Point:
    return _kept(max(one.seq for one in history if type(one.event) in INPUTS))


def _begins_another(recorded: Recorded) -> bool:
    """Whether the decisions of the input before it end here."""
    return type(recorded.event) in INPUTS or isinstance(recorded.event, _FORCED)


def _kept(number: int) -> Point:
    return Point(number - 1, number)


def _input_of(history: Sequence[Recorded], number: int) -> int:
    while type(history[number - 1].event) not in INPUTS:
        number -= 1
    return number


def _before(history: Sequence[Recorded], scheduled: int) -> Point:
    """Behind the input that led to a decision."""
    return _kept(_input_of(history, scheduled))


def _scheduled(history: Sequence[Recorded], name: str, *, first: bool) -> int:
    found = [
        one.seq
        for one in history
        if isinstance(one.event, ActivityScheduled) and name in ("", one.event.activity)
    ]
    if found:
        return found[0] if first else found[-1]
    names = sorted(
        {one.event.activity for one in history if isinstance(one.event, ActivityScheduled)}
    )
    has = f"It has scheduled {', '.join(names)}" if names else "It has scheduled none"
    raise NoSuchPoint(f"the run has scheduled no activity {name!r:.100}. {has}")


def _last_failed(history: Sequence[Recorded]) -> int:
    """Where the activity was scheduled that failed last."""
    number = next(
        (one.event.activity_id for one in reversed(history) if isinstance(one.event, _FAILED)),
        None,
    )
    for one in history:
        if isinstance(one.event, ActivityScheduled) and one.event.activity_id == number:
            return one.seq
    raise NoSuchPoint("no activity of the run has failed, timed out or was lost")


def _ended_by(history: Sequence[Recorded]) -> int | None:
    """Where the activity was scheduled whose failure ended the run. If others were scheduled behind
    the failure, the code knew what to do about it (it may have undone what was done before), and
    what ended the run is something else."""
    for one in reversed(history):
        if isinstance(one.event, ActivityScheduled):
            return None
        if isinstance(one.event, _FAILED):
            return _last_failed(history)
    return None


def waiting_at(history: Sequence[Recorded]) -> dict[int, Waiting]:
    """What a beginning of a history waits for from other executions, by number."""
    waiting: dict[int, Waiting] = {}
    for one in history:
        event = one.event
        match event:
            case ChildScheduled():
                found = Waiting(event.child_id, one.seq, event, event.wants_start)
                waiting[event.child_id] = found
            case ExternalAwaited() | ExternalSignalSent() | ExternalCancelSent():
                waiting[event.call_id] = Waiting(event.call_id, one.seq, event)
            case ChildStarted():
                if event.child_id in waiting:
                    waiting[event.child_id].wants_start = False
            case ChildStartFailed() | ChildClosed():
                waiting.pop(event.child_id, None)
            case ChildCancelRequested():
                call = waiting[event.child_id].event if event.child_id in waiting else None
                if not isinstance(call, ChildScheduled) or call.on_cancel != "wait":
                    waiting.pop(event.child_id, None)
            case ExternalAnswered():
                waiting.pop(event.call_id, None)
            case _:
                pass
    return waiting


def origin_of(started: RunStarted, run: bytes, seq: int) -> bytes:
    """The run that recorded an event first: `run`, or one whose history it repeats."""
    parts = () if started.reset is None else started.reset.copied
    return next((part.run for part in parts if seq <= part.last), run)
