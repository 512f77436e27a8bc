"""Questions about attempts that are answered by looking at them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from everlong.worker._owned import OpenAttempt
from everlong_engine import AttemptRow, AttemptState, may_repeat_lost

__all__ = [
    "always_matters",
    "end_of",
    "handed_back",
    "limit_matters",
    "retry_matters",
    "waits_in_line",
    "when_over",
]


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


def waits_in_line(attempt: OpenAttempt, number: int) -> bool:
    """Whether it is this attempt of it that still waits for a slot."""
    given_up = attempt.cancel_asked or attempt.abandoned or attempt.run.dropped
    return attempt.in_line and attempt.attempt == number and not given_up


def always_matters(*_: Any) -> bool:
    """A mark that was not stored is always seen to: its attempt may hold a slot."""
    return True


def handed_back(attempt: OpenAttempt, now_us: int) -> tuple[AttemptState, dict[str, Any]] | None:
    """What is written down of an attempt whose run leaves its worker: a state, and the rest."""
    if attempt.task is not None and not attempt.definition.waits:
        again = not attempt.cancel_asked and may_repeat_lost(
            attempt.scheduled.options, attempt.number_in_set
        )
        return AttemptState.LOST, {
            "ended_us": now_us,
            "retry_us": now_us if again else None,
            "error_type": "handed back",
            "error": "the worker stopped, or let go of the run, before the attempt ended",
            "details": attempt.details,
        }
    if attempt.has_slot:
        # What is committed says that it may have begun; here one knows better.
        return AttemptState.NOT_BEGUN, {"details": attempt.previous_details}
    return None


def when_over(work: "Future[Any] | None", then: Callable[[], None]) -> None:
    """Call something on this loop as soon as what runs in a pool has ended, or now."""
    if work is None or work.done():
        then()
        return
    loop = asyncio.get_running_loop()

    def ended(_: "Future[Any]") -> None:
        with suppress(RuntimeError):  # The loop is closed: so is the worker.
            loop.call_soon_threadsafe(then)

    work.add_done_callback(ended)
