"""`everlong stream savepoint …`: points of a flow to which it, or another, can return."""

import asyncio
from typing import Annotated, Any

import typer

from everlong.cli._documents import document, named, one_line
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._pausing import RequestId
from everlong.cli._screen import out, write
from everlong.streams import Savepoint, StreamControl

__all__ = ["delete_savepoint", "savepoint", "savepoints"]

Stream = Annotated[str, typer.Argument(metavar="STREAM", help="A stream that the loop reads.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the savepoint.")]
Wait = Annotated[
    float, typer.Option(metavar="SECONDS", help="For the flow to come to a checkpoint.")
]


def savepoint(
    workflow_id: WorkflowId,
    stream: Stream,
    name: Name,
    stop: Annotated[
        bool, typer.Option("--stop", help="End the execution with it: it reads no further.")
    ] = False,
    wait: Wait = 30.0,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Take a savepoint: how far the flow has read and what it carries, at one moment."""

    async def take() -> Savepoint:
        async with connect(db, namespace, codecs) as client:
            control = StreamControl(client.get_handle(workflow_id), stream)
            return await control.savepoint(name, stop=stop, wait=wait, request_id=request_id)

    taken = asyncio.run(take())
    if as_json:
        write(document({"savepoint": _facts(taken), "stopped": stop}))
        return ExitCode.OK
    ended = " and stopped" if stop else ""
    out().say(("✓ ", "green"), "savepoint ", (name, "bold"), f" of {workflow_id} taken{ended}")
    return ExitCode.OK


def savepoints(
    workflow_id: WorkflowId,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only the newest of this name.")
    ] = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """List the savepoints that are kept under a workflow id, the oldest first."""

    async def look() -> list[Savepoint]:
        async with connect(db, namespace, codecs) as client:
            control = StreamControl(client.get_handle(workflow_id), "")
            if name is None:
                return await control.savepoints()
            return [await control.find_savepoint(name)]

    found = asyncio.run(look())
    if as_json:
        write(document({"items": [_facts(one) for one in found]}))
        return ExitCode.OK
    screen = out()
    for one in found:
        screen.say((one.name, "bold"), (f"  {one.at:%Y-%m-%d %H:%M:%S}Z  {one.workflow}", "dim"))
        for stream, after in sorted(one.positions.items()):
            screen.say(f"{stream} at {one_line(after)}", indent=4)
        screen.say(named(one.parameters), indent=4)
    if not found:
        screen.say("there are no savepoints")
    return ExitCode.OK


def delete_savepoint(
    workflow_id: WorkflowId,
    stream: Stream,
    name: Name,
    wait: Wait = 30.0,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Make a savepoint unknown. Those of an execution that has ended go with its retention."""

    async def delete() -> None:
        async with connect(db, namespace, codecs) as client:
            control = StreamControl(client.get_handle(workflow_id), stream)
            await control.delete_savepoint(name, wait=wait, request_id=request_id)

    asyncio.run(delete())
    if as_json:
        write(document({"workflow_id": workflow_id, "deleted": name}))
    else:
        out().say(("✓ ", "green"), "savepoint ", (name, "bold"), f" of {workflow_id} deleted")
    return ExitCode.OK


def _facts(point: Savepoint) -> dict[str, Any]:
    return {
        "name": point.name,
        "at": point.at,
        "workflow": point.workflow,
        "workflow_id": point.workflow_id,
        "positions": point.positions,
        "parameters": point.parameters,
        "signals": [name for name, _ in point.carried],
    }
