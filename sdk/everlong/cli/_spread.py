"""`everlong stream spread`: a family of flows that share the partitions of a stream."""

import asyncio
from typing import Annotated, Any

import typer

from everlong.cli._arguments import Arg, JsonArgs, call_of, given
from everlong.cli._documents import document
from everlong.cli._exits import ExitCode
from everlong.cli._options import DEFAULT_STORE, Codecs, Db, Json, Namespace, connect
from everlong.cli._savepoints import Wait
from everlong.cli._screen import out, write
from everlong.cli._sources import load_stream, load_workflow
from everlong.streams import Spread

__all__ = ["spread"]


def spread(
    declaration: Annotated[
        str,
        typer.Argument(metavar="FILE:NAME", help="Where the stream is declared: orders.py:orders."),
    ],
    target: Annotated[
        str, typer.Argument(metavar="FILE:WORKFLOW", help="What reads it: orders.py:consume.")
    ],
    id: Annotated[str, typer.Option(metavar="ID", help="Of the family.")],
    parts: Annotated[int, typer.Option(metavar="N", help="How many flows share the partitions.")],
    arg: Arg = None,
    json_args: JsonArgs = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="With another number of parts: begin with these arguments again."
        ),
    ] = False,
    wait: Wait = 30.0,
    db: Db = DEFAULT_STORE,
    codecs: Codecs = None,
    namespace: Namespace = "default",
    as_json: Json = False,
) -> int:
    """Start flows that read a stream together, each partition by exactly one; repeat it freely."""
    stream, workflow = load_stream(declaration), load_workflow(target)
    args, kwargs = call_of(workflow.definition, given(arg, json_args))

    async def act() -> Spread:
        async with connect(db, namespace, codecs, create=True) as client:
            options: dict[str, Any] = {"carry": "forget" if forget else None, "wait": wait}
            return await stream.spread(
                client, workflow, *args, id=id, parts=parts, **options, **kwargs
            )

    found = asyncio.run(act())
    ids = [one.workflow_id for one in found.handles]
    if as_json:
        facts = {"id": found.id, "parts": found.parts, "generation": found.generation}
        write(document({**facts, "workflow_ids": ids}))
    else:
        out().say(("✓ ", "green"), f"{found.parts} flows: ", (f"{ids[0]} … {ids[-1]}", "bold"))
    return ExitCode.OK
