"""Beginning anew with a fresh history: `checkpoint` when it is time, `continue_as_new` at once.

While a recorded input is fed, a checkpoint answers from the record; thresholds of today, and what
is in flight, are looked at only for inputs that are fed for the first time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn, Protocol

from everlong._replay.activity_future import ActivityFuture
from everlong._replay.in_hand import Body, InHand, Point
from everlong._replay.loop import Fault
from everlong._replay.savepoints import Savepoints
from everlong.exceptions import EverlongError, WorkflowFault
from everlong_engine import RunContinuedAsNew, limits

__all__ = ["RollOver", "in_flight"]

logger = logging.getLogger("everlong")


class Open(Protocol):
    """Other executions, or people, that are waited for."""

    def in_flight(self) -> Iterable[str]: ...


def in_flight(
    tasks: Iterable["asyncio.Task[Any]"],
    main: object,
    activities: Mapping[int, ActivityFuture],
    timers: Iterable[int],
    parts: Iterable[Open | None],
) -> list[str]:
    """What of one run has begun and has not ended, as words for people."""
    return [
        *(f"task {task.get_name()}" for task in tasks if not task.done() and task is not main),
        *(f"activity {future.decision.activity}" for future in activities.values()),
        *(f"timer {number}" for number in timers),
        *(words for part in parts if part is not None for words in part.in_flight()),
    ]


class Rolling(Body, Protocol):
    """What only this part asks of a run."""

    history_events: int
    history_bytes: int
    forgets: bool
    moves_on: bool
    """Newer code waits for it to begin anew."""


class RollOver:
    """How often one run has passed a checkpoint, and what came of it."""

    def __init__(self, run: Rolling) -> None:
        self._run = run
        self.savepoints = Savepoints(run)
        self._checkpoints = 0
        self._warned = False

    @property
    def is_due(self) -> bool:
        """Whether it is time, and the workflow is one that passes checkpoints."""
        started = self._run.started
        passes = self._checkpoints > 0 or (started is not None and started.previous_run is not None)
        return passes and self._past_threshold()

    async def checkpoint(self, changed: dict[str, Any]) -> None:
        run = self._run
        run.require_live()
        task = asyncio.current_task(run.loop)
        if task is not run.main:
            words = "checkpoint() belongs in the workflow's main task"
            if run.has_updates and run.updates.perform(task):
                # What one sender asks for must not stop the workflow for all.
                raise EverlongError(f"{words}, and not in the handler of an update")
            run.stop_with(WorkflowFault(words))
        self._checkpoints += 1
        unknown = changed.keys() - set(run.definition.parameters.names)
        if unknown:
            run.stop_with(
                WorkflowFault(
                    f"checkpoint({', '.join(sorted(unknown))}=…): {run.definition.name} has no "
                    "such parameter. Carried state must be a parameter of the workflow"
                )
            )
        await self.savepoints.passed(changed)
        self._may_begin_here(changed)
        if run.recorded is not None:
            begin_anew = any(
                type(decision) is RunContinuedAsNew and decision.checkpoints == self._checkpoints
                for decision in run.recorded
            )
        else:
            begin_anew = self._may_begin_anew()
        if begin_anew:
            self._begin_anew(changed, self._checkpoints)
            await run.loop.create_future()  # Never resumes: the run is discarded here.

    def hand_out(
        self, attempts: int, give_back: Callable[[Exception, int], Awaitable[None]]
    ) -> None:
        """A loop hands a batch to its body, which may fail for one message of it; see `InHand`."""
        self._run.in_hand = InHand(self._run, attempts, give_back)

    def _may_begin_here(self, changed: dict[str, Any]) -> None:
        run = self._run
        taken = run.updates.taken if run.has_updates else 0
        run.point = Point(changed, len(run.made), run.signals.handed, taken)
        flying = run.in_flight()
        run.done_once = f"{flying[0]}, in flight" if flying else None
        run.in_hand = None

    def at_once(self, changed: dict[str, Any]) -> NoReturn:
        self._run.require_live()
        self._begin_anew(changed, 0)
        raise Fault("the run begins anew")

    def _may_begin_anew(self) -> bool:
        run = self._run
        if run.forgets and run.history_events > 0 and not run.in_flight():
            # Not in a run's first drive: it has met nothing that it could forget, and a checkpoint
            # at the head of a loop would begin it anew without end.
            return True
        return self._past_threshold() and self._nothing_in_flight()

    def _past_threshold(self) -> bool:
        events, size = self._run.history_events, self._run.history_bytes
        long = events >= limits.CHECKPOINT_EVENTS or size >= limits.CHECKPOINT_BYTES
        return long or self._run.moves_on

    def _nothing_in_flight(self) -> bool:
        in_flight = self._run.in_flight()
        if in_flight and not self._warned:
            self._warned = True
            logger.warning(
                "%s: the history has %d events, but checkpoint() cannot begin anew while there "
                "are in flight: %s",
                self._run.definition.name,
                self._run.history_events,
                ", ".join(in_flight),
            )
        return not in_flight

    def _begin_anew(self, changed: dict[str, Any], checkpoints: int) -> None:
        run = self._run
        assert run.started is not None
        try:
            arguments = run.definition.parameters.merge(run.started.arguments, changed)
        except EverlongError as error:
            run.stop_with(WorkflowFault(str(error)))
        run.close(RunContinuedAsNew(arguments, run.carried(), checkpoints))
