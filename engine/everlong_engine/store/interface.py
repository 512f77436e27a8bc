"""What the engine asks of a store. Not public: it changes whenever the engine needs it to.

Split by family of verbs. A group of writes is one transaction; a claim is another; reads take none
of the writer's time. Every implementation passes `tests/store/`, and the same operations through
each give the same answers.

Only `submit` lets the database's own exceptions out, for `classify` to judge: what failed is then
decided by whoever knows the group. Everything else raises StoreError.
"""

from asyncio import Future
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol, TypeAlias

from msgspec import Struct

from everlong_engine.model.entities import EntityLook, EntityRow
from everlong_engine.model.errors import StoreError
from everlong_engine.model.events import Recorded
from everlong_engine.model.exported import ExportedExecution
from everlong_engine.model.failure import Failure
from everlong_engine.model.filters import AnyField, Filter
from everlong_engine.model.letters import KeptLetter, OutboxRow, Refused
from everlong_engine.model.outgoing import Target
from everlong_engine.model.queues import LimitRow, SetLimits
from everlong_engine.model.runs import (
    ApprovalRow,
    AttemptRow,
    Fleet,
    ItemRow,
    LoadedRun,
    MailRow,
    PauseRow,
    RunRow,
    Share,
    VersionCount,
    WorkerRow,
)
from everlong_engine.model.tags import Tags, TagValue
from everlong_engine.model.tasks import QueueCount, TaskClaim, TaskKey, TaskWants
from everlong_engine.model.turns import AskTurn, PoolCount, TurnAnswer, TurnsDealt
from everlong_engine.model.writes import Write, WriteResult

__all__ = [
    "Counted",
    "Heard",
    "MailGone",
    "Problem",
    "Question",
    "RunFilter",
    "StatementsRefused",
    "Store",
    "StoreInfo",
    "Trouble",
    "Wants",
]


class Trouble(Enum):
    """What a failed group means for its members. Nothing of it was stored; or, where a network lies
    between, all of it: a group that is repeated meets itself, and is answered as done."""

    REPEAT = "one of them may be to blame: each goes alone"
    BUSY = "another process kept the store locked: going alone would only wait longer"
    FULL = "there is no room: a smaller write may still fit"
    FATAL = "the store can no longer be trusted: acknowledge nothing, let go of it"


class MailGone(Exception):
    """An append consumes mail that is not there: its group is void, its members go alone."""


