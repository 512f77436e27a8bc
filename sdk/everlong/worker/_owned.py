"""A run in a worker's hands: its suspended code, its mail, what is in flight, its open activities.

Plain state; `_keeper` moves runs, `_activities` runs attempts.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec import Struct, field

from everlong._definitions import ActivityDefinition
from everlong._replay.identity import scheduled_by
from everlong._replay.run import WorkflowRun
from everlong.exceptions import EverlongError
from everlong.transactions import Effect
from everlong_engine import (
    ActivityCancelled,
    ActivityCompleted,
    ActivityFailed,
    ActivityLost,
    ActivityScheduled,
    ActivityTimedOut,
    Alarm,
    Decision,
    EntityChanges,
    Input,
    MailRow,
    NewRun,
    RunRow,
    UpdateReceived,
)

__all__ = ["OUTCOMES", "Answer", "Incoming", "OpenAttempt", "OwnedRun", "Step", "Superseded"]

Done = Callable[[EverlongError | None], None]
OUTCOMES: Final = (
    ActivityCompleted,
    ActivityFailed,
    ActivityTimedOut,
    ActivityLost,
    ActivityCancelled,
)


class Superseded(Exception):
    """The state that a query saw was discarded before it was committed: ask again."""


class Answer(Protocol):
    """An answer that waits for a commit."""

    def give(self) -> None: ...
    def withdraw(self) -> None: ...


class Incoming(Struct, eq=False):
    """An input that waits to be fed."""

    event: Input
    position: int | None = None
    """Where it lies in the inbox; None for what only this process knows."""
    on_done: Done | None = None
    """Whoever sent it directly waits for its commit."""
    stored: bool = False
    """An outcome that lies in the inbox as well, for its run is paused."""
    effects: tuple[Effect, ...] = ()
    """What is stored with it. It is nothing without them, so it never lies in the inbox."""
    entities: EntityChanges | None = None
    """Likewise, states of keys."""
    attempt: "OpenAttempt | None" = None
    """Whose they are: it has failed if one of the statements does."""
    when_stored: Callable[[], None] | None = None
    """Called once it is committed, if it still is in this worker's hands."""
    scheduled_at: int = 0
    """Of an outcome that was there before its activity was committed: the number of the event that
    schedules it. It is nothing without that event."""
    came: Input | None = None
    """As it came, if it was recorded otherwise: another drive may judge it otherwise."""

    @property
    def is_tied(self) -> bool:
        """Something is stored with it, or neither is."""
        return bool(self.effects) or self.entities is not None

    def taken_back(self) -> "Incoming":
        """Not recorded after all."""
        if self.came is not None:
            self.event, self.came = self.came, None
        return self


class Step(Struct, eq=False):
    """One input with its decisions, on its way into the history."""

    incoming: Incoming
    decisions: list[Decision]
    generation: int
    base: int = 0
    """The number of its input in the history."""
    answers: list[Answer] = field(default_factory=list)
    """What may become visible only behind this commit."""
    told: tuple[tuple[str, bytes], ...] = ()
    """What senders hear with it: (name of the request, answer)."""
    ends_tasks: bool = False
    """Who has tasks of the run here looks whether they are wanted."""
    leaves_letters: bool = False
    """Relays look into their outboxes."""


class OpenAttempt(Struct, eq=False):
    """An activity whose outcome is not recorded: waiting for a slot, running, or in back-off."""

    run: "OwnedRun"
    scheduled: ActivityScheduled
    definition: ActivityDefinition
    scheduled_us: int
    seq: int
    """Of the event that scheduled it."""
    attempt: int = 1
    set_began_behind: int = 0
    """The attempt at which its attempts were exhausted last: a new set began behind it."""
    started_us: int = 0
    has_slot: bool = False
    in_line: bool = False
    """It waits for a slot."""
    task: "asyncio.Future[Any] | None" = None
    retry_us: int | None = None
    """In back-off until then."""
    timed_out: str | None = None
    abandoned: bool = False
    """Nobody wants its outcome any more; it only gives its slot back."""
    cancel_asked: bool = False
    """The code waits for its end: there is no further attempt."""
    elsewhere: bool = False
    """It waits for whoever has its token, or for whoever takes it from its task queue."""
    queued: bool = False
    """It was put into a task queue."""
    limit_us: int | None = None
    """When that has taken too long."""
    left_alone: bool = False
    """Abandoned, and at work to its end all the same."""
    interrupt: "Callable[[], object] | None" = None
    """Asks its code to end, as far as it can be asked."""
    details: bytes | None = None
    previous_details: bytes | None = None
    details_stored_us: int = 0
    beat: Alarm | None = None
    limit: Alarm | None = None
    when_stored: Callable[[], None] | None = None
    """What is to be done once its completion is committed."""
    entities: EntityChanges | None = None
    """What is stored with it."""

    @property
    def place(self) -> "OwnedRun":
        return self.run

    @property
    def origin(self) -> str:
        return scheduled_by(self.run.code, self.scheduled.activity_id)

    def hand_out(self, number: int) -> int:
        run, activity_id = self.run, self.scheduled.activity_id
        run.handed_out.add(activity_id)  # Before looking: what ends it behind this leaves its mark.
        is_over = (
            self.abandoned
            or self.attempt != number
            or run.loading
            or run.dropped
            or not run.code.is_open(activity_id)
            or run.code.is_cancelling(activity_id)
        )
        return 0 if is_over else self.seq

    @property
    def is_at_work(self) -> bool:
        return self.task is not None

    @property
    def may_start_late(self) -> bool:
        """Whether it waits in a task queue for its first attempt, as far as one knows here."""
        return self.queued and self.attempt == 1 and not self.started_us

    @property
    def number_in_set(self) -> int:
        """Which of the attempts that its policy allows this one is."""
        return self.attempt - self.set_began_behind


