"""The workflow behind `client.bulk`: a page at a time, until there is nothing left to do.

Two activities a page: one finds whom the filter means, the other acts on them, and what they found
and did is recorded. Each execution remembers the job's request id. So a page that is repeated after
a crash acts once, and one pass over the filter after another, until one finds nobody new, forgets
nobody who begins anew meanwhile. Behind a pass of several pages it looks at what has begun since
that pass did: who began anew between two pages is newer than either.

Workers host it beside what they were given; users' tables of definitions do not have it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, assert_never, cast

from msgspec import structs

from everlong._context import activity_context
from everlong._definitions import OWN
from everlong.activity import activity
from everlong.client._bulk_order import ACTS_ON, BulkOrder, BulkReport, NotDone, meant, memo_of
from everlong.client._handle import WorkflowHandle
from everlong.exceptions import (
    CannotReset,
    InvalidArguments,
    InvalidFilter,
    PayloadError,
    StoreError,
    WorkflowAlreadyStarted,
    WorkflowClosed,
    WorkflowNotFound,
)
from everlong.labels import set_memo
from everlong.registry import Definitions
from everlong.workflow import Workflow, checkpoint, workflow
from everlong_engine import (
    Retry,
    RunFilter,
    RunRow,
    SignalReceived,
    first_id_of,
    id_from_text,
    id_text,
    name_of_reset,
    name_of_termination,
)

if TYPE_CHECKING:
    from everlong.client._client import Client

__all__ = ["BUILT_IN", "BULK", "bulk", "candidates"]

BULK: Final = f"{OWN}bulk"

_PAGES_READ_MAX: Final = 20
"""In one attempt: where everybody is done already, the next attempt goes on."""
_RESETS_AT_ONCE: Final = 8
"""Each of them has a history in memory."""
_REFUSED_MAX: Final = 10_000
"""Of those that a job remembers. With more there is no further pass."""
_LOOKS_MAX: Final = 20
"""Each is about what began while the one before it was read, so one of them has a single page,
unless runs begin faster than they are read."""
_LATE_US: Final = 2_000_000
"""A run may be committed so much later than its id says."""
_LOOK_ROWS: Final = 1000
"""What began since the last pass did, in one moment."""
_REASON_CHARS_MAX: Final = 300
_REFUSALS: Final = (
    CannotReset,
    InvalidArguments,
    WorkflowAlreadyStarted,
    WorkflowClosed,
    WorkflowNotFound,
)
_AGAIN: Final = Retry(non_retryable=(InvalidFilter, InvalidArguments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An execution that the filter means."""

    workflow_id: str
    execution_id: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of them."""

    items: tuple[Item, ...]
    after: str | None
    """Where the next page begins; None behind the last."""
    mark: str | None = None
    """An id before those of runs that began while this was read; only from a pass's first page."""
    pages: int = 1
    """So many were read, each as things stood in one moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    done: int
    skipped: tuple[NotDone, ...]
    failed: tuple[NotDone, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far the job is."""

    after: str | None = None
    did: int = 0
    """In this pass."""
    refused: tuple[str, ...] = ()
    """Executions that could not be acted upon: they are tried once, too."""
    mark: str | None = None
    """What begins behind it has begun since this pass did."""
    pages: int = 0
    """Read in this pass."""
    behind_mark: str | None = None
    """This pass looks only at what began behind it."""
    looks: int = 0
    """Passes of this kind in a row."""

    def left_of(self, page: Found) -> tuple[Item, ...]:
        refused = set(self.refused)
        return tuple(one for one in page.items if one.execution_id not in refused)

    def behind(self, page: Found, acted: Acted | None) -> "Place":
        read = replace(
            self, after=page.after, mark=self.mark or page.mark, pages=self.pages + page.pages
        )
        if acted is None:
            return read
        not_done = {one.run_id for one in (*acted.skipped, *acted.failed)}
        refused = (one.execution_id for one in page.items if one.run_id in not_done)
        return replace(read, did=self.did + acted.done, refused=(*self.refused, *refused))

    def next_pass(self) -> "Place | None":
        """What comes behind this pass, which is at its end; None: nothing, it is done."""
        if len(self.refused) > _REFUSED_MAX:
            return None
        if self.did:
            return Place(refused=self.refused)
        if self.pages <= 1 or self.looks == _LOOKS_MAX:
            return None
        return Place(refused=self.refused, behind_mark=self.mark, looks=self.looks + 1)


