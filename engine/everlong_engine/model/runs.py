"""Rows of the store as values: runs, their mail, the attempts of their activities, workers.

The `runs` row is an index over a history; what it says could be derived, except for ownership
(token, owner), which lives only here. One execution (one workflow id, started once) is the chain of
runs that share an `execution_id`, the id of the first of them.
"""

from enum import IntEnum
from json import dumps, loads
from typing import Final, NamedTuple, cast

from msgspec import Struct, field

from everlong_engine.model.events import Recorded
from everlong_engine.model.limits import INSTANT_US_MAX
from everlong_engine.model.tags import Tags

__all__ = [
    "WAITS_US",
    "ApprovalRow",
    "AttemptRow",
    "AttemptState",
    "Fleet",
    "Halt",
    "ItemRow",
    "Link",
    "LoadedRun",
    "MailRow",
    "Member",
    "NewRun",
    "PauseRow",
    "Probation",
    "RunRow",
    "RunStatus",
    "Share",
    "Trim",
    "VersionCount",
    "WorkerRow",
    "queues_of",
]


WAITS_US: Final = INSTANT_US_MAX
"""When a run is to be woken that waits for its turn in a pool: never, of itself."""


class RunStatus(IntEnum):
    """How a run stands. Below 10 it keeps its workflow id; below 3 it is open."""

    RUNNING = 0
    BLOCKED = 1
    """Parked: a fault that the engine found, or poison; visible, goes on after a fix."""
    PAUSED = 2
    """Held by somebody's wish: an owner may still have attempts of it at work, but nothing is fed
    and nothing begins."""
    MOVED = 3
    """It goes on in another store, under its own id, which nobody else gets here. Its history ends
    without an end, and `reason` says where it is."""
    COMPLETED = 10
    FAILED = 11
    CANCELLED = 12
    TERMINATED = 13
    TIMED_OUT = 14
    CONTINUED_AS_NEW = 15
    RESET = 16
    """Closed because another run of its execution began from an earlier event of its history."""
    RETRIED = 17
    """It failed, and its execution is tried again with another run."""

    @property
    def is_open(self) -> bool:
        return self < 3

    @property
    def keeps_id(self) -> bool:
        """Whether no other execution may begin under its workflow id."""
        return self < 10

    @property
    def is_followed(self) -> bool:
        """Whether another run of the same execution has taken its place."""
        return self in _FOLLOWED

    @property
    def text(self) -> str:
        return self.name.lower()


_FOLLOWED: Final = (RunStatus.CONTINUED_AS_NEW, RunStatus.RESET, RunStatus.RETRIED)


class PauseRow(Struct, frozen=True, kw_only=True):
    """Who holds what, since when, and why. Without a workflow id it is a whole type of workflow,
    and with neither everything in the namespace."""

    namespace: str
    workflow_id: str | None = None
    execution_id: bytes | None = None
    type: str | None = None
    since_us: int
    by: str
    reason: str


class Halt(Struct, frozen=True):
    """The execution is paused with what is written down of an exhausted attempt; unless that was
    written down before, for it may have gone on since."""

    now_us: int
    by: str
    reason: str


class AttemptState(IntEnum):
    """What is known of one attempt of an activity."""

    STARTED = 0
    """It may have begun: written before it does, unless it had a slot when it was scheduled."""
    FAILED = 1
    LOST = 2
    TIMED_OUT = 3
    NOT_BEGUN = 4
    """It had a slot and was handed back before it began: the next one bears its number."""
    ELSEWHERE = 5
    """It left the worker and waits for whoever has its token; `ended_us` is when it was last heard
    of."""
    EXHAUSTED = 6
    """It failed and was the last of its set, and its execution is paused for that. The next one
    begins a new set when it goes on."""
    QUEUED = 7
    """It waits in a task queue, and has not begun."""
    TAKEN = 8
    """A worker has taken it from its task queue, which knows more of it."""

    @property
    def is_in_queue(self) -> bool:
        """Whether its next step is up to a task queue, and not to the owner of its run."""
        return self in (AttemptState.QUEUED, AttemptState.TAKEN)


class Probation(IntEnum):
    """The mark of a run that is suspected of killing its workers (see `machine.probation`)."""

    NONE = 0
    """Not suspected, or held back until its trial."""
    ON_TRIAL = 1
    OUTLIVED = 2
    """Its trial is over and its worker lives, but it has no outcome to show yet."""
    OVER = 3
    """It has come through: it got on, or had nothing to do."""

    @property
    def is_driven(self) -> bool:
        """Whether it may be the reason, if its worker dies."""
        return self in (Probation.ON_TRIAL, Probation.OUTLIVED)


class NewRun(Struct, frozen=True, kw_only=True):
    shard: int
    run_id: bytes
    execution_id: bytes
    namespace: str
    workflow_id: str
    type: str
    queue: str
    started_us: int
    request_id: str | None = None
    tags: Tags = ()
    version: str | None = None
    """The one version that may drive it: it is pinned. None: it follows."""


class RunRow(Struct, frozen=True, kw_only=True):
    shard: int
    run_id: bytes
    execution_id: bytes
    namespace: str
    workflow_id: str
    type: str
    queue: str
    status: RunStatus
    next_seq: int
    lease_token: int
    owner: bytes | None
    wake_us: int | None
    started_us: int
    closed_us: int | None
    losses: int
    strikes: int
    probation: Probation
    reason: str | None
    """Why it is blocked or was handed back."""
    request_id: str | None
    version: str | None = None
    """As in `NewRun`. Like the owner it says who may drive the run, and no code is ever fed it."""

    def begins_us(self, now_us: int) -> int | None:
        """When the run is to begin, if it has been put off and that has not come."""
        put_off = now_us < (self.wake_us or 0) < WAITS_US
        return self.wake_us if self._has_not_begun and put_off else None

    @property
    def waits_for_turn(self) -> bool:
        """Whether it begins when its pool has room."""
        return self._has_not_begun and self.wake_us == WAITS_US

    @property
    def _has_not_begun(self) -> bool:
        return self.status is RunStatus.RUNNING and self.next_seq == 1


