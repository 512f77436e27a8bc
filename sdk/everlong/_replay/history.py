"""A whole history, fed to fresh code: what brings a run to where it stood."""

from collections.abc import Sequence
from typing import Final

from everlong._replay.run import WorkflowRun
from everlong_engine import CLOSING, DECISIONS, Recorded, RunTerminated, RunTimedOut

__all__ = ["end_of_pair", "replay"]

_FORCED: Final = frozenset({RunTerminated, RunTimedOut})
_DECIDED: Final = DECISIONS - _FORCED


def replay(
    run: WorkflowRun, history: Sequence[Recorded], begin: int = 0, end: int | None = None
) -> None:
    """Feed a whole history: the code then stands where it stood behind its last event.

    A termination or a timeout of the run stands behind complete pairs and was not decided by the
    code; it is passed over. `begin` and `end` stand before an input: then only this part is fed.

    Raises:
        WorkflowFault: `run.history_events` tells how many events were fed before the one at fault.
    """
    at, end = begin, len(history) if end is None else end
    if at == 0 < end and type(history[0].event) in CLOSING:
        at = end  # It ended before it began.
    while at < end:
        recorded = history[at]
        behind = at + 1
        while behind < end and type(history[behind].event) in _DECIDED:
            behind += 1
        decisions = [one.event for one in history[at + 1 : behind]]
        run.history_events = at  # What the code saw in `info()` the first time.
        run.feed(recorded.event, recorded.at_us, decisions, recorded.seq)  # type: ignore[arg-type]
        at = behind
        while at < end and type(history[at].event) in _FORCED:
            at += 1
    run.history_events = end


def end_of_pair(history: Sequence[Recorded], seq: int) -> int:
    """How many events there are up to the end of the pair that the event `seq` belongs to."""
    at = min(seq, len(history))
    while at < len(history) and type(history[at].event) in DECISIONS:
        at += 1
    return at
