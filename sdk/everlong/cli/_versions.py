"""Versions of workflows: versions, pin, unpin."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode
from everlong.cli._messages import RequestId
from everlong.cli._options import DEFAULT_STORE, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._screen import Cell, out, write
from everlong.cli._workers import hosting
from everlong.client import Client, VersionSummary

__all__ = ["pin", "unpin", "versions"]


def versions(
    type: Annotated[
        str | None, typer.Option(metavar="WORKFLOW", help="Only of this workflow.")
    ] = None,
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Show which versions of the code open runs need, and which workers have them."""

    async def look(client: Client) -> Sequence[VersionSummary]:
        async with client:
            return await client.versions()

    found = asyncio.run(look(connect(db, namespace, None)))
    shown = [one for one in found if type in (None, one.type)]
    if as_json:
        write(document({"versions": shown}))
    else:
        _show(shown)
    return ExitCode.OK


def _show(found: Sequence[VersionSummary]) -> None:
    screen = out()
    if not found:
        screen.say(("no open runs, and no worker", "dim"))
        return
    screen.table(
        [_row(one) for one in found],
        header=("WORKFLOW", "VERSION", "RUNNING", "BLOCKED", "WORKERS"),
    )


def _row(one: VersionSummary) -> list[Cell]:
    workers: Cell = ", ".join(one.workers) or ("none is here", "dim" if one.drained else "yellow")
    return [
        (one.type, "bold"),
        (one.version or "follows", "" if one.version else "dim"),
        str(one.running),
        (str(one.blocked), "yellow" if one.blocked else "dim"),
        workers,
    ]


def pin(
    workflow_id: WorkflowId,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="Of the worker that is to go on with it.")
    ],
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Let only workers of one version go on with a run.

    A worker that has it in hand hands it back once nothing goes on in it.
    """
    return _move(workflow_id, version, request_id, db, namespace, as_json=as_json)


def unpin(
    workflow_id: WorkflowId,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Let whichever version is the newest go on with a run."""
    return _move(workflow_id, None, request_id, db, namespace, as_json=as_json)


def _move(
    workflow_id: str,
    version: str | None,
    request_id: str | None,
    db: str,
    namespace: str,
    *,
    as_json: bool,
) -> int:
    async def main(client: Client) -> list[str]:
        async with client:
            handle = client.get_handle(workflow_id)
            await handle.pin(version, request_id=request_id)
            described = await handle.describe()
            return hosting(await client.workers(), described)

    there = asyncio.run(main(connect(db, namespace, None)))
    if as_json:
        write(document({"workflow_id": workflow_id, "version": version, "hosted_by": there}))
        return ExitCode.OK
    screen = out()
    which = "the newest version" if version is None else f"version {version}"
    screen.say(("✓ ", "green"), f"{which} goes on with ", (workflow_id, "bold"))
    if not there:
        screen.say(("no worker that has it is here", "yellow"), indent=2)
    return ExitCode.OK
