"""One run, live and on replay (a whole history is fed in `history`).

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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from random import Random
from typing import Any, Final, NoReturn

from everlong._context import QueryHandler, UpdateHandler
from everlong._definitions import ActivityDefinition, WorkflowDefinition
from everlong._failures import decode_failure, encode_exception
from everlong._info import WorkflowInfo
from everlong._interception import Hooks
from everlong._replay import asyncio_adapter, intercepting
from everlong._replay.activity_future import ActivityFuture, keep_options
from everlong._replay.approvals import Approvals
from everlong._replay.cancelling import Cancellation
from everlong._replay.canonical import canonical
from everlong._replay.conditions import Conditions
from everlong._replay.discard import discard
from everlong._replay.identity import Identity, arrive, begin, info_of
from everlong._replay.in_hand import BEGINNING, InHand, Point, begins_anew, done_once
from everlong._replay.labels import Labels
from everlong._replay.live_only import answer_query
from everlong._replay.loop import (
    Discarded,
    EndlessLoop,
    Fault,
    WorkflowLoop,
    WorkflowTask,
    WorkflowTimer,
    fault_of,
)
from everlong._replay.marks import patched, side_effect
from everlong._replay.matching import check, forgotten
from everlong._replay.others import ANSWERS, Others
from everlong._replay.outputs import Outputs
from everlong._replay.roll_over import RollOver, in_flight
from everlong._replay.signals import Signals
from everlong._replay.timers import cancel_timer, start_timer
from everlong._replay.updates import Updates
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
    ActivityCancelled,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityOptions,
    ActivityScheduled,
    ActivityTimedOut,
    ApprovalAnswered,
    CancelRequested,
    Decision,
    Event,
    Input,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    SignalReceived,
    SignalRejected,
    TimerFired,
    UpdateReceived,
    limits,
)

__all__ = ["Fault", "WorkflowRun"]


class WorkflowRun:
    """The suspended code of one run, and the ledger of what it has decided."""

    # Here: beyond 30 attributes of its own, making one costs 1 % more.
    hooks: Hooks | None = None
    cursors: dict[str, bytes] | None = None  # How far its streams were read, if it reads any.
    reading: frozenset[str] = frozenset()  # Those that wait for a batch.
    in_hand: InHand | None = None  # The batch that the body of a loop works with.
    point: Point = BEGINNING  # Where the code may begin anew,
    done_once: str | None = None  # and what stands in the way.
    fed: Event | None = None

    def __init__(
        self,
        definition: WorkflowDefinition,
        run_id: str,
        signal_types: Mapping[str, Any],
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
        self.forgets = False  # Begins anew at every checkpoint, to show what is not carried.
        self.closed = False
        self.signals = Signals(signal_types)
        self._conditions: Conditions | None = None
        self._updates: Updates | None = None
        self._others: Others | None = None
        self._random: Random | None = None
        self.main: WorkflowTask[None] | None = None
        self.made: list[Decision] = []
        self.recorded: Sequence[Decision] | None = None
        self.last_id = 0
        self._activities: dict[int, ActivityFuture] = {}
        self._timers: dict[int, WorkflowTimer] = {}
        self._outputs: Outputs | None = None
        self._approvals: Approvals | None = None
        self._labels: Labels | None = None
        self._patches: dict[str, bool] = {}
        self._roll_over: RollOver | None = None
        self.moves_on = False
        self._cancellation = Cancellation()
        self.identity: Identity | None = None
        """Whom the code takes itself for, in a run that was reset."""

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
        self.recorded, self.fed = recorded, event
        made = self.made = []
        if self.point.made:
            self.point = self.point._replace(made=0)
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
        if made and self.done_once is None:
            self.done_once = done_once(made, self.point.made)
        if recorded is not None:
            try:
                check(recorded, made, seq + 1, partial(canonical, self))
                keep_options(recorded, self._activities, lambda: self.others)
            except NondeterminismError as error:
                self._flag(error)
                raise
            if self.identity is not None:
                arrive(self, seq + len(recorded) + 1)
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
            self._flag(fault_of(error))
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
            self.signals.accept(name, payload)
        if event.published:
            self._outputs = Outputs(event.published)
        if event.cursors:
            self.cursors = dict(event.cursors)
        if event.reset is not None:
            begin(self, event, None if self.recorded is None else 1)
        if event.cancel_requested:
            self._cancellation.reason = event.cancel_reason or "asked in an earlier run"
        args, kwargs = self.definition.parameters.decode(event.arguments)
        main = self._run_main(args, kwargs)
        task = WorkflowTask(main, loop=self.loop, name="main", context=Context())
        self.main = task
        self.loop.tasks.append(task)

    def take_completed(self, event: ActivityCompleted) -> None:
        future = self._take_activity(event.activity_id, event)
        if future.definition.transactional and self.done_once is None:
            self.done_once = f"rows of {future.definition.name}, which are stored once"
        future.set_result(future.definition.result.decode(event.result))

    def take_failed(self, event: ActivityFailed) -> None:
        future = self._take_activity(event.activity_id, event)
        future.set_exception(decode_failure(event.failure, future.definition.exceptions))

    def take_timed_out(self, event: ActivityTimedOut) -> None:
        error = ActivityTimeout(kind=event.timeout)
        self._take_activity(event.activity_id, event).set_exception(error)

    def take_lost(self, event: ActivityLost) -> None:
        self._take_activity(event.activity_id, event).set_exception(ActivityLostError())

    def take_cancelled(self, event: ActivityCancelled) -> None:
        self._take_activity(event.activity_id, event).ended()

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
        self.signals.accept(event.signal, event.payload)

    def take_rejected(self, event: SignalRejected) -> None:
        """Nothing: it is in the history for people."""

    def take_update(self, event: UpdateReceived) -> None:
        self.updates.take(event)

    def take_cancel(self, event: CancelRequested) -> None:
        """Cancellation is a state: the first request is delivered, later ones are not."""
        self._cancellation.ask(event.reason, self.main)
        if self._cancellation.held:
            self.loop.at_rest = self._at_rest

    def take_other(self, event: Any) -> None:
        self.others.take(event)

    def decode_signal(self, name: str, payload: bytes) -> Any:
        """A signal's value by its declared type. Raises EverlongError when it does not fit."""
        return self.signals.decode(name, payload)

    # ------------------------------------------------------------------------- the main coroutine

    async def _run_main(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The workflow function, and how it ends: a closing decision, or a fault."""
        definition = self.definition
        try:
            value = await intercepting.perform(self, args, kwargs)
        except asyncio.CancelledError as error:
            reason = self._cancellation.reason
            if reason is not None:
                self.close(RunCancelled(reason, self.signals.unread()))
            else:
                self._close_failed(error)
        except Exception as error:
            if not await begins_anew(self, error):
                self._close_failed(error)
        except BaseException as error:
            self.left_the_code(error)
            raise
        else:
            if self.closed:
                return  # It swallowed the end that continue_as_new makes.
            try:
                result = definition.result.encode(value)
            except EverlongError as error:
                self._flag(WorkflowFault(str(error)))
                return
            self.close(RunCompleted(result, self.signals.unread()))

    def _close_failed(self, error: BaseException) -> None:
        self.close(
            RunFailed(encode_exception(error, self.definition.exceptions), self.signals.unread())
        )

    def left_the_code(self, error: BaseException) -> None:
        """A task would keep it, and nobody would ever look: the run would stand still for good."""
        if not (self.closed or self.loop.discarded):
            self._flag(fault_of(error))

    def close(self, decision: Decision) -> None:
        # Code that swallowed a fault, the end or the discard may still return.
        if self.fault is None and not self.closed and not self.loop.discarded:
            self.made.append(decision)
            self.closed = True
        self.loop.stopped = True

    # ------------------------------------------------------------------------------ decisions

    def require_live(self) -> None:
        if self.loop.discarded:
            raise Discarded
        if self.fault is not None:
            raise Fault(str(self.fault))
        if self.closed:
            raise Fault("the run has ended: nothing may follow its last decision")

    def new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def call_activity(
        self, definition: ActivityDefinition, options: ActivityOptions, arguments: bytes, where: str
    ) -> Awaitable[Any]:
        if self.in_hand is not None:
            options = self.in_hand.bounded(options)
        if self.hooks is not None and self.hooks.call_activity:
            return intercepting.call_activity(self, definition, options, arguments, where)
        self.require_live()
        decision = ActivityScheduled(self.new_id(), definition.name, arguments, options, where)
        return self.schedule(definition, decision)

    def schedule(self, definition: ActivityDefinition, made: ActivityScheduled) -> ActivityFuture:
        self.made.append(made)
        future = ActivityFuture(self, definition, made)
        self._activities[made.activity_id] = future
        return future

    def cancel_activity(self, future: ActivityFuture) -> bool:
        """Whether it is over with that; one whose end is waited for stays open."""
        self.require_live()
        decision = future.decision
        on_record = not self.net_out(decision)
        if on_record:
            self.made.append(ActivityCancelRequested(decision.activity_id))
        if on_record and decision.options.on_cancel == "wait":
            return False
        self._activities.pop(decision.activity_id, None)
        return True

    def start_timer(self, timer: WorkflowTimer) -> None:
        start_timer(self, self._timers, timer)

    def cancel_timer(self, timer: WorkflowTimer) -> None:
        cancel_timer(self, self._timers, timer)

    def net_out(self, decision: Decision) -> bool:
        """Forget what was begun in this very drive; False when it is on record already."""
        for at, made in enumerate(self.made):
            if made is decision:
                del self.made[at]
                return True
        return False

    async def receive_signal(self, name: str) -> Any:
        self.require_live()
        return await self.signals.receive(name, self.loop.create_future)

    async def wait_condition(self, predicate: Callable[[], object]) -> None:
        self.require_live()
        if self._conditions is None:
            self._conditions = Conditions(self.stop_with)
            self.loop.at_rest = self._at_rest
        await self._conditions.wait(predicate, self.loop.create_future)

    def _at_rest(self) -> bool:
        """Nothing is ready: make ready what waited for just that."""
        if self._conditions is not None and self._conditions.at_rest():
            return True
        return self._cancellation.at_rest(self.main)

    def handle_query(self, name: str, handler: QueryHandler) -> None:
        self.require_live()
        self.queries[name] = handler

    # Made when they are wanted: a run that uses none of them has nothing to carry.

    @property
    def outputs(self) -> Outputs:
        self._outputs = self._outputs or Outputs()
        return self._outputs

    @property
    def approvals(self) -> Approvals:
        if self._approvals is None:  # One that waits for nothing is false.
            self._approvals = Approvals()
        return self._approvals

    @property
    def asks_people(self) -> bool:
        return self._approvals is not None

    @property
    def labels(self) -> Labels:
        if self._labels is None:
            assert self.started is not None, "nobody asks before"
            self._labels = Labels(self.started)
        return self._labels

    @property
    def is_labelled(self) -> bool:
        return self._labels is not None

    @property
    def updates(self) -> Updates:
        self._updates = self._updates or Updates(self)
        return self._updates

    def handle_update(self, name: str, handler: UpdateHandler) -> None:
        self.updates.handle(name, handler)

    def validate_update(self, name: str, validator: Callable[..., Any]) -> None:
        self.updates.validate(name, validator)

    @property
    def has_updates(self) -> bool:
        """Whether it handles any."""
        return self._updates is not None

    def holds_updates(self) -> bool:
        """Whether it is time to begin anew, and updates at work are what stands in the way: the
        next ones wait, or it would never be done."""
        return bool(self.unfinished_updates()) and self.rolling.is_due

    def unfinished_updates(self) -> tuple[UpdateReceived, ...]:
        return () if self._updates is None else self._updates.unfinished()

    def all_handlers_finished(self) -> bool:
        return not self.unfinished_updates()

    @property
    def others(self) -> Others:
        """Children and other executions; most runs have to do with none."""
        if self._others is None:
            self._others = Others(self)
        return self._others

    async def side_effect(self, function: Callable[[], Any], where: str) -> Any:
        return side_effect(self, function, where)

    def patched(self, name: str, *, deprecated: bool = False) -> bool:
        return patched(self, self._patches, name, deprecated=deprecated)

    async def checkpoint(self, changed: dict[str, Any]) -> None:
        await self.rolling.checkpoint(changed)

    def continue_as_new(self, changed: dict[str, Any]) -> NoReturn:
        self.rolling.at_once(changed)

    @property
    def rolling(self) -> RollOver:
        if self._roll_over is None:
            self._roll_over = RollOver(self)
        return self._roll_over

    def in_flight(self) -> list[str]:
        """What would be lost if the run ended now, as words for people."""
        parts = self._others, self._approvals
        return in_flight(self.loop.tasks, self.main, self._activities, self._timers, parts)

    def carried(self) -> tuple[tuple[str, bytes], ...]:
        """Signals that nobody has received yet, for the run that begins anew."""
        return self.signals.carried()

    # -------------------------------------------------------------------------- what others ask

    def info(self) -> WorkflowInfo:
        return info_of(self, self._cancellation.reason)

    @property
    def cancel_reason(self) -> str | None:
        return self._cancellation.reason

    def canonical_signal(self, name: str, recorded: bytes) -> bytes:
        """A recorded value as today's type writes it."""
        return self.signals.canonical(name, recorded)

    def is_open(self, activity_id: int) -> bool:
        """Whether an outcome of this activity would still be taken."""
        return activity_id in self._activities

    def activity_definition(self, activity_id: int) -> ActivityDefinition | None:
        """What an open activity runs; None when the code has cancelled it."""
        future = self._activities.get(activity_id)
        return None if future is None else future.definition

    def is_cancelling(self, activity_id: int) -> bool:
        """Whether the code waits for the end of an activity that it has cancelled."""
        future = self._activities.get(activity_id)
        return future is not None and future.cancelling

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
        around = intercepting.answering(self.hooks, workflow_id, name, arguments)
        return answer_query(self.queries, workflow_id, name, arguments, around)

    # ------------------------------------------------------------------------------- the end

    def discard(self) -> None:
        """Drop the code where it stands; what it has captured for queries stays."""
        self._activities.clear()
        self._timers.clear()
        if self._approvals is not None:
            self._approvals.discard()
        self.main = None  # The loop has the last word on its tasks.
        discard(self.loop)
        # They know the run: nothing goes in circles.
        self._roll_over = self._conditions = self._updates = self._others = None


_FEEDERS: Final[dict[type[Event], Callable[[WorkflowRun, Any], None]]] = {
    RunStarted: WorkflowRun.take_started,
    ActivityCompleted: WorkflowRun.take_completed,
    ActivityFailed: WorkflowRun.take_failed,
    ActivityTimedOut: WorkflowRun.take_timed_out,
    ActivityLost: WorkflowRun.take_lost,
    ActivityCancelled: WorkflowRun.take_cancelled,
    TimerFired: WorkflowRun.take_timer,
    SignalReceived: WorkflowRun.take_signal,
    SignalRejected: WorkflowRun.take_rejected,
    CancelRequested: WorkflowRun.take_cancel,
    UpdateReceived: WorkflowRun.take_update,
    **dict.fromkeys(ANSWERS, WorkflowRun.take_other),
    ApprovalAnswered: lambda run, event: run.approvals.take(event),
}
