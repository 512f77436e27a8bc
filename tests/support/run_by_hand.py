"""Drives one run by hand: no worker, no store, no waiting.

`RunByHand` feeds inputs to a `WorkflowRun` and keeps the history that a worker would have stored;
each event makes the journey through the event codec, as if it had been read back. Its time moves
only when an input says so. `replayed` brings fresh code to where a history ends.

    run = RunByHand(order, 17)
    run.complete(1, "paid")           # activity number 1
    run.fire_next()                   # the timer that is due first
    run.signal("approve", True)
    assert run.result() == "done"

What is open, and which timers are pending, is always read off the history.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from everlong import registry
from everlong._failures import ExceptionRegistry, decode_failure, encode_exception
from everlong._replay import anyio_adapter, asyncio_adapter, guard
from everlong._replay.history import replay
from everlong._replay.run import WorkflowRun
from everlong.activity import Activity
from everlong.workflow import Workflow
from everlong_engine import (
    INPUTS,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    CancelRequested,
    ChildCancelRequested,
    ChildClosed,
    ChildScheduled,
    ChildStarted,
    ChildStartFailed,
    Closing,
    Decision,
    Event,
    ExternalAnswered,
    ExternalAwaited,
    ExternalCancelSent,
    ExternalSignalSent,
    Input,
    Recorded,
    RunCompleted,
    RunFailed,
    RunStarted,
    RunState,
    SignalReceived,
    TimerFired,
    TimerStarted,
    UpdateReceived,
    checksum,
    decode_event,
    encode_event,
    fold,
    pack,
    unpack,
)

__all__ = [
    "RunByHand",
    "discard_all",
    "install",
    "new_code",
    "pairs",
    "replayed",
    "started",
    "stored",
]

Sent = ExternalSignalSent | ExternalCancelSent | ExternalAwaited
START_US: Final = 1_700_000_000_000_000
RUN_ID: Final = "0190163d-8694-739b-aea5-966c26f8ad91"
NO_ARGUMENTS: Final = b"\x92\x90\x80"
"""`[[], {}]`, the arguments of a question that has none."""


def install() -> None:
    """What a Worker installs when it starts."""
    guard.install()
    asyncio_adapter.install_as_completed()
    anyio_adapter.install()


_made: Final[list[WorkflowRun]] = []


def new_code(workflow: Workflow[..., Any]) -> WorkflowRun:
    install()
    code = WorkflowRun(workflow.definition, RUN_ID, registry.signals)
    _made.append(code)
    return code


def discard_all() -> None:
    """Discard the code of every run that was driven by hand, as a worker does with each of its."""
    while _made:
        _made.pop().discard()


def stored(event: Event, seq: int = 1) -> Event:
    """The event as a store gives it back."""
    blobs: dict[bytes, bytes] = {}
    kind, body = encode_event(event, blobs)
    assert checksum(seq, kind, body) == checksum(seq, kind, bytes(body))
    return decode_event(kind, body, blobs)


def replayed(workflow: Workflow[..., Any], history: Sequence[Recorded]) -> WorkflowRun:
    """Fresh code that stands where the history ends. Raises what `replay` raises."""
    code = new_code(workflow)
    try:
        replay(code, history)
    except BaseException:
        code.discard()
        raise
    return code


def pairs(history: Sequence[Recorded]) -> Iterator[int]:
    """The lengths of the prefixes that a store can hold: complete (input, decisions) pairs."""
    for at in range(1, len(history)):
        if type(history[at].event) in INPUTS:
            yield at
    yield len(history)


class RunByHand:
    """One run and its history. `code` is the live code, `history` what a store would hold."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        *args: Any,
        seed: int = 7,
        start: RunStarted | None = None,
        **kwargs: Any,
    ) -> None:
        self.workflow = workflow
        self.code = new_code(workflow)
        self.history: list[Recorded] = []
        self.now_us = START_US
        self.feed(start or started(workflow, *args, seed=seed, **kwargs))

    @classmethod
    def resumed(cls, workflow: Workflow[..., Any], history: Sequence[Recorded]) -> "RunByHand":
        """A run that goes on behind a history, as after a restart."""
        run = cls.__new__(cls)
        run.workflow = workflow
        run.code = replayed(workflow, history)
        run.history = list(history)
        run.now_us = history[-1].at_us
        return run

    def feed(self, event: Input, at_us: int | None = None) -> list[Decision]:
        """Feed an input as the worker does, and keep it with the decisions behind it."""
        self.now_us = max(self.now_us, at_us or 0)
        seq = len(self.history) + 1
        read: Any = stored(event, seq)
        decisions = self.code.feed(read, self.now_us)
        for number, one in enumerate([read, *decisions]):
            self.history.append(Recorded(seq + number, self.now_us, stored(one, seq + number)))
        self.code.history_events = len(self.history)
        return decisions

    # ---------------------------------------------------------------------- what stands open

    @property
    def state(self) -> RunState:
        return fold(self.history)

    @property
    def closing(self) -> Closing | None:
        return self.state.closing

    @property
    def open_activities(self) -> dict[int, ActivityScheduled]:
        return {number: it.scheduled for number, it in self.state.activities.items()}

    @property
    def pending_timers(self) -> list[TimerStarted]:
        """In the order in which they fire."""
        timers = self.state.timers.values()
        return sorted(timers, key=lambda timer: (timer.due_us, timer.timer_id))

    @property
    def others(self) -> list[ChildScheduled | ChildStarted | Sent]:
        """Children and other executions of which something may be heard: what is awaited of each.

        A child whose start is known is told by that.
        """
        open_: dict[int, ChildScheduled | ChildStarted | Sent] = {}
        for one in self.history:
            match one.event:
                case ChildScheduled() | ChildStarted():
                    open_[one.event.child_id] = one.event
                case ExternalSignalSent() | ExternalCancelSent() | ExternalAwaited():
                    open_[one.event.call_id] = one.event
                case ChildStartFailed() | ChildClosed() | ChildCancelRequested():
                    open_.pop(one.event.child_id, None)
                case ExternalAnswered():
                    open_.pop(one.event.call_id, None)
                case _:
                    pass
        return list(open_.values())

    def arguments(self, activity_id: int) -> dict[str, Any]:
        found: Any = unpack(self.open_activities[activity_id].arguments)
        assert isinstance(found, dict)
        return found  # pyright: ignore[reportUnknownVariableType]

    # ------------------------------------------------------------------------------- inputs

    def complete(self, activity_id: int, result: Any = None) -> list[Decision]:
        return self.feed(ActivityCompleted(activity_id, pack(result)))

    def fail(self, activity_id: int, error: Exception) -> list[Decision]:
        scheduled = self.open_activities[activity_id]
        known: Activity[..., Any] | None = registry.activities.get(scheduled.activity)
        exceptions = known.definition.exceptions if known else ExceptionRegistry()
        return self.feed(ActivityFailed(activity_id, encode_exception(error, exceptions), 1))

    def fire_next(self) -> list[Decision]:
        timer = self.pending_timers[0]
        return self.feed(TimerFired(timer.timer_id), timer.due_us)

    def signal(self, name: str, value: Any) -> list[Decision]:
        return self.feed(SignalReceived(name, pack(value)))

    def update(self, update_id: str, name: str, *args: Any) -> list[Decision]:
        """Of one that has passed its validator."""
        arguments: list[Any] = [list(args), {}]
        return self.feed(UpdateReceived(update_id, name, pack(arguments)))

    def cancel(self, reason: str = "enough") -> list[Decision]:
        return self.feed(CancelRequested(reason))

    def fire_all(self) -> "RunByHand":
        """Fire timers in their order until none is pending or the run has ended."""
        while self.closing is None and self.pending_timers:
            self.fire_next()
        return self

    # ----------------------------------------------------------------------------- the outcome

    def result(self) -> Any:
        """What the workflow returned; raises what it raised."""
        closing = self.closing
        if isinstance(closing, RunFailed):
            raise decode_failure(closing.failure, self.workflow.definition.exceptions)
        assert isinstance(closing, RunCompleted), closing
        return self.workflow.definition.result.decode(closing.result)

    def query(self, name: str) -> Any:
        return unpack(self.code.answer(name, NO_ARGUMENTS))

    def replay(self) -> "RunByHand":
        """Replay the whole history in fresh code, which must make the same decisions."""
        replayed(self.workflow, self.history).discard()
        return self

    def discard(self) -> None:
        self.code.discard()


def started(workflow: Workflow[..., Any], *args: Any, seed: int = 7, **kwargs: Any) -> RunStarted:
    definition = workflow.definition
    return RunStarted(
        workflow=definition.name,
        arguments=definition.parameters.encode(args, kwargs),
        workflow_id="by-hand",
        seed=seed,
        code=definition.digest,
        python="3.11",
    )