with Definitions():

    @activity(name="everlong.bulk.count", retry=_AGAIN, timeout=600.0)
    async def count(order: BulkOrder) -> int:
        own = _own()
        wanted = _wanted(own.client, order)
        counted = await own.client.engine.store.count_runs(wanted, None)
        return counted[0][1]

    @activity(name="everlong.bulk.find", retry=_AGAIN, timeout=600.0)
    async def find(order: BulkOrder, after: str | None, behind: str | None = None) -> Found:
        own = _own()
        pages = 0
        mark = None if after is not None else own.mark()
        async for rows, at in candidates(own.client, order, after, behind):
            items = [_item(row) for row in rows if await own.is_left(order, row)]
            after = None if at is None else id_text(at)
            pages += 1
            if items or pages == _PAGES_READ_MAX:
                return Found(items=tuple(items), after=after, mark=mark, pages=pages)
        return Found(items=(), after=None, mark=mark, pages=pages)

    @activity(name="everlong.bulk.act", retry=_AGAIN, timeout=600.0)
    async def act(order: BulkOrder, items: tuple[Item, ...]) -> Acted:
        own = _own()
        limit = asyncio.Semaphore(_RESETS_AT_ONCE if order.begins_runs else len(items))

        async def one(item: Item) -> tuple[NotDone | None, bool]:
            async with limit:
                return await own.apply(order, item)

        ends = await asyncio.gather(*map(one, items), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        told = [end for end in ends if not isinstance(end, BaseException)]
        return Acted(
            done=sum(1 for reason, _ in told if reason is None),
            skipped=tuple(reason for reason, refused in told if reason is not None and refused),
            failed=tuple(reason for reason, refused in told if reason is not None and not refused),
        )

    @workflow(name=BULK, versioning="auto")
    async def bulk(
        order: BulkOrder, so_far: BulkReport | None = None, place: Place | None = None
    ) -> BulkReport:
        """Acts on every execution that the order means."""
        place = place or Place()
        if so_far is None:
            so_far = BulkReport(action=order.action, about=await count(order))
            set_memo(memo_of(so_far))
        while True:
            page = await find(order, place.after, place.behind_mark)
            items = place.left_of(page)
            acted = await act(order, items) if items else None
            if acted is not None:
                so_far = so_far.plus(acted.done, acted.skipped, acted.failed)
                set_memo(memo_of(so_far))
            place = place.behind(page, acted)
            if place.after is None:
                following = place.next_pass()
                if following is None:
                    return so_far
                place = following
            if order.rate is not None and acted is not None:
                await asyncio.sleep(len(items) / order.rate)
            await checkpoint(so_far=so_far, place=place)


BUILT_IN: Final[Mapping[str, Workflow[Any, Any]]] = {BULK: bulk}
"""Workflows that every worker hosts."""


async def candidates(
    client: "Client", order: BulkOrder, after: str | None = None, behind: str | None = None
) -> AsyncIterator[tuple[list[RunRow], bytes | None]]:
    """Pages of runs that the order means, and where the next begins. No job, and nobody twice: each
    is the newest run of its execution, or of its workflow id if another is to begin after it."""
    wanted = _wanted(client, order)
    store, limit = client.engine.store, order.at_once
    if behind is not None:
        wanted, limit = structs.replace(wanted, behind=id_from_text(behind)), _LOOK_ROWS
    at = None if after is None else id_from_text(after)
    while True:
        rows = await store.list_runs(wanted, limit, at)
        at = rows[-1].run_id if len(rows) == limit else None
        yield [row for row in rows if row.type != BULK and await _is_newest(client, order, row)], at
        if at is None:
            return


def _wanted(client: "Client", order: BulkOrder) -> RunFilter:
    now_us = client.engine.clock.now_us()
    return RunFilter(client.namespace, where=meant(order), now_us=now_us)


async def _is_newest(client: "Client", order: BulkOrder, row: RunRow) -> bool:
    if row.status.is_open:
        return True  # It was when it was read. If it has begun anew since, that is whom we mean.
    among = None if order.begins_runs else row.execution_id
    target = client.engine.target(row.namespace, row.workflow_id, among)
    try:
        newest = await client.engine.store.latest(target)
    except PayloadError:
        return True  # Damaged: whoever acts on it says so.
    return newest is None or newest.run_id == row.run_id


def _item(row: RunRow) -> Item:
    return Item(
        workflow_id=row.workflow_id,
        execution_id=id_text(row.execution_id),
        run_id=id_text(row.run_id),
    )


# ------------------------------------------------------------------------------ what a page does


class _Attempt(Protocol):
    """What the attempt of an activity of ours knows of its place."""

    def own_client(self) -> "tuple[Client, bytes]": ...


@dataclass(frozen=True, slots=True)
class _Own:
    """The job, as its activities need it."""

    client: "Client"
    execution_id: bytes

    @property
    def request_id(self) -> str:
        return f"bulk {id_text(self.execution_id)}"

    def mark(self) -> str:
        return id_text(first_id_of(self.client.engine.clock.now_us() - _LATE_US))

    async def is_left(self, order: BulkOrder, row: RunRow) -> bool:
        """Whether an execution was there before the job, and this has not acted on it."""
        if row.execution_id >= self.execution_id:
            return False
        try:
            return not await self._was_done(order, self._handle(_item(row)))
        except PayloadError:
            return True

    async def apply(self, order: BulkOrder, item: Item) -> tuple[NotDone | None, bool]:
        """Act on one. Why not, if that cannot be, and whether it was refused or has failed.

        Raises:
            StoreError: none of them can be acted upon now.
        """
        handle = self._handle(item)
        try:
            if not await self._was_done(order, handle):
                reason = order.reason or f"bulk job {id_text(self.execution_id)}"
                await handle.undergo(replace(order, reason=reason), self.request_id)
            return None, False
        except StoreError:
            raise
        except _REFUSALS as error:
            return _not_done(item, str(error)), True
        except Exception as error:
            return _not_done(item, f"{type(error).__name__}: {error}"), False

    def _handle(self, item: Item) -> "_Member":
        return _Member(self.client, item.workflow_id, execution_id=id_from_text(item.execution_id))

    async def _was_done(self, order: BulkOrder, handle: "_Member") -> bool:
        names = [self.request_id]
        if order.begins_runs:
            names.append(name_of_reset(self.request_id))
        if order.action == "terminate":
            names = [name_of_termination(self.request_id, 0)]
        return await handle.remembers(names)


def _own() -> _Own:
    attempt = activity_context.get()
    assert attempt is not None, "only a worker calls it"
    return _Own(*cast(_Attempt, attempt).own_client())


def _not_done(item: Item, reason: str) -> NotDone:
    shown = reason if len(reason) <= _REASON_CHARS_MAX else reason[: _REASON_CHARS_MAX - 1] + "…"
    return NotDone(workflow_id=item.workflow_id, run_id=item.run_id, reason=shown)


class _Member(WorkflowHandle[Any]):
    """One of those that a job acts upon."""

    async def remembers(self, names: list[str]) -> bool:
        """Whether one of these requests has been accepted."""
        target, store = self._target(), self._engine.store
        for name in names:
            told = await store.told(target, name)
            if told is not None and told[1] is not None:
                return True
        return False

    async def undergo(self, order: BulkOrder, request_id: str) -> None:
        """Raises EverlongError: it refuses."""
        status = (await self._row()).status.text
        if status not in ACTS_ON[order.action]:
            raise WorkflowClosed(f"it is {status.replace('_', ' ')} by now", status=status)
        match order.action:
            case "cancel":
                await self.cancel(order.reason, request_id=request_id)
            case "terminate":
                await self.terminate(order.reason, request_id=request_id)
            case "signal":
                await self._send(SignalReceived(order.signal, order.payload), request_id)
            case "pause":
                await self.pause(reason=order.reason, by=order.by, request_id=request_id)
            case "resume":
                await self._go_on(request_id)
            case "reset":
                await self.reset(order.to, reason=order.reason, request_id=request_id)
            case "retry" if status == "blocked":
                await self._go_on(request_id)
            case "retry":
                await self.reset(order.to, reason=order.reason, request_id=request_id)
            case _:
                assert_never(order.action)

    async def _go_on(self, request_id: str) -> None:
        await self.resume(request_id=request_id)
        if (await self._row()).status.text == "paused":
            raise InvalidArguments("its type is still paused, or everything is: resume that")