class StatementsRefused(Exception):
    """Statements of a user have taken the whole transaction down: likewise."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Wants(Struct, frozen=True):
    """What a worker hosts: a run of another type or queue stays where it is, visible."""

    worker_id: bytes
    queue: str
    types: tuple[str, ...]
    """Whose runs it takes if they are pinned to no version."""
    pinned: tuple[tuple[str, str], ...] = ()
    """(type, version): of these it also takes what is pinned to the version."""
    held: frozenset[bytes] | None = None
    """The executions in its hands, after a claim whose answer it did not get: what else bears its
    name was claimed then, and is claimed anew."""
    fleet: int | None = None
    """By which fleet `types` was judged. Where it has changed since, nothing is taken that is
    pinned to no version. None: all workers are in this process."""


class Heard(Struct, frozen=True):
    """What comes of a beat."""

    alive: frozenset[bytes]
    """Those whose leases it has renewed. Others were declared dead meanwhile."""
    sweep_s: float | None = None
    """In how many seconds a sweep for the dead may find somebody, if nobody else is heard of until
    then; at most 0 where the dead have left something. None: there is nobody to be found."""


class RunFilter(Struct, frozen=True):
    namespace: str
    status: str | None = None
    type: str | None = None
    workflow_id: str | None = None
    where: Filter | None = None
    behind: bytes | None = None
    """Only runs with greater ids: that began later."""
    now_us: int = 0
    """What is to begin later than this has not begun: what `begins` means in `where`."""


Counted: TypeAlias = tuple[TagValue | None, int]
"""A value, and how many have it; None for those that have none."""


class Question(Struct, frozen=True):
    question_id: bytes
    shard: int
    namespace: str
    workflow_id: str
    query: str
    arguments: bytes


class Problem(Struct, frozen=True):
    """Something that `verify` found."""

    run_id: bytes | None
    text: str


class StoreInfo(Struct, frozen=True):
    """What `doctor` shows."""

    location: str
    engine: str
    settings: dict[str, str]
    warnings: tuple[str, ...]


class Writes(Protocol):
    on_fatal: Callable[[StoreError], None] | None
    """Called when any other write meets a FATAL trouble: `submit` is not the only one."""

    def submit(self, writes: Sequence[Write]) -> "Future[list[WriteResult]]":
        """Apply a group in one transaction. The future fails when the whole group did: with
        MailGone, or with something for `classify`."""
        ...

    def classify(self, error: BaseException) -> tuple[Trouble, StoreError]:
        """What a failure of `submit` means, and the error to answer with."""
        ...

    async def forget_question(self, question_id: bytes) -> None: ...


class Ownership(Protocol):
    @property
    def lease_s(self) -> float | None:
        """How long a worker is taken for alive without a beat. None: a store with one owner, whose
        lock is the sign of life."""
        ...

    async def beat(self, workers: Sequence[bytes], busy: Sequence[int] = ()) -> Heard:
        """Renew the leases of workers, and say how many attempts each has at work."""
        ...

    @property
    def owned(self) -> bool:
        """Whether this process is the engine of this store."""
        ...

    def acquire(self) -> None:
        """Become the engine of this store. Raises StoreOwned."""
        ...

    async def abandon(self) -> None:
        """Stop being it: the last worker has left."""
        ...

    async def register(self, worker: WorkerRow) -> None: ...

    @property
    def fleet_number(self) -> int:
        """That of the fleet, as the last look at the store saw it."""
        ...

    async def fleet(self) -> Fleet:
        """Who is here. A store with one owner has nobody to tell."""
        ...

    async def bury(self, worker_id: bytes) -> None: ...

    async def take_over(self, alive: Sequence[bytes], now_us: int, limit: int) -> int:
        """Judge up to `limit` runs of dead workers and free them, and as many of the tasks that
        they had taken; how many there were of whichever were more."""
        ...

    async def resume_blocked(self, wants: Wants, now_us: int) -> None:
        """Other code has come: what it may drive, and is blocked, is tried again."""
        ...

    async def claim(self, wants: Wants, now_us: int, limit: int) -> list[LoadedRun]:
        """Take up to `limit` runs that are due, the longest due first, behind all that bear this
        worker's name and are not in `wants.held`.

        With `held`, writes must reach the store in the order in which this process sent them: a
        start that overtakes it would be taken for a claim that nobody knows."""
        ...

    async def claim_run(self, worker_id: bytes, shard: int, run_id: bytes) -> LoadedRun | None: ...

    async def next_wake(self, wants: Wants) -> int | None: ...

    async def take_tasks(self, wants: TaskWants, now_us: int, limit: int) -> TaskClaim:
        """Take up to `limit` tasks that are due, and say when there is more to take. The most
        urgent come first, among them each key in turn, and of a key the longest due. What nobody
        may begin now, since its run is paused or its queue at its limit, is passed over; what
        waits for the end of other calls has no time."""
        ...

    async def ask_turns(self, asks: Sequence[AskTurn]) -> list[TurnAnswer]:
        """Executions that have been claimed and have not begun ask whether their pool, one for all
        of them, lets them. Asking again changes nothing. Who waits is handed back with that."""
        ...

    async def deal_turns(self, wanted: Sequence[tuple[str, str]], now_us: int) -> TurnsDealt:
        """Let begin who waits and has room by now: of pools, each with the key that was served
        last. The most urgent come first, among them each key in turn, and of a key who has waited
        longest."""
        ...

    async def tasks_of(self, worker_id: bytes) -> list[TaskKey]:
        """The tasks that a worker has: whose are not among them, nobody wants any more."""
        ...


class Reads(Protocol):
    @property
    def look_s(self) -> tuple[float, float]:
        """How long to wait between looks whether somebody has committed: while things happen, and
        when nothing does."""
        ...

    async def load(self, shard: int, run_id: bytes) -> LoadedRun | None: ...

    async def latest(self, target: Target) -> RunRow | None: ...

    async def newest_run(self) -> bytes | None:
        """The greatest id of a run that there is."""
        ...

    async def run_by_id(self, run_id: bytes) -> RunRow | None: ...

    async def last_event(self, shard: int, run_id: bytes) -> Recorded | None: ...

    async def event(self, shard: int, run_id: bytes, seq: int) -> Recorded | None:
        """One event of a history. It takes as long in a long one as in a short one."""
        ...

    async def attempts(self, shard: int, run_id: bytes) -> list[AttemptRow]: ...

    async def approval(self, shard: int, run_id: bytes, number: int) -> ApprovalRow | None: ...

    async def approvals(
        self, namespace: str, workflow_id: str | None, after: tuple[bytes, int], limit: int
    ) -> list[ApprovalRow]:
        """Open ones behind (run id, number), in that order; those that cannot be read are left
        out."""
        ...

    async def pause_of(self, row: RunRow) -> list[PauseRow]:
        """All that holds an execution."""
        ...

    async def pauses(self, namespace: str, limit: int) -> list[PauseRow]:
        """Who holds what: whole types first, then single executions, the oldest first."""
        ...

    async def published(
        self, shard: int, execution_id: bytes, channel: str, number: int, limit: int
    ) -> list[ItemRow]:
        """Items of an output channel, one after the other from a number on, or from the oldest that
        is kept, if that is later; fewer than `limit` if they are large."""
        ...

    async def entities(self, shard: int, execution_id: bytes, look: EntityLook) -> list[EntityRow]:
        """States of keys, as the last commit left them. Raises UndecodablePayload: one is
        damaged."""
        ...

    async def list_runs(
        self, wanted: RunFilter, limit: int, after: bytes | None
    ) -> list[RunRow]: ...

    async def count_runs(self, wanted: RunFilter, by: AnyField | None) -> list[Counted]:
        """How many runs there are, by their values of a field; in no order."""
        ...

    async def tags(self, runs: Sequence[tuple[int, bytes]]) -> dict[bytes, Tags]:
        """Those of runs, by (shard, run id). Runs without any are left out, and so are those with a
        damaged one."""
        ...

    async def versions(self, namespace: str) -> list[VersionCount]:
        """The open runs by type and version, in that order."""
        ...

    async def pinned_of(self, worker_id: bytes) -> list[tuple[bytes, str]]:
        """(run id, version) of all that bears a worker's name and is pinned."""
        ...

    async def shares(self, queue: str, types: Sequence[str], now_us: int) -> list[Share]:
        """Who has how many of these types, of all that is under way or due; by type, version and
        owner, what has none first."""
        ...

    async def workers(self) -> list[WorkerRow]:
        """Who has registered, and whether it is there: killed ones say nothing themselves."""
        ...

    async def queues(self) -> list[QueueCount]:
        """What stands in all task queues, by queue and activity."""
        ...

    async def pools(self) -> list[PoolCount]:
        """Who waits and has begun, by pool; only where somebody is."""
        ...

    async def queue_limits(self) -> list[LimitRow]:
        """What queues and pools let through, by name and origin: the last of a name is in force."""
        ...

    async def answer(self, question_id: bytes) -> tuple[bool, bytes] | None: ...

    async def told(self, target: Target, name: str) -> tuple[RunRow, bytes | None] | None:
        """The newest run of an execution, and the answer to one of its requests, which is not older
        than that; None where there is none. Without an execution id it may have been asked of an
        earlier one of the workflow id, and is that one then."""
        ...

    async def open_questions(self, limit: int) -> list[Question]: ...

    async def export(self, target: Target, *, family: bool) -> list[ExportedExecution]:
        """A whole execution, as one moment saw it; with `family`, those that it waits for, too.
        Empty if there is none."""
        ...

    def listen(self, heard: Callable[[], None]) -> None:
        """Have `heard` called when another process says that it has left something. A hint, from a
        store that can give one; whoever waits looks by the clock all the same."""
        ...

    async def changed(self) -> bool:
        """Whether another connection may have committed since the last look: never False if one
        has. Cheap; for polling."""
        ...

    async def mail_since(
        self, position: int, limit: int, workers: Sequence[bytes] | None = None
    ) -> list[MailRow]:
        """A hint, in the order of positions. With `workers`, a store that has many owners looks for
        mail of what is in these hands, and for all of that: there, positions do not grow in the
        order of commits."""
        ...