class MailRow(Struct, frozen=True):
    """A message in the inbox: an input of the execution that is not yet fed."""

    position: int
    execution_id: bytes
    kind: int
    body: bytes
    checksum: int


class ItemRow(NamedTuple):
    """An item of an output channel, beside its event: runs go, their execution's items stay."""

    channel: str
    number: int
    at_us: int
    payload: bytes
    checksum: int


class Trim(NamedTuple):
    """The oldest items of an output channel are no longer kept."""

    channel: str
    below: int
    """Those with lower numbers go."""
    items_max: int
    """So many of them at most, the oldest: the rest goes with the next trims."""


class Link(Struct, frozen=True):
    """Who waits for the end of an execution. A parent's link also says what its own end means for
    the child. It belongs to the waiting execution and lasts until one of both has ended; only the
    run that asked is told."""

    shard: int
    execution_id: bytes
    """That is waited for."""
    waiter_run: bytes
    number: int
    """Under which the run waits."""
    waiter_id: bytes
    """The execution of that run."""
    namespace: str
    workflow_id: str
    waiter: str
    """The workflow id of the waiting execution."""
    on_parent_close: str
    """terminate, cancel or abandon; "" for one that is no parent."""


class AttemptRow(Struct, frozen=True, kw_only=True):
    """One attempt that failed, was lost, or has a started mark."""

    activity_id: int
    attempt: int
    state: AttemptState
    started_us: int
    ended_us: int | None = None
    retry_us: int | None = None
    """When the next attempt is due; None when there is none."""
    error_type: str = ""
    error: str = ""
    traceback: str = ""
    worker: str = ""
    details: bytes | None = None
    """The last heartbeat details."""


class LoadedRun(Struct, frozen=True):
    """Everything that a worker needs to stand where the run stood."""

    row: RunRow
    history: list[Recorded]
    mail: list[MailRow]
    attempts: list[AttemptRow]
    history_bytes: int = 0
    blobs: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """Spilled payloads of the history and of the mail."""


class ApprovalRow(Struct, frozen=True):
    """An approval that a run has requested, and who was the first to answer it."""

    run: RunRow
    number: int
    requested: Recorded | None
    """Its event; None if that cannot be read."""
    fault: str = ""
    answer: bytes | None = None
    """The body of the message that carries the answer to the run."""
    request: str | None = None
    """The request that gave it."""


def queues_of(text: str) -> tuple[str, ...] | None:
    """Undo `WorkerRow.queues_text`; one of before there were several took from a single one.

    Raises:
        ValueError: nobody of us has written that.
    """
    if text == "*":
        return None
    if not text.startswith("["):
        return (text,)
    return tuple(str(one) for one in cast("list[object]", loads(text)))


class WorkerRow(Struct, frozen=True, kw_only=True):
    worker_id: bytes
    name: str
    pid: int
    host: str
    started_us: int
    beat_us: int
    dead: bool
    """Buried: stopped in order, or taken over from."""
    types: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    """Of its types, in their order; none for a worker of before there were versions."""
    gone: bool = False
    """Its process is not there any more, and nobody has buried it yet."""
    queues: tuple[str, ...] | None = None
    """The task queues that it takes from; None: all of them."""
    slots: int = 0
    """How many attempts it may have at work at once; 0 for one of before this was told."""
    busy: int = 0
    """How many it had when it was last heard of. Only where a store is told by beats."""

    @property
    def is_there(self) -> bool:
        return not (self.dead or self.gone)

    @property
    def queues_text(self) -> str:
        """As a store keeps them."""
        return "*" if self.queues is None else dumps(self.queues)

    def takes_from(self, queue: str) -> bool:
        return self.queues is None or queue in self.queues

    def version_of(self, kind: str) -> str | None:
        """Its version of a type of workflow; None if it does not host it, or has not said."""
        return dict(zip(self.types, self.versions, strict=False)).get(kind)

    def may_drive(self, kind: str, version: str | None) -> bool:
        """Whether it hosts the type, in this version if the run is pinned to one."""
        return kind in self.types and version in (None, self.version_of(kind))


class Member(Struct, frozen=True):
    """A worker, as others of its store judge which version is the newest."""

    process: tuple[str, int]
    """Its machine, and its number there."""
    started_us: int
    versions: tuple[tuple[str, str], ...]
    """(type, version) of all that it hosts."""
    left_us: int | None
    """Until its lease ends; below 0: for how long it has been silent. None: it stopped in order."""
    queues: tuple[str, ...] | None = None
    """From which it takes; None: all of them."""


class Fleet(Struct, frozen=True):
    """All workers of a store, the longest there first."""

    number: int = 0
    """Another one whenever somebody has come, or has stopped in order."""
    members: tuple[Member, ...] = ()


class Share(Struct, frozen=True):
    """How many runs of a type and version lie with a worker, of those under way or due."""

    type: str
    version: str | None
    owner: bytes | None
    """None: they are due, and in nobody's hands."""
    count: int


class VersionCount(Struct, frozen=True):
    """How many open runs of a type are pinned to a version, or to none."""

    type: str
    version: str | None
    running: int
    blocked: int
