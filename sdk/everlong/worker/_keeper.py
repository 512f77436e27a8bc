"""Keeps the runs that a worker owns: claim, load, replay, feed, append, act.

The life of an input: it lies in a run's mailbox; it is fed, and the decisions that follow are one
append with it; when the append is committed, and only then, its effects begin. Runs may be ahead of
their commits in memory, within a bound. If an append is refused, the code is discarded with
everything behind it, what was not journaled goes back into the mailbox, and the run is loaded anew.

A run with nothing going on sleeps in the store when the cache is full; it costs a row there and
nothing here.
"""

import asyncio
import logging
import platform
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, Final

from everlong._definitions import WorkflowDefinition
from everlong._replay.run import WorkflowRun, replay
from everlong.exceptions import (
    EverlongError,
    QueryFailed,
    StoreError,
    WorkflowClosed,
    WorkflowFault,
)
from everlong.worker._activities import ActivityRunner
from everlong.worker._deadlines import Deadlines
from everlong.worker._owned import Incoming, OpenAttempt, OwnedRun, Step
from everlong_engine import (
    CLOSING,
    CODES,
    INPUTS,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    Append,
    AppendResult,
    AttemptState,
    Blobs,
    Closing,
    Decision,
    Engine,
    ForgetMail,
    HistoryRow,
    IfClosed,
    IfOpen,
    Input,
    LoadedRun,
    MailRow,
    MarkAttempts,
    NewRun,
    NextRun,
    Refusal,
    Release,
    RunCancelled,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    RunStatus,
    RunTerminated,
    RunTimedOut,
    SignalReceived,
    SignalRejected,
    StartResult,
    StartRun,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    WriteResult,
    checksum,
    decode_event,
    encode_event,
    fold,
    id_text,
    latest_attempts,
    limits,
)

__all__ = ["RunKeeper"]

logger = logging.getLogger("everlong")

_AHEAD_MAX: Final = 256
_EVICT_LOOK_MAX: Final = 128
_RETRY_FULL_US: Final = 500_000
_TERMINATED: Final = CODES[RunTerminated]
_PYTHON: Final = platform.python_version()
_OUTCOMES: Final = (ActivityCompleted, ActivityFailed, ActivityTimedOut, ActivityLost)
_STATUS: Final[Mapping[type[Closing], RunStatus]] = {
    RunCompleted: RunStatus.COMPLETED,
    RunFailed: RunStatus.FAILED,
    RunCancelled: RunStatus.CANCELLED,
    RunContinuedAsNew: RunStatus.CONTINUED_AS_NEW,
    RunTerminated: RunStatus.TERMINATED,
    RunTimedOut: RunStatus.TIMED_OUT,
}


