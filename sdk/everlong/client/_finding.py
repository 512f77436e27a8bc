"""Which executions there are: listed a page at a time."""

from typing import overload

from everlong._texts import storable
from everlong.client._connected import Connected
from everlong.client._pauses import held_by
from everlong.client._views import ExecutionSummary, Page, summary
from everlong.exceptions import InvalidFilter
from everlong_engine import (
    Field,
    RunFilter,
    RunStatus,
    TagValue,
    id_from_text,
    parse_field,
    parse_filter,
)

__all__ = ["Finding"]


class Finding(Connected):
    """The part of a client that searches."""

    async def list(
        self,
        *,
        filter: str | None = None,
        status: str | None = None,
        type: str | None = None,
        workflow_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page[ExecutionSummary]:
        """Runs, newest first, a page at a time.

            page = await client.list(status="running", limit=100)
            while page.next:
                page = await client.list(status="running", limit=100, after=page.next)

        Args:
            filter: such as `status = 'running' and tag.customer = 'c1' and started > '2026-11-01'`;
                the guide "Finding executions" has the grammar. Values that come from elsewhere go
                through `literal`.
            status, type, workflow_id: the commonest filters, and with `filter` conditions beside
                it.
            limit: how many at once, 1 to 1000.
            after: the `next` of the page before.

        Raises:
            InvalidFilter: the filter cannot be read; the message says where.
            ValueError: an unknown status, a limit outside 1 to 1000, a damaged cursor.
        """
        known = [one.text for one in RunStatus]
        if status is not None and status not in known:
            raise ValueError(f"status={status!r}: choose one of {', '.join(known)}")
        if not 1 <= limit <= 1000:
            raise ValueError(f"limit={limit}: choose 1 to 1000")
        storable(type or "", "type")
        storable(workflow_id or "", "workflow_id")
        try:
            cursor = None if after is None else id_from_text(after)
        except ValueError as error:
            raise ValueError(f"after={after!r} is no cursor: pass a page's `next`") from error
        where = None if filter is None else parse_filter(filter)
        now_us = self.engine.clock.now_us()
        wanted = RunFilter(self.namespace, status, type, workflow_id, where, now_us=now_us)
        store = self.engine.store
        rows = await store.list_runs(wanted, limit + 1, cursor)
        tags = await store.tags([(row.shard, row.run_id) for row in rows[:limit]])
        items = [
            summary(
                row,
                self.records.shown_reason(row),
                tags.get(row.run_id, ()),
                await held_by(self, row),
                now_us,
            )
            for row in rows[:limit]
        ]
        return Page(items, items[-1].run_id if len(rows) > limit else None)

    @overload
    async def count(self, filter: str | None = None) -> int: ...
    @overload
    async def count(
        self, filter: str | None = None, *, group_by: str
    ) -> dict[TagValue | None, int]: ...
    async def count(
        self, filter: str | None = None, *, group_by: str | None = None
    ) -> int | dict[TagValue | None, int]:
        """How many runs a filter means; all of them without one.

            await client.count("tag.customer = 'c1'")                       # 7
            await client.count("type = 'order'", group_by="status")         # {"running": 3, …}

        An execution that began anew counts once for each run; `status != 'continued_as_new'` leaves
        those out that only led to the next.

        Args:
            filter: as for `list`.
            group_by: status, type, queue, id or tag.NAME: how many there are of each value, the
                most frequent first. None stands for those without the tag.

        Raises:
            InvalidFilter: the filter, or the field, cannot be read.
        """
        where = None if filter is None else parse_filter(filter)
        by = None if group_by is None else parse_field(group_by)
        if by in (Field("started"), Field("closed"), Field("begins")):
            raise InvalidFilter(
                f"group_by={group_by!r}: choose status, type, queue, id or tag.NAME"
            )
        wanted = RunFilter(self.namespace, where=where, now_us=self.engine.clock.now_us())
        found = await self.engine.store.count_runs(wanted, by)
        if by is None:
            return found[0][1]
        counts: dict[TagValue | None, int] = {}
        for value, count in sorted(found, key=lambda one: (-one[1], repr(one[0]))):
            counts[value] = counts.get(value, 0) + count
        return counts
