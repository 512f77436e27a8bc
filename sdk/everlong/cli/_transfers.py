"""`everlong export` and `everlong import`: whole executions out of a store, and into another."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import (
    DEFAULT_STORE,
    Codecs,
    Db,
    Json,
    Namespace,
    WorkflowId,
    connect,
)
from everlong.cli._screen import STATUS, out, write
from everlong.client import Client, ExecutionDescription

__all__ = ["export", "import_"]


def export(
    id: WorkflowId,
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN_ID", help="The execution that this run belongs to."),
    ] = None,
    children: Annotated[
        bool, typer.Option("--children", help="The executions that it waits for, too.")
    ] = False,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Write a whole execution to standard output, as JSON lines.

    `everlong replay` reads them, and `everlong import` brings them into another store. Payloads
    stay as they are stored; with --json nothing changes, for they are JSON already.
    """
    del as_json

    async def look(client: Client) -> str:
        async with client:
            return await client.export(id, run_id=run, children=children)

    write(asyncio.run(look(connect(db, namespace, codecs))).removesuffix("\n"))
    return ExitCode.OK


def import_(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="What `everlong export` has written.")
    ],
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="Under another id; for one execution.")
    ] = None,
    closed: Annotated[
        bool,
        typer.Option("--closed", help="Terminate open ones: to look at, not to go on."),
    ] = False,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Bring exported executions into a store: all of the files, or nothing.

    Open ones go on here when a worker runs. The same one must not go on in two places.
    """

    async def bring(client: Client) -> list[ExecutionDescription]:
        async with client:
            try:
                handles = await client.import_(*files, id=id, closed=closed)
            except (ValueError, OSError) as error:
                raise Mistake(str(error)) from error
            return [await handle.describe() for handle in handles]

    found = asyncio.run(bring(connect(db, namespace, codecs, create=True)))
    if as_json:
        write(document({"imported": [_facts(one) for one in found]}))
        return ExitCode.OK
    screen = out()
    for one in found:
        mark, style = STATUS[one.status]
        screen.say(
            (f"{mark} ", style),
            (one.workflow_id, "bold"),
            f"  {one.type}  ",
            (one.status.replace("_", " "), style),
            (f"  {one.history_events} events", "dim"),
        )
    return ExitCode.OK


def _facts(one: ExecutionDescription) -> dict[str, Any]:
    return {
        "workflow_id": one.workflow_id,
        "run_id": one.run_id,
        "workflow": one.type,
        "status": one.status,
        "events": one.history_events,
    }
