"""Attempts that are completed elsewhere: when they have had their time, and what whoever has the
token of one is told once the activity is over. Pure.

That it is over stands in the history, somewhere. So that nobody need look for it there, the append
that ends an activity also leaves a mark, if its token was handed out.
"""

from collections.abc import Mapping
from typing import Final

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.events import (
    ActivityCancelled,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityTimedOut,
    Event,
)
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.writes import NotTaken

__all__ = ["UNWANTED", "elsewhere_limit", "mark_of_end", "told_by_mark"]

UNWANTED: Final = b"unwanted"
"""The mark of one that was cancelled, and whose end is waited for: it still takes an answer."""

_MARKS: Final[Mapping[type[Event], NotTaken]] = {
    ActivityCompleted: NotTaken.DONE,
    ActivityFailed: NotTaken.DONE,
    ActivityTimedOut: NotTaken.GONE,
    ActivityLost: NotTaken.GONE,
    ActivityCancelled: NotTaken.CANCELLED,
    ActivityCancelRequested: NotTaken.CANCELLED,
}
_BY_MARK: Final[Mapping[object, NotTaken | None]] = {
    UNWANTED: None,
    **{told.name.lower().encode(): told for told in _MARKS.values()},
}


def elsewhere_limit(
    options: ActivityOptions, started_us: int, heard_us: int
) -> tuple[int, str] | None:
    """(instant, which timeout) of the first limit; None: it may take for ever.

    Args:
        heard_us: when it was last heard of: handed over, or its last heartbeat.
    """
    limits: list[tuple[int, str]] = []
    if options.start_to_close_us is not None:
        limits.append((started_us + options.start_to_close_us, "start_to_close"))
    if options.heartbeat_us is not None:
        limits.append((heard_us + options.heartbeat_us, "heartbeat"))
    return min(limits, default=None)


def mark_of_end(event: Event, *, waits: bool) -> bytes | None:
    """What an event leaves for whoever has the token of its activity; None if that goes on.

    Args:
        waits: the code that has cancelled it waits for its end.
    """
    if waits and type(event) is ActivityCancelRequested:
        return UNWANTED
    told = _MARKS.get(type(event))
    return None if told is None else told.name.lower().encode()


def told_by_mark(mark: object) -> NotTaken | None:
    """Why no answer is taken any more, by the mark; None: it is.

    Raises:
        UndecodablePayload: nobody of us has left such a mark.
    """
    if mark is None:
        return None
    if mark not in _BY_MARK:
        raise UndecodablePayload(reason="what has become of an activity is not known here")
    return _BY_MARK[mark]
