"""`everlong start`: leaves an execution in the store; a worker takes it up, now or later."""

import asyncio
from typing import Annotated, Any

import typer

from everlong.cli._arguments import Arg, Given, JsonArgs, call_of, given, plain_call
from everlong.cli._documents import document
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import err, out, write
from everlong.cli._sources import load_workflow, names_a_source
from everlong.cli._starting import (
    ExecutionTimeout,
    IfClosed,
    IfOpen,
    Memo,
    RunTimeout,
    Start,
    Tag,
    labels,
)
from everlong.cli._workers import hosting
from everlong.client import Client, ExecutionDescription

__all__ = ["start"]


def start(
    target: Annotated[
        str,
        typer.Argument(
            metavar="WORKFLOW",
            help="FILE:WORKFLOW, which checks the arguments here, or just the workflow's name.",
        ),
    ],
    arg: Arg = None,
    json_args: JsonArgs = None,
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="The workflow id; made up unless given.")
    ] = None,
    if_open: IfOpen = "use",
    if_closed: IfClosed = "allow",
    run_timeout: RunTimeout = None,
    execution_timeout: ExecutionTimeout = None,
    tag: Tag = None,
    memo: Memo = None,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Repeating the same start has one effect."),
    ] = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Start a workflow that a worker will run; print its id."""
    options = {
        "id": id,
        "if_open": if_open,
        "if_closed": if_closed,
        "run_timeout": run_timeout,
        "execution_timeout": execution_timeout,
        **labels(tag, memo),
        "request_id": request_id,
    }
    wanted = _wanted(target, given(arg, json_args), options)
    described, hosts = asyncio.run(_start(connect(db, namespace, codecs, create=True), wanted))
    if as_json:
        write(document(described))
        return ExitCode.OK
    out().say(described.workflow_id)
    if not hosts and described.closed_at is None:
        err().say(
            ("note: ", "yellow"),
            f"no worker is here for {described.type}, so it waits for one: everlong worker FILE",
        )
    return ExitCode.OK


def _wanted(target: str, values: Given, options: dict[str, Any]) -> Start:
    if not names_a_source(target):
        return Start(target, (), plain_call(values), options)
    workflow = load_workflow(target)
    return Start(workflow, *call_of(workflow.definition, values), options)


async def _start(client: Client, wanted: Start) -> tuple[ExecutionDescription, list[str]]:
    async with client:
        handle = await wanted.begin(client)
        described = await handle.describe()
        return described, hosting(await client.workers(), described)
