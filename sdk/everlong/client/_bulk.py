"""Acting on many executions at once, as a job that survives crashes and says how far it is."""

from hashlib import sha256
from typing import Any, Final, Literal, cast, overload

from everlong._texts import check_request_id, storable
from everlong.channels import Signal
from everlong.client._bulk_job import BULK, bulk, candidates
from everlong.client._bulk_order import (
    BulkAction,
    BulkOrder,
    BulkPreview,
    BulkReport,
    checked_order,
    memo_of,
    report_of,
)
from everlong.client._handle import WorkflowHandle
from everlong.client._starting import Starting
from everlong.exceptions import InvalidArguments

__all__ = ["BulkJob", "Bulking"]

_FIRST: Final = 5


class BulkJob(WorkflowHandle[BulkReport]):
    """A bulk job, seen from outside. An execution like any other: it can be described, paused,
    cancelled (what it has done stays done), and its `result` is its last report."""

    @classmethod
    def of(cls, handle: WorkflowHandle[Any]) -> "BulkJob":
        """Not public: the same execution, as what it is."""
        return cls(
            handle._client,
            handle.workflow_id,
            execution_id=handle._execution_id,
            run_id=handle._run_id,
            definition=bulk.definition,
        )

    async def progress(self) -> BulkReport:
        """How far it is. Whom it could not act upon is named in its result only.

            report = await job.progress()
            print(report.done, "of about", report.about)

        Raises:
            WorkflowNotFound: there is no such execution, or it is no bulk job.
        """
        found = await self.describe()
        if found.type != BULK:
            raise InvalidArguments(f"{self.workflow_id!r} is no bulk job: it is a {found.type}")
        return report_of(found.memo)


class Bulking(Starting):
    """The part of a client that acts on all that a filter means."""

    @overload
    async def bulk(
        self,
        action: BulkAction,
        *,
        filter: str | None = None,
        everything: bool = False,
        reason: str = "",
        by: str = "",
        signal: Signal[Any] | str | None = None,
        value: Any = None,
        to: int | str | None = None,
        rate: float | None = None,
        id: str | None = None,
        request_id: str | None = None,
        dry_run: Literal[False] = False,
    ) -> BulkJob: ...
    @overload
    async def bulk(
        self,
        action: BulkAction,
        *,
        filter: str | None = None,
        everything: bool = False,
        reason: str = "",
        by: str = "",
        signal: Signal[Any] | str | None = None,
        value: Any = None,
        to: int | str | None = None,
        rate: float | None = None,
        id: str | None = None,
        request_id: str | None = None,
        dry_run: Literal[True],
    ) -> BulkPreview: ...
    async def bulk(
        self,
        action: BulkAction,
        *,
        filter: str | None = None,
        everything: bool = False,
        reason: str = "",
        by: str = "",
        signal: Signal[Any] | str | None = None,
        value: Any = None,
        to: int | str | None = None,
        rate: float | None = None,
        id: str | None = None,
        request_id: str | None = None,
        dry_run: bool = False,
    ) -> BulkJob | BulkPreview:
        """Act on every execution that a filter means, each of them once.

            job = await client.bulk("retry", filter="status = 'failed'", reason="fixed the parser")
            report = await job.result()
            print(report.done, "retried;", [one.reason for one in report.not_done])

        It returns once the job is stored; the job is done by a worker, any worker, and goes on when
        that is killed. It means what was there when it began, by the newest run of each execution.
        What people get wrong: only those are acted upon that the action can be done to. "cancel",
        "terminate" and "signal" leave alone what has ended, whatever the filter says; "retry" takes
        up what has failed, timed out, or is blocked.

        Args:
            action: "cancel", "terminate", "signal", "pause" or "resume", as on a handle; "reset";
                or "retry": those that are blocked are tried again, and those that have failed begin
                anew before the activity whose failure ended them, or else decide anew about the
                last thing that came (the point "retry" of `reset`).
            filter: as for `list`.
            everything: instead of a filter.
            reason, by: why, and who says so, where the action has such.
            signal, value: of "signal".
            to: the point of "reset", and of "retry" if it is not to be the usual one.
            rate: at most so many a second. No limit unless given.
            id: the job's workflow id; a new one is made up unless given.
            request_id: a call repeated with the same id gives the same job.
            dry_run: say whom it would mean, and do nothing.

        Raises:
            InvalidFilter: the filter cannot be read; the message says where.
            InvalidArguments: what is asked for makes no sense, or means everybody unasked.
            CannotReset: `to` is no point.
            WorkflowAlreadyStarted: another execution has the job's id.
        """
        check_request_id(request_id)
        order = checked_order(action, filter, everything, reason, by, signal, value, to, rate)
        if dry_run:
            return await self._previewed(order)
        handle = await self.start(
            bulk,
            order,
            id=self._job_id(order, request_id) if id is None else id,
            if_open="fail",
            if_closed="fail",
            request_id=request_id,
            memo=memo_of(BulkReport(action=order.action)),
        )
        return BulkJob.of(handle)

    def get_bulk(self, job_id: str) -> BulkJob:
        """A handle of a bulk job, by its workflow id.

        report = await client.get_bulk("bulk-cancel-17").progress()
        """
        _ = self.engine  # A handle of a client that is not open is of no use.
        return BulkJob(cast(Any, self), storable(job_id, "id"), definition=bulk.definition)

    async def _previewed(self, order: BulkOrder) -> BulkPreview:
        matched, first = 0, list[str]()
        async for rows, _ in candidates(cast(Any, self), order):
            matched += len(rows)
            first.extend(row.workflow_id for row in rows[: _FIRST - len(first)])
        return BulkPreview(action=order.action, matched=matched, first=tuple(first))

    def _job_id(self, order: BulkOrder, request_id: str | None) -> str:
        """A call that is repeated finds its job by its id."""
        if request_id is None:
            number = f"{self.engine.random.getrandbits(48):012x}"
        else:
            number = sha256(request_id.encode()).hexdigest()[:16]
        return f"bulk-{order.action}-{number}"
