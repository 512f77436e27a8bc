"""The one file where replay happens.

A `WorkflowRun` holds the code of one run, suspended at its awaits. `feed` gives it an input, drives
its loop until nothing is ready, and returns the decisions that the code made. That is all it does,
live and on replay: on replay the recorded decisions are handed in too, and must come out again.

    live:    feed(input, at)            -> decisions, to be appended behind the input
    replay:  feed(input, at, recorded)  -> the same decisions, or NondeterminismError

Everything the code learns from outside passes through here: outcomes of activities, fired timers,
signals, side effects, the time. Everything it does to the outside is a decision in `_made`. What is
begun and cancelled within one drive is netted out. While a recorded input is fed, `patched`,
`checkpoint` and side effects answer from the record, never from thresholds of today.

A fault found by the engine flags the run and stops its loop for good, whatever the code catches.
`discard` is the only way out: it closes every frame under a flag that makes all of Everlong raise.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from random import Random
from typing import Any, Final, NoReturn

from everlong._context import QueryHandler, user_line
from everlong._definitions import ActivityDefinition, WorkflowDefinition
from everlong._failures import decode_failure, encode_exception
from everlong._info import WorkflowInfo
from everlong._replay import asyncio_adapter
from everlong._replay.activity_future import ActivityFuture
from everlong._replay.conditions import Conditions
from everlong._replay.discard import discard
from everlong._replay.live_only import answer_query, call_live
from everlong._replay.loop import (
    Discarded,
    EndlessLoop,
    Fault,
    WorkflowLoop,
    WorkflowTask,
    WorkflowTimer,
)
from everlong._replay.matching import check, forgotten
from everlong._replay.signals import Signals
from everlong.exceptions import (
    ActivityLost as ActivityLostError,
    ActivityTimeout,
    EndlessDrive,
    EverlongError,
    ForbiddenCall,
    NondeterminismError,
    WorkflowFault,
)
from everlong_engine import (
    DECISIONS,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityOptions,
    ActivityScheduled,
    ActivityTimedOut,
    CancelRequested,
    Decision,
    Event,
    Input,
    PatchMarked,
    Recorded,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    RunTerminated,
    RunTimedOut,
    SideEffectRecorded,
    SignalReceived,
    SignalRejected,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    limits,
    pack,
    unpack,
)

__all__ = ["Fault", "WorkflowRun", "replay"]

logger = logging.getLogger("everlong")


class WorkflowRun:
    """The suspended code of one run, and the ledger of what it has decided."""

    def __init__(
        self,
        definition: WorkflowDefinition,
        run_id: str,
        signal_types: dict[str, Any],
    ) -> None:
        self.definition = definition
        self.run_id = run_id
        self.loop = WorkflowLoop(self, limits.DRIVE_CALLBACKS_MAX)  # type: ignore[abstract]
        self.now_us = 0
        self.fault: BaseException | None = None
        self.started: RunStarted | None = None
        self.queries: dict[str, QueryHandler] = {}
        self.history_events = 0
        self.history_bytes = 0
        self.closed = False
        self._signals = Signals(signal_types)
        self._conditions: Conditions | None = None
        self._random: Random | None = None
        self._main: WorkflowTask[None] | None = None
        self._made: list[Decision] = []
        self._recorded: Sequence[Decision] | None = None
        self._next_id = 0
        self._activities: dict[int, ActivityFuture] = {}
        self._timers: dict[int, WorkflowTimer] = {}
        self._patches: dict[str, bool] = {}
        self._checkpoints = 0
        self._side_effects = 0
        self._cancel_requested: str | None = None
        self._warned_of_size = False

    # ------------------------------------------------------------------------------ the feed

    def feed(
        self, event: Input, at_us: int, recorded: Sequence[Decision] | None = None, seq: int = 0
    ) -> list[Decision]:
        """Feed one input, drive until nothing is ready, return the decisions.

        Args:
            event: the input.
            at_us: its time; `now()` in the code until the next input.
            recorded: the decisions that the history holds behind this input, on replay.
            seq: the input's sequence number, on replay.

        Raises:
            WorkflowFault: the code did what it must not; the run must be discarded and parked.
            NondeterminismError: it decided something other than what is recorded.
        """
        self.now_us = at_us
        self._recorded = recorded
        self._side_effects = 0
        made = self._made = []
        try:
            _FEEDERS[type(event)](self, event)
            if self.loop.ready:
                self._drive()
        except Exception as error:
            # Not the code's exceptions, those end in `_run_main`: a payload that no longer decodes,
            # a class that is no longer registered, an activity that the code does not know.
            self._flag(error)
        if self.fault is not None:
            self._raise_fault()
        if recorded is not None:
            try:
                check(recorded, made, seq + 1, self._canonical)
            except NondeterminismError as error:
                self._flag(error)
                raise
        return made

    def _drive(self) -> None:
        loop = self.loop
        loop.now_us = self.now_us
        outside = asyncio_adapter.enter(loop)
        try:
            loop.run_ready()
        except Fault:
            pass  # Flagged where it was raised.
        except EndlessLoop as endless:
            self._flag(EndlessDrive(callbacks=limits.DRIVE_CALLBACKS_MAX, stack=str(endless)))
        except BaseException as error:
            # SystemExit and KeyboardInterrupt leave asyncio's tasks; so may a callback's exception.
            self._flag(_left_the_code(error))
        finally:
            asyncio_adapter.leave(outside)

    def _flag(self, error: BaseException) -> None:
        if self.fault is None:
            self.fault = error
        self.loop.stopped = True

    def _raise_fault(self) -> NoReturn:
        assert self.fault is not None
        if isinstance(self.fault, WorkflowFault):
            raise self.fault
        raise WorkflowFault(f"{type(self.fault).__name__}: {self.fault}") from self.fault

    def stop_with(self, error: WorkflowFault) -> NoReturn:
        """Flag the run and leave its code at once."""
        self._flag(error)
        raise Fault(str(error))

    def forbid(self, what: str, fix: str) -> NoReturn:
        self.stop_with(ForbiddenCall(call=what, fix=fix))

    def forgot(self, coroutine: object) -> None:
        """A step that was called and not awaited is never left out in silence."""
        self._flag(WorkflowFault(forgotten(coroutine)))

    # ---------------------------------------------------------------------- one input, one function

    def take_started(self, event: RunStarted) -> None:
        if self.started is not None:
            raise WorkflowFault("the history starts this run a second time")
        self.started = event
        self.loop.begin(event.seed, self.now_us)
        for name, payload in event.carried:
            self._signals.accept(name, payload)
        if event.cancel_requested:
            self._cancel_requested = "asked in an earlier run"
        args, kwargs = self.definition.parameters.decode(event.arguments)
        main = self._run_main(args, kwargs)
        task = WorkflowTask(main, loop=self.loop, name="main", context=Context())
        self._main = task
        self.loop.tasks.append(task)

    def take_completed(self, event: ActivityCompleted) -> None:
        future = self._take_activity(event.activity_id, event)
        future.set_result(future.definition.result.decode(event.result))

    def take_failed(self, event: ActivityFailed) -> None:
        future = self._take_activity(event.activity_id, event)
        future.set_exception(decode_failure(event.failure, future.definition.exceptions))

    def take_timed_out(self, event: ActivityTimedOut) -> None:
        future = self._take_activity(event.activity_id, event)
        future.set_exception(ActivityTimeout(kind=event.timeout))

    def take_lost(self, event: ActivityLost) -> None:
        self._take_activity(event.activity_id, event).set_exception(ActivityLostError())

    def _take_activity(self, activity_id: int, event: Event) -> ActivityFuture:
        future = self._activities.pop(activity_id, None)
        if future is None:
            raise NondeterminismError(
                recorded=f"{type(event).__name__} of activity number {activity_id}",
                made="no such activity is open",
            )
        return future

    def take_timer(self, event: TimerFired) -> None:
        timer = self._timers.pop(event.timer_id, None)
        if timer is None:
            raise NondeterminismError(
                recorded=f"timer {event.timer_id} fired", made="no such timer is pending"
            )
        self.loop.ready.append(timer)

    def take_signal(self, event: SignalReceived) -> None:
        self._signals.accept(event.signal, event.payload)

    def take_rejected(self, event: SignalRejected) -> None:
        """Nothing: it is in the history for people."""

    def take_cancel(self, event: CancelRequested) -> None:
        """Cancellation is a state: the first request is delivered, later ones are not."""
        if self._cancel_requested is None and self._main is not None:
            self._cancel_requested = event.reason
            self._main.cancel(event.reason)

    def decode_signal(self, name: str, payload: bytes) -> Any:
        """A signal's value by its declared type. Raises EverlongError when it does not fit."""
        return self._signals.decode(name, payload)

    # ------------------------------------------------------------------------- the main coroutine

    async def _run_main(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The workflow function, and how it ends: a closing decision, or a fault."""
        definition = self.definition
        try:
            value = await definition.function(*args, **kwargs)
        except asyncio.CancelledError as error:
            if self._cancel_requested is not None:
                self._close(RunCancelled(self._cancel_requested, self._signals.unread()))
            else:
                self._close_failed(error)
        except Exception as error:
            self._close_failed(error)
        except BaseException as error:
            # A task would keep it, and nobody would ever look: the run would stand still for good.
            if not (self.closed or self.loop.discarded):
                self._flag(_left_the_code(error))
            raise
        else:
            if self.closed:
                return  # It swallowed the end that continue_as_new makes.
            try:
                result = definition.result.encode(value)
            except EverlongError as error:
                self._flag(WorkflowFault(str(error)))
                return
            self._close(RunCompleted(result, self._signals.unread()))

    def _close_failed(self, error: BaseException) -> None:
        self._close(
            RunFailed(encode_exception(error, self.definition.exceptions), self._signals.unread())
        )

    def _close(self, decision: Decision) -> None:
        # Code that swallowed a fault, the end or the discard may still return.
        if self.fault is None and not self.closed and not self.loop.discarded:
            self._made.append(decision)
            self.closed = True
        self.loop.stopped = True

    # ------------------------------------------------------------------------------ decisions

    def _require_live(self) -> None:
        if self.loop.discarded:
            raise Discarded
        if self.fault is not None:
            raise Fault(str(self.fault))
        if self.closed:
            raise Fault("the run has ended: nothing may follow its last decision")

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def call_activity(
        self, definition: ActivityDefinition, options: ActivityOptions, arguments: bytes, where: str
    ) -> Awaitable[Any]:
        self._require_live()
        decision = ActivityScheduled(self._new_id(), definition.name, arguments, options, where)
        self._made.append(decision)
        future = ActivityFuture(self, definition, decision)
        self._activities[decision.activity_id] = future
        return future

    def cancel_activity(self, future: ActivityFuture) -> None:
        self._require_live()
        decision = future.decision
        self._activities.pop(decision.activity_id, None)
        if not self._net_out(decision):
            self._made.append(ActivityCancelRequested(decision.activity_id))

    def start_timer(self, timer: WorkflowTimer) -> None:
        self._require_live()
        timer.timer_id = self._new_id()
        due_us = min(self.loop.start_us + round(timer.when() * 1_000_000), limits.INSTANT_US_MAX)
        self._made.append(TimerStarted(timer.timer_id, max(due_us, self.now_us), user_line()))
        self._timers[timer.timer_id] = timer

    def cancel_timer(self, timer: WorkflowTimer) -> None:
        self._require_live()
        if self._timers.pop(timer.timer_id, None) is None:
            return  # It has fired.
        for decision in self._made:
            if type(decision) is TimerStarted and decision.timer_id == timer.timer_id:
                self._made.remove(decision)
                return
        self._made.append(TimerCancelled(timer.timer_id))

    def _net_out(self, decision: Decision) -> bool:
        """Forget what was begun in this very drive; False when it is on record already."""
        for at, made in enumerate(self._made):
            if made is decision:
                del self._made[at]
                return True
        return False

    async def receive_signal(self, name: str) -> Any:
        self._require_live()
        return await self._signals.receive(name, self.loop.create_future)

    async def wait_condition(self, predicate: Callable[[], object]) -> None:
        self._require_live()
        if self._conditions is None:
            self._conditions = Conditions(self.stop_with)
            self.loop.at_rest = self._conditions.at_rest
        await self._conditions.wait(predicate, self.loop.create_future)

    def handle_query(self, name: str, handler: QueryHandler) -> None:
        self._require_live()
        self.queries[name] = handler

    async def side_effect(self, function: Callable[[], Any], where: str) -> Any:
        self._require_live()
        number, self._side_effects = self._side_effects, self._side_effects + 1
        if self._recorded is None:
            value = self._call_side_effect(function, where)
        else:
            made = [d for d in self._recorded if type(d) is SideEffectRecorded]
            if number >= len(made):
                self.stop_with(
                    NondeterminismError(recorded="no side effect", made=f"one at {where}")
                )
            value = made[number].value
        self._made.append(SideEffectRecorded(value, where))
        return unpack(value)

    def _call_side_effect(self, function: Callable[[], Any], where: str) -> bytes:
        """Only what it returns is recorded, so an exception that the code caught would be decided
        upon once and never again: it is a fault."""
        try:
            return pack(call_live(function))
        except Exception as error:
            fault = WorkflowFault(
                f"the side effect at {where} raised {type(error).__name__}: {error}. Only a plain "
                "value can be recorded; what may fail belongs in an activity"
            )
            fault.__cause__ = error
            self.stop_with(fault)

    def patched(self, name: str) -> bool:
        """Memoised per run: the first answer is recorded, and is the answer for ever."""
        self._require_live()
        known = self._patches.get(name)
        if known is not None:
            return known
        answer = self._recorded is None or PatchMarked(name) in self._recorded
        if answer:
            self._made.append(PatchMarked(name))
        self._patches[name] = answer
        return answer

    async def checkpoint(self, changed: dict[str, Any]) -> None:
        self._require_live()
        self._checkpoints += 1
        unknown = changed.keys() - set(self.definition.parameters.names)
        if unknown:
            self.stop_with(
                WorkflowFault(
                    f"checkpoint({', '.join(sorted(unknown))}=…): {self.definition.name} has no "
                    "such parameter. Carried state must be a parameter of the workflow"
                )
            )
        if asyncio.current_task(self.loop) is not self._main:
            self.stop_with(WorkflowFault("checkpoint() belongs in the workflow's main task"))
        if self._recorded is not None:
            begin_anew = any(
                type(decision) is RunContinuedAsNew and decision.checkpoints == self._checkpoints
                for decision in self._recorded
            )
        else:
            begin_anew = self._past_threshold() and self._nothing_in_flight()
        if begin_anew:
            self._continue_as_new(changed, self._checkpoints)
            await self.loop.create_future()  # Never resumes: the run is discarded here.

    def _past_threshold(self) -> bool:
        events, size = self.history_events, self.history_bytes
        return events >= limits.CHECKPOINT_EVENTS or size >= limits.CHECKPOINT_BYTES

    def _nothing_in_flight(self) -> bool:
        others = [t.get_name() for t in self.loop.tasks if not t.done() and t is not self._main]
        activities = [future.decision.activity for future in self._activities.values()]
        if not (others or activities or self._timers):
            return True
        if not self._warned_of_size:
            self._warned_of_size = True
            logger.warning(
                "%s: the history has %d events, but checkpoint() cannot begin anew while tasks %s, "
                "activities %s and %d timers are in flight",
                self.definition.name,
                self.history_events,
                others,
                activities,
                len(self._timers),
            )
        return False

    def continue_as_new(self, changed: dict[str, Any]) -> NoReturn:
        self._require_live()
        self._continue_as_new(changed, 0)
        raise Fault("the run begins anew")

    def _continue_as_new(self, changed: dict[str, Any], checkpoints: int) -> None:
        assert self.started is not None
        try:
            arguments = self.definition.parameters.merge(self.started.arguments, changed)
        except EverlongError as error:
            self.stop_with(WorkflowFault(str(error)))
        carried = self._signals.carried()
        self._close(RunContinuedAsNew(arguments, carried, checkpoints))

    # -------------------------------------------------------------------------- what others ask

    def info(self) -> WorkflowInfo:
        assert self.started is not None
        return WorkflowInfo(
            workflow_id=self.started.workflow_id,
            run_id=self.run_id,
            type=self.definition.name,
            started_us=self.loop.start_us,
            replaying=self._recorded is not None,
            cancel_reason=self._cancel_requested,
            history_events=self.history_events,
        )

    @property
    def cancel_requested(self) -> bool:
        return self._cancel_requested is not None

    def is_open(self, activity_id: int) -> bool:
        """Whether an outcome of this activity would still be taken."""
        return activity_id in self._activities

    def activity_definition(self, activity_id: int) -> ActivityDefinition | None:
        """What an open activity runs; None when the code has cancelled it."""
        future = self._activities.get(activity_id)
        return None if future is None else future.definition

    def is_pending(self, timer_id: int) -> bool:
        return timer_id in self._timers

    @property
    def random(self) -> Random:
        """The run's own source of chance; seeding one costs 10 µs, and few runs want it."""
        if self._random is None:
            assert self.started is not None
            self._random = Random(self.started.seed)
        return self._random

    def answer(self, name: str, arguments: bytes) -> bytes:
        """Answer a query from the state as it stands. Raises QueryFailed."""
        workflow_id = self.started.workflow_id if self.started is not None else ""
        return answer_query(self.queries, workflow_id, name, arguments)

    def _canonical(self, decision: Decision, recorded: bytes) -> bytes:
        match decision:
            case ActivityScheduled():
                future = self._activities.get(decision.activity_id)
                if future is None:
                    return recorded
                return future.definition.parameters.canonical(recorded)
            case RunContinuedAsNew():
                return self.definition.parameters.canonical(recorded)
            case RunCompleted():
                result = self.definition.result
                return result.encode(result.decode(recorded))
            case _:
                return recorded

    # ------------------------------------------------------------------------------- the end

    def discard(self) -> None:
        """Drop the code where it stands; what it has captured for queries stays."""
        self._activities.clear()
        self._timers.clear()
        self._main = None  # The loop has the last word on its tasks.
        discard(self.loop)


_FORCED: Final = frozenset({RunTerminated, RunTimedOut})
_DECIDED: Final = DECISIONS - _FORCED


def _left_the_code(error: BaseException) -> BaseException:
    """What a `BaseException` out of workflow code means: a fault, unless it is one already."""
    if isinstance(error, Fault):
        return WorkflowFault(str(error))
    return WorkflowFault(f"{type(error).__name__} left the workflow's code: {error!r}")


_FEEDERS: Final[dict[type[Event], Callable[[WorkflowRun, Any], None]]] = {
    RunStarted: WorkflowRun.take_started,
    ActivityCompleted: WorkflowRun.take_completed,
    ActivityFailed: WorkflowRun.take_failed,
    ActivityTimedOut: WorkflowRun.take_timed_out,
    ActivityLost: WorkflowRun.take_lost,
    TimerFired: WorkflowRun.take_timer,
    SignalReceived: WorkflowRun.take_signal,
    SignalRejected: WorkflowRun.take_rejected,
    CancelRequested: WorkflowRun.take_cancel,
}


def replay(run: WorkflowRun, history: Sequence[Recorded]) -> None:
    """Feed a whole history: the code then stands where it stood behind its last event.

    A termination or a timeout of the run stands behind complete pairs and was not decided by the
    code; it is passed over.
    """
    at, end = 0, len(history)
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
