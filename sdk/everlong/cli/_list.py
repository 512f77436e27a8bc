"""`everlong list`: runs, newest first, a page at a time."""

import asyncio
from typing import Annotated

import typer

from everlong.cli._documents import document
from everlong.cli._durations import ago, now, span
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import STATUS, Cell, cropped, out, write
from everlong.client import Client, ExecutionSummary, Page

__all__ = ["list_"]

_REASON_CHARS_MAX = 60
_NAME_CHARS_MAX = 512
"""As many as an id may have: one that is cut off cannot be pasted."""


def list_(
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="Only these: " + ", ".join(STATUS) + "."),
    ] = None,
    type: Annotated[
        str | None, typer.Option(metavar="WORKFLOW", help="Only of this workflow.")
    ] = None,
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="Only of this id: an execution and its past.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many, 1 to 1000.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="What the page before gave as its next.")
    ] = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """List runs, newest first."""

    async def look(client: Client) -> Page[ExecutionSummary]:
        async with client:
            try:
                return await client.list(
                    status=status, type=type, workflow_id=id, limit=limit, after=after
                )
            except ValueError as error:
                raise Mistake(str(error)) from error

    page = asyncio.run(look(connect(db, namespace, codecs)))
    if as_json:
        write(document(page))
    else:
        _show(page)
    return ExitCode.OK


def _show(page: Page[ExecutionSummary]) -> None:
    screen = out()
    if not page.items:
        screen.say(("no runs", "dim"))
        return
    screen.table(
        [_row(one) for one in page.items],
        header=("", "ID", "WORKFLOW", "STATUS", "STARTED", "TOOK", "EVENTS", ""),
    )
    if page.next is not None:
        screen.say((f"more: --after {page.next}", "dim"))


def _row(run: ExecutionSummary) -> list[Cell]:
    mark, style = STATUS[run.status]
    took = "" if run.closed_at is None else span((run.closed_at - run.started_at).total_seconds())
    return [
        (mark, style),
        (cropped(run.workflow_id, _NAME_CHARS_MAX), "bold"),
        cropped(run.type, _NAME_CHARS_MAX),
        (run.status.replace("_", " "), style),
        (ago(run.started_at, now()), "dim"),
        (took, "dim"),
        (str(run.history_events), "dim"),
        (_reason(run), "yellow"),
    ]


def _reason(run: ExecutionSummary) -> str:
    """The beginning of it; `show` has it all."""
    if run.status != "blocked" or not run.reason:
        return ""
    return cropped(run.reason.partition("\n")[0], _REASON_CHARS_MAX)
