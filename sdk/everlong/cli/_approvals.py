"""`everlong approvals`, `approve` and `reject`: who is asked what, and the one answer."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from everlong.cli._documents import document, one_line
from everlong.cli._durations import ago
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import cropped, out, write
from everlong.client import Client, OpenApproval, Page

__all__ = ["approvals", "approve", "reject"]

_DATA_CHARS_MAX = 200

ApprovalId = Annotated[
    str, typer.Argument(metavar="APPROVAL", help="Its id; `everlong approvals` shows them.")
]
By = Annotated[str, typer.Option(metavar="NAME", help="Who answers.")]
Comment = Annotated[str, typer.Option(metavar="TEXT", help="Told to the workflow.")]
RequestId = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Repeating the same request has one effect.")
]


def approvals(
    id: Annotated[str | None, typer.Option(metavar="ID", help="Only of this workflow id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="At most so many.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="The next page: what the last one gave.")
    ] = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """List approvals that wait for an answer."""

    async def look(client: Client) -> Page[OpenApproval]:
        async with client:
            try:
                return await client.approvals(workflow_id=id, limit=limit, after=after)
            except ValueError as error:
                raise Mistake(str(error)) from error

    page = asyncio.run(look(connect(db, namespace, codecs)))
    if as_json:
        write(document({"items": page.items, "next": page.next}))
        return ExitCode.OK
    for one in page.items:
        _draw(one)
    if page.next:
        out().say((f"more: --after {page.next}", "dim"))
    if not page.items:
        out().say(("nobody is asked for anything", "dim"))
    return ExitCode.OK


def _draw(one: OpenApproval) -> None:
    screen = out()
    screen.say((one.title, "bold"), (f"  {one.workflow_id}", "dim"))
    screen.say(("id        ", "dim"), one.id, indent=2)
    if one.data is not None:
        screen.say(("data      ", "dim"), cropped(one_line(one.data), _DATA_CHARS_MAX), indent=2)
    screen.say(("approvers ", "dim"), ", ".join(one.approvers) or "anybody", indent=2)
    opened = ago(one.opened_at, datetime.now(UTC))
    due = "" if one.due_at is None else f", until {one.due_at:%Y-%m-%d %H:%M:%S} UTC"
    screen.say(("opened    ", "dim"), f"{opened}{due}", indent=2)


def approve(
    approval: ApprovalId,
    by: By,
    comment: Comment = "",
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Answer an approval with yes; it is answered once."""
    _answer(connect(db, namespace, codecs), approval, True, by, comment, request_id)
    return _done(as_json, approval, by, "approved")


def reject(
    approval: ApprovalId,
    by: By,
    comment: Comment = "",
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Answer an approval with no; it is answered once."""
    _answer(connect(db, namespace, codecs), approval, False, by, comment, request_id)
    return _done(as_json, approval, by, "rejected")


def _answer(
    client: Client, id: str, approved: bool, by: str, comment: str, request_id: str | None
) -> None:
    async def main() -> None:
        async with client:
            answer = client.approve if approved else client.reject
            await answer(id, by=by, comment=comment, request_id=request_id)

    asyncio.run(main())


def _done(as_json: bool, id: str, by: str, verdict: str) -> int:
    if as_json:
        write(document({"id": id, "by": by, "verdict": verdict}))
    else:
        out().say(("✓ ", "green"), f"{verdict} by ", (by, "bold"))
    return ExitCode.OK
