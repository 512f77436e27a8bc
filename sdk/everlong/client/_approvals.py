"""Approvals, seen from outside: who is asked what, and the one answer."""

from everlong._records import Records
from everlong._texts import check_request_id, storable
from everlong.client._connected import Connected, require_here
from everlong.client._views import OpenApproval, Page, instant, plain
from everlong.exceptions import (
    AlreadyAnswered,
    ApprovalNotFound,
    InvalidArguments,
    NotAnApprover,
    UndecodablePayload,
)
from everlong_engine import (
    AnswerApproval,
    ApprovalAnswered,
    ApprovalRequested,
    ApprovalResult,
    ApprovalRow,
    RunRow,
    id_from_text,
    id_text,
    pack,
    unpack,
)

__all__ = ["Approving"]

_COMMENT_CHARS_MAX = 4_000
_BY_CHARS_MAX = 200
_SHOWN_MAX = 1_000
_NUMBER_MAX = 1 << 53


class Approving(Connected):
    """The part of a client that deals with approvals."""

    async def approvals(
        self, *, workflow_id: str | None = None, limit: int = 50, after: str | None = None
    ) -> Page[OpenApproval]:
        """Approvals that wait for an answer, those of the oldest runs first, a page at a time.

            for one in (await client.approvals()).items:
                print(one.id, one.title, one.approvers)

        Raises:
            ValueError: a limit outside 1 to 1000, a damaged cursor.
        """
        if not 1 <= limit <= 1000:
            raise ValueError(f"limit={limit}: choose 1 to 1000")
        place = (b"", 0) if after is None else _place(after)
        if place is None:
            raise ValueError(f"after={after!r} is no cursor: pass a page's `next`")
        if workflow_id is not None:
            storable(workflow_id, "workflow_id")
        rows = await self.engine.store.approvals(self.namespace, workflow_id, place, limit + 1)
        items = [_shown(self.records, row) for row in rows[:limit]]
        return Page(items, items[-1].id if len(rows) > limit else None)

    async def approve(
        self, id: str, *, by: str, comment: str = "", request_id: str | None = None
    ) -> None:
        """Answer an approval with yes. Returns once the answer is stored for good.

        It is answered once: whoever comes second hears who was first.

            await client.approve(one.id, by="ann", comment="looks right")

        Args:
            id: of an open approval; see `approvals`.
            by: who answers: one of its approvers, if it names any.
            comment: up to 4,000 characters.
            request_id: a repetition with the same id is the same answer.

        Raises:
            AlreadyAnswered: somebody was first; the error says who, and what they said.
            NotAnApprover: `by` is not among the approvers; nothing was stored.
            ApprovalNotFound: there is no such approval, or it is gone: it timed out, was cancelled,
                or its run has ended.
        """
        await self._answer(id, True, by, comment, request_id)

    async def reject(
        self, id: str, *, by: str, comment: str = "", request_id: str | None = None
    ) -> None:
        """Answer an approval with no. Everything else is as with `approve`.

        await client.reject(one.id, by="bob", comment="the amount is wrong")
        """
        await self._answer(id, False, by, comment, request_id)

    async def _answer(
        self, id: str, approved: bool, by: str, comment: str, request_id: str | None
    ) -> None:
        _check_answer(by, comment)
        check_request_id(request_id)
        row = await self._approval(id)
        if row.answer is None:
            require_here(row.run)
            # Also shows that this client has the keys: else nobody could open what it says.
            requested = self.records.approval(row)
            if requested.approvers and by not in requested.approvers:
                raise NotAnApprover(id=id, by=by, approvers=requested.approvers)
        engine = self.engine
        now_us = engine.clock.now_us()
        event = ApprovalAnswered(row.number, row.run.run_id, approved, by, pack(comment), now_us)
        kind, body = self.records.message(row.run, event, {})
        # A name that no user can give: the group commit repeats this very write.
        request = request_id or f"\x01{engine.new_append_id():x}"
        given = AnswerApproval(
            row.run.shard, row.run.run_id, row.number, kind, body, now_us, request
        )
        result = await engine.commits.put(given)
        assert isinstance(result, ApprovalResult)
        if result.accepted:
            engine.mail_arrived()
            engine.wake_hosts()
        elif result.answer is None:
            raise ApprovalNotFound(id=id)
        else:
            raise _already(self.records.verdict(row.run, result.answer), id)

    async def open_of(self, row: RunRow) -> tuple[OpenApproval, ...]:
        """Not public: those of one run that wait for an answer."""
        rows = await self.engine.store.approvals(
            self.namespace, row.workflow_id, (row.run_id, -1), _SHOWN_MAX
        )
        return tuple(_shown(self.records, one) for one in rows if one.run.run_id == row.run_id)

    async def _approval(self, id: str) -> ApprovalRow:
        place = _place(id)
        store = self.engine.store
        run = None if place is None else await store.run_by_id(place[0])
        if place is None or run is None or run.namespace != self.namespace:
            raise ApprovalNotFound(id=id)
        row = await store.approval(run.shard, *place)
        if row is None:
            raise ApprovalNotFound(id=id)
        return row


def _id(row: ApprovalRow) -> str:
    return f"{id_text(row.run.run_id)}.{row.number}"


def _place(id: object) -> tuple[bytes, int] | None:
    """(run id, number) of an approval; None for what is no id of one."""
    if not isinstance(id, str):
        return None
    run, _, number = id.rpartition(".")
    if not (number.isascii() and number.isdigit() and int(number[:20]) <= _NUMBER_MAX):
        return None
    try:
        return id_from_text(run), int(number)
    except ValueError:
        return None


def _shown(records: Records, row: ApprovalRow) -> OpenApproval:
    opened_at = instant(0 if row.requested is None else row.requested.at_us)
    try:
        event = records.approval(row, for_people=True)
    except UndecodablePayload as error:
        event = ApprovalRequested(row.number, f"<unreadable: {error}>", pack(None), (), None, "")
    return OpenApproval(
        id=_id(row),
        title=event.title,
        data=plain(event.data),
        approvers=event.approvers,
        workflow_id=row.run.workflow_id,
        opened_at=opened_at,
        due_at=None if event.due_us is None else instant(event.due_us),
    )


def _already(first: ApprovalAnswered, id: str) -> AlreadyAnswered:
    return AlreadyAnswered(
        id=id,
        approved=first.approved,
        verdict="approved" if first.approved else "rejected",
        by=first.by,
        comment=str(unpack(first.comment)),
        at=instant(first.at_us),
    )


def _check_answer(by: object, comment: object) -> None:
    for name, text, most in (("by", by, _BY_CHARS_MAX), ("comment", comment, _COMMENT_CHARS_MAX)):
        if not isinstance(text, str) or len(text) > most:
            raise InvalidArguments(f"{name} is a text of up to {most} characters")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise InvalidArguments(f"{name} holds half a surrogate pair, which nothing can store")
    if not by:
        raise InvalidArguments("by says who answers: a name")
