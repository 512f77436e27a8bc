"""Timers of a run: what the loop asks for when code sleeps, and takes back when it does not."""

from everlong._context import user_line
from everlong._replay.ledger import Ledger
from everlong._replay.loop import WorkflowTimer
from everlong_engine import TimerCancelled, TimerStarted, limits

__all__ = ["cancel_timer", "start_timer"]


def start_timer(run: Ledger, pending: dict[int, WorkflowTimer], timer: WorkflowTimer) -> None:
    run.require_live()
    timer.timer_id = run.new_id()
    due_us = min(run.loop.start_us + round(timer.when() * 1_000_000), limits.INSTANT_US_MAX)
    run.made.append(TimerStarted(timer.timer_id, max(due_us, run.now_us), user_line()))
    pending[timer.timer_id] = timer


def cancel_timer(run: Ledger, pending: dict[int, WorkflowTimer], timer: WorkflowTimer) -> None:
    run.require_live()
    if pending.pop(timer.timer_id, None) is None:
        return  # It has fired.
    for decision in run.made:
        if type(decision) is TimerStarted and decision.timer_id == timer.timer_id:
            run.made.remove(decision)
            return
    run.made.append(TimerCancelled(timer.timer_id))
