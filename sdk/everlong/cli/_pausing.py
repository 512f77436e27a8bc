"""Holding what runs, and letting it go on: an execution, a type of workflow, everything."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from everlong.cli._documents import document
from everlong.cli._durations import ago, now
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._screen import Part, out, write
from everlong.client import Client, ExecutionDescription, Pause

__all__ = ["held", "login", "pause", "paused", "resume"]

T = TypeVar("T")

Id = Annotated[str | None, typer.Argument(metavar="[ID]", help="The workflow id.")]
Type = Annotated[
    str | None, typer.Option(metavar="WORKFLOW", help="All executions of this workflow.")
]
All = Annotated[bool, typer.Option("--all", help="Everything in the namespace.")]
RequestId = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Repeating the same request has one effect.")
]


def pause(
    workflow_id: Id = None,
    type: Type = None,
    all: All = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Shown as long as it holds.")] = "",
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who says so; your login unless given.")
    ] = None,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Hold an execution, a workflow, or everything, until it is resumed.

    Attempts of activities that are at work go on to their ends; nothing else happens.
    """
    _require_one(workflow_id, type, everything=all)
    who = login() if by is None else by

    async def act(client: Client) -> int | None:
        if workflow_id is None:
            return await client.pause(type=type, reason=reason, by=who, request_id=request_id)
        handle = client.get_handle(workflow_id)
        await handle.pause(reason=reason, by=who, request_id=request_id)
        return None

    held = _asked(connect(db, namespace, codecs), act)
    return _done(as_json, "pause", "paused", workflow_id, type, held)


def resume(
    workflow_id: Id = None,
    type: Type = None,
    all: All = False,
    blocked: Annotated[
        bool,
        typer.Option("--blocked", help="With --type or --all: blocked runs are tried again, too."),
    ] = False,
    request_id: RequestId = None,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Let what is paused go on, and a blocked run be tried again.

    What something else holds, its workflow's pause for example, stays held.
    """
    _require_one(workflow_id, type, everything=all)
    if blocked and workflow_id is not None:
        raise Mistake("a blocked run is tried again by its ID alone: leave --blocked away")

    async def act(client: Client) -> int | ExecutionDescription:
        if workflow_id is None:
            return await client.resume(type=type, blocked=blocked, request_id=request_id)
        handle = client.get_handle(workflow_id)
        await handle.resume(request_id=request_id)
        return await handle.describe()

    found = _asked(connect(db, namespace, codecs), act)
    if isinstance(found, int):
        return _done(as_json, "resume", "goes on:", workflow_id, type, found)
    still = found.paused if found.status == "paused" else None
    if as_json:
        write(document({"workflow_id": workflow_id, "action": "resume", "paused": still}))
    elif still is None:
        out().say(("✓ ", "green"), "goes on: ", (found.workflow_id, "bold"))
    else:
        out().say((f"{found.workflow_id} is still held: ", "yellow"), *held(still))
    return ExitCode.OK


def paused(
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many, 1 to 1000.")] = 100,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """List what is paused, by whom, and why."""

    async def look(client: Client) -> list[Pause]:
        try:
            return await client.paused(limit=limit)
        except ValueError as error:
            raise Mistake(str(error)) from error

    found = _asked(connect(db, namespace, codecs), look)
    screen = out()
    if as_json:
        write(document(found))
    elif not found:
        screen.say(("nothing is paused", "dim"))
    for one in () if as_json else found:
        screen.say(("‖ ", "yellow"), *held(one))
    return ExitCode.OK


def held(one: Pause) -> list[Part]:
    """What a pause says, in one line."""
    if one.workflow_id is not None:
        name = one.workflow_id
    else:
        name = "everything" if one.type is None else f"the workflow {one.type}"
    words: list[Part] = [(name, "bold"), f" is paused, {ago(one.since, now())}"]
    if one.by:
        words.append(f", by {one.by}")
    if one.reason:
        words.append(f": {one.reason}")
    return words


def _require_one(workflow_id: str | None, type: str | None, *, everything: bool) -> None:
    if (workflow_id is not None) + (type is not None) + everything != 1:
        raise Mistake("name one of them: an ID, --type WORKFLOW, or --all")


def login() -> str:
    """Who says so, unless it is said."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # A container's user need not have a name.
        return ""


def _asked(client: Client, act: Callable[[Client], Awaitable[T]]) -> T:
    async def main() -> T:
        async with client:
            return await act(client)

    return asyncio.run(main())


def _done(
    as_json: bool,
    action: str,
    words: str,
    workflow_id: str | None,
    type: str | None,
    executions: int | None,
) -> int:
    if as_json:
        facts: dict[str, object] = {"action": action}
        if executions is None:
            facts["workflow_id"] = workflow_id
        else:
            facts |= {"type": type, "executions": executions}
        write(document(facts))
        return ExitCode.OK
    name = workflow_id or type or "everything"
    count = "" if executions is None else f", {executions} executions"
    out().say(("✓ ", "green"), f"{words} ", (name, "bold"), count)
    return ExitCode.OK
