"""A short hand for talking to a store: makes rows that are real events, and moves its own clock.

Tests of a store assert on what the store answers and on what it gives back, never on its tables, so
that every implementation can pass them.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from everlong_engine.model.codec import Blobs, checksum, encode_event
from everlong_engine.model.events import (
    CODES,
    ApprovalAnswered,
    ApprovalRequested,
    ApprovalWithdrawn,
    Event,
    ItemPublished,
    RunCompleted,
    RunContinuedAsNew,
    RunFailed,
    RunStarted,
    RunTerminated,
    SignalReceived,
    TagsSet,
)
from everlong_engine.model.ids import IdSource
from everlong_engine.model.outgoing import StartChild, Target
from everlong_engine.model.policies import IfClosed, IfOpen
from everlong_engine.model.requests import Sent, child_request_id
from everlong_engine.model.runs import ItemRow, LoadedRun, NewRun, RunRow, RunStatus, WorkerRow
from everlong_engine.model.tags import Tags, TagValue
from everlong_engine.model.tasks import Withdrawn
from everlong_engine.model.writes import (
    AnswerApproval,
    Append,
    AppendResult,
    ApprovalResult,
    Approvals,
    HistoryRow,
    Message,
    MessageResult,
    NextRun,
    Refusal,
    Release,
    StartResult,
    StartRun,
    Terminate,
    Write,
    WriteResult,
)
from everlong_engine.store.interface import Store, Wants

__all__ = ["SECOND_US", "Rig"]

SECOND_US: Final = 1_000_000
_BEGINNING_US: Final = 1_800_000_000 * SECOND_US
_STATUS: Final[dict[type[Event], RunStatus]] = {
    RunCompleted: RunStatus.COMPLETED,
    RunFailed: RunStatus.FAILED,
    RunContinuedAsNew: RunStatus.CONTINUED_AS_NEW,
}


class Rig:
    """One store and one pretended worker. `now_us` is moved by tests."""

    def __init__(self, store: Store, seed: int = 7) -> None:
        self.store = store
        self.now_us = _BEGINNING_US
        self.ids = IdSource(Random(seed))
        self.worker_id = self.ids.next(self.now_us)
        self._append_id = 0
        self._sent = 0

    async def group(self, *writes: Write) -> list[WriteResult]:
        """All in one transaction."""
        return await self.store.submit(writes)

    async def one(self, write: Write) -> WriteResult:
        return (await self.group(write))[0]

    # ------------------------------------------------------------------------------- starting

    def new(self, workflow_id: str = "w", request_id: str | None = None, **other: Any) -> NewRun:
        run_id = self.ids.next(self.now_us)
        options: dict[str, Any] = {"type": "flow", "queue": "default", "namespace": "default"}
        options.update(other)
        return NewRun(
            shard=0,
            run_id=run_id,
            execution_id=run_id,
            workflow_id=workflow_id,
            started_us=self.now_us,
            request_id=request_id,
            **options,
        )

    def start(
        self,
        workflow_id: str = "w",
        *,
        request_id: str | None = None,
        if_open: IfOpen = "use",
        if_closed: IfClosed = "allow",
        arguments: bytes = b"",
        tags: Tags = (),
        **other: Any,
    ) -> StartRun:
        """A start that lies in the inbox until somebody claims it."""
        blobs: Blobs = {}
        kind, body = encode_event(started(workflow_id, arguments, tags), blobs)
        new = replace(self.new(workflow_id, request_id, **other), tags=tags)
        return StartRun(new, if_open, if_closed, kind, body, blobs=blobs, wake_us=self.now_us)

    def start_here(self, workflow_id: str = "w", *events: Event, **options: Any) -> StartRun:
        """A start that its owner has driven already, to its end if an event closes it."""
        start = self.start(workflow_id, **options)
        begins = started(workflow_id, tags=start.run.tags)
        first = self.events(start.run, 1, begins, *events, token=1, blobs=start.blobs)
        return StartRun(
            start.run, start.if_open, start.if_closed, 0, b"", owner=self.worker_id, first=first
        )

    async def started(self, workflow_id: str = "w", **options: Any) -> RunRow:
        result = await self.one(self.start(workflow_id, **options))
        assert isinstance(result, StartResult)
        assert result.created
        return await self.row(workflow_id)

    async def owned(self, workflow_id: str = "w", *events: Event, **options: Any) -> RunRow:
        """A run in this rig's hands, with its start and more journaled."""
        result = await self.one(self.start_here(workflow_id, *events, **options))
        assert isinstance(result, StartResult)
        assert result.created
        return await self.row(workflow_id)

    async def closed(self, workflow_id: str = "w", **options: Any) -> RunRow:
        return await self.owned(workflow_id, RunCompleted(b"done"), **options)

    # ------------------------------------------------------------------------------ appending

    def rows(self, base: int, events: Sequence[Event], blobs: Blobs) -> list[HistoryRow]:
        found: list[HistoryRow] = []
        for seq, event in enumerate(events, base):
            kind, body = encode_event(event, blobs)
            found.append((seq, kind, self.now_us, body, checksum(seq, kind, body)))
        return found

    def events(
        self,
        run: RunRow | NewRun,
        base: int,
        *events: Event,
        token: int,
        blobs: Blobs | None = None,
        **options: Any,
    ) -> Append:
        self._append_id += 1
        blobs = {} if blobs is None else blobs
        rows = self.rows(base, events, blobs)
        status = _STATUS.get(type(events[-1])) if events else None
        if status is not None:
            options = {"closed": status, "closed_us": self.now_us, "mail_free": True, **options}
        asked = tuple(
            (event.approval_id, seq)
            for seq, event in enumerate(events, base)
            if isinstance(event, ApprovalRequested)
        )
        gone = tuple(one.approval_id for one in events if isinstance(one, ApprovalWithdrawn))
        if asked or gone:
            options.setdefault("approvals", Approvals(asked, gone))
        items = [self._item(event) for event in events if isinstance(event, ItemPublished)]
        return Append(
            run.shard,
            run.run_id,
            run.execution_id,
            token,
            base,
            rows,
            self._append_id,
            blobs=blobs or None,
            items=tuple(items),
            tags=tuple(tag for one in events if isinstance(one, TagsSet) for tag in one.tags),
            **options,
        )

    def _item(self, event: ItemPublished) -> ItemRow:
        number, payload = event.number, event.payload
        stored = checksum(number, CODES[ItemPublished], payload)
        return ItemRow(event.channel, number, self.now_us, payload, stored)

    def child(self, name: str, number: int, parent_run: bytes, **how: Any) -> StartChild:
        """A child, as part of an append of `parent_run`."""
        options: dict[str, Any] = {
            "on_parent_close": "terminate",
            "if_open": "fail",
            "if_closed": "allow",
            "wants_start": True,
            **how,
        }
        new = self.new(name, child_request_id(parent_run, number))
        blobs: Blobs = {}
        kind, body = encode_event(replace(started(name), parent="parent"), blobs)
        return StartChild(number, new, kind, body, blobs, wake_us=self.now_us, **options)

    def append(self, row: RunRow, *events: Event, **options: Any) -> Append:
        """The next events of a run, as its row stands."""
        options.setdefault("token", row.lease_token)
        base = options.pop("base", row.next_seq)
        return self.events(row, base, *(events or (signal(),)), **options)

    def successor(self, row: RunRow, tags: Tags = ()) -> NextRun:
        new = self.new(row.workflow_id)
        following = NewRun(
            shard=0,
            run_id=new.run_id,
            execution_id=row.execution_id,
            namespace=row.namespace,
            workflow_id=row.workflow_id,
            type=row.type,
            queue=row.queue,
            started_us=self.now_us,
            tags=tags,
        )
        kind, body = encode_event(started(row.workflow_id, tags=tags), {})
        return NextRun(following, self.worker_id, kind, body, {})

    # -------------------------------------------------------------------------------- sending

    def target(self, workflow_id: str = "w", execution_id: bytes | None = None) -> Target:
        return Target(0, "default", workflow_id, execution_id)

    def message(
        self,
        workflow_id: str = "w",
        payload: bytes = b"hello",
        *,
        request_id: str | None = None,
        execution_id: bytes | None = None,
        sent: Sent | None = None,
    ) -> Message:
        blobs: Blobs = {}
        kind, body = encode_event(signal(payload), blobs)
        target = self.target(workflow_id, execution_id)
        return Message(target, kind, body, self.now_us, request_id, blobs, sent)

    async def send(self, workflow_id: str = "w", **options: Any) -> MessageResult:
        result = await self.one(self.message(workflow_id, **options))
        assert isinstance(result, MessageResult)
        return result

    async def position(self, workflow_id: str = "w", **options: Any) -> int:
        """Send; where the message lies."""
        found = (await self.send(workflow_id, **options)).position
        assert found is not None
        return found

    def sent(self, sender: str = "somebody") -> Sent:
        """Names the next message of a sender."""
        self._sent += 1
        return Sent(sender, self.now_us + self._sent)

    def terminate(self, workflow_id: str = "w", execution_id: bytes | None = None) -> Terminate:
        self._append_id += 1
        kind, body = encode_event(RunTerminated("enough"), {})
        target = self.target(workflow_id, execution_id)
        return Terminate(target, kind, body, RunStatus.TERMINATED, self.now_us, self._append_id)

    # ----------------------------------------------------------------------------- leases, looks

    def release(self, row: RunRow, wake_us: int | None = None, **options: Any) -> Release:
        return Release(
            row.shard,
            row.run_id,
            row.execution_id,
            row.lease_token,
            row.next_seq,
            wake_us,
            **options,
        )

    def wants(self, *types: str, queue: str = "default") -> Wants:
        return Wants(self.worker_id, queue, types or ("flow",))

    async def claim(self, *types: str, limit: int = 10, queue: str = "default") -> list[LoadedRun]:
        return await self.store.claim(self.wants(*types, queue=queue), self.now_us, limit)

    async def claim_one(self) -> LoadedRun:
        (found,) = await self.claim()
        return found

    async def register(
        self,
        name: str = "worker",
        types: tuple[str, ...] = ("flow",),
        versions: tuple[str, ...] = (),
    ) -> None:
        """Let the store know this rig's worker."""
        row = WorkerRow(
            worker_id=self.worker_id,
            name=name,
            pid=1,
            host="here",
            started_us=self.now_us,
            beat_us=self.now_us,
            dead=False,
            types=types,
            versions=versions,
        )
        await self.store.register(row)

    async def die(self) -> int:
        """This worker is gone and another one takes over; how many runs it freed."""
        freed = 0
        while found := await self.store.take_over([], self.now_us, 100):
            freed += found
        self.worker_id = self.ids.next(self.now_us)
        return freed

    async def row(self, workflow_id: str = "w") -> RunRow:
        found = await self.store.latest(self.target(workflow_id))
        assert found is not None, f"no run of {workflow_id}"
        return found

    async def load(self, run: RunRow | str = "w") -> LoadedRun:
        row = await self.row(run) if isinstance(run, str) else run
        found = await self.store.load(row.shard, row.run_id)
        assert found is not None
        return found

    async def kinds(self, run: RunRow | str = "w") -> list[str]:
        return [type(one.event).__name__ for one in (await self.load(run)).history]

    def answer(self, row: RunRow, number: int, by: str, request: str = "r") -> AnswerApproval:
        event = ApprovalAnswered(number, row.run_id, True, by, b"", self.now_us)
        kind, body = encode_event(event, {})
        return AnswerApproval(row.shard, row.run_id, number, kind, body, self.now_us, request)

    async def answered(self, row: RunRow, number: int, by: str, request: str) -> ApprovalResult:
        result = await self.one(self.answer(row, number, by, request))
        assert isinstance(result, ApprovalResult)
        return result

    async def open_approvals(self) -> list[tuple[str, int]]:
        found = await self.store.approvals("default", None, (b"", 0), 100)
        return [(one.run.workflow_id, one.number) for one in found]

    async def published(
        self, run: RunRow | str = "w", channel: str = "told", number: int = 0, limit: int = 100
    ) -> list[tuple[int, bytes]]:
        row = await self.row(run) if isinstance(run, str) else run
        found = await self.store.published(row.shard, row.execution_id, channel, number, limit)
        return [(one.number, one.payload) for one in found]

    async def tags(self, run: RunRow | str = "w") -> dict[str, TagValue]:
        row = await self.row(run) if isinstance(run, str) else run
        found = await self.store.tags([(row.shard, row.run_id)])
        return dict(found.get(row.run_id, ()))

    async def problems(self) -> list[str]:
        return [problem.text for problem in await self.store.verify()]


def started(workflow_id: str = "w", arguments: bytes = b"", tags: Tags = ()) -> RunStarted:
    return RunStarted("flow", arguments, workflow_id, 1, "code", "3.11", tags=tags)


def question(number: int, title: str = "Ship it?") -> ApprovalRequested:
    return ApprovalRequested(number, title, b"data", ("ann",), None, "")


def item(number: int, payload: bytes = b"item", channel: str = "told") -> ItemPublished:
    return ItemPublished(channel, number, payload, "")


def signal(payload: bytes = b"hello") -> SignalReceived:
    return SignalReceived("greet", payload)


def refusal(result: WriteResult) -> Refusal | None:
    assert isinstance(result, AppendResult | Withdrawn)
    return result.refusal


TERMINATED: Final = CODES[RunTerminated]