class OwnedRun(Struct, eq=False):
    shard: int
    run_id: bytes
    execution_id: bytes
    namespace: str
    workflow_id: str
    type: str
    queue: str
    token: int
    code: WorkflowRun
    next_seq: int = 1
    last_us: int = 0
    generation: int = 0
    """Counts discards: what was in flight before one is void."""
    loading: bool = False
    pumping: bool = False
    dropped: bool = False
    releasing: bool = False
    closing: bool = False
    tentative: bool = False
    """Begun here ahead of the answer whether its workflow id is free."""
    afterwards: Callable[[], None] | None = None
    """What is to be done with it once nothing is in flight; until then nothing is fed."""
    departed: "asyncio.Future[None] | None" = None
    """Resolved when it has left this worker."""
    paused: bool = False
    """Nothing is fed and nothing begins; it is here until what it has at work has ended."""
    storing: int = 0
    """Outcomes of a paused run on their way into the inbox."""
    on_trial: bool = False
    reads: bool = False
    """It is a flow that waits for batches of a stream, for years perhaps."""
    on_offer: bool = False
    """Another worker is to have it, from its next wait for a batch on."""
    answers_first: bool = False
    """An approval that the code would withdraw was answered: see `_approvals`."""
    warned_of_size: bool = False
    mailbox: deque[Incoming] = field(default_factory=deque)
    held_back: list[Incoming] = field(default_factory=list)
    """Updates that wait until the run has begun anew, or has nothing to do."""
    inflight: deque[Step] = field(default_factory=deque)
    positions: set[int] = field(default_factory=set)
    """Inbox rows that are in the mailbox or in flight."""
    late_mail: list[MailRow] = field(default_factory=list)
    """What was noticed while the run was being loaded."""
    attempts: dict[int, OpenAttempt] = field(default_factory=dict)
    queued: set[int] = field(default_factory=set)
    """Activities that may be in task queues: what ends one takes its task along."""
    handed_out: set[int] = field(default_factory=set)
    """Activities whose tokens somebody may have. Threads add to it."""
    timers: dict[int, int] = field(default_factory=dict)
    """Pending timers: number to due instant."""
    suspects: set[int] = field(default_factory=set)
    """Activities whose last attempt died with its worker."""
    deadlines_us: dict[str, int] = field(default_factory=dict)
    """Instants at which the run times out: `run` and `execution`."""
    version: str | None = None
    """The one that may drive it; None: whichever is the newest here."""

    @classmethod
    def of(cls, row: RunRow | NewRun, token: int, code: WorkflowRun) -> "OwnedRun":
        return cls(
            row.shard,
            row.run_id,
            row.execution_id,
            row.namespace,
            row.workflow_id,
            row.type,
            row.queue,
            token,
            code,
            version=row.version,
        )

    @property
    def is_idle(self) -> bool:
        """Nothing local is going on: it may sleep in the store."""
        if self.mailbox or self.held_back or self.inflight or not self.may_be_fed():
            return False
        return not self.attempts or all(
            attempt.retry_us is not None or attempt.elsewhere for attempt in self.attempts.values()
        )

    def may_be_fed(self) -> bool:
        """Whether its code is here and open for the next input."""
        if self.afterwards is not None or self.paused:
            return False
        return not (self.loading or self.releasing or self.closing or self.dropped)

    def next_input(self) -> Incoming | None:
        """Take the next one that may be fed."""
        if self.held_back and not self.code.holds_updates():
            return self.held_back.pop(0)
        while self.mailbox:
            one = self.mailbox.popleft()
            if type(one.event) is not UpdateReceived or not self.code.holds_updates():
                return one
            self.held_back.append(one)
        return None

    def positions_unfed(self) -> tuple[int, ...]:
        """Where in the inbox lies what has come and was not fed."""
        if not (self.mailbox or self.held_back):
            return ()
        waiting = [*self.mailbox, *self.held_back]
        return tuple(one.position for one in waiting if one.position is not None)

    def when_settled(self, then: Callable[[], None]) -> None:
        """Do something with the run once its history and its code agree: nothing is in flight.

        Discarding code while appends are under way would make what they begin look like lost.
        """
        if self.inflight:
            self.afterwards = then
        else:
            then()

    def wake_us(self) -> int | None:
        """The earliest of all its deadlines."""
        due = [*self.timers.values(), *self.deadlines_us.values()]
        for attempt in self.attempts.values():
            if attempt.elsewhere:
                due += [] if attempt.limit_us is None else [attempt.limit_us]
            else:
                due.append(attempt.retry_us or 0)
            options = attempt.scheduled.options
            if options.schedule_to_close_us is not None:
                due.append(attempt.scheduled_us + options.schedule_to_close_us)
            if attempt.may_start_late and options.schedule_to_start_us is not None:
                due.append(attempt.scheduled_us + options.schedule_to_start_us)
        return min(due, default=None)