class Outboxes(Protocol):
    """Letters for brokers. One worker at a time takes them out of an outbox: whoever has it keeps
    it until it is dead, or says that it got nowhere."""

    async def full_outboxes(self, names: Sequence[str]) -> list[str]:
        """In which of these something waits."""
        ...

    async def take_letters(
        self, outbox: str, worker_id: bytes, limit: int, bytes_max: int
    ) -> list[KeptLetter] | None:
        """The oldest that wait, at least one of them, however large; they stay until they are
        settled. None: another worker, which is not dead, has the outbox."""
        ...

    async def letters_sent(
        self, outbox: str, sent: Sequence[int], refused: Sequence[Refused]
    ) -> None:
        """What a broker has acknowledged goes, whoever says so: it is out. What it refuses for good
        is set aside. With either the outbox is at work again."""
        ...

    async def outbox_fails(self, outbox: str, worker_id: bytes, fault: str, now_us: int) -> None:
        """A worker got nowhere with what it took, and lets others try."""
        ...

    async def outboxes(self) -> list[OutboxRow]:
        """All in which something is, or with which somebody got nowhere, by name."""
        ...

    async def letters(
        self, outbox: str, after: int, limit: int, *, refused: bool
    ) -> list[KeptLetter]:
        """What waits behind a position, or what was set aside, in order."""
        ...

    async def send_again(self, outbox: str, positions: Sequence[int] | None) -> int:
        """Let what was set aside wait again, in its old place; None: all of it. How many."""
        ...

    async def drop_letters(self, outbox: str, positions: Sequence[int] | None) -> int:
        """Take away for good what was set aside; with positions, also what waits. How many."""
        ...

    async def letters_of(self, execution_ids: Sequence[bytes]) -> int:
        """How many letters of these executions wait."""
        ...


