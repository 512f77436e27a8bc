"""`everlong list`: runs, newest first, a page at a time."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from everlong.cli._documents import document, named
from everlong.cli._durations import ago, now, span
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import STATUS, Cell, cropped, out, write
from everlong.cli._workers import hosting, missing
from everlong.client import Client, ExecutionSummary, Page
from everlong.exceptions import InvalidFilter
from everlong_engine import WorkerRow

__all__ = ["Filter", "list_"]

_REASON_CHARS_MAX = 60
_TAGS_CHARS_MAX = 60
_NAME_CHARS_MAX = 512
"""As many as an id may have: one that is cut off cannot be pasted."""


Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="FILTER",
        help="Such as \"status = 'failed' and tag.customer = 'c1'\".",
    ),
]


def list_(
    filter: Filter = None,
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

    async def look(client: Client) -> tuple[Page[ExecutionSummary], Sequence[WorkerRow]]:
        async with client:
            try:
                page = await client.list(
                    filter=filter,
                    status=status,
                    type=type,
                    workflow_id=id,
                    limit=limit,
                    after=after,
                )
            except InvalidFilter:
                raise
            except ValueError as error:
                raise Mistake(str(error)) from error
            runs = any(run.status == "running" for run in page.items)
            return page, await client.workers() if runs else ()

    page, workers = asyncio.run(look(connect(db, namespace, codecs)))
    if as_json:
        write(document(page))
    else:
        _show(page, workers)
    return ExitCode.OK


def _show(page: Page[ExecutionSummary], workers: Sequence[WorkerRow]) -> None:
    screen = out()
    if not page.items:
        screen.say(("no runs", "dim"))
        return
    screen.table(
        [_row(one, workers) for one in page.items],
        header=("", "ID", "WORKFLOW", "STATUS", "STARTED", "TOOK", "EVENTS", "", ""),
    )
    if page.next is not None:
        screen.say((f"more: --after {page.next}", "dim"))


def _row(run: ExecutionSummary, workers: Sequence[WorkerRow]) -> list[Cell]:
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
        (named(run.tags) and cropped(named(run.tags), _TAGS_CHARS_MAX), "cyan"),
        (_reason(run, workers), "yellow"),
    ]


def _reason(run: ExecutionSummary, workers: Sequence[WorkerRow]) -> str:
    """The beginning of it; `show` has it all."""
    if run.status == "paused" and run.paused is not None:
        who = f" ({run.paused.by})" if run.paused.by else ""
        return cropped(run.paused.reason.partition("\n")[0], _REASON_CHARS_MAX) + who
    if run.begins_at is not None:
        return f"begins in {span((run.begins_at - now()).total_seconds())}"
    if run.waits_for_turn:
        return "waits for its turn in a pool"
    if run.status == "running" and not hosting(workers, run):
        return cropped(missing(run), _REASON_CHARS_MAX)
    if run.status != "blocked" or not run.reason:
        return ""
    return cropped(run.reason.partition("\n")[0], _REASON_CHARS_MAX)
