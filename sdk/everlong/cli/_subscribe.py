"""`everlong subscribe`: what an execution publishes, item by item, until it has ended."""

import asyncio
from datetime import UTC
from typing import Annotated, Any

import typer

from everlong.cli._documents import document_line, one_line
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._screen import out, write
from everlong.client import Client, PublishedItem

__all__ = ["subscribe"]


def subscribe(
    workflow_id: WorkflowId,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="The output's name.")],
    start: Annotated[
        int, typer.Option(min=0, metavar="N", help="The number of the first item that is wanted.")
    ] = 0,
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-follow", help="Wait for items to come; or only what is there."),
    ] = True,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Show what an execution publishes, until it has ended.

    With --json, each item is one line.
    """

    async def read(client: Client) -> None:
        async with client:
            handle = client.get_handle(workflow_id)
            async for item in handle.subscribe(channel, start, numbered=True, live=follow):
                _show(item, as_json=as_json)

    asyncio.run(read(connect(db, namespace, codecs)))
    return ExitCode.OK


def _show(item: PublishedItem[Any], *, as_json: bool) -> None:
    if as_json:
        write(document_line(item))
        return
    at = item.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    out().say((f"{item.number:>6}  {at}  ", "dim"), one_line(item.value))
