"""The deadlines of owned runs: their pending timers, and their own time limits."""

from collections.abc import Callable
from typing import Final

from everlong.worker._deadlines import Deadlines
from everlong.worker._owned import Incoming, OwnedRun
from everlong_engine import Engine, RunStarted, TimerFired

__all__ = ["RunTimers"]

_LOOK_AGAIN_US: Final = 10_000


class RunTimers:
    """Arms what a run waits for.

    Args:
        receive: takes the input of a timer that fired.
        time_out: closes a run whose time limit ("run" or "execution") has passed.
    """

    def __init__(
        self,
        engine: Engine,
        deadlines: Deadlines,
        receive: Callable[[OwnedRun, Incoming], None],
        time_out: Callable[[OwnedRun, str], None],
    ) -> None:
        self._engine = engine
        self._deadlines = deadlines
        self._receive = receive
        self._close = time_out

    def arm(self, run: OwnedRun, timer_id: int, due_us: int) -> None:
        """Fire a pending timer when it is due."""
        generation = run.generation
        self._deadlines.add(due_us, self._fire, run, timer_id, generation, matters=_timer_matters)

    def _fire(self, run: OwnedRun, timer_id: int, generation: int) -> None:
        """A timer is due."""
        self._receive(run, Incoming(TimerFired(timer_id)))

    def watch_timeouts(self, run: OwnedRun, started: RunStarted, started_us: int) -> None:
        """Arm the run's own deadlines."""
        if started.run_timeout_us is not None:
            run.deadlines_us["run"] = started_us + started.run_timeout_us
        if started.execution_deadline_us is not None:
            run.deadlines_us["execution"] = started.execution_deadline_us
        for which, due_us in run.deadlines_us.items():
            self._arm_timeout(due_us, run, which)

    def _arm_timeout(self, due_us: int, run: OwnedRun, which: str) -> None:
        self._deadlines.add(
            due_us, self._time_out, run, which, run.generation, matters=_timeout_matters
        )

    def _time_out(self, run: OwnedRun, which: str, generation: int) -> None:
        if run.releasing or run.loading or run.inflight:
            self._arm_timeout(self._engine.clock.now_us() + _LOOK_AGAIN_US, run, which)
        else:
            self._close(run, which)


def _timer_matters(run: OwnedRun, timer_id: int, generation: int) -> bool:
    """Loading arms the timers anew, so that those of an earlier generation are void."""
    return not run.dropped and generation == run.generation and timer_id in run.timers


def _timeout_matters(run: OwnedRun, which: str, generation: int) -> bool:
    return not (run.dropped or run.closing) and generation == run.generation
