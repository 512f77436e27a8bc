"""What the body of a loop has in hand, and whether it may be begun anew with less of it.

A body that fails for one message of many is begun anew, with a part of them, where the function may
begin anyway: at the last checkpoint, or at the run's start. That is right as long as nothing was
done since that is promised once. What is done at least once is done again; rows of a transactional
activity, items, children, signals that were sent or received are not, and where there are any the
exception is the workflow's, as anywhere.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from msgspec.structs import replace

from everlong._definitions import OWN
from everlong._replay.savepoints import Saving
from everlong.exceptions import EverlongError
from everlong_engine import (
    ActivityCancelRequested,
    ActivityOptions,
    ActivityScheduled,
    Decision,
    Event,
    ItemPublished,
    MemoSet,
    PatchMarked,
    RunContinuedAsNew,
    SideEffectRecorded,
    TagsSet,
    TimerCancelled,
    TimerStarted,
)

__all__ = ["BEGINNING", "Body", "InHand", "Point", "begins_anew", "done_once", "why_not"]

_REPEATABLE: Final = frozenset(
    {
        ActivityCancelRequested,
        MemoSet,
        PatchMarked,
        SideEffectRecorded,
        TagsSet,
        TimerCancelled,
        TimerStarted,
    }
)
_NOTE: Final = (
    "on_poison: which message it was is not looked for, since the body cannot be begun anew with a "
    "part of the batch: since its last checkpoint there was {why}. Call checkpoint() behind each "
    "batch, and put what is stored once into one transactional activity, the last one of the body"
)


class Point(NamedTuple):
    """Where the code may begin anew: its last checkpoint, or the run's start."""

    changed: dict[str, Any]
    made: int = 0
    """How many decisions of this drive lie before it."""
    signals: int = 0
    """How many the code had received."""
    updates: int = 0


BEGINNING: Final = Point({})


class Body(Saving, Protocol):
    """What only this part asks of a run."""

    point: Point
    closed: bool
    fault: BaseException | None
    fed: Event | None
    in_hand: "InHand | None"

    @property
    def cancel_reason(self) -> str | None: ...
    def unfinished_updates(self) -> Sequence[object]: ...


class InHand:
    """One batch, while the body works with it.

    Args:
        attempts: that an activity without a limit of its own has.
        give_back: take the batch back, given the error and how often it was tried; what is
            decided in it stands in the run's last append.
    """

    def __init__(
        self, run: Body, attempts: int, give_back: Callable[[Exception, int], Awaitable[None]]
    ) -> None:
        self._run = run
        self._attempts = attempts
        self.give_back = give_back
        self.undoing = False
        """A saga compensates: that is tried for as long as it takes."""

    def bounded(self, options: ActivityOptions) -> ActivityOptions:
        """Of an activity that would be tried for ever, and so never tell that it fails. Where
        nothing could be done about it, it is."""
        own_limit = options.max_attempts is not None or options.on_exhausted != "fail"
        if own_limit or self.undoing or why_not(self._run) is not None:
            return options
        return replace(options, max_attempts=self._attempts)


def done_once(made: Sequence[Decision], start: int) -> str | None:
    """What of these decisions cannot be made a second time; in words for people."""
    for one in made[start:] if start else made:
        if isinstance(one, ActivityScheduled):
            if one.options.at_most_once and not one.activity.startswith(OWN):
                return f"activity {one.activity}, which is done at most once"
        elif isinstance(one, ItemPublished):
            if not one.channel.startswith(OWN):
                return f"an item, published to {one.channel}"
        elif type(one) not in _REPEATABLE:
            return f"a {type(one).__name__}"
    return None


def why_not(run: Body) -> str | None:
    """What stands in the way of beginning anew at the last point where the code may."""
    if run.done_once is not None:
        return run.done_once
    if run.signals.handed != run.point.signals:
        return "a signal, received"
    if run.has_updates and (run.updates.taken != run.point.updates or run.unfinished_updates()):
        return "an update"
    return done_once(run.made, run.point.made)


async def begins_anew(run: Body, error: Exception) -> bool:
    """Whether an exception that has left the function makes it begin anew, with less in hand."""
    hand, run.in_hand = run.in_hand, None
    over = run.closed or run.fault is not None or run.loop.discarded
    if hand is None or over or run.cancel_reason is not None:
        return False
    if run.recorded is not None:
        if not any(type(one) is RunContinuedAsNew for one in run.recorded):
            return False
    elif (why := why_not(run)) is not None:
        error.add_note(_NOTE.format(why=why))
        return False
    assert run.started is not None
    try:
        arguments = run.definition.parameters.merge(run.started.arguments, run.point.changed)
    except EverlongError as unfit:
        error.add_note(_NOTE.format(why=f"a change of the parameters: {unfit}"))
        return False
    attempts: Any = getattr(run.fed, "attempts", 1)
    await hand.give_back(error, attempts)
    run.close(RunContinuedAsNew(arguments, run.carried(), 0))
    return True