class Upkeep(Protocol):
    async def set_limits(self, change: SetLimits) -> None:
        """What a queue lets through from the next claim on. Calls that have begun go on."""
        ...

    async def prune(
        self, cursor: tuple[int, bytes], horizon_us: int, limit: int
    ) -> tuple[tuple[int, bytes] | None, int]:
        """One bounded sweep of closed runs: (where to go on or None at the end, how many went)."""
        ...

    async def bring(
        self,
        executions: Sequence[ExportedExecution],
        *,
        moved: bool = False,
        rehearsed: bool = False,
    ) -> None:
        """Store executions that have arrived (`machine.arrivals`): all, or none. Those that are
        `moved` may come twice, and take the place of what they left when they went away from here.
        `rehearsed`: see whether it could be done, and do nothing.

        Raises WorkflowAlreadyStarted or ImportRefused when something here is in the way."""
        ...

    async def leave(self, target: Target, seen: Sequence[ExportedExecution], to: str) -> bool:
        """Mark an execution and its family as moved, if it is still the family that `export` has
        seen, and nothing has gone on in it; False if not. With it goes what has been said to it
        since. What it leaves is kept until `settle`."""
        ...

    async def settle(
        self, left: Sequence[tuple[Target, int]], now_us: int, *, arrived: bool
    ) -> bool:
        """End the moves of a family with these turns: it has arrived, or it stays here after all.
        False where they are not under way, or not with these turns."""
        ...

    async def refuse_arrivals(self, coming: Sequence[tuple[Target, int]], now_us: int) -> bool:
        """Let a family not arrive here with these turns, whoever still brings it; False where it
        has arrived already."""
        ...

    async def verify(self) -> list[Problem]: ...

    async def info(self) -> StoreInfo: ...

    async def close(self) -> None: ...


class Store(Writes, Ownership, Reads, Outboxes, Upkeep, Protocol):
    """All of it."""

    @property
    def shards(self) -> int: ...
    @property
    def path(self) -> str: ...
