"""Questions about attempts that are answered by looking at them."""

from typing import Any

from everlong.worker._owned import OpenAttempt
from everlong_engine import AttemptRow, AttemptState

__all__ = ["always_matters", "end_of", "limit_matters", "retry_matters"]


def end_of(newest: AttemptRow | None) -> str:
    """What came of a cancelled activity whose worker has gone, by its last row."""
    match newest:
        case AttemptRow(state=AttemptState.FAILED, retry_us=None):
            return "failed"
        case None | AttemptRow(state=AttemptState.STARTED | AttemptState.LOST):
            return "lost"
        case _:
            return "not_begun"


def retry_matters(attempt: OpenAttempt, behind: int) -> bool:
    stale = attempt.attempt != behind or attempt.retry_us is None
    return not (stale or attempt.abandoned or attempt.run.dropped)


def limit_matters(attempt: OpenAttempt, start: str) -> bool:
    if attempt.abandoned or attempt.run.dropped:
        return False
    return not (start and (attempt.started_us or attempt.attempt > 1))


def always_matters(*_: Any) -> bool:
    """A mark that was not stored is always seen to: its attempt may hold a slot."""
    return True
