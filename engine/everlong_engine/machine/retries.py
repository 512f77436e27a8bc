"""When a failed or lost attempt is tried again: arithmetic, nothing else.

Exponential backoff with a cap; jitter is only ever added, so no delay is shorter than the policy.
An attempt counts within its set: a new one begins when an exhausted activity is resumed.
"""

from collections.abc import Iterable

from everlong_engine.model.failure import Failure
from everlong_engine.model.policies import ActivityOptions
from everlong_engine.model.runs import AttemptRow, AttemptState

__all__ = ["exhausted_at", "may_repeat_lost", "next_delay_us", "retry_failed"]


def exhausted_at(attempts: Iterable[AttemptRow]) -> dict[int, int]:
    """The number of the attempt behind which each activity's present set began."""
    found: dict[int, int] = {}
    for row in attempts:
        if row.state is AttemptState.EXHAUSTED:
            found[row.activity_id] = max(row.attempt, found.get(row.activity_id, 0))
    return found


def next_delay_us(options: ActivityOptions, attempt: int, chance: float) -> int:
    """How long to wait behind attempt number `attempt`; `chance` in [0, 1) draws the jitter."""
    doublings = min(attempt - 1, 1000)
    try:
        delay = options.delay_us * options.backoff**doublings
    except OverflowError:
        delay = float("inf")
    delay = min(delay, float(options.delay_max_us))
    return round(delay * (1 + options.jitter * chance))


def retry_failed(
    options: ActivityOptions, failure: Failure, attempt: int, chance: float
) -> int | None:
    """The delay before the next attempt behind a failure; None when it was the last."""
    if not failure.retryable or _named(failure.type, options.non_retryable):
        return None
    if options.max_attempts is not None and attempt >= options.max_attempts:
        return None
    if failure.next_delay_us is not None:
        return failure.next_delay_us
    return next_delay_us(options, attempt, chance)


def may_repeat_lost(options: ActivityOptions, attempt: int) -> bool:
    """Whether an attempt whose worker died may be tried again; at once, since nothing says that the
    activity failed (decision 0003). A lost attempt counts; with `at_most_once` it was the last."""
    if options.at_most_once:
        return False
    return options.max_attempts is None or attempt < options.max_attempts


def _named(failure_type: str, names: tuple[str, ...]) -> bool:
    """By qualified name, or by the bare name of the class."""
    return failure_type in names or failure_type.rpartition(".")[2] in names
