"""What is stored, apart from the processes that look at it.

`MemoryData` is the file of a SQLite store: several `MemoryStore`s over it are several processes. It
survives them, and nothing survives it. Every shard is 0 here, as in a file (decision 0001), so no
key carries one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from everlong_engine.model.codec import checksum
from everlong_engine.model.entities import EntityRow
from everlong_engine.model.failure import Failure
from everlong_engine.model.keys import KeyKind, KeyRow
from everlong_engine.model.letters import KeptLetter, OutboxRow
from everlong_engine.model.outgoing import Target
from everlong_engine.model.queues import LimitOrigin, LimitRow, Starts
from everlong_engine.model.requests import Sent
from everlong_engine.model.runs import (
    AttemptRow,
    ItemRow,
    Link,
    MailRow,
    PauseRow,
    RunRow,
    RunStatus,
    WorkerRow,
)
from everlong_engine.model.statements import Statement
from everlong_engine.model.tags import TagChanges, TagValue
from everlong_engine.model.tasks import TaskRow
from everlong_engine.model.turns import TurnState
from everlong_engine.model.writes import HistoryRow
from everlong_engine.store.interface import Question
from everlong_engine.store.memory.tables import Index, Journal, Table
from everlong_engine.store.user_sql import UserConnection, run_statements

__all__ = [
    "AskedQuestion",
    "HostingWorker",
    "MemoryData",
    "StoredApproval",
    "StoredEvent",
    "StoredStarts",
    "StoredTurn",
    "View",
]

T = TypeVar("T")


class StoredEvent(Struct, frozen=True):
    row: HistoryRow
    append_id: int | None
    """On the last row of an append."""


class StoredApproval(Struct, frozen=True):
    seq: int
    answer: bytes | None = None
    request: str | None = None


class HostingWorker(Struct, frozen=True):
    row: WorkerRow


class StoredStarts(Struct, frozen=True):
    until_us: int
    starts: Starts


class StoredTurn(Struct, frozen=True):
    """Where an execution stands in its pool."""

    namespace: str
    workflow_id: str
    pool: str
    key: str
    rank: int
    asked_us: int
    until_us: int | None
    state: TurnState = TurnState.WAITS


class AskedQuestion(Struct, frozen=True):
    question: Question
    asked_us: int
    answer: tuple[bool, bytes] | None = None


class View(Protocol):
    """What one process sees of the data."""

    closed: bool


class MemoryData:
    """The rows, who owns them, and how many transactions have changed them.

    `before_row` is called before each row is written or removed; what it raises ends the
    transaction, of which nothing stays.
    """

    _sql: UserConnection | None = None

    def __init__(self) -> None:
        self._journal = journal = Journal()
        # Runs by what they are looked up by.
        self.of_workflow = Index[bytes, RunRow](lambda _, run: (run.namespace, run.workflow_id))
        self.open_of_workflow = Index[bytes, RunRow](
            lambda _, run: (run.namespace, run.workflow_id) if run.status.keeps_id else None
        )
        self.of_request = Index[bytes, RunRow](
            lambda _, run: (
                None if run.request_id is None else (run.namespace, run.workflow_id, run.request_id)
            )
        )
        self.of_execution = Index[bytes, RunRow](lambda _, run: run.execution_id)
        self.of_owner = Index[bytes, RunRow](lambda _, run: run.owner)
        self.to_wake = Index[bytes, RunRow](
            lambda _, run: (
                (run.queue, run.type, run.version)
                if run.wake_us is not None and run.status is RunStatus.RUNNING
                else None
            )
        )
        self.runs = Table(
            journal,
            self.of_workflow,
            self.open_of_workflow,
            self.of_request,
            self.of_execution,
            self.of_owner,
            self.to_wake,
        )
        # What hangs on a run.
        self.history_of = Index[tuple[bytes, int], StoredEvent](lambda key, _: key[0])
        self.history = Table(journal, self.history_of)
        self.attempts_of = Index[tuple[bytes, int, int], AttemptRow](lambda key, _: key[0])
        self.attempts = Table(journal, self.attempts_of)
        self.approvals_of = Index[tuple[bytes, int], StoredApproval](lambda key, _: key[0])
        self.approvals = Table(journal, self.approvals_of)
        # What hangs on an execution.
        self.mail_of = Index[int, MailRow](lambda _, mail: mail.execution_id)
        self.mail = Table(journal, self.mail_of)
        self.requests_of = Index[tuple[bytes, str], bytes](lambda key, _: key[0])
        self.requests = Table(journal, self.requests_of)
        self._make_outputs(journal)
        # Spilled payloads by digest, and (owner, digest) for each use.
        self.blobs = Table[bytes, bytes](journal)
        self.blobs_of_owner = Index[tuple[bytes, bytes], bool](lambda key, _: key[0])
        self.users_of_blob = Index[tuple[bytes, bytes], bool](lambda key, _: key[1])
        self.blob_uses = Table(journal, self.blobs_of_owner, self.users_of_blob)

        self._make_tasks(journal)
        self._make_links(journal)
        self.workers = Table[bytes, HostingWorker](journal)
        self.questions = Table[bytes, AskedQuestion](journal)

        self.last_position = 0
        """Of mail; a position is never used twice."""
        self.commits = 0
        """Transactions that changed something."""
        self.owner: View | None = None

    def _make_outputs(self, journal: Journal) -> None:
        """What an execution has published, by (execution, channel, number), and keeps for keys."""
        self.published_of = Index[tuple[bytes, str, int], ItemRow](lambda key, _: key[0])
        self.published = Table(journal, self.published_of)
        self.entities_of = Index[tuple[bytes, str], EntityRow](lambda key, _: key[0])
        self.entities = Table(journal, self.entities_of)

    def _make_tasks(self, journal: Journal) -> None:
        """What stands in task queues, by (run, activity)."""
        self.tasks_of_run = Index[tuple[bytes, int], TaskRow](lambda key, _: key[0])
        self.tasks_taken = Index[tuple[bytes, int], TaskRow](lambda _, row: row.worker_id)
        self.tasks_waiting = Index[tuple[bytes, int], TaskRow](
            lambda _, row: (
                None if row.worker_id or row.asked else (row.task.queue, row.task.activity)
            )
        )
        self.tasks = Table(journal, self.tasks_of_run, self.tasks_taken, self.tasks_waiting)
        self.queue_limits = Table[tuple[str, LimitOrigin], LimitRow](journal)
        self.queue_starts = Table[tuple[str, str], StoredStarts](journal)
        self.turns_of = Index[bytes, StoredTurn](lambda _, turn: turn.pool)
        self.turns = Table(journal, self.turns_of)
        self.keys_of = Index[tuple[str, str, KeyKind, str], KeyRow](lambda _, row: row.execution_id)
        self.start_keys = Table(journal, self.keys_of)
        """By (namespace, type, kind, key)."""
        self._make_tags(journal)

    def _make_tags(self, journal: Journal) -> None:
        """What runs are found by, by (run, name)."""
        self.tags_of = Index[tuple[bytes, str], TagValue](lambda key, _: key[0])
        self.tags = Table(journal, self.tags_of)
        self._make_letters(journal)

    def _make_letters(self, journal: Journal) -> None:
        """What waits for brokers, by position, and who takes it out; counts are not kept."""
        self.letters_waiting = Index[int, KeptLetter](
            lambda _, kept: kept.letter.outbox if kept.refused is None else None
        )
        self.letters_refused = Index[int, KeptLetter](
            lambda _, kept: None if kept.refused is None else kept.letter.outbox
        )
        self.letters = Table(journal, self.letters_waiting, self.letters_refused)
        self.outboxes = Table[str, OutboxRow](journal)
        self.last_letter = 0
        """A position is never used twice."""

    def _make_pauses(self, journal: Journal) -> None:
        """Who holds what: by execution, and by (namespace, type)."""
        self.pauses = Table[bytes, PauseRow](journal)
        self.pauses_of_types = Table[tuple[str, str], PauseRow](journal)
        self.requests_of_types = Table[tuple[str, str], tuple[int, bytes]](journal)
        """By (namespace, request id): when, and the answer."""

    def _make_links(self, journal: Journal) -> None:
        """Who waits for whose end, by (execution, run that waits, its number)."""
        self._make_pauses(journal)
        self.links_to = Index[tuple[bytes, bytes, int], Link](lambda key, _: key[0])
        self.links_from = Index[tuple[bytes, bytes, int], Link](lambda _, link: link.waiter_id)
        self.links = Table(journal, self.links_to, self.links_from)

    @property
    def before_row(self) -> Callable[[], None] | None:
        return self._journal.before_row

    @before_row.setter
    def before_row(self, hook: Callable[[], None] | None) -> None:
        self._journal.before_row = hook

    def transaction(self, work: Callable[[], T]) -> T:
        """Run `work`; whatever it raises, nothing of it stays."""
        counters = self.last_position, self.last_letter
        try:
            result = work()
        except BaseException:
            self._journal.undo()
            self.last_position, self.last_letter = counters
            if self._sql is not None and self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            raise
        if self._sql is not None and self._sql.in_transaction:
            self._sql.execute("COMMIT")
        if self._journal:
            self._journal.forget()
            self.commits += 1
        return result

    @property
    def sql(self) -> UserConnection:
        """The tables of users, beside the data; made when they are wanted."""
        if self._sql is None:
            self._sql = UserConnection(":memory:", isolation_level=None)
            self._sql.reserve(())
        return self._sql

    def run_statements(self, statements: Sequence[Statement]) -> Failure | None:
        """Run them in the transaction at work; what went wrong, and then none has run."""
        sql = self.sql
        if not sql.in_transaction:
            sql.execute("BEGIN")
        sql.execute("SAVEPOINT one")
        failure = run_statements(sql, statements)
        if failure is not None:
            sql.execute("ROLLBACK TO one")
        sql.execute("RELEASE one")
        return failure

    def kill(self, view: View) -> None:
        """End the process of `view`, as the system does: its lock is free, and no call of it is
        answered any more."""
        view.closed = True
        if self.owner is view:
            self.owner = None

    # ---------------------------------------------------------------- what many verbs look for

    def latest(self, target: Target) -> RunRow | None:
        """The run that a target means: the open one of the workflow id, else the newest; of an
        execution that no longer has the id, its newest."""
        name = (target.namespace, target.workflow_id)
        # Ids grow with time, so the newest is the greatest.
        candidates = self.open_of_workflow.keys(name) or self.of_workflow.keys(name)
        if not candidates:
            return None
        found = self.runs.rows[max(candidates)]
        if target.execution_id in (None, found.execution_id):
            return found
        earlier = [
            run_id
            for run_id in self.of_workflow.keys(name)
            if self.runs.rows[run_id].execution_id == target.execution_id
        ]
        return self.runs.rows[max(earlier)] if earlier else None

    def sent_before(
        self, target: Target, run: RunRow, request_id: str | None, sent: Sent | None
    ) -> RunRow | None:
        """Who was told this before: `run`, the one that is meant now, or an earlier execution of
        the workflow id."""
        name, least = request_id, b""
        if name is None:
            if sent is None:
                return None
            name, least = sent.name, sent.mark
        told = self.told(target, run, name)
        return told[0] if told is not None and told[1] >= least else None

    def told(self, target: Target, run: RunRow, name: str) -> tuple[RunRow, bytes] | None:
        """Who was asked this, and the answer: `run`, else the newest that had the workflow id."""
        answer = self.requests.get((run.execution_id, name))
        if answer is not None:
            return run, answer
        if target.execution_id is not None:
            return None
        for run_id in sorted(self.of_workflow.keys((run.namespace, run.workflow_id)), reverse=True):
            earlier = self.runs.rows[run_id]
            answer = self.requests.get((earlier.execution_id, name))
            if answer is not None:
                return earlier, answer
        return None

    def mail_positions(self, execution_id: bytes) -> Collection[int]:
        return self.mail_of.keys(execution_id)

    # ------------------------------------------------------------------ what many verbs write

    def put_mail(
        self, execution_id: bytes, kind: int, body: bytes, blobs: Mapping[bytes, bytes] | None
    ) -> int:
        """Leave a message; its position."""
        self.put_blobs(execution_id, blobs)
        position = self.last_position = self.last_position + 1
        row = MailRow(position, execution_id, kind, body, checksum(0, kind, body))
        self.mail.put(position, row)
        return position

    def forget_mail(self, execution_id: bytes) -> None:
        for position in list(self.mail_of.keys(execution_id)):
            self.mail.remove(position)

    def close_approvals(self, run_id: bytes) -> None:
        """A run does not ask any more. What was answered stays."""
        for key in list(self.approvals_of.keys(run_id)):
            if self.approvals.rows[key].answer is None:
                self.approvals.remove(key)

    def drop_tasks(self, run_id: bytes) -> None:
        """A run is over: whoever has one of its tasks finds that out."""
        for key in list(self.tasks_of_run.keys(run_id)):
            self.tasks.remove(key)

    def change_tags(self, run_id: bytes, changes: TagChanges) -> None:
        """Set those of a run, and take away what is None."""
        for name, value in changes:
            if value is not None:
                self.tags.put((run_id, name), value)
            elif (run_id, name) in self.tags.rows:
                self.tags.remove((run_id, name))

    def put_blobs(self, owner_id: bytes, blobs: Mapping[bytes, bytes] | None) -> None:
        """Keep spilled payloads, once per content, and note who refers to them."""
        for digest, content in (blobs or {}).items():
            if digest not in self.blobs.rows:
                self.blobs.put(digest, content)
            if (owner_id, digest) not in self.blob_uses.rows:
                self.blob_uses.put((owner_id, digest), True)

    def unuse_blobs(self, owner_id: bytes, digests: Collection[bytes]) -> None:
        """An owner refers to these no more; each payload that was its alone goes."""
        for digest in digests:
            if (owner_id, digest) in self.blob_uses.rows:
                self.blob_uses.remove((owner_id, digest))
                if not self.users_of_blob.keys(digest) and digest in self.blobs.rows:
                    self.blobs.remove(digest)

    def drop_blobs(self, owner_id: bytes) -> None:
        """Forget what an owner refers to, and each payload that was its alone."""
        self.unuse_blobs(owner_id, [digest for _, digest in self.blobs_of_owner.keys(owner_id)])