class RunKeeper:
    """The owned runs of one worker."""

    def __init__(
        self,
        engine: Engine,
        worker_id: bytes,
        workflows: Mapping[str, WorkflowDefinition],
        signals: dict[str, Any],
        cache_size: int,
        make_runner: Callable[[Deadlines, Callable[[OwnedRun, Incoming], None]], ActivityRunner],
    ) -> None:
        self._engine = engine
        self._worker_id = worker_id
        self._workflows = workflows
        self._signals = signals
        self._cache_size = cache_size
        self._deadlines = Deadlines(engine.clock)
        self.activities = make_runner(self._deadlines, self.receive)
        self._runs: OrderedDict[bytes, OwnedRun] = OrderedDict()
        """By execution, least recently used first."""
        self._names: dict[tuple[str, str], OwnedRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._suspected: deque[LoadedRun] = deque()
        """On probation: driven one at a time."""
        self._on_trial: OwnedRun | None = None
        self.stopping = False
        self.on_room: Callable[[], None] = lambda: None

    # --------------------------------------------------------------------------- what it holds

    @property
    def room(self) -> int:
        """How many more runs may be claimed."""
        idle = self._idle_count() if len(self._runs) >= self._cache_size else 0
        return self._cache_size - len(self._runs) - len(self._suspected) + idle

    @property
    def may_begin(self) -> bool:
        """Whether a new run may begin here at once; far over the limit it waits in the store."""
        return not self.stopping and len(self._runs) < 2 * self._cache_size + 100

    def _idle_count(self) -> int:
        return sum(1 for run in self._runs.values() if run.is_idle)

    def find(self, namespace: str, workflow_id: str, execution_id: bytes | None) -> OwnedRun | None:
        """The run of an execution that is open here."""
        run = self._names.get((namespace, workflow_id))
        if run is None or execution_id not in (None, run.execution_id):
            return None
        return run

    def _hold(self, run: OwnedRun) -> None:
        self._runs[run.execution_id] = run
        self._names[run.namespace, run.workflow_id] = run

    def _code(self, kind: str, run_id: bytes) -> WorkflowRun:
        return WorkflowRun(self._workflows[kind], id_text(run_id), self._signals)

    # --------------------------------------------------------------------------------- begin

    def begin(
        self,
        new: NewRun,
        started: RunStarted,
        if_open: IfOpen,
        if_closed: IfClosed,
        on_result: Callable[[StartResult | StoreError], None],
    ) -> None:
        """Start an execution here: its first drive and its row are one transaction.

        The code runs ahead of the answer whether the workflow id is free; nothing it decides takes
        effect before that.
        """
        run = OwnedRun.of(new, 1, self._code(new.type, new.run_id))
        incoming = Incoming(started)
        now_us = self._engine.clock.now_us()
        try:
            decisions = run.code.feed(started, now_us)
        except WorkflowFault:
            # Stored undriven: it is claimed, meets its fault again and stands there, visible.
            run.code.discard()
            self._begin_as_mail(new, started, if_open, if_closed, on_result)
            return
        step = Step(incoming, decisions, run.generation)
        append = self._append(run, step, now_us)
        run.inflight.append(step)
        start = StartRun(new, if_open, if_closed, 0, b"", owner=self._worker_id, first=append)
        self._hold(run)

        def settled(result: WriteResult | StoreError) -> None:
            if isinstance(result, StartResult) and result.created:
                on_result(result)
                self._settle(run, step, AppendResult())
                return
            self._forget(run)
            assert isinstance(result, StartResult | StoreError)
            on_result(result)

        self._engine.commits.add(start, settled)

    def _begin_as_mail(
        self,
        new: NewRun,
        started: RunStarted,
        if_open: IfOpen,
        if_closed: IfClosed,
        on_result: Callable[[StartResult | StoreError], None],
    ) -> None:
        blobs: Blobs = {}
        kind, body = encode_event(started, blobs)
        start = StartRun(
            new, if_open, if_closed, kind, body, blobs=blobs, wake_us=self._engine.clock.now_us()
        )

        def settled(result: WriteResult | StoreError) -> None:
            assert isinstance(result, StartResult | StoreError)
            on_result(result)
            self.on_room()

        self._engine.commits.add(start, settled)

    def adopt(self, loaded: LoadedRun) -> None:
        """A claimed run: replay it, arm what it waits for, feed what lies in its inbox."""
        if loaded.row.losses >= limits.LOSSES_TO_PROBATION and loaded.row.status.is_open:
            self._suspected.append(loaded)
            self._next_trial()
            return
        self._drive(loaded, probation=False)

    def _drive(self, loaded: LoadedRun, *, probation: bool) -> OwnedRun | None:
        row = loaded.row
        run = OwnedRun.of(row, row.lease_token, self._code(row.type, row.run_id))
        run.probation = probation
        self._hold(run)
        if not self._load(run, loaded):
            return None
        self.pump(run)
        return run

    def _load(self, run: OwnedRun, loaded: LoadedRun) -> bool:
        """Bring fresh code to where the history ends. False: it met a fault and is parked."""
        run.next_seq = loaded.row.next_seq
        run.code.history_bytes = loaded.history_bytes
        try:
            replay(run.code, loaded.history)
            mail = [self._incoming(row, loaded.blobs) for row in loaded.mail]
        except EverlongError as fault:
            self.block(run, fault)
            return False
        state = fold(loaded.history)
        run.last_us = state.last_us
        run.timers = {timer.timer_id: timer.due_us for timer in state.timers.values()}
        newest = latest_attempts(loaded.attempts)
        run.suspects = {
            number
            for number, row in newest.items()
            if row.state is AttemptState.LOST and number in state.activities
        }
        run.positions = {row.position for row in loaded.mail}
        local = [one for one in run.mailbox if one.position is None]
        run.mailbox = deque([*mail, *local])
        self._arm(run, state.started, state.started_us)
        answered = {
            one.event.activity_id for one in run.mailbox if isinstance(one.event, _OUTCOMES)
        }
        for number, activity in state.activities.items():
            # Those still at work here lost only their code; of some the outcome waits to be fed.
            if number not in run.attempts and number not in answered:
                definition = run.code.activity_definition(number)
                assert definition is not None, "the replayed code has this activity open"
                attempt = OpenAttempt(run, activity.scheduled, definition, activity.at_us)
                self.activities.restore(attempt, newest.get(number))
        late, run.late_mail = run.late_mail, []
        for one in late:
            self.deliver(one)
        return True

    def _arm(self, run: OwnedRun, started: RunStarted | None, started_us: int) -> None:
        for timer_id, due_us in sorted(run.timers.items(), key=lambda item: (item[1], item[0])):
            self._deadlines.add(due_us, self._fire, run, timer_id, run.generation)
        if started is None:
            return
        run.deadlines_us = {}
        if started.run_timeout_us is not None:
            run.deadlines_us["run"] = started_us + started.run_timeout_us
        if started.execution_deadline_us is not None:
            run.deadlines_us["execution"] = started.execution_deadline_us
        for which, due_us in run.deadlines_us.items():
            self._deadlines.add(due_us, self._time_out, run, which)

    def _incoming(self, mail: MailRow, blobs: Mapping[bytes, bytes]) -> Incoming:
        if checksum(0, mail.kind, mail.body) != mail.checksum:
            raise WorkflowFault(f"message {mail.position} of the inbox has a wrong checksum")
        event = decode_event(mail.kind, mail.body, blobs)
        if type(event) not in INPUTS:
            raise WorkflowFault(f"message {mail.position} of the inbox is no input")
        return Incoming(event, mail.position)  # type: ignore[arg-type]

    # ----------------------------------------------------------------------------- the mailbox

    def receive(self, run: OwnedRun, incoming: Incoming) -> None:
        """Put an input into a run's mailbox, and feed it if nothing stands in the way."""
        if run.dropped:
            if incoming.on_done is not None:
                incoming.on_done(WorkflowClosed(workflow_id=run.workflow_id))
            return
        run.mailbox.append(incoming)
        self.pump(run)

    def deliver(self, mail: MailRow) -> bool:
        """Mail that another process left; False when the run is not here."""
        run = self._runs.get(mail.execution_id)
        if run is None or run.dropped:
            return False
        if mail.kind == _TERMINATED:
            self._engine.commits.add(ForgetMail(mail.position, mail.execution_id), lambda _: None)
            self.terminated(mail.execution_id)
            return True
        if run.releasing:
            return False  # If the release is refused, loading brings it; else a claim does.
        if run.loading:
            run.late_mail.append(mail)  # The load that is under way may not see it.
            return True
        if mail.position in run.positions:
            return True
        try:
            incoming = self._incoming(mail, {})
        except EverlongError:
            # It spilled, or is damaged: loading decides, with everything at hand.
            self._reload(run)
            return True
        run.positions.add(mail.position)
        self.receive(run, incoming)
        return True

    def pump(self, run: OwnedRun) -> None:
        """Feed the mailbox, one input after the other, and send each drive to be committed."""
        if run.pumping or run.loading or run.releasing or run.dropped:
            return
        run.pumping = True
        try:
            while run.mailbox and not (run.closing or run.dropped or run.loading):
                if len(run.inflight) >= _AHEAD_MAX:
                    return
                self._feed(run, run.mailbox.popleft())
        finally:
            run.pumping = False
        if run.execution_id in self._runs:
            self._runs.move_to_end(run.execution_id)
        if len(self._runs) > self._cache_size:
            self._evict()

    def _feed(self, run: OwnedRun, incoming: Incoming) -> None:
        event = incoming.event
        if self._is_stale(run, event):
            return
        at_us = max(run.last_us, self._engine.clock.now_us())
        if type(event) is SignalReceived:
            event = incoming.event = self._judge_signal(run, event)
        code = run.code
        if code.history_events >= limits.HISTORY_EVENTS_MAX or (
            code.history_bytes >= limits.HISTORY_BYTES_MAX
        ):
            run.mailbox.appendleft(incoming)
            self.block(run, WorkflowFault(_TOO_LONG.format(events=code.history_events)))
            return
        began = monotonic()
        try:
            decisions = code.feed(event, at_us)
        except WorkflowFault as fault:
            run.mailbox.appendleft(incoming)
            self.block(run, fault)
            return
        if monotonic() - began > limits.DRIVE_REPORT_S:
            logger.warning(
                "%s: a drive took %.1f s of the worker's time; move the work into an activity",
                run.workflow_id,
                monotonic() - began,
            )
        if type(event) is TimerFired:
            run.timers.pop(event.timer_id, None)
        elif run.suspects and isinstance(event, _OUTCOMES):
            run.suspects.discard(event.activity_id)
        step = Step(incoming, decisions, run.generation)
        append = self._append(run, step, at_us)
        run.inflight.append(step)
        self._engine.commits.add(append, partial(self._settle, run, step))

    def _is_stale(self, run: OwnedRun, event: Input) -> bool:
        """An outcome or a timer that lost its race against a cancellation."""
        match event:
            case ActivityCompleted() | ActivityFailed() | ActivityTimedOut() | ActivityLost():
                return not run.code.is_open(event.activity_id)
            case TimerFired():
                return not run.code.is_pending(event.timer_id)
            case _:
                return False

    def _judge_signal(
        self, run: OwnedRun, event: SignalReceived
    ) -> SignalReceived | SignalRejected:
        """Whether a value fits its type is decided once, here, and recorded."""
        try:
            run.code.decode_signal(event.signal, event.payload)
        except EverlongError as error:
            return SignalRejected(event.signal, event.payload, str(error))
        return event

    # ------------------------------------------------------------------------------ appends

    def _append(self, run: OwnedRun, step: Step, at_us: int) -> Append:
        """The rows of an input and its decisions, and everything that goes with them."""
        base = seq = run.next_seq
        incoming, decisions = step.incoming, step.decisions
        blobs: Blobs = {}
        kind, body = encode_event(incoming.event, blobs)
        rows: list[HistoryRow] = [(seq, kind, at_us, body, checksum(seq, kind, body))]
        size = len(body)
        for index, decision in enumerate(decisions):
            if type(decision) is ActivityScheduled and self.activities.reserve():
                decision = decisions[index] = ActivityScheduled(
                    decision.activity_id,
                    decision.activity,
                    decision.arguments,
                    decision.options,
                    decision.where,
                    began=True,
                )
            seq += 1
            kind, body = encode_event(decision, blobs)
            rows.append((seq, kind, at_us, body, checksum(seq, kind, body)))
            size += len(body)
        run.next_seq = seq + 1
        run.last_us = at_us
        run.code.history_events = seq
        run.code.history_bytes += size
        last = decisions[-1] if decisions else None
        closed: RunStatus | None = None
        following: NextRun | None = None
        if last is not None and type(last) in CLOSING:
            run.closing = True
            closed = _STATUS[type(last)]  # type: ignore[index]
            if type(last) is RunContinuedAsNew:
                following = self._following(run, last)
        position = incoming.position
        return Append(
            run.shard,
            run.run_id,
            run.execution_id,
            run.token,
            base,
            rows,
            self._engine.new_append_id(),
            () if position is None else (position,),
            closed is not None or incoming.on_done is not None,
            closed,
            at_us if closed is not None else None,
            following,
            blobs or None,
            not run.suspects,
        )

    def _following(self, run: OwnedRun, event: RunContinuedAsNew) -> NextRun:
        before = run.code.started
        assert before is not None
        now_us = self._engine.clock.now_us()
        started = RunStarted(
            workflow=before.workflow,
            arguments=event.arguments,
            workflow_id=before.workflow_id,
            seed=self._engine.random.getrandbits(60),
            code=self._workflows[run.type].digest,
            python=_PYTHON,
            run_timeout_us=before.run_timeout_us,
            execution_deadline_us=before.execution_deadline_us,
            previous_run=run.run_id,
            carried=event.carried,
            cancel_requested=run.code.cancel_requested,
        )
        blobs: Blobs = {}
        kind, body = encode_event(started, blobs)
        new = NewRun(
            shard=run.shard,
            run_id=self._engine.ids.next(now_us),
            execution_id=run.execution_id,
            namespace=run.namespace,
            workflow_id=run.workflow_id,
            type=run.type,
            queue=run.queue,
            started_us=now_us,
        )
        return NextRun(new, self._worker_id, kind, body, blobs)

    def _settle(self, run: OwnedRun, step: Step, result: WriteResult | StoreError) -> None:
        """An append is committed, or refused."""
        if step.generation != run.generation or run.dropped:
            return  # Discarded meanwhile: its input has gone back to the mailbox, or nowhere.
        if not isinstance(result, AppendResult) or result.refusal is not None:
            self._refused(run, result)
            return
        run.inflight.popleft()
        incoming = step.incoming
        if incoming.position is not None:
            run.positions.discard(incoming.position)
        if incoming.on_done is not None:
            incoming.on_done(None)
        if step.after is not None:
            for then in step.after:
                then()
        for decision in step.decisions:
            self._act(run, decision, result)
        if run.probation and not run.suspects:
            self._end_trial(run)
        if run.mailbox and not run.dropped:
            self.pump(run)

    def _act(self, run: OwnedRun, decision: Decision, result: AppendResult) -> None:
        """The effect of a committed decision."""
        kind = type(decision)
        if kind is ActivityScheduled:
            assert isinstance(decision, ActivityScheduled)
            definition = run.code.activity_definition(decision.activity_id)
            if definition is None:  # Cancelled by a drive that is in flight behind this one.
                if decision.began:
                    self.activities.give_back()
                return
            self.activities.dispatch(run, decision, definition, run.last_us)
        elif kind is ActivityCancelRequested:
            assert isinstance(decision, ActivityCancelRequested)
            self.activities.cancel(run, decision.activity_id)
        elif kind is TimerStarted:
            assert isinstance(decision, TimerStarted)
            if run.code.is_pending(decision.timer_id):
                run.timers[decision.timer_id] = decision.due_us
                self._deadlines.add(
                    decision.due_us, self._fire, run, decision.timer_id, run.generation
                )
        elif kind is TimerCancelled:
            assert isinstance(decision, TimerCancelled)
            run.timers.pop(decision.timer_id, None)
        elif kind in CLOSING:
            self._closed(run, decision, result)  # type: ignore[arg-type]

    def _closed(self, run: OwnedRun, event: Closing, result: AppendResult) -> None:
        leftovers = list(run.mailbox)
        run.mailbox.clear()
        self._forget(run)
        if isinstance(event, RunContinuedAsNew):
            assert result.next_run_mail is not None
            self._begin_following(run, leftovers)
            return
        self._engine.closed(run.execution_id, run.run_id, event)
        for one in leftovers:
            if one.on_done is not None:
                one.on_done(WorkflowClosed(workflow_id=run.workflow_id))
        self.on_room()

    def _begin_following(self, run: OwnedRun, leftovers: list[Incoming]) -> None:
        """The successor lies in the store as ours; load it like any other."""
        placeholder = OwnedRun(
            run.shard,
            b"",
            run.execution_id,
            run.namespace,
            run.workflow_id,
            run.type,
            run.queue,
            0,
            run.code,
        )
        placeholder.loading = True
        placeholder.mailbox.extend(one for one in leftovers if one.on_done is not None)
        self._hold(placeholder)
        self._spawn(self._load_following(placeholder))

    async def _load_following(self, placeholder: OwnedRun) -> None:
        target = self._engine.target(
            placeholder.namespace, placeholder.workflow_id, placeholder.execution_id
        )
        row = await self._engine.store.latest(target)
        loaded = await self._engine.store.load(row.shard, row.run_id) if row else None
        if self._runs.get(placeholder.execution_id) is not placeholder:
            return
        if loaded is None or loaded.row.owner != self._worker_id:
            self._forget(placeholder)  # Terminated at once, or taken.
            self._reject(placeholder)
            return
        run = OwnedRun.of(
            loaded.row, loaded.row.lease_token, self._code(loaded.row.type, loaded.row.run_id)
        )
        run.mailbox = placeholder.mailbox
        run.late_mail = placeholder.late_mail
        placeholder.dropped = True
        self._hold(run)
        if self._load(run, loaded):
            self.pump(run)

    # ----------------------------------------------------------------------------- refusals

    def _refused(self, run: OwnedRun, result: WriteResult | StoreError) -> None:
        """Discard the code with everything in flight; what was not journaled is fed again."""
        if isinstance(result, StoreError):
            logger.warning("%s: an append was not stored: %s", run.workflow_id, result)
            # Not acknowledged: whoever sent something directly is told; the rest stays here.
            for step in run.inflight:
                if step.incoming.on_done is not None:
                    step.incoming.on_done(result)
                    step.incoming.on_done = None
                    step.incoming.position = -1
            self._discard_code(run)
            run.mailbox = deque(one for one in run.mailbox if one.position != -1)
            run.loading = True
            if self._engine.commits.failed is None:
                again_us = self._engine.clock.now_us() + _RETRY_FULL_US
                self._deadlines.add(again_us, self._reload, run)
            return
        assert isinstance(result, AppendResult)
        if result.refusal is Refusal.MAIL:
            logger.debug("%s: mail came first; driving again", run.workflow_id)
        self._reload(run)

    def _discard_code(self, run: OwnedRun) -> None:
        for step in run.inflight:
            for decision in step.decisions:
                if type(decision) is ActivityScheduled and decision.began:
                    self.activities.give_back()
        back = [step.incoming for step in run.inflight]
        run.mailbox.extendleft(reversed(back))
        run.inflight.clear()
        run.generation += 1
        run.closing = False
        run.code.discard()

    def _reload(self, run: OwnedRun) -> None:
        if run.dropped:
            return
        if not run.code.loop.discarded:
            self._discard_code(run)
        run.loading = True
        self._spawn(self._load_again(run, run.generation))

    async def _load_again(self, run: OwnedRun, generation: int) -> None:
        try:
            loaded = await self._engine.store.load(run.shard, run.run_id)
        except EverlongError as error:
            logger.warning("%s: cannot be loaded now: %s", run.workflow_id, error)
            self._deadlines.add(self._engine.clock.now_us() + _RETRY_FULL_US, self._reload, run)
            return
        if run.dropped or run.generation != generation:
            return
        still_ours = loaded is not None and (
            loaded.row.status is RunStatus.RUNNING
            and loaded.row.lease_token == run.token
            and loaded.row.owner == self._worker_id
        )
        if loaded is None or not still_ours:
            self._forget(run)
            self._reject(run)
            return
        run.code = self._code(run.type, run.run_id)
        run.loading = False
        if self._load(run, loaded):
            self.pump(run)

    def _reject(self, run: OwnedRun) -> None:
        for one in run.mailbox:
            if one.on_done is not None:
                one.on_done(WorkflowClosed(workflow_id=run.workflow_id))
        run.mailbox.clear()

    def _forget(self, run: OwnedRun) -> None:
        """Let go of a run here; the store knows already."""
        run.dropped = True
        if self._runs.get(run.execution_id) is run:
            del self._runs[run.execution_id]
        name = (run.namespace, run.workflow_id)
        if self._names.get(name) is run:
            del self._names[name]
        for step in run.inflight:
            for decision in step.decisions:
                if type(decision) is ActivityScheduled and decision.began:
                    self.activities.give_back()
        run.inflight.clear()
        self.activities.drop(run)
        run.code.discard()
        if self._on_trial is run:
            self._on_trial = None
            self._next_trial()

    def terminated(self, execution_id: bytes) -> None:
        """Closed from outside: the token has moved on, nothing of the run may go on."""
        run = self._runs.get(execution_id)
        if run is not None:
            self._forget(run)
            self._reject(run)

    # ---------------------------------------------------------------------- deadlines and faults

    def _fire(self, run: OwnedRun, timer_id: int, generation: int) -> None:
        if run.dropped or generation != run.generation or timer_id not in run.timers:
            return  # Loading arms the timers anew.
        if run.releasing:
            return
        self.receive(run, Incoming(TimerFired(timer_id)))

    def _time_out(self, run: OwnedRun, which: str) -> None:
        """The run's own deadline: closed at once, like a termination."""
        if run.dropped or run.closing:
            return
        if run.releasing or run.loading or run.inflight:
            self._deadlines.add(self._engine.clock.now_us() + 10_000, self._time_out, run, which)
            return
        run.code.discard()
        run.closing = True
        seq = run.next_seq
        at_us = max(run.last_us, self._engine.clock.now_us())
        event = RunTimedOut(which)
        kind, body = encode_event(event, {})
        append = Append(
            run.shard,
            run.run_id,
            run.execution_id,
            run.token,
            seq,
            [(seq, kind, at_us, body, checksum(seq, kind, body))],
            self._engine.new_append_id(),
            closed=RunStatus.TIMED_OUT,
            closed_us=at_us,
        )
        incoming = Incoming(TimerFired(0))  # Never fed again: a refusal reloads the run as it is.
        step = Step(incoming, [event], run.generation)
        run.inflight.append(step)
        run.next_seq += 1
        self._engine.commits.add(append, partial(self._settle, run, step))

    def block(self, run: OwnedRun, fault: EverlongError) -> None:
        """Park a run whose code, or whose history, has a fault. It goes on after a fix."""
        reason = f"{type(fault).__name__}: {fault}"
        logger.error("%s (%s) is blocked: %s", run.workflow_id, run.type, reason)
        for one in run.mailbox:
            if one.on_done is not None:
                one.on_done(None if one.position is not None else EverlongError(reason))
        self._release(run, None, blocked=True, reason=reason)

    def _release(
        self,
        run: OwnedRun,
        wake_us: int | None,
        *,
        blocked: bool = False,
        reason: str | None = None,
        on_result: Callable[[], None] | None = None,
    ) -> None:
        """Hand a run back, with what is not journaled yet as mail."""
        run.releasing = True
        rows = self.activities.hand_back(run)
        blobs: Blobs = {}
        mail = tuple(
            encode_event(one.event, blobs)
            for one in run.mailbox
            if one.position is None and one.on_done is None and type(one.event) is not TimerFired
        )
        release = Release(
            run.shard,
            run.run_id,
            run.execution_id,
            run.token,
            run.next_seq,
            0 if mail and not blocked else wake_us,
            blocked=blocked,
            reason=reason,
            attempts=rows,
            mail=mail,
            blobs=blobs or None,
        )

        def settled(result: WriteResult | StoreError) -> None:
            run.releasing = False
            if run.dropped:
                pass
            elif isinstance(result, AppendResult) and result.refusal is None:
                self._forget(run)
                self._reclaim(run)
            elif isinstance(result, AppendResult) or self._engine.commits.failed is None:
                self._reload(run)
            if on_result is not None:
                on_result()

        self._engine.commits.add(release, settled)

    def _reclaim(self, run: OwnedRun) -> None:
        """What arrived directly while the run was on its way out needs it back."""
        waiting = [one for one in run.mailbox if one.on_done is not None and one.position is None]
        run.mailbox.clear()
        if waiting and not self.stopping:
            self._spawn(self._claim_for(run, waiting))
        else:
            for one in waiting:
                assert one.on_done is not None
                one.on_done(EverlongError("the worker is stopping; send it again"))
        self.on_room()

    async def _claim_for(self, run: OwnedRun, waiting: list[Incoming]) -> None:
        loaded = await self._engine.store.claim_run(self._worker_id, run.shard, run.run_id)
        if loaded is not None:
            self.adopt(loaded)
        current = self._runs.get(run.execution_id)
        for one in waiting:
            if current is not None:
                self.receive(current, one)
            elif one.on_done is not None:
                one.on_done(EverlongError(f"{run.workflow_id} could not be reached; try again"))

    # ------------------------------------------------------------------------------ probation

    def _next_trial(self) -> None:
        """Drive the next suspect, alone, under a mark that outlives this process."""
        if self._on_trial is not None or not self._suspected or self.stopping:
            return
        loaded = self._suspected.popleft()
        row = loaded.row
        run = OwnedRun.of(row, row.lease_token, self._code(row.type, row.run_id))
        run.probation = run.loading = True
        self._on_trial = run
        self._hold(run)

        def marked(result: WriteResult | StoreError) -> None:
            if run.dropped:
                return
            if not isinstance(result, AppendResult) or result.refusal is not None:
                self._refused(run, result)
                return
            self._deadlines.add(
                self._engine.clock.now_us() + limits.PROBATION_US, self._end_trial, run
            )
            # What came meanwhile is in the store: load what is there now.
            self._reload(run)

        mark = MarkAttempts(run.shard, run.run_id, run.token, (), probation=True)
        self._engine.commits.add(mark, marked)

    def _end_trial(self, run: OwnedRun) -> None:
        """It came through: what it did is committed, or it has outlived its probation."""
        if not run.probation:
            return
        run.probation = False
        if run.suspects and not run.dropped:
            mark = MarkAttempts(run.shard, run.run_id, run.token, (), probation=False)
            self._engine.commits.add(mark, lambda _: None)
        if self._on_trial is run:
            self._on_trial = None
            self._next_trial()

    # -------------------------------------------------------------------------------- the cache

    def _evict(self) -> None:
        """Let the least recently used runs sleep in the store, until the cache fits again."""
        excess = len(self._runs) - self._cache_size
        for run in islice(self._runs.values(), _EVICT_LOOK_MAX):
            if excess <= 0:
                return
            if run.releasing:
                excess -= 1
            elif run.is_idle and not run.probation:
                self._release(run, run.wake_us())
                excess -= 1

    async def release_all(self) -> None:
        """Hand everything back: the worker stops."""
        self.stopping = True
        await self._engine.commits.drain()
        waiting: list[asyncio.Future[None]] = []
        loop = asyncio.get_running_loop()
        for run in list(self._runs.values()):
            done = loop.create_future()
            waiting.append(done)
            wake_us = (
                0
                if run.mailbox or any(a.retry_us is None for a in run.attempts.values())
                else run.wake_us()
            )
            if run.loading and run.run_id == b"":
                done.set_result(None)
                self._forget(run)
                continue
            run.code.discard()
            self._release(run, wake_us, on_result=partial(_resolve, done))
        if waiting:
            await asyncio.wait(waiting, timeout=10)
        for loaded in self._suspected:
            row = loaded.row
            self._engine.commits.add(
                Release(row.shard, row.run_id, row.execution_id, row.lease_token, row.next_seq, 0),
                lambda _: None,
            )
        await self._engine.commits.drain()
        self._deadlines.stop()
        for task in self._tasks:
            task.cancel()

    def abandon(self) -> None:
        """The store failed: drop everything, acknowledge nothing."""
        self.stopping = True
        for run in list(self._runs.values()):
            self._forget(run)
            self._reject(run)
        self._deadlines.stop()

    # ----------------------------------------------------------------------------------- queries

    def query(self, run: OwnedRun, name: str, arguments: bytes) -> "asyncio.Future[bytes]":
        """Answer now, from the state as it stands; hand out the answer behind its commit."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if run.loading or run.releasing:
            future.set_exception(QueryFailed(query=name, reason="the run is being loaded"))
            return future
        try:
            answer = run.code.answer(name, arguments)
        except QueryFailed as error:
            future.set_exception(error)
            return future

        def give() -> None:
            if not future.done():
                future.set_result(answer)

        if run.inflight:
            last = run.inflight[-1]
            last.after = [*(last.after or ()), give]
        else:
            give()
        return future

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_TOO_LONG: Final = (
    "the history has {events} events, the most there may be. Use checkpoint() in the loop, so that "
    "it begins anew"
)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
