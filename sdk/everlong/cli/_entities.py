"""`everlong entity …`: the keys of a keyed entity, with their states and timers."""

import asyncio
from typing import Annotated, Any

import typer

from everlong.cli._documents import document, one_line
from everlong.cli._exits import ExitCode, Mistake
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, WorkflowId, connect
from everlong.cli._screen import out, write
from everlong.streams import EntityControl, EntityState

__all__ = ["entity_list", "entity_show"]


def entity_show(
    workflow_id: WorkflowId,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Whose state.")],
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Show the state of one key, and its timers."""

    async def look() -> EntityState[Any] | None:
        async with connect(db, namespace, codecs) as client:
            control: EntityControl[Any] = EntityControl(client.get_handle(workflow_id))
            return await control.show(key)

    found = asyncio.run(look())
    if found is None:
        raise Mistake(
            f"{workflow_id} keeps no state for the key {key!r}. `everlong entity list "
            f"{workflow_id}` shows the keys"
        )
    if as_json:
        write(document({"entity": _facts(found)}))
        return ExitCode.OK
    screen = out()
    screen.say(one_line(found.state))
    for name, at in found.timers.items():
        screen.say((f"timer {name} at {at:%Y-%m-%d %H:%M:%S}Z", "dim"))
    return ExitCode.OK


def entity_list(
    workflow_id: WorkflowId,
    after: Annotated[
        str, typer.Option(metavar="KEY", help="Only keys that lie behind this one.")
    ] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="So many at most.")] = 100,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """List keys that have a state, in their order."""

    async def look() -> list[str]:
        async with connect(db, namespace, codecs) as client:
            control: EntityControl[Any] = EntityControl(client.get_handle(workflow_id))
            return await control.keys(after=after, limit=limit)

    found = asyncio.run(look())
    if as_json:
        write(document({"items": found}))
        return ExitCode.OK
    screen = out()
    for key in found:
        screen.say(key)
    if len(found) == limit:
        screen.say((f"there may be more: --after {found[-1]}", "dim"))
    return ExitCode.OK


def _facts(found: EntityState[Any]) -> dict[str, Any]:
    return {"key": found.key, "state": found.state, "timers": dict(found.timers)}
