"""How a run that kills its workers is told from one that was only there when they died.

Pure numbers; the worker acts on them, and `takeover` judges.

A run that was at work at two deaths in a row is a suspect. Each worker that claims it first *holds*
it back for a while, and then drives it under a mark in the store, one suspect at a time, for a
*trial* that is much shorter than the hold. So each death says something:

    while all suspects were held        something else kills workers here: they are cleared
    while another suspect was driven    says nothing about this one
    on trial                            a strike; enough of them in a row, and it is parked
    behind its trial                    one more loss, no strike

Behind its trial a suspect is *watched*: the next one's trial waits until it has an outcome, or has
lived long enough, so that a slow fuse does not strike whoever comes next. Where there are very many
suspects each is watched for a moment only, lest those behind it wait for hours.

A run that kills is struck at once, for nothing else dies while it is held. One that does not would
have to be on trial at three deaths in a row, though its worker was as likely to die in any other
moment: in a given trial less than one time in twenty however often workers are killed, and less in
each further one, since the hold doubles with each loss. The trial doubles only with those losses
that were no strikes: a run that takes longer to kill its worker gets the time that it needs.
"""

from everlong_engine.model.limits import (
    HOLD_DOUBLINGS_MAX,
    HOLD_US,
    LOSSES_TO_PROBATION,
    TRIALS_OF_A_HOLD,
    WATCH_US,
    WATCHES_US,
)

__all__ = ["hold_us", "is_suspect", "trial_us", "watch_us"]


def is_suspect(losses: int) -> bool:
    return losses >= LOSSES_TO_PROBATION


def hold_us(losses: int, chance: float) -> int:
    """How long a suspect is held back after its claim. `chance`, in [0, 1), spreads it to twice as
    long, so that workers that all die at the same age do not meet each trial."""
    return round(_doubled(losses - LOSSES_TO_PROBATION) * (1 + chance))


def trial_us(losses: int, strikes: int) -> int:
    """How long a suspect is driven under its mark."""
    return _doubled(losses - LOSSES_TO_PROBATION - strikes) // TRIALS_OF_A_HOLD


def watch_us(trial: int, suspects: int) -> int:
    """How long a suspect without an outcome keeps the others waiting, if there are so many."""
    return max(trial, min(WATCH_US, WATCHES_US // suspects))


def _doubled(times: int) -> int:
    return HOLD_US << max(0, min(times, HOLD_DOUBLINGS_MAX))
